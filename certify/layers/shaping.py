"""What a 1-Lipschitz network needs besides its linear layers: an activation, pooling, more channels.

Space-to-depth is `torch.nn.PixelUnshuffle`, which only moves entries. "Concatenate x with itself" is no way to get more
channels: it has norm sqrt(2).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaxMin(nn.Module):
    """Channels in two halves a, b become max(a, b), min(a, b): 1-Lipschitz, and gradients keep their norm.

    Sorting two numbers never moves them further apart; entry by entry a and b are sorted.

    Source: C. Anil, J. Lucas, R. Grosse, Sorting out Lipschitz function approximation, arXiv 1811.05381.

    Example:
        >>> MaxMin()(torch.tensor([[1.0, 5.0, 3.0, 4.0]])).tolist()
        [[3.0, 5.0, 1.0, 4.0]]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the sorted halves of x ``[N, channels, ...]``.

        Raises:
            ValueError: If the number of channels is odd.
        """
        if x.shape[1] % 2:
            raise ValueError(f"expected an even number of channels, got {x.shape[1]}")
        a, b = x.chunk(2, dim=1)
        return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], dim=1)


class ScaledAvgPool2d(nn.Module):
    """k times the mean of every k x k block: 1-Lipschitz, where the mean alone would shrink by k.

    The mean of k^2 numbers has norm 1/k (Cauchy and Schwarz, attained at equal numbers), and the blocks do not overlap.

    Example:
        >>> ScaledAvgPool2d(2)(torch.ones(1, 1, 2, 2)).item()  # the norm of the input is 2
        2.0
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled x ``[N, C, H, W]``."""
        return F.avg_pool2d(x, self.size) * float(self.size)


class PadChannels(nn.Module):
    """Zero channels behind those of x, up to ``channels`` in all: an isometry.

    Example:
        >>> PadChannels(3)(torch.ones(1, 1, 1, 1)).flatten().tolist()
        [1.0, 0.0, 0.0]
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Return x ``[N, C, ...]`` with zero channels added.

        Raises:
            ValueError: If x has more channels already.
        """
        missing = self.channels - x.shape[1]
        if missing < 0:
            raise ValueError(f"expected at most {self.channels} channels, got {x.shape[1]}")
        return F.pad(x, [0, 0] * (x.dim() - 2) + [0, missing])
