"""Multipliers for every pixel: never worse than the shared ones they begin at, and sound like any others."""

import pytest
import torch

from certify.bounds.covariance.network import covariance_bound
from certify.bounds.covariance.optimise import optimise
from certify.bounds.covariance.plan import compile_plan
from certify.bounds.covariance.positions import per_position
from certify.bounds.covariance.proof import prove
from certify.bounds.covariance.starts import closed_forms
from certify.bounds.covariance.steps import Plan
from certify.bounds.facts import collect_facts
from certify.bounds.floor import jacobian
from certify.bounds.gains import combine_rules, gain_uppers
from certify.graph import Graph
from tests.bounds.small_networks import Build


def plain(stride: int = 2) -> Graph:
    b = Build(2, 5, 4)
    b.conv(b.normal(3, 2, 3, 3) / 3)
    b.add("relu")
    b.conv(b.normal(3, 3, 3, 3) / 4, stride=[stride, stride])
    b.add("relu")
    b.add("mean", dims=[2, 3], keepdim=False)
    b.linear(3, 3)
    return b.graph()


def residual() -> Graph:
    b = Build(2, 5, 5)
    b.conv(b.normal(2, 2, 3, 3) / 3)
    skip = b.add("relu")
    b.conv(b.normal(2, 2, 3, 3) / 3)
    b.add("leaky_relu", negative_slope=0.1)
    branch = b.conv(b.normal(2, 2, 3, 3) / 3)
    b.add("add", skip, branch)
    b.add("relu")
    b.add("reshape", shape=[-1, 50])
    b.linear(50, 3)
    return b.graph()


def cropped() -> Graph:
    b = Build(2, 5, 5)
    b.conv(b.normal(3, 2, 3, 3) / 3)
    b.conv(b.normal(2, 3, 3, 3) / 3)
    b.add("relu")
    b.add("reshape", shape=[-1, 50])
    b.linear(50, 3)
    return b.graph()


def pooled() -> Graph:
    b = Build(2, 6, 6)
    b.conv(b.normal(3, 2, 3, 3) / 3)
    b.add("relu")
    window = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], "dilation": [1, 1], "ceil_mode": False}
    b.add("max_pool", **window)
    b.conv(b.normal(3, 3, 3, 3) / 4)
    b.add("relu")
    b.add("reshape", shape=[-1, 27])
    b.linear(27, 3)
    return b.graph()


NETWORKS = {"plain": plain, "residual": residual, "cropped": cropped, "pooled": pooled}


def plans_of(graph: Graph, norm: str = "l2") -> tuple[Plan, Plan]:
    facts = collect_facts(graph)
    gains = gain_uppers(facts, combine_rules(facts))
    return tuple(compile_plan(facts, graph.output, norm, gains, images=images) for images in (True, False))


@pytest.mark.parametrize("name", ["plain", "residual", "cropped"])
def test_shared_multipliers_at_every_pixel_give_no_more_than_on_the_torus(name):
    torus, dense = plans_of(NETWORKS[name]())
    assert any(step.sides for step in torus.steps)
    assert not any(step.sides for step in dense.steps)
    for shared in (*closed_forms(torus), optimise(torus, "fast")):
        assert prove(dense, per_position(torus, shared, dense)).upper() <= prove(torus, shared).upper()


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", NETWORKS)
def test_multipliers_of_every_pixel_bound_jacobians(name, norm):
    graph = NETWORKS[name]()
    torus, dense = plans_of(graph, norm)
    copied = per_position(torus, optimise(torus, "fast"), dense)
    proved = prove(dense, optimise(dense, "fast", warm=copied))
    random = torch.Generator().manual_seed(0)
    points = torch.randn(20, *graph.input_shape, generator=random, dtype=torch.float64)
    matrices = torch.stack([jacobian(graph.to(torch.float64), point) for point in points])
    if norm == "l2":
        assert float(torch.linalg.matrix_norm(matrices, 2).max()) <= proved.upper() * (1 + 1e-12)
    else:
        assert bool((matrices.abs().sum(2).amax(0) <= proved.row_uppers() * (1 + 1e-12)).all())


@pytest.mark.slow
def test_most_effort_goes_below_what_shared_multipliers_reach():
    graph = plain(stride=1)
    facts = collect_facts(graph)
    gains = gain_uppers(facts, combine_rules(facts))
    shared = prove(torus := plans_of(graph)[0], optimise(torus, "max")).upper()
    found = covariance_bound(facts, graph.output, "l2", gains, "max", pairs=True)
    assert found.upper < 0.99 * shared
    once = covariance_bound(facts, graph.output, "l2", gains, "default", pairs=True)
    assert bool((found.pair_uppers <= once.pair_uppers * (1 + 1e-6)).all())
