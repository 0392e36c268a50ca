r"""Planted networks with known radii, certified on the way by the code that certifies the user's.

Each has an input whose distance to the nearest input of another class is a rational number. The certified radius must
not exceed it, and must reach a share of it where the methods lose little.

- *affine*: z = W x, x = (1/2, 1/4), w_0 - w_1 = (3, 4), margin 5/2: in l2 the distance is (5/2) / 5, in linf (5/2) / 7.
- *affine, three classes*: against class 1 (3, 4) as above; against class 2 (0, 1/2), margin 1/8, distance 1/4.
- *ridge*: z_0 = 0 and z_1 = (2/w) (relu(s-c+w) - 2 relu(s-c) + relu(s-c-w)) - 1, s = <u, x> with ||u||_2 = 1: at x = 0
  the gradient is zero and the margin 1, and z_1 = 0 at s = c - w/2 first. ||u||_1 = 2, so half of that in linf.
- *kink*: z = (1, relu(s) + relu(-s)) at 0: distance 1 in l2, 1/2 in linf.
- *tie*: all logits equal: no radius at all.
- *small*: z = (2^-17 x, 0) at x = 1: distance 1, however small the weight.
- *absorbed*: z = ((x + 2^26) - 2^26, 0) at x = 0.6: distance 0.6 in exact arithmetic; in float32 x is absorbed, and
  nothing may be certified.
- *convolution*: twice the identity, then s against 0 at s = 1/2 as above: distance 1/2, in linf 1/4.
- *ninefold*: M = I + 9 v v^T of norm 10, v a unit vector orthogonal to the vector of ones; z = (<v, M x>, 0) at x = v:
  margin 10, slope 10 v, distance 1, in linf 10 / 20.
- *not a number*: a weight or an input of NaN must be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor

from certify.bounds import analyse, certify_example
from certify.errors import BrokenCertificate, InputError
from certify.examples import Example
from certify.graph import Graph, Operation
from certify.results import LipschitzExample, LipschitzSettings

Certify: TypeAlias = Callable[[Graph, Example, LipschitzSettings], LipschitzExample]

WIDTH, CENTRE = 2.0**-7, 1.0
UNIT = (0.5, 0.5, 0.5, 0.5)
ACROSS = (0.5, -0.5, 0.5, -0.5)


@dataclass(frozen=True, eq=False)
class Canary:
    """A network, an input, its distance to another class in l2 and linf, and the share of it to be reached."""

    name: str
    graph: Graph
    input: tuple[float, ...]
    l2: Fraction
    linf: Fraction
    share: float = 0.0


def certify_alone(graph: Graph, example: Example, settings: LipschitzSettings) -> LipschitzExample:
    """Return the certificate of one example of one network, on the way every example takes."""
    return certify_example(analyse(graph, settings, pairs=True), example, settings)


def check_canaries(settings: LipschitzSettings, certify: Certify = certify_alone) -> int:
    """Return how many planted networks were certified as they must be.

    Args:
        settings: Those of the run; its methods and its arithmetic are tried.
        certify: From network, example and settings to the certificate.

    Raises:
        BrokenCertificate: If a radius exceeds the known distance, does not reach its share, or NaN is certified.

    Example:
        >>> check_canaries(LipschitzSettings())
        11
    """
    own = replace(settings, local=None, limit=None, skip=0)
    planted = tuple(_planted(own))
    for canary in planted:
        _check(canary, certify(canary.graph, _example(canary.input, canary.graph), own), own)
    refused = (("weight", np.nan, 1.0), ("input", 1.0, np.nan))
    for where, weight, entry in refused:
        _check_refusal(where, _affine([[weight], [0.0]]), entry, own, certify)
    return len(planted) + len(refused)


def _planted(settings: LipschitzSettings) -> Iterator[Canary]:
    float32 = settings.arithmetic == "float32"
    yield Canary("affine", _affine([[3, 4], [0, 0]]), (0.5, 0.25), Fraction(1, 2), Fraction(5, 14), 0.99)
    three = _affine([[3, 4], [0, 0], [3, 3.5]])
    yield Canary("affine, three classes", three, (0.5, 0.25), Fraction(1, 4), Fraction(1, 4), 0.99)
    height = Fraction(CENTRE) - Fraction(WIDTH) / 2
    yield Canary("ridge", _ridge(), (0.0,) * 4, height, height / 2, 0.0 if float32 else 1e-9)
    yield Canary("kink", _kink(), (0.0,) * 4, Fraction(1), Fraction(1, 2), 1e-3)
    yield Canary("tie", _affine([[1, 2], [1, 2]]), (0.5, 0.25), Fraction(0), Fraction(0))
    yield Canary("small", _affine([[2.0**-17], [0]]), (1.0,), Fraction(1), Fraction(1), 0.99)
    absorbed = Fraction(0) if float32 else Fraction(0.6)
    yield Canary("absorbed", _absorbed(), (0.6,), absorbed, absorbed, 0.99)
    yield Canary("convolution", _convolution(), (0.25,) * 4, Fraction(1, 2), Fraction(1, 4), 0.5)
    yield Canary("ninefold", _ninefold(), ACROSS, Fraction(1), Fraction(1, 2), 0.99)


def _example(values: tuple[float, ...], graph: Graph) -> Example:
    return Example(0, "planted", 0, np.array(values, dtype=np.float64).reshape(graph.input_shape))


def _check(canary: Canary, row: LipschitzExample, settings: LipschitzSettings) -> None:
    known = canary.l2 if settings.norm == "l2" else canary.linf
    evidence = {
        "claim": "planted network",
        "name": canary.name,
        "input": list(canary.input),
        "distance": float(known),
        "radius": repr(row.radius),  # it may be no number
        "norm": settings.norm,
        "arithmetic": settings.arithmetic,
    }
    if not Fraction(row.radius) <= known:
        raise BrokenCertificate(
            f"the planted network {canary.name!r} was certified to {row.radius!r}, and has another class at distance "
            f"{float(known)!r} ({settings.norm})",
            evidence,
        )
    if not row.radius >= canary.share * float(known):
        raise BrokenCertificate(
            f"the planted network {canary.name!r} was certified to {row.radius!r} only, of {float(known)!r} "
            f"({settings.norm}); at least {canary.share:g} of it is expected",
            evidence,
        )


def _check_refusal(where: str, graph: Graph, entry: float, settings: LipschitzSettings, certify: Certify) -> None:
    try:
        radius = certify(graph, _example((entry,), graph), settings).radius
    except InputError:
        return
    if radius != 0.0:  # NaN too
        message = f"a planted NaN in the {where} was certified to {radius!r}"
        raise BrokenCertificate(
            message, {"claim": "planted network", "name": f"NaN in the {where}", "radius": repr(radius)}
        )


def _graph(shape: tuple[int, ...], operations: list[Operation], tensors: dict[str, Tensor]) -> Graph:
    return Graph((Operation(name="x", kind="input"), *operations), operations[-1].name, shape, tensors)


def _linear(name: str, source: str, weight: str, bias: str | None = None) -> Operation:
    weights = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    return Operation(name=name, kind="linear", inputs=(source,), weights=weights)


def _relu(name: str, source: str) -> Operation:
    return Operation(name=name, kind="relu", inputs=(source,))


def _tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _affine(weight: list[list[float]]) -> Graph:
    return _graph((len(weight[0]),), [_linear("z", "x", "W")], {"W": _tensor(weight)})


def _ridge() -> Graph:
    hidden = _tensor([UNIT] * 3)
    shifts = _tensor([WIDTH - CENTRE, -CENTRE, -WIDTH - CENTRE])
    top = (2.0 / WIDTH) * _tensor([[0, 0, 0], [1, -2, 1]])
    operations = [_linear("h", "x", "V", "c"), _relu("a", "h"), _linear("z", "a", "W", "b")]
    return _graph((4,), operations, {"V": hidden, "c": shifts, "W": top, "b": _tensor([0.0, -1.0])})


def _kink() -> Graph:
    hidden = torch.stack([_tensor(UNIT), -_tensor(UNIT)])
    operations = [_linear("h", "x", "V"), _relu("a", "h"), _linear("z", "a", "W", "b")]
    return _graph((4,), operations, {"V": hidden, "W": _tensor([[0, 0], [1, 1]]), "b": _tensor([1.0, 0.0])})


def _absorbed() -> Graph:
    add = _linear("up", "x", "one", "far")
    operations = [add, _linear("down", "up", "both", "back")]
    tensors = {"one": _tensor([[1.0]]), "far": _tensor([2.0**26]), "both": _tensor([[1.0], [0.0]])}
    return _graph((1,), operations, {**tensors, "back": _tensor([-(2.0**26), 0.0])})


def _convolution() -> Graph:
    kernel = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    kernel[0, 0, 1, 1] = 2.0
    window = {"stride": [1, 1], "padding": [[1, 1], [1, 1]], "dilation": [1, 1], "groups": 1, "padding_mode": "zeros"}
    conv = Operation(name="c", kind="conv", inputs=("x",), weights={"weight": "K"}, attributes=window)
    flat = Operation(name="f", kind="reshape", inputs=("c",), attributes={"shape": [-1, 4]})
    return _graph((1, 2, 2), [conv, flat, _linear("z", "f", "W")], {"K": kernel, "W": _tensor([UNIT, [0.0] * 4])})


def _ninefold() -> Graph:
    v = _tensor(ACROSS)
    operations = [_linear("h", "x", "M"), _linear("z", "h", "W")]
    matrix = torch.eye(4, dtype=torch.float64) + 9.0 * torch.outer(v, v)
    return _graph((4,), operations, {"M": matrix, "W": _tensor([ACROSS, [0.0] * 4])})
