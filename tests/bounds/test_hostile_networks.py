"""Networks built to break a certificate: odd constants, precisions, thresholds and shapes that PyTorch accepts."""

import numpy as np
import pytest
import torch
from torch import Tensor

from certify.bounds import analyse, certify_example, unbounded_near_examples, unbounded_operations
from certify.bounds.floor import jacobian, jacobian_norm
from certify.errors import InputError
from certify.examples import Example
from certify.graph import Graph, run
from certify.results import LipschitzExample, LipschitzSettings, Norm
from tests.bounds.small_networks import Build

NORMS: tuple[Norm, ...] = ("l2", "linf")
ARITHMETICS = ("exact", "float64", "float32")


def certificate(graph: Graph, values: list[float], **settings: str) -> LipschitzExample:
    chosen = LipschitzSettings(**settings)
    return certify_example(analyse(graph, chosen), Example(0, "0", 0, np.array(values)), chosen)


@pytest.mark.parametrize(("variance", "eps"), [(-0.5, 1.0), (0.0, 5e-324), (0.0, 0.0)])
@pytest.mark.parametrize("lead", [False, True])
def test_a_batch_norm_near_a_division_by_zero_is_typed(variance: float, eps: float, lead: bool) -> None:
    b = Build(3)
    if lead:
        b.linear(3, 3)
    spread = torch.tensor([variance, variance, variance + 1.0], dtype=torch.float64)
    b.add("batch_norm", mean=torch.zeros(3, dtype=torch.float64), variance=spread, eps=eps)
    graph = b.graph()
    for norm in NORMS:
        assert "batch norm divides" in unbounded_operations(graph, norm)[0]
        assert "batch norm divides" in unbounded_near_examples(graph)[0]
        assert analyse(graph, LipschitzSettings(norm=norm)).network.upper is None


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_boolean_mask_is_an_exact_constant(arithmetic: str) -> None:
    b = Build(3)
    b.add("mul", "x", b.constant(torch.tensor([[True, False, True]])))
    b.add("linear", weight=torch.diag(torch.tensor([3.0, 5.0, 4.0], dtype=torch.float64)))
    graph = b.graph()
    assert 4.0 <= analyse(graph, LipschitzSettings()).network.upper <= 5.0001
    found = certificate(graph, [1.0, 1.0, 0.0], arithmetic=arithmetic)
    assert 0.0 < found.radius < 3.0 / 3.0  # the first logit meets the constant second one at distance 1


@pytest.mark.parametrize("kind", ["sigmoid", "tanh", "sin"])
def test_a_function_of_booleans_runs_in_float32_and_certifies_nothing(kind: str) -> None:
    b = Build(2)
    mask = b.constant(torch.tensor([[True, False]]))
    b.add("add", "x", b.add(kind, mask))
    graph = b.graph()
    assert analyse(graph, LipschitzSettings()).network.upper == 1.0
    found = certificate(graph, [1.0, 0.0])
    assert found.radius == 0.0
    assert "another precision" in found.reason


def test_a_softplus_that_overflows_inside_the_ball_is_refused_in_float64() -> None:
    b = Build(1)
    smooth = b.add("softplus", beta=1.0, threshold=1e4)
    b.add("concat", "x", b.add("sub", smooth, b.constant(100.0)), dim=1)
    graph = b.graph()
    assert run(graph, torch.tensor([[700.0]]).double()).tolist() == [[700.0, 600.0]]
    assert run(graph, torch.tensor([[745.0]]).double()).argmax() == 1  # exp(745) is infinite
    found = certificate(graph, [700.0], arithmetic="float64")
    assert found.radius == 0.0
    assert "overflows in exp" in found.reason


def test_a_celu_that_multiplies_by_infinity_is_refused() -> None:
    b = Build(2)
    b.add("celu", alpha=1e-310)
    found = certificate(b.graph(), [1.0, 2.0], arithmetic="float64")
    assert found.radius == 0.0
    assert "almost 0" in found.reason


def test_a_slope_that_pytorch_cannot_compute_is_no_traceback() -> None:
    b = Build(2)
    b.add("celu", alpha=1e300)
    with pytest.raises(InputError, match="differentiate"):
        jacobian(b.graph(), torch.ones(2, dtype=torch.float64))


POOLS = {
    "avg_pool": {"kernel": [3, 2], "stride": [2, 1], "padding": [1, 0], "ceil_mode": True}
    | {"count_include_pad": False, "divisor": None},
    "max_pool": {"kernel": [3, 2], "stride": [2, 1], "padding": [1, 0], "ceil_mode": True, "dilation": [1, 1]},
    "adaptive_avg_pool": {"output": [3, 7]},
    "adaptive_max_pool": {"output": [3, 7]},
}


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("norm", NORMS)
def test_a_pool_without_channels_reads_its_last_dimensions(kind: str, norm: Norm) -> None:
    b = Build(5, 4)
    name = b.add(kind, "x", **POOLS[kind])
    outputs = {"avg_pool": 9, "max_pool": 9, "adaptive_avg_pool": 21, "adaptive_max_pool": 21}[kind]
    b.add("reshape", name, shape=[-1, outputs])
    graph = b.graph()
    upper = analyse(graph, LipschitzSettings(norm=norm)).network.upper
    assert upper is not None
    assert worst_slope(graph, (5, 4), norm) <= upper
    for arithmetic in ARITHMETICS:
        values = np.arange(20.0).reshape(5, 4)
        settings = LipschitzSettings(norm=norm, arithmetic=arithmetic)
        assert certify_example(analyse(graph, settings), Example(0, "0", 0, values), settings).error_upper is not None


def worst_slope(graph: Graph, shape: tuple[int, ...], norm: Norm) -> float:
    generator = torch.Generator().manual_seed(0)
    points: list[Tensor] = [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(20)]
    return max(jacobian_norm(jacobian(graph, point), norm) for point in points) * (1.0 - 1e-12)
