r"""Candidate singular vectors, and what one rounded product with them proves.

*Candidates* come from Lanczos iterations and are never trusted: whatever the vector, the lower bound built on it holds.
*Products*: for y = fl(A v) in any order of summation, ``k`` the longest row of A,

    |y - A v| <= gamma_k |A| |v| + k * UNDERFLOW   (entrywise),

so ||A|| >= ||A v|| / ||v|| >= (||y|| - gamma_k || |A| |v| || - ...) / ||v||, each norm rounded in its direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from certify.norms.scaling import UNDERFLOW
from certify.rounding import add_up, div_down, gamma_up, mul_up, sqrt_down, sqrt_up, sub_down

STEPS = 200
CHECK_EVERY = 10
SMALLEST_LENGTH = 1e-30  # a divisor where there is nothing to divide, in single precision too


def norm_upper(values: Tensor) -> float:
    """Return at least the Euclidean norm of all entries (real or complex, of magnitude below 2^500)."""
    total, terms = _sum_of_squares(values)
    return sqrt_up(add_up(mul_up(total, add_up(1.0, gamma_up(terms + 1))), mul_up(float(terms), UNDERFLOW)))


def norm_lower(values: Tensor) -> float:
    """Return at most the Euclidean norm of all entries (real or complex, of magnitude below 2^500)."""
    total, terms = _sum_of_squares(values)
    least = sub_down(div_down(total, add_up(1.0, gamma_up(terms + 1))), mul_up(float(terms), UNDERFLOW))
    return sqrt_down(max(0.0, least))


def _sum_of_squares(values: Tensor) -> tuple[float, int]:
    """Return the float sum of squares, in any order, and the number of its terms."""
    real = torch.view_as_real(values) if values.is_complex() else values
    return float(real.square().sum()), real.numel()


def product_lower(product: Tensor, absolute: Tensor, vector: Tensor, terms: int) -> float:
    """Return a lower bound of ||A|| from one product.

    Args:
        product: The computed A v.
        absolute: The computed |A| |v|, of the same shape.
        vector: v, any numbers of magnitude below 2^500.
        terms: The largest number of summands of one entry of the product (twice the complex ones).

    Returns:
        A number that is at most the norm of A, and 0 for the zero vector.

    Example:
        >>> A, v = torch.tensor([[3.0, 4.0]], dtype=torch.float64), torch.tensor([3.0, 4.0], dtype=torch.float64)
        >>> 5 * (1 - 1e-14) <= product_lower(A @ v, A @ v, v, terms=2) <= 5
        True
    """
    gamma = gamma_up(terms + 2)
    length = norm_upper(vector)
    if not (0.0 < length < math.inf and gamma < 1.0):
        return 0.0
    magnitude = mul_up(norm_upper(absolute), add_up(1.0, mul_up(2.0, gamma)))
    underflow = mul_up(float(product.numel()), float(terms), UNDERFLOW)
    error = add_up(mul_up(gamma, magnitude), underflow)
    lower = div_down(sub_down(norm_lower(product), error), length)
    return lower if 0.0 < lower < math.inf else 0.0


def start_vector(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the fixed random start of an iteration: the same numbers for the same shape."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=dtype)


def lanczos(
    apply: Callable[[Tensor], Tensor], start: Tensor, steps: int, *, tolerance: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Estimate the largest eigenvalues and their vectors of a batch of positive semidefinite maps.

    Lanczos iteration with full reorthogonalisation. A batch whose Krylov space is exhausted goes on with zero
    vectors, which add zero eigenvalues to its tridiagonal matrix and leave the largest one alone.

    Args:
        apply: The maps, on vectors ``[B, n]``.
        start: ``[B, n]``, real or complex.
        steps: The most steps taken.
        tolerance: Stop when every residual is at most this times the Ritz value.

    Returns:
        Estimates: the Ritz values ``[B]`` and vectors ``[B, n]``.
    """
    steps = min(steps, start.shape[1])
    basis = start.new_zeros(start.shape[0], steps, start.shape[1])
    alphas = torch.zeros(start.shape[0], steps, dtype=torch.float64)
    betas = torch.zeros_like(alphas)
    vector = start / torch.linalg.vector_norm(start, dim=1, keepdim=True)
    count = 0
    for k in range(steps):
        basis[:, k] = vector
        image = apply(vector)
        alphas[:, k] = (vector.conj() * image).sum(1).real
        # the last two hold nearly all there is to remove; the rounding of that is removed with the others
        for known in (basis[:, max(0, k - 1) : k + 1], basis[:, : k + 1]):
            image = image - ((image[:, None] @ known.mH) @ known)[:, 0]
        length = torch.linalg.vector_norm(image, dim=1)
        alive = length > 1e-14 * alphas[:, : k + 1].amax(1)
        betas[:, k] = torch.where(alive, length, 0.0)
        vector = torch.where(alive[:, None], image / length.clamp_min(SMALLEST_LENGTH)[:, None], 0.0)
        count = k + 1
        if count % CHECK_EVERY == 0 and _converged(alphas[:, :count], betas[:, :count], tolerance):
            break
    values, inner = _ritz(alphas[:, :count], betas[:, :count])
    return values, (basis[:, :count].mT @ inner.to(basis.dtype)[:, :, None])[:, :, 0]


def largest_eigenvalues(H: Tensor, start: Tensor, steps: int, *, tolerance: float = 0.0) -> tuple[Tensor, Tensor]:
    """Estimate the largest eigenvalues of Hermitian matrices ``[B, n, n]`` by `lanczos`, and their vectors.

    H v is the conjugate of v^* H: rows times matrices take half the time of matrices times columns.
    """
    return lanczos(lambda v: (v.conj()[:, None] @ H)[:, 0].conj().resolve_conj(), start, steps, tolerance=tolerance)


def _ritz(alphas: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
    off = torch.diag_embed(betas[:, :-1], offset=1)
    values, vectors = torch.linalg.eigh(torch.diag_embed(alphas) + off + off.mT)
    return values[:, -1], vectors[:, :, -1]


def _converged(alphas: Tensor, betas: Tensor, tolerance: float) -> bool:
    values, inner = _ritz(alphas, betas)
    return bool((betas[:, -1] * inner[:, -1].abs() <= tolerance * values).all())
