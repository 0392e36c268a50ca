"""Certified accuracy against radius, with limits over examples that hold between the radii they were computed at.

The share certified at r only falls with r, and so does the share c(r) of the population that it estimates. Limits at
r_0 < r_1 < ... therefore enclose it everywhere: for r in (r_{j-1}, r_j]

    lower(r_j)  <=  c(r_j)  <=  c(r)  <=  c(r_{j-1})  <=  upper(r_{j-1}),

each side at the confidence of its one limit. Between its points the observed share is drawn at the value of the larger
radius, so a curve thinned for the page lies on or below the true one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from msgspec import UNSET

from certify.report.figures import radius_label, upper_figure
from certify.report.wording import share_of
from certify.results import (
    CertifiedAccuracy,
    LipschitzExample,
    LipschitzReport,
    Listing,
    LogExample,
    LogReport,
    SmoothingExample,
    SmoothingReport,
    Summary,
)
from certify.stats import population_limits

UNLIMITED = 1e12  # an unlimited radius is recorded as the largest float; no axis reaches it
MOST_STEPS, MOST_LIMITS = 400, 40

Examples: TypeAlias = Sequence[LipschitzExample] | Sequence[SmoothingExample] | Sequence[LogExample]


@dataclass(frozen=True)
class Curve:
    """Certified accuracy of one report: the drawn steps, and the limits at a few radii.

    ``steps`` are (radius, share at it), empty where only the radii of ``limits`` were asked; ``beyond_upper`` is the
    upper limit beyond the last of these, ``fixed`` the radii that the summary names. ``chance`` says whether the
    certificates can fail by chance, ``norm`` in which distance the radii are, ``series`` which report it is of,
    ``share`` what the share is called: among the k likeliest it is another one.
    """

    name: str
    series: int
    norm: str
    chance: bool
    steps: tuple[tuple[float, float], ...]
    limits: tuple[CertifiedAccuracy, ...]
    beyond_upper: float
    fixed: frozenset[float] = frozenset()
    share: str = "certified accuracy"

    @property
    def reach(self) -> float:
        """The largest radius that an axis has to show."""
        radii = [radius for radius, share in self.steps if share > 0.0] if self.steps else self.asked
        return max((radius for radius in radii if radius < UNLIMITED), default=0.0)

    @property
    def asked(self) -> list[float]:
        """The radii of the limits."""
        return [row.radius for row in self.limits]


def curve_of(report: Listing, name: str = "", series: int = 0) -> Curve | None:
    """Return the curve of a report; none without data, or where a run stopped early and no share is known."""
    if report.summary is UNSET or report.summary.unsampled is not UNSET or not report.summary.examples:
        return None
    chance, asked = (
        report.statement.failure_probability > 0.0,
        isinstance(report, SmoothingReport) and report.settings.at,
    )
    norm, examples = norm_of(report), report.examples
    fixed = frozenset(row.radius for row in report.summary.certified_accuracy)
    radii = certified_radii(examples)
    if asked:
        rows = report.summary.certified_accuracy
        return Curve(name, series, norm, chance, (), rows, rows[-1].upper, fixed, share_of(report))
    alpha = 0.0 if isinstance(report, LipschitzReport) else report.settings.alpha
    steps = tuple((r, share_at(radii, r, len(examples))) for r in thin_out([0.0, *radii], MOST_STEPS))
    rows = _limits(radii, report.summary, alpha)
    _, beyond = population_limits(0, len(examples), confidence=rows[0].confidence, alpha=alpha)
    return Curve(name, series, norm, chance, steps, rows, beyond, fixed, share_of(report))


def norm_of(report: Listing) -> str:
    """Return the norm of the radii of a report; logs are in l2."""
    return "l2" if isinstance(report, LogReport) else report.settings.norm


def certified_radii(examples: Examples) -> list[float]:
    """Return the positive radii of the correct examples in rising order, none above ``UNLIMITED``."""
    return sorted(min(example.radius, UNLIMITED) for example in examples if example.correct and example.radius > 0.0)


def share_at(radii: Sequence[float], radius: float, examples: int) -> float:
    """Return the share of the examples whose radius, one of these rising ones, is at least ``radius``.

    Example:
        >>> share_at([0.5, 1.0], 0.5, 4), share_at([0.5, 1.0], 0.7, 4)
        (0.5, 0.25)
    """
    return (len(radii) - bisect_left(radii, radius)) / examples


def thin_out(values: Sequence[float], most: int) -> list[float]:
    """Return distinct values in rising order, evenly thinned to at most ``most``; the first and the last stay.

    Example:
        >>> thin_out([0.0, 1.0, 1.0, 2.0, 3.0, 4.0], 3)
        [0.0, 2.0, 4.0]
    """
    distinct = sorted(set(values))
    if len(distinct) <= most:
        return distinct
    return [distinct[round(k * (len(distinct) - 1) / (most - 1))] for k in range(most)]


def _limits(radii: Sequence[float], summary: Summary, alpha: float) -> tuple[CertifiedAccuracy, ...]:
    """Return the limits of the summary with those at further radii between, and at the largest."""
    known = {row.radius: row for row in summary.certified_accuracy}
    confidence = summary.certified_accuracy[0].confidence
    reach = min(radii[-1], UNLIMITED) if radii else 0.0
    places = {*known, *thin_out(radii, MOST_LIMITS)}
    rows = []
    for radius in sorted(place for place in places if place <= max(reach, 0.0)):
        count = round(share_at(radii, radius, summary.examples) * summary.examples)
        lower, upper = population_limits(count, summary.examples, confidence=confidence, alpha=alpha)
        share = count / summary.examples
        new = CertifiedAccuracy(radius=radius, accuracy=share, lower=lower, upper=upper, confidence=confidence)
        rows.append(known.get(radius, new))
    return tuple(rows)


def describe_curve(curve: Curve) -> str:
    """Return in words what a curve shows: the share at its first radius, where it halves, and where it ends."""
    start = curve.limits[0]
    half = [row.radius for row in curve.limits if row.accuracy >= start.accuracy / 2]
    words = f"{start.accuracy:.1%} certified at radius {radius_label(start.radius)}"
    if start.accuracy > 0.0:
        words += f"; at least half of that up to about {max(half):.3g}; none beyond {upper_figure(curve.reach)}"
    return words
