"""Readings: what a block of draws is boiled down to, and how such records combine.

The outputs of the network are read into a *record* of integers per block: votes per class, sums of scores, the outputs
themselves. Everything statistical is made of records, and the store holds nothing else. Three rules keep a run free of
how it was executed:

- a record is a vector of integers, and the records of two parts of one block *add*;
- the records of the blocks of one example and purpose are *merged* into a total, in any order: votes and sums add,
  outputs that are kept stand at the place of their block;
- what is read from an estimation block may depend on the pilot of its example, through the *choice* that stands in the
  request, and on nothing else that was drawn.

A further reading is one class with these methods; `certify.smoothing.tasks` turns its totals into results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from certify.errors import InputError
from certify.smoothing.addresses import BlockRequest, Purpose


@dataclass(frozen=True, eq=False)
class Piece:
    """Consecutive rows of a micro-batch that belong to one block.

    ``rows`` of them are there, from draw ``first`` of the block on; the first ``counted`` of them enter its record.
    """

    request: BlockRequest
    first: int
    rows: int

    @property
    def counted(self) -> int:
        """The rows that count: draws beyond those asked for are evaluated, and left out."""
        return max(0, min(self.rows, self.request.draws - self.first))


class Reading(Protocol):
    """What the outputs of a network are boiled down to."""

    @property
    def name(self) -> str:
        """The name that enters the header of the run, with everything that can change a record."""

    @property
    def classes(self) -> int:
        """The classes of the network, which the header holds; for a network without any, the size of its output."""

    @property
    def aligned(self) -> bool:
        """Whether the last bits of outputs enter a record, which can depend on a row's place in a forward pass.

        Then the rows of a pass divide a block, so that a record is a function of its block, in whatever company.
        """

    def record_size(self, purpose: Purpose) -> int:
        """Return how many integers the record of one block has."""
        ...

    def total_size(self, purpose: Purpose, draws: int) -> int:
        """Return how many integers the total of all blocks of ``draws`` draws has."""
        ...

    def check(self, outputs: object, batch: int) -> Tensor:
        """Return the outputs of one micro-batch, after checking what the network returned.

        Raises:
            InputError: If they are not a tensor of the type and shape that can be read.
        """
        ...

    def records(self, outputs: Tensor, pieces: Sequence[Piece]) -> Tensor:
        """Return the records of the pieces of a micro-batch, one after another, as int64 on the outputs' device.

        Args:
            outputs: Checked outputs ``[B, ...]``; the rows of the pieces come first, in their order, then padding.
            pieces: Whose rows these are.
        """
        ...

    def merge(self, total: NDArray[np.int64], block: int, record: Sequence[int]) -> None:
        """Put the record of one block into the total of its purpose, which was all zeros at first."""
        ...

    def refuse(self, record: Sequence[int], purpose: Purpose, draws: int) -> str:
        """Return what is wrong with a stored record, as "expected ..., got ..."; an empty text when nothing is."""
        ...

    def agree(self, first: Tensor, second: Tensor) -> bool:
        """Return whether the outputs of equal inputs read the same; see `certify.smoothing.function_check`."""
        ...


def check_floats(outputs: object, shape: tuple[int, ...], meaning: str, remedy: str) -> Tensor:
    """Return the outputs of a micro-batch, which must be one floating-point tensor of this shape.

    Args:
        outputs: What the network returned.
        shape: The shape it must have.
        meaning: The shape in words.
        remedy: What to do when the network has another.

    Raises:
        InputError: If they are anything else.
    """
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        got = outputs.dtype if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InputError(f"expected the network to return one tensor of floating-point logits, got {got}")
    if tuple(outputs.shape) != shape:
        raise InputError(f"expected logits of shape {shape} ({meaning}), got {tuple(outputs.shape)}; {remedy}")
    return outputs


def add_record(total: NDArray[np.int64], record: Sequence[int]) -> None:
    """Add a record to a total of the same size: the way votes and sums merge."""
    total += np.asarray(record, dtype=np.int64)
