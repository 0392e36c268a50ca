r"""Linear maps in the covariance recursion, with every rounding error carried upward; the primitives in one place.

Matrices are batches ``[F, n, n]``, exactly Hermitian as stored, float64 or complex128, and positive semidefinite (each
bounds some dv dv^T). A stored result dominates, in the Loewner order, the exact result for the *stored* arguments. What
cannot be proved, or is not finite, is refused: None, infinity, 0. Notation and lemma: `domination`. Activations are in
`elimination`, positive definiteness and eigenvalues in `definite`.

*Linear map.* For T = fl(G P), Y = fl(T G^*), |exact G - G| <= E entry by entry and k = k(n):

    |sym fl(Y) - G P G^*| <= gamma_(2k+1) |G| |P| |G|^T,   (1 + gamma_k)^2 (1 + u) - 1 <= gamma_(2k+1),

the last factor being the rounding of the symmetrisation, and the exact map differs from G P G^* by at most

    E |P| |G|^T + |G| |P| E^T + E |P| E^T.

Both become diagonals by the lemma. The error is never scaled by a computed trace: for W_1 = [1; 1 + 2^-52] and W_2 =
2^53 [1, -1] the computed W_2 W_1 W_1^T W_2^T may be 0, while the exact one is 4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from certify.bounds.covariance.definite import equilibrate, lmax_upper, positive_lower, relative_lower, root_lmax_upper
from certify.bounds.covariance.domination import (
    SLACK,
    TINY,
    add_to_diagonal,
    inner_order,
    magnitude,
    row_scales,
    symmetrise,
    total,
)
from certify.bounds.covariance.elimination import Slopes, activate_upper, mask_upper, residual_terms, slack_lower
from certify.bounds.magnitudes import nextafter_up
from certify.rounding import add_up, gamma_up, mul_up

__all__ = [
    "Slopes",
    "activate_upper",
    "equilibrate",
    "linear_upper",
    "lmax_upper",
    "mask_upper",
    "positive_lower",
    "quadratic_upper",
    "relative_lower",
    "residual_terms",
    "root_lmax_upper",
    "slack_lower",
    "total",
]
NOTHING = torch.zeros(0, dtype=torch.int64)


class LinearTerms(NamedTuple):
    """What a stored G P G^* lacks, as diagonals ``[F, m]``; one source of error each."""

    rounding: Tensor
    uncertainty: Tensor
    underflow: Tensor


def linear_upper(P: Tensor, G: Tensor, error: Tensor | None = None, keep: Tensor = NOTHING) -> Tensor:
    """Return a stored M >= A P A^* for all A = [I_keep; G + E] with |E| <= ``error`` entry by entry.

    Args:
        P: ``[F, n, n]``, Hermitian.
        G: ``[F or 1, m, n]``, of the dtype of ``P``.
        error: ``[m, n]`` or of the shape of ``G``, real; None where G is exact.
        keep: Indices of the rows of P that stand first in the result, unchanged.

    Returns:
        ``[F, len(keep) + m, len(keep) + m]``; not finite where a number overflowed.

    Example:
        >>> P, G = torch.eye(2, dtype=torch.float64)[None], torch.tensor([[[3.0, 4.0]]], dtype=torch.float64)
        >>> 25.0 <= float(linear_upper(P, G)) <= 25.0 * (1 + 1e-13)
        True
    """
    kept, product = len(keep), times(G, P)
    M = P.new_empty(len(P), kept + G.shape[1], kept + G.shape[1])
    M[:, kept:, kept:] = symmetrise(product @ G.mH)
    M[:, kept:, :kept] = product[:, :, keep]
    M[:, :kept, kept:] = M[:, kept:, :kept].mH
    M[:, :kept, :kept] = P[:, keep[:, None], keep]
    roundings = 2 * inner_order(P, G.shape[2]) + 1
    return add_to_diagonal(M, total(linear_terms(P, G, error, keep, roundings=roundings)))


def linear_terms(P: Tensor, G: Tensor, error: Tensor | None, keep: Tensor, *, roundings: int) -> LinearTerms:
    """Return the error terms of a stored [I_keep; G] P [I_keep; G]^*, by products with vectors.

    ``roundings`` are those on the longest path to an entry outside the kept block.
    """
    kept, (m, n) = len(keep), G.shape[1:]
    G_abs, P_abs = magnitude(G), magnitude(P)
    E = torch.zeros(1, m, n, dtype=torch.float64) if error is None else error
    sizes = P_abs.diagonal(dim1=1, dim2=2).sqrt()
    scales = row_scales(torch.cat([sizes[:, keep], (G_abs.square() @ sizes.square()[..., None])[..., 0].sqrt()], 1))
    inverse = 1.0 / scales
    moved = _times(G_abs.mT, inverse[:, kept:])
    strayed = _times(E.mT, inverse[:, kept:])
    everything = moved.index_add(1, keep, inverse[:, :kept])
    moved, everything, strayed = (P_abs @ torch.stack([moved, everything, strayed], 2)).unbind(2)
    rounding = torch.cat([moved[:, keep], _times(G_abs, everything)], 1)
    uncertainty = torch.cat([strayed[:, keep], _times(E, everything + strayed) + _times(G_abs, strayed)], 1)
    reach = add_up(1.0, _largest(G_abs.sum(2)), _largest(E.sum(-1)))
    underflow = mul_up(16.0 * (n + 1), float(kept + m), TINY, reach, reach, add_up(1.0, _largest(P_abs)))
    return LinearTerms(
        gamma_up(roundings) * rounding * scales, uncertainty * scales, torch.full_like(scales, underflow)
    )


def times(G: Tensor, P: Tensor) -> Tensor:
    """Return fl(G P); for diagonal P, as at the input, by one multiplication per entry."""
    diagonal = P.diagonal(dim1=1, dim2=2)
    if int(torch.count_nonzero(P)) == int(torch.count_nonzero(diagonal)):
        return G * diagonal[:, None]
    return G @ P


def _times(A: Tensor, v: Tensor) -> Tensor:
    """Return A v for matrices ``[F or 1, m, n]`` or ``[m, n]`` and vectors ``[F, n]``."""
    return (A @ v[..., None])[..., 0]


def _largest(values: Tensor) -> float:
    return float(values.max()) if values.numel() else 0.0


def quadratic_upper(P: Tensor, c: Tensor, c_abs: Tensor) -> Tensor:
    """Return at least c^T P c for each exact row c that the stored one rounds, real P.

    The exact row may differ from the stored one by u ``c_abs`` entry by entry, and is at most ``c_abs`` up to a
    rounding of that: for c = fl(w_i - w_j), c_abs = fl(|w_i| + |w_j|). Rounding the row, twice, and the 2 n + 1
    roundings of the products cost at most gamma_(2n+8) c_abs^T |P| c_abs.

    Args:
        P: ``[F, n, n]`` float64.
        c: Rows ``[r, n]`` or ``[F, r, n]``.
        c_abs: Of the shape of ``c``.

    Returns:
        ``[F, r]``, not negative.

    Example:
        >>> P, c = torch.eye(2, dtype=torch.float64)[None], torch.tensor([[3.0, 4.0]], dtype=torch.float64)
        >>> 25.0 <= float(quadratic_upper(P, c, c)) <= 25.0 * (1 + 1e-13)
        True
    """
    n = P.shape[1]
    values = ((c @ P) * c).sum(-1)
    error = SLACK * gamma_up(2 * n + 8) * ((c_abs @ P.abs()) * c_abs).sum(-1)
    reach = add_up(1.0, _largest(c_abs.sum(-1)))
    underflow = mul_up(16.0 * (n + 1), TINY, reach, reach, add_up(1.0, _largest(P.abs())))
    return nextafter_up(nextafter_up(values + nextafter_up(error)) + underflow).clamp_min(0.0)
