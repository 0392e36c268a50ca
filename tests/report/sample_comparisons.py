"""Named comparisons that the tests of views, checks and the command line share: `COMPARISONS` is name -> builder."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from certify.report import compare_reports
from certify.results import ComparisonReport
from tests.report.sample_reports import (
    SETTINGS,
    lipschitz_example,
    lipschitz_report,
    sequential_report,
    smoothing_report,
)


def lipschitz_pair(before, after):
    """Build two reports from margins; a margin of 0 certifies nothing."""
    return [
        lipschitz_report([lipschitz_example(index, margin) for index, margin in enumerate(margins)])
        for margins in (before, after)
    ]


@functools.cache
def lipschitz_compared() -> ComparisonReport:
    before, after = [1.0] * 8 + [0.5, 0.0, 0.2], [1.0] * 7 + [0.3, 0.9, 0.0, 0.0]
    return compare_reports(*lipschitz_pair(before, after), radius=0.3)


@functools.cache
def lipschitz_gated() -> ComparisonReport:
    before, after = [1.0] * 400, [1.0] * 396 + [0.2] * 4
    return compare_reports(*lipschitz_pair(before, after), radius=0.3, max_drop=0.05)


@functools.cache
def smoothing_compared() -> ComparisonReport:
    new = smoothing_report([1.0] * 18 + [0.95, 0.5], settings=replace(SETTINGS, sigma=0.5, seed=3))
    return compare_reports(smoothing_report([1.0] * 17 + [0.5, 0.95, 0.95]), new, radius=0.25)


@functools.cache
def smoothing_dropped() -> ComparisonReport:
    old, new = smoothing_report([1.0] * 40), smoothing_report([1.0] * 20 + [0.2] * 20)
    return compare_reports(old, new, radius=0.1, max_drop=0.1)


@functools.cache
def sequential_compared() -> ComparisonReport:
    old, new = sequential_report([1.0] * 10 + [0.3]), sequential_report([1.0] * 9 + [0.3, 1.0])
    return compare_reports(old, new, radius=0.25)


COMPARISONS: Mapping[str, Callable[[], ComparisonReport]] = {
    "lipschitz compared": lipschitz_compared,
    "lipschitz gated": lipschitz_gated,
    "smoothing compared": smoothing_compared,
    "smoothing dropped": smoothing_dropped,
    "sequential compared": sequential_compared,
}
