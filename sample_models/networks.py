"""The networks of the sample models; each takes ``[N, 1, 8, 8]`` pixels in [0, 1] and returns logits ``[N, 10]``.

`ResidualNet` is made for randomized smoothing: small, because every certificate costs thousands of forward passes.
`LipschitzMLP` is made for Lipschitz certificates: orthogonal hidden layers, so the product bound loses little.
`LipschitzResNet` is 1-Lipschitz by construction, residual blocks included, up to its last layer.
`SmallCNN` is trained twice for smoothing, with and without activation decay, all else equal.
`AttentionNet` is made to be refused by them: dot-product attention on tokens of unlimited size has no global bound.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, scaled_dot_product_attention
from torch.nn.utils.parametrizations import orthogonal

from certify.layers import CayleyLinear, ClassLayer, LipschitzResidualConv2d, MaxMin, PadChannels

CLASSES = tuple(str(digit) for digit in range(10))
INPUT_SHAPE = (1, 8, 8)


class ResidualBlock(nn.Module):
    """relu(x + BN(conv(relu(BN(conv(x)))))), with 3 x 3 convolutions that keep width and size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of the shape of ``x``."""
        inner = relu(self.first_norm(self.first(x)))
        return relu(x + self.second_norm(self.second(inner)))


class ResidualNet(nn.Module):
    """A strided 4 x 4 convolution to 4 x 4 positions, two residual blocks there, and a linear head."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 4, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(ResidualBlock(width), ResidualBlock(width))
        self.head = nn.Linear(16 * width, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        return self.head(self.blocks(relu(self.stem_norm(self.stem(x)))).flatten(1))


class LipschitzMLP(nn.Module):
    """Two hidden layers of 64, orthogonal by parametrisation, so 1-Lipschitz, before a free head."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        first, second = orthogonal(nn.Linear(64, width)), orthogonal(nn.Linear(width, width))
        self.hidden = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
        self.head = nn.Linear(width, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        return self.head(self.hidden(x.flatten(1)))


class LipschitzResNet(nn.Module):
    """Three 1-Lipschitz residual blocks (SLL) on 4 x 4 positions, an orthogonal layer, MaxMin, and a row per class."""

    def __init__(self, channels: int = 32, width: int = 64) -> None:
        super().__init__()
        blocks = [LipschitzResidualConv2d(channels, law="sll") for _ in range(3)]
        self.body = nn.Sequential(
            nn.PixelUnshuffle(2),
            PadChannels(channels),
            *blocks,
            nn.Flatten(),
            CayleyLinear(16 * channels, width),
            MaxMin(),
        )
        self.head = ClassLayer(width, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        return self.head(self.body(x))


class SmallCNN(nn.Module):
    """Two convolutions and two dense layers; ``body`` gives the input of the last one."""

    def __init__(self, width: int = 16, features: int = 64) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * width, features),
            nn.ReLU(),
        )
        self.head = nn.Linear(features, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        return self.head(self.body(x))


class AttentionNet(nn.Module):
    """Sixteen 2 x 2 patches as tokens, one attention block without normalisation before it, and a linear head."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.position = nn.Parameter(0.02 * torch.randn(16, width))
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.head = nn.Linear(16 * width, len(CLASSES))

    def attend(self, tokens: Tensor) -> Tensor:
        """Return multi-head self-attention of ``tokens``, ``[N, 16, width]``."""
        split = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(tokens).chunk(3, dim=-1)]
        query, key, value = split
        return self.out(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        tokens = tokens + self.attend(tokens)
        tokens = tokens + self.mlp(tokens)
        return self.head(tokens.flatten(1))
