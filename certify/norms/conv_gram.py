r"""The Gram matrix of a whole convolution, without its matrix.

Let S_d[j, a, x] = 1 where output j reads input x through tap a, in spatial dimension d, and A the matrix of one group.
Then A^T A factorises over the dimensions,

    (A^T A)[(c, x), (c', x')] = sum over a, a' of  Q[c, a, c', a'] prod_d P_d[a_d, a'_d, x_d, x'_d],
    Q = sum_o K[o, c, a] K[o, c', a'],      P_d[a, a', x, x'] = sum_j S_d[j, a, x] S_d[j, a', x'],

and A A^T likewise with sums over c and x. The cost is far below that of the product of the matrices, and a side of 4096
is reached in about a second. Rounding: a path from the weights to an entry passes at most co + sum_d (taps_d^2 + 1)
operations, so the error is at most that gamma times |A|^T |A|, where |A| adds the magnitudes of weights that meet; its
norm is at most ||A||_1 ||A||_inf. Zeros of P add exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from certify.norms.cholesky import Grams
from certify.norms.conv_sums import column_sum_limits, row_sum_limits
from certify.norms.geometry import Axis, Convolution
from certify.norms.scaling import UNDERFLOW
from certify.rounding import gamma_up, mul_up


def sides(conv: Convolution) -> tuple[int, int]:
    """Return the numbers of rows and columns of the matrix of one group."""
    _, co, ci = conv.kernel.shape[:3]
    rows = co * math.prod(axis.known_outputs for axis in conv.axes)
    return rows, ci * math.prod(axis.known_size for axis in conv.axes)


def convolution_gram(conv: Convolution) -> Grams:
    """Return each group's smaller Gram matrix, ``[G, n, n]``: of the inputs ``(c, x)`` or of the outputs ``(o, j)``."""
    rows, columns = sides(conv)
    by_inputs = columns <= rows
    matrices = _contract(_channel_products(conv.kernel, by_inputs), [_meetings(axis, by_inputs) for axis in conv.axes])
    return Grams(matrices, gram_error(conv))


def gram_error(conv: Convolution) -> float:
    """Return at least the norm of the error of the float Gram matrix of each group."""
    rows, columns = sides(conv)
    summed = conv.kernel.shape[1 if columns <= rows else 2]
    order = summed + sum(axis.taps**2 + 2 for axis in conv.axes) + 2
    products = mul_up(row_sum_limits(conv)[1], column_sum_limits(conv)[1])
    underflow = mul_up(float(min(rows, columns)), float(conv.kernel.numel()) ** 2, UNDERFLOW)
    return mul_up(gamma_up(order), products) + underflow


class Columns(NamedTuple):
    """Columns ``first`` to ``stop`` of a banded Gram matrix, whose rows from ``first`` on end before ``last``."""

    first: int
    stop: int
    last: int
    places: tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class BandedGram:
    """The smaller Gram matrix of each group, pixel by pixel, block column by block column.

    The index of channel c at the pixel x is ``flat(x) n + c``, the last axis running fastest.
    """

    conv: Convolution

    @cached_property
    def by_inputs(self) -> bool:
        """Whether the indices are inputs; outputs otherwise."""
        rows, columns = sides(self.conv)
        return columns <= rows

    @property
    def groups(self) -> int:
        """The number of groups."""
        return self.conv.kernel.shape[0]

    @property
    def channels(self) -> int:
        """The number of channels of a pixel."""
        return self.conv.kernel.shape[2 if self.by_inputs else 1]

    @cached_property
    def image(self) -> tuple[int, ...]:
        """The numbers of pixels per axis."""
        return tuple(axis.known_size if self.by_inputs else axis.known_outputs for axis in self.conv.axes)

    @property
    def side(self) -> int:
        """The number of rows of the matrix."""
        return self.channels * math.prod(self.image)

    @cached_property
    def error(self) -> float:
        """At least the norm of the error of each matrix."""
        return gram_error(self.conv)

    @cached_property
    def width(self) -> int:
        """The largest number of rows from the diagonal down, of any column."""
        return max(columns.last - columns.first for columns in self.columns)

    @cached_property
    def columns(self) -> tuple[Columns, ...]:
        """The block columns in order: pixels of one row of the image, as many as make a block of a good size."""
        first, *others = self.image
        rest = self.channels * math.prod(others[1:])
        along = others[0] if others else first
        step = min(along, max(1, round(GOOD_BLOCK / rest)))
        starts = range(0, along, step)
        found = []
        for row in range(first) if others else (0,):
            for start in starts:
                inner = slice(start, min(start + step, along))
                places = (slice(row, row + 1), inner, *(slice(0, side) for side in others[1:])) if others else (inner,)
                offset = row * along * rest if others else 0
                found.append(Columns(offset + start * rest, offset + inner.stop * rest, self._last(row, inner), places))
        return tuple(found)

    def _last(self, row: int, inner: slice) -> int:
        """Return the end of the rows that meet the columns of a slice of one row of the image."""
        reaches = [_meeting_reach(axis, self.by_inputs) for axis in self.conv.axes]
        first, *others = self.image
        stop: int = inner.stop
        if not others:
            return min(first, stop + reaches[0]) * self.channels
        rest = self.channels * math.prod(others[1:])
        if row + reaches[0] >= first:
            return self.side
        return ((row + reaches[0]) * others[0] + min(others[0], stop + reaches[1])) * rest

    def lower(self, columns: Columns) -> Tensor:
        """Return the rows ``first`` to ``last`` of block columns: ``[G, last - first, stop - first]``."""
        per_row = self.channels * math.prod(self.image[1:])
        begin, end = columns.first // per_row, math.ceil(columns.last / per_row)
        first, *others = (
            _meetings(axis, self.by_inputs)[..., place]
            for axis, place in zip(self.conv.axes, columns.places, strict=True)
        )
        block = _by_pixels(_contract_rest(self._contract_first(first[:, :, begin:end]), others))
        return block[:, columns.first - begin * per_row : columns.last - begin * per_row].contiguous()

    def _contract_first(self, meeting: Tensor) -> Tensor:
        """Return the channel products contracted with the taps of the first axis; rows of one kind share the result."""
        key = (meeting.shape, meeting.numpy().tobytes())
        if key not in self._held:
            self._held.clear()
            self._held[key] = _contract_one(self._products, meeting, len(self.image))
        return self._held[key]

    @cached_property
    def _held(self) -> dict[tuple[torch.Size, bytes], Tensor]:
        return {}

    @cached_property
    def _products(self) -> Tensor:
        """The channel products with the taps of both sides first: ``[taps_1, taps_1', .., G, n, n]``."""
        dims = len(self.image)
        products = _channel_products(self.conv.kernel, self.by_inputs)
        taps = [place for d in range(dims) for place in (2 + d, 3 + dims + d)]
        return products.permute(*taps, 0, 1, 2 + dims).contiguous()


def _contract_rest(products: Tensor, meetings: list[Tensor]) -> Tensor:
    for done, meeting in enumerate(meetings):
        products = _contract_one(products, meeting, len(meetings) - done)
    return products


def _contract_one(products: Tensor, meeting: Tensor, left: int) -> Tensor:
    """Contract the first pair of taps of ``[taps, taps', .., G, n, n, ..]``: places ``x, x'`` go to the end."""
    taps = meeting.shape[0] ** 2
    places = meeting.shape[2:]
    image = meeting.reshape(taps, -1).mT @ products.reshape(taps, -1)
    moved = image.reshape(*places, *products.shape[2:]).movedim((0, 1), (-2, -1))
    return moved.contiguous() if left > 1 else moved


def _by_pixels(products: Tensor) -> Tensor:
    """Return ``[G, n, n, x_1, x_1', ..]`` as matrices with indices ``(x.., n)``."""
    rows = [*range(3, products.ndim, 2), 1]
    columns = [*range(4, products.ndim, 2), 2]
    sides = [math.prod(products.shape[place] for place in half) for half in (rows, columns)]
    return products.permute(0, *rows, *columns).reshape(products.shape[0], *sides)


GOOD_BLOCK = 512  # rows of a block column: fewer make slow products, more waste work outside the band


def _channel_products(kernel: Tensor, by_inputs: bool) -> Tensor:
    """Return Q as ``[G, n, taps..., n, taps...]``."""
    groups, co, ci = kernel.shape[:3]
    taps = kernel.shape[3:]
    flat = kernel.reshape(groups, co, -1) if by_inputs else kernel.transpose(1, 2).reshape(groups, ci, -1)
    kept = ci if by_inputs else co
    return (flat.mT @ flat).reshape(groups, kept, *taps, kept, *taps)


@lru_cache(maxsize=4)
def _meetings(axis: Axis, by_inputs: bool) -> Tensor:
    """Return P of one axis: ``[taps, taps, n, n]``."""
    table = axis.sources
    reads = torch.zeros(*table.shape, axis.known_size + 1, dtype=torch.float64)
    reads.scatter_(2, table.where(table >= 0, axis.known_size)[:, :, None], 1.0)
    reads = reads[:, :, : axis.known_size]
    left = reads.permute(1, 2, 0) if by_inputs else reads.permute(1, 0, 2)  # [taps, n, summed]
    return torch.einsum("axj,byj->abxy", left, left)


@lru_cache(maxsize=64)
def _meeting_reach(axis: Axis, by_inputs: bool) -> int:
    """Return how far apart two places of an axis can be that meet."""
    _, _, x, y = _meetings(axis, by_inputs).nonzero(as_tuple=True)
    return int((x - y).abs().max()) if len(x) else 0


def _contract(products: Tensor, meetings: list[Tensor]) -> Tensor:
    dims = len(meetings)
    for done, meeting in enumerate(meetings):
        # [G, n, taps left..., n, taps left..., places done...]: contract the first tap of either side
        second = 2 + (dims - done) + 1
        products = torch.tensordot(products, meeting, dims=([2, second], [0, 1]))
    # [G, n, n, x_1, x_1', ..., x_d, x_d'] -> [G, (n, x...), (n', x'...)]
    first = [1, *(3 + 2 * d for d in range(dims))]
    order = [0, *first, *(place + 1 for place in first)]
    side = math.prod(products.shape[place] for place in first)
    return products.permute(order).reshape(products.shape[0], side, side)
