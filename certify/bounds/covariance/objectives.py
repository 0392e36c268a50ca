r"""What is minimised over the multipliers: smooth functions of the last register M, and their derivatives G = df/dM.

All of them are logarithms of squares of bounds, and increase with M, so that G is positive semidefinite.

    norm, l2     f = log ||M||_p,  ||M||_p = (sum of lambda^p)^(1/p) over the eigenvalues at all frequencies
                 -> log lmax(M) for p -> infinity;  G = sum over lambda of  lambda^(p-1) / (sum lambda^p)  u u^H
    norm, linf   the same of the diagonal entries (the largest row is the norm from linf to linf)
    pairs        f = mean over i < j of log L_ij^2,  L_ij^2 = M_ii + M_jj - 2 M_ij
    (i, j)       f = log L_ij^2
    i            f = log M_ii

The mean over pairs is smooth, and one feasible choice of multipliers bounds all pairs at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from certify.bounds.covariance.moves import Cotangent

Objective: TypeAlias = Literal["norm", "pairs"] | tuple[int, int] | int
Valued: TypeAlias = tuple[float, Cotangent]
Function: TypeAlias = Callable[[Tensor, Tensor], Valued]

NEGLIGIBLE = 1e-9  # eigenvalues of G below this share of the largest are dropped
FLOOR = 1e-300


def schatten(M: Tensor, weights: Tensor, power: float) -> Valued:
    """Return log of the Schatten norm of all blocks of M and its derivative.

    Args:
        M: ``[F, n, n]``.
        weights: The share of the spectrum of each block, ``[F]``; their sum is 1.
        power: p; infinite for the largest eigenvalue, where G is a subgradient.
    """
    values, vectors = torch.linalg.eigh(M)
    largest = float(values[:, -1].max())
    if not largest > 0:
        return -math.inf, Cotangent(vectors[:, :, -1:], values.new_zeros(1))
    if math.isinf(power):
        shares = (values == largest).to(values.dtype)
        shares = shares / shares.sum() / weights[:, None]
        value = math.log(largest)
    else:
        ratios = (values / largest).clamp(min=0)
        total = (ratios**power).sum(1) @ weights * (1 / weights.min())
        shares = ratios ** (power - 1) / (total * weights.min()) / largest
        value = math.log(largest) + float(total.log()) / power
        return value, _kept(vectors, shares)
    return value, _kept(vectors, shares / largest)


def _kept(vectors: Tensor, shares: Tensor) -> Cotangent:
    """Return G = sum of shares u u^H without the columns that are negligible at all frequencies."""
    columns = shares.amax(0) > NEGLIGIBLE * shares.max()
    V = vectors[:, :, columns] * shares[:, None, columns].sqrt()
    return Cotangent(V, shares.new_ones(V.shape[2]))


def diagonal(M: Tensor, _weights: Tensor, power: float) -> Valued:
    """Return log of the p-norm of the diagonal of a dense M and its derivative."""
    entries = M[0].diagonal().clamp(min=FLOOR)
    largest = float(entries.max())
    exponent = power if math.isfinite(power) else 1e6
    ratios = (entries / largest) ** exponent
    shares = ratios / ratios.sum() / entries
    value = math.log(largest) + (float(ratios.sum().log()) / power if math.isfinite(power) else 0.0)
    return value, _kept(torch.eye(len(entries), dtype=M.dtype, device=M.device)[None], shares[None])


def pairs(M: Tensor, _weights: Tensor) -> Valued:
    """Return the mean over class pairs of log L_ij^2 and its derivative, the Laplacian of the weights 1 / L_ij^2."""
    squares = pair_squares(M[0])
    count = len(squares)
    different = torch.triu(torch.ones_like(squares, dtype=torch.bool), 1) & (squares > 1e-14 * float(squares.max()))
    number = max(1, int(different.sum()))
    inverse = torch.where(different, 1 / squares, 0.0) / number
    inverse = inverse + inverse.mT
    values, vectors = torch.linalg.eigh(torch.diag(inverse.sum(1)) - inverse)
    value = float(squares[different].log().sum()) / number
    if count < 2:
        return value, Cotangent(vectors[None], values)
    return value, _kept(vectors[None], values.clamp(min=0)[None])


def pair_squares(M: Tensor) -> Tensor:
    """Return L_ij^2 = M_ii + M_jj - 2 M_ij of all pairs, ``[K, K]``."""
    entries = M.diagonal()
    return (entries[:, None] + entries - 2 * M).clamp(min=0)


def row(M: Tensor, direction: Tensor) -> Valued:
    """Return log(c^T M c) and its derivative c c^T / (c^T M c)."""
    square = float(direction @ M[0] @ direction)
    if not square > 0:
        return -math.inf, Cotangent(direction[None, :, None], M.new_zeros(1))
    return math.log(square), Cotangent(direction[None, :, None] / math.sqrt(square), M.new_ones(1))
