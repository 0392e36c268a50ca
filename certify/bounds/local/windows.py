r"""A convolution with zero padding as data: its weights, and which input entry each window reads.

Layout: images ``[channels, *spatial]`` are flattened row by row. With K = the number of kernel positions, window p of
the output reads, in each input channel, the K entries ``positions[p]`` (-1: padding, a zero). Entry (c, p) of the
output is sum over the channels i of the group of c, and over k, of weight[c, i, k] x[i, positions[p, k]]: every entry
of the dense matrix is 0 or a *copy* of a stored weight, since a window never reads the same entry twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from certify.norms import enclose_conv, enclose_conv_l1, enclose_conv_linf
from certify.results import Bracket, Norm

_ENCLOSED = {"l1": enclose_conv_l1, "l2": enclose_conv, "linf": enclose_conv_linf}
_CONV = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
AT_ONCE = 32  # rows that are carried back together: more do not fit caches
FEW_CHANNELS = 4


@dataclass(frozen=True, eq=False)
class Window:
    """A convolution from images of ``channels`` channels of sizes ``sizes``; ``padding`` is zeros (before, after).

    Example:
        >>> window = Window(torch.ones(1, 1, 2), (3,), (1,), ((0, 0),), (1,), 1)
        >>> window.positions.tolist(), window.matrix().tolist()
        ([[0, 1], [1, 2]], [[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    """

    weight: Tensor
    sizes: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def channels(self) -> int:
        """The number of input channels."""
        return int(self.weight.shape[1]) * self.groups

    @property
    def kernel(self) -> tuple[int, ...]:
        """The kernel's size per spatial dimension."""
        return tuple(self.weight.shape[2:])

    @cached_property
    def outputs(self) -> tuple[int, ...]:
        """The spatial sizes of the output."""
        shape = zip(self.sizes, self.padding, self.dilation, self.kernel, self.stride, strict=True)
        return tuple((n + sum(pad) - d * (k - 1) - 1) // s + 1 for n, pad, d, k, s in shape)

    @property
    def rows(self) -> int:
        """The number of output entries."""
        return int(self.weight.shape[0]) * math.prod(self.outputs)

    @property
    def columns(self) -> int:
        """The number of input entries."""
        return self.channels * math.prod(self.sizes)

    @cached_property
    def positions(self) -> Tensor:
        """The entry of each input channel that window p reads at kernel position k, -1 for padding; ``[P, K]``."""
        return flat_positions(self.coordinates(), self.sizes)

    def coordinates(self) -> list[Tensor]:
        """Return, per dimension, the coordinate each output coordinate reads at each kernel coordinate, ``[o, k]``."""
        found = []
        for n, k, s, d, (before, _) in zip(
            self.outputs, self.kernel, self.stride, self.dilation, self.padding, strict=True
        ):
            found.append(torch.arange(n)[:, None] * s + torch.arange(k)[None, :] * d - before)
        return found

    def scaled(self, rows: Tensor | None, columns: Tensor | None) -> Window:
        """Return diag(rows) W diag(columns) for scales per output and input channel; each entry is rounded once each.

        Args:
            rows: Scale per output channel, or None.
            columns: Scale per input channel, or None.
        """
        weight = self.weight
        ones = [1] * len(self.sizes)
        if columns is not None:
            blocks = weight.reshape(self.groups, -1, *weight.shape[1:])
            weight = (blocks * columns.reshape(self.groups, 1, -1, *ones)).reshape(weight.shape)
        if rows is not None:
            weight = weight * rows.reshape(-1, 1, *ones)
        return replace(self, weight=weight)

    def matrix(self) -> Tensor:
        """Return the dense matrix ``[rows, columns]``, in the dtype of the weights."""
        return self.scatter(torch.arange(self.columns), self.columns)

    def scatter(self, index: Tensor, columns: int) -> Tensor:
        """Return the dense matrix on another vector of which input entry i is entry ``index[i]`` (-1: a zero).

        Args:
            index: Positions ``[self.columns]`` in the other vector, all different except for -1.
            columns: The size of the other vector.
        """
        c_out, per_group = self.weight.shape[:2]
        P, K = self.positions.shape
        at = index.reshape(self.channels, -1)[:, self.positions.clamp(min=0)]  # [channels, P, K]
        at = torch.where((self.positions >= 0) & (at >= 0), at, columns)  # what is nowhere goes to a column of its own
        at = at.reshape(self.groups, 1, per_group, P, K).transpose(2, 3).reshape(self.groups, 1, P, per_group * K)
        values = self.weight.reshape(self.groups, c_out // self.groups, 1, per_group * K)
        found = self.weight.new_zeros(self.groups, c_out // self.groups, P, columns + 1)
        shape = (self.groups, c_out // self.groups, P, per_group * K)
        found.scatter_(3, at.expand(shape), values.expand(shape))
        return found[..., :columns].reshape(self.rows, columns)

    def forward(self, x: Tensor) -> Tensor:
        """Return W x for vectors x ``[B, columns]``."""
        images = F.pad(x.reshape(-1, self.channels, *self.sizes), self._pads())
        convolve = _CONV[len(self.sizes) - 1]
        return convolve(images, self._weight(x), None, self.stride, 0, self.dilation, self.groups).flatten(1)

    def backward(self, rows: Tensor) -> Tensor:
        """Return A W for rows A ``[R, rows]``."""
        images = rows.reshape(-1, self.weight.shape[0], *self.outputs)
        return torch.cat([self._spread(part) for part in torch.split(images, AT_ONCE)])

    def _spread(self, images: Tensor) -> Tensor:
        """Return A W for a few rows, given as images of the output."""
        if len(self.sizes) == 2 and self.groups == 1 and self.channels <= FEW_CHANNELS:
            found = self._fold(images)
        else:
            spread = _TRANSPOSED[len(self.sizes) - 1]
            found = spread(images, self._weight(images), None, self.stride, 0, 0, self.groups, self.dilation)
        short = [
            (-before, n + before - have)
            for n, (before, _), have in zip(self.sizes, self.padding, found.shape[2:], strict=True)
        ]
        return F.pad(found, [size for pair in reversed(short) for size in pair]).flatten(1)

    def _fold(self, images: Tensor) -> Tensor:
        """Return the transposed convolution as a product and a sum of windows: faster into few channels."""
        shape = zip(self.outputs, self.stride, self.dilation, self.kernel, strict=True)
        sizes = tuple((n - 1) * s + d * (k - 1) + 1 for n, s, d, k in shape)
        parts = self._weight(images).flatten(1).mT @ images.flatten(2)
        return F.fold(parts, sizes, self.kernel, self.dilation, 0, self.stride)

    def absolute(self) -> Window:
        """Return the convolution with the absolute values of the weights."""
        return replace(self, weight=self.weight.abs())

    @property
    def terms(self) -> int:
        """At least the number of terms of an inner product of a row or a column of the matrix."""
        return self.weight.numel() // min(self.weight.shape[:2])

    def row_sums(self, norm: Norm) -> Tensor:
        """Return the sums of the squares (l2) or of the sizes (linf) of every row, as computed ``[rows]``."""
        sizes = self.weight.square() if norm == "l2" else self.weight.abs()
        return (sizes.sum(1).flatten(1) @ (self.positions >= 0).to(sizes.dtype).mT).flatten()

    def norm_upper(self, norm: str) -> float:
        """Return at least the norm of the matrix, l1, l2 or linf."""
        found: Bracket = _ENCLOSED[norm](
            self.weight,
            self.sizes,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        return found.upper

    def _pads(self) -> list[int]:
        return [size for pair in reversed(self.padding) for size in pair]

    def _weight(self, like: Tensor) -> Tensor:
        return self.weight if like.dtype == self.weight.dtype else self._single

    @cached_property
    def _single(self) -> Tensor:
        return self.weight.to(torch.float32)


def flat_positions(coordinates: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Return the flat index of every combination of coordinates ``[o, k]`` per dimension, -1 outside; ``[P, K]``.

    Example:
        >>> flat_positions([torch.tensor([[0, 1]]), torch.tensor([[2, 3]])], (2, 3)).tolist()
        [[2, -1, 5, -1]]
    """
    rank = len(sizes)
    flat, inside = torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.bool)
    for dim, (coordinate, size) in enumerate(zip(coordinates, sizes, strict=True)):
        shape = [1] * (2 * rank)
        shape[dim], shape[rank + dim] = coordinate.shape
        placed = coordinate.reshape(shape)
        flat = flat * size + placed
        inside = inside & (placed >= 0) & (placed < size)
    windows = math.prod(coordinate.shape[0] for coordinate in coordinates)
    return torch.where(inside, flat, -1).reshape(windows, -1)
