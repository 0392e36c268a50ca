r"""Activations in the covariance recursion, with every rounding error carried upward.

The notation and the first lemma are those of `domination`, the second that of `definite`. M is positive semidefinite
(it bounds some dz dz^T); slopes lie in [b_j - c_j, b_j + c_j]; U are the rows with c_j > 0. For any positive diagonal D
on U with K = D - M_UU > 0,

    P = B (M + M_:U K^-1 M_U:) B + C D C  >=  T M T    for every diagonal T of such slopes.                        (1)

Proof: for v put w = (T - B) v, so |w_j| <= c_j |v_j|, w = 0 off U. Then v^* T M T v = (Bv + w)^* M (Bv + w)
<= (Bv + w)^* M (Bv + w) - w^* D w + v^* C D C v, a concave quadratic in w with maximum v^* P v. []

*K.* The same D serves every matrix of a batch, as it must where these are the frequencies of one block-circulant
matrix, so D cannot be defined by the rounded diagonal of K. Instead that diagonal is rounded down: K >= K' > 0 implies
K^-1 <= K'^-1. K' is scaled by powers of two t_j to a diagonal in [1/4, 1), and proved to be at least kappa I > 0; let
K' and M' = T^-1 M_U: stand for the scaled ones.

*Any* X gives, with R = M' - K' X,

    M'^* K'^-1 M' = M'^* X + X^* R + R^* K'^-1 R.

X is a float solution, S = fl(M'^* X), x_k and r_k at least the norms of the columns of X and R, the latter with
gamma_(k(q)+1) (|| |M'|_:k || + || |K'| || x_k) for the rounding of R, q = |U|. Then, in the sense of the first lemma,

    M'^* K'^-1 M' <= sym(S) + [ gamma_k(q) |M'|^T |X| ] + [ x r^T ] + [ r r^T / kappa ],

and the assembly, four roundings per entry and two spare ones (for those of S, which is taken as |M'|^T |X|), errs by
gamma_6 |B| (|M| + |sym S|) |B|. No error term costs more than products with vectors: the proof takes a second
factorisation and the product K' X beyond the plain formula.

Reference: (1) is the elimination of the LipSDP-Neuron matrix inequality (M. Fazlyab et al., arXiv 1906.04893) by Schur
complements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from certify.bounds.covariance.definite import equilibrate, relative_lower
from certify.bounds.covariance.domination import (
    SLACK,
    TINY,
    add_to_diagonal,
    column_norms,
    dominating,
    finite,
    inner_order,
    magnitude,
    rounding_terms,
    row_scales,
    symmetrise,
    total,
)
from certify.bounds.magnitudes import nextafter_up
from certify.rounding import add_up, gamma_up, mul_up


class ComplementTerms(NamedTuple):
    """What sym(S) lacks of M_:U K^-1 M_U:, as a diagonal ``[F, n]``; one source of error each."""

    product: Tensor
    residual: Tensor
    residual_squared: Tensor
    underflow: Tensor


class ResidualTerms(NamedTuple):
    """The norms of the columns of R ``[F, n]``: of the computed matrix, and of its rounding error."""

    computed: Tensor
    rounding: Tensor
    underflow: Tensor


class AssemblyTerms(NamedTuple):
    """What the rounded B (M + sym S) B lacks, as a diagonal ``[F, n]``."""

    rounding: Tensor
    underflow: Tensor


@dataclass(frozen=True, eq=False)
class Slopes:
    """Centres b and radii c of slope ranges, c rounded up; equal ends are their centre exactly."""

    centre: Tensor
    radius: Tensor

    @classmethod
    def between(cls, lower: Tensor, upper: Tensor) -> Slopes:
        """Return centres and radii with [lower, upper] inside [b - c, b + c]."""
        centre = (lower + upper) * 0.5
        radius = nextafter_up(torch.maximum(upper - centre, centre - lower))
        return cls(centre, torch.where(lower == upper, 0.0, radius))


@dataclass(frozen=True, eq=False)
class Complement:
    """``matrix`` S and ``diagonal`` e with M_:U K^-1 M_U: <= sym(S) + diag(e); diag(``size``) dominates |sym S|."""

    matrix: Tensor
    diagonal: Tensor
    size: Tensor


@dataclass(frozen=True, eq=False)
class Residual:
    """The norms of the columns of R, divided by their scales ``[F, n]``; ``kappa`` <= K', and k(q)."""

    norms: Tensor
    kappa: float
    order: int


def activate_upper(M: Tensor, lower: Tensor, upper: Tensor, D: Tensor) -> Tensor | None:
    """Return a stored P >= T M T for all diagonal T with slopes in [lower, upper]: formula (1), for the multiplier D.

    Args:
        M: ``[F, n, n]``, Hermitian.
        lower: Least slopes ``[n]``, finite.
        upper: Largest slopes ``[n]``, finite.
        D: ``[number of rows with lower < upper]``, any numbers.

    Returns:
        ``[F, n, n]``, or None where D - M is not proved positive definite on these rows, or a number is not finite.

    Example:
        >>> M, one = torch.tensor([[[4.0]]], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        >>> 4.0 <= float(activate_upper(M, 0.0 * one, one, 8.0 * one)) <= 4.0 * (1 + 1e-14)
        True
    """
    if not bool((lower <= upper).all() & (D > 0.0).all()):
        return None
    slopes = Slopes.between(lower, upper)
    rows = torch.nonzero(lower < upper).flatten()
    found = complement_upper(M, rows, D)
    if found is None:
        return None
    P = assemble(M, found, slopes.centre)
    radius = slopes.radius[rows]
    return finite(add_to_diagonal(P, diagonal_terms(radius, D, rows, M.shape[1])))


def diagonal_terms(radius: Tensor, D: Tensor, rows: Tensor, n: int) -> Tensor:
    """Return at least C D C as a diagonal ``[n]``, zero off ``rows``."""
    squared = nextafter_up(nextafter_up(radius * radius) * D)
    return squared.new_zeros(n).index_copy(0, rows, squared)


def mask_upper(M: Tensor, rows: Tensor, D: Tensor) -> Tensor | None:
    """Return a stored P >= T M T, T = 1 off ``rows`` and a common 0 or 1 on them, for a symmetric multiplier D.

    Formula (1) with slopes 1/2 +- 1/2 and a full matrix D: in its proof w = +-v / 2 on the rows, with one sign, so
    that w^* D w = v^* D v / 4 whatever D is. For the frequencies of a block-circulant matrix the sign may differ from
    pixel to pixel, as D is the same for all of them.

    Args:
        M: ``[F, n, n]``, Hermitian.
        rows: Indices of the rows.
        D: ``[len(rows), len(rows)]``, real; its symmetric part is used.

    Returns:
        ``[F, n, n]``, or None where D - M is not proved positive definite on these rows, or a number is not finite.
    """
    D = symmetrise(D[None])[0]
    found = complement_upper(M, rows, D)
    if found is None:
        return None
    centre = torch.ones(M.shape[1], dtype=torch.float64).index_fill(0, rows, 0.5)
    P = assemble(M, found, centre)
    grid = (slice(None), rows[:, None], rows)
    P[grid] = P[grid] + D / 4.0
    return finite(add_to_diagonal(P, _rounded_block(P[grid], rows, M.shape[1])))


def _rounded_block(block: Tensor, rows: Tensor, n: int) -> Tensor:
    """Return the diagonal ``[F, n]`` that dominates one rounding of every entry of a block of rows."""
    terms = rounding_terms(block)
    return terms.new_zeros(len(block), n).index_copy(1, rows, terms)


def complement_upper(M: Tensor, rows: Tensor, D: Tensor) -> Complement | None:
    """Return an upper bound of M_:U K^-1 M_U: for K = D - M_UU, U = ``rows``; None where K > 0 is not proved."""
    if not len(rows):
        nothing = torch.zeros(M.shape[:2], dtype=torch.float64)
        return Complement(torch.zeros_like(M), nothing, nothing)
    equilibrated = equilibrate(slack_lower(M, rows, D))
    if equilibrated is None:
        return None
    K, inverse_scales = equilibrated
    kappa = relative_lower(K)
    factor, info = torch.linalg.cholesky_ex(K)
    if not kappa > 0.0 or bool(info.any()):
        return None
    scaled = M[:, rows] * inverse_scales[:, :, None]
    X = torch.cholesky_solve(scaled, factor)
    absolute = (magnitude(scaled), magnitude(X))
    columns = row_scales(M.diagonal(dim1=1, dim2=2).real.clamp_min(0.0).sqrt())
    residual = total(residual_terms(K, scaled, X, columns, absolute))
    size = size_upper(*absolute, columns)
    terms = complement_terms(*absolute, columns, size, Residual(residual, kappa, inner_order(M, len(rows))))
    return Complement(scaled.mH @ X, total(terms), size)


def slack_lower(M: Tensor, rows: Tensor, D: Tensor) -> Tensor:
    """Return a stored K <= D - M_UU, for D a diagonal ``[q]`` or a symmetric matrix ``[q, q]``."""
    K = -M[:, rows[:, None], rows]
    if D.ndim == 2:
        K = K + D
        return add_to_diagonal(K, -rounding_terms(K), towards=-math.inf)
    return add_to_diagonal(K, D, towards=-math.inf)


def residual_terms(
    K: Tensor, M: Tensor, X: Tensor, columns: Tensor, absolute: tuple[Tensor, Tensor] | None = None
) -> ResidualTerms:
    """Return the norms of the columns of M - K X, each divided by its scale; ``absolute`` are |M| and |X|."""
    M_abs, X_abs = absolute or (magnitude(M), magnitude(X))
    q = K.shape[1]
    R = torch.baddbmm(M, K, X, alpha=-1.0)
    row_sum = magnitude(K).sum(2).amax(1)[:, None]
    spread = column_norms(M_abs) + row_sum * column_norms(X_abs)
    reach = add_up(1.0, float(X_abs.sum(1).max()), float(M_abs.max()))
    underflow = mul_up(8.0 * q, float(q), TINY, reach)
    gamma = gamma_up(inner_order(K, q) + 1)
    return ResidualTerms(column_norms(magnitude(R)) / columns, gamma * spread / columns, underflow / columns)


def size_upper(M_abs: Tensor, X_abs: Tensor, columns: Tensor) -> Tensor:
    """Return the diagonal ``[F, n]`` that dominates the symmetric part of |M|^T |X|."""
    inverse = (1.0 / columns)[:, :, None]
    sums = (M_abs.mT @ (X_abs @ inverse) + X_abs.mT @ (M_abs @ inverse))[..., 0] / 2.0
    size: Tensor = SLACK * sums * columns
    return size


def complement_terms(
    M_abs: Tensor, X_abs: Tensor, columns: Tensor, size: Tensor, residual: Residual
) -> ComplementTerms:
    """Return the error terms of S = fl(M^* X) as an upper bound of M^* K^-1 M."""
    q, n = M_abs.shape[1:]
    x, r = column_norms(X_abs) / columns, residual.norms
    x_total, r_total = x.sum(1, keepdim=True), r.sum(1, keepdim=True)
    first = (x * r_total + r * x_total) / 2.0 * columns * columns
    second = r * r_total / residual.kappa * columns * columns
    reach = mul_up(add_up(1.0, float(M_abs.max())), add_up(1.0, float(X_abs.sum(1).max())))
    underflow = mul_up(16.0 * q, float(n), TINY, reach)
    return ComplementTerms(gamma_up(residual.order) * size, first, second, torch.full_like(columns, underflow))


def assemble(M: Tensor, found: Complement, centre: Tensor) -> Tensor:
    """Return a stored matrix >= B (M + sym(S) + diag(e)) B."""
    P = (M + symmetrise(found.matrix)) * torch.outer(centre, centre)  # one factor, so that P stays Hermitian
    carried = SLACK * centre.square() * found.diagonal
    return add_to_diagonal(P, total([carried, *assembly_terms(M, found.size, centre)]))


def assembly_terms(M: Tensor, size: Tensor, centre: Tensor) -> AssemblyTerms:
    """Return what the four roundings of `assemble` cost, where diag(``size``) dominates |sym S|."""
    largest = add_up(1.0, float(centre.abs().max()) if len(centre) else 0.0)
    underflow = mul_up(16.0 * (len(centre) + 1), TINY, largest, largest)
    rounding = gamma_up(6) * centre.square() * (dominating(magnitude(M)) + size)
    return AssemblyTerms(rounding, torch.full_like(size, underflow))
