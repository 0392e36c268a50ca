"""The networks of the benchmark are those that the published figures speak of."""

import pytest
import torch

from certify.graph import run
from tests.benchmarks.network_nets import (
    DENSE,
    REAL,
    STEMS,
    absent,
    dense_graph,
    example_net,
    facts_of,
    mlp_net,
    product_of_norms,
    resnet18,
)

PRODUCTS = {"A": 16.0824, "E5": 0.1075689, "E20": 0.2459069, "B": 6.025411, "P": 53.49626}
SIZES = {"A": (10, 50, 50, 50, 10), "B": (784, 128, 128, 128, 10), "P": (784, 128, 64, 10)}


@pytest.mark.parametrize("name", DENSE)
def test_the_product_of_norms_is_the_published_one(name: str) -> None:
    if name == "P" and absent():
        pytest.skip(f"no trained networks at {REAL}")
    weights = DENSE[name]()
    assert product_of_norms(weights) == pytest.approx(PRODUCTS[name], rel=4e-6)
    widths = (weights[0].shape[1], *(W.shape[0] for W in weights))
    assert widths == SIZES.get(name, (4, *[80 if name == "E20" else 40] * (len(weights) - 1), 1))


def test_a_graph_of_weights_is_their_relu_network() -> None:
    weights = DENSE["A"]()
    x = torch.randn(3, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    h = x
    for W in weights[:-1]:
        h = (h @ W.mT).relu()
    assert torch.allclose(run(dense_graph(weights), x), h @ weights[-1].mT, rtol=1e-12)


def test_the_example_network_has_the_published_gradient() -> None:
    assert float(jacobian_at_centre(example_net).abs().sum(1).max()) == pytest.approx(1.219862, rel=1e-6)


@pytest.mark.parametrize(("build", "nearby"), [(example_net, 0.153579), (mlp_net, 0.142022)])
def test_the_gradient_is_just_below_the_published_bound_within_one_grey_level(build, nearby) -> None:
    found = float(torch.linalg.matrix_norm(jacobian_at_centre(build), 2))
    assert 0.995 * nearby < found < nearby + 0.5e-6  # printed with six digits


def jacobian_at_centre(build) -> torch.Tensor:
    net, x = build()
    return torch.autograd.functional.jacobian(net.double(), x.double()).reshape(10, -1)


@pytest.mark.parametrize("stem", STEMS)
def test_a_folded_resnet_has_no_batch_norm_left_and_keeps_its_scale(stem: str) -> None:
    net = resnet18(stem)
    convolutions = [layer for layer in net.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert len(convolutions) == 20
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in net.modules())
    assert sum(W.numel() for W in net.parameters()) > 1.1e7
    logits = net(torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    assert logits.shape == (8, 10)
    assert 0.01 < float(logits.std()) < 10


@pytest.mark.skipif(absent() is not None, reason=str(absent()))
def test_a_trained_network_reads_pixels_or_normalised_inputs() -> None:
    facts = facts_of("sdp_cifar_cnn_a_mix")
    x = torch.stack([torch.from_numpy(example.values()) for example in facts.examples(4)])
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (facts.mean, facts.std))
    pixels, normalised = (facts.graph(pixels=inside).to(torch.float64) for inside in (True, False))
    assert torch.allclose(run(pixels, x), run(normalised, (x - mean) / std), rtol=1e-5, atol=1e-5)
