"""The data floor: never above a proved bound, at least what the data show, and steeper where ascent can find it."""

import numpy as np
import pytest
import torch

from certify.bounds import analyse, data_floor, jacobian_floor
from certify.bounds.floor import jacobian, jacobian_norm
from certify.bounds.steepest import ascend, jacobian_gains, typical_distance, unit_directions
from certify.bounds.work import multiplications, rows_at_once
from certify.examples import Example
from certify.graph import Graph, run
from certify.results import LipschitzSettings, Norm
from tests.bounds.small_networks import BOUNDED, UNBOUNDED, Build

NORMS: tuple[Norm, ...] = ("l2", "linf")
CLASSIFIERS = tuple(name for name in BOUNDED if name != "log_softmax single")
POWER_METHOD = 0.98  # of the largest Jacobian norm at the examples: a few steps come this close


def points(graph: Graph, count: int, seed: int = 0) -> list[Example]:
    random = np.random.default_rng(seed)
    return [Example(k, str(k), 0, random.standard_normal(graph.input_shape)) for k in range(count)]


def flat(graph: Graph) -> Graph:
    """The network behind a reshape, so that its output is [N, classes]."""
    b = Build(*graph.input_shape)
    b.operations, b.tensors = list(graph.operations), dict(graph.tensors)
    outputs = run(graph, torch.zeros(1, *graph.input_shape, dtype=torch.float64)).numel()
    b.add("reshape", graph.output, shape=[-1, outputs])
    return b.graph()


@pytest.mark.parametrize(("name", "norm"), [(name, NORMS[k % 2]) for k, name in enumerate(CLASSIFIERS)])
def test_the_floor_is_at_or_below_the_proved_bound_and_at_or_above_the_data(name: str, norm: Norm, monkeypatch) -> None:
    monkeypatch.setattr("certify.bounds.floor.STEPS", 20)  # the bound holds for any number of steps
    monkeypatch.setattr("certify.bounds.floor.STARTS", 8)
    graph = flat(BOUNDED[name](3))
    examples = points(graph, 5)
    upper = analyse(graph, LipschitzSettings(norm=norm, method="product")).network.upper
    found = data_floor(graph, examples, norm=norm, seed=0)
    assert upper is not None
    assert found is not None
    assert POWER_METHOD * jacobian_floor(graph, examples, norm=norm) <= found <= upper


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_the_norm_of_a_linear_map_is_found_and_not_exceeded(rows: int, norm: Norm) -> None:
    b = Build(30, seed=1)
    b.linear(30, rows)
    graph = b.graph()
    exact = jacobian_norm(graph.tensors["v1.weight"], norm)
    found = data_floor(graph, norm=norm, seed=0)
    assert found is not None
    assert 0.97 * exact <= found <= exact


def hinge(at: float, steep: float) -> Graph:
    """X + steep relu(x - at), of one number."""
    b = Build(1)
    shifted = b.add("sub", "x", b.constant(at))
    b.add("add", "x", b.add("mul", b.add("relu", shifted), b.constant(steep)))
    return b.graph()


def test_the_ascent_finds_a_steep_place_that_no_example_shows() -> None:
    graph = hinge(at=1.6, steep=10.0)
    flat_examples = [Example(k, str(k), 0, np.array([0.5 * k])) for k in range(4)]
    assert jacobian_floor(graph, flat_examples) == 1.0
    assert data_floor(graph, flat_examples, seed=0) == pytest.approx(11.0, rel=1e-9)


def test_a_range_is_never_left() -> None:
    assert data_floor(hinge(at=1.5, steep=10.0), range=(0.0, 1.0)) == pytest.approx(1.0, rel=1e-9)
    assert data_floor(hinge(at=0.5, steep=10.0), range=(0.0, 1.0)) == pytest.approx(11.0, rel=1e-9)


def test_the_floor_is_a_function_of_its_arguments() -> None:
    graph = flat(BOUNDED["batch_norm"](0))
    found = {data_floor(graph, points(graph, 7), seed=3) for _ in range(3)}
    assert len(found) == 1
    torch.manual_seed(17)
    assert found == {data_floor(graph, points(graph, 7), seed=3)}


@pytest.mark.parametrize("count", [1, 2, 50])
def test_any_number_of_examples_will_do(count: int) -> None:
    graph = hinge(at=0.0, steep=2.0)
    assert data_floor(graph, points(graph, count)) == pytest.approx(3.0, rel=1e-9)


def test_a_slope_that_pytorch_cannot_compute_has_no_floor() -> None:
    b = Build(2)
    b.add("celu", alpha=1e300)
    assert data_floor(b.graph()) is None


def test_a_constant_network_has_floor_zero() -> None:
    b = Build(2)
    b.add("mul", "x", b.constant(0.0))
    assert data_floor(b.graph()) == 0.0
    b = Build(2)
    b.constant(torch.ones(1, 2, dtype=torch.float64))
    assert data_floor(b.graph()) == 0.0


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_extreme_weights_give_a_finite_floor(scale: float) -> None:
    b = Build(3, seed=2)
    b.add("linear", weight=scale * torch.eye(3, dtype=torch.float64))
    b.add("relu")
    found = data_floor(b.graph(), [Example(0, "0", 0, np.ones(3))])
    assert found == pytest.approx(scale, rel=1e-6)


def test_overflow_is_not_a_slope() -> None:
    b = Build(2)
    b.add("linear", weight=torch.full((2, 2), 1e308, dtype=torch.float64))
    b.add("linear", weight=torch.full((2, 2), 1e308, dtype=torch.float64))
    assert data_floor(b.graph()) == 0.0


@pytest.mark.parametrize("name", ["attention", "mul", "div", "normalize"])
def test_a_network_without_a_bound_still_has_a_floor(name: str) -> None:
    found = data_floor(UNBOUNDED[name](0), seed=0)
    assert found is None or 0.0 <= found < float("inf")


@pytest.mark.parametrize("norm", NORMS)
def test_gains_are_norms_of_jacobians_times_unit_vectors(norm: Norm) -> None:
    graph = BOUNDED["diamond"](0)
    x = torch.from_numpy(np.stack([example.values() for example in points(graph, 6)]))
    gains, _ = jacobian_gains(lambda z: run(graph, z), x, unit_directions(x, 0), norm=norm, half=1e-6, steps=30)
    for gain, point in zip(gains.tolist(), x, strict=True):
        exact = jacobian_norm(jacobian(graph, point), norm)
        assert gain <= exact * (1 + 1e-12)
        assert gain >= 0.9 * exact  # the power method in linf may stop at another row


def test_an_ascent_raises_the_quotient_of_its_pairs_and_tells_the_truth_about_it() -> None:
    graph = BOUNDED["residual"](1)
    x = torch.from_numpy(np.stack([example.values() for example in points(graph, 8)]))

    def network(z: torch.Tensor) -> torch.Tensor:
        return run(graph, z)

    short, found = (ascend(network, x, norm="l2", distance=typical_distance(x), steps=steps) for steps in (1, 60))
    assert float(found.quotients.mean()) > float(short.quotients.mean())
    p, q = found.ends
    quotients = (network(p) - network(q)).norm(dim=1) / (p - q).norm(dim=1)
    assert torch.allclose(quotients, found.quotients, rtol=1e-6)


def test_work_is_counted() -> None:
    graph = BOUNDED["conv strided"](0)  # 3 filters of 4 x 3 x 3 at 3 x 3 places, and the input
    assert multiplications(graph) == 3 * 36 * 9 + 144
    assert rows_at_once(graph) == 256
    transposed = BOUNDED["conv_transpose"](0)  # each of 4 x 3 x 3 inputs meets 3 filters of 3 x 3
    assert multiplications(transposed) == 36 * 27 + 36
