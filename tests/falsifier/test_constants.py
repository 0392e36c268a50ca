"""Attacks on Lipschitz constants: one that is too small is found and confirmed, a right one never."""

import json
import math
from dataclasses import replace as changed
from fractions import Fraction
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from certify.bounds import Analysis, data_floor
from certify.bounds.evaluated import Evaluated, movement_lower, pair_movement_lower
from certify.bounds.floor import jacobian_norm
from certify.errors import BrokenCertificate
from certify.examples import Example
from certify.falsifier import falsify_lipschitz
from certify.falsifier.attacked import Attacked
from certify.falsifier.levels import LIPSCHITZ
from certify.falsifier.on_bounds import attack_constants
from certify.falsifier.quotients import (
    LENGTHS,
    ascended_pairs,
    differences_of,
    pairs_of,
    steepest_examples,
    tightest_classes,
)
from certify.graph import Graph, run
from certify.results import Norm, dump_json
from tests.bounds.small_networks import BOUNDED, Build
from tests.bounds.test_floor import flat, hinge
from tests.falsifier.broken_runs import NORMS, affine, certified, convolutional, images, points


@pytest.fixture(autouse=True)
def without_planted_networks(monkeypatch) -> None:
    """They have tests of their own, and take longer than the attacks on such small networks."""
    monkeypatch.setattr("certify.falsifier.lipschitz.check_canaries", lambda *_: 0)


def with_upper(analysis: Analysis, upper: float) -> Analysis:
    return changed(analysis, network=replace(analysis.network, upper=upper))


def exact_norm(graph: Graph, norm: Norm) -> float:
    return jacobian_norm(graph.tensors["v1.weight"], norm)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("count", [0, 1, 5])
def test_an_affine_bound_too_small_by_five_percent_is_found(norm: Norm, count: int) -> None:
    graph = affine(8, 3, seed=2)
    examples = points(graph, count)
    analysis, rows, settings = certified(graph, examples, norm=norm)
    exact = exact_norm(graph, norm)
    with pytest.raises(BrokenCertificate, match="the network: a Lipschitz constant") as caught:
        falsify_lipschitz(with_upper(analysis, 0.95 * exact), examples, rows, settings)
    check_quotient(graph, caught.value.evidence, norm)


def check_quotient(graph: Graph, found: dict[str, object], norm: Norm) -> None:
    """From the JSON of the evidence alone: the quotient of the two inputs really is above the bound."""
    evidence = json.loads(dump_json(found))
    p, q = (
        torch.tensor(evidence[key], dtype=torch.float64).reshape(1, *graph.input_shape) for key in ("input", "found")
    )
    order = 2 if norm == "l2" else math.inf
    change = torch.linalg.vector_norm(run(graph, p) - run(graph, q), order)
    quotient = float(change / torch.linalg.vector_norm(p - q, order))
    assert evidence["upper"] < evidence["quotient_lower"] <= quotient * (1 + 1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_the_exact_affine_norm_is_never_broken(norm: Norm) -> None:
    graph = affine(8, 3, seed=2)
    examples = points(graph, 6)
    analysis, rows, settings = certified(graph, examples, norm=norm)
    exact = with_upper(analysis, exact_norm(graph, norm) * (1 + 1e-15))
    assert falsify_lipschitz(exact, examples, rows, settings).found == 0


@pytest.mark.parametrize("norm", NORMS)
def test_a_bound_below_a_jacobian_norm_is_found_and_confirmed_by_a_pair(norm: Norm) -> None:
    graph = convolutional(seed=1)
    examples = images(graph, 10)
    analysis, rows, settings = certified(graph, examples, norm=norm)
    floor = data_floor(graph, examples, norm=norm, range=(0.0, 1.0))
    assert floor is not None
    with pytest.raises(BrokenCertificate) as caught:
        falsify_lipschitz(with_upper(analysis, 0.7 * floor), examples, rows, settings, range=(0.0, 1.0))
    check_quotient(graph, caught.value.evidence, norm)
    assert all(0.0 <= v <= 1.0 for key in ("input", "found") for v in caught.value.evidence[key])


@pytest.mark.parametrize("name", ["relu", "gelu", "diamond", "residual", "max_pool", "softmax", "batch_norm", "sort"])
def test_proved_bounds_survive(name: str) -> None:
    graph = flat(BOUNDED[name](1))
    examples = points(graph, 4)
    for norm in NORMS:
        analysis, rows, settings = certified(graph, examples, norm=norm)
        found = falsify_lipschitz(analysis, examples, rows, settings)
        assert found.found == 0
        assert "of 6 pairs of examples" in found.tried


def test_a_steep_place_outside_the_range_does_not_count() -> None:
    b = Build(1)
    kink = b.add("relu", b.add("sub", "x", b.constant(2.0)))
    b.add("concat", "x", b.add("mul", kink, b.constant(50.0)), dim=1)
    graph = b.graph()
    example = Example(0, "0", 0, np.array([0.25]))
    analysis, rows, settings = certified(graph, [example])
    flat_inside = with_upper(analysis, 1.0 + 1e-12)
    assert falsify_lipschitz(flat_inside, [example], rows, settings, range=(0.0, 1.0)).found == 0
    with pytest.raises(BrokenCertificate):
        falsify_lipschitz(flat_inside, [example], rows, settings, range=(0.0, 3.0))


def pair_norms(graph: Graph, norm: Norm) -> torch.Tensor:
    weight = graph.tensors["v1.weight"]
    order = 2 if norm == "l2" else 1
    return torch.linalg.vector_norm(weight.unsqueeze(1) - weight.unsqueeze(0), order, dim=2)


@pytest.mark.parametrize("norm", NORMS)
def test_constants_of_pairs_of_classes_are_attacked_too(norm: Norm, monkeypatch) -> None:
    graph = affine(8, 4, seed=3)
    examples = points(graph, 5)
    analysis, rows, settings = certified(graph, examples, norm=norm)
    exact = pair_norms(graph, norm)
    right = Attacked(analysis, examples, rows, settings, None)
    assert right.class_uppers is not None
    assert bool((right.class_uppers >= exact * (1 - 1e-14)).all())
    attack_constants(right, LIPSCHITZ["full"])
    wrong = exact * (1 + 1e-14)
    wrong[1, 2] = wrong[2, 1] = 0.95 * exact[1, 2]
    monkeypatch.setattr(Attacked, "class_uppers", wrong)
    with pytest.raises(BrokenCertificate) as caught:
        falsify_lipschitz(analysis, examples, rows, settings, level="full")
    assert caught.value.evidence["classes"] == [1, 2]


def test_all_pairs_of_classes_are_ascended_together_and_each_for_itself() -> None:
    graph = affine(8, 4, seed=3)
    exact, classes = pair_norms(graph, "l2"), list(combinations(range(4), 2))
    starts = torch.stack([torch.from_numpy(point.values()) for point in points(graph, 2)])
    network = partial(run, graph)
    difference = differences_of(network, classes, len(starts))
    climbed = ascended_pairs(difference, network, torch.cat([starts] * len(classes)), norm="l2", distance=1.0, steps=5)
    for (first, second), own in zip(classes, climbed.split(len(classes)), strict=True):
        quotients = (own.change[:, first] - own.change[:, second]).abs() / own.distances("l2")
        assert len(own) == len(LENGTHS) * len(starts)
        assert bool((quotients >= 0.999 * exact[first, second]).all())


def test_gains_of_values_on_the_way_are_attacked_too() -> None:
    graph = flat(BOUNDED["relu"](1))
    examples = points(graph, 5)
    analysis, rows, settings = certified(graph, examples)
    hidden = "v1"
    wrong = changed(analysis, gains={**analysis.gains, hidden: 0.3 * analysis.gains[hidden]})
    with pytest.raises(BrokenCertificate) as caught:
        falsify_lipschitz(wrong, examples, rows, settings)
    assert caught.value.evidence["value"] == hidden


def test_a_network_that_ends_in_softmax_is_attacked_before_and_behind_it() -> None:
    b = Build(6, seed=2)
    logits = b.linear(6, 3, scale=3.0)
    b.add("softmax", logits, dim=1)
    graph = b.graph()
    examples = points(graph, 5)
    analysis, rows, settings = certified(graph, examples)
    assert falsify_lipschitz(analysis, examples, rows, settings).found == 0
    wrong = changed(analysis, gains={**analysis.gains, logits: 0.9 * exact_norm(graph, "l2")})
    with pytest.raises(BrokenCertificate) as caught:
        falsify_lipschitz(wrong, examples, rows, settings)
    assert caught.value.evidence["value"] == logits


def test_the_classes_nearest_to_their_constant_come_first() -> None:
    p = torch.zeros(1, 1, dtype=torch.float64)
    pairs = pairs_of(lambda x: x * torch.tensor([[0.0, 1.0, 4.0]]).double(), p, p + 1.0)
    uppers = torch.tensor([[0.0, 1.5, 5.0], [1.5, 0.0, 100.0], [5.0, 100.0, 0.0]]).double()
    assert list(tightest_classes(pairs, uppers, 2, "l2")) == [(0, 2), (0, 1)]


@pytest.mark.parametrize("norm", NORMS)
def test_a_local_constant_is_attacked_inside_its_ball_alone(norm: Norm) -> None:
    b = Build(1)
    kink = b.add("relu", b.add("sub", "x", b.constant(1.0)))
    b.add("concat", "x", b.add("mul", kink, b.constant(9.0)), dim=1)
    graph = b.graph()
    example = Example(0, "0", 0, np.array([0.0]))
    analysis, (row,), settings = certified(graph, [example], norm=norm, local=0.9)
    flat_here = [replace(row, local_upper=1.0 + 1e-12)]
    assert falsify_lipschitz(analysis, [example], flat_here, settings).found == 0
    with pytest.raises(BrokenCertificate) as caught:
        falsify_lipschitz(analysis, [example], [replace(row, local_upper=0.95)], settings)
    assert caught.value.evidence["claim"] == "local lipschitz"
    assert all(abs(v) < 0.9 for key in ("input", "found") for v in caught.value.evidence[key])
    wider = replace(settings, local=3.0)
    with pytest.raises(BrokenCertificate) as caught:
        falsify_lipschitz(analysis, [example], flat_here, wider)
    assert Fraction(caught.value.evidence["found"][0]) < 3


def test_local_constants_without_a_bound_are_left_alone() -> None:
    graph = affine(3, 2, seed=0)
    examples = points(graph, 2)
    analysis, rows, settings = certified(graph, examples, local=0.5)
    none = [replace(row, local_upper=None) for row in rows]
    assert "local" not in falsify_lipschitz(analysis, examples, none, settings).tried
    assert "2 local constants" in falsify_lipschitz(analysis, examples, rows, settings).tried


def test_a_quotient_within_its_forward_errors_does_not_count() -> None:
    p, q = (Evaluated(torch.tensor([x]).double(), logits, 0.3) for x, logits in ((0.0, (1.0, 2.0)), (1.0, (1.0, 3.0))))
    assert 0.39 < movement_lower(p, q, "l2") <= 0.4
    assert 0.39 < movement_lower(p, q, "linf") <= 0.4
    assert 1.0 - 0.6 * math.sqrt(2) - 1e-9 < pair_movement_lower(p, q, 0, 1) <= 1.0 - 0.6 * math.sqrt(2)
    near = changed(q, numbers=(1.0, 2.5))
    assert movement_lower(p, near, "l2") < 0.0


def test_equal_inputs_show_nothing() -> None:
    x = torch.tensor([[1.0], [1.0], [2.0]]).double()
    found = steepest_examples(x, torch.tensor([[0.0], [5.0], [7.0]]).double(), "l2")
    assert bool((found.distances("l2") > 0.5).all())
    same = pairs_of(lambda z: z, x[:1], x[:1])
    assert float(same.distances("linf")[0]) == math.inf


def test_a_network_without_a_bound_is_attacked_at_its_radii_alone() -> None:
    graph = hinge(at=0.0, steep=1.0)
    b = Build(1)
    b.operations, b.tensors = list(graph.operations), dict(graph.tensors)
    b.add("concat", graph.output, b.constant(torch.zeros(1, 1).double()), dim=1)
    graph = b.graph()
    example = Example(0, "0", 0, np.array([0.5]))
    analysis, rows, settings = certified(graph, [example])
    none = changed(analysis, network=replace(analysis.network, upper=None, reason="none"))
    assert "quotients" not in falsify_lipschitz(none, [example], [replace(rows[0], radius=0.0)], settings).tried
