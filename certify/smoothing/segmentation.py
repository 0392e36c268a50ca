"""Segmentation: which pixels keep their class for every small change of the whole image.

The pilot chooses a class for each pixel, the one with the most votes (the lowest at a tie); a pixel whose most votes
are invalid abstains. Then each example gets exactly n draws, and `certify.stats.certified_by_holm` says for which
pixels together it is proved that the probability of their class exceeds the threshold tau.

**Statement.** With probability at least 1 - alpha over the draws of one example: every certified pixel i has its class
c_i as the noisy vote of pixel i at every x' with ||x' - x|| < scale Phi^-1(tau). **Reason.** Given the pilot, classes
and n are constants and the draws fresh, so Holm's procedure rejects a true "p_i <= tau" with probability at most alpha
less the charge of the noise law. A pixel with p_i > tau >= 1/2 keeps its class on that ball (Cohen, Rosenfeld and
Kolter, arXiv 1902.02918, Theorem 1), the change of the other pixels included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from certify.errors import InputError
from certify.examples import Example
from certify.results import Segmentation, SegmentationExample, SmoothingSettings
from certify.smoothing.pixel_votes import PixelVotes
from certify.smoothing.tasks import Drawn
from certify.stats import GEOMETRIES, certified_by_holm, radius_l2


@dataclass(frozen=True)
class PixelSmoothing:
    """The task; see `certify.smoothing.tasks.Task`. ``radius`` is that of every certified pixel."""

    settings: SmoothingSettings
    reading: PixelVotes
    asked: Segmentation
    alpha: float
    radius: float
    sequential: bool = False

    @property
    def first_draws(self) -> int:
        """All draws."""
        return self.settings.n

    def choose(self, pilot: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the class of each pixel with the most votes; the number of classes where these are invalid."""
        chosen: NDArray[np.int64] = pilot.reshape(self.reading.count, -1).argmax(axis=1)
        return chosen

    def look(self, choice: NDArray[np.int64], estimation: NDArray[np.int64]) -> int:  # noqa: ARG002 - never decides
        """Return 0: the draws never depend on what was drawn."""
        return 0

    def draws_after(self, pilot: NDArray[np.int64], looks: Sequence[int]) -> int:  # noqa: ARG002 - always n
        """Return n."""
        return self.settings.n

    def report(self, example: Example, drawn: Drawn) -> SegmentationExample:
        """Return the certified pixels that the counts give."""
        selected, settings = self.choose(drawn.pilot), self.settings
        agreements = np.where(selected < self.reading.classes, drawn.estimation, 0)
        kept = certified_by_holm(agreements.tolist(), drawn.n, self.asked.threshold, self.alpha)
        return SegmentationExample(
            index=example.index,
            id=example.id,
            hash=example.hash,
            radius=self.radius if kept.any() else 0.0,
            selected=tuple(selected.tolist()),
            agreements=tuple(agreements.tolist()),
            predicted=tuple(c if keep else None for c, keep in zip(selected.tolist(), kept.tolist(), strict=True)),
            n0=settings.n0,
            n=drawn.n,
            seed=settings.seed,
            seconds=drawn.seconds,
        )


def segmentation_task(
    settings: SmoothingSettings, asked: Segmentation, *, shape: tuple[int, ...], law: str, alpha: float
) -> PixelSmoothing:
    """Return the task of a run.

    Args:
        settings: The settings of the run.
        asked: The threshold.
        shape: Shape of the output of one input: classes first.
        law: The name of the noise law.
        alpha: Error probability, less the charge of the noise law.

    Raises:
        InputError: If the threshold is not above 1/2 and below 1, the output is no map of at least two classes, or n
            draws could certify no pixel.
    """
    if not 0.5 < asked.threshold <= 1.0 - 2.0**-40:
        raise InputError(f"expected a threshold above 1/2 and below 1, got {asked.threshold!r}")
    if len(shape) < 2 or not shape[0] >= 2:
        raise InputError(f"expected outputs of shape [classes, *pixels] with at least two classes, got {list(shape)}")
    reading = PixelVotes(shape[0], tuple(shape[1:]))
    best = [settings.n] * reading.count
    if not certified_by_holm(best, settings.n, asked.threshold, alpha).any():
        least = math.ceil(math.log(alpha / reading.count) / math.log(asked.threshold))
        raise InputError(f"expected enough draws to certify a pixel, got n={settings.n}; about {least} are needed")
    failure = 1.0 - asked.threshold  # exact: Sterbenz
    radius = radius_l2(GEOMETRIES[law].scale(settings.sigma), failure, failure)
    return PixelSmoothing(settings, reading, asked, alpha, radius)
