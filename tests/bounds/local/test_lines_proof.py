"""Proved linear relaxation: no real network leaves its bounds, in 60 digits and without a tolerance."""

from __future__ import annotations

import pytest
import torch

from certify.bounds.local.centres import centres_of
from certify.bounds.local.layers import Chain
from certify.bounds.local.lines import Bounds, Relaxation
from certify.bounds.local.lines_proof import Margins, ProvedRelaxation, prove_margins
from certify.graph import Graph
from tests.bounds.local.chains import chain, dense, normalised, residual
from tests.bounds.local.exact_networks import MP, pressing_points, real, run_exactly, size_of
from tests.bounds.small_networks import Build


def pooled(seed: int) -> Graph:
    b = Build(2, 4, 4, seed=seed)
    b.conv(b.normal(2, 2, 3, 3) / 3)
    b.add("relu")
    b.add("max_pool", kernel=[2, 2], stride=[2, 2], padding=[0, 0], dilation=[1, 1], ceil_mode=False)
    b.add("reshape", shape=[-1, 8])
    b.linear(8, 3)
    return b.graph()


def max_min(seed: int) -> Graph:
    b = Build(5, seed=seed)
    for inputs in (5, 6):
        b.linear(inputs, 6, scale=1.2)
        b.add("max_min", dim=1)
    b.linear(6, 3)
    return b.graph()


def affine(seed: int) -> Graph:
    b = Build(5, seed=seed)
    b.linear(5, 3)
    return b.graph()


NETWORKS = {
    "affine": affine,
    "dense": dense(),
    "residual": residual,
    "normalised": normalised,
    "pooled": pooled,
    "leaky": dense("leaky_relu", negative_slope=-0.3),
    "clamp": dense("clamp", min=-0.5, max=0.7),
    "tanh": dense("tanh"),
    "gelu": dense("gelu", approximate="none"),
    "softplus": dense("softplus", beta=2.0, threshold=30.0),
    "hardswish": dense("hardswish"),
    "max_min": max_min,
}


def prove_all(made: Chain, x, eps: float, norm: str, *, rounded_input: bool = False) -> tuple[list[Bounds], Margins]:
    found = ProvedRelaxation(made, centres_of(made, x, rounded_input=rounded_input), norm)
    below: list[Bounds] = []
    radius = torch.full((len(x),), eps, dtype=torch.float64)
    for k in range(len(made.layers)):
        below.append(found.bounds(k, radius, below))
    return below, found.margins(made.run(x).argmax(1), below[:-1])


def points(graph: Graph, made: Chain, x, eps: float, norm: str, count: int, seed: int):
    """Yield (the distance, the exact values of the graph) at points that press on the bounds."""
    for delta in pressing_points(made, x, eps, norm, count, seed):
        yield size_of(delta, norm), run_exactly(graph, real(x.numpy()) + real(delta.numpy()))


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_no_point_of_the_ball_leaves_the_bounds_or_falls_below_the_margins(name, norm):
    _check_ball(name, norm, seed=7, count=2)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_no_point_of_many_balls_leaves_the_bounds_or_falls_below_the_margins(name, norm):
    for seed in range(25):
        _check_ball(name, norm, seed, count=6)


def _check_ball(name: str, norm: str, seed: int, count: int) -> None:
    graph = NETWORKS[name](seed)
    made = chain(graph)
    x = torch.randn(1, *graph.input_shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for eps in (0.02, 0.4):
        below, margins = prove_all(made, x, eps, norm)
        chosen = int(made.run(x).argmax())
        for rho, values in points(graph, made, x[0], eps, norm, count, seed):
            assert _check_bounds(graph, made, below, values) > 0
            logits = values[graph.output]
            for j, v, s in zip(margins.others[0], margins.lower[0], margins.slope[0], strict=True):
                assert logits[chosen] - logits[int(j)] >= MP.mpf(float(v)) - MP.mpf(float(s)) * rho


def _check_bounds(graph: Graph, made: Chain, below: list[Bounds], values: dict) -> int:
    """Hold the input of every activation, and every value that is carried, against the bounds of its rows."""
    checked = 0
    for layer, (lower, upper) in zip(made.layers, below, strict=True):
        for segment in layer.segments:
            operation = graph.by_name[segment.value]
            if operation.kind in ("max_pool", "max_min"):
                continue  # its pieces are no values of the graph
            own = operation.kind == segment.activation.kind
            exact = values[operation.inputs[0] if own else segment.value].reshape(-1)
            low, high = (real(bound[0, segment.rows].numpy()) for bound in (lower, upper))
            assert (exact >= low).all()
            assert (exact <= high).all()
            checked += len(exact)
    return checked


@pytest.mark.parametrize("name", ["dense", "normalised", "residual", "gelu"])
def test_proved_numbers_stand_just_outside_the_computed_ones(name):
    graph = NETWORKS[name](3)
    made = chain(graph)
    x = torch.randn(2, *graph.input_shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    eps = torch.full((2,), 0.5, dtype=torch.float64)
    proved, margins = prove_all(made, x, 0.5, "l2")
    plain, below, compared = Relaxation.at(made, x), [], 0
    for k, (lower, upper) in enumerate(proved):
        low, high = plain.bounds(k, eps, below)
        below.append((low, high))
        assert bool((lower <= low).all())
        assert bool((upper >= high).all())
        rows = torch.zeros_like(low, dtype=torch.bool).index_fill(1, made.layers[k].bent, True)
        if made.layers[k].is_relu:  # one bound of a relu that does not bend is anything that holds
            rows &= (low < 0.0) & (high > 0.0)
        compared += int(rows.sum())
        torch.testing.assert_close(lower[rows], low[rows], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(upper[rows], high[rows], rtol=1e-11, atol=1e-11)
    assert compared > 0
    last = made.layers[-1]
    chosen = made.run(x).argmax(1)
    rows = last.matrix[chosen][:, None] - last.matrix[margins.others]
    v, s, _ = plain.margins(rows, last.bias[chosen][:, None] - last.bias[margins.others], below[:-1])
    torch.testing.assert_close(margins.lower, v, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(margins.slope, s, rtol=1e-10, atol=0.0)


def test_an_affine_network_has_the_exact_radius_to_ten_digits():
    graph = affine(1)
    made = chain(graph)
    x = torch.ones(1, 5, dtype=torch.float64)
    chosen = made.run(x).argmax(1)
    found = prove_margins(made, x, chosen, torch.tensor([9.0], dtype=torch.float64))
    W, b = (graph.tensors[f"v1.{role}"] for role in ("weight", "bias"))
    for j, v, s in zip(found.others[0], found.lower[0], found.slope[0], strict=True):
        w = real((W[chosen[0]]).numpy()) - real(W[j].numpy())
        margin = (w * real(x[0].numpy())).sum() + MP.mpf(float(b[chosen[0]])) - MP.mpf(float(b[j]))
        exact = margin / MP.sqrt((w * w).sum())
        proved = MP.mpf(float(v)) / MP.mpf(float(s))
        assert proved <= exact
        assert proved >= exact * (1 - MP.mpf(10) ** -10)


def test_kept_rows_hold_on_the_ball():
    graph = dense()(5)
    made = chain(graph)
    x = torch.randn(1, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    _, margins = prove_all(made, x, 0.3, "l2")
    chosen, activations = int(made.run(x).argmax()), [op.name for op in graph if op.kind == "relu"]
    for _, values in points(graph, made, x[0], 0.3, "l2", 4, 5):
        logits = values[graph.output]
        for k, value in enumerate(activations):
            rows, const = margins.kept[k]
            for j, row, c in zip(margins.others[0], rows[0], const[0], strict=True):
                here = (real(row.numpy()) * values[value]).sum() + MP.mpf(float(c))
                assert logits[chosen] - logits[int(j)] >= here


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_prove_nothing(bad):
    made = chain(dense()(0))
    x = torch.zeros(1, 5, dtype=torch.float64)
    eps = torch.tensor([0.1], dtype=torch.float64)
    chosen = torch.tensor([0])
    for broken_x, broken_eps in ((torch.full_like(x, bad), eps), (x, eps * bad)):
        found = prove_margins(made, broken_x, chosen, broken_eps)
        assert not bool((found.lower > 0.0).any())
    found = ProvedRelaxation(made, centres_of(made, x, rounded_input=False))
    below = [found.bounds(0, eps, [])]
    broken = (below[0][0].clone().fill_(bad), below[0][1])
    low, high = found.bounds(1, eps, [broken])
    assert not bool((low > -float("inf")).any())
    assert not bool((high < float("inf")).any())


def test_inputs_must_be_float64():
    with pytest.raises(ValueError, match="float64"):
        centres_of(chain(affine(0)), torch.zeros(1, 5), rounded_input=False)
