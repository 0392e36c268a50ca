"""The error matrices of a plan against the same maps in 40 digits, tap by tap, and their size against the map's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import mpmath
import pytest
import torch
from torch import Tensor

from certify.bounds.covariance.plan import compile_plan
from certify.bounds.covariance.steps import Flatten, Linear, Plan
from certify.bounds.facts import collect_structure
from certify.graph import Graph
from tests.bounds.covariance.plain_evaluation import frequencies
from tests.bounds.small_networks import Build

Taps = dict[tuple[int, ...], mpmath.matrix]  # a map as its matrices per shift: y[j] = sum over shifts of A x[j + shift]


@pytest.fixture(autouse=True)
def forty_digits():
    with mpmath.workdps(40):
        yield


def exact(weight: Tensor) -> mpmath.matrix:
    return mpmath.matrix(weight.tolist())


def kernel_taps(weight: Tensor, before: Sequence[int]) -> Taps:
    found: Taps = {}
    for tap in itertools.product(*map(range, weight.shape[2:])):
        shift = tuple(a - p for a, p in zip(tap, before, strict=True))
        found[shift] = exact(weight[(slice(None), slice(None), *tap)])
    return found


def times(after: Taps, before: Taps) -> Taps:
    found: Taps = {}
    for (a, A), (b, B) in itertools.product(after.items(), before.items()):
        shift = tuple(x + y for x, y in zip(a, b, strict=True))
        found[shift] = found[shift] + A * B if shift in found else A * B
    return found


def plus(first: Taps, second: Taps) -> Taps:
    shifts = [*first, *(shift for shift in second if shift not in first)]
    return {s: first[s] + second[s] if s in first and s in second else first.get(s, second.get(s)) for s in shifts}


def diagonal(entries: Sequence[mpmath.mpf]) -> Taps:
    return {(0, 0): mpmath.diag(list(entries))}


def symbol(taps: Taps, sides: tuple[int, ...], frequency: tuple[int, ...]) -> mpmath.matrix:
    total = None
    for shift, A in taps.items():
        turn = sum(mpmath.mpf(2 * f * x) / n for f, x, n in zip(frequency, shift, sides, strict=True))
        part = A * mpmath.expjpi(turn)
        total = part if total is None else total + part
    return total


def check(step: Linear | Flatten, sides: tuple[int, ...], truth: Callable[[tuple[int, ...]], mpmath.matrix]) -> None:
    places = frequencies(sides)
    for place in range(0, len(places), max(1, len(places) // 5)):
        expected, found = truth(places[place]), step.matrix[place % len(step.matrix)]
        for i, j in itertools.product(range(expected.rows), range(expected.cols)):
            gap = abs(mpmath.mpc(complex(found[i, j])) - expected[i, j])
            assert gap <= mpmath.mpf(float(step.error[i, j]))
    assert float(step.error.max()) <= 1e-12 * float(step.matrix.abs().max())


def plan_of(graph: Graph, value: str | None = None) -> Plan:
    facts = collect_structure(graph)
    plan = compile_plan(facts, value or graph.output, "l2", dict.fromkeys(facts.shapes, 1.0))
    assert isinstance(plan, Plan)
    return plan


def test_a_chain_of_linear_operations_is_within_its_error():
    """Normalisation, a strided convolution, batch norm, a constant, a convolution on coarse pixels: one map."""
    b = Build(2, 7, 5, seed=1)
    std = b.positive(2, 1, 1)
    b.add("normalize", mean=b.normal(2, 1, 1), std=std)
    first, second = b.normal(3, 2, 3, 3), b.normal(2, 3, 2, 2)
    b.conv(first, stride=[2, 1])
    gamma, variance, eps = b.normal(3), b.positive(3), 1e-3
    normed = b.add("batch_norm", mean=b.normal(3), variance=variance, weight=gamma, eps=eps)
    b.add("mul", b.constant(0.3), normed)
    b.conv(second, padding=[[0, 0], [0, 0]], dilation=[2, 1])
    plan = plan_of(b.graph())
    step = next(step for step in plan.steps if isinstance(step, Linear))
    rows = zip(gamma.tolist(), variance.tolist(), strict=True)
    scales = [mpmath.mpf(0.3) * mpmath.mpf(g) / mpmath.sqrt(mpmath.mpf(v) + mpmath.mpf(eps)) for g, v in rows]
    taps = times(kernel_taps(first, (1, 1)), diagonal([1 / mpmath.mpf(s) for s in std.flatten().tolist()]))
    taps = times(diagonal(scales), taps)
    coarse = {(2 * 2 * x, y): A for (x, y), A in kernel_taps(second, (0, 0)).items()}  # dilation and stride
    taps = times(coarse, taps)
    check(step, step.sides, lambda f: symbol(taps, step.sides, f))


def test_branches_that_are_added_are_within_their_error():
    b = Build(2, 6, 4, seed=2)
    first, second = b.normal(3, 2, 3, 1), b.normal(3, 2, 1, 1)
    left = b.conv(first, "x", padding=[[1, 1], [0, 0]])
    right = b.add("pad", "x", padding=[[1, 0], [1, 1]], mode="constant", value=0.0)
    right = b.conv(second, b.add("slice", right, dim=2, start=1, stop=7, step=1), padding=[[0, 0], [0, 0]])
    right = b.add("slice", right, dim=3, start=1, stop=5, step=1)
    b.add("sub", left, right)
    plan = plan_of(b.graph())
    (step,) = (step for step in plan.steps if isinstance(step, Linear))
    minus = {(0, 0): -exact(second[:, :, 0, 0])}
    taps = plus(kernel_taps(first, (1, 0)), minus)
    check(step, step.sides, lambda f: symbol(taps, step.sides, f))


@pytest.mark.parametrize("head", ["linear", "mean", "two linear"])
def test_rows_of_an_image_are_within_their_error(head):
    b = Build(1, 5, 4, seed=3)
    kernel = b.normal(2, 1, 3, 2)
    b.conv(kernel, padding=[[1, 1], [0, 1]])
    if head == "mean":
        b.add("mean", dims=[2, 3], keepdim=False)
        weights = [b.normal(3, 2)]
        whole = (weights[0][:, :, None] * torch.ones(20)).double()
    else:
        b.add("reshape", shape=[-1, 40])
        weights = [b.normal(3, 40)] if head == "linear" else [b.normal(4, 40), b.normal(3, 4)]
        whole = weights[0]
    for weight in weights:
        b.add("linear", weight=weight)
    plan = plan_of(b.graph())
    (step,) = (step for step in plan.steps if isinstance(step, Flatten))
    sides = step.source_sides
    pixels = list(itertools.product(range(5), range(4)))
    factor = mpmath.mpf(1) / 20 if head == "mean" else mpmath.mpf(1)
    last = exact(weights[1]) if head == "two linear" else mpmath.eye(whole.shape[0])
    per_pixel = whole.reshape(whole.shape[0], 2, 20)
    dense: Taps = {x: last * exact(per_pixel[:, :, i]) * factor for i, x in enumerate(pixels)}
    taps = times(dense, kernel_taps(kernel, (1, 0)))
    check(step, sides, lambda f: symbol(taps, sides, f))


def test_an_average_of_seventh_parts_is_within_its_error():
    b = Build(1, 7, 7)
    b.add(
        "avg_pool", kernel=[7, 1], stride=[1, 1], padding=[3, 0], ceil_mode=False, count_include_pad=True, divisor=None
    )
    plan = plan_of(b.graph())
    (step,) = (step for step in plan.steps if isinstance(step, Linear))
    taps = {(a - 3, 0): mpmath.matrix([[mpmath.mpf(1) / 7]]) for a in range(7)}
    check(step, step.sides, lambda f: symbol(taps, step.sides, f))


def test_dense_chains_are_within_their_error():
    b = Build(9, seed=5)
    weights = [b.normal(7, 9), b.normal(8, 7), b.normal(3, 8)]
    for weight in weights:
        b.add("linear", weight=weight)
    gamma, variance = b.normal(3), b.positive(3)
    b.add("batch_norm", mean=b.normal(3), variance=variance, weight=gamma, eps=0.0)
    (_, step) = plan_of(b.graph()).steps
    rows = zip(gamma.tolist(), variance.tolist(), strict=True)
    truth = mpmath.diag([mpmath.mpf(g) / mpmath.sqrt(mpmath.mpf(v)) for g, v in rows])
    for weight in reversed(weights):
        truth = truth * exact(weight)
    check(step, (), lambda _: truth)


def test_exact_maps_have_no_error():
    b = Build(2, 6)
    b.add("relu", b.conv(b.normal(2, 2, 1), padding=[[0, 0]]))
    b.add("slice", dim=2, start=0, stop=6, step=2)
    b.add("reshape", shape=[-1, 6])
    b.add("relu")
    name = b.linear(6, 3)
    steps = plan_of(b.graph()).steps
    assert steps[-1].error is None
    assert torch.equal(steps[-1].matrix[0], b.tensors[f"{name}.weight"])
