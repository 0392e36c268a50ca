r"""A report of deterministic splitting, derived again: K from sigma, the settings that follow, each radius from votes.

K is the integer nearest to x = 510 sigma sqrt 3: the one with (2 K - 1)^2 <= 12 (510 sigma)^2 < (2 K + 1)^2. Of the K
votes of an example the class that is ahead of every other, invalid outputs included, by G > 0 is certified to the
largest float that is at most G / 510. Nothing is drawn: alpha, pilot, asked radii, and all that goes with them are 0 or
absent. (That the examples are stored as 8-bit pixels goes with the name of the law, `rederive_noise`.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

from msgspec import UNSET

from certify.report.findings import Finding, compare, require
from certify.results import SmoothingExample, SmoothingReport

LEVELS = 255
DEFAULTS = {"alpha": 0.0, "n0": 0, "procedure": "fixed", "price": 1e-5, "bound": "two-interval", "float_noise": False}
"""What the settings say that play no part."""


def shifts_of(sigma: float) -> int:
    """Return K: found between its two half-integers, starting from the float product.

    Example:
        >>> shifts_of(0.25), shifts_of(1.0)
        (221, 883)
    """
    square, found = 12 * (2 * LEVELS * Fraction(sigma)) ** 2, round(2 * LEVELS * sigma * math.sqrt(3.0))
    while (2 * found + 1) ** 2 <= square:
        found += 1
    while (2 * found - 1) ** 2 > square:
        found -= 1
    return found


def check_split_settings(report: SmoothingReport) -> Iterator[Finding]:
    """Yield where settings and tables are not those of deterministic splitting at this sigma."""
    settings, tables = report.settings, report.tables
    for name, value in DEFAULTS.items():
        yield from compare(f"settings.{name}", value, getattr(settings, name))
    for name in ("scales", "task", "scores", "score_map", "temperature"):
        yield from require(getattr(settings, name) is UNSET, f"settings.{name}", "absent with splitting", "some")
    yield from compare("settings.at", (), settings.at)
    yield from compare("settings.n", shifts_of(settings.sigma), settings.n)
    yield from compare("tables.alpha_charged", 0.0, tables.alpha_charged)
    yield from compare("tables.plan", None, tables.plan)
    yield from compare("tables.plan_sha256", None, tables.plan_sha256)
    yield from require(tables.sequential is UNSET, "tables.sequential", "absent with splitting", "some")
    yield from require(tables.scores is UNSET, "tables.scores", "absent with splitting", "some")


def check_split_example(report: SmoothingReport, example: SmoothingExample, where: str) -> Iterator[Finding]:
    """Yield where the answer of an example is not that of its votes, which add up."""
    yield from compare(f"{where}.counts.n", report.settings.n, example.counts.n)
    for name in ("stopped", "decisions", "uniform", "scores"):
        yield from require(getattr(example, name) is UNSET, f"{where}.{name}", "absent with splitting", "some")
    (most, best), (next_most, _) = sorted(((votes, k) for k, votes in enumerate(example.counts.estimation)))[:-3:-1]
    certified = most > next_most and best < len(report.model.classes)
    yield from compare(f"{where}.predicted", best if certified else None, example.predicted)
    yield from compare(f"{where}.radius", _at_most(most - next_most) if certified else 0.0, example.radius)


def _at_most(ahead: int) -> float:
    exact = Fraction(ahead, 2 * LEVELS)
    nearest = ahead / (2 * LEVELS)
    return nearest if Fraction(nearest) <= exact else math.nextafter(nearest, 0.0)
