"""What goes wrong without each precaution of the compiler: every test shows a bound below the truth."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from certify.bounds.covariance import image_rules
from certify.bounds.covariance.plan import compile_plan
from certify.bounds.covariance.readings import Axis
from certify.bounds.covariance.steps import Activate, Mask, Plan, Pool, Step
from certify.bounds.facts import collect_structure
from certify.bounds.floor import jacobian
from certify.graph import Graph
from tests.bounds.covariance.layered_networks import Act, Conv, Maker, Max, Network, ascended_norm
from tests.bounds.covariance.plain_evaluation import largest, random_choice, registers
from tests.bounds.small_networks import Build


def plan_of(graph: Graph) -> Plan:
    facts = collect_structure(graph)
    plan = compile_plan(facts, graph.output, "l2", dict.fromkeys(facts.shapes, 1.0))
    assert isinstance(plan, Plan)
    return plan


def norm_of(plan: Plan, tries: int = 1) -> float:
    """The least bound that random multipliers give."""
    choices = (random_choice(torch.Generator().manual_seed(seed), spread=0.3) for seed in range(tries))
    return min(largest(registers(plan, choose)[0][-1]) for choose in choices) ** 0.5


def jacobian_norm(graph: Graph) -> float:
    zero = torch.zeros(*graph.input_shape, dtype=torch.float64)
    return float(torch.linalg.matrix_norm(jacobian(graph, zero), 2))


def replaced(plan: Plan, kind: type, change) -> Plan:
    """The plan with its only step of a kind replaced."""
    (place,) = (i for i, step in enumerate(plan.steps) if isinstance(step, kind))
    return Plan((*plan.steps[:place], change(plan.steps[place]), *plan.steps[place + 1 :]), plan.norm)


def line(*weights: float, before: int = 0, after: int = 0, stride: int = 1) -> Conv:
    return Conv(torch.tensor([[list(weights)]]).double(), (stride,), ((before, after),), (1,))


def two_padded_convolutions(seed: int, *between: Act) -> Network:
    draw = Maker(seed)
    size = draw.number(3, 6)
    first = draw.conv(1, (size,), stride=(1,))
    second = draw.conv(first.weight.shape[0], first.outputs((size,)), stride=(1,))
    return Network(1, (size,), (first, *between, second), None)


@pytest.mark.parametrize(("slope", "seed", "factor"), [(1.0, 172, 1.2), (0.95, 172, 1.1), (0.8, 283, 1.1)])
def test_slopes_are_widened_before_a_padded_convolution(slope, seed, factor):
    """Slopes [a, 1] would nearly make one convolution of two, without the crop between them."""
    network = two_padded_convolutions(seed, Act("leaky_relu", slope))
    truth, plan = ascended_norm(network, 0), plan_of(network.graph())
    assert truth <= norm_of(plan)

    def narrowed(step: Step) -> Step:
        assert bool((step.lower == 0.0).all())
        return dataclasses.replace(step, lower=torch.full_like(step.lower, slope))

    assert truth > factor * norm_of(replaced(plan, Activate, narrowed), 40)


def test_slopes_are_not_widened_before_convolutions_that_stay_inside():
    network = Network(1, (6,), (line(1.0, 2.0), Act("leaky_relu", 0.5), line(1.0, -1.0)), None)
    (step,) = (step for step in plan_of(network.graph()).steps if isinstance(step, Activate))
    assert float(step.lower) == 0.5


@pytest.mark.parametrize("reads", ["add", "concat", "batch_norm", "mul", "shift", "slice"])
def test_slopes_are_widened_behind_operations_pixel_by_pixel(reads):
    b = Build(2, 6)
    act = b.add("leaky_relu", b.conv(b.normal(2, 2, 1), padding=[[0, 0]]), negative_slope=0.5)
    made = {
        "add": lambda: b.add("add", act, "x"),
        "concat": lambda: b.add("concat", "x", act, dim=1),
        "batch_norm": lambda: b.add("batch_norm", act, mean=b.normal(2), variance=b.positive(2), eps=0.0),
        "mul": lambda: b.add("mul", act, b.constant(3.0)),
        "shift": lambda: b.add("sub", b.constant(3.0), act),
        "slice": lambda: b.add("slice", act, dim=1, start=0, stop=1, step=1),
    }[reads]()
    b.conv(b.normal(1, {"concat": 4, "slice": 1}.get(reads, 2), 3), made)
    (step,) = (step for step in plan_of(b.graph()).steps if isinstance(step, Activate))
    assert float(step.lower.min()) == 0.0


@pytest.mark.parametrize("seed", [172, 283])
def test_linear_images_are_masked_before_a_padded_convolution(seed):
    """Merged across padding, two convolutions are a third one: what the first puts beyond the image is cropped."""
    graph = two_padded_convolutions(seed).graph()
    plan = plan_of(graph)
    truth = jacobian_norm(graph)
    assert truth <= norm_of(plan)

    def open_ended(step: Step) -> Step:
        ones = torch.ones(len(step.rows), dtype=torch.float64)
        return Activate(step.source, step.sides, ones, ones)

    assert truth > 1.05 * norm_of(replaced(plan, Mask, open_ended))


def test_convolutions_that_stay_inside_are_merged_without_a_mask():
    plan = plan_of(Network(1, (6,), (line(1.0, 2.0, before=1), line(1.0, -1.0)), None).graph())
    assert not any(isinstance(step, Mask) for step in plan.steps)


def test_an_average_pool_with_pixels_left_over_is_masked():
    """Five pixels, two windows of two: the third window of the torus reads the fifth pixel."""
    average = Conv(torch.full((1, 1, 2), 0.5).double(), (2,), ((0, 0),), (1,), average=True)
    graph = Network(1, (5,), (average, line(1.0, 1.0, before=1, after=1)), None).graph()
    plan = plan_of(graph)
    assert any(isinstance(step, Mask) for step in plan.steps)
    assert jacobian_norm(graph) <= norm_of(plan)


def test_the_torus_has_a_gutter(monkeypatch):
    """-1, 2, -1 on five pixels: norm 3.732; wrapped around, 3.618."""
    graph = Network(1, (5,), (line(-1.0, 2.0, -1.0, before=1, after=1),), None).graph()
    assert plan_of(graph).steps[0].sides == (6,)
    assert jacobian_norm(graph) <= norm_of(plan_of(graph))
    monkeypatch.setattr(Axis, "need", property(lambda axis: axis.size))
    assert plan_of(graph).steps[0].sides == (5,)
    assert jacobian_norm(graph) > 1.03 * norm_of(plan_of(graph))


@pytest.mark.parametrize("stride", [1, 2])
def test_the_phase_of_the_padding_is_kept_between_branches(monkeypatch, stride):
    """x + x, the second x through the middle tap of a padded kernel, read with alternating signs."""
    b = Build(1, 6)
    left = b.conv(torch.ones(1, 1, 1).double(), "x", padding=[[0, 0]], stride=[stride])
    right = b.conv(torch.tensor([[[0.0, 1.0, 0.0]]]).double(), "x", padding=[[1, 1]], stride=[stride])
    b.add("reshape", b.add("add", left, right), shape=[-1, 6 // stride])
    b.add("linear", weight=torch.tensor([[(-1.0) ** i for i in range(6 // stride)]]).double())
    graph = b.graph()
    assert jacobian_norm(graph) <= norm_of(plan_of(graph)) * (1 + 1e-12)

    def without_phase(reading, *rest):
        axes = tuple(dataclasses.replace(axis, before=0) for axis in reading.axes)
        return kept(dataclasses.replace(reading, axes=axes), *rest)

    kept = image_rules.kernel_symbol
    monkeypatch.setattr(image_rules, "kernel_symbol", without_phase)
    assert jacobian_norm(graph) > 1.2 * norm_of(plan_of(graph))


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [*itertools.product((1, 2, 3, 4), (1, 2, 3), (1, 2, 3))])
def test_the_windows_of_a_max_pool_are_counted(kernel, stride, dilation):
    """With window, stride and dilation 3, one pixel is in three windows: the stride alone would say one."""
    pool = Max((kernel,), (stride,), (dilation,))
    (step,) = (s for s in plan_of(Network(1, (14,), (pool,), None).graph()).steps if isinstance(s, Pool))
    assert step.overlap == pool.overlap
    if (kernel, stride, dilation) == (3, 3, 3):
        assert step.overlap == 3


@pytest.mark.parametrize("act", ["relu", "gelu", "abs", "sigmoid"])
def test_an_activation_goes_along_with_the_max_pool_behind_it(act):
    plan = plan_of(Network(1, (6,), (line(1.0, 2.0), Act(act), Max((2,), (2,), (1,))), None).graph())
    assert [type(step).__name__ for step in plan.steps] == ["Start", "Linear", "Pool"]
    assert plan.steps[-1].slope == max(map(abs, Act(act).range))
