"""The row of a gate on examples: what was asked, from the gate, beside what was found."""

from __future__ import annotations

from msgspec import UNSET

from certify.policy.gates import Gate
from certify.results import GateRow, Verdict


def examples_row(
    gate: Gate,
    native: Gate,
    *,
    value: float | None,
    limits: tuple[float | None, float | None],
    verdict: Verdict,
    reason: str,
) -> GateRow:
    """Return the row of a gate on a share of examples, or on a mean over them.

    Args:
        gate: The gate as it is asked.
        native: The gate at the radius in the norm of the certificates; ``gate`` itself where that is its own.
        value: The observed share or mean.
        limits: Those that the verdict rests on.
        verdict: The verdict.
        reason: Why, in one sentence.
    """
    lower, upper = limits
    return GateRow(
        name=gate.name,
        metric=gate.metric,
        threshold=gate.min,
        radius=UNSET if gate.radius is None else gate.radius,
        norm=UNSET if native is gate else gate.norm,
        claim=gate.claim,
        confidence=gate.confidence,
        on=gate.on,
        value=value,
        lower=lower,
        upper=upper,
        verdict=verdict,
        reason=reason,
    )
