"""Every family of layers, in every geometry, after training on real digits: what is stored is proved 1-Lipschitz."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import certify
from certify.layers import (
    LAWS,
    CayleyLinear,
    ClassLayer,
    LipschitzConv2d,
    LipschitzLinear,
    LipschitzResidual,
    LipschitzResidualConv2d,
    MaxMin,
    PadChannels,
    ScaledAvgPool2d,
)
from certify.layers.losses import pairwise_cross_entropy

pytestmark = pytest.mark.slow
GEOMETRIES = {
    "plain": {"padding": 1},
    "valid": {"padding": 0},
    "much padding": {"padding": 3},
    "stride": {"padding": 1, "stride": 2},
    "dilation": {"padding": 2, "dilation": 2},
    "groups": {"padding": 1, "groups": 4},
    "circular": {"padding": 1, "padding_mode": "circular"},
    "circular, dilated": {"padding": "same", "dilation": 2, "padding_mode": "circular"},
}
RESIDUAL = {
    "plain": {},
    "even kernel": {"kernel_size": 2},
    "wide kernel": {"kernel_size": 5},
    "dilation": {"dilation": 2},
    "groups": {"groups": 4},
    "circular": {"padding_mode": "circular"},
    "circular, dilated": {"padding_mode": "circular", "dilation": 2},
}
FAMILIES = {
    **{
        f"convolution {law}, {case}": lambda law=law, case=case: [LipschitzConv2d(8, 8, 3, law=law, **GEOMETRIES[case])]
        for law, case in product(LAWS, GEOMETRIES)
    },
    **{
        f"residual convolution {law}, {case}": lambda law=law, case=case: [
            LipschitzResidualConv2d(8, 12, law=law, **RESIDUAL[case])
        ]
        for law, case in product(LAWS, RESIDUAL)
    },
    **{f"dense {law}": lambda law=law: [nn.Flatten(), LipschitzLinear(128, 40, law=law)] for law in LAWS},
    **{f"residual {law}": lambda law=law: [nn.Flatten(), LipschitzResidual(128, 40, law=law)] for law in LAWS},
    **{f"Cayley {size}": lambda size=size: [nn.Flatten(), CayleyLinear(128, size)] for size in (40, 128, 200)},
    "pooling": lambda: [ScaledAvgPool2d(2)],
}


class Body(nn.Module):
    """Two layers of one family behind more channels on fewer places, then a row per class."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.PixelUnshuffle(2), PadChannels(8), *layers, MaxMin(), nn.Flatten())
        width = self.body(torch.zeros(1, 1, 8, 8)).shape[1]
        self.head = ClassLayer(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def trained(network: Body, steps: int = 40) -> Body:
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16.0, torch.tensor(digits.target)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.05)
    for rows in torch.randint(len(x), (steps, 64)):
        optimiser.zero_grad()
        constants = network.head.pair_constants
        pairwise_cross_entropy(network(x[rows]), y[rows], radius=0.3, pair_constants=constants).backward()
        optimiser.step()
    return network.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_stored_of_a_trained_family_is_proved_1_lipschitz(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = trained(Body(FAMILIES[family]()))
    certify.save(network.body, tmp_path / "m.safetensors", input_shape=(1, 8, 8))
    settings = certify.LipschitzSettings(method="product")
    found = certify.lipschitz(tmp_path / "m.safetensors", settings=settings, falsify="off").network
    assert 0.2 < found.upper <= 1.0001
