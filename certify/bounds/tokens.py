r"""Limits of the size of values over *all* inputs: what stands behind a normalisation, and linear maps of it.

A layer norm divides its centred input by at least its own standard deviation, so whatever it reads, its output without
weights has ||y||^2 <= d over the d entries normalised together; with them

    ||weight * y + bias||_2  <=  sqrt(d) max|weight| + ||bias||_2.

The entries of a value are numbered by *group*; for each group a limit of its l2 norm is proved. Operations that only
move entries move their numbers along; a linear map turns the rows (last dimension) it reads into groups,
||W x + b|| <= ||W|| ||x|| + ||b||; the norm of a row, or of a part of it, is at most the root of the sum of squares of
the limits of the groups that occur in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from certify.bounds.linear_maps import LinearMap, Shapes
from certify.bounds.magnitudes import l2_upper, largest_absolute, root_upper, row_l2_upper
from certify.bounds.slopes import ACTIVATIONS, slope_range
from certify.graph import Graph, Operation
from certify.graph.run import run_operation
from certify.results import Unbounded
from certify.rounding import add_up, mul_up, sqrt_up

THROUGH_ZERO = ACTIVATIONS - {"sigmoid", "hardsigmoid", "softplus", "logsigmoid", "clamp"}
MOVING = ("reshape", "permute", "slice", "flip", "roll", "expand")


@dataclass(frozen=True, eq=False)
class Sizes:
    """The group of every entry of a value (for one example), and a limit of each group's l2 norm over all inputs."""

    groups: Tensor
    limits: tuple[float, ...]

    def rows(self) -> tuple[float, ...]:
        """Return a limit of the l2 norm of each row: of the entries that differ in the last dimension only."""
        return tuple(self._together(row) for row in self.groups.reshape(-1, self.groups.shape[-1]))

    def _together(self, row: Tensor) -> float:
        found = [self.limits[group] for group in sorted(set(row.tolist()))]
        return found[0] if len(found) == 1 else sqrt_up(add_up(*(mul_up(limit, limit) for limit in found)))


@dataclass(frozen=True, eq=False)
class Known:
    """What the limits rest on: the network in float64, its shapes, exact constants, and enclosed norms (if there)."""

    graph: Graph
    shapes: Shapes
    constants: Mapping[str, Tensor]
    maps: Mapping[str, LinearMap]

    def shape(self, operation: Operation) -> tuple[int, ...]:
        """Return the shape of the first input of an operation."""
        return self.shapes[operation.inputs[0]]


def token_sizes(known: Known) -> Mapping[str, Sizes]:
    """Return the sizes of all values that have a limit over all inputs.

    Example:
        >>> ops = (Operation(name="x", kind="input"),
        ...        Operation(name="y", kind="layer_norm", inputs=("x",), attributes={"shape": [4], "eps": 1e-5}))
        >>> known = Known(Graph(ops, "y", (3, 4), {}), {"x": (1, 3, 4), "y": (1, 3, 4)}, {}, {})
        >>> [2.0 <= limit < 2.0001 for limit in token_sizes(known)["y"].rows()]
        [True, True, True]
    """
    found: dict[str, Sizes] = {}
    for operation in known.graph:
        rule = _RULES.get(operation.kind)
        sizes = None if rule is None else rule(known, operation, found)
        if sizes is not None and all(map(math.isfinite, sizes.limits)):
            found[operation.name] = sizes
    return found


def _of_rows(shape: tuple[int, ...], limits: tuple[float, ...]) -> Sizes:
    rows = math.prod(shape[:-1])
    return Sizes(torch.arange(rows)[:, None].expand(rows, shape[-1]).reshape(shape), limits)


def _layer_norm(known: Known, operation: Operation, _: Mapping[str, Sizes]) -> Sizes | None:
    eps = operation.optional_number("eps")
    if eps is None or not eps > 0.0:
        return None
    shape, entries = known.shapes[operation.name], math.prod(operation.integers("shape"))
    weight, bias = known.graph.weight(operation, "weight"), known.graph.weight(operation, "bias")
    largest = 1.0 if weight is None else largest_absolute(weight)
    limit = add_up(mul_up(root_upper(entries), largest), 0.0 if bias is None else l2_upper(bias))
    count = math.prod(shape) // entries
    groups = torch.arange(count)[:, None].expand(count, entries).reshape(shape)
    return Sizes(groups, (limit,) * count)


def _move(known: Known, operation: Operation, found: Mapping[str, Sizes]) -> Sizes | None:
    before = found.get(operation.inputs[0])
    if before is None:
        return None
    if operation.kind != "expand":  # which repeats entries: the copies of a group are groups of their own
        return Sizes(run_operation(known.graph, operation, [before.groups], 1), before.limits)
    groups = run_operation(known.graph, operation, [before.groups], 1)
    rows = Sizes(groups, before.limits).rows()
    repeated = known.shape(operation)[-1] != known.shapes[operation.name][-1]
    return None if repeated else _of_rows(known.shapes[operation.name], rows)


def _linear(known: Known, operation: Operation, found: Mapping[str, Sizes]) -> Sizes | None:
    before = found.get(operation.inputs[0])
    if before is None:
        return None
    bias = known.graph.weight(operation, "bias")
    shift = 0.0 if bias is None else l2_upper(bias)
    enclosed = known.maps.get(operation.name)
    weight = known.graph.required_weight(operation, "weight")
    norm = l2_upper(weight) if enclosed is None else enclosed.l2.upper
    limits = tuple(add_up(mul_up(norm, limit), shift) for limit in before.rows())
    return _of_rows(known.shapes[operation.name], limits)


def _activation(known: Known, operation: Operation, found: Mapping[str, Sizes]) -> Sizes | None:
    before, slopes = found.get(operation.inputs[0]), slope_range(known.graph, operation)
    if before is None or isinstance(slopes, Unbounded):
        return None
    steepest = max(map(abs, slopes))
    return Sizes(before.groups, tuple(mul_up(steepest, limit) for limit in before.limits))


def _sum(known: Known, operation: Operation, found: Mapping[str, Sizes]) -> Sizes | None:
    shape, rows = known.shapes[operation.name], []
    for name in operation.inputs:
        limits = _rows_of(known, name, shape, found)
        if limits is None:
            return None
        rows.append(limits)
    return _of_rows(shape, tuple(add_up(*terms) for terms in zip(*rows, strict=True)))


def _rows_of(known: Known, name: str, shape: tuple[int, ...], found: Mapping[str, Sizes]) -> tuple[float, ...] | None:
    """Return the limits of the rows of a term of a sum, broadcast to the sum's shape."""
    if name in known.constants:
        spread = known.constants[name].expand(shape).reshape(-1, shape[-1])
        return tuple(row_l2_upper(spread).tolist())
    same = name in found and known.shapes[name] == shape
    return found[name].rows() if same else None


def _scaled(known: Known, operation: Operation, found: Mapping[str, Sizes]) -> Sizes | None:
    """Return the sizes after a product with a constant."""
    for position in (0, 1):
        before = found.get(operation.inputs[position])
        factor = known.constants.get(operation.inputs[1 - position])
        if before is not None and factor is not None and known.shapes[operation.name] == tuple(before.groups.shape):
            size = largest_absolute(factor)
            return Sizes(before.groups, tuple(mul_up(size, limit) for limit in before.limits))
    return None


_RULES: Mapping[str, Callable[[Known, Operation, Mapping[str, Sizes]], Sizes | None]] = MappingProxyType(
    {
        **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
        **dict.fromkeys(MOVING, _move),
        **dict.fromkeys(THROUGH_ZERO, _activation),
        **dict.fromkeys(("add", "sub"), _sum),
        "linear": _linear,
        "mul": _scaled,
    }
)
