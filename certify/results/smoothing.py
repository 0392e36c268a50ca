"""Rows of a smoothing run: counts and sums of the draws, what was decided with them, and the tables it used."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, UnsetType

from certify.results.row import Row
from certify.results.words import Answer, SmoothingNorm


class Counts(Row, frozen=True, kw_only=True):
    """Votes per class of one example; the last entry counts invalid (non-finite) outputs. ``n`` = draws counted.

    Without a pilot (``n0`` 0, deterministic splitting) ``selection`` is all zeros, and ``n`` is the number of shifts.
    """

    selection: tuple[int, ...]
    estimation: tuple[int, ...]
    n0: int
    n: int
    seed: int

    @property
    def selected(self) -> int:
        """The first of the places with the most votes in the pilot, or in all votes where there is no pilot."""
        votes = self.selection if self.n0 else self.estimation
        return votes.index(max(votes))


class ScoreSums(Row, frozen=True, kw_only=True):
    """Sums of soft scores per class and of their squares, in units of 2^-30; the last entry is of invalid outputs.

    Each square is rounded up to a whole unit. ``method`` names which of the valid radii is the largest, and reported.
    """

    selection: tuple[int, ...]
    selection_squares: tuple[int, ...]
    estimation: tuple[int, ...]
    estimation_squares: tuple[int, ...]
    method: str


class Decision(Row, frozen=True, kw_only=True):
    """The answer to "is the radius at least this?"; "certified" only where all smaller asked radii are too."""

    radius: float
    verdict: Answer


class SmoothingExample(Row, frozen=True, kw_only=True):
    """One certified example of a smoothing run; ``predicted`` is null on abstention, ``radius`` then 0.

    With asked radii, ``stopped`` is "gs" (the draws ended by a group-sequential test, so no bound for a fixed number
    of draws holds for the counts), ``decisions`` are the answers, and ``radius`` is the largest certified one.
    ``uniform`` is the random number of a randomized bound: a function of the seed, the id and the hash alone.
    """

    index: int
    id: str
    hash: str
    label: int
    predicted: int | None
    correct: bool
    radius: float
    norm: SmoothingNorm
    counts: Counts
    procedure: str
    seconds: float
    stopped: Literal["gs"] | UnsetType = UNSET
    decisions: tuple[Decision, ...] | UnsetType = UNSET
    uniform: float | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    scores: ScoreSums | UnsetType = UNSET


class UnsampledExample(Row, frozen=True, kw_only=True):
    """An example without draws: the verdicts of all gates were settled before its turn."""

    index: int
    id: str
    hash: str
    label: int


class SequentialTable(Row, frozen=True, kw_only=True):
    """The test of one asked radius: after ``looks[j]`` draws ``up[j]`` votes certify it and ``lo[j]`` give it up.

    ``level`` bounds the chance of certifying it wrongly. A row above its look, or below 0, cannot be reached.
    """

    radius: float
    looks: tuple[int, ...]
    up: tuple[int, ...]
    lo: tuple[int, ...]
    level: float
    sha256: str


class ScoreCandidate(Row, frozen=True, kw_only=True):
    """A map and temperature that were tried on the pilots, and their mean worth there, an estimate, in sigmas."""

    map: Literal["argmax", "softmax", "sparsemax"]
    temperature: float
    worth: float


class ScoreTable(Row, frozen=True, kw_only=True):
    """Which scores the run smooths, chosen on all its pilots, and what is proved about the logits under them.

    ``candidates[chosen]`` is in use; ``argmax`` (temperature 0) stands for votes. ``lipschitz`` is at least the l2
    Lipschitz constant of the logits, ``logit_error`` at least the l2 error of the logits as run, at any input with
    noise; both are null when one is not proved, ``reason`` says why, and only radii that hold for any scores are used.
    """

    candidates: tuple[ScoreCandidate, ...]
    chosen: int
    lipschitz: float | None
    logit_error: float | None
    reason: str | UnsetType = UNSET


class Tables(Row, frozen=True, kw_only=True):
    """How many draws each pilot asked for, and where the noise came from.

    ``plan[k]`` is the number of estimation draws after k pilot votes for the selected class (null under ``fixed``, and
    with asked radii, which have one table each in ``sequential``).
    ``alpha_charged`` is the part of alpha spent on the rounding of the noise law; bounds run at the rest.
    """

    plan: tuple[int, ...] | None
    plan_sha256: str | None
    noise: str
    noise_law: str
    alpha_charged: float
    sequential: tuple[SequentialTable, ...] | UnsetType = UNSET
    scores: ScoreTable | UnsetType = UNSET
