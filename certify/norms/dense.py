r"""The spectral norm of a dense matrix.

The upper bound is a verified Cholesky factorisation (`certify.norms.cholesky`) of the smaller Gram matrix, the lower
one the product with its top eigenvector (`certify.norms.vectors`). Two cheap bounds stand beside it and take over
where a factorisation would cost too much: the Frobenius norm, and Schur's sqrt(||A||_1 ||A||_inf).
"""

from __future__ import annotations

from torch import Tensor

from certify.norms.cholesky import gram, prove_upper
from certify.norms.row_sums import check_matrix, schur_upper, sum_limits
from certify.norms.scaling import scale
from certify.norms.vectors import lanczos, norm_upper, product_lower, start_vector
from certify.results import Bracket

# Products and factorisations above this many operations (about half a minute on one core) are not attempted.
MOST_OPERATIONS = 1.0e12
LANCZOS_STEPS = 60


def enclose(matrix: Tensor) -> Bracket:
    r"""Return a proved bracket of the spectral norm of a matrix.

    ``lower <= ||A||_2 <= upper`` in exact arithmetic of the stored entries: s^2 I - A^T A is proved positive
    semidefinite by a Cholesky factorisation with every rounding error carried, and the lower end is ||A v|| / ||v||
    minus its error. The relative width is about n^2 u / 2 (10^-12 at n = 256, 10^-9 at n = 4096).

    Soundness: deterministic, float64 on the CPU in any order of summation. Multiplying the matrix by a power of two
    multiplies both ends by it exactly, while they stay normal numbers.
    Reference: S. M. Rump, Verification of positive definiteness, BIT 46 (2006), Theorem 2.3.

    Args:
        matrix: ``[rows, columns]`` in float16, bfloat16, float32 or float64, finite; any scale.

    Returns:
        The bracket; ``method`` is "dense Cholesky", or the cheaper bound that took over: "Frobenius", "row and column
        sums".

    Raises:
        ValueError: If the argument is not a matrix of finite floating-point numbers.

    Example:
        >>> import torch
        >>> found = enclose(torch.diag(torch.tensor([3.0, -4.0])))
        >>> found.lower <= 4.0 <= found.upper <= 4.0 * (1 + 1e-14)
        True
    """
    scaled = scale(check_matrix(matrix))
    A = scaled.values
    if not A.numel() or not bool(A.any()):
        return Bracket(0.0, 0.0, "zero")
    A = A.mT if A.shape[0] < A.shape[1] else A
    bounds = dict([frobenius_upper(A), sums_upper(A)])
    vector = None
    if operations(*A.shape) <= MOST_OPERATIONS:
        proof = prove_upper(gram(A[None]))
        bounds["dense Cholesky"] = proof.upper
        vector = proof.vector
    lower = product_lower_dense(A, top_vector(A) if vector is None else vector)
    method = min(bounds, key=lambda name: bounds[name])
    return scaled.bracket(lower, bounds[method], method)


def operations(rows: int, columns: int) -> float:
    """Return about how many operations the certificate of a tall matrix takes."""
    return 2.0 * rows * columns**2 + 2.0 * columns**3


def frobenius_upper(A: Tensor) -> tuple[str, float]:
    """Return the name and value of the Frobenius bound of a scaled matrix."""
    return "Frobenius", norm_upper(A)


def sums_upper(A: Tensor) -> tuple[str, float]:
    """Return the name and value of Schur's bound of a scaled matrix."""
    magnitudes = A.abs()
    rows = sum_limits(float(magnitudes.sum(1).max()), A.shape[1])[1]
    columns = sum_limits(float(magnitudes.sum(0).max()), A.shape[0])[1]
    return "row and column sums", schur_upper(rows, columns)


def top_vector(A: Tensor) -> Tensor:
    """Estimate the top right singular vector of a matrix by Lanczos steps on A^T A."""
    start = start_vector(1, A.shape[1])
    _, vectors = lanczos(lambda v: (v @ A.mT) @ A, start, LANCZOS_STEPS, tolerance=1e-8)
    return vectors[0]


def product_lower_dense(A: Tensor, vector: Tensor) -> float:
    """Return the lower bound that the candidate vector ``[columns]`` proves, or the largest entry if that is more."""
    product = product_lower(A @ vector, A.abs() @ vector.abs(), vector, A.shape[1])
    return max(product, float(A.abs().max()))
