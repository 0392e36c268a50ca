r"""The rows of a convolution behind a convolution, carried to the input through one small matrix.

Row (c, p) of the second layer reads the first layer only inside window p, and that patch reads the input only inside a
larger window. Where padding does not cut it off, the map from a patch to its window is the same for every p: one
matrix T from the input window's entries (i, r), r = the offsets that occur, to the patch's entries (j, k), with
T[(j, k), (i, r)] = weight_1[j, i, k'] where k' is the kernel position of the first layer with
r = k dilation_2 stride_1 + k' dilation_1. So for patch rows A ``[P, c, j k]``, A T is the gradient in the input, up to
entries outside the image, which are masked: instead of ``[rows, pixels]`` only ``[rows, window]`` is computed.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from certify.bounds.local.windows import Window, flat_positions


@dataclass(frozen=True, eq=False)
class Patches:
    """Two convolutions without groups in a row; ``first`` reads the input, ``second`` reads what ``first`` writes.

    Example:
        >>> first = Window(torch.ones(1, 1, 2), (4,), (1,), ((0, 0),), (1,), 1)
        >>> second = Window(torch.ones(1, 1, 2), (3,), (1,), ((0, 0),), (1,), 1)
        >>> Patches(first, second).transfer.tolist()
        [[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]
    """

    first: Window
    second: Window

    @cached_property
    def offsets(self) -> list[list[int]]:
        """Per dimension the offsets r from a window's first input coordinate that occur, in order."""
        found = []
        for dim in range(len(self.first.sizes)):
            wide, narrow = self._steps(dim)
            kernels = itertools.product(range(self.second.kernel[dim]), range(self.first.kernel[dim]))
            found.append(sorted({a * wide + b * narrow for a, b in kernels}))
        return found

    def _steps(self, dim: int) -> tuple[int, int]:
        return self.second.dilation[dim] * self.first.stride[dim], self.first.dilation[dim]

    @cached_property
    def transfer(self) -> Tensor:
        """The matrix T ``[c_1 K_2, c_0 R]``; every entry is 0 or a copy of a stored weight."""
        weight = self.first.weight
        rank = len(self.first.sizes)
        found = weight
        for dim in range(rank):  # one dimension at a time: kernel position k' to (k, r)
            wide, narrow = self._steps(dim)
            place = {r: i for i, r in enumerate(self.offsets[dim])}
            spread = found.new_zeros(*found.shape, self.second.kernel[dim], len(place))
            for k, kk in itertools.product(range(self.second.kernel[dim]), range(self.first.kernel[dim])):
                spread.select(2, kk)[..., k, place[k * wide + kk * narrow]] = found.select(2, kk)
            found = spread.sum(2)  # at most one k' for each (k, r): the sum has one term
        order = [0, *range(2, 2 + 2 * rank, 2), 1, *range(3, 3 + 2 * rank, 2)]
        return found.permute(order).reshape(weight.shape[0] * math.prod(self.second.kernel), -1)

    @cached_property
    def inside(self) -> Tensor:
        """Whether entry r of the window of p is inside the image; ``[P_2, R]``."""
        return self.places >= 0

    @cached_property
    def places(self) -> Tensor:
        """Which entry of an input channel entry r of the window of p is, -1 outside the image; ``[P_2, R]``."""
        coordinates = []
        for dim, offsets in enumerate(self.offsets):
            stride, before = self.first.stride[dim], self.first.padding[dim][0]
            start = torch.arange(self.second.outputs[dim]) * self.second.stride[dim] - self.second.padding[dim][0]
            coordinates.append((start * stride - before)[:, None] + torch.tensor(offsets)[None, :])
        return flat_positions(coordinates, self.first.sizes)

    def gather(self, h: Tensor) -> Tensor:
        """Return the patches ``[B, P_2, c_1 K_2]`` of vectors ``[B, m_1]`` of the first layer, 0 on padding."""
        positions = self.second.positions
        images = h.reshape(len(h), self.second.channels, -1)
        found = images[:, :, positions.clamp(min=0)] * (positions >= 0).to(h.dtype)
        return found.permute(0, 2, 1, 3).flatten(2)

    def entries(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows of the second layer as their kernels ``[r, c_1 K_2]``, and which entries of the first these meet.

        Entries are numbered as the first layer's rows; padding has the number after the last.
        """
        windows, inside = len(self.second.positions), self.first.rows
        kernels = self.second.weight.flatten(1)[chosen // windows]
        positions = self.second.positions[chosen % windows][:, None]
        channels = torch.arange(self.second.channels)[:, None] * (inside // self.second.channels)
        return kernels, torch.where(positions >= 0, positions + channels, inside).flatten(1)

    def image(self, values: Tensor, chosen: Tensor) -> Tensor:
        """Return V W_1 ``[r, d]`` for rows V with these values ``[r, c_1 K_2]`` at their `entries`, 0 elsewhere."""
        at = chosen % len(self.second.positions)
        moved = values @ self._transfer(values.dtype)
        channels = torch.arange(self.first.channels)[:, None] * math.prod(self.first.sizes)
        pixels = torch.where(self.inside[at][:, None], self.places[at][:, None] + channels, self.first.columns)
        found = values.new_zeros(len(values), self.first.columns + 1)
        return found.scatter_(1, pixels.flatten(1), moved)[:, :-1]

    def to_input(self, rows: Tensor) -> Tensor:
        """Return A T for patch rows A ``[B, P_2, c_2, c_1 K_2]``, masked; ``[B, P_2, c_2, c_0 R]``."""
        moved = rows @ self._transfer(rows.dtype)
        mask = self.inside.to(rows.dtype).repeat(1, self.first.channels)
        return moved * mask[:, None, :]

    def _transfer(self, dtype: torch.dtype) -> Tensor:
        return self.transfer if dtype == self.transfer.dtype else self._single

    @cached_property
    def _single(self) -> Tensor:
        return self.transfer.to(torch.float32)


def patches_of(first: Window | None, second: Window | None) -> Patches | None:
    """Return the patch form of two layers, or None where it does not apply."""
    if first is None or second is None or first.groups != 1 or second.groups != 1:
        return None
    return Patches(first, second)
