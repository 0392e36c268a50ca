r"""The l1 and l-infinity norms of matrices: their largest column and row sums, bracketed.

A float sum of N non-negative numbers, in any order, is the exact sum times a factor in [(1 + u)^-(N-1), (1 + u)^(N-1)]
(each rounding is a division by 1 + d, |d| <= u, as well as a product); gamma_N covers both ends. The two norms also
bound the spectral norm: ||A||_2 <= sqrt(||A||_1 ||A||_inf) (Schur's test).
"""

from __future__ import annotations

from torch import Tensor

from certify.norms.scaling import Scaled, scale
from certify.results import Bracket
from certify.rounding import add_up, div_down, gamma_up, mul_up, sqrt_up


def enclose_linf(matrix: Tensor) -> Bracket:
    """Return the bracket of the l-infinity norm of a matrix: its largest row sum of magnitudes.

    Soundness: both ends are proved, for the stored weights in exact arithmetic.

    Args:
        matrix: ``[rows, columns]``, finite.

    Raises:
        ValueError: If it is not a finite floating-point matrix.

    Example:
        >>> import torch
        >>> found = enclose_linf(torch.tensor([[1.0, -2.0], [0.5, 0.25]]))
        >>> found.lower <= 3.0 <= found.upper <= 3.0 * (1 + 1e-14)
        True
    """
    return enclose_sums(scale(check_matrix(matrix)), dim=1)


def enclose_l1(matrix: Tensor) -> Bracket:
    """Return the bracket of the l1 norm of a matrix: its largest column sum of magnitudes (see `enclose_linf`)."""
    return enclose_sums(scale(check_matrix(matrix)), dim=0)


def enclose_sums(scaled: Scaled, dim: int) -> Bracket:
    """Return the bracket of the largest sum of magnitudes along ``dim`` of a scaled matrix."""
    method = "column sums" if dim == 0 else "row sums"
    magnitudes = scaled.values.abs()
    largest = float(magnitudes.sum(dim).max()) if magnitudes.numel() else 0.0
    if not largest > 0.0:
        return Bracket(0.0, 0.0, "zero")
    return scaled.bracket(*sum_limits(largest, magnitudes.shape[dim]), method)


def sum_limits(total: float, terms: int) -> tuple[float, float]:
    """Return proved limits of an exact sum of non-negative numbers from a float sum of at most ``terms`` roundings."""
    factor = add_up(1.0, gamma_up(terms))
    return div_down(total, factor), mul_up(total, factor)


def schur_upper(row_sum: float, column_sum: float) -> float:
    """Return at least sqrt(row_sum * column_sum), Schur's bound of the spectral norm."""
    return sqrt_up(mul_up(row_sum, column_sum))


def check_matrix(matrix: Tensor) -> Tensor:
    """Return the argument, refused unless it has two dimensions."""
    if matrix.ndim != 2:
        raise ValueError(f"expected a matrix [rows, columns], got shape {tuple(matrix.shape)}")
    return matrix
