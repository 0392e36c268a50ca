r"""The answers of a sequential run, computed again from final counts; without torch, without the model.

The votes for the selected class are known at the end only. What paths of votes can end there is exact arithmetic of
intervals: from one look to the next the votes rise by 0 to the draws between; at a look each open question is answered
where the votes cross one of its two rows, and the example ends when nothing is open. `endings` walks all paths at
once, for every look and every set of answers the interval of votes that reach them. Counts that no path ends at are
refused: draws that end at no look, votes that cross no row there, votes that would have ended the draws before. With
one question the answer follows from the counts; with several, the last look's answers do, and of the earlier ones that
they were possible.

The rule is written here a second time, from its definition: an answer stands from the first look that crosses; no
answer is better than that of a smaller radius; above a radius that was given up nothing is asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TypeAlias

from msgspec import UNSET

from certify.report.findings import Finding, compare, require
from certify.results import Answer, SequentialTable, SmoothingExample, SmoothingReport, SmoothingSettings
from certify.stats import SequentialTest, sequential_test

Answers: TypeAlias = tuple[Answer, ...]
Interval: TypeAlias = tuple[int, int]  # both ends included
Endings: TypeAlias = Mapping[int, Sequence[tuple[Interval, Answers]]]


def expected_tests(settings: SmoothingSettings, alpha: float, scale: float) -> tuple[SequentialTest, ...]:
    """Return the tests of the asked radii, at the error probability that is left for the bounds.

    ``scale`` is what the radii of the noise law are proportional to.

    Raises:
        ValueError: If a setting is out of the range of the statistics.
    """
    ratios = (math.nextafter(radius / scale, math.inf) for radius in settings.at)
    return tuple(sequential_test(ratio, alpha, alpha, settings.n, settings.noise) for ratio in ratios)


def check_sequential_tables(report: SmoothingReport, alpha: float, scale: float) -> Iterator[Finding]:
    """Yield where the tables differ from those of the settings; a run without asked radii has none."""
    settings, found = report.settings, report.tables.sequential
    yield from compare("settings.at", sorted(set(settings.at)), list(settings.at))
    if not settings.at:
        yield from require(found is UNSET, "tables.sequential", "none, as no radius was asked for", found)
        return
    expected = [
        SequentialTable(radius=radius, looks=test.looks, up=test.up, lo=test.lo, level=test.level, sha256=test.sha256)
        for radius, test in zip(settings.at, expected_tests(settings, alpha, scale), strict=True)
    ]
    yield from compare("tables.sequential", expected, None if found is UNSET else list(found))


def check_unstopped(example: SmoothingExample, where: str) -> Iterator[Finding]:
    """Yield where an example of a run without asked radii says that it was stopped: its radius would not be valid."""
    yield from require(example.stopped is UNSET, f"{where}.stopped", "absent, as no radius was asked for", "a stop")
    yield from require(example.decisions is UNSET, f"{where}.decisions", "absent, as no radius was asked for", "some")


def check_sequential(
    report: SmoothingReport, example: SmoothingExample, where: str, alpha: float, scale: float
) -> Iterator[Finding]:
    """Yield where an example differs from what its final counts allow, decisions, radius and prediction."""
    at, counts = report.settings.at, example.counts
    yield from compare(f"{where}.stopped", "gs", None if example.stopped is UNSET else example.stopped)
    selected = counts.selection.index(max(counts.selection))
    invalid = selected == len(report.model.classes)
    decisions = () if example.decisions is UNSET else example.decisions
    yield from compare(f"{where}.decisions.radius", list(at), [decision.radius for decision in decisions])
    answers = tuple(decision.verdict for decision in decisions)
    if invalid:
        yield from compare(f"{where}.counts.n", 0, counts.n)
        yield from compare(f"{where}.decisions.verdict", ["not_certified"] * len(at), list(answers))
    else:
        votes, tests = counts.estimation[selected], expected_tests(report.settings, alpha, scale)
        yield from _check_ending(endings(tests), counts.n, votes, answers, where)
    certified = answers.count("certified")  # as many of the smallest radii, when the answers are possible ones
    yield from compare(f"{where}.radius", at[certified - 1] if 0 < certified <= len(at) else 0.0, example.radius)
    yield from compare(f"{where}.predicted", selected if certified else None, example.predicted)


def _check_ending(ends: Endings, n: int, votes: int, answers: Answers, where: str) -> Iterator[Finding]:
    if n not in ends:
        yield Finding(f"{where}.counts.n", "a look of the test at which the draws can end", repr(n))
        return
    possible = {found for (low, high), found in ends[n] if low <= votes <= high}
    if not possible:
        yield Finding(f"{where}.counts.estimation", f"votes that end the draws at the look of {n}", repr(votes))
    elif answers not in possible:
        expected = " or ".join(sorted(map(", ".join, possible)))
        yield Finding(f"{where}.decisions.verdict", expected, ", ".join(answers))


@lru_cache(maxsize=8)
def endings(tests: tuple[SequentialTest, ...]) -> Endings:
    """Return for each look the intervals of votes at which draws can end there, with the answers they end with.

    Example:
        One look of 60 draws: every number of votes ends there.

        >>> ends = endings((sequential_test(0.5, 0.05, 0.05, 60),))
        >>> [(interval, answers[0]) for interval, answers in ends[60]]
        [((0, 35), 'not_certified'), ((36, 47), 'undecided'), ((48, 60), 'certified')]
    """
    looks = tests[0].looks
    nothing: Answers = tuple("undecided" for _ in tests)
    alive: dict[Answers, list[Interval]] = {nothing: [(0, 0)]}
    ends: dict[int, list[tuple[Interval, Answers]]] = {}
    for place, (before, now) in enumerate(pairwise((0, *looks))):
        going: dict[Answers, list[Interval]] = {}
        for alone, intervals in alive.items():
            for low, high in intervals:
                for interval, then in _answered(tests, place, alone, (low, high + now - before)):
                    together = _together(then)
                    if now == looks[-1] or "undecided" not in together:
                        ends.setdefault(now, []).append((interval, together))
                    else:
                        going.setdefault(then, []).append(interval)
        alive = {alone: _merged(intervals) for alone, intervals in going.items()}
    return ends


def _answered(
    tests: Sequence[SequentialTest], place: int, alone: Answers, reached: Interval
) -> Iterator[tuple[Interval, Answers]]:
    """Yield the parts of an interval of votes in which the same questions are answered at a look, with all answers."""
    low, high = reached
    cuts = {cut for test in tests for cut in (test.lo[place] + 1, test.up[place]) if low < cut <= high}
    for first, beyond in pairwise((low, *sorted(cuts), high + 1)):
        then = (
            _crossed(test, place, first) if answer == "undecided" else answer
            for test, answer in zip(tests, alone, strict=True)
        )
        yield (first, beyond - 1), tuple(then)


def _crossed(test: SequentialTest, place: int, votes: int) -> Answer:
    return "certified" if votes >= test.up[place] else "not_certified" if votes <= test.lo[place] else "undecided"


def _together(alone: Answers) -> Answers:
    """Return the answers as they are reported: none better than that of a smaller radius."""
    found: list[Answer] = []
    for answer in alone:
        if "not_certified" in found:
            found.append("not_certified")
        elif "undecided" in found and answer == "certified":
            found.append("undecided")
        else:
            found.append(answer)
    return tuple(found)


def _merged(intervals: Sequence[Interval]) -> list[Interval]:
    """Return the union of intervals of integers as disjoint ones."""
    merged: list[Interval] = []
    for low, high in sorted(intervals):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged
