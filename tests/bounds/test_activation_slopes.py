"""The slope range of every activation against 30-digit derivatives: never narrower, and (tightness) hardly wider."""

import math
from collections.abc import Callable, Mapping

import mpmath
import pytest
import torch

from certify.bounds.slopes import ACTIVATIONS, slope_range
from certify.graph import Graph, Operation
from certify.graph.run import KERNELS
from certify.results import Unbounded

mp = mpmath.MPContext()
mp.dps = 30
Function = Callable[[mpmath.mpf], mpmath.mpf]

SELU_ALPHA = mp.mpf("1.6732632423543772848170429916717")
SELU_SCALE = mp.mpf("1.0507009873554804934193349852946")


def sigmoid(x: mpmath.mpf) -> mpmath.mpf:
    return 1 / (1 + mp.exp(-x))


def gelu_tanh(x: mpmath.mpf) -> mpmath.mpf:
    return x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)))


def relu6(x: mpmath.mpf) -> mpmath.mpf:
    return min(max(x, mp.mpf(0)), mp.mpf(6))


CASES: Mapping[str, tuple[str, Mapping[str, object], Function]] = {
    "relu": ("relu", {}, lambda x: max(x, mp.mpf(0))),
    "selu": ("selu", {}, lambda x: SELU_SCALE * (x if x > 0 else SELU_ALPHA * mp.expm1(x))),
    "silu": ("silu", {}, lambda x: x * sigmoid(x)),
    "mish": ("mish", {}, lambda x: x * mp.tanh(mp.log1p(mp.exp(x)))),
    "tanh": ("tanh", {}, mp.tanh),
    "sigmoid": ("sigmoid", {}, sigmoid),
    "hardswish": ("hardswish", {}, lambda x: x * relu6(x + 3) / 6),
    "hardsigmoid": ("hardsigmoid", {}, lambda x: relu6(x + 3) / 6),
    "abs": ("abs", {}, abs),
    "softsign": ("softsign", {}, lambda x: x / (1 + abs(x))),
    "logsigmoid": ("logsigmoid", {}, lambda x: -mp.log1p(mp.exp(-x))),
    "tanhshrink": ("tanhshrink", {}, lambda x: x - mp.tanh(x)),
    "sin": ("sin", {}, mp.sin),
    "leaky_relu": ("leaky_relu", {"negative_slope": -2.5}, lambda x: x if x > 0 else -mp.mpf(2.5) * x),
    "prelu": ("prelu", {}, lambda x: x if x > 0 else mp.mpf(-0.75) * x),
    "elu": ("elu", {"alpha": 1.5}, lambda x: x if x > 0 else mp.mpf(1.5) * mp.expm1(x)),
    "elu negative": ("elu", {"alpha": -0.5}, lambda x: x if x > 0 else -mp.mpf(0.5) * mp.expm1(x)),
    "celu": ("celu", {"alpha": 0.25}, lambda x: x if x > 0 else mp.expm1(4 * x) / 4),
    "gelu": ("gelu", {"approximate": "none"}, lambda x: x / 2 * (1 + mp.erf(x / mp.sqrt(2)))),
    "gelu tanh": ("gelu", {"approximate": "tanh"}, gelu_tanh),
    "softplus": ("softplus", {"beta": 3.0, "threshold": 20.0}, lambda x: mp.log1p(mp.exp(3 * x)) / 3),
    "clamp": ("clamp", {"min": -1.0, "max": 2.0}, lambda x: min(max(x, mp.mpf(-1)), mp.mpf(2))),
    "softshrink": ("softshrink", {"threshold": 0.5}, lambda x: mp.sign(x) * max(abs(x) - mp.mpf(0.5), mp.mpf(0))),
}


def slopes_of(kind: str, attributes: Mapping[str, object]) -> tuple[float, float] | Unbounded:
    tensors = {"w": torch.tensor([-0.75])} if kind == "prelu" else {}
    weights = {"weight": "w"} if kind == "prelu" else {}
    operation = Operation(name="y", kind=kind, inputs=("x",), weights=weights, attributes=dict(attributes))
    return slope_range(Graph((Operation(name="x", kind="input"), operation), "y", (1,), tensors), operation)


def secant_extremes(f: Function) -> tuple[mpmath.mpf, mpmath.mpf]:
    """Return the least and the largest secant slope on a grid, refined around both."""
    least = most = None
    centres, step = [mp.mpf(k) / 8 for k in range(-160, 161)], mp.mpf(1) / 8
    for _ in range(9):
        slopes = [(f(x + step) - f(x)) / step for x in centres]
        low, high = centres[slopes.index(min(slopes))], centres[slopes.index(max(slopes))]
        least = min(slopes) if least is None else min(least, *slopes)
        most = max(slopes) if most is None else max(most, *slopes)
        centres = [x + k * step / 8 for x in (low, high) for k in range(-16, 17)]
        step /= 8
    return least, most


@pytest.mark.parametrize("name", CASES)
def test_secant_slopes_stay_in_the_range_and_reach_its_ends(name: str) -> None:
    kind, attributes, function = CASES[name]
    found = slopes_of(kind, attributes)
    assert not isinstance(found, Unbounded)
    least, most = secant_extremes(function)
    assert found[0] <= least + mp.mpf(10) ** -20
    assert most - mp.mpf(10) ** -20 <= found[1]
    if name != "softsign":  # its slope tends to 0 too slowly for the grid
        assert found[0] >= least - mp.mpf("2e-7")
    assert found[1] <= most + mp.mpf("2e-7")


def test_every_activation_has_a_case() -> None:
    assert {kind for kind, _, _ in CASES.values()} == ACTIVATIONS


def test_the_function_of_every_case_is_the_one_that_runs() -> None:
    for kind, attributes, function in CASES.values():
        x = torch.linspace(-7, 7, 57, dtype=torch.float64)
        arguments = dict(attributes) if kind != "prelu" else {"weight": torch.tensor([-0.75], dtype=torch.float64)}
        computed = KERNELS[kind](x, **arguments).tolist()
        for value, at in zip(computed, x.tolist(), strict=True):
            assert math.isclose(value, float(function(mp.mpf(at))), rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize(
    "kind, attributes",
    [
        ("celu", {"alpha": 0.0}),
        ("celu", {"alpha": -1.0}),
        ("softplus", {"beta": 1.0, "threshold": 19.9}),
        ("softplus", {"beta": -1.0, "threshold": 20.0}),
        ("softshrink", {"threshold": -0.1}),
    ],
)
def test_what_has_no_slope_range_says_why(kind: str, attributes: Mapping[str, object]) -> None:
    found = slopes_of(kind, attributes)
    assert isinstance(found, Unbounded)
    assert kind in found.reason
