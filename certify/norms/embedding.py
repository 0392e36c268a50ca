r"""A zero-padded convolution as a part of a circular one, with real arrays on the torus and their Fourier coefficients.

The convolution Z is Q C P: C circular on a torus of ``sides``, P keeps the slots (channel, position) that hold a pixel
of the input, Q those of its outputs (`certify.norms.torus`). A real array x on the torus has the coefficients

    X(w) = prod_d N_d^(-1/2) sum_j x_j e^(i w.j),      (C x)(w) = D(w) X(w)

on the grid of frequencies, half of which suffice since X(-w) is the conjugate of X(w); `weights` counts the others.
Where D is wide, the transposed map is described: D^T, the conjugate waves, and P and Q change places.

*Rounding.* The transform of one axis is a product with a matrix of spectral norm 1, entries of modulus N^(-1/2), each
within 4 u of its own; so its Frobenius error is at most (gamma_(4 (N + 2)) + 4 u) sqrt(N) times the norm of the array,
and the axes add up (`transform_error`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from certify.norms.geometry import Axis, Convolution
from certify.norms.symbol import Grid, Part, Symbol, unit_roots
from certify.norms.vectors import norm_upper
from certify.rounding import U64, add_up, gamma_up, mul_up, sqrt_up


@dataclass(frozen=True, eq=False)
class Embedding:
    """One group's convolution on a torus: ``inside`` ``[n, *sides]`` and ``kept`` ``[rows, *sides]`` are P and Q."""

    symbol: Symbol
    grid: Grid
    inside: Tensor
    kept: Tensor
    transposed: bool

    @cached_property
    def matrices(self) -> Tensor:
        """The float symbol on the frequencies kept, ``[F, rows, n]``, each within ``symbol.error`` of its own."""
        return self.symbol.matrices(self.grid, self.whole)

    @property
    def whole(self) -> Part:
        """All frequencies of the grid."""
        return Part(slice(0, 1), torch.arange(self.grid.size))

    @cached_property
    def weights(self) -> Tensor:
        """How many frequencies of the whole grid each kept one stands for: ``[F]``, 1 or 2."""
        last, halved = self.grid.sides[-1], self.grid.halved
        f = torch.arange(self.grid.counts[-1])
        alone = (2 * f + halved) % last == 0
        return torch.where(alone, 1.0, 2.0).double().expand(self.grid.counts).reshape(-1)

    @cached_property
    def waves(self) -> list[Tensor]:
        """The matrices of the transform, one per axis: ``[counts_d, sides_d]``."""
        found = []
        for side, count in zip(self.grid.sides, self.grid.counts, strict=True):
            turns = (2 * torch.arange(count) + self.grid.halved)[:, None] * torch.arange(side) % (2 * side)
            wave = unit_roots(2 * side)[turns] * (1.0 / math.sqrt(side))
            found.append(wave.conj().resolve_conj() if self.transposed else wave)
        return found

    @cached_property
    def transform_error(self) -> float:
        """At least the norm of the error of a transform, either way, of an array of norm 1."""
        parts = [mul_up(add_up(gamma_up(4 * (n + 2)), 4.0 * U64), sqrt_up(float(n))) for n in self.grid.sides]
        return mul_up(2.1, add_up(*parts) if len(parts) > 1 else parts[0])

    @cached_property
    def norm(self) -> float:
        """At least the Frobenius norm of any matrix of the symbol, stored or exact."""
        sums = self.symbol.kernel.abs().flatten(3).sum(3)
        taps = self.symbol.kernel[0, 0, 0].numel()
        return add_up(mul_up(norm_upper(sums), add_up(1.0, gamma_up(taps + 2))), self.symbol.error)

    @cached_property
    def step_error(self) -> float:
        """At least the norm of the error of `forward` or `backward`, for an array of norm 1."""
        product = add_up(mul_up(gamma_up(4 * (max(self.matrices.shape[1:]) + 2)), self.norm), self.symbol.error)
        return mul_up(1.1, add_up(mul_up(2.0, self.transform_error, self.norm), mul_up(1.5, product)))

    def coefficients(self, x: Tensor) -> Tensor:
        """Return the Fourier coefficients ``[F, channels, k]`` of arrays ``[k, channels, *sides]``."""
        last = self.waves[-1]  # only half of it is kept
        found = torch.complex(torch.matmul(x, last.real.mT), torch.matmul(x, last.imag.mT)).movedim(-1, 2)
        for wave in reversed(self.waves[:-1]):
            found = torch.matmul(found, wave.mT).movedim(-1, 2)
        return found.flatten(2).permute(2, 1, 0).contiguous()

    def arrays(self, coefficients: Tensor) -> Tensor:
        """Return the real arrays ``[k, channels, *sides]`` of Fourier coefficients."""
        weighted = coefficients * self.weights[:, None, None]
        found = weighted.permute(2, 1, 0).reshape(*weighted.shape[:0:-1], *self.grid.counts)
        for wave in self.waves[:-1]:
            found = torch.matmul(found.movedim(2, -1), wave.conj())
        found, last = found.movedim(2, -1), self.waves[-1]
        return torch.matmul(found.real, last.real) + torch.matmul(found.imag, last.imag)

    def forward(self, x: Tensor) -> Tensor:
        """Return Z x for arrays ``[k, n, *sides]`` that vanish outside: within `step_error` of it."""
        return self.arrays(self.matrices @ self.coefficients(x)) * self.kept

    def backward(self, y: Tensor) -> Tensor:
        """Return Z^T y for arrays ``[k, rows, *sides]`` of kept outputs: within `step_error` of it."""
        return self.arrays((self.matrices.mT @ self.coefficients(y).conj()).conj()) * self.inside


def embed(conv: Convolution, symbol: Symbol, grid: Grid) -> Embedding:
    """Return one group's convolution on a torus that holds it (`certify.norms.torus.least_side`)."""
    co, m = symbol.kernel.shape[1:3]
    inputs, outputs = torch.ones((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    for axis, side in zip(conv.axes, grid.sides, strict=True):
        held, kept = _slots(axis, side)
        inputs = inputs[..., None, None] * held
        outputs = outputs[..., None] * kept
    dims = len(conv.axes)
    phases = inputs.permute(*range(0, 2 * dims, 2), *range(1, 2 * dims, 2))
    inside = phases.expand(conv.kernel.shape[2], *phases.shape).reshape(m, *grid.sides)
    kept = outputs.expand(co, *grid.sides)
    wide = co < m
    return Embedding(symbol, grid, *((kept, inside) if wide else (inside, kept)), transposed=wide)


def _slots(axis: Axis, side: int) -> tuple[Tensor, Tensor]:
    """Return which slots ``[stride, side]`` of one axis hold a pixel, and which outputs ``[side]`` are kept.

    An axis of side 1 whose symbol does not depend on it is held whole, which can only raise the norm.
    """
    stride = axis.stride
    held, kept = torch.zeros(stride, side, dtype=torch.float64), torch.ones(side, dtype=torch.float64)
    if side == 1:
        return torch.ones_like(held), kept
    touched = (axis.sources >= 0).any(1).nonzero().flatten()
    first, last = int(touched[0]), int(touched[-1])
    pixels = torch.arange(axis.known_size) + axis.before - stride * first
    held[pixels % stride, torch.div(pixels, stride, rounding_mode="floor") % side] = 1.0
    return held, (torch.arange(side) <= last - first).double()
