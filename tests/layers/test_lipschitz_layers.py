"""Layers for training: what is stored of them is proved 1-Lipschitz; what is not is reported above 1."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    cayley,
)
from certify.layers.pairs import certified_radii, pair_distances

ALMOST_1 = 1.0001
SMALL = (2, 6, 6)


def proved(module: nn.Module, tmp_path: Path, shape: tuple[int, ...] = SMALL) -> float:
    """Return the bound that the tool proves for the file a module is saved to, by norms of layers alone."""
    flat = nn.Sequential(module, nn.Flatten()).eval()
    certify.save(flat, tmp_path / "m.safetensors", input_shape=shape)
    settings = certify.LipschitzSettings(method="product")
    return certify.lipschitz(tmp_path / "m.safetensors", settings=settings, falsify="off").network.upper


def trained(module: nn.Module, shape: tuple[int, ...] = SMALL, steps: int = 25) -> nn.Module:
    """Return the module after a few large steps away from its initial weights."""
    torch.manual_seed(0)
    x = torch.randn(8, *shape)
    target = torch.randn_like(module(x))
    optimiser = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        F.mse_loss(module(x), 3.0 * target).backward()
        optimiser.step()
    return module.eval()


CONVOLUTIONS = {
    "zeros": {"padding": 1},
    "stride": {"padding": 1, "stride": 2},
    "dilation": {"padding": 2, "dilation": 2},
    "groups": {"padding": 1, "groups": 2},
    "circular": {"padding": 1, "padding_mode": "circular"},
}


@pytest.mark.parametrize("law", LAWS)
def test_trained_layers_are_proved_1_lipschitz(law: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Flatten(), LipschitzLinear(72, 20, law=law))
    assert 0.2 < proved(trained(dense), tmp_path) <= ALMOST_1
    residual = nn.Sequential(nn.Flatten(), LipschitzResidual(72, 20, law=law))
    assert 0.99 < proved(trained(residual), tmp_path) <= ALMOST_1


@pytest.mark.parametrize(
    "law, case", [*((law, "zeros") for law in LAWS), *(("sr", case) for case in CONVOLUTIONS if case != "zeros")]
)
def test_trained_convolutions_are_proved_1_lipschitz(law: str, case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = LipschitzConv2d(2, 4, 3, law=law, **CONVOLUTIONS[case])
    assert 0.2 < proved(trained(layer, steps=8), tmp_path) <= ALMOST_1


RESIDUAL = {
    "zeros": {},
    "even kernel": {"kernel_size": 2},
    "wide kernel": {"kernel_size": 5},
    "dilation": {"dilation": 2},
    "even, dilated": {"kernel_size": 2, "dilation": 3},
    "groups": {"groups": 2},
    "circular": {"padding_mode": "circular"},
    "circular, dilated": {"padding_mode": "circular", "dilation": 2},
}


@pytest.mark.parametrize(
    "law, case", [*((law, "zeros") for law in LAWS), *(("sll", case) for case in RESIDUAL if case != "zeros")]
)
def test_trained_residual_convolutions_are_proved_1_lipschitz(law: str, case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    block = LipschitzResidualConv2d(2, 4, law=law, **RESIDUAL[case])
    assert 0.99 < proved(trained(block, steps=8), tmp_path) <= ALMOST_1


def test_a_whole_network_is_proved_1_lipschitz(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        PadChannels(4),
        LipschitzResidualConv2d(4, 8),
        nn.PixelUnshuffle(2),
        LipschitzConv2d(16, 16, 3, padding=1, law="aol"),
        MaxMin(),
        ScaledAvgPool2d(3),
        nn.Flatten(),
        LipschitzResidual(16, law="sr", activation=nn.Tanh()),
        CayleyLinear(16, 10),
    )
    assert 0.01 < proved(trained(network, steps=5), tmp_path) <= ALMOST_1


@pytest.mark.parametrize("factor, least", [(0.98, 1.02), (0.9, 1.1)])
def test_scales_that_are_too_small_are_reported_above_1(factor: float, least: float, tmp_path: Path) -> None:
    class TooSmall(nn.Module):
        def forward(self, weight: Tensor, groups: int = 1) -> Tensor:
            norm = torch.linalg.matrix_norm(weight.detach(), ord=2)
            return (factor**0.5 * norm).expand(weight.shape[0])

    torch.manual_seed(0)
    block = nn.Sequential(nn.Flatten(), LipschitzResidual(72, 20, law=TooSmall()))
    assert least <= proved(block, tmp_path) <= 2.0 / factor - 1.0 + 1e-5
    dense = nn.Sequential(nn.Flatten(), LipschitzLinear(72, 20, law=TooSmall()))
    assert 1.0 + (least - 1.0) / 3.0 <= proved(dense, tmp_path) <= factor**-0.5 + 1e-5


def test_one_step_of_power_iteration_is_reported_above_1(tmp_path: Path) -> None:
    class OneStep(nn.Module):
        def forward(self, weight: Tensor, groups: int = 1) -> Tensor:
            v = F.normalize(torch.ones(weight.shape[1], dtype=weight.dtype), dim=0)
            u = F.normalize(weight.detach() @ v, dim=0)
            return (weight.detach().mT @ u).norm().expand(weight.shape[0])

    torch.manual_seed(0)
    block = LipschitzResidual(72, 20, law=OneStep())
    share = float(OneStep()(block.first.weight)[0] / torch.linalg.matrix_norm(block.first.weight.detach(), ord=2))
    upper = proved(nn.Sequential(nn.Flatten(), block), tmp_path)
    assert upper > 1.1
    assert upper == pytest.approx(2.0 / share**2 - 1.0, rel=1e-4)


@pytest.mark.parametrize("case", RESIDUAL)
def test_the_second_map_is_the_adjoint_of_the_first(case: str) -> None:
    torch.manual_seed(0)
    block = LipschitzResidualConv2d(4, 6, **RESIDUAL[case]).double().eval()
    x = torch.randn(1, 4, 7, 6, dtype=torch.float64)
    with torch.no_grad():
        plain = copy.deepcopy(block.first)
        plain.weight.copy_(block.step_weight)
        plain.bias.zero_()
        forward = plain(x)
        y = torch.randn_like(forward)
        difference = (forward * y).sum() - (x * block.adjoint(y)).sum()
        assert abs(float(difference)) <= 1e-12 * float(forward.norm() * y.norm())


def test_half_precision_weights_are_proved_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = LipschitzLinear(72, 20, law="spectral").eval()
    stored = nn.Linear(72, 20)
    with torch.no_grad():
        stored.weight.copy_(layer.effective_weight.half().float())
    assert 0.99 < proved(nn.Sequential(nn.Flatten(), stored), tmp_path) <= 1.002


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_padding_that_copies_inputs_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="copies inputs"):
        LipschitzConv2d(1, 1, 3, padding=1, padding_mode=mode)
    with pytest.raises(ValueError, match="copies inputs"):
        LipschitzResidualConv2d(1, padding_mode=mode)


@pytest.mark.parametrize("padding", [0, 2, (1, 2)])
def test_circular_padding_that_changes_the_size_is_refused(padding: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="keeps the size"):
        LipschitzConv2d(1, 1, 3, padding=padding, padding_mode="circular")
    LipschitzConv2d(1, 1, 3, padding="same", padding_mode="circular")
    with pytest.raises(ValueError, match="odd kernel"):
        LipschitzResidualConv2d(1, kernel_size=2, padding_mode="circular")
    with pytest.raises(ValueError, match="one group"):
        LipschitzResidualConv2d(2, groups=2, padding_mode="circular")


@pytest.mark.parametrize("activation", [nn.GELU(), nn.SiLU(), nn.LeakyReLU(-0.1), nn.LeakyReLU(1.5), MaxMin()])
def test_activations_with_other_slopes_are_refused_inside_a_block(activation: nn.Module) -> None:
    for block in (LipschitzResidual, LipschitzResidualConv2d):
        with pytest.raises(ValueError, match=r"slopes in \[0, 1\]"):
            block(3, activation=activation)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (1, 3), (3, 1)])
def test_the_cayley_transform_is_orthonormal(shape: tuple[int, int]) -> None:
    Q = cayley(torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    least = min(shape)
    gram = Q.mT @ Q if shape[0] >= shape[1] else Q @ Q.mT
    assert float((gram - torch.eye(least)).abs().max()) <= 1e-14 * 10 * max(shape)
    half = cayley(torch.ones(shape, dtype=torch.float16) / 8.0)
    assert half.dtype == torch.float16
    assert float(torch.linalg.matrix_norm(half.double(), ord=2)) == pytest.approx(1.0, abs=1e-2)
    with pytest.raises(ValueError, match="expected a matrix"):
        cayley(torch.ones(3))


def test_gradients_of_layers_against_finite_differences() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cayley, (weight,))
    assert torch.autograd.gradcheck(pair_distances, (weight,))
    block = LipschitzResidual(3, 4, activation=nn.Tanh()).double()
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in block.named_parameters()]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(block, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *block.parameters()))
    block = LipschitzResidualConv2d(2, 3, 2, dilation=2, law="sr", activation=nn.Tanh()).double()
    x = torch.randn(1, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in block.named_parameters()]
    assert torch.autograd.gradcheck(run, (x, *block.parameters()))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="even number"):
        MaxMin()(torch.ones(1, 3))
    with pytest.raises(ValueError, match="at most 2 channels"):
        PadChannels(2)(torch.ones(1, 3, 4, 4))


def test_the_last_layer_counts_per_pair_of_classes() -> None:
    torch.manual_seed(0)
    layer = ClassLayer(5, 4)
    rows = layer.effective_weight.detach()
    expected = torch.stack([torch.stack([(a - b).norm() for b in rows]) for a in rows])
    assert torch.allclose(layer.pair_constants.detach(), expected, atol=1e-6)
    logits = torch.tensor([[3.0, 1.0, 2.5, 0.0], [0.0, 0.0, 0.0, 1.0]])
    radii = certified_radii(logits, expected)
    for row, radius in zip(logits, radii, strict=True):
        c = int(row.argmax())
        others = [float((row[c] - row[j]) / expected[c, j]) for j in range(4) if j != c]
        assert radius.item() == pytest.approx(min(others), rel=1e-6)
    assert certified_radii(logits, expected, torch.tensor([1, 3]))[0].item() < 0.0


def test_the_gram_bound_of_a_layer_is_a_bound_in_training_too() -> None:
    torch.manual_seed(0)
    layer = LipschitzLinear(30, 20, law="spectral").train()
    norms = torch.linalg.svdvals(layer.effective_weight.detach().double())
    assert float(norms.max()) <= ALMOST_1
