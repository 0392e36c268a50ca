"""A run with soft scores: the pilots of all examples first, then the choice of the map, then the estimation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from certify.examples import Dataset, Example
from certify.results import SmoothingExample
from certify.smoothing.addresses import block_requests
from certify.smoothing.blocks import example_key
from certify.smoothing.jobs import read_example
from certify.smoothing.loop import Events, SmoothingProgress
from certify.smoothing.noise import NoiseLaw
from certify.smoothing.placement import ONE_CORE, Placement
from certify.smoothing.procedure import Procedure
from certify.smoothing.run import check_data, is_complete, task_events
from certify.smoothing.scores import Scores
from certify.smoothing.soft_classification import (
    LogitBound,
    ScorePilots,
    SoftClassification,
    choose_scores,
    score_reading,
)
from certify.smoothing.store import Store
from certify.stats.score_radius import FARTHEST_DRAW, FARTHEST_RADIUS, PIXEL_LEVELS


def enclosing_ball(dataset: Dataset, sigma: float) -> tuple[NDArray[np.float64], float]:
    """Return a centre and a distance (l2, rounded up) within which noisy copies of inputs near the examples lie.

    "Near" is what a radius can reach (16 sigma); a copy is further than this with probability e^-32 at most, since
    ||Z|| > sqrt d + t has probability at most e^(-t^2 / 2) for a standard normal Z of d coordinates. The rounding of
    integer noise moves a coordinate by 1/510 at most.
    """
    rows = [example.values() for example in dataset]
    centre: NDArray[np.float64] = np.mean(rows, axis=0)
    farthest = max(float(np.sqrt(np.sum((row - centre) ** 2))) for row in rows)
    root = math.sqrt(centre.size)
    reach = farthest + FARTHEST_RADIUS * sigma + (root + FARTHEST_DRAW) * sigma + root / (2 * PIXEL_LEVELS)
    return centre, reach * (1.0 + 1e-9)


@dataclass(frozen=True, eq=False)
class SoftRun:
    """What a run with soft scores consists of, besides the network: its store holds the records of ``reading``."""

    procedure: Procedure
    law: NoiseLaw
    dataset: Dataset
    bound: LogitBound
    store: Store

    @property
    def reading(self) -> Scores:
        """Votes and scores of the candidates."""
        return score_reading(self.procedure.settings, self.procedure.classes, self.bound)

    @property
    def pilots(self) -> ScorePilots:
        """The task of the first half."""
        return ScorePilots(self.procedure.settings, self.reading)

    def task(self) -> SoftClassification:
        """Return the task of the second half, from the pilots in the store, which must be complete.

        Raises:
            SoundnessError: If a pilot is missing.
        """
        rounded = int(np.prod(self.dataset.examples[0].stored.shape)) if self.law.float_sound else 0
        return choose_scores(self.procedure, self.reading, self.bound, rounded, self._totals())

    def missing(self) -> list[Example]:
        """Return the examples whose pilots are not complete in the store."""
        return [example for example in self.dataset if not self._has_pilot(example)]

    def is_complete(self) -> bool:
        """Return whether the store holds every draw of the run."""
        return not self.missing() and is_complete(self.store, self.dataset, self.task())

    def events(
        self,
        predict: Callable[[Tensor], Tensor],
        *,
        placement: Placement = ONE_CORE,
    ) -> Events[SmoothingExample]:
        """Yield the certified examples in order, and progress; see `certify.smoothing.smoothing_events`.

        Raises:
            InputError: If the settings, the data or the store do not fit.
            NoRuleError: If the network is no function of its input.
            InterruptedRun: After SIGINT or SIGTERM; finished blocks are in the store.
        """
        check_data(self.dataset)
        events = partial(task_events, store=self.store, placement=placement)
        if missing := self.missing():
            part = replace(self.dataset, examples=tuple(missing))
            for event in events(predict, part, self.pilots, self.law):
                if isinstance(event, SmoothingProgress):
                    yield self._whole(event, len(missing))
        yield from events(predict, self.dataset, self.task(), self.law)

    def _whole(self, progress: SmoothingProgress, missing: int) -> SmoothingProgress:
        """Return the progress of the pilots as that of the run: nothing is decided, and the estimation is to come."""
        settings, examples = self.procedure.settings, len(self.dataset)
        done = progress.draws_done + settings.n0 * (examples - missing)
        return SmoothingProgress(0, 0, examples, done, (settings.n0 + settings.n) * examples)

    def _has_pilot(self, example: Example) -> bool:
        rows = self.store.rows(example_key(example))
        found = [(row.block, row.draws) for row in rows if row.purpose == "selection"]
        asked = block_requests(example, "selection", self.procedure.settings.n0)
        return found == [(request.block, request.draws) for request in asked]

    def _totals(self) -> Iterator[NDArray[np.int64]]:
        for example in self.dataset:
            rows = [row for row in self.store.rows(example_key(example)) if row.purpose == "selection"]
            yield read_example(example, self.pilots, rows)
