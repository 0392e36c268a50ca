"""The proved lower bound of a network's constant: never above the truth, close to the steepest slope."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from certify.bounds import SteepPlace, analyse, network_lower, steepest_place
from certify.bounds.evaluated import Evaluated, evaluate, movement_lower, quotient_lower
from certify.bounds.network_lower import HALVES
from certify.graph import Graph
from certify.results import LipschitzSettings, Norm
from tests.bounds.small_networks import BOUNDED, UNBOUNDED, Build
from tests.bounds.test_floor import NORMS, flat, hinge

TIGHT = 1.0 - 1e-8  # of the slope of the place, where the pair stays in one linear piece


def found(graph: Graph, norm: Norm = "l2", box=None, place: SteepPlace | None = None) -> float:
    place = place or steepest_place(graph, norm=norm, range=box)
    lower = network_lower(analyse(graph, LipschitzSettings(norm=norm, method="product")), place, range=box)
    assert lower is not None
    return lower


@pytest.mark.parametrize("norm", NORMS)
def test_a_diagonal_matrix_has_its_largest_entry(norm: Norm) -> None:
    b = Build(3)
    b.add("linear", weight=torch.diag(torch.tensor([1.0, -7.0, 2.0], dtype=torch.float64)))
    assert TIGHT * 7.0 <= found(b.graph(), norm) <= 7.0


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e150])
def test_extreme_weights_have_a_true_bound(scale: float) -> None:
    b = Build(3)
    b.add("linear", weight=scale * torch.eye(3, dtype=torch.float64))
    assert found(b.graph()) <= scale


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["relu", "residual", "max_pool", "softmax", "batch_norm", "sort", "gelu"])
def test_lower_is_at_most_upper(name: str, norm: Norm) -> None:
    graph = flat(BOUNDED[name](3))
    upper = analyse(graph, LipschitzSettings(norm=norm)).network.upper
    assert upper is not None
    assert 0.0 < found(graph, norm) <= upper


def test_on_a_kink_the_steep_side_counts() -> None:
    kink = SteepPlace(11.0, *torch.tensor([[0.5], [1.0]], dtype=torch.float64), 1.0)
    assert TIGHT * 11.0 <= found(hinge(at=0.5, steep=10.0), place=kink) <= 11.0


def test_the_range_is_never_left() -> None:
    steep_outside = hinge(at=1.0, steep=10.0)
    for at in (0.0, 0.999999, 1.0, 5.0):
        place = SteepPlace(11.0, *torch.tensor([[at], [1.0]], dtype=torch.float64), 1.0)
        assert found(steep_outside, box=(0.0, 1.0), place=place) <= 1.0
    assert found(steep_outside, place=place) > 10.0


def test_the_rounding_of_the_passes_is_taken_off() -> None:
    """x + 2^60 - 2^60 is computed as a multiple of 2^8: its quotients in floating point are anything."""
    b = Build(1)
    b.add("sub", b.add("add", "x", b.constant(2.0**60)), b.constant(2.0**60))
    graph = b.graph()
    analysis = analyse(graph, LipschitzSettings())
    p, q = (evaluate(analysis, graph.output, torch.tensor([at], dtype=torch.float64)) for at in (127.0, 129.0))
    assert p is not None
    assert q is not None
    assert (p.numbers, q.numbers) == ((0.0,), (256.0,))
    assert quotient_lower(p, q, "l2") <= 1.0
    place = SteepPlace(1.0, *torch.tensor([[127.9], [1.0]], dtype=torch.float64), 10.0)
    assert found(graph, place=place) <= 1.0


@pytest.mark.parametrize("norm", NORMS)
def test_the_distance_is_rounded_up(norm: Norm) -> None:
    b = Build(2)
    b.add("linear", weight=torch.eye(2, dtype=torch.float64))
    graph = b.graph()
    analysis = analyse(graph, LipschitzSettings(norm=norm))
    points = [torch.tensor(x, dtype=torch.float64) for x in ([0.1, 0.7], [0.3, 0.2])]
    p, q = (evaluate(analysis, graph.output, x) for x in points)
    assert p is not None
    assert q is not None
    free_of_error = [replace(value, error=0.0) for value in (p, q)]
    assert quotient_lower(*free_of_error, norm) <= 1.0
    moves = [abs(Fraction(a) - Fraction(b)) for a, b in zip(p.numbers, q.numbers, strict=True)]
    truth = sum(move**2 for move in moves) if norm == "l2" else max(moves) ** 2
    halved = replace(free_of_error[0], point=points[0] / 2), replace(free_of_error[1], point=points[1] / 2)
    assert Fraction(quotient_lower(*halved, norm)) ** 2 * (truth / 4) <= truth


def test_equal_inputs_prove_nothing() -> None:
    graph = hinge(at=0.5, steep=10.0)
    at = evaluate(analyse(graph, LipschitzSettings()), graph.output, torch.zeros(1, dtype=torch.float64))
    assert at is not None
    assert quotient_lower(at, at, "l2") == 0.0


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_place_that_is_no_number_proves_nothing(number: float) -> None:
    graph = hinge(at=0.5, steep=10.0)
    place = SteepPlace(1.0, *torch.tensor([[number], [1.0]], dtype=torch.float64), 1.0)
    assert network_lower(analyse(graph, LipschitzSettings()), place) is None


def test_a_network_without_an_upper_bound_may_have_a_lower_one() -> None:
    graph = flat(UNBOUNDED["mul"](0))
    place = steepest_place(graph)
    assert place is not None
    lower = network_lower(analyse(graph, LipschitzSettings()), place)
    assert lower is not None
    assert 0.0 < lower < math.inf


def test_several_lengths_are_tried() -> None:
    """A bump of width 1e-4 is steep for short pairs only."""
    b = Build(1)
    up, away = b.add("relu", "x"), b.add("relu", b.add("sub", "x", b.constant(1e-4)))
    b.add("mul", b.add("sub", up, away), b.constant(100.0))
    place = SteepPlace(100.0, *torch.tensor([[5e-5], [1.0]], dtype=torch.float64), 1.0)
    assert min(HALVES) < 5e-5 < max(HALVES)
    assert TIGHT * 100.0 <= found(b.graph(), place=place) <= 100.0


def test_outputs_too_far_apart_for_their_square_still_have_a_lower_bound() -> None:
    far, near = (Evaluated(torch.tensor([x], dtype=torch.float64), (x,), 0.0) for x in (-1e200, 1e200))
    assert movement_lower(far, near, "l2") <= 2e200
    assert quotient_lower(far, near, "linf") <= 1.0
