"""Gates on the Lipschitz constant of the network: ``lipschitz`` is at most ``max``, proved on both sides.

The network's bracket holds without chance and without data, so there is no claim and no confidence. **Passed** when the
proved upper bound is at most ``max``, **failed** when the proved lower bound is above it, **undecided** when ``max``
lies between the two, or nothing bounds the network. ``value`` is the steepest slope found, an estimate: where it is
above ``max``, no method can show the bound, and the reason says so; but a slope in floating point proves nothing.
"""

from __future__ import annotations

from msgspec import UNSET

from certify.errors import InputError
from certify.policy.gates import Gate
from certify.results import GateRow, LipschitzReport, NetworkBound, Report, Verdict
from certify.rounding import ceiling_text, floor_text

DIGITS = 6


def judge_network(report: Report, gate: Gate) -> GateRow:
    """Return the verdict on the Lipschitz constant of a network.

    Raises:
        InputError: If the report is of smoothing, or in another norm than the gate's, or the gate has no ``max``.
    """
    if not isinstance(report, LipschitzReport):
        raise InputError(f"gate {gate.name!r}: expected a lipschitz report, got a smoothing one; run certify lipschitz")
    if gate.norm != report.network.norm:
        raise InputError(
            f"gate {gate.name!r}: expected a bound in {gate.norm}, got one in {report.network.norm}; "
            f"set norm = {report.network.norm!r}, or run with the other norm"
        )
    if gate.max is None:
        raise InputError(f"gate {gate.name!r}: expected max, the largest constant allowed, got none; set it")
    verdict, reason = _judged(report.network, gate.max)
    return GateRow(
        name=gate.name,
        metric=gate.metric,
        threshold=gate.max,
        value=None if report.network.data_floor is UNSET else report.network.data_floor,
        lower=report.network.lower,
        upper=report.network.upper,
        verdict=verdict,
        reason=reason,
    )


def _judged(network: NetworkBound, most: float) -> tuple[Verdict, str]:
    subject = f"the {network.norm} Lipschitz constant of the network"
    if network.upper is None or not network.proved:
        reason = f"nothing bounds {subject} from above: {network.reason or 'no bound is proved'}"
    elif network.upper <= most:
        return "passed", f"{subject} is at most {ceiling_text(network.upper, DIGITS)}, proved; {most!r} allowed"
    else:
        reason = f"{subject} is at most {ceiling_text(network.upper, DIGITS)}, proved; {most!r} allowed"
    if network.lower is not None and network.proved and network.lower > most:
        return "failed", f"{subject} is at least {floor_text(network.lower, DIGITS)}, proved; {most!r} allowed"
    found = network.data_floor
    if found is not UNSET and found > most:
        return "undecided", f"{reason}; a slope of about {found:.6g} was found, so no method can show it"
    return "undecided", f"{reason}; a tighter method may show it"
