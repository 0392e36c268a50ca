r"""The symbol of a convolution, on a grid of frequencies, with its rounding error.

For a kernel K ``[G, co, ci, *taps]`` of stride 1 the symbol is ``D(w) = sum over taps a of K[:, :, a] e^(-i a.w)``, one
complex ``co x ci`` matrix per frequency and group. The circular convolution on a torus of sides N_d is block-diagonal
in the Fourier basis with blocks D(2 pi f / N), so its norm is the largest ||D|| on that grid. D(-w) is the complex
conjugate of D(w): half of the grid's last axis is enough, also for the grid moved by half a step, and of that half one
of each two frequencies that are negatives of each other (`Grid.distinct`).

Rounding. Each root of unity is correctly rounded (error at most u), a product of d <= 3 of them errs by less than 8 d
u, and a real sum over the taps by gamma_taps, so the entries err by at most ``(1.5 gamma_taps+1 + 8 d u) sum_a |K[o,
c, a]|`` and the matrices, in norm, by that factor times the Frobenius norm of these sums (`Symbol.error`).

Gram matrices come from the correlations of the kernel where the grid is large (`certify.norms.correlations`), else from
products of the float symbol matrices with the error above added. A bound of one grid costs one Cholesky factorisation
per frequency; the frequencies that decide are guessed from a sample, and the proof finds those it missed.

Strides are removed before: `polyphase` turns a convolution of stride s into one of stride 1 on ci s channels per axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import mpmath
import torch
from torch import Tensor

from certify.norms import correlations
from certify.norms.cholesky import Grams, gram, prove_upper
from certify.norms.correlations import Correlations, correlate
from certify.norms.scaling import UNDERFLOW
from certify.norms.vectors import norm_upper, product_lower
from certify.rounding import U64, add_up, gamma_up, mul_up, sub_down

MOST_HELD = 2**25  # numbers of one set of correlations, of which there are three
# Complex numbers of one part of a grid. Larger arrays are fresh memory each time, which costs more than filling them.
BLOCK_NUMBERS, LEAST_FREQUENCIES = 2**20, 4


@dataclass(frozen=True)
class Grid:
    """The frequencies 2 pi (f + shift) / N per axis: sides N_d, and ``halved`` for a shift of half a step."""

    sides: tuple[int, ...]
    halved: bool = False

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of frequencies kept per axis: all, and half of the last."""
        last = self.sides[-1]
        return (*self.sides[:-1], (last + 1) // 2 if self.halved else last // 2 + 1)

    @property
    def size(self) -> int:
        """The number of frequencies kept."""
        return math.prod(self.counts)

    @cached_property
    def negatives(self) -> Tensor:
        """For each kept frequency the number of its negative where that is kept as well, else its own: ``[size]``."""
        turned = self._negated(unravel(torch.arange(self.size), self.counts))
        return torch.where(turned[-1] < self.counts[-1], ravel(turned, self.counts), torch.arange(self.size))

    @property
    def distinct(self) -> Tensor:
        """The kept frequencies, one of each two that are negatives of each other: those have conjugate symbols.

        Example:
            >>> Grid((4, 4)).size, len(Grid((4, 4)).distinct)
            (12, 10)
        """
        return (torch.arange(self.size) <= self.negatives).nonzero().flatten()

    def _negated(self, frequency: list[Tensor]) -> list[Tensor]:
        return [(-f - int(self.halved)) % side for f, side in zip(frequency, self.sides, strict=True)]

    def turns(self, places: Tensor) -> tuple[float, ...]:
        """Return the first of the frequencies numbered ``places``, as fractions of a turn per axis."""
        frequency = unravel(places[:1], self.counts)
        return tuple((int(f) + self.halved / 2.0) / side for f, side in zip(frequency, self.sides, strict=True))

    def neighbours(self, turns: tuple[float, ...]) -> Tensor:
        """Return the numbers of the `distinct` frequencies around one given in turns."""
        nearest = [round(turn * side - self.halved / 2.0) for turn, side in zip(turns, self.sides, strict=True)]
        offsets = torch.tensor(list(itertools.product((-1, 0, 1), repeat=len(nearest)))).unbind(1)
        around = [(f + more) % side for f, more, side in zip(nearest, offsets, self.sides, strict=True)]
        outside = around[-1] >= self.counts[-1]
        kept = [torch.where(outside, turned, f) for turned, f in zip(self._negated(around), around, strict=True)]
        numbers = ravel(kept, self.counts)
        return torch.tensor(sorted(set(torch.minimum(numbers, self.negatives[numbers]).tolist())))

    def __str__(self) -> str:
        return "x".join(map(str, self.sides)) + (" twisted" if self.halved else "")


class Part(NamedTuple):
    """Some groups and the numbers of some frequencies of a grid; matrices are ordered by frequency, then group."""

    groups: slice
    places: Tensor

    def one(self, index: int) -> Part:
        """Return the part that holds the matrix ``index`` of this one only."""
        place, group = divmod(index, self.groups.stop - self.groups.start)
        first = self.groups.start + group
        return Part(slice(first, first + 1), self.places[place : place + 1])


@dataclass(frozen=True, eq=False)
class Symbol:
    """The symbol of ``kernel`` ``[G, co, ci, *taps]`` (scaled, stride 1), its taps ``spacing`` pixels apart."""

    kernel: Tensor
    spacing: tuple[int, ...]

    @cached_property
    def error(self) -> float:
        """At least the norm of the rounding error of any symbol matrix."""
        sums = self.kernel.abs().flatten(3).sum(3)
        taps = self.kernel[0, 0, 0].numel()
        frobenius = mul_up(norm_upper(sums), add_up(1.0, gamma_up(taps)))
        factor = add_up(mul_up(1.5, gamma_up(taps + 1)), 8.0 * len(self.spacing) * U64)
        return add_up(mul_up(factor, frobenius), mul_up(float(self.kernel.numel()), UNDERFLOW))

    @cached_property
    def correlations(self) -> Correlations:
        """The correlations of the kernel, which serve every grid."""
        return correlate(self.kernel)

    def parts(self, grid: Grid, first: Tensor | None = None) -> Iterator[Part]:
        """Yield the groups and `distinct` frequencies of a grid in small parts, each spread over the whole grid.

        What one part shows of the largest norm then serves the others, and their matrices stay in the cache. The
        frequencies ``first``, if given, make the first part.
        """
        places = grid.distinct
        if first is not None:
            yield Part(slice(0, self.kernel.shape[0]), first)
            places = places[~torch.isin(places, first)]
        groups, co, ci = self.kernel.shape[:3]
        held = co * ci + min(co, ci) ** 2
        most = max(LEAST_FREQUENCIES, BLOCK_NUMBERS // held)
        group_step = min(groups, most)
        count = math.ceil(len(places) / max(1, most // group_step))
        for first_group in range(0, groups, group_step):
            chosen = slice(first_group, min(first_group + group_step, groups))
            for offset in range(count):
                yield Part(chosen, places[offset::count])

    def matrices(self, grid: Grid, part: Part) -> Tensor:
        """Return the symbol matrices of a part, tall: ``[F * G, m, n]`` with n <= m."""
        co, ci = self.kernel.shape[1:3]
        places = torch.arange(self.kernel[0, 0, 0].numel())
        phases = self._phases(grid, part.places, torch.stack(unravel(places, self.kernel.shape[3:]), 1))
        flat = self.kernel[part.groups].flatten(3)
        parts = [torch.einsum("goct,ft->fgoc", flat, half) for half in (phases.real, -phases.imag)]
        found = torch.complex(*parts).reshape(-1, co, ci)
        return found.mT.contiguous() if co < ci else found

    def grams(self, grid: Grid, part: Part) -> Grams:
        """Return the Gram matrices of a part: from the correlations where that is cheaper, else by multiplication."""
        if not self._correlates(grid):
            return gram(self.matrices(grid, part))
        found = self.correlations
        return found.grams(part.groups, self._phases(grid, part.places, found.shifts))

    def _correlates(self, grid: Grid) -> bool:
        if "correlations" in self.__dict__:
            return True
        groups, co, ci = self.kernel.shape[:3]
        shifts = math.prod(2 * taps - 1 for taps in self.kernel.shape[3:]) // 2 + 1
        if min(co, ci) == 1 or groups * shifts * min(co, ci) ** 2 > MOST_HELD:
            return False
        return correlations.operations(self.kernel) < 8.0 * groups * grid.size * max(co, ci) * min(co, ci) ** 2

    def _phases(self, grid: Grid, places: Tensor, shifts: Tensor) -> Tensor:
        """Return e^(i d.w) for the frequencies numbered ``places`` and the shifts ``[S, dims]``: ``[F, S]``."""
        phases = torch.ones(len(places), len(shifts), dtype=torch.complex128)
        frequencies = unravel(places, grid.counts)
        for dim, (side, spacing, f) in enumerate(zip(grid.sides, self.spacing, frequencies, strict=True)):
            turns = (2 * f + grid.halved)[:, None] * (spacing * shifts[:, dim]) % (2 * side)
            phases = phases * unit_roots(2 * side)[turns]
        return phases


def unravel(places: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Return the index per axis of places numbered with the last axis running fastest.

    Example:
        >>> [index.tolist() for index in unravel(torch.arange(4), (2, 2))]
        [[0, 0, 1, 1], [0, 1, 0, 1]]
    """
    indices = []
    for count in reversed(counts):
        indices.append(places % count)
        places = places // count
    return indices[::-1]


def ravel(indices: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """Return the numbers of places given their index per axis: the inverse of `unravel`."""
    number = torch.zeros_like(indices[0])
    for index, count in zip(indices, counts, strict=True):
        number = number * count + index
    return number


@lru_cache(maxsize=64)
def unit_roots(order: int) -> Tensor:
    """Return e^(2 pi i j / order) for j below ``order``, each part correctly rounded to float64.

    Example:
        >>> unit_roots(4).tolist()
        [(1+0j), 1j, (-1+0j), -1j]
    """
    with mpmath.workprec(120):
        turns = [mpmath.mpf(2 * j) / order for j in range(order)]
        return torch.tensor([complex(mpmath.cospi(t), mpmath.sinpi(t)) for t in turns], dtype=torch.complex128)


class Peak(NamedTuple):
    """Where the largest ||D(w)|| seems to be: the group, the frequency in turns per axis, the right singular vector.

    The vector is that of D(w), or of its transpose where that is tall; it is empty where nothing was estimated.
    """

    group: int
    turns: tuple[float, ...]
    vector: Tensor


class GridLimits(NamedTuple):
    """Proved limits of the largest ||D(w)|| on a grid, and the candidate that gave the lower one."""

    lower: float
    upper: float
    peak: Peak


def grid_limits(
    symbol: Symbol, grid: Grid, give_up: float = math.inf, turns: tuple[float, ...] | None = None
) -> GridLimits:
    """Return proved limits of the largest ||D(w)|| on a grid, over all groups; infinity once above ``give_up``.

    Where it is expected to be large, near the frequency ``turns``, is looked at first: little is lost by giving up.
    """
    lower, upper = 0.0, 0.0
    peak = Peak(0, grid.turns(torch.zeros(1, dtype=torch.int64)), torch.zeros(0))
    for part in symbol.parts(grid, None if turns is None else grid.neighbours(turns)):
        proof = prove_upper(symbol.grams(grid, part), upper, give_up)
        upper = proof.upper
        if not upper <= give_up:
            return GridLimits(lower, math.inf, peak)
        if proof.index >= 0:
            one = part.one(proof.index)
            A, v = symbol.matrices(grid, one)[0], proof.vector
            peak = Peak(one.groups.start, grid.turns(one.places), v)
            lower = max(lower, product_lower(A @ v, A.abs() @ v.abs(), v, 4 * A.shape[1]))
    return GridLimits(max(0.0, sub_down(lower, symbol.error)), add_up(upper, symbol.error), peak)


def operations(symbol: Symbol, grid: Grid) -> float:
    """Return about how many operations the bound on a grid takes."""
    groups, co, ci = symbol.kernel.shape[:3]
    n, m = min(co, ci), max(co, ci)
    return float(grid.size) * groups * (8.0 * m * n**2 + 8.0 * n**3 + 4.0 * symbol.kernel[0].numel())


def polyphase(kernel: Tensor, strides: tuple[int, ...], dilations: tuple[int, ...]) -> Tensor:
    r"""Return the stride-1 kernel ``[G, co, ci s_1 s_2.., ceil(reach / s)..]`` of a strided one.

    With the input split into the s phases of its pixels, ``y[o, j] = sum K[o, c, s i + r] x[c, s (j + i) + r]`` is a
    convolution of stride 1 with taps i on the channels (c, r): the same map, up to a permutation of the input and a
    shift of it. Zeros are inserted first for dilations.

    Example:
        >>> polyphase(torch.arange(3.0).reshape(1, 1, 1, 3), (2,), (1,)).flatten(0, 2).tolist()
        [[0.0, 2.0], [1.0, 0.0]]
    """
    for place, (stride, dilation) in enumerate(zip(strides, dilations, strict=True)):
        axis = 3 + place
        taps = kernel.shape[axis]
        reach = dilation * (taps - 1) + 1
        shape = list(kernel.shape)
        shape[axis] = stride * math.ceil(reach / stride)
        spread = kernel.new_zeros(shape).index_copy(axis, dilation * torch.arange(taps), kernel)
        # [..., s i + r, ...] -> channels (c, r), taps i
        split = spread.reshape(*shape[:axis], -1, stride, *shape[axis + 1 :])
        kernel = split.movedim(axis + 1, 3).flatten(2, 3)
    return kernel
