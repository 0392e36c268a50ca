r"""The gains of normalisations: by how much they can stretch a difference of inputs.

**Batch norm** with frozen statistics is diagonal: ``gamma / sqrt(variance + eps)`` per channel, in every norm the
largest magnitude of them.

**Layer, group, instance and RMS norm** compute ``y = gamma c / sqrt(mean(c^2) + eps)`` with c the input, centred (a
projection) or not. With r = sqrt(mean(c^2) + eps) the derivative of c / r is ``(I - c c^T / (d r^2)) / r``, symmetric
with eigenvalues 1 / r and eps / r^3 <= 1 / r, and r >= sqrt(eps): in l2 the gain is at most ``max |gamma| /
sqrt(eps)``, attained at c = 0 up to the projection. Without eps there is none.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from certify.norms.scaling import exact_float64
from certify.rounding import add_up, div_down, div_up, mul_up, sqrt_down, sqrt_up, sub_down


def batch_norm_upper(weight: Tensor | None, variance: Tensor, eps: float) -> float:
    """Return the gain of batch norm with frozen statistics, rounded up: max |gamma_c| / sqrt(var_c + eps).

    Raises:
        ValueError: If the numbers are not finite, or var_c + eps is not positive.

    Example:
        >>> batch_norm_upper(torch.tensor([-2.0]), torch.tensor([4.0]), 0.0)
        1.0000000000000004
    """
    return max(_scales_upper(weight, variance, eps), default=0.0)


def batch_norm_lower(weight: Tensor | None, variance: Tensor, eps: float) -> float:
    """Return the gain of batch norm with frozen statistics, rounded down; the other end is `batch_norm_upper`.

    Raises:
        ValueError: If the numbers are not finite, or var_c + eps is not positive.

    Example:
        >>> 0.999 < batch_norm_lower(torch.tensor([-2.0]), torch.tensor([4.0]), 0.0) <= 1.0
        True
    """
    _scales_upper(weight, variance, eps)  # refuses what has no gain
    roots = [sqrt_up(add_up(v, eps)) for v in exact_float64(variance).flatten().tolist()]
    gamma = [1.0] * len(roots) if weight is None else exact_float64(weight).flatten().tolist()
    return max((div_down(abs(g), root) for g, root in zip(gamma, roots, strict=True)), default=0.0)


def batch_norm_scales(weight: Tensor | None, variance: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return gamma_c / sqrt(var_c + eps) per channel in float64: rounded to nearest, and its magnitude rounded up.

    Raises:
        ValueError: If the numbers are not finite, or var_c + eps is not positive.
    """
    upper = torch.tensor(_scales_upper(weight, variance, eps), dtype=torch.float64)
    spread = exact_float64(variance)
    gamma = torch.ones_like(spread) if weight is None else exact_float64(weight)
    return gamma / torch.sqrt(spread + eps), upper


def _scales_upper(weight: Tensor | None, variance: Tensor, eps: float) -> list[float]:
    if not 0.0 <= eps < math.inf:
        raise ValueError(f"expected a finite eps of at least 0, got {eps}")
    spread = exact_float64(variance).flatten()
    gamma = torch.ones_like(spread) if weight is None else exact_float64(weight).flatten()
    if gamma.shape != spread.shape:
        raise ValueError(f"expected one weight per variance, got {gamma.numel()} and {spread.numel()}")
    roots = [sqrt_down(sub_down(v, -eps)) for v in spread.tolist()]
    if not all(root > 0.0 for root in roots) or not all(v >= 0.0 for v in spread.tolist()):
        raise ValueError("expected variances of at least 0 with variance + eps above 0; set eps, or retrain the layer")
    return [div_up(abs(g), root) for g, root in zip(gamma.tolist(), roots, strict=True)]


def normalization_upper(weight: Tensor | None, eps: float) -> float:
    """Return the l2 gain of layer, group, instance or RMS norm, rounded up; infinite without eps.

    Example:
        >>> 316.2277 <= normalization_upper(None, 1e-5) <= 316.2278, normalization_upper(None, 0.0)
        (True, inf)
    """
    if not 0.0 <= eps < math.inf:
        raise ValueError(f"expected a finite eps of at least 0, got {eps}")
    largest = 1.0 if weight is None else max(map(abs, exact_float64(weight).flatten().tolist()), default=0.0)
    return div_up(largest, sqrt_down(eps)) if eps > 0.0 else math.inf


def reciprocal_upper(std: Tensor) -> float:
    """Return the gain of a division by ``std``, rounded up: max 1 / |std|.

    Raises:
        ValueError: If an entry is zero or not finite.

    Example:
        >>> reciprocal_upper(torch.tensor([0.5, -0.25]))
        4.000000000000001
    """
    least = min(map(abs, exact_float64(std).flatten().tolist()), default=math.inf)
    if not least > 0.0:
        raise ValueError("expected a standard deviation without zeros; leave out constant channels")
    return mul_up(div_up(1.0, least))


def reciprocal_lower(std: Tensor) -> float:
    """Return the gain of a division by ``std``, rounded down; the other end is `reciprocal_upper`.

    Raises:
        ValueError: If an entry is zero or not finite.

    Example:
        >>> 3.999 < reciprocal_lower(torch.tensor([0.5, -0.25])) <= 4.0
        True
    """
    reciprocal_upper(std)  # refuses what has no gain
    return div_down(1.0, min(map(abs, exact_float64(std).flatten().tolist())))
