"""Running a graph: one kernel per kind, called the same way eagerly, on the meta device, and inside an fx module.

A kernel takes the input values in order, and its weights (by role) and attributes (by name) as keywords; `reshape` and
`expand` also take the batch size. On the tensors of a traced module the kernels call the very operators the module
called, so the outputs are equal bit for bit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from certify.errors import InputError
from certify.graph.fitting import check_fit
from certify.graph.graph import Graph, Operation
from certify.graph.plain_shapes import plain_shape

MAX_ELEMENTS = 2**31
OWN_MEMORY = frozenset({"conv", "conv_transpose", "linear", "batch_norm", "add", "sub", "matmul"})
"""The kinds whose kernel always writes to new memory, where others may return their input or a view of it."""
BATCHED_SHAPE = frozenset({"reshape", "expand"})
Kernel = Callable[..., Tensor]


def concrete_shape(shape: Sequence[int], batch: int) -> list[int]:
    """Return a shape attribute with its entries ``-k`` replaced by k times the batch size."""
    return [size if size >= 0 else -size * batch for size in shape]


def pad_list(padding: Sequence[Sequence[int]]) -> list[int]:
    """Return ``[before, after]`` pairs in the order of `torch.nn.functional.pad`: last dimension first."""
    return [size for pair in reversed(padding) for size in pair]


def _constant(*, value: Any) -> Any:  # noqa: ANN401 - a tensor, or a number of any type as a float
    return value if isinstance(value, Tensor) else float(value)


def _conv(
    x: Tensor,
    *,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: list[int],
    padding: list[list[int]],
    dilation: list[int],
    groups: int,
    padding_mode: str,
) -> Tensor:
    function = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
    if padding_mode == "zeros" and all(before == after for before, after in padding):
        return function(x, weight, bias, stride, [before for before, _ in padding], dilation, groups)
    mode = "constant" if padding_mode == "zeros" else padding_mode
    return function(F.pad(x, pad_list(padding), mode), weight, bias, stride, 0, dilation, groups)


def _conv_transpose(
    x: Tensor,
    *,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[weight.dim() - 3]
    return function(x, weight, bias, stride, padding, output_padding, groups, dilation)


def _batch_norm(
    x: Tensor,
    *,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float,
) -> Tensor:
    return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)


def _max_pool(
    x: Tensor, *, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil_mode: bool
) -> Tensor:
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel) - 1]
    pooled: Tensor = function(x, kernel, stride, padding, dilation, ceil_mode)
    return pooled


def _avg_pool(
    x: Tensor,
    *,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Tensor:
    if len(kernel) == 1:
        if divisor is not None:
            raise ValueError("a one-dimensional average pool takes no divisor")
        return F.avg_pool1d(x, kernel, stride, padding, ceil_mode, count_include_pad)
    function = (F.avg_pool2d, F.avg_pool3d)[len(kernel) - 2]
    return function(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor)


def _adaptive_max_pool(x: Tensor, *, output: list[int]) -> Tensor:
    functions: tuple[Kernel, ...] = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)
    return functions[len(output) - 1](x, output)


def _adaptive_avg_pool(x: Tensor, *, output: list[int]) -> Tensor:
    functions: tuple[Kernel, ...] = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
    return functions[len(output) - 1](x, output)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, causal: bool, scale: float | None
) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal, scale=scale)


def _max_min(x: Tensor, *, dim: int) -> Tensor:
    a, b = x.chunk(2, dim)
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], dim)


def _slice(x: Tensor, *, dim: int, start: int, stop: int, step: int) -> Tensor:
    part: Tensor = torch.ops.aten.slice.Tensor(x, dim, start, stop, step)
    return part


def _upsample_nearest(x: Tensor, *, scale: list[int]) -> Tensor:
    for dim, factor in enumerate(scale, start=2):
        x = x.repeat_interleave(factor, dim)
    return x


KERNELS: Mapping[str, Kernel] = MappingProxyType(
    {
        "constant": _constant,
        "linear": lambda x, *, weight, bias=None: F.linear(x, weight, bias),
        "conv": _conv,
        "conv_transpose": _conv_transpose,
        "batch_norm": _batch_norm,
        "normalize": lambda x, *, mean, std: (x - mean) / std,
        "layer_norm": lambda x, *, weight=None, bias=None, shape, eps: F.layer_norm(x, shape, weight, bias, eps),
        "rms_norm": lambda x, *, weight=None, shape, eps: F.rms_norm(x, shape, weight, eps),
        "group_norm": lambda x, *, weight=None, bias=None, groups, eps: F.group_norm(x, groups, weight, bias, eps),
        "instance_norm": lambda x, *, weight=None, bias=None, eps: F.instance_norm(
            x, None, None, weight, bias, True, 0.0, eps
        ),
        "relu": F.relu,
        "selu": F.selu,
        "silu": F.silu,
        "mish": F.mish,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "hardswish": F.hardswish,
        "hardsigmoid": F.hardsigmoid,
        "abs": torch.abs,
        "softsign": lambda x: x / (x.abs() + 1),
        "logsigmoid": F.logsigmoid,
        "tanhshrink": lambda x: x - x.tanh(),
        "sin": torch.sin,
        "leaky_relu": lambda x, *, negative_slope: F.leaky_relu(x, negative_slope),
        "prelu": lambda x, *, weight: F.prelu(x, weight),
        "elu": lambda x, *, alpha: F.elu(x, alpha),
        "celu": lambda x, *, alpha: F.celu(x, alpha),
        "gelu": lambda x, *, approximate: F.gelu(x, approximate=approximate),
        "softplus": lambda x, *, beta, threshold: F.softplus(x, beta, threshold),
        "clamp": lambda x, *, min, max: torch.clamp(x, min, max),  # noqa: A006 - torch's own names
        "softshrink": lambda x, *, threshold: F.softshrink(x, threshold),
        "softmax": lambda x, *, dim: F.softmax(x, dim),
        "log_softmax": lambda x, *, dim: F.log_softmax(x, dim),
        "attention": _attention,
        "matmul": torch.matmul,
        "max_pool": _max_pool,
        "avg_pool": _avg_pool,
        "adaptive_max_pool": _adaptive_max_pool,
        "adaptive_avg_pool": _adaptive_avg_pool,
        "mean": lambda x, *, dims, keepdim: x.mean(dims, keepdim),
        "sum": lambda x, *, dims, keepdim: x.sum(dims, keepdim),
        "amax": lambda x, *, dims, keepdim: x.amax(dims, keepdim),
        "amin": lambda x, *, dims, keepdim: x.amin(dims, keepdim),
        "maximum": torch.maximum,
        "minimum": torch.minimum,
        "max_min": _max_min,
        "sort": lambda x, *, dim, descending: x.sort(dim, descending).values,
        "pad": lambda x, *, padding, mode, value: F.pad(
            x, pad_list(padding), mode, value if mode == "constant" else None
        ),
        "reshape": lambda x, *, shape, batch: x.reshape(concrete_shape(shape, batch)),
        "permute": lambda x, *, dims: x.permute(dims),
        "expand": lambda x, *, shape, batch: x.expand(concrete_shape(shape, batch)),
        "slice": _slice,
        "flip": lambda x, *, dims: x.flip(dims),
        "roll": lambda x, *, shifts, dims: x.roll(shifts, dims),
        "concat": lambda *values, dim: torch.cat(values, dim),
        "upsample_nearest": _upsample_nearest,
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
    }
)


def keywords(graph: Graph, operation: Operation) -> dict[str, object]:
    """Return the keyword arguments of an operation's kernel: its attributes and its weights."""
    weights = {role: graph.tensors[name] for role, name in operation.weights.items()}
    return {**operation.attributes, **weights}


def run_operation(graph: Graph, operation: Operation, values: Sequence[Tensor], batch: int) -> Tensor:
    """Return the value of one operation, given its input values.

    Raises:
        InputError: If the operation does not fit the shapes of its inputs.
    """
    arguments = keywords(graph, operation)
    if operation.kind in BATCHED_SHAPE:
        arguments["batch"] = batch
    try:
        check_fit(operation, values, {role: graph.tensors[name] for role, name in operation.weights.items()})
        return KERNELS[operation.kind](*values, **arguments)
    except (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError) as error:
        shapes = [list(value.shape) for value in values if isinstance(value, Tensor)]
        reason = str(error).splitlines()[0]
        raise InputError(f"{operation.where}: does not fit inputs of shape {shapes}: {reason}") from error


def run_all(graph: Graph, x: Tensor) -> dict[str, Tensor]:
    """Return every value of the graph for a batch of inputs.

    Args:
        graph: The network; its tensors must have the dtype and device of ``x``.
        x: Inputs ``[N, *input_shape]``.

    Raises:
        InputError: If ``x`` has another shape, or an operation does not fit its inputs.
    """
    if tuple(x.shape[1:]) != graph.input_shape:
        raise InputError(f"expected inputs of shape [N, {graph.input_shape}], got {list(x.shape)}")
    values = {graph.input: x}
    for operation in graph.operations[1:]:
        arguments = [values[name] for name in operation.inputs]
        values[operation.name] = run_operation(graph, operation, arguments, x.shape[0])
    return values


def run(graph: Graph, x: Tensor) -> Tensor:
    """Return the output of the graph for a batch of inputs.

    Example:
        >>> operations = (Operation(name="x", kind="input"), Operation(name="y", kind="relu", inputs=("x",)))
        >>> run(Graph(operations, "y", (2,), {}), torch.tensor([[-1.0, 2.0]])).tolist()
        [[0.0, 2.0]]
    """
    return run_all(graph, x)[graph.output]


def value_shapes(graph: Graph, batch: int = 1) -> dict[str, tuple[int, ...]]:
    """Return the shape of every value at a batch size, without computing anything.

    A scalar `constant` has shape ``()``. A shape that is not plain (`certify.graph.plain_shapes`) is inferred on the
    meta device, which allocates nothing.

    Raises:
        InputError: If an operation does not fit its inputs, or a value is empty or exceeds 2^31 elements.
    """
    if batch * math.prod(graph.input_shape) > MAX_ELEMENTS:
        raise InputError(f"expected inputs of at most 2^31 elements, got {batch} of shape {list(graph.input_shape)}")
    meta = graph.to(torch.float32, "meta")
    values: dict[str, Tensor] = {graph.input: torch.empty(batch, *graph.input_shape, device="meta")}
    shapes = {graph.input: tuple(values[graph.input].shape)}
    for operation in graph.operations[1:]:
        arguments = [values[name] for name in operation.inputs]
        value = _shape_only(meta, operation, arguments, batch)
        values[operation.name] = value
        shapes[operation.name] = tuple(value.shape) if isinstance(value, Tensor) else ()
        if not 1 <= math.prod(shapes[operation.name]) <= MAX_ELEMENTS:
            raise InputError(f"{operation.where}: expected 1 to 2^31 elements, got shape {shapes[operation.name]}")
    return shapes


def _shape_only(meta: Graph, operation: Operation, values: Sequence[Tensor], batch: int) -> Tensor:
    """Return the value of one operation on the meta device, without its kernel where the shape is plain."""
    weights = {role: meta.tensors[name] for role, name in operation.weights.items()}
    shape = plain_shape(operation, values, weights) if values else None
    return run_operation(meta, operation, values, batch) if shape is None else torch.empty(shape, device="meta")


def to_module(graph: Graph, *, in_place: bool = False, blocked: frozenset[str] = frozenset()) -> torch.fx.GraphModule:
    """Return the graph as a module, for `torch.compile`, devices and dtypes; outputs are those of `run`.

    Tensors become buffers ``tensor_0``, ``tensor_1``, ... so that ``.to(device)`` moves them. With ``in_place`` a ReLU
    overwrites its input where nothing else reads that: the same bits, in half the memory; such a module has no
    gradients. The operations named in ``blocked`` take, use and give tensors in oneDNN's own layouts; see
    `certify.graph.blocked`. Their weights are moved there now, so that such a module stays on the CPU.
    """
    root = torch.nn.Module()
    program = torch.fx.Graph()
    in_blocks = {
        name for operation in graph.operations if operation.name in blocked for name in operation.weights.values()
    }
    tensors: dict[tuple[str, bool], torch.fx.Node] = {}
    for position, (name, tensor) in enumerate(graph.tensors.items()):
        root.register_buffer(f"tensor_{position}", tensor)
        tensors[name, False] = program.get_attr(f"tensor_{position}")
        if name in in_blocks:
            root.register_buffer(f"blocked_{position}", tensor.to_mkldnn())
            tensors[name, True] = program.get_attr(f"blocked_{position}")
    values = {(graph.input, False): program.placeholder("x")}

    def value(name: str, in_block: bool) -> torch.fx.Node:
        if (name, in_block) not in values:
            move = "to_mkldnn" if in_block else "to_dense"
            values[name, in_block] = program.call_method(move, (values[name, not in_block],))
        return values[name, in_block]

    batch = program.call_method("size", (values[graph.input, False], 0))
    overwriting = _overwriting(graph) if in_place else frozenset()
    for operation in graph.operations[1:]:
        here = operation.name in blocked
        weights = {role: tensors[name, here] for role, name in operation.weights.items()}
        arguments = {**operation.attributes, **weights}
        if operation.kind in BATCHED_SHAPE:
            arguments["batch"] = batch
        inputs = tuple(value(name, here) for name in operation.inputs)
        kernel = "relu_in_place" if operation.name in overwriting else operation.kind
        values[operation.name, here] = program.call_function(_named_kernel(kernel), inputs, arguments)
    program.output(value(graph.output, False))
    program.eliminate_dead_code()  # weights that are read in blocks alone are not kept twice
    return torch.fx.GraphModule(root, program)


def _overwriting(graph: Graph) -> frozenset[str]:
    """Return the names of the ReLUs whose input is in memory of its own, is read by them alone, and is no output."""
    kinds = {operation.name: operation.kind for operation in graph.operations}
    readers = Counter(name for operation in graph.operations for name in operation.inputs)
    return frozenset(
        operation.name
        for operation in graph.operations
        if operation.kind == "relu"
        and kinds[operation.inputs[0]] in OWN_MEMORY
        and readers[operation.inputs[0]] == 1
        and operation.inputs[0] != graph.output
    )


def _named_kernel(kind: str) -> Kernel:
    """Return the kernel under a name fx can print in generated code (a lambda has none)."""
    return _NAMED[kind]


def _name_kernel(kind: str, kernel: Kernel) -> Kernel:
    def call(*values: Tensor, **arguments: object) -> Tensor:
        return kernel(*values, **arguments)

    call.__name__ = call.__qualname__ = f"kernel_{kind}"
    return call


_NAMED: Mapping[str, Kernel] = MappingProxyType(
    {kind: _name_kernel(kind, kernel) for kind, kernel in {**KERNELS, "relu_in_place": torch.relu_}.items()}
)
