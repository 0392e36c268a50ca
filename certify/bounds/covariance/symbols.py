r"""The symbol of a kernel, or of a dense layer, on the torus of a register, with the rounding error of its entries.

A kernel K ``[co, ci / groups, *taps]`` that reads the pixels ``stride j + dilation a - before`` is, on a torus, the map
with symbol ``G(w) = sum over a of K[:, :, a] exp(+i w.(dilation a - before))`` followed by keeping every stride-th
pixel. On a value that already stands on every q-th pixel of the register's torus, reads are q times as far apart: the
same formula with q (dilation a - before), and the strides multiply. The factor exp(-i w.before) is kept: it cancels
in a chain of layers, but not between two branches that are added.

Rounding, as in `certify.norms.symbol`: each root of unity is correctly rounded, a product of d of them errs by less
than 8 d u, and a sum over the taps by gamma_taps, so the entries err by at most
``(1.5 gamma_{taps+1} + 8 d u) sum_a |K[o, c, a]|``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from certify.bounds.covariance.maps import as_entries, enlarge, error_of, row_count
from certify.bounds.covariance.readings import Reading
from certify.bounds.covariance.states import Flat
from certify.bounds.covariance.steps import Sides, frequency_counts
from certify.norms.symbol import unit_roots, unravel
from certify.rounding import U64, gamma_up


def phases(sides: Sides, shifts: Tensor) -> Tensor:
    """Return exp(+i w.x) for every frequency w of a register and every shift x in ``shifts`` ``[S, dims]``: ``[F, S]``.

    Example:
        >>> phases((4,), torch.tensor([[0], [1]])).tolist()
        [[(1+0j), (1+0j)], [(1+0j), 1j], [(1+0j), (-1+0j)]]
    """
    counts = frequency_counts(sides)
    frequencies = unravel(torch.arange(math.prod(counts)), counts)
    found = torch.ones(math.prod(counts), len(shifts), dtype=torch.complex128)
    for dim, (side, frequency) in enumerate(zip(sides, frequencies, strict=True)):
        found = found * unit_roots(side)[frequency[:, None] * shifts[:, dim] % side]
    return found


def phase_error(dims: int) -> float:
    """Return at least the error of a phase of `phases`."""
    return 8.0 * dims * U64


def kernel_symbol(reading: Reading, kernel: Tensor, sides: Sides, spread: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the symbol ``[F, co, ci]`` of a reading on values at every ``spread``-th pixel, and the error.

    The error is ``[co, ci]``. The matrix is block-diagonal when the kernel has groups.
    """
    axes = zip(reading.axes, spread, strict=True)
    positions = [[q * (axis.dilation * a - axis.before) for a in range(axis.taps)] for axis, q in axes]
    factors = phases(sides, torch.tensor(list(itertools.product(*positions))))
    flat = kernel.flatten(2)
    taps = flat.shape[2]
    parts = [torch.einsum("oct,ft->foc", flat, half) for half in (factors.real, factors.imag)]
    relative = 1.5 * gamma_up(taps + 1) + phase_error(len(sides)) + 2.0 * reading.relative
    error = enlarge(relative * flat.abs().sum(2), taps)
    blocks = torch.complex(parts[0], parts[1])
    return block_diagonal(blocks, reading.groups), block_diagonal(error[None], reading.groups)[0]


def block_diagonal(rows: Tensor, groups: int) -> Tensor:
    """Return ``[F, co, ci]`` from the rows ``[F, co, ci / groups]`` of its blocks."""
    if groups == 1:
        return rows
    count, outputs, inputs = rows.shape
    found = rows.new_zeros(count, groups, outputs // groups, groups, inputs)
    chosen = torch.arange(groups)
    found[:, chosen, :, chosen] = rows.reshape(count, groups, outputs // groups, inputs).movedim(1, 0)
    return found.reshape(count, outputs, groups * inputs)


def flat_symbol(flat: Flat, sides: Sides) -> tuple[Tensor, Tensor]:
    r"""Return A(w) = sum_x W[:, :, x] exp(+i w.x) of plain rows of an image ``[F, m, channels]``, and its error.

    With windows, the phases are those of their weighted pixels. With sizes s_p of the windows (1 for a pixel) the
    entries err by (1.5 gamma_{P+1} + 8 d u + the error of the weights) sum_p |W| s_p.
    """
    pixels = itertools.product(*(range(0, q * n, q) for n, q in zip(flat.sizes, flat.view.strides, strict=True)))
    factors = phases(sides, torch.tensor(list(pixels)))
    extent, relative = torch.ones(factors.shape[1], dtype=torch.float64), phase_error(len(sides))
    if flat.windows is not None:
        factors = factors @ flat.windows.T.to(factors.dtype)
        extent = flat.windows.abs().sum(1)
        relative += gamma_up(4 * flat.windows.shape[1] + 8) + 2.0 * flat.relative
    channels, windows = row_count(flat.view.map), factors.shape[1]
    dense = as_entries(flat.map, channels * windows, torch.float64)
    weights, unsure = (part.reshape(-1, channels, windows) for part in (dense.values, error_of(dense)))
    parts = [torch.einsum("mcp,fp->fmc", weights, half) for half in (factors.real, factors.imag)]
    own = (2.0 * relative + 1.5 * gamma_up(windows + 1)) * (weights.abs() * extent).sum(2)
    return torch.complex(parts[0], parts[1]), enlarge(own + 2.0 * (unsure * extent).sum(2), windows)
