r"""What is minimised over the multipliers: smooth functions of the last register M, and their derivatives G = df/dM.

All of them are logarithms of squares of bounds, and increase with M, so that G is positive semidefinite.

    norm, l2     f = min over r of  log r - mu mean log det(I - M / r)   ->  log lmax(M) for mu -> 0
                 (the mean over frequencies, where there are some);  G = mu (r I - M)^{-1} at the best r
    norm, linf   the same of diag(M) (the largest row is the norm from linf to linf)
    pairs        f = mean over i < j of log L_ij^2,  L_ij^2 = M_ii + M_jj - 2 M_ij
    (i, j)       f = log L_ij^2
    i            f = log M_ii

With lmax itself the search stops at the first kink, where two eigenvalues meet. The mean over pairs is smooth, and one
feasible choice of multipliers bounds all pairs at once.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from certify.bounds.covariance.cotangents import Factors

Objective: TypeAlias = Literal["norm", "pairs"] | tuple[int, int] | int
Valued: TypeAlias = tuple[float, Factors]

NEGLIGIBLE = 1e-9  # eigenvalues of G below this share of the largest are dropped
FLOOR = 1e-300
ROUNDS = 60
ENOUGH = 1e-12


def soft_norm(M: Tensor, weights: Tensor, mu: float) -> Valued:
    """Return the smooth form of log lmax over all blocks of M, and its derivative.

    Args:
        M: ``[F, n, n]``.
        weights: The share of the spectrum of each block, ``[F]``; their sum is 1.
        mu: Positive. The value is above log lmax, by about mu log(1 / mu) for each leading eigenvalue.
    """
    values, vectors = torch.linalg.eigh(M)
    value, shares = _soft_largest(values.clamp(min=0), weights[:, None].expand_as(values), mu)
    return value, _kept(vectors, shares)


def soft_diagonal(M: Tensor, _weights: Tensor, mu: float) -> Valued:
    """Return the smooth form of log of the largest diagonal entry of a dense M, and its derivative."""
    entries = M[0].diagonal().clamp(min=0)
    value, shares = _soft_largest(entries[None], torch.ones_like(entries)[None], mu)
    return value, _kept(torch.eye(len(entries), dtype=M.dtype, device=M.device)[None], shares)


def _soft_largest(values: Tensor, counts: Tensor, mu: float) -> tuple[float, Tensor]:
    """Return min over r of log r - mu sum of counts log(1 - value / r), and mu / (r - value).

    With v = value / largest and s = r / largest - 1 the best r solves g(s) = mu sum of counts v / (1 + s - v) = 1. g
    falls and is convex, so that Newton's steps for it rise to the solution from every point to its left; one such is
    s = mu times the count of v = 1. Whatever s > 0 they end at, f there is above log of the largest value.
    """
    largest = float(values.max())
    if not largest > 0:
        return -math.inf, torch.zeros_like(values)
    v = values / largest
    weighted = mu * counts * v
    s = float(weighted[v == 1].sum())
    for _ in range(ROUNDS):
        terms = weighted / (1 + s - v)
        excess = float(terms.sum()) - 1
        s += excess / float((terms / (1 + s - v)).sum())
        if excess < ENOUGH:
            break
    value = math.log(largest * (1 + s)) - mu * float((counts * torch.log1p(-v / (1 + s))).sum())
    return value, mu / (largest * (1 + s - v))


def _kept(vectors: Tensor, shares: Tensor) -> Factors:
    """Return G = sum of shares u u^H without the columns that are negligible at all frequencies."""
    columns = shares.amax(0) >= NEGLIGIBLE * shares.max()
    V = vectors[:, :, columns] * shares[:, None, columns].sqrt()
    return Factors(V, shares.new_ones(V.shape[2]))


def pairs(M: Tensor) -> Valued:
    """Return the mean over class pairs of log L_ij^2 and its derivative, the Laplacian of the weights 1 / L_ij^2."""
    squares = pair_squares(M[0])
    different = torch.triu(torch.ones_like(squares, dtype=torch.bool), 1) & (squares > 1e-14 * float(squares.max()))
    number = max(1, int(different.sum()))
    inverse = torch.where(different, 1 / squares.clamp(min=FLOOR), 0.0) / number
    inverse = inverse + inverse.mT
    values, vectors = torch.linalg.eigh(torch.diag(inverse.sum(1)) - inverse)
    return float(squares[different].log().sum()) / number, _kept(vectors[None], values.clamp(min=0)[None])


def pair_squares(M: Tensor) -> Tensor:
    """Return L_ij^2 = M_ii + M_jj - 2 M_ij of all pairs, ``[K, K]``.

    Example:
        >>> pair_squares(torch.tensor([[2.0, 1.0], [1.0, 3.0]])).tolist()
        [[0.0, 3.0], [3.0, 0.0]]
    """
    entries = M.diagonal()
    return (entries[:, None] + entries - 2 * M).clamp(min=0)


def row(M: Tensor, direction: Tensor) -> Valued:
    """Return log(c^T M c) and its derivative c c^T / (c^T M c)."""
    square = float(direction @ M[0] @ direction)
    if not square > 0:
        return -math.inf, Factors(direction[None, :, None], M.new_zeros(1))
    return math.log(square), Factors(direction[None, :, None] / math.sqrt(square), M.new_ones(1))
