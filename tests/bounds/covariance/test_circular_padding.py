"""Circular padding is exact on a torus without a gutter, and keeps only its gain where there is one."""

import itertools

import pytest
import torch

from certify.bounds.covariance.plan import compile_plan
from certify.bounds.covariance.positions import per_position
from certify.bounds.covariance.proof import prove
from certify.bounds.covariance.starts import closed_forms
from certify.bounds.covariance.steps import Bounded, Plan
from certify.bounds.facts import collect_facts
from certify.bounds.floor import jacobian
from certify.bounds.gains import combine_rules, gain_uppers
from certify.graph import Graph
from tests.bounds.small_networks import Build

AROUND = {"padding_mode": "circular"}


def plan_of(graph: Graph, *, images: bool = True) -> Plan:
    facts = collect_facts(graph)
    return compile_plan(facts, graph.output, "l2", gain_uppers(facts, combine_rules(facts)), images=images)


def norms_of_jacobians(graph: Graph) -> float:
    random = torch.Generator().manual_seed(1)
    points = torch.randn(20, *graph.input_shape, generator=random, dtype=torch.float64)
    return max(float(torch.linalg.matrix_norm(jacobian(graph.to(torch.float64), point), 2)) for point in points)


SHAPES = [  # kernel, stride, dilation, padding, groups, of a convolution of 2 channels of 6 x 4 pixels
    ((3, 3), (1, 1), (1, 1), [[1, 1], [1, 1]], 1),
    ((3, 3), (2, 2), (1, 1), [[1, 1], [1, 1]], 1),
    ((2, 4), (3, 2), (1, 1), [[1, 0], [2, 1]], 2),
    ((3, 2), (1, 1), (2, 3), [[2, 2], [1, 2]], 1),
    ((5, 3), (1, 1), (1, 1), [[4, 0], [0, 2]], 1),
    ((7, 1), (2, 1), (1, 1), [[3, 2], [0, 0]], 2),
    ((3, 3), (1, 1), (1, 1), [[1, 0], [1, 1]], 1),  # fewer outputs than pixels
]


@pytest.mark.parametrize("shape", SHAPES)
def test_one_convolution_is_exact(shape):
    kernel, stride, dilation, padding, groups = shape
    b = Build(2, 6, 4)
    weight = b.normal(4, 2 // groups, *kernel)
    b.conv(weight, stride=list(stride), dilation=list(dilation), padding=padding, groups=groups, **AROUND)
    b.add("relu")
    b.conv(b.normal(1, 4, 1, 1), padding=[[0, 0], [0, 0]])
    plan = plan_of(b.graph())
    assert plan.fallbacks == ()
    assert all(step.sides != (6, 4) or not isinstance(step, Bounded) for step in plan.steps)
    for multipliers in closed_forms(plan):
        assert norms_of_jacobians(b.graph()) <= prove(plan, multipliers).upper() * (1 + 1e-12)


@pytest.mark.parametrize("strides", list(itertools.product((1, 2), (1, 2))))
def test_linear_networks_have_their_norm(strides):
    b = Build(2, 4, 8)
    for stride in strides:
        b.conv(b.normal(2, 2, 3, 3), stride=[stride, stride], **AROUND)
    b.conv(b.normal(2, 2, 1, 1), padding=[[0, 0], [0, 0]])
    plan = plan_of(b.graph())
    truth = norms_of_jacobians(b.graph())
    assert plan.fallbacks == ()
    for multipliers in closed_forms(plan):
        assert truth <= prove(plan, multipliers).upper() * (1 + 1e-12) <= truth * (1 + 1e-9)


def classifier(*, skip: bool) -> Graph:
    b = Build(2, 6, 4)
    b.conv(b.normal(3, 2, 3, 3) / 3, **AROUND)
    first = b.add("relu")
    b.conv(b.normal(3, 3, 3, 3) / 4, **AROUND)
    b.add("gelu", approximate="none")
    second = b.conv(b.normal(3, 3, 5, 1) / 4, padding=[[2, 2], [0, 0]], **AROUND)
    if skip:
        b.add("add", first, second)
    b.conv(b.normal(4, 3, 2, 2) / 3, stride=[2, 2], padding=[[1, 0], [0, 1]], **AROUND)
    b.add("relu")
    b.add("reshape", shape=[-1, 4 * 3 * 2])
    b.linear(24, 3)
    return b.graph()


@pytest.mark.parametrize("skip", [False, True])
def test_the_torus_loses_nothing_beside_dense_matrices(skip):
    graph = classifier(skip=skip)
    torus, dense = plan_of(graph), plan_of(graph, images=False)
    assert torus.fallbacks == ()
    assert (6, 4) in {step.sides for step in torus.steps}
    for shared in closed_forms(torus):
        there, here = (prove(p, m).upper() for p, m in ((torus, shared), (dense, per_position(torus, shared, dense))))
        assert here * (1 - 1e-6) <= there <= here * (1 + 1e-6)
        assert norms_of_jacobians(graph) <= there * (1 + 1e-12)


@pytest.mark.parametrize("after", ["zeros", "circular, stride 5", "one pixel"])
def test_other_neighbours_and_strides_are_sound(after):
    b = Build(1, 6, 6)
    b.conv(b.normal(2, 1, 3, 3), **AROUND)
    b.add("relu")
    if after == "zeros":
        b.conv(b.normal(2, 2, 3, 3))
    elif after == "one pixel":
        b.conv(b.normal(2, 2, 6, 6), stride=[6, 6], padding=[[3, 0], [3, 0]], **AROUND)
    else:
        b.conv(b.normal(2, 2, 3, 3), stride=[5, 5], **AROUND)
    plan = plan_of(b.graph())
    assert bool(plan.fallbacks) == (after == "zeros")
    for multipliers in closed_forms(plan):
        assert norms_of_jacobians(b.graph()) <= prove(plan, multipliers).upper() * (1 + 1e-12)
