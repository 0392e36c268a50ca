"""Soft scores: a network's logits mapped onto the simplex, as whole multiples of 2^-30, and how they are summed.

The score of class k is floor(2^30 s_k(tau z)) 2^-30, s softmax or sparsemax, z the logits, computed in float64 from the
distances tau (z_k - max z) to the largest logit: all at most 0, so that nothing overflows. An output that is not finite
gives its whole score to a class of its own, the last one. Scores of one draw add up to at most 1.

A record holds the votes, as for `certify.smoothing.votes`, and after them the sums of the scores and of their squares
(rounded up, `certify.stats.empirical_bernstein`): in the pilot for every candidate, in the estimation for the one that
the run has chosen from all its pilots, and behind them the number of that candidate, once a draw. Blocks merge only
when their numbers are equal, so that sums that were made under another choice than the one in use are recognised, block
by block. Integers: no order of addition can matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certify.errors import SoundnessError
from certify.smoothing.addresses import Purpose
from certify.smoothing.readings import Piece, add_record
from certify.smoothing.votes import Votes, check_logits, row_votes
from certify.stats import ScoreMap
from certify.stats.empirical_bernstein import UNITS

DIGITS = 30  # binary, of a score
OTHER_CHOICE = (
    "expected estimation draws under the candidate that the pilots choose, got others: a pilot was made again in "
    "between; use --restart"
)
BELOW = -2.0  # a logit this far below the largest has no sparsemax score: those that have lie above -1


def _softmax(gaps: Tensor) -> Tensor:
    return torch.softmax(gaps, dim=1)


def _sparsemax(gaps: Tensor) -> Tensor:
    """Return the projections of rows onto the simplex: max(gap - theta, 0) with theta from the largest entries."""
    clipped = gaps.clamp(min=BELOW)
    falling = clipped.sort(dim=1, descending=True).values
    sums = falling.cumsum(dim=1)
    ranks = torch.arange(1, gaps.shape[1] + 1, dtype=gaps.dtype, device=gaps.device)
    support = (1.0 + ranks * falling > sums).sum(dim=1, keepdim=True)
    theta = (sums.gather(1, support - 1) - 1.0) / support
    return (clipped - theta).clamp(min=0.0)


SIMPLEX_MAPS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"softmax": _softmax, "sparsemax": _sparsemax}
)
"""From tau (z - max z) ``[B, K]`` to scores; the keys are those of `certify.stats.MAPS`."""


def row_scores(logits: Tensor, score_map: ScoreMap) -> Tensor:
    """Return the scores of every row of ``logits`` ``[B, K]`` in units of 2^-30, as int64 ``[B, K + 1]``.

    Example:
        >>> logits = torch.tensor([[0.0, 0.5], [torch.nan, 1.0]])
        >>> (row_scores(logits, ScoreMap("sparsemax", 1.0)) / UNITS).tolist()
        [[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]]
    """
    valid = torch.isfinite(logits).all(dim=1, keepdim=True)
    exact = torch.where(valid, logits, 0.0).double()
    gaps = (exact - exact.amax(dim=1, keepdim=True)) * score_map.temperature
    scores = SIMPLEX_MAPS[score_map.simplex](gaps)
    whole = torch.where(valid, (scores * UNITS).floor().clamp(0.0, float(UNITS)).long(), 0)
    return torch.cat([whole, torch.where(valid, 0, UNITS)], dim=1)


def score_sums(scores: Tensor) -> Tensor:
    """Return the sums of scores ``[B, K + 1]`` over their rows, and behind them those of their squares, rounded up."""
    squares = (scores * scores + (UNITS - 1)) >> DIGITS  # at most 2^60 before the shift
    return torch.cat([scores.sum(dim=0), squares.sum(dim=0)])


@dataclass(frozen=True)
class Sums:
    """A total taken apart: votes, and the sums of scores and of squares of one candidate, each ``[K + 1]``."""

    votes: tuple[int, ...]
    scores: tuple[int, ...] = ()
    squares: tuple[int, ...] = ()


@dataclass(frozen=True)
class Scores:
    """The reading of soft scores. ``candidates`` are the maps a run chooses from; ``bound`` names what is known of L.

    The choice of an estimation block is the number of its candidate; votes (the plain network) need no sums.
    """

    classes: int
    candidates: tuple[ScoreMap, ...]
    bound: str = ""
    aligned: bool = True
    _soft: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_soft", tuple(k for k, each in enumerate(self.candidates) if each.soft))

    @property
    def name(self) -> str:
        """The maps with their temperatures, and what is known of the logits: the choice depends on it."""
        maps = ", ".join(f"{each.simplex} {each.temperature!r}" for each in self.candidates)
        return f"scores: {maps}; {self.bound}"

    @property
    def _width(self) -> int:
        return self.classes + 1

    def record_size(self, purpose: Purpose) -> int:
        """Return the size of the votes and of two sums for each candidate that has scores, or for the chosen one."""
        return self._width * (1 + 2 * len(self._soft)) if purpose == "selection" else 3 * self._width + 1

    def total_size(self, purpose: Purpose, draws: int) -> int:  # noqa: ARG002 - as in every reading
        """Return the size of a record: votes and sums add."""
        return self.record_size(purpose)

    def check(self, outputs: object, batch: int) -> Tensor:
        """Return the logits, one row per input and one column per class.

        Raises:
            InputError: If they are anything else.
        """
        return check_logits(outputs, batch, self.classes)

    def records(self, outputs: Tensor, pieces: Sequence[Piece]) -> Tensor:
        """Return votes, sums of scores and sums of squares of each piece."""
        parts, start = [torch.zeros(0, dtype=torch.int64, device=outputs.device)], 0
        for piece in pieces:
            parts.append(self._record(outputs[start : start + piece.counted], piece))
            start += piece.rows
        return torch.cat(parts)

    def _record(self, logits: Tensor, piece: Piece) -> Tensor:
        votes = torch.bincount(row_votes(logits), minlength=self._width)
        chosen = self._soft if piece.request.purpose == "selection" else piece.request.choice[:1].tolist()
        maps = [self.candidates[k] for k in chosen]
        sums = [
            score_sums(row_scores(logits, each)) if each.soft else votes.new_zeros(2 * self._width) for each in maps
        ]
        marks = [] if piece.request.purpose == "selection" else [votes.new_tensor([chosen[0] * len(logits)])]
        return torch.cat([votes, *sums, *marks])

    def merge(self, total: NDArray[np.int64], block: int, record: Sequence[int]) -> None:  # noqa: ARG002 - sums add
        """Add the votes and sums of a block.

        Raises:
            SoundnessError: If it is of the estimation, under another candidate than the blocks before it.
        """
        width = self._width
        if len(record) % width:  # with a number behind the sums; equal to that of the total: as fractions of draws
            before, draws = int(total[-1]), sum(total[:width].tolist())
            if before * sum(record[:width]) != record[-1] * draws:
                raise SoundnessError(OTHER_CHOICE)
        add_record(total, record)

    def refuse(self, record: Sequence[int], purpose: Purpose, draws: int) -> str:
        """Return what no outputs of so many draws can have given."""
        votes = record[: self._width]
        if wrong := Votes(self.classes).refuse(votes, purpose, draws):
            return wrong
        if purpose == "estimation" and record[-1] not in range(0, draws * len(self.candidates), draws):
            return f"expected the number of a candidate {draws} times, got {record[-1]}"
        most, width = draws * UNITS, self._width
        for first in range(width, len(record) - 1, 2 * width):
            scores, squares = record[first : first + width], record[first + width : first + 2 * width]
            if not (min(*scores, *squares) >= 0 and sum(scores) <= most and max(squares) <= most):
                return f"expected scores that add up to at most {draws}, got {scores} and squares {squares} in 2^-30"
        return ""

    def agree(self, first: Tensor, second: Tensor) -> bool:
        """Return whether votes are equal, and logits up to what another order of summation explains."""
        scale = max(1.0, float(first.nan_to_num(0.0, 0.0, 0.0).abs().max()))
        room = scale * torch.finfo(first.dtype).eps ** 0.5
        return torch.equal(row_votes(first), row_votes(second)) and torch.allclose(
            first, second, rtol=0.0, atol=room, equal_nan=True
        )

    def take_apart(self, total: NDArray[np.int64], purpose: Purpose, candidate: int) -> Sums:
        """Return the votes and the sums of one candidate in the total of a purpose.

        Raises:
            SoundnessError: If the estimation was made under another candidate.
        """
        width = self._width
        rows = [tuple(row) for row in total[: len(total) // width * width].reshape(-1, width).tolist()]
        if purpose == "estimation" and int(total[-1]) != candidate * sum(rows[0]):
            raise SoundnessError(OTHER_CHOICE)
        if not self.candidates[candidate].soft:
            return Sums(rows[0])
        place = 1 + 2 * (self._soft.index(candidate) if purpose == "selection" else 0)
        return Sums(rows[0], rows[place], rows[place + 1])
