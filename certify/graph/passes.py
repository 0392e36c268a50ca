"""Simplifying passes, graph to graph. Each leaves the function unchanged; floating point may differ where it says so.

- `drop_unused`: operations whose value nobody reads.
- `merge_equal`: operations that compute the same from the same values become one; bit for bit.
- `recognise`: patterns that are one operation of the vocabulary (MaxMin, softsign, tanhshrink); bit for bit.
- `merge_pads`: an explicit zero, circular, reflect or replicate pad becomes the padding of the convolution behind it;
  bit for bit.
- `fold_batch_norm`: batch norm (evaluation mode) behind a convolution or linear layer goes into its weights; rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import msgspec
import torch
from torch import Tensor

from certify.graph.graph import Graph, Operation
from certify.results import dump_json


def drop_unused(graph: Graph) -> Graph:
    """Return the graph without the operations that do not reach the output."""
    needed = {graph.output, graph.input}
    for operation in reversed(graph.operations):
        if operation.name in needed:
            needed.update(operation.inputs)
    return _rebuilt(graph, [operation for operation in graph.operations if operation.name in needed])


def _rebuilt(
    graph: Graph,
    operations: Sequence[Operation],
    tensors: Mapping[str, Tensor] | None = None,
    output: str | None = None,
) -> Graph:
    available = {**graph.tensors, **(tensors or {})}
    used = {name for operation in operations for name in operation.weights.values()}
    kept = {name: tensor for name, tensor in available.items() if name in used}
    return replace(graph, operations=tuple(operations), tensors=kept, output=output or graph.output)


def _changed(operation: Operation, **fields: object) -> Operation:
    return msgspec.structs.replace(operation, **fields)


def _sole_reader(graph: Graph, name: str) -> bool:
    return name != graph.output and len(graph.readers(name)) == 1


def merge_equal(graph: Graph) -> Graph:
    """Return the graph with operations of equal kind, inputs, weights and attributes merged into the first of them."""
    first: dict[str, str] = {}
    renamed: dict[str, str] = {}
    operations = []
    for operation in graph.operations:
        inputs = tuple(renamed.get(name, name) for name in operation.inputs)
        operation = _changed(operation, inputs=inputs)
        content = dump_json([operation.kind, inputs, operation.weights, operation.attributes])
        renamed[operation.name] = first.setdefault(content, operation.name)
        if renamed[operation.name] == operation.name:
            operations.append(operation)
    return _rebuilt(graph, operations, output=renamed[graph.output])


def recognise(graph: Graph) -> Graph:
    """Return the graph with known patterns replaced by the operation they spell out.

    ``cat(max(a, b), min(a, b))`` of the two halves of x is `max_min`, which is 1-Lipschitz as a whole, where its parts
    only give the square root of 2. ``x / (|x| + 1)`` is `softsign`, ``x - tanh(x)`` is `tanhshrink`.
    """
    graph = merge_equal(graph)
    for pattern in (_max_min, _softsign, _tanhshrink):
        operations = [pattern(graph, operation) or operation for operation in graph.operations]
        graph = drop_unused(_rebuilt(graph, operations))
    return graph


Pattern = Callable[[Graph, Operation], Operation | None]


def _inputs(graph: Graph, operation: Operation) -> list[Operation]:
    return [graph.by_name[name] for name in operation.inputs]


def _max_min(graph: Graph, operation: Operation) -> Operation | None:
    if operation.kind != "concat" or len(operation.inputs) != 2:
        return None
    high, low = _inputs(graph, operation)
    if (high.kind, low.kind) != ("maximum", "minimum") or set(high.inputs) != set(low.inputs):
        return None
    first, second = sorted(_inputs(graph, high), key=lambda half: half.attributes.get("start", -1))
    dim = operation.integer("dim")
    if (first.kind, second.kind) != ("slice", "slice") or first.inputs != second.inputs:
        return None
    source = first.inputs[0]
    size = first.integer("stop")
    expected = [(dim, 0, size, 1), (dim, size, 2 * size, 1)]
    found = [tuple(half.integer(name) for name in ("dim", "start", "stop", "step")) for half in (first, second)]
    if found != expected or _size(graph, source, dim) != 2 * size:
        return None
    return _changed(operation, kind="max_min", inputs=(source,), attributes={"dim": dim})


def _size(graph: Graph, value: str, dim: int) -> int:
    from certify.graph.run import value_shapes

    return value_shapes(graph)[value][dim]


def _softsign(graph: Graph, operation: Operation) -> Operation | None:
    if operation.kind != "div":
        return None
    x, below = operation.inputs[0], graph.by_name[operation.inputs[1]]
    if below.kind != "add":
        return None
    magnitude, one = _inputs(graph, below)
    if magnitude.kind != "abs" or magnitude.inputs != (x,):
        return None
    if one.kind != "constant" or one.attributes["value"] != 1.0:
        return None
    return _changed(operation, kind="softsign", inputs=(x,), attributes={})


def _tanhshrink(graph: Graph, operation: Operation) -> Operation | None:
    if operation.kind != "sub":
        return None
    x, other = operation.inputs[0], graph.by_name[operation.inputs[1]]
    if other.kind != "tanh" or other.inputs != (x,):
        return None
    return _changed(operation, kind="tanhshrink", inputs=(x,), attributes={})


def merge_pads(graph: Graph) -> Graph:
    """Return the graph with each explicit pad merged into the convolution that is its only reader.

    A zero pad merges with zero padding of any amount (padding twice with zeros is padding once); the other modes merge
    into a convolution that does not pad by itself.
    """
    operations = []
    for operation in graph.operations:
        pad = graph.by_name[operation.inputs[0]] if operation.kind == "conv" else None
        if pad is not None and pad.kind == "pad" and _sole_reader(graph, pad.name):
            operation = _merged(pad, operation)
        operations.append(operation)
    return drop_unused(_rebuilt(graph, operations))


def _merged(pad: Operation, conv: Operation) -> Operation:
    before, own = pad.pairs("padding"), conv.pairs("padding")
    mode = "zeros" if pad.text("mode") == "constant" else pad.text("mode")
    own_is_none = not any(size for pair in own for size in pair)
    crops = any(size < 0 for pair in before for size in pair)
    if len(before) != len(own) or crops or pad.number("value") != 0.0:
        return conv
    if not (own_is_none or (mode == "zeros" == conv.text("padding_mode"))):
        return conv
    total = [[a + c, b + d] for (a, b), (c, d) in zip(before, own, strict=True)]
    return _changed(conv, inputs=pad.inputs, attributes={**conv.attributes, "padding": total, "padding_mode": mode})


def fold_batch_norm(graph: Graph) -> Graph:
    """Return the graph with each batch norm folded into the convolution or linear layer it follows.

    W' = diag(g) W and b' = g (b - mean) + shift with g = weight / sqrt(variance + eps), computed in float64 and rounded
    to the stored dtype: the same function up to that rounding. Only where the layer has no other reader. Meant for
    speed; `certify.bounds` proves its own fold.
    """
    folded = graph
    for norm in graph.operations:
        if norm.kind == "batch_norm":
            folded = _fold(folded, norm.name)
    return folded


def _fold(graph: Graph, name: str) -> Graph:
    norm = graph.by_name[name]
    layer = graph.by_name[norm.inputs[0]]
    if layer.kind not in ("conv", "linear") or not _sole_reader(graph, layer.name) or _tied(graph, layer):
        return graph
    if layer.kind == "linear" and _linear_rank(graph, layer) != 2:
        return graph  # batch norm acts on dimension 1, which is not the layer's output dimension
    weight, bias = _folded_weights(graph, layer, norm)
    names = {"weight": f"{name}.folded_weight", "bias": f"{name}.folded_bias"}
    new_layer = _changed(layer, name=name, weights=names)
    operations = [new_layer if op.name == layer.name else op for op in graph.operations if op.name != name]
    return _rebuilt(graph, operations, {names["weight"]: weight, names["bias"]: bias})


def _tied(graph: Graph, layer: Operation) -> bool:
    own = set(layer.weights.values())
    return any(own & set(op.weights.values()) for op in graph.operations if op.name != layer.name)


def _linear_rank(graph: Graph, layer: Operation) -> int:
    from certify.graph.run import value_shapes

    return len(value_shapes(graph)[layer.name])


def _folded_weights(graph: Graph, layer: Operation, norm: Operation) -> tuple[Tensor, Tensor]:
    weight = graph.required_weight(layer, "weight")
    mean, variance = (graph.required_weight(norm, role).double() for role in ("mean", "variance"))
    scale, shift = (graph.weight(norm, role) for role in ("weight", "bias"))
    own_bias = graph.weight(layer, "bias")
    gain = torch.rsqrt(variance + norm.number("eps")) * (1.0 if scale is None else scale.double())
    start = torch.zeros_like(mean) if own_bias is None else own_bias.double()
    bias = (start - mean) * gain + (0.0 if shift is None else shift.double())
    scaled = weight.double() * gain.reshape(-1, *[1] * (weight.dim() - 1))
    return scaled.to(weight.dtype), bias.to(weight.dtype)
