"""The slope floor: J(T) is what it says, its norm is below every bound from slopes, and near the true maximum."""

import importlib.util
import itertools
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from certify.bounds import analyse, slope_floor
from certify.bounds.floor import jacobian_norm
from certify.bounds.linear_part import LinearPart, linear_part
from certify.graph import Graph, run, run_all, trace
from certify.results import LipschitzSettings, Norm, Unbounded
from tests.bounds.small_networks import BOUNDED, UNBOUNDED, Build
from tests.bounds.test_floor import flat

NORMS: tuple[Norm, ...] = ("l2", "linf")
WITHOUT = (
    *("softmax", "log_softmax", "log_softmax single", "layer_norm", "rms_norm", "group_norm", "instance_norm"),
    *("diamond", "maximum broadcast", "minimum broadcast"),
)
SELECTING = ("max_pool", "adaptive_max_pool", "amax", "amin", "max_min", "sort")
WITH = tuple(name for name in BOUNDED if name not in WITHOUT)


def part_of(graph: Graph) -> LinearPart:
    found = linear_part(graph)
    assert isinstance(found, LinearPart), found
    return found


def secants(graph: Graph, part: LinearPart, p: dict[str, Tensor], q: dict[str, Tensor]) -> dict[str, Tensor]:
    chosen = {}
    for name in part.ends:
        inputs = graph.by_name[name].inputs[0]
        chosen[name] = (p[name] - q[name]) / (p[inputs] - q[inputs])
    return chosen


@pytest.mark.parametrize("name", [name for name in WITH if name not in SELECTING])
def test_with_the_secant_slopes_of_two_runs_the_linear_part_is_their_difference(name: str) -> None:
    graph = BOUNDED[name](5)
    part, random = part_of(graph), torch.Generator().manual_seed(1)
    x, y = (torch.randn(3, *graph.input_shape, generator=random, dtype=torch.float64) for _ in range(2))
    p, q = run_all(graph, x), run_all(graph, y)
    chosen = secants(graph, part, p, q)
    for name, (low, high) in part.ends.items():
        assert bool(((low - 1e-9 <= chosen[name]) & (chosen[name] <= high + 1e-9)).all())
    found = part.values(x - y, chosen)[graph.output]
    assert torch.allclose(found, p[graph.output] - q[graph.output], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kernel", [[3, 3], [2, 3]])
@pytest.mark.parametrize("shape", [(2, 6, 6), (6, 6)])
def test_a_selection_at_two_near_inputs_is_the_difference_of_their_maxima(kernel: list[int], shape: tuple) -> None:
    b = Build(*shape, seed=3)
    details = {"kernel": kernel, "stride": [2, 1], "padding": [1, 1], "ceil_mode": True, "dilation": [1, 1]}
    pool = b.add("max_pool", "x", **details)
    graph = b.graph()
    x = torch.randn(2, *shape, generator=b.random, dtype=torch.float64)
    step = 1e-9 * torch.randn(2, *shape, generator=b.random, dtype=torch.float64)
    part = part_of(graph)
    chosen = part.best_selection(pool, x, torch.ones(()))  # where the maxima of x are
    found = part.values(step, {pool: chosen})[pool]
    assert torch.allclose(found, run(graph, x + step) - run(graph, x), atol=1e-15)


def test_the_best_selection_is_the_largest_or_the_smallest_entry() -> None:
    b = Build(1, 2, 2)
    window = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], "ceil_mode": False, "dilation": [1, 1]}
    pool = b.add("max_pool", "x", **window)
    part = part_of(b.graph())
    x = torch.tensor([[[[1.0, 5.0], [-7.0, 2.0]]]], dtype=torch.float64)
    for outward, best in ((2.0, 1), (-1.0, 2)):
        assert part.best_selection(pool, x, torch.full((1, 1, 1, 1), outward)).tolist() == [[[[best]]]]


@pytest.mark.parametrize(("name", "norm"), [(name, NORMS[k % 2]) for k, name in enumerate(WITH)])
def test_the_floor_is_at_or_below_the_product_bound(name: str, norm: Norm, monkeypatch) -> None:
    monkeypatch.setattr("certify.bounds.slope_climb.RESTARTS", 4)  # the bound holds for any number of them
    monkeypatch.setattr("certify.bounds.slope_climb.SWEEPS", 5)
    graph = flat(BOUNDED[name](2))
    upper = analyse(graph, LipschitzSettings(norm=norm, method="product")).network.upper
    found = slope_floor(graph, norm=norm)
    assert upper is not None
    assert not isinstance(found, Unbounded)
    assert 0.0 < found <= upper


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", [name for name in WITH if name != "input"])
def test_the_floor_is_at_or_below_every_bound_that_knows_slopes_alone(name: str, norm: Norm) -> None:
    for seed in range(2):
        graph = flat(BOUNDED[name](seed))
        upper, found = analyse(graph, LipschitzSettings(norm=norm)).network.upper, slope_floor(graph, norm=norm)
        assert upper is not None
        assert not isinstance(found, Unbounded)
        assert found <= upper


def two_layers(seed: int) -> Graph:
    b = Build(3, seed=seed)
    b.linear(3, 5)
    b.add("leaky_relu", negative_slope=-0.3)
    b.linear(5, 4)
    b.add("relu")
    b.linear(4, 3)
    return b.graph()


@pytest.mark.parametrize("norm", NORMS)
def test_the_floor_is_near_the_maximum_over_all_ends_and_not_above_it(norm: Norm) -> None:
    reached = []
    for seed in range(4):
        graph = two_layers(seed)
        first, second, third = (graph.tensors[f"v{k}.weight"] for k in (1, 3, 5))
        ends = itertools.product(itertools.product((-0.3, 1.0), repeat=5), itertools.product((0.0, 1.0), repeat=4))
        best = max(jacobian_norm(third * torch.tensor(s) @ second * torch.tensor(t) @ first, norm) for t, s in ends)
        found = slope_floor(graph, norm=norm)
        assert not isinstance(found, Unbounded)
        assert found <= best
        reached.append(found / best)
    assert min(reached) >= 0.95


def test_a_prelu_has_the_slopes_of_its_own_channel() -> None:
    b = Build(2)
    b.add("prelu", weight=torch.tensor([5.0, 0.5], dtype=torch.float64))
    b.add("mul", b.operations[-1].name, b.constant(torch.tensor([0.01, 1.0], dtype=torch.float64)))
    assert slope_floor(b.graph()) == pytest.approx(1.0)  # 5 in the second channel would give 5


@pytest.mark.parametrize("name", [*WITHOUT, "attention", "mul", "div", "matmul", "celu", "softplus"])
def test_what_is_no_product_of_slopes_is_a_typed_answer(name: str) -> None:
    graph = {**BOUNDED, **UNBOUNDED}[name](0)
    assert isinstance(slope_floor(graph), Unbounded)


def test_examples_along_another_dimension_are_a_typed_answer() -> None:
    b = Build(3)
    b.add("permute", "x", dims=[1, 0])
    b.add("relu")
    b.add("permute", dims=[1, 0])
    found = slope_floor(b.graph())
    assert isinstance(found, Unbounded)
    assert "first dimension" in found.reason


def test_the_floor_is_a_function_of_graph_and_seed() -> None:
    graph = two_layers(1)
    assert len({slope_floor(graph, seed=4) for _ in range(3)}) == 1


def test_biases_and_constants_do_not_matter() -> None:
    b = Build(2)
    b.add("linear", weight=torch.eye(2, dtype=torch.float64), bias=torch.full((2,), 2.0**60, dtype=torch.float64))
    b.add("sub", b.operations[-1].name, b.constant(2.0**60))
    assert slope_floor(b.graph()) == pytest.approx(1.0)


def test_overflow_is_not_a_slope() -> None:
    b = Build(2)
    for _ in range(2):
        b.add("linear", weight=torch.full((2, 2), 1e308, dtype=torch.float64))
    assert slope_floor(b.graph()) == 0.0


REAL = Path(os.environ.get("CERTIFY_PUBLISHED_NETWORKS", Path(__file__).parents[3] / "shared" / "real")) / "models"
KNOWN = {
    "abc_mnist_conv_small_nat": 4.927,
    "kw_mnist_linf01": 49.4,
    "mmr_univ_mnist": 55.31,
    "kw_cifar_small_l2_36_stage0": 2.997,
    "sdp_cifar_cnn_a_mix": 142.3,
}


@pytest.mark.skipif(not REAL.is_dir(), reason=f"published networks are not at {REAL}")
@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_trained_networks_have_the_slope_floor_that_another_search_found(name: str) -> None:
    folder = REAL / name
    spec = importlib.util.spec_from_file_location(f"arch_{name}", folder / "arch.py")
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    network = code.build().eval()
    network.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    shape = tuple(json.loads((folder / "meta.json").read_text())["input_shape"])
    assert slope_floor(trace(network, shape)) >= 0.98 * KNOWN[name]
