"""The reading of a segmentation: votes for every pixel of the output.

Outputs are logits ``[classes, *pixels]``; a pixel votes for its largest logit, the lowest at a tie, and for ``classes``
(invalid) where any of its logits is not finite. The pilot counts votes per pixel and class; the estimation counts, per
pixel, the draws that agree with the class which the pilot chose: memory does not grow with the draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certify.smoothing.addresses import Purpose
from certify.smoothing.readings import Piece, add_record, check_floats
from certify.smoothing.votes import row_votes


@dataclass(frozen=True)
class PixelVotes:
    """The reading; ``pixels`` is the shape of the output behind the classes, for example height and width."""

    classes: int
    pixels: tuple[int, ...]
    aligned: bool = False

    @property
    def name(self) -> str:
        """The name in the header."""
        return f"votes of {'x'.join(map(str, self.pixels))} pixels"

    @property
    def count(self) -> int:
        """The number of pixels."""
        return math.prod(self.pixels)

    def record_size(self, purpose: Purpose) -> int:
        """Return the size of votes per pixel and class, invalid ones included, or of agreements per pixel."""
        return self.count * (self.classes + 1 if purpose == "selection" else 1)

    def total_size(self, purpose: Purpose, draws: int) -> int:  # noqa: ARG002 - as in every reading
        """Return the size of a record: votes add."""
        return self.record_size(purpose)

    def check(self, outputs: object, batch: int) -> Tensor:
        """Return the logits of one micro-batch.

        Raises:
            InputError: If they are not one floating-point tensor of the shape of the run.
        """
        shape = (batch, self.classes, *self.pixels)
        return check_floats(outputs, shape, "one map of logits per class", "give the network as traced")

    def records(self, outputs: Tensor, pieces: Sequence[Piece]) -> Tensor:
        """Return, per piece, the votes of its pilot draws, or how many of its draws agree with the choice."""
        votes, found, start = self._votes(outputs), [torch.zeros(0, dtype=torch.int64, device=outputs.device)], 0
        for piece in pieces:
            own = votes[start : start + piece.counted]
            if piece.request.purpose == "selection":
                counts = torch.zeros((self.count, self.classes + 1), dtype=torch.int64, device=votes.device)
                found.append(counts.scatter_add_(1, own.T, torch.ones_like(own.T)).flatten())
            else:
                choice = torch.from_numpy(piece.request.choice).to(votes.device, non_blocking=True)
                found.append((own == choice).sum(dim=0))
            start += piece.rows
        return torch.cat(found)

    def _votes(self, outputs: Tensor) -> Tensor:
        """Return the votes ``[B, pixels]`` of logits."""
        logits = outputs.flatten(2).transpose(1, 2)
        return row_votes(logits.reshape(-1, self.classes)).view(len(outputs), self.count)

    def merge(self, total: NDArray[np.int64], block: int, record: Sequence[int]) -> None:  # noqa: ARG002 - votes add
        """Add the votes of one block."""
        add_record(total, record)

    def refuse(self, record: Sequence[int], purpose: Purpose, draws: int) -> str:
        """Return what is wrong with a stored record."""
        votes = np.asarray(record, dtype=np.int64)
        if (votes < 0).any() or (votes > draws).any():
            return f"expected at most {draws} votes for a pixel, got others"
        if purpose == "selection" and (votes.reshape(self.count, -1).sum(axis=1) != draws).any():
            return f"expected {draws} votes for every pixel, got others"
        return ""

    def agree(self, first: Tensor, second: Tensor) -> bool:
        """Return whether the votes of all pixels are equal."""
        return torch.equal(self._votes(first), self._votes(second))
