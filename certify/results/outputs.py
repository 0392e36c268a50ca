"""Rows of a smoothed regression or segmentation."""

from __future__ import annotations

from certify.results.row import Row


class OutputInterval(Row, frozen=True, kw_only=True):
    """One output of a regression: proved ends of its noisy quantile, null where no draw bounds them.

    ``estimate`` is the quantile of the draws, ``invalid`` how many of them were not a number.
    """

    lower: float | None
    upper: float | None
    estimate: float | None
    invalid: int


class RegressionExample(Row, frozen=True, kw_only=True, tag_field="kind", tag="regression"):
    """One input of a regression: all its intervals hold together on the ball of ``radius``, with one alpha."""

    index: int
    id: str
    hash: str
    radius: float
    outputs: tuple[OutputInterval, ...]
    n0: int
    n: int
    seed: int
    seconds: float


class SegmentationExample(Row, frozen=True, kw_only=True, tag_field="kind", tag="segmentation"):
    """One input of a segmentation: all its certified pixels hold together on the ball of ``radius``, with one alpha.

    ``selected`` is the class the pilot chose for each pixel (the number of classes: invalid), ``agreements`` the draws
    that agree with it, ``predicted`` the class of a certified pixel, null on abstention.
    """

    index: int
    id: str
    hash: str
    radius: float
    selected: tuple[int, ...]
    agreements: tuple[int, ...]
    predicted: tuple[int | None, ...]
    n0: int
    n: int
    seed: int
    seconds: float


class OutputsSummary(Row, frozen=True, kw_only=True):
    """How much is certified: ``certified`` of ``outputs`` in all examples (intervals with two ends, or pixels).

    ``mean_width`` is the mean width of these intervals, rounded up; null for pixels, or where there are none.
    """

    examples: int
    outputs: int
    certified: int
    mean_width: float | None
