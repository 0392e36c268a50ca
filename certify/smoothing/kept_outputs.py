"""The reading of a regression: every output of every draw, kept as the bits of its floating-point number.

A record holds `BLOCK_DRAWS` rows of outputs, draw by draw, zeros beyond the counted ones; records of one block fill
different rows, so they add. Outputs of float64 keep their 64 bits, others those of the float32 that they are exactly.
The order statistics of a run are a function of the store.

Kept are ``draws x outputs`` integers for an example: the memory of a regression grows with the draws, unlike that of
votes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certify.smoothing.addresses import BLOCK_DRAWS, Purpose
from certify.smoothing.readings import Piece, check_floats


@dataclass(frozen=True)
class KeptOutputs:
    """The reading; ``shape`` is that of the outputs of one input, ``dtype`` what the network runs in."""

    shape: tuple[int, ...]
    dtype: str
    aligned: bool = True

    @property
    def name(self) -> str:
        """The name in the header."""
        return f"outputs {'x'.join(map(str, self.shape))} as {'float64' if self.dtype == 'float64' else 'float32'}"

    @property
    def classes(self) -> int:
        """The number of outputs."""
        return math.prod(self.shape)

    def record_size(self, purpose: Purpose) -> int:
        """Return the size of a block of outputs; of a pilot block only the invalid draws are counted."""
        return 1 if purpose == "selection" else BLOCK_DRAWS * self.classes

    def total_size(self, purpose: Purpose, draws: int) -> int:
        """Return the size of the outputs of whole blocks."""
        return 1 if purpose == "selection" else -(-draws // BLOCK_DRAWS) * BLOCK_DRAWS * self.classes

    def check(self, outputs: object, batch: int) -> Tensor:
        """Return the outputs of one micro-batch.

        Raises:
            InputError: If they are not one floating-point tensor of the shape of the run.
        """
        return check_floats(outputs, (batch, *self.shape), "one row of outputs per input", "give the network as traced")

    def records(self, outputs: Tensor, pieces: Sequence[Piece]) -> Tensor:
        """Return, per piece, the bits of its outputs at the places of its draws; of pilots, how many are invalid."""
        rows, found, start = outputs.flatten(1), [torch.zeros(0, dtype=torch.int64, device=outputs.device)], 0
        for piece in pieces:
            own = rows[start : start + piece.counted]
            record = torch.zeros(self.record_size(piece.request.purpose), dtype=torch.int64, device=outputs.device)
            if piece.request.purpose == "selection":
                record += (~torch.isfinite(own)).any(dim=1).sum()
            else:
                first = piece.first * self.classes
                record[first : first + own.numel()] = self._bits(own).flatten()
            found.append(record)
            start += piece.rows
        return torch.cat(found)

    def _bits(self, values: Tensor) -> Tensor:
        if self.dtype == "float64":
            return values.contiguous().view(torch.int64)
        return values.to(torch.float32).contiguous().view(torch.int32).to(torch.int64)

    def merge(self, total: NDArray[np.int64], block: int, record: Sequence[int]) -> None:
        """Put the outputs of one block at its place; invalid pilot draws add."""
        first = 0 if len(record) == 1 else block * len(record)
        total[first : first + len(record)] += np.asarray(record, dtype=np.int64)

    def refuse(self, record: Sequence[int], purpose: Purpose, draws: int) -> str:
        """Return what is wrong with a stored record."""
        if purpose == "selection":
            return "" if 0 <= record[0] <= draws else f"expected at most {draws} invalid draws, got {record[0]}"
        if any(record[draws * self.classes :]):
            return f"expected nothing beyond {draws} draws, got outputs"
        bits = 64 if self.dtype == "float64" else 32
        inside = all(-(2 ** (bits - 1)) <= value < 2 ** (bits - 1) for value in record)
        return "" if inside else f"expected numbers of {bits} bits, got larger ones"

    def agree(self, first: Tensor, second: Tensor) -> bool:
        """Return whether outputs are equal up to what another order of summation explains."""
        scale = max(1.0, float(first.nan_to_num(0.0, 0.0, 0.0).abs().max()))
        room = scale * torch.finfo(first.dtype).eps ** 0.5
        return torch.allclose(first, second, rtol=0.0, atol=room, equal_nan=True)

    def values(self, total: NDArray[np.int64], draws: int) -> NDArray[np.float64]:
        """Return the outputs ``[draws, outputs]`` that a total holds.

        Example:
            >>> reading = KeptOutputs((1,), "float32")
            >>> total = np.zeros(reading.total_size("estimation", 2), dtype=np.int64)
            >>> total[:2] = np.array([1.5, -2.0], dtype=np.float32).view(np.int32)
            >>> reading.values(total, 2).tolist()
            [[1.5], [-2.0]]
        """
        kept = total[: draws * self.classes].reshape(draws, self.classes)
        if self.dtype == "float64":
            return kept.view(np.float64)
        return kept.astype(np.int32).view(np.float32).astype(np.float64)
