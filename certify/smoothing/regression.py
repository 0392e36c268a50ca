"""Regression by median smoothing: for every output, numbers between which its noisy quantile stays on a whole ball.

Each example gets exactly n estimation draws. With m outputs, each end of each has alpha / (2 m), alpha less the charge
of the noise law; the ranks of the draws that are the ends depend on n, the quantile, the radius and alpha alone
(`certify.stats.quantile_ranks`, with the theorem). Outputs that are not numbers count as minus infinity for the lower
ends and plus infinity for the upper ones.

**Statement.** With probability at least 1 - alpha over the draws of one example, for all its outputs together: the
p-quantile of y(x' + noise) is within [lower, upper] for every x' with ||x' - x|| <= radius. **Reason.** The union bound
over 2 m ends. The p-quantile is the smallest t with P(y <= t) >= p, and each end bounds the event {y <= t} for one t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from certify.errors import InputError
from certify.examples import Example
from certify.results import OutputInterval, Regression, RegressionExample, SmoothingSettings
from certify.smoothing.addresses import NO_CHOICE
from certify.smoothing.kept_outputs import KeptOutputs
from certify.smoothing.tasks import Drawn
from certify.stats import GEOMETRIES, quantile_ranks


@dataclass(frozen=True)
class MedianSmoothing:
    """The task; see `certify.smoothing.tasks.Task`. ``ranks`` are those of the lower and of the upper end."""

    settings: SmoothingSettings
    reading: KeptOutputs
    asked: Regression
    ranks: tuple[int | None, int | None]
    sequential: bool = False

    @property
    def first_draws(self) -> int:
        """All draws."""
        return self.settings.n

    def choose(self, pilot: NDArray[np.int64]) -> NDArray[np.int64]:  # noqa: ARG002 - nothing is chosen
        """Return nothing: a regression has no class to select."""
        return NO_CHOICE

    def look(self, choice: NDArray[np.int64], estimation: NDArray[np.int64]) -> int:  # noqa: ARG002 - never decides
        """Return 0: the draws never depend on what was drawn."""
        return 0

    def draws_after(self, pilot: NDArray[np.int64], looks: Sequence[int]) -> int:  # noqa: ARG002 - always n
        """Return n."""
        return self.settings.n

    def report(self, example: Example, drawn: Drawn) -> RegressionExample:
        """Return the intervals that the kept outputs give."""
        values = self.reading.values(drawn.estimation, drawn.n)
        settings = self.settings
        return RegressionExample(
            index=example.index,
            id=example.id,
            hash=example.hash,
            radius=self.asked.radius,
            outputs=tuple(interval(column, self.ranks, self.asked.quantile) for column in values.T),
            n0=settings.n0,
            n=drawn.n,
            seed=settings.seed,
            seconds=drawn.seconds,
        )


def interval(values: NDArray[np.float64], ranks: tuple[int | None, int | None], quantile: float) -> OutputInterval:
    """Return the ends that the draws of one output give; an end that no number bounds is None.

    Example:
        >>> found = interval(np.array([3.0, 1.0, np.nan, 2.0]), (2, 4), 0.5)
        >>> found.lower, found.upper, found.invalid
        (1.0, None, 1)
    """
    wrong = np.isnan(values)
    below, above = (np.sort(np.where(wrong, end, values)) for end in (-math.inf, math.inf))
    lower, upper = (None if rank is None else float(ends[rank - 1]) for ends, rank in zip((below, above), ranks))  # noqa: B905
    middle = float(above[math.ceil(quantile * len(values)) - 1])
    return OutputInterval(
        lower=_finite(lower), upper=_finite(upper), estimate=_finite(middle), invalid=int(wrong.sum())
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def regression_task(
    settings: SmoothingSettings, asked: Regression, *, shape: tuple[int, ...], law: str, alpha: float
) -> MedianSmoothing:
    """Return the task of a run.

    Args:
        settings: The settings of the run.
        asked: Radius and quantile.
        shape: Shape of the outputs of one input.
        law: The name of the noise law.
        alpha: Error probability, less the charge of the noise law.

    Raises:
        InputError: If radius or quantile are out of range, or n draws can bound neither end.
    """
    ranks = task_ranks(settings, asked, outputs=math.prod(shape), law=law, alpha=alpha)
    if ranks == (None, None):
        raise InputError(
            f"expected enough draws to bound a quantile at radius {asked.radius!r}, sigma {settings.sigma!r} and alpha="
            f"{settings.alpha!r}, got n={settings.n}: no end is bounded; raise n, or lower the radius"
        )
    return MedianSmoothing(settings, KeptOutputs(shape, settings.dtype), asked, ranks)


def task_ranks(
    settings: SmoothingSettings, asked: Regression, *, outputs: int, law: str, alpha: float
) -> tuple[int | None, int | None]:
    """Return the ranks of the ends, at alpha / outputs for each output.

    Raises:
        InputError: If radius or quantile are out of range.
    """
    scale = GEOMETRIES[law].scale(settings.sigma)
    part = math.nextafter(alpha / outputs, 0.0)
    try:
        return quantile_ranks(settings.n, asked.quantile, math.nextafter(asked.radius / scale, math.inf), part)
    except ValueError as error:
        raise InputError(f"regression: {error}") from error
