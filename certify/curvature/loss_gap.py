r"""How much Gaussian noise on the weights adds to the loss: the smoothed loss minus the loss, about (sigma^2 / 2) tr H.

Noise comes in pairs +-Delta: (L(theta + Delta) + L(theta - Delta)) / 2 - L(theta) is even in Delta, so its first-order
part cancels in each pair. Pairs are right here, where a mean with a standard error over pairs is asked for; counting
votes with them would not be. Unlike the Hessian of a ReLU network, the gap sees the kinks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify.curvature.hessian import ROWS_AT_ONCE
from certify.curvature.trace import MeanEstimate, mean_estimate


def smoothed_loss_gap(
    module: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    sigma: float,
    pairs: int = 16,
    seed: int = 0,
    rows_at_once: int = ROWS_AT_ONCE,
) -> MeanEstimate:
    """Return an estimate of E L(theta + Delta) - L(theta), Delta ~ N(0, sigma^2 I) over all parameters.

    The weights are moved and put back exactly.

    Args:
        module: The network in evaluation mode; its parameters that require gradients are moved.
        inputs: ``[N, ...]``.
        labels: ``[N]``.
        sigma: Standard deviation of the noise on every parameter.
        pairs: Pairs of opposite noise.
        seed: Of the noise.
        rows_at_once: Inputs side by side; the loss is a sum over these micro-batches.

    Raises:
        ValueError: If sigma is not positive or there is no pair.

    Example:
        >>> layer = nn.Linear(2, 2).double().eval()
        >>> gap = smoothed_loss_gap(layer, torch.ones(1, 2).double(), torch.tensor([0]), sigma=0.1)
        >>> 0.0 < gap.value < 0.5 * 0.1**2 * 3.0  # at most (sigma^2 / 2) (||a||^2 + 1)
        True
    """
    if not (sigma > 0.0 and pairs >= 1):
        raise ValueError(f"expected a positive sigma and at least one pair, got {sigma} and {pairs}")
    variables = [parameter for parameter in module.parameters() if parameter.requires_grad]
    kept = [parameter.detach().clone() for parameter in variables]
    random = torch.Generator().manual_seed(seed)

    def loss(signed: float, noise: list[Tensor]) -> Tensor:
        for parameter, at, direction in zip(variables, kept, noise, strict=True):
            parameter.copy_(at + signed * direction)
        sums = [
            F.cross_entropy(module(x).double(), y, reduction="sum")
            for x, y in zip(torch.split(inputs, rows_at_once), torch.split(labels, rows_at_once), strict=True)
        ]
        return torch.stack(sums).sum() / len(inputs)

    with torch.no_grad():
        try:
            here = loss(0.0, kept)
            values = [_pair(loss, _noise(kept, sigma, random)) - here for _ in range(pairs)]
        finally:
            for parameter, at in zip(variables, kept, strict=True):
                parameter.copy_(at)
    return mean_estimate(torch.stack(values))


def _pair(loss: Callable[[float, list[Tensor]], Tensor], noise: list[Tensor]) -> Tensor:
    return 0.5 * (loss(1.0, noise) + loss(-1.0, noise))


def _noise(like: list[Tensor], sigma: float, random: torch.Generator) -> list[Tensor]:
    return [(sigma * torch.randn(t.shape, generator=random, dtype=torch.float64)).to(t) for t in like]
