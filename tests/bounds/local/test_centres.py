"""The errors of the pre-activations at a centre hold in 60 digits, do not explode with depth, and every term counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from certify.bounds.local.activations import IDENTITY, RELU, Activation
from certify.bounds.local.centres import centres_of
from certify.bounds.local.layers import Chain, Layer, Segment
from certify.graph import Graph
from tests.bounds.local.chains import chain
from tests.bounds.local.exact_networks import ACTIVATIONS, MP, real, run_exactly
from tests.bounds.small_networks import Build


def network(kind: str, details: dict, seed: int) -> Graph:
    b = Build(6, seed=seed)
    b.add("normalize", mean=b.normal(6), std=b.positive(6))
    norm = {"mean": b.normal(9), "variance": b.positive(9), "weight": b.normal(9), "bias": b.normal(9), "eps": 1e-3}
    b.linear(6, 9)
    b.add("batch_norm", **norm)
    b.add(kind, **details)
    b.linear(9, 7)
    b.add(kind, **details)
    b.linear(7, 4)
    return b.graph()


KINDS = {
    "relu": {},
    "leaky_relu": {"negative_slope": -2.5},
    "clamp": {"min": -0.25, "max": 0.5},
    "tanh": {},
    "gelu": {"approximate": "none"},
    "softplus": {"beta": 2.0, "threshold": 20.0},
    "selu": {},
    "hardsigmoid": {},
}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("eight_bit", [False, True])
def test_errors_hold_against_sixty_digits(kind, eight_bit):
    for seed in range(3):
        graph = network(kind, KINDS[kind], seed)
        made = chain(graph)
        stored = torch.randint(0, 256, (6,), generator=torch.Generator().manual_seed(seed)).double()
        x = stored / 255.0 if eight_bit else torch.randn(6, dtype=torch.float64)
        found = centres_of(made, x[None], rounded_input=eight_bit)
        exact_x = real(stored.numpy()) / 255 if eight_bit else real(x.numpy())
        assert (abs(exact_x - real(x.numpy())) <= real(found.x_error[0].numpy())).all()
        values = run_exactly(graph, exact_x)
        names = [operation.name for operation in graph if operation.kind == kind]
        before = [*(graph.by_name[name].inputs[0] for name in names), graph.output]
        for z, error, value in zip(found.z, found.z_error, before, strict=True):
            assert (abs(values[value] - real(z[0].numpy())) <= real(error[0].numpy())).all()
        for h, error, value in zip(found.h, found.h_error, [*names, graph.output], strict=True):
            assert (abs(values[value] - real(h[0].numpy())) <= real(error[0].numpy())).all()


def test_errors_grow_with_the_norms_and_not_with_their_absolute_values():
    """Twenty orthogonal layers of 64 rows: | |W| | would grow the error by 6 each, 1e15 in all."""
    b = Build(64, seed=0)
    for _ in range(20):
        q, _ = torch.linalg.qr(b.normal(64, 64))
        b.add("linear", weight=q.contiguous())
        b.add("relu")
    found = centres_of(chain(b.graph()), torch.ones(1, 64, dtype=torch.float64), rounded_input=False)
    assert float(found.z_error[-1].max()) < 1e-11


def layer(W, activation=IDENTITY, **changes) -> Layer:
    W = torch.tensor(W, dtype=torch.float64)
    zeros = torch.zeros(len(W), dtype=torch.float64)
    made = Layer(W.shape[1], zeros, zeros, 0.0, (Segment(0, len(W), activation, "v"),), dense=W)
    return replace(made, **changes)


def test_the_relative_error_of_weights_is_in():
    found = centres_of(Chain((layer([[3.0, -4.0]], error=0.01),), (2,)), torch.ones(1, 2).double(), rounded_input=False)
    assert float(found.z_error[0]) >= 0.07


def test_the_error_of_biases_is_in():
    found = centres_of(
        Chain((layer([[1.0]], bias_error=torch.tensor([0.5]).double()),), (1,)),
        torch.ones(1, 1).double(),
        rounded_input=False,
    )
    assert float(found.z_error[0]) >= 0.5


def test_an_error_passes_every_layer_with_its_gain_and_its_slope():
    """0.5 of bias error, times slope 3, times weight 2."""
    steep = Activation("leaky_relu", {"negative_slope": 3.0})
    first = layer([[1.0]], steep, bias_error=torch.tensor([0.5]).double())
    found = centres_of(Chain((first, layer([[2.0]])), (1,)), -torch.ones(1, 1).double(), rounded_input=False)
    assert 3.0 <= float(found.z_error[1]) < 3.0001


def test_a_relu_that_is_surely_off_stops_an_error():
    first = layer([[1.0]], RELU, bias_error=torch.tensor([0.5]).double())
    found = centres_of(Chain((first, layer([[2.0]])), (1,)), -torch.ones(1, 1).double(), rounded_input=False)
    assert float(found.z_error[1]) < 1e-300


def test_the_error_of_the_activation_itself_is_in():
    """softplus in torch is the identity above its threshold: off by exp(-20) there."""
    wide = Activation("softplus", {"beta": 1.0, "threshold": 20.0})
    x = torch.full((1, 1), 20.5, dtype=torch.float64)
    found = centres_of(Chain((layer([[1.0]], wide), layer([[1.0]])), (1,)), x, rounded_input=False)
    exact = ACTIVATIONS["softplus"](MP.mpf(20.5), {"beta": 1.0})
    assert abs(exact - MP.mpf(float(found.z[1]))) > MP.mpf(10) ** -10
    assert abs(exact - MP.mpf(float(found.z[1]))) <= MP.mpf(float(found.z_error[1]))


def test_the_rounding_of_sums_is_in():
    """1 + 2^-53 is rounded to 1: the error must cover what is lost."""
    found = centres_of(Chain((layer([[1.0, 2.0**-53]]),), (2,)), torch.ones(1, 2).double(), rounded_input=False)
    assert abs(MP.mpf(float(found.z[0])) - 1 - MP.mpf(2) ** -53) <= MP.mpf(float(found.z_error[0]))
    assert float(found.z_error[0]) >= 2.0**-53
