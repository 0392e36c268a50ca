r"""Errors of matrices that are known entry by entry, turned into diagonals that dominate them.

All matrices of the covariance recursion are batches ``[F, n, n]`` of Hermitian matrices, float64 or complex128, exactly
Hermitian as stored.

*Entries.* For complex numbers |z| stands for |Re z| + |Im z|: at least the modulus, submultiplicative, and free of
underflow. With u = 2^-53, gamma_k = k u / (1 - k u) and k(n) = n for real, 2 n for complex entries (a complex inner
product of length n is two real ones of length 2 n), in any order of summation and up to underflow

    |fl(A B) - A B|  <=  gamma_k(n) |A| |B|        (entry by entry).

*Lemma (domination).* E Hermitian, |E| <= Q entry by entry, Q >= 0, s > 0. Then E <= diag(r) in the Loewner order for

    r_j = s_j * sum_k sym(Q)_jk / s_k,    sym(Q) = (Q + Q^T) / 2.

Proof: x^* E x <= sum sym(Q)_jk |x_j| |x_k| <= sum sym(Q)_jk (|x_j|^2 s_j / s_k + |x_k|^2 s_k / s_j) / 2. [] So an error
known entry by entry costs products with one vector. s is the scale of the rows: small rows get small errors.

*Underflow.* A product of two floats errs by at most 2^-1022 (1 + |a|) (1 + |b|) beyond its relative error, even where
subnormal numbers are flushed; in the error terms this may be enlarged by the largest ratio of two scales, 2^40. `TINY`
= 2^-960 times the number of products, generously counted, covers both.

*Error terms are themselves computed in floating point*, from non-negative numbers without subtraction: `SLACK`, 1 +
2^-20, covers up to 2^32 roundings on any path.

Reference: N. Higham, Accuracy and Stability of Numerical Algorithms (2nd ed.), Lemma 3.1 and Section 3.6.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from certify.rounding import U64

SLACK = 1.0 + 2.0**-20
TINY = 2.0**-960
LOST = 2.0**-510  # in a norm, per entry, by squares that underflow
LEAST_SCALE = 2.0**-40  # of a row beside the largest one; smaller rows, zero ones included, are weighted like this


def magnitude(A: Tensor) -> Tensor:
    """Return |Re| + |Im| entry by entry, or the absolute values."""
    return A.real.abs().add_(A.imag.abs()) if A.is_complex() else A.abs()


def inner_order(A: Tensor, n: int) -> int:
    """Return k(n): the length of the real inner products of one entry of a product."""
    return 2 * n if A.is_complex() else n


def symmetrise(Y: Tensor) -> Tensor:
    """Return (Y + Y^*) / 2, exactly Hermitian, with one rounding per entry."""
    return (Y + Y.mH) * 0.5


def is_finite(A: Tensor) -> bool:
    """Return whether all entries are finite, and their sum too: infinities and NaN stay in a sum."""
    return math.isfinite(float((torch.view_as_real(A) if A.is_complex() else A).sum()))


def finite(A: Tensor) -> Tensor | None:
    """Return A where all its entries are finite, else None."""
    return A if is_finite(A) else None


def row_scales(sizes: Tensor) -> Tensor:
    """Return positive scales for the lemma from sizes of the rows ``[F, n]``, raised to a part of the largest."""
    if not sizes.numel():
        return sizes
    largest = sizes.amax(1, keepdim=True)
    floor = torch.where(largest > 0.0, LEAST_SCALE * largest, 1.0).clamp_min(sys.float_info.min)
    return torch.maximum(sizes, floor)


def dominating(Q: Tensor) -> Tensor:
    """Return the diagonal of the lemma ``[F, n]`` for symmetric Q ``[F, n, n]``, the scales taken from its diagonal.

    Example:
        >>> dominating(torch.ones(1, 2, 2, dtype=torch.float64)).floor().tolist()
        [[2.0, 2.0]]
    """
    scales = row_scales(Q.diagonal(dim1=1, dim2=2).sqrt())
    diagonal: Tensor = SLACK * (Q @ (1.0 / scales)[..., None])[..., 0] * scales + Q.shape[1] * TINY
    return diagonal


def rounding_terms(stored: Tensor) -> Tensor:
    """Return the diagonal that dominates one rounding of every stored entry, underflow included."""
    return U64 * dominating(magnitude(stored)) + 4.0 * stored.shape[1] * TINY


def column_norms(absolute: Tensor) -> Tensor:
    """Return at least the norms of the columns ``[F, n]`` of non-negative matrices, up to relative roundings."""
    norms: Tensor = torch.linalg.vector_norm(absolute, dim=1) + LOST * absolute.shape[1]
    return norms


def total(terms: Sequence[Tensor]) -> Tensor:
    """Return at least the sum of error terms."""
    summed: Tensor = torch.stack(list(terms)).sum(0) * SLACK
    return summed


def add_to_diagonal(M: Tensor, terms: Tensor, towards: float = math.inf) -> Tensor:
    """Return M, changed in place, with ``terms`` ``[F, n]`` or ``[n]`` added to its diagonal, each sum rounded up."""
    diagonal = M.diagonal(dim1=1, dim2=2).real
    moved = torch.nextafter(diagonal + terms, torch.full_like(diagonal, towards))
    M.diagonal(dim1=1, dim2=2).copy_(torch.where(terms == 0.0, diagonal, moved))
    return M
