r"""Linear operations on plain rows: any linear operation of the vocabulary, as a matrix.

A value of shape S is held by prod S rows. What moves numbers is found by moving their positions; what computes is
applied to the columns of the map, as the network applies it to an example, with gamma of its number of terms as error,
applied with absolute weights to absolute columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from certify.bounds.covariance import limits
from certify.bounds.covariance.maps import (
    Entries,
    Map,
    add,
    as_entries,
    enlarge,
    error_of,
    picked,
    scale,
    sizes,
    stack,
    take,
)
from certify.bounds.covariance.scalings import RELATIVE, factors
from certify.bounds.facts import Facts
from certify.graph import Operation
from certify.graph.run import BATCHED_SHAPE, KERNELS
from certify.rounding import gamma_up

Rule = Callable[[Facts, Operation, Sequence[Map], int], Map | None]
Columns = Callable[[Tensor], Tensor]


def row_map(facts: Facts, operation: Operation, maps: Sequence[Map], width: int) -> Map | None:
    """Return an operation's output as a map of the ``width`` columns its inputs are maps of, or None without a rule."""
    rule = RULES.get(operation.kind)
    largest = max(math.prod(facts.shapes[name]) for name in (operation.name, *operation.inputs))
    stays_small = operation.kind in _MOVES or (operation.kind == "linear" and picked(maps[0]) is not None)
    if rule is None or (largest * width > limits.MOST_ENTRIES and not stays_small):
        return None
    return rule(facts, operation, maps, width)


def _varying(facts: Facts, operation: Operation) -> list[str]:
    return [name for name in operation.inputs if name not in facts.independent]


def _numbers(facts: Facts, name: str, start: int = 0) -> Tensor:
    """Return the position of every entry of a value, exact in float64."""
    shape = facts.shapes[name]
    return torch.arange(start, start + math.prod(shape), dtype=torch.float64).reshape(shape)


def _moved(facts: Facts, operation: Operation, maps: Sequence[Map], width: int) -> Map:
    """Move positions as the operation moves numbers; constants and padding are positions -1."""
    numbers, start = [], 0
    for name in operation.inputs:
        fixed = name in facts.independent
        own = _numbers(facts, name, start)
        numbers.append(torch.full_like(own, -1.0) if fixed else own)
        start += 0 if fixed else own.numel()
    arguments = dict(operation.attributes)
    if operation.kind == "pad":
        arguments["value"] = -1.0
    if operation.kind in BATCHED_SHAPE:
        arguments["batch"] = 1
    index = KERNELS[operation.kind](*numbers, **arguments).reshape(-1).to(torch.int64)
    return take(stack(maps, width, torch.float64), index)


def _sum(sign: float) -> Rule:
    def rule(facts: Facts, operation: Operation, maps: Sequence[Map], width: int) -> Map:
        spread = [
            take(rows, _numbers(facts, name).expand(facts.shapes[operation.name]).reshape(-1).to(torch.int64))
            for name, rows in zip(_varying(facts, operation), maps, strict=True)
        ]
        if len(spread) == 2:
            return add(spread[0], spread[1], width, torch.float64, sign)
        if sign > 0.0 or operation.inputs[0] not in facts.independent:
            return spread[0]
        minus = torch.full((math.prod(facts.shapes[operation.name]),), -1.0, dtype=torch.float64)
        return scale(spread[0], minus, 0.0, width, torch.float64)

    return rule


def _scaled(facts: Facts, operation: Operation, maps: Sequence[Map], width: int) -> Map | None:
    found = factors(facts, operation)
    if found is None:
        return None
    index = _numbers(facts, _varying(facts, operation)[0]).expand(found.shape).reshape(-1).to(torch.int64)
    return scale(take(maps[0], index), found.reshape(-1), RELATIVE, width, torch.float64)


def _linear(facts: Facts, operation: Operation, maps: Sequence[Map], width: int) -> Map:
    weight = facts.graph.required_weight(operation, "weight")
    lead = facts.shape(operation)[:-1]
    rows = picked(maps[0])
    if rows is not None and math.prod(lead) == 1:  # no product needed
        values = torch.zeros(1, weight.shape[0], width, dtype=torch.float64)
        values[0, :, rows] = weight
        return Entries(values)

    def times(matrix: Tensor) -> Columns:
        return lambda columns: (matrix @ columns.reshape(*lead, weight.shape[1], -1)).reshape(-1, columns.shape[1])

    return _computed(maps[0], width, times(weight), times(weight.abs()), weight.shape[1])


def _matmul(facts: Facts, operation: Operation, maps: Sequence[Map], width: int) -> Map | None:
    position = 0 if facts.is_constant(operation, 1) else 1
    known = facts.constants.get(operation.inputs[1 - position])
    if known is None or known.dim() != 2:
        return None
    shape = facts.shape(operation, position)

    def times(matrix: Tensor) -> Columns:
        def apply(columns: Tensor) -> Tensor:
            examples = columns.mT.reshape(-1, *shape)
            product = examples @ matrix if position == 0 else matrix @ examples
            return product.reshape(columns.shape[1], -1).mT

        return apply

    return _computed(maps[0], width, times(known), times(known.abs()), known.shape[position])


def _filtered(facts: Facts, operation: Operation, maps: Sequence[Map], width: int) -> Map | None:
    """Run a convolution or an average pool on every column as on an example, without its bias."""
    shape = facts.shape(operation)
    weights = {} if operation.kind.endswith("pool") else {"weight": facts.graph.required_weight(operation, "weight")}

    def times(tensors: Mapping[str, Tensor]) -> Columns:
        def apply(columns: Tensor) -> Tensor:
            examples = columns.mT.reshape(-1, *shape[1:])
            found = KERNELS[operation.kind](examples, **tensors, **operation.attributes)
            return found.reshape(columns.shape[1], -1).mT

        return apply

    positive = {role: tensor.abs() for role, tensor in weights.items()}
    return _computed(maps[0], width, times(weights), times(positive), math.prod(shape))


def _reduced(facts: Facts, operation: Operation, maps: Sequence[Map], width: int) -> Map:
    shape, dims = facts.shape(operation), operation.integers("dims")

    def apply(columns: Tensor) -> Tensor:
        grouped = columns.reshape(*shape, -1)
        found = grouped.mean(dims) if operation.kind == "mean" else grouped.sum(dims)
        return found.reshape(-1, columns.shape[1])

    return _computed(maps[0], width, apply, apply, math.prod(shape))


def _computed(view: Map, width: int, apply: Columns, absolute: Columns, terms: int) -> Map:
    """Apply a linear operation to the columns of a map; ``absolute`` is the same with absolute weights."""
    part = as_entries(view, width, torch.float64)
    values = apply(part.values[0])[None]
    error = gamma_up(terms + 16) * absolute(sizes(part.values)) + absolute(error_of(part))
    return Entries(values, enlarge(error, 2 * terms))


_MOVES = ("reshape", "permute", "expand", "slice", "flip", "roll", "concat", "pad", "upsample_nearest")
RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **dict.fromkeys(_MOVES, _moved),
        "add": _sum(1.0),
        "sub": _sum(-1.0),
        **dict.fromkeys(("batch_norm", "normalize", "mul", "div"), _scaled),
        "linear": _linear,
        "matmul": _matmul,
        **dict.fromkeys(("conv", "conv_transpose", "avg_pool", "adaptive_avg_pool"), _filtered),
        **dict.fromkeys(("mean", "sum"), _reduced),
    }
)
