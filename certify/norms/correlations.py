r"""The Gram matrices of a symbol on many frequencies, from the correlations of its kernel.

With taps K_a, ``[co, ci]``, and the symbol D(w) = sum over a of K_a e^(-i a.w),

    H(w) = D(w)^* D(w) = sum over shifts d of C_d e^(-i d.w),     C_d = sum over a of K_a^T K_{a+d} = C_{-d}^T,

so a frequency costs no product of matrices, only one weighted sum of the C_d: with P = C_d + C_d^T, M = C_d - C_d^T and
d over half of the shifts,  Re H = C_0 + sum cos(d.w) P_d,  Im H = - sum sin(d.w) M_d.

Error. All terms of an entry of H, over all pairs of taps, are at most S^T S with S = sum over a of |K_a|, entrywise.
An entry of C_d is a sum of co * taps products, Re H and Im H sums over the shifts of products with a cosine or sine
that errs by at most 8 u per axis. So each part errs by at most (gamma_p + 8 dims u) S^T S, p = co + taps + shifts + 8,
the two together by 1.5 times that, and || S^T S ||_2 <= || S^T (S 1) ||_inf.

Where ci > co the channels change places: D^T has the norm of D.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.norms.cholesky import Grams
from certify.norms.scaling import UNDERFLOW
from certify.rounding import U64, add_up, gamma_up, mul_up

SPREAD = 8.0  # a product of up to three correctly rounded roots of unity errs by less than this many u per axis


@dataclass(frozen=True, eq=False)
class Correlations:
    """``even`` holds C_0 and P_d ``[G, 1 + shifts, n, n]``, ``odd`` M_d; ``error`` bounds the error of any H."""

    shifts: Tensor
    even: Tensor
    odd: Tensor
    error: float

    def grams(self, groups: slice, phases: Tensor) -> Grams:
        """Return H for groups and frequencies, ``[F * G, n, n]``, given e^(i d.w) as ``phases`` ``[F, shifts]``."""
        n = self.even.shape[2]
        cosines = torch.cat([torch.ones(len(phases), 1, dtype=torch.float64), phases.real], 1)
        real = torch.einsum("fd,gdx->fgx", cosines, self.even[groups].flatten(2))
        imaginary = torch.einsum("fd,gdx->fgx", -phases.imag, self.odd[groups].flatten(2))
        return Grams(torch.complex(real, imaginary).reshape(-1, n, n), self.error)


def correlate(kernel: Tensor) -> Correlations:
    """Return the correlations of a kernel ``[G, co, ci, *taps]``, of its channels' smaller side.

    Example:
        >>> found = correlate(torch.tensor([-1.0, 2.0, -1.0], dtype=torch.float64).reshape(1, 1, 1, 3))
        >>> found.shifts.tolist(), found.even.flatten().tolist()
        ([[1], [2]], [6.0, -8.0, 2.0])
    """
    kernel = kernel.transpose(1, 2) if kernel.shape[1] < kernel.shape[2] else kernel
    groups, n = kernel.shape[0], kernel.shape[2]
    places = list(itertools.product(*(range(side) for side in kernel.shape[3:])))
    taps = kernel.flatten(3).movedim(3, 2).contiguous()  # [G, rows, taps, n]
    half = [d for d in itertools.product(*(range(1 - side, side) for side in kernel.shape[3:])) if d > (0,) * len(d)]
    number = {d: j for j, d in enumerate([(0,) * (kernel.ndim - 3), *half])}
    sums = taps.new_zeros(groups, len(number), n, n)
    for first, place in enumerate(places):
        products = taps[:, :, first].mT @ taps[:, :, first:].flatten(2)
        steps = [tuple(b - a for a, b in zip(place, other, strict=True)) for other in places[first:]]
        sums[:, [number[step] for step in steps]] += products.reshape(groups, n, -1, n).movedim(2, 1)
    moved = sums[:, 1:]
    odd = moved - moved.mT
    moved += moved.mT.clone()
    shifts = torch.tensor(half, dtype=torch.int64).reshape(-1, kernel.ndim - 3)
    return Correlations(shifts, sums, odd, _error(kernel, len(half)))


def _error(kernel: Tensor, shifts: int) -> float:
    _, rows, n, *sides = kernel.shape
    taps = kernel[0, 0, 0].numel()
    S = kernel.abs().flatten(3).sum(3)
    meeting = float(torch.einsum("gon,go->gn", S, S.sum(2)).max())
    meeting = mul_up(meeting, add_up(1.0, gamma_up(rows + n + 2 * taps + 8)))
    factor = add_up(gamma_up(rows + taps + shifts + 8), SPREAD * len(sides) * U64)
    underflow = mul_up(float(n), float(taps**2) * rows + 4.0 * shifts + 4.0, UNDERFLOW)
    return add_up(mul_up(1.5, factor, meeting), mul_up(2.0, underflow))


def operations(kernel: Tensor) -> float:
    """Return about how many operations the correlations of a kernel take; a number moved in memory counts as sixty."""
    groups, co, ci = kernel.shape[:3]
    n, m = min(co, ci), max(co, ci)
    taps = kernel[0, 0, 0].numel()
    return groups * n**2 * taps * (1.1 * m * taps + 60.0)
