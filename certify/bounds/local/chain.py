r"""From a graph to a chain: the network up to one value, as layers "linear, then an activation per entry".

A value of *stage* k is an affine map of the outputs of layer k (`affine`). The graph is walked once. A linear operation
is composed with the map it reads; an activation closes a layer: its rows become a source of stage k + 1. A value that
is read at a later stage than it was made (a residual connection) is carried there through identity rows, and so is one
that cannot be composed without rounding sums of products.

Maxima become relus, exactly: max(a, b) = b + relu(a - b), min(a, b) = a - relu(a - b); a window of n entries takes
ceil(log2 n) layers.

What has no rule here gets the typed answer `Unbounded`: the global bound of the network still holds then.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from certify.bounds.facts import Facts
from certify.bounds.folds import divides_by_positive
from certify.bounds.local.activations import IDENTITY, Activation
from certify.bounds.local.affine import (
    MAX_ENTRIES,
    Affine,
    Source,
    add,
    compose,
    constant,
    dense,
    gather,
    is_selection,
    is_small,
    scale,
    stack,
    whole,
)
from certify.bounds.local.layers import Chain, Layer, Segment
from certify.bounds.local.windows import Window, flat_positions
from certify.bounds.slopes import ACTIVATIONS, slope_range
from certify.bounds.walk import no_bound
from certify.graph import Operation
from certify.graph.run import pad_list, run_operation
from certify.results import Unbounded
from certify.rounding import gamma_up

MAX_ROWS = 2**14  # of one layer, and of the input
MAX_TOTAL = 2**27  # entries of all layers together: 1 GB in float64
BATCH_NORM_STEPS, RECIPROCAL_STEPS, AVERAGE_STEPS = 6.0, 1.0, 2.0


def chain_of(facts: Facts, value: str) -> Chain | Unbounded:
    """Return the network up to a value as a chain of layers, or why there is no local rule for it.

    The chain's real weights and biases (see `layers`) make exactly the function of the graph.

    Args:
        facts: The network, in float64 (`collect_structure` is enough).
        value: The value the chain ends in, the logits.

    Example:
        >>> import torch
        >>> from certify.bounds.facts import collect_structure
        >>> from certify.graph import Graph, Operation as Op
        >>> ops = (Op(name="x", kind="input"), Op(name="h", kind="relu", inputs=("x",)),
        ...        Op(name="y", kind="add", inputs=("x", "h")))
        >>> chain = chain_of(collect_structure(Graph(ops, "y", (2,), {})), "y")
        >>> [layer.kinds for layer in chain.layers], chain.run(torch.tensor([[-1.0, 2.0]])).tolist()
        ([('relu', 'identity'), ('identity',)], [[-1.0, 4.0]])
    """
    needed = _ancestors(facts, value)
    out_of_range = _check_range(facts, needed)
    if out_of_range is not None:
        return out_of_range
    builder = _Builder(facts)
    known: dict[str, Affine] = {}
    for operation in facts.graph:
        if operation.name in needed:
            made = _affine_of(builder, operation, known)
            if isinstance(made, Unbounded):
                return made
            if made.size > MAX_ROWS:
                return no_bound(operation, f"its {made.size} entries are too many for a local bound")
            known[operation.name] = made
    builder.place(known[value], IDENTITY, value)
    return builder.chain()


def _ancestors(facts: Facts, value: str) -> set[str]:
    needed = {value}
    for operation in reversed(facts.graph.operations):
        if operation.name in needed and operation.name not in facts.constants:
            needed.update(operation.inputs)
    return needed


def _check_range(facts: Facts, needed: set[str]) -> Unbounded | None:
    """Return why the tensors cannot be multiplied with a small relative error, if so."""
    for operation in facts.graph:
        names = operation.weights.values() if operation.name in needed else ()
        for name in names:
            sizes = facts.graph.tensors[name].to(torch.float64).abs()
            if not bool(torch.all((sizes == 0.0) | ((sizes >= 2.0**-200) & (sizes <= 2.0**200)))):
                return no_bound(operation, f"tensor {name!r} has entries too small or too large for a local bound")
    return None


def _affine_of(builder: _Builder, operation: Operation, known: Mapping[str, Affine]) -> Affine | Unbounded:
    facts = builder.facts
    if operation.kind == "input":
        return whole(builder.input)
    if operation.name in facts.constants:
        return constant(facts.constants[operation.name])
    if operation.name in facts.independent:
        return no_bound(operation, "no local rule for a value that is computed from constants")
    inputs = [known[name] for name in operation.inputs]
    if operation.kind in ACTIVATIONS:
        return _activation(builder, operation, inputs)
    rule = _RULES.get(operation.kind)
    if rule is None:
        return no_bound(operation, f"no local rule for {operation.kind}")
    return rule(builder, operation, inputs)


class _Builder:
    """Collects the rows of every layer while the graph is walked."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.input = Source(0, 0, math.prod(facts.graph.input_shape))
        self.rows: dict[Source, tuple[Affine, Activation, str]] = {}
        self.lifted: dict[tuple[Affine, int], Affine] = {}

    def place(self, rows: Affine, activation: Activation, value: str) -> Affine:
        """Make rows with an activation in the layer after their stage; return its outputs."""
        source = Source(rows.stage + 1, len(self.rows) + 1, rows.size)
        self.rows[source] = (rows, activation, value)
        return whole(source)

    def carry(self, value: Affine, stage: int, name: str) -> Affine:
        """Return a value as one of a later stage, through identity rows."""
        if value.stage >= stage or not value.blocks:
            return value
        key = (value, stage)
        if key not in self.lifted:
            before = self.carry(value, stage - 1, name)
            self.lifted[key] = self.place(before, IDENTITY, name)
        return self.lifted[key]

    def level(self, operation: Operation, values: list[Affine]) -> list[Affine]:
        """Return the inputs of an operation at one common stage, with small maps; constants as they are."""
        named = list(zip(values, operation.inputs, strict=True))
        small = [value if is_small(value) else self.carry(value, value.stage + 1, name) for value, name in named]
        stage = max((value.stage for value in small if value.blocks), default=0)
        return [self.carry(value, stage, name) for value, name in zip(small, operation.inputs, strict=True)]

    def selection(self, value: Affine, name: str) -> Affine:
        """Return a value as a selection of outputs: as it is, or through an identity layer."""
        return value if is_selection(value) else self.carry(value, value.stage + 1, name)

    def sum(self, operation: Operation, a: Affine, b: Affine) -> Affine:
        """Return a + b of one stage, through identity layers where the sum of their maps would be rounded."""
        found = add(a, b)
        if found is None:
            names = operation.inputs
            found = add(self.place(a, IDENTITY, names[0]), self.place(b, IDENTITY, names[-1]))
        if found is None:
            raise ValueError("expected the sum of two sources to be exact, got a rounded one")
        return found

    def chain(self) -> Chain | Unbounded:
        """Return the layers, the last one holding the rows placed last."""
        last = max(source.stage for source in self.rows)
        by_stage = [[self.input]] + [
            [source for source in self.rows if source.stage == stage] for stage in range(1, last + 1)
        ]
        sizes = [sum(source.size for source in sources) for sources in by_stage]
        total = sum(rows * columns for columns, rows in itertools.pairwise(sizes))
        if max(sizes) > MAX_ROWS or total > MAX_TOTAL:
            return Unbounded(f"layers of {', '.join(map(str, sizes))} entries are too large for a local bound")
        layers = [self._layer(before, here) for before, here in itertools.pairwise(by_stage)]
        return Chain(tuple(layers), self.facts.graph.input_shape)

    def _layer(self, before: list[Source], here: list[Source]) -> Layer:
        made = [self.rows[source] for source in here]
        ends = torch.tensor([0, *(source.size for source in here)]).cumsum(0).tolist()
        segments = tuple(
            Segment(first, last, activation, name)
            for (_, activation, name), (first, last) in zip(made, itertools.pairwise(ends), strict=True)
        )
        window = made[0][0].blocks.get(before[0]) if len(made) == len(before) == 1 else None
        window = window if isinstance(window, Window) else None
        return Layer(
            columns=sum(source.size for source in before),
            bias=torch.cat([rows.offset for rows, _, _ in made]),
            bias_error=torch.cat([rows.offset_error for rows, _, _ in made]),
            error=gamma_up(max(rows.steps for rows, _, _ in made)),
            segments=segments,
            window=window,
            dense=None if window is not None else torch.cat([_matrix(rows, before) for rows, _, _ in made]),
        )


def _matrix(rows: Affine, before: list[Source]) -> Tensor:
    def part(source: Source) -> Tensor:
        if source in rows.blocks:
            return dense(rows.blocks[source], source)
        return torch.zeros(rows.size, source.size, dtype=torch.float64)

    return torch.cat([part(source) for source in before], 1)


Rule: TypeAlias = Callable[[_Builder, Operation, list[Affine]], Affine | Unbounded]


def _activation(builder: _Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
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


def _move(builder: _Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
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
    builder: _Builder, operation: Operation, operator: Window | Tensor, steps: float, value: Affine
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


def _linear(builder: _Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
    weight = builder.facts.graph.required_weight(operation, "weight")
    copies = inputs[0].size // weight.shape[1]
    if copies > 1 and copies**2 * weight.numel() > MAX_ENTRIES:
        return no_bound(operation, f"its {copies * weight.shape[0]} entries are too many for a local bound")
    operator = weight if copies == 1 else torch.kron(torch.eye(copies, dtype=weight.dtype), weight)
    return _composed(builder, operation, operator, 0.0, inputs[0])


def _conv(builder: _Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
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

    def rule(builder: _Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
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


def _batch_norm(builder: _Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
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


def _normalize(builder: _Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
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


def _broadcast(builder: _Builder, operation: Operation, inputs: list[Affine]) -> list[Affine]:
    """Return the operands, each with the entries of the output, at one stage."""
    shape, found = builder.facts.shapes[operation.name], []
    for value, name in zip(builder.level(operation, inputs), operation.inputs, strict=True):
        index = torch.arange(value.size).reshape(builder.facts.shapes[name]).expand(shape)
        found.append(gather(value, index.reshape(-1)))
    return found


def _negated(value: Affine) -> Affine:
    found = scale(value, torch.full_like(value.offset, -1.0), 0.0)
    if found is None:
        raise ValueError("expected entries in range")
    return found


def _add(builder: _Builder, operation: Operation, inputs: list[Affine]) -> Affine:
    a, b = _broadcast(builder, operation, inputs)
    return builder.sum(operation, a, b)


def _sub(builder: _Builder, operation: Operation, inputs: list[Affine]) -> Affine:
    a, b = _broadcast(builder, operation, inputs)
    return builder.sum(operation, a, _negated(b))


def _times(builder: _Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
    """Multiply by an exact constant, or divide by one."""
    a, b = _broadcast(builder, operation, inputs)
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


def _larger(builder: _Builder, operation: Operation, a: Affine, b: Affine) -> Affine:
    """Return max(a, b) = b + relu(a - b)."""
    difference = builder.sum(operation, a, _negated(b))
    rest = builder.place(difference, Activation("relu"), operation.name)
    return builder.sum(operation, builder.carry(b, rest.stage, operation.name), rest)


def _maximum(builder: _Builder, operation: Operation, inputs: list[Affine]) -> Affine:
    a, b = _broadcast(builder, operation, inputs)
    return _larger(builder, operation, a, b)


def _minimum(builder: _Builder, operation: Operation, inputs: list[Affine]) -> Affine:
    a, b = _broadcast(builder, operation, inputs)
    return _negated(_larger(builder, operation, _negated(a), _negated(b)))


def _max_pool(builder: _Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
    """Take the entries of every window two by two; what falls on padding stands for the window's first entry."""
    _, channels, *sizes = builder.facts.shapes[operation.inputs[0]]
    outputs = builder.facts.shapes[operation.name][2:]
    geometry = [operation.integers(name) for name in ("kernel", "stride", "padding", "dilation")]
    coordinates = [
        torch.arange(n)[:, None] * s + torch.arange(k)[None, :] * d - p
        for n, k, s, p, d in zip(outputs, *geometry, strict=True)
    ]
    positions = flat_positions(coordinates, sizes)
    first = positions.gather(1, (positions >= 0).int().argmax(1, keepdim=True))
    positions = torch.where(positions >= 0, positions, first)
    index = (torch.arange(channels)[:, None, None] * math.prod(sizes) + positions).flatten(0, 1)
    return _tournament(builder, operation, builder.selection(inputs[0], operation.inputs[0]), index)


def _tournament(builder: _Builder, operation: Operation, value: Affine, index: Tensor) -> Affine | Unbounded:
    """Return, per row of ``index`` ``[windows, k]``, the largest of the entries of a value it names."""
    while index.shape[1] > 1:
        windows, half = index.shape[0], index.shape[1] // 2
        if windows * 2 * half > MAX_ROWS:
            return no_bound(operation, f"no local rule for {operation.kind} of this size")
        left, right = (part.reshape(-1) for part in (index[:, :half], index[:, half : 2 * half]))
        same = left == right
        difference = add(
            gather(value, torch.where(same, -1, left)), _negated(gather(value, torch.where(same, -1, right)))
        )
        if difference is None:
            raise ValueError("expected the difference of two selections to be exact")
        rest = builder.place(difference, Activation("relu"), operation.name)
        kept = torch.cat([right, index[:, 2 * half :].reshape(-1)])
        carried = builder.carry(gather(value, kept), rest.stage, operation.name)
        tail = torch.full((len(kept) - len(right),), -1)
        value = builder.sum(operation, carried, gather(rest, torch.cat([torch.arange(len(right)), tail])))
        index = torch.arange(len(right)).reshape(windows, half)
        if len(tail):
            index = torch.cat([index, torch.arange(len(right), len(kept))[:, None]], 1)
    return gather(value, index.reshape(-1))


_MOVES = ("reshape", "permute", "expand", "slice", "flip", "roll", "concat", "upsample_nearest", "pad")
_AVERAGES = ("avg_pool", "adaptive_avg_pool", "mean", "sum")
_RULES: Mapping[str, Rule] = MappingProxyType(
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
        "maximum": _maximum,
        "minimum": _minimum,
        "max_pool": _max_pool,
    }
)
