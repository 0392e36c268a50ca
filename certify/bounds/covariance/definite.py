r"""Proofs that Hermitian matrices are positive definite, and of their largest eigenvalues.

*Lemma (positive definite).* Let A have its diagonal in (0, 1]. If a Cholesky factorisation of fl(A - c I) runs
through, and c >= kappa + n gamma / (1 - gamma) + 2 u + underflow with gamma = gamma_(n+6), or gamma_(4(n+6)) when
complex, then A >= kappa I.

Proof: the factor reproduces its argument up to gamma |L| |L^*| entry by entry, whose norm is at most its trace, at most
n / (1 - gamma) since the diagonal is at most 1; the subtraction errs by at most u per diagonal entry. []

Rows and columns are first scaled by powers of two, which changes no digit, so that diagonals lie in [1/4, 1): the proof
does not depend on the scales of the rows, and its loss, about n^2 u, is as small as a diagonal scaling can make it.

Soundness: IEEE float64 with round-to-nearest, any order of summation, fused or not; see `certify.norms.cholesky`.
Reference: S. M. Rump, Verification of positive definiteness, BIT 46 (2006), Theorem 2.3.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from certify.bounds.covariance.domination import is_finite
from certify.norms.cholesky import Grams, prove_upper
from certify.norms.scaling import UNDERFLOW, unscale_up
from certify.rounding import U64, add_up, div_up, down, gamma_up, mul_down, mul_up

KAPPAS = tuple(2.0**-k for k in (12, 24, 32, 40, 46))  # what is divided by it is of second order, so it may be small
BATCH_NUMBERS = 2**22  # numbers factorised at once


class ShiftTerms(NamedTuple):
    """What the diagonal gives way in the lemma, besides kappa."""

    factorisation: float
    subtraction: float
    underflow: float


def equilibrate(K: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return K scaled by powers of two to a diagonal in [1/4, 1), and the scales 1 / t ``[F, q]``; None if not > 0."""
    diagonal = K.diagonal(dim1=1, dim2=2).real
    if not bool((diagonal > 0.0).all()) or not is_finite(K):
        return None
    mantissas, exponents = torch.frexp(diagonal)
    powers = diagonal / mantissas  # exactly 2^exponent; its root is exact where the exponent is even
    inverse = 1.0 / torch.where(exponents % 2 == 0, powers, 2.0 * powers).sqrt()
    if not bool((torch.frexp(inverse).mantissa == 0.5).all()):
        return None
    return K * inverse[:, :, None] * inverse[:, None, :], inverse


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
    """Return whether K >= kappa I is proved for all of a batch with diagonals in (0, 1], by the lemma."""
    shift = add_up(kappa, *shift_terms(K))
    shifted = K.clone()
    diagonal = shifted.diagonal(dim1=1, dim2=2).real - shift
    shifted.diagonal(dim1=1, dim2=2).copy_(diagonal)
    factor, info = torch.linalg.cholesky_ex(shifted)
    pivots = factor.diagonal(dim1=1, dim2=2).real
    return bool((diagonal > 0.0).all() & torch.isfinite(pivots).all() & (pivots > 0.0).all() & (info == 0).all())


def shift_terms(K: Tensor) -> ShiftTerms:
    """Return the terms of the shift of the lemma for matrices with diagonals in (0, 1]."""
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


def is_positive(K: Tensor) -> bool:
    """Return whether all matrices ``[F, n, n]`` are proved positive definite.

    Example:
        >>> is_positive(torch.eye(2, dtype=torch.float64)[None])
        True
    """
    equilibrated = equilibrate(K)
    return equilibrated is not None and is_at_least(equilibrated[0], 0.0)
