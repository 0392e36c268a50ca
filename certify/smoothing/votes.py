"""Votes: one label per output row, and how they are counted.

A *vote* is the index of the largest logit, the lowest one at a tie, and ``classes`` (one more than the last class) for
a row with any logit that is not finite: an *invalid* output. An invalid output counts as a draw, never for the selected
class, and competes as a runner-up. Plain ``argmax`` would do neither: it calls a row of NaN class 0, and leaves open
which of two equal logits wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certify.errors import InputError
from certify.smoothing.addresses import Purpose
from certify.smoothing.base_network import BaseNetwork, base_network, one_core_per_pass
from certify.smoothing.readings import Piece, add_record, check_floats


def row_votes(logits: Tensor) -> Tensor:
    """Return the vote of every row of ``logits`` ``[B, K]``, as int64 ``[B]`` with values 0..K.

    Example:
        >>> row_votes(torch.tensor([[0.0, 2.0, 2.0], [torch.nan, 1.0, 0.0], [-torch.inf, 1.0, 0.0]])).tolist()
        [1, 3, 3]
    """
    classes = logits.shape[1]
    if logits.device.type == "cpu" and bool(torch.isfinite(logits.sum())):
        return logits.argmax(dim=1)  # a finite sum has finite terms; of equal logits argmax takes the first
    largest = logits.amax(dim=1, keepdim=True)
    indices = torch.arange(classes, device=logits.device)
    lowest = torch.where(logits == largest, indices, classes).amin(dim=1)
    return torch.where(torch.isfinite(logits).all(dim=1), lowest, classes)


@dataclass(frozen=True)
class Votes:
    """The reading of a classifier by votes: a record is the votes per class, the last entry those that are invalid."""

    classes: int
    name: str = "votes"
    aligned: bool = False

    def record_size(self, purpose: Purpose) -> int:  # noqa: ARG002 - as in every reading
        """Return the number of classes, and one for invalid outputs."""
        return self.classes + 1

    def total_size(self, purpose: Purpose, draws: int) -> int:  # noqa: ARG002 - as in every reading
        """Return the size of a record: votes add."""
        return self.classes + 1

    def check(self, outputs: object, batch: int) -> Tensor:
        """Return the logits, one row per input and one column per class.

        Raises:
            InputError: If they are anything else.
        """
        return check_logits(outputs, batch, self.classes)

    def records(self, outputs: Tensor, pieces: Sequence[Piece]) -> Tensor:
        """Return the votes per class of each piece; one addition counts all of them."""
        width = self.classes + 1
        slots = torch.from_numpy(row_slots(pieces, len(outputs))).to(outputs.device, non_blocking=True)
        address = slots * width + row_votes(outputs)
        counts = torch.zeros((len(pieces) + 1) * width, dtype=torch.int64, device=outputs.device)
        counts.scatter_add_(0, address, torch.ones_like(address))
        return counts[: len(pieces) * width]

    def merge(self, total: NDArray[np.int64], block: int, record: Sequence[int]) -> None:  # noqa: ARG002 - votes add
        """Add the votes of a block."""
        add_record(total, record)

    def refuse(self, record: Sequence[int], purpose: Purpose, draws: int) -> str:  # noqa: ARG002 - as in every reading
        """Return that the votes of a block are not as many as its draws, or negative; nothing when they are not."""
        if min(record) < 0:
            return f"expected no negative votes, got {min(record)}"
        return "" if sum(record) == draws else f"expected {draws} votes, got {sum(record)}"

    def agree(self, first: Tensor, second: Tensor) -> bool:
        """Return whether all votes are equal."""
        return torch.equal(row_votes(first), row_votes(second))


def check_logits(outputs: object, batch: int, classes: int) -> Tensor:
    """Return outputs that are one floating-point row of logits per input.

    Raises:
        InputError: If they are anything else.
    """
    meaning, remedy = "one row per input, one column per class", "make the class names match the network"
    return check_floats(outputs, (batch, classes), meaning, remedy)


def row_slots(pieces: Sequence[Piece], rows: int) -> NDArray[np.int64]:
    """Return the number of its piece for each row; padding and draws that do not count have the number after the last.

    Example:
        >>> from certify.examples import Example
        >>> from certify.smoothing.addresses import BlockRequest
        >>> image = Example(index=0, id="a", label=0, stored=np.zeros(2, dtype=np.uint8))
        >>> asked = BlockRequest(image, "estimation", 0, draws=3)
        >>> row_slots([Piece(asked, 0, 2), Piece(asked, 2, 2)], 5).tolist()
        [0, 0, 1, 2, 2]
    """
    slots = np.full(rows, len(pieces), dtype=np.int64)
    start = 0
    for slot, piece in enumerate(pieces):
        slots[start : start + piece.counted] = slot
        start += piece.rows
    return slots


@dataclass(frozen=True, eq=False)
class BaseClassifier:
    """A base network with its classes, as a function from inputs to votes."""

    network: BaseNetwork
    classes: int

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        """What the network runs in."""
        return self.network.dtype

    def votes(self, inputs: Tensor) -> Tensor:
        """Return the votes ``[B]`` of inputs ``[B, *input_shape]``, on one core of a CPU as in a run.

        Raises:
            InputError: If the network does not give one floating-point row of ``classes`` logits per input.
        """
        with one_core_per_pass(self.device), self.network.running() as network:
            return row_votes(check_logits(network(inputs), len(inputs), self.classes))


def check_classes(classes: int) -> int:
    """Return the number of classes.

    Raises:
        InputError: If there are fewer than two.
    """
    if not classes >= 2:
        raise InputError(f"expected at least two classes, got {classes}; give a binary network two logits")
    return classes


def base_classifier(
    predict: Callable[[Tensor], Tensor], *, classes: int, device: str | torch.device, dtype: str
) -> BaseClassifier:
    """Return the base classifier of a run, after checking the arithmetic it would run in.

    Raises:
        InputError: If there are fewer than two classes, or the arithmetic is not plain; see `base_network`.
    """
    return BaseClassifier(base_network(predict, device=device, dtype=dtype), check_classes(classes))
