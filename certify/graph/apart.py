r"""The proof that examples of a batch do not touch each other.

A certificate speaks of a function of *one* input, but a network is traced and run on batches. If some operation mixed
two examples (an attention over the batch dimension, a reshape in the wrong order), the output for x would depend on
its neighbours, and neither a Lipschitz bound nor a vote would say anything about x. `check_examples_apart` refuses such
networks.

Statement. Give every number of a value the label of the one example it depends on, or -1 when it depends on none.
The rules below compute valid labels:

- *moving* operations (reshape, permute, slice, ...) move labels as they move numbers: they are applied to the labels;
- *elementwise* operations keep labels; with several operands the labels must agree where both are present;
- every other operation reads its input along some dimensions at once (linear the last, a convolution all but the
  first, softmax its own, ...): the labels must be constant along these, and the result carries that label.

The output must be ``[N, classes]`` with label i in row i. Then row i depends on example i alone. Every shape in a graph
is a constant or a multiple of the batch size, and the check runs at batch sizes 2 and 3, so that a constant that
happens to equal one of them does not pass for the batch. What two sizes cannot show about the others is refused: no
operation may read together, cut, turn or extend a dimension that grows with the batch (six steps of a roll are none
in batches of 2 and 3, and the sum of a broadcast dimension depends on how many examples came along).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from certify.errors import NoRuleError
from certify.graph.graph import Graph, Operation
from certify.graph.run import run_operation, value_shapes

NOBODY = -1.0
BATCHES = (2, 3)

MOVING = frozenset({"reshape", "permute", "expand", "slice", "flip", "roll", "concat", "pad", "upsample_nearest"})
ELEMENTWISE = frozenset(
    {
        *("relu", "selu", "silu", "mish", "tanh", "sigmoid", "hardswish", "hardsigmoid", "abs", "softsign"),
        *("logsigmoid", "tanhshrink", "sin", "leaky_relu", "prelu", "elu", "celu", "gelu", "softplus", "clamp"),
        *("softshrink", "batch_norm", "normalize", "add", "sub", "mul", "div", "maximum", "minimum"),
    }
)
ALL_BUT_BATCH = frozenset(
    {
        *("conv", "conv_transpose", "group_norm", "instance_norm"),
        *("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool"),
    }
)

Shape = tuple[int, ...]
Dims = Callable[[Operation, int], Sequence[int]]

READ_TOGETHER: Mapping[str, Dims] = MappingProxyType(
    {
        "linear": lambda _, rank: (rank - 1,),
        "layer_norm": lambda op, rank: range(rank - len(op.integers("shape")), rank),
        "rms_norm": lambda op, rank: range(rank - len(op.integers("shape")), rank),
        **dict.fromkeys(ALL_BUT_BATCH, lambda _, rank: range(1, rank)),
        **dict.fromkeys(("softmax", "log_softmax", "sort", "max_min"), lambda op, _: (op.integer("dim"),)),
        **dict.fromkeys(("mean", "sum", "amax", "amin"), lambda op, _: op.integers("dims")),
    }
)
"""The dimensions an operation reads at once, given its input's rank, for the kinds that have a single input."""

Touched = Callable[[Operation, Sequence[Shape]], Sequence[Sequence[int]]]

TOUCHED: Mapping[str, Touched] = MappingProxyType(
    {
        "slice": lambda op, _: ((op.integer("dim"),),),
        "flip": lambda op, _: (op.integers("dims"),),
        "roll": lambda op, shapes: (op.integers("dims") or range(len(shapes[0])),),
        "pad": lambda op, shapes: (_padded_dims(op, len(shapes[0])),),
        "matmul": lambda _, shapes: ((len(shapes[0]) - 1,), (len(shapes[1]) - 2,)),
        "attention": lambda _, shapes: [(len(shape) - 2, len(shape) - 1) for shape in shapes],
    }
)
"""The dimensions an operation reads together, cuts, turns or extends, per input; for others see `READ_TOGETHER`."""


def _padded_dims(operation: Operation, rank: int) -> list[int]:
    pairs = operation.pairs("padding")
    return [rank - len(pairs) + position for position, pair in enumerate(pairs) if any(pair)]


def check_examples_apart(graph: Graph) -> None:
    """Prove that each row of the output depends on the same row of the input only.

    Raises:
        NoRuleError: If an operation mixes two examples, or the output is not one row of logits per example.
        InputError: If an operation does not fit its inputs.
    """
    for batch in BATCHES:
        labels = _output_labels(graph, batch)
        if labels.dim() != 2:
            raise NoRuleError(f"expected an output [batch, classes], got {labels.dim()} dimensions: flatten it")
        rows = torch.arange(batch, dtype=labels.dtype)[:, None]
        if labels.shape[0] != batch or not bool(((labels == rows) | (labels == NOBODY)).all()):
            raise NoRuleError("expected row i of the output to depend on input i only; the batch dimension is moved")
    _check_touched_dims(graph)


def _check_touched_dims(graph: Graph) -> None:
    few, more = (value_shapes(graph, batch) for batch in BATCHES)
    for operation in graph.operations:
        shapes = [few[name] for name in operation.inputs]
        for name, dims in zip(operation.inputs, _touched(operation, shapes), strict=False):
            if any(few[name][dim] != more[name][dim] for dim in dims):
                raise NoRuleError(f"{operation.where}: acts along a dimension that grows with the batch")


def _touched(operation: Operation, shapes: Sequence[Shape]) -> Sequence[Sequence[int]]:
    if operation.kind in TOUCHED:
        return TOUCHED[operation.kind](operation, shapes)
    read = READ_TOGETHER.get(operation.kind)
    return () if read is None else (read(operation, len(shapes[0])),)


def _output_labels(graph: Graph, batch: int) -> Tensor:
    shapes = value_shapes(graph, batch)
    start = torch.arange(batch, dtype=torch.float32).view(batch, *[1] * len(graph.input_shape))
    labels: dict[str, Tensor] = {graph.input: start.expand(batch, *graph.input_shape)}
    for operation in graph.operations[1:]:
        inputs = [labels[name] for name in operation.inputs]
        labels[operation.name] = _labels_of(graph, operation, inputs, shapes[operation.name], batch)
    return labels[graph.output]


def _labels_of(
    graph: Graph, operation: Operation, inputs: Sequence[Tensor], shape: tuple[int, ...], batch: int
) -> Tensor:
    if operation.kind == "constant":
        return torch.full(shape, NOBODY)
    if operation.kind in MOVING:
        return _moved(graph, operation, inputs, batch)
    if operation.kind in ELEMENTWISE:
        return _agreed(operation, inputs).expand(shape)
    if operation.kind == "attention":
        return _agreed(operation, [_together(operation, x, (x.dim() - 2, x.dim() - 1)) for x in inputs]).expand(shape)
    if operation.kind == "matmul":
        left, right = inputs
        rows = _together(operation, left, (left.dim() - 1,))
        columns = _together(operation, right, (right.dim() - 2,))
        return _agreed(operation, [rows, columns]).expand(shape)
    collapsed = _together(operation, inputs[0], READ_TOGETHER[operation.kind](operation, inputs[0].dim()))
    return _spread(operation, collapsed, shape)


def _moved(graph: Graph, operation: Operation, inputs: Sequence[Tensor], batch: int) -> Tensor:
    if operation.kind == "pad" and operation.text("mode") == "constant":
        padded = Operation(
            name=operation.name,
            kind="pad",
            inputs=operation.inputs,
            attributes={**operation.attributes, "value": NOBODY},
            module=operation.module,
        )
        return run_operation(graph, padded, inputs, batch)
    return run_operation(graph, operation, inputs, batch)


def _agreed(operation: Operation, labels: Sequence[Tensor]) -> Tensor:
    merged = labels[0]
    for other in labels[1:]:
        a, b = merged + torch.zeros_like(other), other + torch.zeros_like(merged)  # broadcast against each other
        if not bool(((a == b) | (a == NOBODY) | (b == NOBODY)).all()):
            raise NoRuleError(f"{operation.where}: combines different examples of a batch")
        merged = torch.where(a == NOBODY, b, a)
    return merged


def _together(operation: Operation, labels: Tensor, dims: Sequence[int]) -> Tensor:
    if not dims:
        return labels
    highest = labels.amax(tuple(dims), keepdim=True)
    if not bool(((labels == highest) | (labels == NOBODY)).all()):
        raise NoRuleError(f"{operation.where}: mixes different examples of a batch")
    return highest


def _spread(operation: Operation, collapsed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Give the collapsed labels the output's shape; a reduction without keepdim drops its dimensions first."""
    if "keepdim" in operation.attributes and not operation.flag("keepdim"):
        dims = operation.integers("dims")
        kept = [dim for dim in range(collapsed.dim()) if dim not in dims]
        collapsed = collapsed.permute(*kept, *dims).reshape([collapsed.shape[dim] for dim in kept])
    return collapsed.expand(shape)
