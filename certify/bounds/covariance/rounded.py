r"""The covariance recursion in float64 with every rounding error carried upward.

All matrices are batches ``[F, n, n]`` of Hermitian matrices, float64 or complex128, exactly Hermitian as stored, and
positive semidefinite (each bounds some dv dv^T). "Proved" means: the stored result dominates, in the Loewner order, the
exact result for the *stored* arguments. What cannot be proved, or is not finite, is refused (None, infinity, 0).

*Notation.* u = 2^-53, gamma_k = k u / (1 - k u), |A| entry by entry; for complex entries |z| stands for |Re z| + |Im
z|, which is at least the modulus, is submultiplicative, and cannot underflow. k(n) = n for real and 2 n for complex
entries: a complex inner product of length n is two real ones of length 2 n, so |fl(A B) - A B| <= gamma_k(n) |A| |B|
for both kinds, in any order of summation (Higham, Lemma 3.1), up to underflow.

*Lemma 1 (diagonal domination).* E Hermitian, |E| <= Q entry by entry with Q >= 0, s > 0. Then E <= diag(r) for

    r_j = s_j * sum_k sym(Q)_jk / s_k,    sym(Q) = (Q + Q^T) / 2.

Proof: x^* E x <= sum sym(Q)_jk |x_j| |x_k| <= sum sym(Q)_jk (|x_j|^2 s_j / s_k + |x_k|^2 s_k / s_j) / 2. [] So an error
known entry by entry costs products with one vector. s is the scale of the rows, so that small rows get small errors.

*Lemma 2 (positive definite).* Let A have its diagonal in (0, 1]. If a Cholesky factorisation of fl(A - c I) runs
through and c >= kappa + n gamma / (1 - gamma) + 2 u + underflow with gamma = gamma_(n+6), or gamma_(4(n+6)) when
complex, then A >= kappa I. Proof: the factor reproduces its argument up to gamma |L| |L^*|, whose norm is at most its
trace, at most n / (1 - gamma) (Rump, Theorem 2.3); the subtraction errs by at most u per entry. []

*Linear map* (`linear_upper`). For T = fl(G P), Y = fl(T G^*), |exact G - G| <= E:

    |sym fl(Y) - G P G^*| <= gamma_(2k+1) |G| |P| |G|^T  +  E |P| |G|^T + |G| |P| E^T + E |P| E^T,

(1 + gamma_k)^2 (1 + u) - 1 <= gamma_(2k+1), where the last factor is the rounding of the symmetrisation.

*Activation* (`activate_upper`). With slopes in [b_j - c_j, b_j + c_j], U the rows with c_j > 0, any positive D on U,
and K = D - M_UU > 0,

    P = B (M + M_:U K^-1 M_U:) B + C D C  >=  T M T    for every diagonal T of such slopes.                        (1)

Proof: for v put w = (T - B) v, so |w_j| <= c_j |v_j|, w = 0 off U. Then v^* T M T v = (Bv + w)^* M (Bv + w)
<= (Bv + w)^* M (Bv + w) - w^* D w + v^* C D C v, a concave quadratic in w with maximum v^* P v. [] The same D serves
every matrix of the batch, as it must where these are the frequencies of one block-circulant matrix: so K cannot be
*defined* by its rounded diagonal. Instead the stored diagonal is rounded down: K >= K' > 0 implies K^-1 <= K'^-1.
Rows of K' are scaled by powers of two, t_j^2 about K'_jj, which changes no digit; let M' = T^-1 M_U:, K' have diagonal
in [1/4, 1), and K' >= kappa I by Lemma 2. For *any* X, with R = M' - K' X,

    M'^* K'^-1 M' = M'^* X + X^* R + R^* K'^-1 R.

X is a float solution, S = fl(M'^* X), x_k and r_k at least the norms of the columns of X and R, the latter including
gamma_(k(q)+1) (|| |M'|_:k || + || |K'| || x_k) for its own rounding. Then, all by Lemma 1,

    M'^* K'^-1 M' <= sym(S) + diag of [ gamma_k(q) |M'|^T |X|,  x r^T,  r r^T / kappa ],

and the last assembly, four roundings per entry, errs by gamma_4 |B| (|M| + |sym S|) |B|.

*Underflow*: a product of two floats errs by at most 2^-1022 (1 + |a|) (1 + |b|) beyond its relative error, even where
subnormal numbers are flushed. In the error terms it may be enlarged by the largest ratio of two scales, 2^40. `TINY` =
2^-960 times the number of products, generously counted, covers both.

*Error terms are themselves computed in floating point*, from non-negative numbers without subtraction: `SLACK`, 1 +
2^-20, covers up to 2^32 roundings on any path.

Reference: the bound is the elimination of the LipSDP-Neuron matrix inequality (M. Fazlyab et al., arXiv 1906.04893) by
Schur complements; N. Higham, Accuracy and Stability of Numerical Algorithms (2nd ed.), Sections 3.1 and 3.6;
S. M. Rump, Verification of positive definiteness, BIT 46 (2006), Theorem 2.3.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from certify.bounds.magnitudes import nextafter_up
from certify.norms.cholesky import Grams, prove_upper
from certify.norms.scaling import UNDERFLOW, unscale_up
from certify.rounding import U64, add_up, div_up, down, gamma_up, mul_down, mul_up

SLACK = 1.0 + 2.0**-20
TINY = 2.0**-960
LOST = 2.0**-510  # in a norm, per entry, by squares that underflow
KAPPAS = tuple(2.0**-k for k in (12, 24, 32, 40, 46))  # only the square of a residual is divided by it
LEAST_SCALE = 2.0**-40  # of a row beside the largest one; smaller rows, zero ones included, are weighted like this
BATCH_NUMBERS = 2**24  # numbers factorised at once


class LinearTerms(NamedTuple):
    """What a stored G P G^* lacks, as a diagonal ``[F, m]``; one source of error each."""

    rounding: Tensor
    uncertainty: Tensor
    underflow: Tensor


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


class ShiftTerms(NamedTuple):
    """What the diagonal gives way in Lemma 2, besides kappa."""

    factorisation: float
    subtraction: float
    underflow: float


@dataclass(frozen=True, eq=False)
class Slopes:
    """Centres b and radii c of slope ranges, c rounded up; equal ends are their centre exactly."""

    centre: Tensor
    radius: Tensor

    @classmethod
    def between(cls, lower: Tensor, upper: Tensor) -> Slopes:
        """Return centres and radii with [lower, upper] inside [b - c, b + c]."""
        centre = (lower + upper) / 2.0
        radius = nextafter_up(torch.maximum(upper - centre, centre - lower))
        return cls(centre, torch.where(lower == upper, 0.0, radius))


@dataclass(frozen=True, eq=False)
class Complement:
    """``matrix`` S ``[F, n, n]`` and ``diagonal`` e ``[F, n]`` with M_:U K^-1 M_U: <= sym(S) + diag(e)."""

    matrix: Tensor
    diagonal: Tensor


def linear_upper(P: Tensor, G: Tensor, error: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
    """Return a stored M >= A P A^* for A = [I_keep; G + E], every |E| <= ``error``.

    Args:
        P: ``[F, n, n]``, Hermitian.
        G: ``[F or 1, m, n]``, of the dtype of ``P``.
        error: ``[m, n]`` or of the shape of ``G``, real; None where G is exact.
        keep: Indices of the rows of P that stand first in the result, unchanged.

    Returns:
        ``[F, len(keep) + m, len(keep) + m]``; not finite where a number overflowed.

    Example:
        >>> P, G = torch.eye(2, dtype=torch.float64)[None], torch.tensor([[[3.0, 4.0]]], dtype=torch.float64)
        >>> 25.0 <= float(linear_upper(P, G)) <= 25.0 * (1 + 1e-14)
        True
    """
    keep = torch.zeros(0, dtype=torch.int64) if keep is None else keep
    kept = len(keep)
    product = G @ P
    M = P.new_empty(len(P), kept + G.shape[1], kept + G.shape[1])
    M[:, kept:, kept:] = symmetrise(product @ G.mH)
    M[:, kept:, :kept] = product[:, :, keep]
    M[:, :kept, kept:] = M[:, kept:, :kept].mH
    M[:, :kept, :kept] = P[:, keep[:, None], keep]
    return add_to_diagonal(M, total(linear_terms(P, G, error, keep)))


def linear_terms(P: Tensor, G: Tensor, error: Tensor | None, keep: Tensor) -> LinearTerms:
    """Return the error terms of `linear_upper`, by products with vectors."""
    kept, (m, n) = len(keep), G.shape[1:]
    G_abs, P_abs = magnitude(G), magnitude(P)
    E = torch.zeros(m, n, dtype=torch.float64) if error is None else error
    largest = P_abs.diagonal(dim1=1, dim2=2).sqrt()
    rows = row_scales(torch.cat([largest[:, keep], torch.linalg.vector_norm(G_abs * largest[:, None], dim=2)], 1))
    inverse = 1.0 / rows
    moved = (G_abs.mT @ inverse[:, kept:, None])[..., 0]
    strayed = (E.mT @ inverse[:, kept:, None])[..., 0]
    all_moved = moved.index_add(1, keep, inverse[:, :kept])
    mapped, mapped_all, mapped_stray = (P_abs @ torch.stack([moved, all_moved, strayed], 2)).unbind(2)
    rounding = torch.cat([mapped[:, keep], (G_abs @ mapped_all[..., None])[..., 0]], 1)
    stray_rows = (E @ (mapped_all + mapped_stray)[..., None] + G_abs @ mapped_stray[..., None])[..., 0]
    uncertainty = torch.cat([mapped_stray[:, keep], stray_rows], 1)
    largest_entry = add_up(1.0, float(G_abs.sum(2).max()) if m else 0.0, float(E.sum(-1).max()) if m else 0.0)
    underflow = mul_up(16.0 * (n + 1), float(kept + m), TINY, largest_entry, largest_entry)
    underflow = mul_up(underflow, add_up(1.0, float(P_abs.max()) if P_abs.numel() else 0.0))
    gamma = gamma_up(2 * inner_order(P, n) + 1)
    return LinearTerms(gamma * rounding * rows, uncertainty * rows, torch.full_like(rows, underflow))


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


def rounding_terms(stored: Tensor) -> Tensor:
    """Return the diagonal that dominates an error of u |stored| per entry, and of an underflow."""
    absolute = magnitude(stored)
    scales = row_scales(absolute.diagonal(dim1=1, dim2=2).sqrt())
    sums = (absolute @ (1.0 / scales)[..., None])[..., 0]
    return SLACK * U64 * sums * scales + 4.0 * stored.shape[1] * TINY


def complement_upper(M: Tensor, rows: Tensor, D: Tensor) -> Complement | None:
    """Return an upper bound of M_:U K^-1 M_U: for K = D - M_UU, U = ``rows``; None where K > 0 is not proved."""
    if not len(rows):
        return Complement(torch.zeros_like(M), torch.zeros(M.shape[:2], dtype=torch.float64))
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
    columns = row_scales(M.diagonal(dim1=1, dim2=2).real.clamp_min(0.0).sqrt())
    residual = total(residual_terms(K, scaled, X, columns))
    terms = complement_terms(scaled, X, columns, residual, kappa)
    return Complement(scaled.mH @ X, total(terms))


def slack_lower(M: Tensor, rows: Tensor, D: Tensor) -> Tensor:
    """Return a stored K <= D - M_UU, for D a diagonal ``[q]`` or a symmetric matrix ``[q, q]``."""
    K = -M[:, rows[:, None], rows]
    if D.ndim == 2:
        K = K + D
        return add_to_diagonal(K, -rounding_terms(K), towards=-math.inf)
    return add_to_diagonal(K, D, towards=-math.inf)


def equilibrate(K: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return K scaled by powers of two to a diagonal in [1/4, 1), and the scales 1 / t ``[F, q]``; None if not > 0."""
    diagonal = K.diagonal(dim1=1, dim2=2).real
    if not bool((diagonal > 0.0).all() & torch.isfinite(torch.view_as_real(K) if K.is_complex() else K).all()):
        return None
    mantissas, exponents = torch.frexp(diagonal)
    powers = diagonal / mantissas  # exactly 2^exponent; its root is exact where the exponent is even
    inverse = 1.0 / torch.where(exponents % 2 == 0, powers, 2.0 * powers).sqrt()
    if not bool((torch.frexp(inverse).mantissa == 0.5).all()):
        return None
    return K * inverse[:, :, None] * inverse[:, None, :], inverse


def residual_terms(K: Tensor, M: Tensor, X: Tensor, columns: Tensor) -> ResidualTerms:
    """Return the norms of the columns of M - K X, each divided by its scale."""
    R = torch.baddbmm(M, K, X, alpha=-1.0)
    q = K.shape[1]
    inverse = 1.0 / columns
    row_sum = magnitude(K).sum(2).amax(1)[:, None]
    spread = column_norms(M, inverse) + row_sum * column_norms(X, inverse)
    reach = add_up(1.0, float(magnitude(X).sum(1).max()), float(magnitude(M).max()))
    underflow = mul_up(8.0 * q, float(q), TINY, reach)
    gamma = gamma_up(inner_order(K, q) + 1)
    return ResidualTerms(column_norms(R, inverse), gamma * spread, underflow * inverse)


def complement_terms(M: Tensor, X: Tensor, columns: Tensor, residual: Tensor, kappa: float) -> ComplementTerms:
    """Return the error terms of S = fl(M^* X) as an upper bound of M^* K^-1 M; ``residual`` norms divided by scales."""
    q, n = M.shape[1:]
    inverse = (1.0 / columns)[:, :, None]
    M_abs, X_abs = magnitude(M), magnitude(X)
    sums = (M_abs.mT @ (X_abs @ inverse) + X_abs.mT @ (M_abs @ inverse))[..., 0] / 2.0
    product = gamma_up(inner_order(M, q)) * sums * columns
    x = column_norms(X, inverse[..., 0])
    x_total, r_total = x.sum(1, keepdim=True), residual.sum(1, keepdim=True)
    first = (x * r_total + residual * x_total) / 2.0 * columns * columns
    second = residual * r_total / kappa * columns * columns
    reach = mul_up(add_up(1.0, float(M_abs.max())), add_up(1.0, float(X_abs.sum(1).max())))
    underflow = mul_up(16.0 * q, float(n), TINY, reach)
    return ComplementTerms(product, first, second, torch.full_like(columns, underflow))


def assemble(M: Tensor, found: Complement, centre: Tensor) -> Tensor:
    """Return a stored matrix >= B (M + sym(S) + diag(e)) B."""
    P = (M + symmetrise(found.matrix)) * torch.outer(centre, centre)  # one factor, so that P stays Hermitian
    carried = SLACK * centre.square() * found.diagonal
    return add_to_diagonal(P, carried, total(assembly_terms(M, found.matrix, centre)))


def assembly_terms(M: Tensor, S: Tensor, centre: Tensor) -> AssemblyTerms:
    """Return what the four roundings of `assemble` cost."""
    M_abs, S_abs, B = magnitude(M), magnitude(S), centre.abs()
    diagonals = M_abs.diagonal(dim1=1, dim2=2) + S_abs.diagonal(dim1=1, dim2=2)
    rows = row_scales(diagonals.sqrt())
    weighted = (B / rows)[..., None]
    sums = (M_abs @ weighted + (S_abs @ weighted + S_abs.mT @ weighted) / 2.0)[..., 0]
    largest = add_up(1.0, float(B.max()) if len(B) else 0.0)
    underflow = mul_up(16.0 * (len(B) + 1), TINY, largest, largest)
    return AssemblyTerms(gamma_up(5) * B * sums * rows, torch.full_like(rows, underflow))


def positive_lower(K: Tensor) -> float:
    """Return kappa > 0 with lmin(K) >= kappa for all matrices ``[F, n, n]``, or 0.0 where none is proved.

    A proof of being positive definite, no close bound: often thousands of times below the smallest eigenvalue.

    Example:
        >>> 0.0 < positive_lower(torch.eye(2, dtype=torch.float64)[None]) <= 1.0
        True
        >>> positive_lower(-torch.eye(2, dtype=torch.float64)[None])
        0.0
    """
    equilibrated = equilibrate(K)
    if equilibrated is None:
        return 0.0
    scaled, inverse = equilibrated
    least = 1.0 / float(inverse.max()) if inverse.numel() else 1.0
    return mul_down(mul_down(relative_lower(scaled), least), least)


def relative_lower(K: Tensor) -> float:
    """Return the first of `KAPPAS` with K >= kappa I, for diagonals in (0, 1]; 0.0 where none is proved."""
    return next((kappa for kappa in KAPPAS if is_at_least(K, kappa)), 0.0)


def is_at_least(K: Tensor, kappa: float) -> bool:
    """Return whether K >= kappa I is proved for all of a batch with diagonals in (0, 1], by Lemma 2."""
    shift = add_up(kappa, *shift_terms(K))
    shifted = K.clone()
    diagonal = shifted.diagonal(dim1=1, dim2=2).real - shift
    shifted.diagonal(dim1=1, dim2=2).copy_(diagonal)
    factor, info = torch.linalg.cholesky_ex(shifted)
    pivots = factor.diagonal(dim1=1, dim2=2).real
    return bool((diagonal > 0.0).all() & torch.isfinite(pivots).all() & (pivots > 0.0).all() & (info == 0).all())


def shift_terms(K: Tensor) -> ShiftTerms:
    """Return the terms of the shift of Lemma 2 for matrices with diagonals in (0, 1]."""
    n = K.shape[1]
    gamma = gamma_up(4 * (n + 6) if K.is_complex() else n + 6)
    growth = div_up(gamma, down(1.0 - gamma)) if gamma < 0.5 else math.inf
    return ShiftTerms(mul_up(growth, float(n)), 2.0 * U64, mul_up(32.0 * (n + 1), float(n + 1), UNDERFLOW))


def lmax_upper(M: Tensor) -> float:
    """Return a proved common upper bound of the largest eigenvalues of Hermitian matrices ``[F, n, n]``.

    Example:
        >>> 4.0 <= lmax_upper(torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64))[None]) <= 4.0 * (1 + 1e-13)
        True
    """
    root = root_lmax_upper(M)
    return mul_up(root, root)


def root_lmax_upper(M: Tensor, known: float = 0.0) -> float:
    """Return at least the root of the largest eigenvalue of all M >= 0 ``[F, n, n]``, and at least ``known``.

    The root is what is proved (see `certify.norms.cholesky`), of M divided by a power of four, which is exact but for
    underflow. Infinite when M is not finite.
    """
    parts = torch.view_as_real(M) if M.is_complex() else M
    largest = float(parts.abs().max()) if M.numel() else 0.0
    if not math.isfinite(largest):
        return math.inf
    if largest == 0.0:
        return known
    half = -(math.frexp(largest)[1] // 2)
    error = mul_up(8.0, float(M.shape[1]), UNDERFLOW)
    bound = math.ldexp(known, half) if known else 0.0
    step = max(1, BATCH_NUMBERS // M[0].numel())
    for first in range(0, len(M), step):
        bound = prove_upper(Grams(M[first : first + step] * 2.0**half * 2.0**half, error), bound).upper
    return max(known, unscale_up(bound, -half))


def quadratic_upper(P: Tensor, c: Tensor, c_abs: Tensor) -> Tensor:
    """Return at least c^T P c for each exact row c that the stored one rounds, real P.

    The exact row may differ from the stored one by u ``c_abs`` entry by entry, and is at most ``c_abs`` (up to a
    rounding of that): for c = fl(w_i - w_j), c_abs = fl(|w_i| + |w_j|). With k = n, the products and this rounding err
    by at most gamma_(2n+6) c_abs^T |P| c_abs.

    Args:
        P: ``[F, n, n]`` float64.
        c: Rows ``[r, n]`` or ``[F, r, n]``.
        c_abs: Of the shape of ``c``.

    Returns:
        ``[F, r]``.

    Example:
        >>> P, c = torch.eye(2, dtype=torch.float64)[None], torch.tensor([[3.0, 4.0]], dtype=torch.float64)
        >>> 25.0 <= float(quadratic_upper(P, c, c)) <= 25.0 * (1 + 1e-13)
        True
    """
    n = P.shape[1]
    values = ((c @ P) * c).sum(-1)
    error = SLACK * gamma_up(2 * n + 8) * ((c_abs @ P.abs()) * c_abs).sum(-1)
    reach = add_up(1.0, float(c_abs.sum(-1).max()) if c_abs.numel() else 0.0)
    underflow = mul_up(16.0 * (n + 1), TINY, reach, reach, add_up(1.0, float(P.abs().max()) if n else 0.0))
    return nextafter_up(nextafter_up(values + nextafter_up(error)) + underflow).clamp_min(0.0)


def finite(P: Tensor) -> Tensor | None:
    """Return P where all its entries are finite, else None."""
    return P if bool(torch.isfinite(torch.view_as_real(P) if P.is_complex() else P).all()) else None


def symmetrise(Y: Tensor) -> Tensor:
    """Return (Y + Y^*) / 2, exactly Hermitian, with one rounding per entry."""
    return (Y + Y.mH) / 2.0


def magnitude(A: Tensor) -> Tensor:
    """Return |Re| + |Im| entry by entry, or the absolute values."""
    return A.real.abs().add_(A.imag.abs()) if A.is_complex() else A.abs()


def inner_order(A: Tensor, n: int) -> int:
    """Return k(n): the length of the real inner products of one entry of a product."""
    return 2 * n if A.is_complex() else n


def column_norms(A: Tensor, inverse_scales: Tensor) -> Tensor:
    """Return at least the norms of the columns ``[F, n]`` times the inverse scales, up to relative roundings."""
    return torch.linalg.vector_norm(magnitude(A) * inverse_scales[:, None, :], dim=1) + LOST * A.shape[1]


def row_scales(sizes: Tensor) -> Tensor:
    """Return positive weights for Lemma 1 from sizes of the rows ``[F, n]``: raised to a small part of the largest."""
    if not sizes.numel():
        return sizes
    largest = sizes.amax(1, keepdim=True)
    floor = torch.where(largest > 0.0, LEAST_SCALE * largest, 1.0).clamp_min(sys.float_info.min)
    return torch.maximum(sizes, floor)


def total(terms: Sequence[Tensor]) -> Tensor:
    """Return at least the sum of error terms."""
    summed: Tensor = torch.stack(list(terms)).sum(0) * SLACK
    return summed


def add_to_diagonal(M: Tensor, *terms: Tensor, towards: float = math.inf) -> Tensor:
    """Return M, changed in place, with the terms ``[F, n]`` or ``[n]`` added to its diagonal, each sum rounded up."""
    diagonal = M.diagonal(dim1=1, dim2=2).real
    limit = torch.full_like(diagonal, towards)
    for term in terms:
        diagonal = torch.where(term == 0.0, diagonal, torch.nextafter(diagonal + term, limit))
    M.diagonal(dim1=1, dim2=2).copy_(diagonal)
    return M
