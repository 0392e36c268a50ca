r"""The ends of a symmetric operator's spectrum by Lanczos: Ritz values, each with its residual.

For a unit vector u, theta = u . H u and rho = ||H u - theta u||, *some* eigenvalue lies in [theta - rho, theta + rho]
(up to the rounding of the products), and the largest one is at least theta: theta is a lower estimate of it, never an
upper bound. *Proof.* With H = sum l_i e_i e_i^T, rho^2 = sum (l_i - theta)^2 (u . e_i)^2 >= min (l_i - theta)^2, and
theta is a mean of the l_i. []
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BROKEN_DOWN = 1e-12  # of the largest entry so far: the space is invariant, and no further direction is left


@dataclass(frozen=True)
class RitzValue:
    """``value``: an end of the spectrum, estimated from inside; ``residual``: how far an eigenvalue is at most."""

    value: float
    residual: float
    steps: int


def largest_eigenvalues(
    product: Callable[[Tensor], Tensor], size: int, *, steps: int = 60, seed: int = 0
) -> tuple[RitzValue, RitzValue]:
    """Return the largest Ritz value, and the one of the largest size (the most negative one, if that is larger).

    Lanczos with full re-orthogonalisation from a seeded Gaussian start, in float64. The residual is measured on the
    Ritz vector with one more product, not read off the recurrence.

    Args:
        product: H v of a vector ``[size]`` in float64; symmetric.
        size: Dimension of the space.
        steps: At most this many products, one more for each residual.
        seed: Of the start.

    Raises:
        ValueError: If ``size`` or ``steps`` is not positive, or a product is not finite.

    Example:
        >>> H = torch.diag(torch.tensor([3.0, 1.0, -4.0], dtype=torch.float64))
        >>> largest, steepest = largest_eigenvalues(lambda v: H @ v, 3)
        >>> round(largest.value, 9), round(steepest.value, 9)
        (3.0, -4.0)
    """
    if size < 1 or steps < 1:
        raise ValueError(f"expected a positive size and number of steps, got {size} and {steps}")
    basis, tridiagonal = _lanczos(product, size, min(steps, size), seed)
    values, vectors = torch.linalg.eigh(tridiagonal)
    ends = (len(values) - 1, int(values.abs().argmax()))
    found = [_measure(product, basis.mT @ vectors[:, end], len(values)) for end in ends]
    return found[0], found[1]


def _lanczos(product: Callable[[Tensor], Tensor], size: int, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return an orthonormal basis of the Krylov space ``[k, size]`` and H in it ``[k, k]``."""
    start = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis = [start / start.norm()]
    images = []
    for _ in range(steps):
        image = product(basis[-1])
        if not bool(torch.isfinite(image).all()):
            raise ValueError("expected finite products, got NaN or infinity; check the loss on this batch")
        images.append(image)
        rest, known = image, torch.stack(basis)
        for _ in range(2):  # once leaves rounding errors of the first pass behind
            rest = rest - known.mT @ (known @ rest)
        length = float(rest.norm())
        if not length > BROKEN_DOWN * max(float(image.norm()), torch.finfo(torch.float64).tiny):
            break
        basis.append(rest / length)
    Q = torch.stack(basis[: len(images)])
    T = Q @ torch.stack(images).mT
    return Q, 0.5 * (T + T.mT)


def _measure(product: Callable[[Tensor], Tensor], vector: Tensor, steps: int) -> RitzValue:
    u = vector / vector.norm()
    image = product(u)
    value = float(u @ image)
    return RitzValue(value, float((image - value * u).norm()), steps)
