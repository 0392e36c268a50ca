r"""The Gram iteration of convolutions: on the symbol of a torus that holds them, at every frequency at once.

A convolution with its padding is (part of) a circular one, whose norm is the largest ||D(w)|| on a grid of frequencies
(`certify.norms.symbol`, `certify.norms.torus`). `embed` says on which grid, and what to multiply with:

- circular padding that keeps the size, or divides it by the stride: the grid of the image; nothing is lost;
- zero padding: the torus of side N >= n + p that holds image and padding; N = n would be too small a value;
- every size, or an image whose grid is too large: a coarse grid, times the factor of (S);
- other paddings: the convolution without padding on the padded image, times the norm of the padding.

Groups are blocks side by side: the largest counts. Strides become channels (polyphase). The symbol is summed directly,
with whole-number phases: kernels larger than the image wrap around as they should, where a transform of the image's
size would cut them.

Reference: arXiv 2305.16173, Theorem 4 (circular); 2402.00240.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Unpack

import torch
from torch import Tensor

from certify.norms.geometry import Axis, Convolution, Geometry, describe
from certify.norms.gram import (
    STEPS,
    GramEstimate,
    at_least_float32,
    gram_bound,
    gram_estimate,
    halved_to_one,
    times_power_of_two,
)
from certify.norms.symbol import Grid, Symbol, unit_roots
from certify.norms.torus import cosine_lower, fits_torus, least_side, symbol_of
from certify.rounding import div_up, mul_up, sqrt_up

MOST_NUMBERS = 2**25  # complex numbers of the symbol on one grid: 256 MiB in float32
DENSITIES = (16, 8, 4)  # grid points per kernel side of (S): factors 1.01, 1.04, 1.17 for two axes


@dataclass(frozen=True, eq=False)
class Embedding:
    """A bound of a convolution: ``factor`` times the largest ||D(w)|| of ``symbol`` on ``grid``.

    ``exact`` says that the convolution is the circular one itself, so that the bound is its norm.
    """

    symbol: Symbol
    grid: Grid
    factor: float
    exact: bool = False

    @property
    def numbers(self) -> int:
        """How many complex numbers the symbol has on the grid, or its phases."""
        shape = self.symbol.kernel.shape
        return self.grid.size * max(math.prod(shape[:3]), math.prod(shape[3:]))


def gram_bound_conv(
    kernel: Tensor, input_size: Sequence[int] | None, *, steps: int = STEPS, **geometry: Unpack[Geometry]
) -> Tensor:
    """Return the largest b_t of a convolution's symbol: a differentiable bound for training, not a certificate.

    In exact arithmetic at least the l2 norm of the convolution with this geometry, padding included.

    Soundness: none in floats. Gates use `certify.norms.enclose_conv`.

    Args:
        kernel: ``[out, in / groups, *taps]``, 1 to 3 tap dimensions; ``[in, out / groups, *taps]`` if transposed.
        input_size: The spatial sizes of the input, or None for every size.
        steps: t of the Gram iteration.
        **geometry: As the arguments of `certify.norms.enclose_conv`.

    Returns:
        A tensor without dimensions, on the device of ``kernel``, differentiable.

    Raises:
        ValueError: If the arguments do not fit together.

    Example:
        >>> kernel = torch.tensor([[[-1.0, 2.0, -1.0]]], requires_grad=True)
        >>> bound = gram_bound_conv(kernel, (5,), padding=1)  # the truth is 2 + sqrt(3) = 3.732
        >>> bound.backward()
        >>> round(bound.item(), 4), kernel.grad.tolist()
        (4.0, [[[-1.0, 1.0, -1.0]]])
    """
    embedding, exponent = _embedded(kernel, input_size, **geometry)
    blocks = gram_bound(symbol_matrices(embedding.symbol, embedding.grid), steps)
    return times_power_of_two(embedding.factor * blocks.amax(), exponent)


def gram_estimate_conv(
    kernel: Tensor, input_size: Sequence[int] | None, *, steps: int = STEPS, **geometry: Unpack[Geometry]
) -> GramEstimate:
    """Return estimates from both sides of a convolution's norm (see `gram_bound_conv`).

    The lower one is 0 unless the padding is circular and keeps the size (or divides it by the stride): a torus holds
    more than a zero-padded convolution.

    Example:
        >>> found = gram_estimate_conv(torch.tensor([[[1.0, -1.0]]]), (8,), padding=[(0, 1)], padding_mode="circular")
        >>> float(found.lower_estimate), float(found.upper_estimate)
        (2.0, 2.0)
    """
    embedding, exponent = _embedded(kernel, input_size, **geometry)
    blocks = gram_estimate(symbol_matrices(embedding.symbol, embedding.grid), steps)
    lower = float(embedding.exact) * blocks.lower_estimate.amax()
    upper = embedding.factor * blocks.upper_estimate.amax()
    return GramEstimate(times_power_of_two(lower, exponent), times_power_of_two(upper, exponent), steps)


def _embedded(
    kernel: Tensor, input_size: Sequence[int] | None, **geometry: Unpack[Geometry]
) -> tuple[Embedding, Tensor]:
    """Return the embedding of the convolution divided by 2^e, and e: sums over taps must not overflow."""
    kernel = at_least_float32(kernel)
    if not kernel.numel():
        raise ValueError(f"expected a kernel with entries, got shape {tuple(kernel.shape)}")
    scaled, exponent = halved_to_one(kernel.reshape(kernel.shape[0], -1))
    return embed(describe(scaled.reshape(kernel.shape), input_size, **geometry)), exponent


def embed(conv: Convolution) -> Embedding:
    """Return the torus that holds a convolution, or the coarse grid of (S) where that is too large or the size unknown.

    Example:
        >>> conv = describe(torch.ones(1, 1, 3, 3), (8, 8), padding=1)
        >>> str(embed(conv).grid), str(embed(describe(conv.kernel[0], None, padding=1)).grid)
        ('9x9', '32x32')
    """
    with torch.device(conv.kernel.device):  # indices of the polyphase kernel go where it is
        symbol = symbol_of(conv)
    keeps_size = conv.mode == "circular" and fits_torus(conv)
    factor = sqrt_up(float(1 if keeps_size else conv.copies))
    free = _size_free(symbol.kernel, factor)
    if not conv.sized:
        return free
    axes = conv.axes if keeps_size or conv.mode == "zeros" else conv.valid().axes
    sides = [axis.known_size // axis.stride if keeps_size else least_side(axis) for axis in axes]
    # a symbol that does not depend on an axis needs one frequency there
    grid = Grid(tuple(1 if k == 1 else side for k, side in zip(symbol.kernel.shape[3:], sides, strict=True)))
    torus = Embedding(symbol, grid, factor, exact=keeps_size and all(map(_is_complete, axes)))
    return torus if torus.numbers <= max(MOST_NUMBERS, free.numbers) else free


def _is_complete(axis: Axis) -> bool:
    return axis.known_outputs * axis.stride == axis.known_size


def _size_free(kernel: Tensor, factor: float) -> Embedding:
    taps = kernel.shape[3:]
    for density in DENSITIES:
        grid = Grid(tuple(max(1, density * (k - 1)) for k in taps))
        cosines = [cosine_lower(k, side) for k, side in zip(taps, grid.sides, strict=True)]
        growth = mul_up(factor, *(div_up(1.0, cosine) for cosine in cosines))
        found = Embedding(Symbol(kernel, (1,) * len(taps)), grid, growth)
        if found.numbers <= MOST_NUMBERS:
            break
    return found


def symbol_matrices(symbol: Symbol, grid: Grid) -> Tensor:
    """Return D(w) for all frequencies and groups, ``[F, G, co, ci]``, in the kernel's precision and on its device.

    `Symbol.matrices` gives the same in parts, in float64 on the CPU.
    """
    flat = symbol.kernel.flatten(3)
    angles = phases(grid, symbol.spacing, tuple(symbol.kernel.shape[3:]))
    parts = [part.to(flat.dtype).to(flat.device) for part in (angles.real, angles.imag)]
    with torch.autocast(flat.device.type, enabled=False):
        return torch.complex(*(torch.einsum("goct,ft->fgoc", flat, part) for part in parts))


@lru_cache(maxsize=16)
def phases(grid: Grid, spacing: tuple[int, ...], taps: tuple[int, ...]) -> Tensor:
    """Return e^(-i a.w) ``[F, taps]`` in complex128: products of correctly rounded roots of unity, one per axis."""
    with torch.inference_mode(False), torch.device("cpu"):  # kept for later calls, whatever their mode and device
        found = torch.ones(grid.size, 1, dtype=torch.complex128)
        frequencies = torch.unravel_index(torch.arange(grid.size), grid.counts)
        for side, step, k, f in zip(grid.sides, spacing, taps, frequencies, strict=True):
            turns = (2 * f + grid.halved)[:, None] * (step * torch.arange(k)) % (2 * side)
            found = (found[:, :, None] * unit_roots(2 * side)[turns].conj()[:, None, :]).flatten(1)
        return found
