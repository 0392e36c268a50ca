r"""How linear operations and activations become rows of a chain: one rule per kind.

Moves copy rows; a convolution, a dense map and an average are composed with the map they read; batch norm and
normalisation scale it; sums join maps. Whatever would round a sum of products gets an identity layer in between.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from certify.bounds.facts import Facts
from certify.bounds.folds import divides_by_positive
from certify.bounds.local.activations import Activation
from certify.bounds.local.affine import MAX_ENTRIES, Affine, compose, gather, scale, stack
from certify.bounds.local.building import MAX_ROWS, Builder, Rule, broadcast, negated
from certify.bounds.local.windows import Window
from certify.bounds.slopes import slope_range
from certify.bounds.walk import no_bound
from certify.graph import Operation
from certify.graph.run import pad_list, run_operation
from certify.results import Unbounded

BATCH_NORM_STEPS, RECIPROCAL_STEPS, AVERAGE_STEPS = 6.0, 1.0, 2.0


def activation_rule(builder: Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
    """Close a layer: the rows of the value get the activation, whose outputs are a source of the next stage."""
    slopes = slope_range(builder.facts.graph, operation)
    if isinstance(slopes, Unbounded):
        return slopes
    if operation.kind == "clamp" and _is_reversed(operation):
        return no_bound(operation, "no local rule for a clamp whose min exceeds its max")
    per_row = _prelu_slopes(builder.facts, operation) if operation.kind == "prelu" else None
    activation = Activation(operation.kind, operation.attributes, per_row)
    return builder.place(inputs[0], activation, operation.name)


def _is_reversed(operation: Operation) -> bool:
    least, most = operation.optional_number("min"), operation.optional_number("max")
    return least is not None and most is not None and least > most


def _prelu_slopes(facts: Facts, operation: Operation) -> Tensor:
    shape, weight = facts.shapes[operation.name], facts.graph.required_weight(operation, "weight")
    columns = weight if weight.numel() == 1 else weight.reshape(-1, *[1] * (len(shape) - 2))
    return columns.expand(shape).reshape(-1)


def _move(builder: Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
    """Copy rows: the operation itself is run on row numbers."""
    values, total = builder.level(operation, inputs), 0
    numbers = []
    for name, value in zip(operation.inputs, values, strict=True):
        numbers.append((torch.arange(value.size, dtype=torch.float64) + total).reshape(builder.facts.shapes[name]))
        total += value.size
    fill = operation.number("value") if operation.kind == "pad" else 0.0
    if operation.kind == "pad":
        operation = msgspec.structs.replace(operation, attributes={**operation.attributes, "value": -1.0})
    index = run_operation(builder.facts.graph, operation, numbers, 1).reshape(-1).long()
    return gather(values[0] if len(values) == 1 else stack(values), index, fill)


def _composed(
    builder: Builder, operation: Operation, operator: Window | Tensor, steps: float, value: Affine
) -> Affine | Unbounded:
    rows = operator.rows if isinstance(operator, Window) else operator.shape[0]
    selected = builder.selection(value, operation.inputs[0])
    if rows > MAX_ROWS or any(rows * source.size > MAX_ENTRIES for source in selected.blocks):
        return no_bound(operation, f"its {rows} entries are too many for a local bound")
    bias = builder.facts.graph.weight(operation, "bias")
    if bias is not None:
        shape = builder.facts.shapes[operation.name]
        layout = (1, -1, *[1] * (len(shape) - 2)) if operation.kind != "linear" else (-1,)
        bias = bias.reshape(layout).expand(shape).reshape(-1)
    found = compose(operator, steps, selected, bias)
    return _out_of_range(operation) if found is None else found


def _out_of_range(operation: Operation) -> Unbounded:
    return no_bound(operation, "a product of its weights is too small or too large for a local bound")


def _linear(builder: Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
    weight = builder.facts.graph.required_weight(operation, "weight")
    copies = inputs[0].size // weight.shape[1]
    if copies > 1 and copies**2 * weight.numel() > MAX_ENTRIES:
        return no_bound(operation, f"its {copies * weight.shape[0]} entries are too many for a local bound")
    operator = weight if copies == 1 else torch.kron(torch.eye(copies, dtype=weight.dtype), weight)
    return _composed(builder, operation, operator, 0.0, inputs[0])


def _conv(builder: Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
    shape = builder.facts.shapes[operation.inputs[0]]
    padding, value = operation.pairs("padding"), inputs[0]
    if operation.text("padding_mode") != "zeros":
        numbers = torch.arange(value.size, dtype=torch.float64).reshape(shape)
        padded = F.pad(numbers, pad_list(padding), operation.text("padding_mode"))
        value, shape, padding = gather(value, padded.reshape(-1).long()), padded.shape, ((0, 0),) * len(padding)
    window = Window(
        builder.facts.graph.required_weight(operation, "weight"),
        tuple(shape[2:]),
        operation.integers("stride"),
        padding,
        operation.integers("dilation"),
        operation.integer("groups"),
    )
    return _composed(builder, operation, window, 0.0, value)


def _by_basis(steps: float) -> Rule:
    """Return the rule of a linear operation whose matrix is found by running it on every unit vector.

    Every entry is then a copy of a stored number (``steps`` 0, checked), or a weight of an average, rounded.
    """

    def rule(builder: Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
        facts = builder.facts
        varying = [name for name in operation.inputs if name not in facts.constants]
        shape, value = facts.shapes[varying[0]], inputs[operation.inputs.index(varying[0])]
        if len(varying) > 1 or shape[0] != 1 or any(name in facts.independent for name in varying):
            return no_bound(operation, f"no local rule for {operation.kind} of these operands")
        if value.size * math.prod(facts.shapes[operation.name]) > MAX_ENTRIES:
            return no_bound(operation, f"its {value.size} inputs are too many for a local bound")
        basis = torch.eye(value.size, dtype=torch.float64).reshape(-1, *shape[1:])
        linear = msgspec.structs.replace(operation, weights={k: v for k, v in operation.weights.items() if k != "bias"})
        operands = [facts.constants.get(name, basis) for name in operation.inputs]
        columns = run_operation(facts.graph, linear, operands, value.size)
        if columns.shape[0] != value.size:
            return no_bound(operation, f"no local rule for {operation.kind} across its first dimension")
        matrix = columns.reshape(value.size, -1).mT.contiguous()
        if steps == 0.0 and not _are_copies(matrix, _stored(facts, linear)):
            return no_bound(operation, "its matrix could not be read off without rounding")
        return _composed(builder, operation, matrix, steps, value)

    return rule


def _stored(facts: Facts, operation: Operation) -> Tensor:
    weights = [facts.graph.tensors[name] for name in operation.weights.values()]
    weights += [facts.constants[name] for name in operation.inputs if name in facts.constants]
    return torch.cat([torch.zeros(1, dtype=torch.float64), *(weight.reshape(-1) for weight in weights)])


def _are_copies(matrix: Tensor, stored: Tensor) -> bool:
    ordered = stored.sort().values
    return torch.equal(ordered[torch.searchsorted(ordered, matrix).clamp(max=len(ordered) - 1)], matrix)


def _batch_norm(builder: Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
    graph, shape = builder.facts.graph, builder.facts.shapes[operation.name]
    if not divides_by_positive(graph, operation):
        return no_bound(operation, "batch norm divides by the root of a variance + eps that is not surely positive")
    variance = graph.required_weight(operation, "variance")
    weight, bias = graph.weight(operation, "weight"), graph.weight(operation, "bias")
    factor = (variance + operation.number("eps")).sqrt().reciprocal()
    factor = factor if weight is None else factor * weight

    def per_entry(channels: Tensor) -> Tensor:
        return channels.reshape(1, -1, *[1] * (len(shape) - 2)).expand(shape).reshape(-1)

    mean = per_entry(graph.required_weight(operation, "mean"))
    shift = None if bias is None else per_entry(bias)
    found = scale(inputs[0], per_entry(factor), BATCH_NORM_STEPS, mean, shift)
    return _out_of_range(operation) if found is None else found


def _normalize(builder: Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
    graph = builder.facts.graph
    shape, source = builder.facts.shapes[operation.name], builder.facts.shapes[operation.inputs[0]]
    std, mean = (graph.required_weight(operation, role).expand(shape).reshape(-1) for role in ("std", "mean"))
    if not float(std.abs().min()) > 0.0:
        return no_bound(operation, "the input is divided by a standard deviation of 0")
    index = torch.arange(inputs[0].size).reshape(source).expand(shape).reshape(-1)
    found = scale(gather(inputs[0], index), std.reciprocal(), _reciprocal_steps(std), mean)
    return _out_of_range(operation) if found is None else found


def _reciprocal_steps(divisor: Tensor) -> float:
    """Return 0 when every divisor is a power of two, so that its reciprocal is exact."""
    return 0.0 if bool(torch.all(torch.frexp(divisor.abs()).mantissa == 0.5)) else RECIPROCAL_STEPS


def _add(builder: Builder, operation: Operation, inputs: list[Affine]) -> Affine:
    a, b = broadcast(builder, operation, inputs)
    return builder.sum(operation, a, b)


def _sub(builder: Builder, operation: Operation, inputs: list[Affine]) -> Affine:
    a, b = broadcast(builder, operation, inputs)
    return builder.sum(operation, a, negated(b))


def _times(builder: Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
    """Multiply by an exact constant, or divide by one."""
    a, b = broadcast(builder, operation, inputs)
    divides = operation.kind == "div"
    if operation.inputs[1] in builder.facts.constants:
        value, factor = a, b.offset
    elif operation.inputs[0] in builder.facts.constants and not divides:
        value, factor = b, a.offset
    else:
        return no_bound(operation, f"no local rule for {operation.kind} of two values")
    if divides and not float(factor.abs().min()) > 0.0:
        return no_bound(operation, "it divides by 0")
    steps = _reciprocal_steps(factor) if divides else 0.0
    found = scale(value, factor.reciprocal() if divides else factor, steps)
    return _out_of_range(operation) if found is None else found


_MOVES = ("reshape", "permute", "expand", "slice", "flip", "roll", "concat", "upsample_nearest", "pad")
_AVERAGES = ("avg_pool", "adaptive_avg_pool", "mean", "sum")
LINEAR: Mapping[str, Rule] = MappingProxyType(
    {
        **dict.fromkeys(_MOVES, _move),
        **dict.fromkeys(_AVERAGES, _by_basis(AVERAGE_STEPS)),
        **dict.fromkeys(("conv_transpose", "matmul"), _by_basis(0.0)),
        "linear": _linear,
        "conv": _conv,
        "batch_norm": _batch_norm,
        "normalize": _normalize,
        "add": _add,
        "sub": _sub,
        "mul": _times,
        "div": _times,
    }
)
