"""Proved local certificates: no point of the ball, in 60 digits, has a smaller margin; known radii; refusals."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from certify.bounds.local.centres import centres_of
from certify.bounds.local.certify import LocalNetwork, limiting, word
from certify.bounds.local.chain import Chain
from certify.bounds.local.recursion_proof import Certificate
from certify.graph import Graph
from tests.bounds.local.chains import chain, dense, normalised, residual
from tests.bounds.local.exact_networks import MP, pressing_points, real, run_exactly, size_of
from tests.bounds.small_networks import Build

NETWORKS = {
    "dense": dense(),
    "deep": dense(widths=(5, 8, 8, 8, 8)),
    "one hidden layer": dense(widths=(5, 12)),
    "residual": residual,
    "normalised": normalised,
    "leaky": dense("leaky_relu", negative_slope=0.1),
    "clamp": dense("clamp", min=-0.5, max=0.7),
    "tanh": dense("tanh"),
    "gelu": dense("gelu", approximate="none"),
}


def centre(graph: Graph, made: Chain, seed: int) -> torch.Tensor:
    return torch.randn(1, *graph.input_shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("norm", "effort"), [("l2", "default"), ("l2", "fast"), ("linf", "default")])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_no_margin_in_the_ball_is_below_its_certificate(name, norm, effort):
    graph = NETWORKS[name](11)
    made = chain(graph)
    x = centre(graph, made, 11)
    y = int(made.run(x).argmax())
    (found,) = LocalNetwork(made, norm, effort).certify(x, torch.tensor([y]))
    others = [j for j in range(made.outputs) if j != y]
    ball = min(one.ball for one in found)
    assert ball > 0.0
    for delta in pressing_points(made, x[0], min(ball, 1e3), norm, 2, 11):
        logits, rho = run_exactly(graph, real(x[0].numpy()) + real(delta.numpy()))[graph.output], size_of(delta, norm)
        for j, one in zip(others, found, strict=True):
            assert logits[y] - logits[j] >= MP.mpf(one.v) - MP.mpf(one.s) * rho
    radius = min(one.radius for one in found)
    for delta in pressing_points(made, x[0], radius, norm, 1, 12):
        logits = run_exactly(graph, real(x[0].numpy()) + real(delta.numpy()))[graph.output]
        assert all(logits[y] >= logits[j] for j in others)


def two_convolutions(kind: str, **details: object):
    """Three hidden layers behind a normalisation, the first two of them convolutions."""

    def build(seed: int) -> Graph:
        b = Build(2, 5, 4, seed=seed)
        b.add("normalize", mean=b.normal(2, 1, 1), std=b.positive(2, 1, 1))
        b.conv(b.normal(4, 2, 3, 3) / 3)
        b.add(kind, **details)
        b.conv(b.normal(3, 4, 2, 2) / 3, stride=[2, 1], padding=[[1, 0], [0, 1]])
        b.add(kind, **details)
        b.add("reshape", shape=[-1, 36])
        b.linear(36, 5, scale=2.0)
        b.add(kind, **details)
        b.linear(5, 3)
        return b.graph()

    return build


LARGE = {"relu": two_convolutions("relu"), "leaky": two_convolutions("leaky_relu", negative_slope=0.1)}


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", ["relu", pytest.param("leaky", marks=pytest.mark.slow)])
def test_large_networks_are_certified_in_factors(name, norm, monkeypatch):
    """The ways of layers with many rows, on a small network: as good as its matrices, and attacked in 60 digits."""
    graph = LARGE[name](3)
    made = chain(graph)
    x = torch.cat([centre(graph, made, seed) for seed in range(3)])
    y = made.run(x).argmax(1)
    plainly = LocalNetwork(made, norm).certify(x, y)
    monkeypatch.setattr("certify.bounds.local.push_proof.LEAST_FACTORED", 1)
    monkeypatch.setattr("certify.bounds.local.ascent.MOST_CUT_ROWS", 0)
    network = LocalNetwork(made, norm)
    assert network.front.in_factors
    for n, (row, other) in enumerate(zip(network.certify(x, y), plainly, strict=True)):
        radius = min(one.radius for one in row)
        assert radius >= 0.97 * min(one.radius for one in other) > 0.0
        others = [j for j in range(3) if j != int(y[n])]
        for delta in pressing_points(made, x[n], radius, norm, 1, n):
            logits, rho = (
                run_exactly(graph, real(x[n].numpy()) + real(delta.numpy()))[graph.output],
                size_of(delta, norm),
            )
            for j, one in zip(others, row, strict=True):
                assert logits[int(y[n])] - logits[j] >= MP.mpf(one.v) - MP.mpf(one.s) * rho


@pytest.mark.parametrize("bias", [0.0, 200.0])
def test_in_factors_what_does_not_bend_counts_in_full(bias, monkeypatch):
    """The bounds of the layer behind, which reach z +- eps ||grad z_j|| and no less; 200 keeps all relus before on."""
    monkeypatch.setattr("certify.bounds.local.push_proof.LEAST_FACTORED", 1)
    monkeypatch.setattr("certify.bounds.local.ascent.MOST_CUT_ROWS", 0)
    graph, eps = LARGE["relu"](3), 1e-3
    made = chain(graph)
    for layer in made.layers[:2]:
        layer.bias.add_(bias)
    x = centre(graph, made, 1)
    J = torch.autograd.functional.jacobian(lambda p: made.pre_activations(p[None])[2][0], x[0]).flatten(1)
    lower, upper = LocalNetwork(made).bounds(centres_of(made, x, rounded_input=False), eps)[2]
    z, reach = made.pre_activations(x)[2], eps * J.norm(dim=1) * (1 - 1e-9)
    assert bool((lower <= z - reach).all())
    assert bool((upper >= z + reach).all())


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        *(("dense", "l2"), ("deep", "l2"), ("deep", "linf"), ("residual", "l2"), ("normalised", "l2")),
        *(pytest.param(name, "linf", marks=pytest.mark.slow) for name in ("residual", "normalised")),
    ],
)
def test_the_recursion_certifies_more_than_linear_relaxation(name, norm):
    graph = NETWORKS[name](5)
    made = chain(graph)
    x = torch.cat([centre(graph, made, seed) for seed in range(6)])
    y = made.run(x).argmax(1)
    radii = {}
    for effort in ("fast", "default"):
        found = LocalNetwork(made, norm, effort).certify(x, y)
        radii[effort] = torch.tensor([min(one.radius for one in row) for row in found])
    assert bool((radii["default"] >= 0.99 * radii["fast"]).all())
    assert float(radii["default"].mean()) > 1.005 * float(radii["fast"].mean())


def test_a_network_that_is_affine_near_the_example_has_its_exact_radius_from_below():
    b = Build(3)
    W, V = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 1.0]]), torch.tensor([[1.0, 0.5], [0.25, 1.0]])
    b.add("linear", weight=W.double(), bias=torch.tensor([20.0, 20.0]).double())
    b.add("relu")
    b.add("linear", weight=V.double(), bias=torch.tensor([1.0, 0.0]).double())
    graph = b.graph()
    made = chain(graph)
    x = torch.tensor([[1.0, 0.5, 0.25]], dtype=torch.float64)
    y = made.run(x).argmax(1)
    (found,) = LocalNetwork(made).certify(x, y)
    w = real(((V[0] - V[1]).double() @ W.double()).numpy())
    exact = ((w * real(x[0].numpy())).sum() + MP.mpf(20) * (MP.mpf("0.75") - MP.mpf("0.5")) + 1) / MP.sqrt(
        (w * w).sum()
    )
    assert exact * (1 - MP.mpf(10) ** -9) <= found[0].radius <= exact


@pytest.mark.parametrize("width", [0.5, 2.0])
def test_a_hidden_ridge_is_not_overlooked(width):
    """The gradient is zero at the example, and the margin falls to 0 on the flank of a ridge, 3 - width / 2 away."""
    c, b = 3.0, Build(4)
    u = torch.full((1, 4), 0.5, dtype=torch.float64)
    shift = torch.tensor([-c + width, -c, -c - width], dtype=torch.float64)
    b.add("linear", weight=u.repeat(3, 1), bias=shift)
    b.add("relu")
    ridge = torch.tensor([[0.0, 0.0, 0.0], [2.0, -4.0, 2.0]], dtype=torch.float64) / width
    b.add("linear", weight=ridge, bias=torch.tensor([0.0, -1.0], dtype=torch.float64))
    made = chain(b.graph())
    for effort in ("fast", "default", "max"):
        (found,) = LocalNetwork(made, "l2", effort).certify(torch.zeros(1, 4, dtype=torch.float64), torch.tensor([0]))
        assert 0.0 < found[0].radius <= c - width / 2


@pytest.mark.parametrize("bias", [[1.0, 1.0], [math.nan, 1.0]])
def test_ties_and_nan_certify_nothing(bias):
    b = Build(2)
    b.linear(2, 3)
    b.add("relu")
    b.add("linear", weight=torch.zeros(2, 3).double(), bias=torch.ones(2).double())
    made = chain(b.graph())
    made.layers[-1].bias.copy_(torch.tensor(bias))
    (found,) = LocalNetwork(made).certify(torch.zeros(1, 2, dtype=torch.float64), torch.tensor([1]))
    assert found[0].radius == 0.0


def test_a_gain_over_all_inputs_takes_part():
    graph = dense()(2)
    made = chain(graph)
    x = centre(graph, made, 2)
    y = made.run(x).argmax(1)
    gains = torch.tensor([[1e-3, math.inf, math.inf]], dtype=torch.float64)
    (found,) = LocalNetwork(made).certify(x, y, gains=gains)
    assert word(found[0]) == "global pairs"
    assert found[0].ball == math.inf
    assert all(word(one).startswith("local") for one in found[1:])


def test_the_limiting_pair_has_the_smallest_radius_after_the_errors():
    pairs = [Certificate(1.0, 1.0, -1, 0.5), Certificate(1.0, 4.0, -1, 0.5), Certificate(0.2, 0.1, -1, 0.5)]
    assert limiting(pairs, 0.0) == (1, pairs[1])
    assert limiting(pairs, 0.19)[0] == 2
    assert limiting(pairs, 3.0) == (2, pairs[2])


def test_certificates_refuse_what_is_not_a_number():
    for v, s, ball in (
        (math.nan, 1.0, 1.0),
        (1.0, math.nan, 1.0),
        (1.0, 1.0, math.nan),
        (1.0, -1.0, 1.0),
        (0.0, 1.0, 1.0),
    ):
        assert Certificate(v, s, 0, ball).radius == 0.0
    assert Certificate(1.0, 0.0, 0, 2.0).radius == 2.0
    assert Certificate(1.0, math.inf, 0, 2.0).radius == 0.0


def test_layers_that_are_too_large_are_left_to_linear_relaxation(monkeypatch):
    made = chain(dense()(3))
    assert LocalNetwork(made).settings.trials > 0
    monkeypatch.setattr("certify.bounds.local.certify.MOST_ROWS", 8)
    network = LocalNetwork(made)
    assert network.settings.trials == 0
    x = centre(dense()(3), made, 3)
    (found,) = network.certify(x, made.run(x).argmax(1))
    assert {word(one) for one in found} == {"local lines"}


def test_a_recursion_without_a_proof_falls_back_on_linear_relaxation(monkeypatch):
    made = chain(dense()(3))
    x = centre(dense()(3), made, 3)
    y = made.run(x).argmax(1)
    (proved,) = LocalNetwork(made, "l2", "fast").certify(x, y)
    monkeypatch.setattr("certify.bounds.local.ascent_proof.push_upper", lambda *_: None)
    (found,) = LocalNetwork(made).certify(x, y)
    assert {word(one) for one in found} == {"local lines"}
    assert min(one.radius for one in found) >= 0.95 * min(one.radius for one in proved)


@pytest.mark.parametrize("power", [-90, 70])
def test_units_do_not_matter(power):
    """Weights that single precision cannot square: searched again in double precision."""
    graph = dense()(9)
    made = chain(graph)
    x = centre(graph, made, 9)
    y = made.run(x).argmax(1)
    (expected,) = LocalNetwork(made).certify(x, y)
    tensors = {**graph.tensors, "v1.weight": graph.tensors["v1.weight"] * 2.0**power}
    scaled = chain(replace(graph, tensors=tensors))
    (found,) = LocalNetwork(scaled).certify(x * 2.0**-power, y)
    radii = [min(one.radius for one in row) for row in (expected, found)]
    assert radii[1] * 2.0**power == pytest.approx(radii[0], rel=0.02)
