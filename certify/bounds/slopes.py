r"""The slope range of every activation: [a, b] with a <= (f(s) - f(t)) / (s - t) <= b for all real s != t.

The Lipschitz constant of an activation, in l2 and in linf, is max(|a|, |b|): it acts on each coordinate alone, so its
secant Jacobian is diagonal. All functions here are continuous and differentiable except at finitely many points; the
range of the derivative is then a slope range (mean value theorem on each piece, secants are weighted means of them).

Where the ends come from:

- relu, clamp, tanh, softplus, celu (alpha > 0), softsign, logsigmoid, tanhshrink, softshrink (threshold >= 0): the
  derivative is in [0, 1]. tanh' = 1 - tanh^2; softplus' = sigmoid(beta x); celu' = exp(x / alpha) for x <= 0;
  softsign' = (1 + |x|)^-2; logsigmoid' = sigmoid(-x); tanhshrink' = tanh^2; the others are 0 or 1.
- abs, sin: [-1, 1]. sigmoid' = s (1 - s) in [0, 1/4]. hardsigmoid: 0 or 1/6. leaky_relu, prelu: slope or 1.
- elu: alpha exp(x) for x <= 0, so between 0 and alpha, or 1. selu: scale or scale alpha exp(x), at most scale alpha.
- hardswish: x (x + 3) / 6 between -3 and 3 has derivative (2 x + 3) / 6 in [-1/2, 3/2]; 0 or 1 outside.
- gelu: with Phi, phi the normal law and density, f' = Phi(x) + x phi(x) and f'' = (2 - x^2) phi(x): the extremes are at
  x = +-sqrt 2, where f' = 1/2 +- (erf(1) / 2 + exp(-1) / sqrt pi), and the ends -0.1289042..., 1.1289042...
- silu: f' = s + x s (1 - s), f'' = s (1 - s) (2 - x tanh(x / 2)), extreme where x tanh(x / 2) = 2 (x = 2.3993572...).
- gelu with tanh, and mish: f'' has two zeros of interest (x = +-1.4185040...; x = -2.2563764..., 1.4905712...), found
  in 40 digits; f' there, rounded outward to 7 decimals, are the ends.

The tests scan every derivative on a fine grid in 30 digits, refine around its extremes, and compare with the ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from torch import Tensor

from certify.bounds.walk import no_bound
from certify.graph import Graph, Operation
from certify.results import Unbounded

Slopes: TypeAlias = tuple[float, float]

SIXTH_UP = 0.16666666666666669  # the float above 1/6
LEAST_SOFTPLUS_THRESHOLD = 20.0

FIXED: Mapping[str, Slopes] = MappingProxyType(
    {
        **dict.fromkeys(("relu", "clamp", "tanh", "softsign", "logsigmoid", "tanhshrink"), (0.0, 1.0)),
        **dict.fromkeys(("abs", "sin"), (-1.0, 1.0)),
        "sigmoid": (0.0, 0.25),
        "hardsigmoid": (0.0, SIXTH_UP),
        "hardswish": (-0.5, 1.5),
        "selu": (0.0, 1.7580994),
        "silu": (-0.0998394, 1.0998394),
        "mish": (-0.1125262, 1.0884982),
    }
)
GELU: Mapping[str, Slopes] = MappingProxyType({"none": (-0.1289042, 1.1289042), "tanh": (-0.1289931, 1.1289931)})


def slope_range(graph: Graph, operation: Operation) -> Slopes | Unbounded:
    """Return the slope range of an operation of a kind in `ACTIVATIONS`, or `Unbounded` when it has none.

    Example:
        >>> from certify.graph import Operation
        >>> leaky = Operation(name="y", kind="leaky_relu", inputs=("x",), attributes={"negative_slope": -2.0})
        >>> slope_range(Graph((Operation(name="x", kind="input"), leaky), "y", (1,), {}), leaky)
        (-2.0, 1.0)
    """
    if operation.kind in FIXED:
        return FIXED[operation.kind]
    return _RULES[operation.kind](graph, operation)


def _with_one(least: float, most: float) -> Slopes:
    return min(least, 1.0), max(most, 1.0)


def _leaky_relu(_: Graph, operation: Operation) -> Slopes:
    slope = operation.number("negative_slope")
    return _with_one(slope, slope)


def _prelu(graph: Graph, operation: Operation) -> Slopes:
    weight: Tensor = graph.required_weight(operation, "weight").double()
    return _with_one(float(weight.min()), float(weight.max()))


def _elu(_: Graph, operation: Operation) -> Slopes:
    alpha = operation.number("alpha")
    return _with_one(min(0.0, alpha), alpha)


def _celu(_: Graph, operation: Operation) -> Slopes | Unbounded:
    if not operation.number("alpha") > 0.0:
        return no_bound(operation, "celu with alpha <= 0 grows exponentially")
    return 0.0, 1.0


def _softplus(_: Graph, operation: Operation) -> Slopes | Unbounded:
    beta, threshold = operation.number("beta"), operation.number("threshold")
    if not beta > 0.0:
        return no_bound(operation, "softplus has slopes in [0, 1] only for beta > 0")
    if not threshold >= LEAST_SOFTPLUS_THRESHOLD:
        return no_bound(operation, "softplus with a threshold below 20 jumps at its threshold")
    return 0.0, 1.0


def _softshrink(_: Graph, operation: Operation) -> Slopes | Unbounded:
    if not operation.number("threshold") >= 0.0:
        return no_bound(operation, "softshrink with a negative threshold jumps at 0")
    return 0.0, 1.0


def _gelu(_: Graph, operation: Operation) -> Slopes:
    return GELU[operation.text("approximate")]


_RULES: Mapping[str, Callable[[Graph, Operation], Slopes | Unbounded]] = MappingProxyType(
    {
        "leaky_relu": _leaky_relu,
        "prelu": _prelu,
        "elu": _elu,
        "celu": _celu,
        "gelu": _gelu,
        "softplus": _softplus,
        "softshrink": _softshrink,
    }
)
ACTIVATIONS = frozenset({*FIXED, *_RULES})
