"""Tasks: what is asked of the noisy outputs of one example, from the pilot's choice to the row of the report.

A task joins a reading with the decisions made on its totals. Everything it decides is a function of integers: the
*choice* and the number of draws of the pilot's total, the row of the report of both totals. `certify.smoothing.jobs`
carries an example through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from certify.examples import Example
from certify.results import SmoothingSettings
from certify.smoothing.readings import Reading

Row = TypeVar("Row")
Row_co = TypeVar("Row_co", covariant=True)


@dataclass(frozen=True, eq=False)
class Drawn:
    """All that was drawn for one example: the totals of both purposes, ``n`` estimation draws, and the seconds spent.

    ``looks`` are the numbers that a sequential procedure looked at, one for each stage of the estimation.
    """

    pilot: NDArray[np.int64]
    estimation: NDArray[np.int64]
    n: int
    looks: Sequence[int]
    seconds: float


class Task(Protocol[Row_co]):
    """One kind of certificate, for one run."""

    @property
    def settings(self) -> SmoothingSettings:
        """The settings of the run; n0 of them is the size of the pilot."""

    @property
    def reading(self) -> Reading:
        """What the outputs of the network are boiled down to."""

    @property
    def first_draws(self) -> int:
        """The estimation draws that an example is first asked for, or likely to be: progress before any is known."""

    @property
    def sequential(self) -> bool:
        """Whether the draws of an example can go on after the number that its pilot asks for."""

    def choose(self, pilot: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what the pilot's total chooses for the estimation; every request of it carries this."""
        ...

    def look(self, choice: NDArray[np.int64], estimation: NDArray[np.int64]) -> int:
        """Return the number that decides, in a sequential procedure, whether an example goes on."""
        ...

    def draws_after(self, pilot: NDArray[np.int64], looks: Sequence[int]) -> int:
        """Return the estimation draws that are asked for after these looks; the last number again at the end."""
        ...

    def report(self, example: Example, drawn: Drawn) -> Row_co:
        """Return the row of one example; a function of the totals."""
        ...
