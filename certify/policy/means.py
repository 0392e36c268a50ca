"""Gates on the mean radius: radius x correct, of the population, of this list, or as observed.

- claim ``population``: **passed** when the lower limit of the mean true radius is at least ``min``, **failed** when the
  upper limit of the mean that this procedure certifies is below it, **undecided** between the two. The upper limit
  needs a largest radius. Votes have one; deterministic radii have none, and such a gate passes or stays undecided.
- claim ``list``: passes when the mean of these examples is at least ``min`` even if as many certificates are false as
  may be at the confidence, and fails below.
- on ``estimate``: the plain mean.

The statements and their proofs stand in `certify.stats.mean_radius`. Asked radii say nothing of a mean, and a run that
measures radii for one goes on to its last example: stopped earlier it would have no mean to report.
"""

from __future__ import annotations

from certify.policy.fits import largest_radius
from certify.policy.gates import Gate
from certify.policy.promises import promise_notes
from certify.policy.rows import examples_row
from certify.results import GateRow, Report, SmoothingReport, Verdict
from certify.rounding import ceiling_text, floor_text
from certify.stats.mean_radius import mean_radius_limits, mean_radius_of_list, smallest_mean_radius_sample

DIGITS = 6
RHO = 0.05  # without false certificates it plays no part


def judge_mean_radius(report: Report, gate: Gate) -> GateRow:
    """Return the verdict on the mean radius of a report, which fits the gate: it measured its radii."""
    radii = [example.radius if example.correct else 0.0 for example in report.examples]
    alpha = report.settings.alpha if isinstance(report, SmoothingReport) else 0.0
    cap = largest_radius(report) if isinstance(report, SmoothingReport) else None
    lower, upper = limits = _limits(gate, radii, alpha, cap) if radii else (None, None)
    mean = mean_radius_of_list(radii, alpha=0.0, rho=RHO) if radii else None
    verdict = _verdict(gate, mean if gate.on == "estimate" else lower, upper)
    reasons = [_reason(gate, len(radii), mean, lower, upper, alpha, cap), *promise_notes(gate.norm, report.settings)]
    return examples_row(gate, gate, value=mean, limits=limits, verdict=verdict, reason="; ".join(reasons))


def _limits(gate: Gate, radii: list[float], alpha: float, cap: float | None) -> tuple[float | None, float | None]:
    """Return the limits that the verdict rests on: those of the population, or that of this list from below."""
    if gate.on == "estimate":
        return None, None
    if gate.claim == "list":
        return mean_radius_of_list(radii, alpha=alpha, rho=1.0 - gate.confidence), None
    return mean_radius_limits(radii, confidence=gate.confidence, alpha=alpha, cap=cap)


def _verdict(gate: Gate, shown: float | None, upper: float | None) -> Verdict:
    """Return the verdict on the number that must reach the threshold; without examples there is none."""
    if shown is None:
        return "undecided"
    if shown >= gate.min:
        return "passed"
    three_way = gate.on == "lower" and gate.claim == "population"
    return "failed" if not three_way or (upper is not None and upper < gate.min) else "undecided"


def _reason(
    gate: Gate,
    n: int,
    mean: float | None,
    lower: float | None,
    upper: float | None,
    alpha: float,
    cap: float | None,
) -> str:
    if mean is None:
        return "no examples"
    parts = [f"mean radius {floor_text(mean, DIGITS)} of {n} examples"]
    if lower is not None:
        where = "of the population" if gate.claim == "population" else "of this list"
        parts += [f"at least {floor_text(lower, DIGITS)} {where} at confidence {gate.confidence!r}"]
        parts += [f"at most {ceiling_text(upper, DIGITS)} is certified"] if upper is not None else []
    parts += [f"{gate.min!r} asked for", *_remedy(gate, n, alpha, cap)]
    return "; ".join(parts)


def _remedy(gate: Gate, n: int, alpha: float, cap: float | None) -> list[str]:
    """Return what stands in the way of a verdict on the population, whatever the radii are."""
    if gate.on == "estimate" or gate.claim == "list":
        return []
    if cap is None:
        return ["no largest radius is known, so a small mean cannot be shown"]
    least = smallest_mean_radius_sample(gate.min, cap=cap, confidence=gate.confidence, alpha=alpha)
    if least is not None and least <= n:
        return []
    remedy = "no number of examples can" if least is None else f"at least {least} are needed"
    return [f"{n} examples cannot show it, {remedy}"]
