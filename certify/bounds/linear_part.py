r"""A network with every activation replaced by a multiplication: the linear maps J(T) that slope methods bound.

Two runs of a network differ by dv = T du at an activation, with T diagonal and its entries in the slope range
(`slopes`), by a selection of entries at a maximum or a sort (`selections`), and linearly elsewhere, biases cancelling.
With every T and every selection *chosen*, the output difference is J(T) times the input difference. What bounds the
Lipschitz constant from slope ranges alone bounds ||J(T)|| for all choices at once.

Linear are the kinds that become so once additive constants are dropped (`SAME_MAP`, `BIASED`, `BY_ONE_SIDE`, `LINEAR`).
A kind that is neither there, nor an activation, nor a selection has no linear part here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import msgspec
import torch
from torch import Tensor

from certify.bounds.constants import independent_values
from certify.bounds.selections import SELECTIONS, best_positions, select
from certify.bounds.slopes import ACTIVATIONS, slope_range
from certify.bounds.walk import no_bound
from certify.graph import Graph, Operation, value_shapes
from certify.graph.run import run_operation
from certify.results import Unbounded

Choices: TypeAlias = Mapping[str, Tensor]
Ends: TypeAlias = tuple[Tensor, Tensor]

SAME_MAP = frozenset(
    {"mean", "sum", "avg_pool", "adaptive_avg_pool", "reshape", "permute", "expand", "slice", "flip", "roll"}
    | {"upsample_nearest", "concat", "add", "sub"}
)
BIASED = frozenset({"linear", "conv", "conv_transpose"})
BY_ONE_SIDE = frozenset({"mul", "div", "matmul"})


def _without_bias(operation: Operation) -> Operation:
    weights = {role: name for role, name in operation.weights.items() if role != "bias"}
    return msgspec.structs.replace(operation, weights=weights)


def _batch_norm(graph: Graph, operation: Operation, x: Tensor) -> Tensor:
    weight, variance = graph.weight(operation, "weight"), graph.required_weight(operation, "variance")
    scale = torch.rsqrt(variance + operation.number("eps")) * (1.0 if weight is None else weight)
    return x * scale.reshape(-1, *[1] * (x.dim() - 2))


def _normalize(graph: Graph, operation: Operation, x: Tensor) -> Tensor:
    return x / graph.required_weight(operation, "std")


def _pad(graph: Graph, operation: Operation, x: Tensor) -> Tensor:
    zero = msgspec.structs.replace(operation, attributes={**operation.attributes, "value": 0.0})
    return run_operation(graph, zero, [x], x.shape[0])


LINEAR: Mapping[str, Callable[[Graph, Operation, Tensor], Tensor]] = MappingProxyType(
    {"batch_norm": _batch_norm, "normalize": _normalize, "pad": _pad}
)


@dataclass(frozen=True, eq=False)
class LinearPart:
    """The maps J(T) of one network: the ends of every slope range, per activation ``[*shape]`` of one example."""

    graph: Graph
    ends: Mapping[str, Ends]
    selections: tuple[str, ...]
    independent: frozenset[str]

    def values(self, v: Tensor, choices: Choices) -> dict[str, Tensor]:
        """Return J(T) v, and every value on the way, for a batch of v and one choice each.

        Args:
            v: Input differences ``[B, *input_shape]``.
            choices: Per activation T ``[B, *shape]``; per selection the positions in the example ``[B, *outputs]``.
        """
        values = {self.graph.input: v}
        for operation in self.graph.operations[1:]:
            values[operation.name] = self._value(operation, values, choices, len(v))
        return values

    def _value(self, operation: Operation, values: Mapping[str, Tensor], choices: Choices, batch: int) -> Tensor:
        inputs = [values[name] for name in operation.inputs]
        if operation.name in self.independent:
            return run_operation(self.graph, operation, inputs, batch)
        if operation.name in self.ends:
            return inputs[0] * choices[operation.name]
        if operation.kind in SELECTIONS:
            return select(inputs[0], choices[operation.name])
        if operation.kind in LINEAR:
            return LINEAR[operation.kind](self.graph, operation, inputs[0])
        if operation.kind in SAME_MAP:
            inputs = [self._difference(name, value) for name, value in zip(operation.inputs, inputs, strict=True)]
        return run_operation(self.graph, _without_bias(operation), inputs, batch)

    def _difference(self, name: str, value: Tensor) -> Tensor:
        """Return how much a value differs between two runs: not at all when it does not depend on the input."""
        return torch.zeros_like(torch.as_tensor(value)) if name in self.independent else value

    def best_selection(self, name: str, inputs: Tensor, outward: Tensor) -> Tensor:
        """Return the positions of a selection that maximise the sum of ``outward`` times the selected inputs."""
        return best_positions(self.graph.by_name[name], inputs, outward)


def linear_part(graph: Graph) -> LinearPart | Unbounded:
    """Return the maps J(T) of a network, or which operation has none.

    Example:
        >>> ops = (Operation(name="x", kind="input"), Operation(name="y", kind="softmax", inputs=("x",),
        ...        attributes={"dim": 1}))
        >>> str(linear_part(Graph(ops, "y", (3,), {})))
        'unbounded: softmax is no product of slopes at y'
    """
    exact = graph.to(torch.float64, "cpu")
    independent, shapes, doubled = independent_values(exact), value_shapes(exact), value_shapes(exact, 2)
    ends: dict[str, Ends] = {}
    for operation in exact.operations[1:]:
        if operation.name in independent:
            continue
        if operation.kind in ACTIVATIONS:
            shape = shapes[operation.name]
            if doubled[operation.name] != (2, *shape[1:]):
                return no_bound(operation, "its examples are not along the first dimension")
            found = _ends(exact, operation, shape[1:])
            if isinstance(found, Unbounded):
                return found
            ends[operation.name] = found
        elif not _is_linear(operation, independent):
            return no_bound(operation, f"{operation.kind} is no product of slopes")
    selections = tuple(op.name for op in exact if op.kind in SELECTIONS and op.name not in independent)
    return LinearPart(exact, ends, selections, independent)


def _is_linear(operation: Operation, independent: frozenset[str]) -> bool:
    if operation.kind in BY_ONE_SIDE:
        varying = [name not in independent for name in operation.inputs]
        return sum(varying) == 1 and (operation.kind != "div" or varying[0])
    return operation.kind in SAME_MAP | BIASED or operation.kind in SELECTIONS or operation.kind in LINEAR


def _ends(graph: Graph, operation: Operation, shape: tuple[int, ...]) -> Ends | Unbounded:
    """Return the two slopes of every entry; those of `prelu` differ by channel."""
    slopes = slope_range(graph, operation)
    if isinstance(slopes, Unbounded):
        return slopes
    whole = torch.ones(shape, dtype=torch.float64)
    if operation.kind != "prelu":
        return slopes[0] * whole, slopes[1] * whole
    weight = graph.required_weight(operation, "weight")
    per_entry = whole * weight.reshape(-1, *[1] * (len(shape) - 1))
    return per_entry.clamp(max=1.0), per_entry.clamp(min=1.0)
