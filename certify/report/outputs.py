"""What the report of a smoothed regression or segmentation promises, and how much of it is certified."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from certify.report.promise_words import INTEGER_NOISE_LAWS, NORM_WORDS, describe_input_space, scales_words
from certify.report.statement import NOISE_WORDS, joint_statement, smoothing_arithmetic
from certify.results import (
    ModelRecord,
    OutputInterval,
    OutputsSummary,
    Regression,
    RegressionExample,
    SegmentationExample,
    SmoothingSettings,
    Statement,
    Tables,
)

LAST_BITS = "the last bits of an output may depend on its place in a forward pass, which is fixed for every draw"


def outputs_statement(
    *, settings: SmoothingSettings, model: ModelRecord, tables: Tables, shape: tuple[int, ...], examples: int
) -> Statement:
    """Return the statement of a report over ``examples`` examples whose outputs have this shape."""
    on_grid = tables.noise_law in INTEGER_NOISE_LAWS
    arithmetic = smoothing_arithmetic(settings, on_grid=on_grid)
    regression = isinstance(settings.task, Regression)
    return Statement(
        text=_text(settings, model, tables, shape, on_grid=on_grid),
        object="smoothed",
        arithmetic=f"{arithmetic}; {LAST_BITS}" if regression else arithmetic,
        domain="grid" if on_grid else "real ball",
        failure_probability=settings.alpha,
        joint=joint_statement(examples, settings.alpha),
    )


def _text(
    settings: SmoothingSettings, model: ModelRecord, tables: Tables, shape: tuple[int, ...], *, on_grid: bool
) -> str:
    points = "8-bit grid point x'" if on_grid else "x'"
    noise = NOISE_WORDS[tables.noise_law](settings.sigma)
    distance, space = NORM_WORDS[settings.norm], f"{scales_words(settings)}{describe_input_space(model)}"
    who = f"({noise}) of the network with the weights of sha256 {model.sha256}"
    start = f"For each example x, except with probability at most {settings.alpha!r} over its own draws,"
    if isinstance(settings.task, Regression):
        return (
            f"{start} the {settings.task.quantile!r}-quantile of each of the {math.prod(shape)} smoothed outputs {who} "
            f"lies within its interval at every {points} with {distance} <= radius, {space}; an output that is not a "
            "number counts as minus infinity for lower ends, as plus infinity for upper ones. The network without "
            "noise is promised nothing."
        )
    return (
        f"{start} all its certified pixels together keep their predicted class, of {shape[0]}, in the smoothed "
        f"segmentation {who} at every {points} with {distance} < radius, {space}, the distance of whole images. Pixels "
        "without a prediction and the network without noise are promised nothing."
    )


def summarise_outputs(examples: Sequence[RegressionExample | SegmentationExample]) -> OutputsSummary:
    """Return how much is certified: intervals with two ends and their mean width, or pixels.

    Example:
        >>> interval = OutputInterval(lower=0.0, upper=0.5, estimate=0.25, invalid=0)
        >>> row = RegressionExample(
        ...     index=0, id="a", hash="", radius=0.1, outputs=(interval,), n0=1, n=9, seed=0, seconds=0.0
        ... )
        >>> summarise_outputs([row]).mean_width
        0.5
    """
    intervals = [one for row in examples if isinstance(row, RegressionExample) for one in row.outputs]
    pixels = [one for row in examples if isinstance(row, SegmentationExample) for one in row.predicted]
    bounded = [one for one in intervals if one.lower is not None and one.upper is not None]
    return OutputsSummary(
        examples=len(examples),
        outputs=len(intervals) + len(pixels),
        certified=len(bounded) + sum(one is not None for one in pixels),
        mean_width=_mean_width(bounded),
    )


def _mean_width(bounded: Sequence[OutputInterval]) -> float | None:
    """Return the mean width of intervals with two ends, rounded up from its exact value; None of none."""
    if not bounded:
        return None
    total = sum((Fraction(one.upper or 0.0) - Fraction(one.lower or 0.0) for one in bounded), Fraction(0))
    exact = total / len(bounded)
    nearest = float(exact)
    return nearest if Fraction(nearest) >= exact else math.nextafter(nearest, math.inf)
