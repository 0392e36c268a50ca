r"""Golub-Kahan bidiagonalisation: the norm of any linear map given by its products, estimated, with what they prove.

From a random unit vector v_1 the recurrences

    alpha_k u_k = A v_k - beta_(k-1) u_(k-1),        beta_k v_(k+1) = A^* u_k - alpha_k v_k

build orthonormal vectors with A V_k = U_k B_k, B_k upper bidiagonal. Its largest singular value is the root of theta_k,
the largest Ritz value of A^T A on the Krylov space of v_1: at most ||A|| in exact arithmetic and close to it after 40
to 60 steps. Both bases are orthogonalised in full, twice, so rounding does not make copies of singular values.

Three different things can be said of the outcome, and they have three types:

- `RitzEstimate.estimate` is an *estimate*: floats, from products nobody bounded.
- `lower_from_vector` (matrices), `lower_from_vector_conv` and `lower_from_products` (any map whose rounding error the
  caller bounds) prove a *lower bound* from the vector, in float64 on the CPU: it is sound for any vector whatever.
- `random_start_upper` returns an *upper bound with a failure probability*, `certify.results.RandomStartUpper`: for v_1
  uniform on the sphere of R^N,

      P( theta_k < (1 - eps) ||A||^2 )  <=  1.648 sqrt(N) exp(-sqrt(eps) (2 k - 1)),

  so ``||A|| <= sqrt(theta_k / (1 - eps))`` with probability at least 1 - delta for
  eps = (ln(1.648 sqrt(N) / delta) / (2 k - 1))^2. It assumes exact arithmetic, and that the seed was not chosen by
  looking at the map. It never enters a deterministic verdict.

Reference: G. Golub, W. Kahan, Calculating the singular values and pseudo-inverse of a matrix, SIAM J. Numer. Anal. 2
(1965); J. Kuczynski, H. Wozniakowski, Estimating the largest eigenvalue by the power and Lanczos algorithms with a
random start, SIAM J. Matrix Anal. Appl. 13 (1992), Theorem 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from certify.norms.geometry import Geometry, describe
from certify.norms.products import adjoint as conv_adjoint
from certify.norms.products import vector_lower
from certify.norms.row_sums import check_matrix
from certify.norms.scaling import scale
from certify.norms.vectors import product_lower
from certify.results import RandomStartUpper
from certify.rounding import div_up, down, mul_up, sqrt_up, up

LinearMap = Callable[[Tensor], Tensor]
STEPS = 60
CONSTANT = 1.648
EXHAUSTED = 8.0  # times eps: what is left of a Krylov space that is used up


@dataclass(frozen=True, eq=False)
class RitzEstimate:
    """An estimate of the norm of a map: sqrt(theta_k), and the unit vector of the map's domain that belongs to it."""

    estimate: float
    vector: Tensor
    steps: int


def estimate(
    forward: LinearMap,
    adjoint: LinearMap,
    shape: Sequence[int],
    *,
    steps: int = STEPS,
    seed: int,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> RitzEstimate:
    """Estimate the spectral norm of a linear map by Golub-Kahan steps from a random start.

    Soundness: an estimate, with no direction; see the module's text for what can be proved from its vector.
    Reference: Golub and Kahan (1965).

    Args:
        forward: v -> A v, for real v of shape ``shape``; the image may have any shape.
        adjoint: u -> A^* u.
        shape: The shape of the domain.
        steps: k; fewer are taken once the Krylov space is exhausted.
        seed: Of the start vector, drawn on the CPU: the same on every device.
        dtype: float32 or float64, of the vectors.
        device: Where the products run.

    Returns:
        The estimate and its vector.

    Raises:
        ValueError: If a product is not finite, ``adjoint`` is not the adjoint of ``forward``, or an argument is empty.

    Example:
        >>> A = torch.diag(torch.tensor([3.0, 4.0], dtype=torch.float64))
        >>> found = estimate(lambda v: A @ v, lambda u: A.T @ u, (2,), steps=2, seed=0)
        >>> abs(found.estimate - 4.0) < 1e-12, lower_from_vector(A, found.vector) <= 4.0
        (True, True)
    """
    size = math.prod(shape)
    if steps < 1 or size < 1 or dtype not in (torch.float32, torch.float64):
        raise ValueError(f"expected steps >= 1, a shape with entries and float32 or float64, got {steps, shape, dtype}")
    start = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    first = (start / torch.linalg.vector_norm(start)).to(dtype).to(device).reshape(tuple(shape))
    with torch.no_grad():
        alphas, betas, basis = _bidiagonalise(forward, adjoint, first, min(steps, size))
        B = torch.diag(torch.tensor(alphas, dtype=torch.float64))
        B = B + torch.diag(torch.tensor(betas, dtype=torch.float64), diagonal=1)
        _, values, right = torch.linalg.svd(B)
        vector = torch.tensordot(right[0].to(dtype).to(device), torch.stack(basis), dims=1)
    return RitzEstimate(float(values[0]), vector, steps)


def _bidiagonalise(
    forward: LinearMap, adjoint: LinearMap, first: Tensor, steps: int
) -> tuple[list[float], list[float], list[Tensor]]:
    """Return the diagonal and upper diagonal of B, and the right vectors: as many as the diagonal has entries."""
    alphas: list[float] = []
    betas: list[float] = []
    left: list[Tensor] = []
    right = [first]
    for _ in range(steps):
        alpha, u = _orthogonal_part(forward(right[-1]), left)
        alphas.append(alpha)
        least = EXHAUSTED * torch.finfo(first.dtype).eps * max(alphas)
        if alpha <= least:
            break
        left.append(u)
        back = adjoint(u)
        _check_adjoint(back, right[-1], alpha, max(alphas))
        if len(alphas) == steps:
            break
        beta, v = _orthogonal_part(back, right)
        if beta <= least:
            break
        betas.append(beta)
        right.append(v)
    return alphas, betas, right


def _orthogonal_part(image: Tensor, basis: list[Tensor]) -> tuple[float, Tensor]:
    """Return the length and the direction of what is orthogonal to the basis."""
    flat = image.flatten()
    if basis:
        rows = torch.stack(basis).flatten(1)
        for _ in range(2):
            flat = flat - (rows @ flat) @ rows
    largest = flat.abs().max()  # squares of tiny numbers would vanish
    unit = flat / torch.where(largest > 0.0, largest, 1.0)
    norm = torch.linalg.vector_norm(unit)
    length = float(largest) * float(norm)
    if not math.isfinite(length):
        raise ValueError("expected finite products, got NaN or infinity; scale the map first")
    return length, (unit / norm.clamp_min(1.0)).reshape(image.shape)


def _check_adjoint(back: Tensor, v: Tensor, alpha: float, scale: float) -> None:
    """Refuse a pair of maps that are not adjoint: <A^* u, v> must be <u, A v> = alpha."""
    if back.shape != v.shape:
        raise ValueError(f"expected adjoint(u) of shape {tuple(v.shape)}, got {tuple(back.shape)}")
    found = float((back * v).sum())
    if not abs(found - alpha) <= torch.finfo(v.dtype).eps ** 0.25 * scale:
        raise ValueError(f"expected the adjoint of forward: <A v, u> is {alpha:.6g}, <v, adjoint(u)> is {found:.6g}")


def lower_from_vector(matrix: Tensor, vector: Tensor) -> float:
    """Return the proved lower bound of ||A|| that a vector gives: ||A v|| / ||v|| minus its rounding error.

    Soundness: proved in float64 on the CPU, for any vector.

    Args:
        matrix: ``[rows, columns]``, finite, any scale.
        vector: ``[columns]``, finite, from anywhere.

    Raises:
        ValueError: If the shapes do not fit, or a number is not finite.

    Example:
        >>> A = torch.tensor([[3.0, 4.0]])
        >>> 5.0 * (1 - 1e-14) <= lower_from_vector(A, A[0]) <= 5.0
        True
    """
    scaled = scale(check_matrix(matrix))
    A, v = scaled.values, scale(vector).values
    if v.shape != A.shape[1:]:
        raise ValueError(f"expected a vector of {A.shape[1]} entries, got shape {tuple(v.shape)}")
    lower = product_lower(A @ v, A.abs() @ v.abs(), v, A.shape[1])
    return scaled.bracket(lower, math.inf, "vector").lower


def lower_from_vector_conv(kernel: Tensor, vector: Tensor, **geometry: Unpack[Geometry]) -> float:
    """Return the proved lower bound of a convolution's norm that an input gives (see `lower_from_vector`).

    Args:
        kernel: As in `certify.norms.enclose_conv`.
        vector: One input of the module, ``[in, *size]``.
        **geometry: As the arguments of `certify.norms.enclose_conv`.

    Raises:
        ValueError: If the arguments do not fit together, or a number is not finite.

    Example:
        >>> taps = torch.tensor([[[-1.0, 2.0, -1.0]]])
        >>> 3.5 <= lower_from_vector_conv(taps, torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0]]), padding=1) <= 3.7321
        True
    """
    scaled = scale(kernel)
    conv = describe(scaled.values, tuple(vector.shape[1:]), **geometry)
    groups, co, ci = conv.kernel.shape[:3]
    transposed = geometry.get("transposed", False)
    v = scale(vector).values
    if v.shape[0] != groups * (co if transposed else ci):
        raise ValueError(f"expected an input [{groups * (co if transposed else ci)}, *size], got {tuple(v.shape)}")
    v = v.reshape(groups, -1, *v.shape[1:])
    x = conv_adjoint(conv, conv.kernel, v) if transposed else v  # the norm is the described convolution's
    lower = vector_lower(conv, x)
    return scaled.bracket(lower, math.inf, "vector", copies=sqrt_up(float(conv.copies))).lower


def lower_from_products(forward: LinearMap, magnitude: LinearMap, vector: Tensor, *, terms: int) -> float:
    """Return the proved lower bound of any linear map that a vector gives, from products whose error the caller bounds.

    Soundness: proved if ``forward`` errs by at most ``gamma_terms |A| |v|`` in each entry, as a float64 sum of at most
    ``terms`` products does in any order, and ``magnitude`` is such a sum as well. Transforms (FFT, Winograd) are not.

    Args:
        forward: v -> A v in float64.
        magnitude: v -> |A| v in float64, |A| the matrix of the magnitudes of the entries of A.
        vector: Any finite float64 vector of the domain.
        terms: The largest number of summands of one entry of A v.

    Raises:
        ValueError: If the products differ in shape, or are not float64.

    Example:
        >>> A = torch.tensor([[3.0, -4.0]], dtype=torch.float64)
        >>> lower_from_products(lambda v: A @ v, lambda v: A.abs() @ v, A[0], terms=2) <= 5.0
        True
    """
    v = scale(vector).values
    product, absolute = forward(v), magnitude(v.abs())
    if product.shape != absolute.shape or not product.dtype == absolute.dtype == torch.float64:
        raise ValueError(
            f"expected two float64 products of one shape, got {product.dtype} {tuple(product.shape)} and "
            f"{absolute.dtype} {tuple(absolute.shape)}"
        )
    return product_lower(product, absolute, v, terms)


def random_start_upper(found: RitzEstimate, failure_probability: float) -> RandomStartUpper:
    """Return the upper bound of the norm that holds with probability at least ``1 - failure_probability``.

    The probability is over the random start of `estimate`; see the module's text for the statement and what it assumes.
    Infinite where the steps do not suffice for the probability asked.
    Reference: Kuczynski and Wozniakowski (1992), Theorem 4.2.

    Args:
        found: What `estimate` returned, with the steps asked for: an exhausted Krylov space holds all later ones.
        failure_probability: delta, in (0, 1).

    Raises:
        ValueError: If ``failure_probability`` is not in (0, 1).

    Example:
        >>> found = RitzEstimate(1.0, torch.zeros(65536), 200)
        >>> round(random_start_upper(found, 1e-12).upper, 4)
        1.0036
    """
    if not 0.0 < failure_probability < 1.0:
        raise ValueError(f"expected a failure probability in (0, 1), got {failure_probability}")
    growth = div_up(mul_up(CONSTANT, sqrt_up(float(found.vector.numel()))), failure_probability)
    root = div_up(up(up(math.log(growth))), float(2 * found.steps - 1))
    share = mul_up(root, root)
    upper = div_up(found.estimate, down(math.sqrt(down(1.0 - share)))) if share < 1.0 else math.inf
    return RandomStartUpper(upper, failure_probability)
