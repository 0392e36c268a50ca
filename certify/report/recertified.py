r"""Radii from the counts of a report at another error probability, or by several bounds: what is sound, and no more.

A certificate is valid because everything but its counts was fixed before they were seen. So of the many radii that
stored counts could give, these are honest:

- **A smaller alpha.** For a bound fixed before, R_a(counts) rises with a: at a' <= a it is at most R_a, which is false
  with probability at most a. So whatever made the reader choose a', the radii at a' hold at the level a; and at the
  level a' when a' was stated before the counts were seen.
- **All certificates at once** (``together``): a' = a / N for N examples, a function of N alone. By the union bound no
  certificate is false, except with probability a, whatever the dependence of the examples.
- **The best of several bounds**, the report's own among them: each at a' / m for m bounds, and the largest radius. By
  the union bound all m hold together, except with probability a', so the largest does whatever the counts were. The
  set must be stated before the counts are seen; of a bound picked afterwards at the full alpha nothing is proved.

Refused are a larger alpha, another bound alone, and counts of draws that a sequential test ended: there the number of
draws depends on the votes, and a bound for a fixed number errs six times as often as it says (at alpha 0.001 and p0 of
0.9, up to 20,000 draws). A report that is only to be checked needs none of this: `verify_report` derives it as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import UNSET, UnsetType

from certify.errors import InputError
from certify.results import Bound, Report, SmoothingExample, SmoothingReport
from certify.stats import GEOMETRIES, Geometry, alpha_for_all, charged_alpha, radius_bound


@dataclass(frozen=True)
class RecertifiedExample:
    """One example: the class it is certified for, None on abstention, and its radius, 0 then."""

    index: int
    id: str
    predicted: int | None
    radius: float


@dataclass(frozen=True)
class Recertified:
    """Radii from the counts of a report, each false with probability at most ``alpha``; ``statement`` says of what.

    ``together`` is the probability that any of them is false, where that was asked for.
    """

    alpha: float
    bounds: tuple[Bound, ...]
    together: float | None
    statement: str
    examples: tuple[RecertifiedExample, ...]


def recertify(
    report: Report, *, alpha: float | None = None, together: bool = False, bounds: Sequence[Bound] = ()
) -> Recertified:
    """Return the radii that the counts of a report prove at a smaller alpha, together, or by the best of some bounds.

    The module docstring has what is sound, and why. The result is no report: a report says what one run was set to do
    before its draws.

    Args:
        report: A smoothing report whose draws did not end by a test.
        alpha: At most the report's; state it before you look at the counts. None: the report's.
        together: Whether all certificates shall hold at once, except with probability ``alpha``.
        bounds: Several bounds, the report's own among them, stated before you look at the counts; none: that one alone.

    Raises:
        InputError: If the report is of another kind, its draws ended by a test, or what is asked for is not sound.
    """
    if not isinstance(report, SmoothingReport):
        raise InputError("expected a smoothing report, got one without votes; its certificates have no alpha to change")
    _refuse_without_plain_votes(report)
    level = report.settings.alpha if alpha is None else alpha
    if not 0.0 < level <= report.settings.alpha:
        raise InputError(
            f"expected an alpha above 0 and at most the report's {report.settings.alpha!r}, got {level!r}: a larger "
            "one, chosen when the counts are known, would not hold; run again with it"
        )
    chosen = _checked_bounds(report, bounds)
    each = alpha_for_all(max(1, len(report.examples)), level) if together else level
    left = _left_for_bounds(each, report)
    geometry = GEOMETRIES[report.tables.noise_law]
    return Recertified(
        alpha=each,
        bounds=chosen,
        together=level if together else None,
        statement=_statement(report, each, level if together else None, chosen),
        examples=tuple(_recertified(example, report, chosen, left, geometry) for example in report.examples),
    )


def _refuse_without_plain_votes(report: SmoothingReport) -> None:
    settings = report.settings
    if settings.at or any(example.stopped is not UNSET for example in report.examples):
        raise InputError(
            "expected draws whose number the pilot fixed, got draws that a sequential test ended: a bound for a fixed "
            "number of draws does not hold for their counts; run without --at to measure radii"
        )
    if settings.deterministic:
        raise InputError(
            "expected certificates that can fail, got deterministic splitting: its radii are exact, at every alpha and "
            "all together"
        )
    if settings.scores == "soft":
        raise InputError("expected counts of votes, got mean scores; run again at the alpha you want")


def _checked_bounds(report: SmoothingReport, bounds: Sequence[Bound]) -> tuple[Bound, ...]:
    own = report.settings.bound
    if not bounds:
        return (own,)
    if own not in bounds or len(set(bounds)) != len(bounds) or (len(bounds) > 1 and report.settings.top_k > 1):
        raise InputError(
            f"expected bounds that differ, the report's {own!r} among them, and none but it for top-k; got "
            f"{', '.join(map(repr, bounds))}: another bound alone, chosen when the counts are known, would not hold"
        )
    return tuple(bounds)


def _left_for_bounds(alpha: float, report: SmoothingReport) -> float:
    """Return what the rounding of the noise leaves of alpha; it must leave half."""
    try:
        return charged_alpha(alpha, report.tables.alpha_charged)
    except ValueError as error:
        raise InputError(f"alpha {alpha!r}: {error}") from error


def _recertified(
    example: SmoothingExample, report: SmoothingReport, bounds: Sequence[Bound], alpha: float, geometry: Geometry
) -> RecertifiedExample:
    """Return the largest radius of the bounds, each at its share of alpha."""
    counts, settings = example.counts, report.settings
    selected = max(range(len(counts.selection)), key=lambda k: (counts.selection[k], -k))
    radius = 0.0
    if counts.n and selected < len(counts.selection) - 1:
        part = alpha if len(bounds) == 1 else math.nextafter(alpha / len(bounds), 0.0)
        scale, uniform = geometry.scale(settings.sigma), _number(example)
        radius = max(
            radius_bound(bound, settings.top_k)(
                counts.estimation, selected, part, scale, counts.selection, geometry.radius, uniform
            )
            for bound in bounds
        )
    certified = 0.0 < radius < math.inf
    return RecertifiedExample(example.index, example.id, selected if certified else None, radius if certified else 0.0)


def _number(example: SmoothingExample) -> float:
    return 1.0 if isinstance(example.uniform, UnsetType) else example.uniform


def _statement(report: SmoothingReport, each: float, together: float | None, bounds: Sequence[Bound]) -> str:
    how = bounds[0] if len(bounds) == 1 else f"the best of {', '.join(bounds)}, each at an equal share"
    all_at_once = "" if together is None else f"; all hold together, except with probability at most {together!r}"
    return (
        f"Radii from the counts of the report of digest {report.digest or 'none'}, by {how}: each false with "
        f"probability at most {each!r}{all_at_once}. Valid when alpha and bounds were stated before the counts were "
        f"seen; chosen later, a smaller alpha holds at {report.settings.alpha!r}."
    )
