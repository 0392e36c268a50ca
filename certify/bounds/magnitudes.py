r"""Upper ends of norms of float64 tensors, with the rounding of their own computation.

A float sum of n non-negative terms, each with a relative error of a few u, is at least (1 - gamma_{n+4}) times the
exact sum, in any order (Higham, Accuracy and Stability of Numerical Algorithms, Section 4.2); multiplying it by
1 + 2 gamma_{n+4} and one step of `nextafter` restores the inequality. Squares are taken after division by a power of
two, so that the largest entry is about 1; what underflows then is below 2^-1074 each and is added.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from certify.rounding import SMALLEST, add_up, gamma_up, mul_up, sqrt_up


def l2_upper(x: Tensor) -> float:
    """Return at least the l2 norm of all entries of a float64 tensor; infinity or NaN when it is not finite.

    Example:
        >>> 5.0 <= l2_upper(torch.tensor([3.0, -4.0], dtype=torch.float64)) < 5.000001
        True
    """
    return float(row_l2_upper(x.reshape(1, -1))[0])


def row_l2_upper(matrix: Tensor) -> Tensor:
    """Return at least the l2 norm of every row of a float64 matrix ``[rows, columns]``."""
    largest = largest_absolute(matrix)
    if largest == 0.0 or not math.isfinite(largest):
        return matrix.new_full((matrix.shape[0],), largest)
    scale = math.ldexp(1.0, max(-1000, min(1000, math.frexp(largest)[1])))
    columns = matrix.shape[1]
    squares = (matrix.double() / scale).square().sum(1)
    above = squares * add_up(1.0, mul_up(2.0, gamma_up(columns + 8))) + 2 * columns * SMALLEST
    return nextafter_up(nextafter_up(nextafter_up(above).sqrt()) * scale)


def row_l1_upper(matrix: Tensor) -> Tensor:
    """Return at least the sum of absolute values of every row of a float64 matrix ``[rows, columns]``."""
    sums = matrix.double().abs().sum(1)
    return nextafter_up(sums * add_up(1.0, mul_up(2.0, gamma_up(matrix.shape[1] + 8))))


def nextafter_up(x: Tensor) -> Tensor:
    """Return the next float above every entry."""
    return torch.nextafter(x, torch.full_like(x, math.inf))


def largest_absolute(x: Tensor) -> float:
    """Return the largest absolute value of the entries, 0 for an empty tensor, NaN when one is NaN."""
    return float(x.abs().max()) if x.numel() else 0.0


def root_upper(count: float) -> float:
    """Return at least the square root of a count."""
    return sqrt_up(float(count))
