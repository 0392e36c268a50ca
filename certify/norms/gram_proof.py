r"""The Gram iteration with its rounding error carried: a proved upper bound, in float64 on the CPU.

X is the float iterate of G_i (divided by powers of two as in `certify.norms.gram`), and ``error`` >= ||X - G_i|| in the
spectral norm. With n(X) = min(||X||_F, sqrt(||X||_1 ||X||_inf)) >= ||X||, p the rows of X and r its columns,

    || fl(X^* X) - G_i^* G_i ||  <=  gamma_p || |X|^T (|X| 1) ||_inf  +  2 n(X) error + error^2  +  underflow:

the first term is the product's own rounding (|X|^T |X| is non-negative and symmetric, so its norm is at most its
largest row sum), the others come from G_i = X + E, ||E|| <= error. Complex products are real sums of twice the length
with a factor sqrt(2): gamma_(4(p+2)). At every step the norm is at most

    ||X||_F + error,    and from the first step on    c + |tr X - r c| / r + sqrt((r - 1) / r) ||X - c I||_F + error

with any c, here the float of tr X / r: G_i is Hermitian, the Hermitian part of X is as near to it as X is, and the
bound of Wolkowicz and Styan holds for Hermitian matrices. The least over all steps is unrolled, each root rounded up.

*Rounding upward.* A computed sum of products of non-negative numbers with k roundings on its longest path, times
1 + gamma_(k+2), is at least the exact one (`_over`).

Soundness: IEEE float64, round-to-nearest, any order of summation, fused or not. Not under emulated float64 products.
The relative excess caused by rounding stays near 1e-12 for six steps and below 1e-6 for twelve at 2048 x 2048. The
certificate of `certify.norms.enclose` is tighter and faster; this is the second, independent one.

Reference: arXiv 2305.16173, Theorem 1; N. Higham, Accuracy and Stability of Numerical Algorithms (2nd ed.), Lemma 3.1
and Section 3.6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Unpack

import torch
from torch import Tensor

from certify.norms.geometry import Geometry, describe
from certify.norms.gram import MOST_STEPS, STEPS, halved_to_one, times_power_of_two
from certify.norms.gram_conv import embed
from certify.norms.row_sums import check_matrix
from certify.norms.scaling import UNDERFLOW, Scaled, scale
from certify.rounding import add_up, gamma_up, mul_up, sqrt_up


class ErrorTerms(NamedTuple):
    """What separates the float product from the exact one, in norm, per matrix ``[B]``; one source of error each."""

    product: Tensor
    carried: Tensor
    underflow: Tensor


def gram_upper(matrix: Tensor, steps: int = STEPS) -> float:
    r"""Return a proved upper bound of the spectral norm of a matrix, by Gram iteration with carried rounding error.

    ``||A||_2 <= min over i <= t of (bound of ||X_i|| + error_i)^(1/2^i)``, see the module's text.

    Soundness: proved for the stored entries, in float64 on the CPU, for every ``steps``; more never loosen it.
    Reference: arXiv 2305.16173, Theorem 1.

    Args:
        matrix: ``[rows, columns]`` in float16, bfloat16, float32 or float64, finite; any scale.
        steps: t, at most 60 are taken.

    Raises:
        ValueError: If the argument is not a finite floating-point matrix, or ``steps`` is negative.

    Example:
        >>> A = torch.diag(torch.tensor([3.0, 4.0]))
        >>> 4.0 <= gram_upper(A, steps=5) <= 4.0 * (1 + 1e-4)
        True
    """
    scaled = scale(check_matrix(matrix))
    if _is_zero(scaled):
        return 0.0
    return scaled.bracket(0.0, largest_upper(scaled.values[None], steps), "Gram").upper


def gram_upper_conv(
    kernel: Tensor, input_size: Sequence[int] | None, *, steps: int = STEPS, **geometry: Unpack[Geometry]
) -> float:
    """Return a proved upper bound of the l2 norm of a convolution, by Gram iteration on the symbol of a torus.

    The largest bound over the frequencies of `certify.norms.gram_conv.embed`, plus the error of the symbol, times the
    factor of the embedding.

    Soundness: as `gram_upper`, for this geometry, padding included; for every size where ``input_size`` is None.

    Args:
        kernel: ``[out, in / groups, *taps]``, 1 to 3 tap dimensions; ``[in, out / groups, *taps]`` if transposed.
        input_size: The spatial sizes of the input, or None for every size.
        steps: t of the Gram iteration.
        **geometry: As the arguments of `certify.norms.enclose_conv`.

    Raises:
        ValueError: If the arguments do not fit together, or the kernel holds NaN or infinity.

    Example:
        >>> taps = torch.tensor([[[-1.0, 2.0, -1.0]]])
        >>> 2 + math.sqrt(3) <= gram_upper_conv(taps, (5,), padding=1) <= 4 * (1 + 1e-12)
        True
    """
    scaled = scale(kernel)
    conv = describe(scaled.values, input_size, **geometry)
    if _is_zero(scaled):
        return 0.0
    embedding = embed(conv)
    symbol, grid = embedding.symbol, embedding.grid
    largest = max(largest_upper(symbol.matrices(grid, part), steps) for part in symbol.parts(grid))
    upper = mul_up(embedding.factor, add_up(largest, symbol.error))
    return scaled.bracket(0.0, upper, "Gram", copies=sqrt_up(float(conv.copies))).upper


def _is_zero(scaled: Scaled) -> bool:
    return not scaled.values.numel() or not bool(scaled.values.any())


def largest_upper(A: Tensor, steps: int) -> float:
    """Return a proved bound of all ||A_b||, for A ``[B, rows, columns]`` in float64 or complex128, below 2^400.

    Raises:
        ValueError: If ``steps`` is negative.
    """
    if steps < 0:
        raise ValueError(f"expected a number of steps of at least 0, got {steps}")
    X, exponent = halved_to_one(A if A.shape[2] <= A.shape[1] else A.mT)
    error = torch.full_like(exponent, mul_up(2.0 * A[0].numel(), UNDERFLOW))
    exponents = [exponent]
    best = _unroll(_frobenius_upper(X) + error, exponents)
    for _ in range(min(steps, MOST_STEPS)):
        X, error, exponent = _squared(X, error)
        exponents.append(exponent)
        bound = _unroll(torch.minimum(_frobenius_upper(X), _moments_upper(X)) + error, exponents)
        best = torch.where(bound < best, bound, best)  # never takes a NaN
    return float(best.max())


def error_terms(X: Tensor, error: Tensor) -> ErrorTerms:
    """Return the terms of || fl(X^* X) - G^* G || for any G with ||X - G|| <= ``error`` ``[B]``."""
    rows, columns = X.shape[1:]
    order = 4 * (rows + 2) if X.is_complex() else rows + 1
    magnitude = X.abs()
    sums = torch.einsum("bpr,bp->br", magnitude, magnitude.sum(2)).amax(1)
    product = _over(gamma_up(order) * _over(sums, rows + columns + 8), 1)
    carried = _over(2.0 * _norm_upper(X) * error + error * error, 3)
    return ErrorTerms(product, carried, torch.full_like(error, mul_up(4.0 * rows, columns, UNDERFLOW)))


def _squared(X: Tensor, error: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the next iterate, its error and the exponent taken out of both."""
    terms = error_terms(X, error)
    total = _over(terms.product + terms.carried + terms.underflow, 2)
    product, exponent = halved_to_one(X.mH @ X)
    lost = mul_up(2.0 * product[0].numel(), UNDERFLOW)  # entries of the product, and the error, may become subnormal
    return product, _over(times_power_of_two(total, -exponent) + lost, 1), exponent


def _unroll(bound: Tensor, exponents: Sequence[Tensor]) -> Tensor:
    """Return at least the root of each bound in the units of G, from its float value one rounding below."""
    value = _over(bound, 1)
    for exponent in reversed(exponents[1:]):
        value = _over((value * torch.exp2(exponent)).sqrt(), 2)
    return times_power_of_two(value, exponents[0]) + UNDERFLOW


def _over(value: Tensor, roundings: int) -> Tensor:
    """Return at least the exact value of a non-negative expression with so many roundings on its longest path."""
    return value * add_up(1.0, gamma_up(roundings + 2))


def _norm_upper(X: Tensor) -> Tensor:
    """Return at least ||X|| per matrix, by Frobenius and Schur."""
    magnitude = X.abs()
    rows = _over(magnitude.sum(2).amax(1), X.shape[2] + 3)
    columns = _over(magnitude.sum(1).amax(1), X.shape[1] + 3)
    return torch.minimum(_frobenius_upper(X), _over((rows * columns).sqrt(), 2))


def _frobenius_upper(X: Tensor) -> Tensor:
    real = torch.view_as_real(X) if X.is_complex() else X
    squares = real.flatten(1).square()
    total = _over(squares.sum(1), squares.shape[1] + 1) + mul_up(float(squares.shape[1]), UNDERFLOW)
    return _over(total.sqrt(), 2)


def _moments_upper(X: Tensor) -> Tensor:
    """Return at least the largest eigenvalue of the Hermitian part of each matrix, by its first two moments."""
    r = X.shape[-1]
    diagonal = X.diagonal(dim1=1, dim2=2)
    diagonal = diagonal.real if X.is_complex() else diagonal
    centre = diagonal.sum(1) / r
    drift = gamma_up(r + 2) * _over(diagonal.abs().sum(1), r) / r  # at least |tr X - r c| / r
    spread = _over(_frobenius_upper(X - centre[:, None, None] * torch.eye(r, dtype=X.dtype)), 1)
    return _over(centre.clamp_min(0.0) + drift + math.sqrt((r - 1) / r) * spread, 6)
