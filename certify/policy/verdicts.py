"""The verdict of each gate on a report, with the numbers it rests on and one sentence of reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from certify.errors import InputError
from certify.policy.classes import judge_classes
from certify.policy.diagnostics import judge_diagnostic, refuse_diagnostic, trend_of
from certify.policy.drops import baseline_record, judge_gate
from certify.policy.fits import check_fits, in_native_norm
from certify.policy.gates import Gate
from certify.policy.means import judge_mean_radius
from certify.policy.networks import judge_network
from certify.policy.promises import certified_words, scales_notes
from certify.policy.requirements import least_examples, requirement
from certify.policy.rows import examples_row
from certify.policy.tallies import Tally, tally
from certify.results import (
    Baseline,
    CurvatureReport,
    GateRow,
    Judged,
    Report,
    SmoothingReport,
    Verdict,
    unsampled_of,
)
from certify.stats import Requirement


def evaluate_gates(
    report: Judged,
    gates: Iterable[Gate],
    baselines: Mapping[str, Judged | Baseline] = MappingProxyType({}),
    *,
    allow_diagnostic: bool = False,
) -> tuple[GateRow, ...]:
    """Return the verdict of each gate on a report, in their order.

    Args:
        report: The report that is judged.
        gates: The gates.
        baselines: The earlier reports that gates name as their ``baseline``, by that name.
        allow_diagnostic: Whether gates may ask for readings of curvature, which certify nothing; their rows say so.

    Raises:
        InputError: If a gate asks for another kind, norm or scales than the report's, for answers that its task leaves
            open, for a radius that its draws cannot reach, for a diagnostic without leave, or it has no data; or if a
            baseline is missing or may not be compared.
    """
    asked = tuple(gates)
    for gate in () if allow_diagnostic else asked:
        refuse_diagnostic(gate)
    if isinstance(report, CurvatureReport):
        return tuple(judge_diagnostic(report, gate, trend_of(gate, report, baselines)) for gate in asked)
    return tuple(_evaluate(report, gate, baselines) for gate in asked)


def gate_exit_code(rows: Iterable[GateRow]) -> int:
    """Return 1 when a gate failed, else 4 when one is undecided, else 0.

    Example:
        >>> gate_exit_code([])
        0
    """
    verdicts = {row.verdict for row in rows}
    return 1 if "failed" in verdicts else 4 if "undecided" in verdicts else 0


def _evaluate(report: Report, gate: Gate, baselines: Mapping[str, Judged | Baseline]) -> GateRow:
    if gate.diagnostic:
        raise InputError(f"gate {gate.name!r}: expected readings of curvature for {gate.metric}, got certificates")
    if gate.metric == "lipschitz":
        return judge_network(report, gate)
    native = gate
    if isinstance(report, SmoothingReport):
        native = in_native_norm(gate, report.settings, report.model.input.size)
    check_fits(report, native)
    if gate.baseline is not None:
        return judge_gate(gate, native, report, baseline_record(native, report, baselines))
    if gate.metric == "mean_radius":
        return judge_mean_radius(report, gate)
    if gate.metric == "class_certified_accuracy":
        return judge_classes(report, gate, native)
    found = tally(native, report.examples, len(report.examples) + len(unsampled_of(report)), _alpha(report))
    verdict, reason = _judge(gate, native, found, report)
    limits = (None, None) if gate.on == "estimate" or not found.n else found.limits(gate, gate.confidence)
    return examples_row(gate, native, value=found.share, limits=limits, verdict=verdict, reason=reason)


def _alpha(report: Report) -> float:
    return report.settings.alpha if isinstance(report, SmoothingReport) else 0.0


def _judge(gate: Gate, native: Gate, found: Tally, report: Report) -> tuple[Verdict, str]:
    if not found.n:
        return "undecided", "no examples"
    rule = requirement(gate, found.n, found.alpha)
    verdict = found.verdict(gate) or "undecided"
    parts = [_counted(gate, native, found, certified_words(report.settings)), _need(gate, rule, found)]
    notes = () if gate.radius is None else scales_notes(gate.norm, report.settings)
    return verdict, "; ".join([*parts, *_contrary(gate, rule), *notes])


def _counted(gate: Gate, native: Gate, found: Tally, certified: str) -> str:
    what = "answered correctly" if gate.radius is None else f"{certified} at {gate.norm} radius {gate.radius!r}"
    if native is not gate:
        what += f" (converted from {native.norm} radius {native.radius!r})"
    lingering = f", {found.undecided} undecided at the most draws" if found.undecided else ""
    if not found.unsampled:
        return f"{found.count} of {found.n} examples {what}{lingering}"
    most = found.count + found.unsampled
    return (
        f"at least {found.count} of {found.n} examples {what}, at most {most}{lingering} (stopped after "
        f"{found.n - found.unsampled} examples)"
    )


def _need(gate: Gate, rule: Requirement, found: Tally) -> str:
    if rule.passes_from <= found.n:
        return f"{rule.passes_from} needed to show {_asked(gate)}"
    least = least_examples(gate, found.n, found.alpha)
    remedy = "no number of examples can" if least is None else f"at least {least} examples are needed"
    return f"{found.n} examples cannot show {_asked(gate)}, {remedy}"


def _contrary(gate: Gate, rule: Requirement) -> list[str]:
    three_way = gate.on == "lower" and gate.claim == "population" and rule.fails_to >= 0
    return [f"{rule.fails_to} or fewer show less"] if three_way else []


def _asked(gate: Gate) -> str:
    if gate.on == "estimate":
        return f"a share of {gate.min!r}"
    where = "of the population" if gate.claim == "population" else "of this list"
    return f"{gate.min!r} {where} at confidence {gate.confidence!r}"
