"""Shapes that are read off an operation without its kernel.

PyTorch's kernels for the meta device load its compiler when the first of them runs: two seconds at every start, for
networks of a few layers too. Where an operation plainly fits its inputs, its shape is known without them; where it does
not, or is of another kind, the kernel decides and says what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from certify.graph.graph import Operation

CONVOLUTIONS = frozenset({"conv", "conv_transpose"})
SPATIAL = ("stride", "padding", "dilation", "output_padding")
MAPS = frozenset(
    {
        *("relu", "selu", "silu", "mish", "tanh", "sigmoid", "hardswish", "hardsigmoid", "abs", "softsign"),
        *("logsigmoid", "tanhshrink", "sin", "add", "sub", "mul", "div", "maximum", "minimum", "leaky_relu", "gelu"),
    }
)
"""Kinds that take each entry, or the entries at one place, to one entry, whatever attributes the vocabulary allows."""


def plain_shape(
    operation: Operation, values: Sequence[object], weights: Mapping[str, Tensor]
) -> tuple[int, ...] | None:
    """Return the shape of an operation's value, None where only its kernel knows.

    - Entry by entry, of inputs of one shape: that shape. So too for `max_min` along a dimension of even size.
    - `linear`, x [..., in], weight [out, in], bias [out]: [..., out].
    - `batch_norm`, x [N, C, ...] and each weight [C]: the shape of x.
    - `conv` with zeros around it, and `conv_transpose`: [N, out, ...], each size n with k taps by

          (n + before + after - dilation (k - 1) - 1) // stride + 1,
          (n - 1) stride - 2 padding + dilation (k - 1) + output_padding + 1.

    Example:
        >>> import torch
        >>> weights = {"weight": torch.ones(2, 3)}
        >>> plain_shape(Operation(name="y", kind="linear", inputs=("x",)), [torch.ones(5, 3)], weights)
        (5, 2)
    """
    if operation.kind in CONVOLUTIONS:
        return _convolved_shape(operation, values, weights)
    shapes = {tuple(value.shape) if isinstance(value, Tensor) else None for value in values}
    shape = shapes.pop()
    if shapes or shape is None:
        return None
    if operation.kind in MAPS:
        return shape
    if operation.kind == "max_min":
        dim = operation.integer("dim")
        return shape if dim < len(shape) and shape[dim] % 2 == 0 else None
    if operation.kind == "linear":
        return _linear_shape(shape, [tuple(weights[role].shape) for role in ("weight", "bias") if role in weights])
    if operation.kind == "batch_norm" and len(shape) > 1:
        return shape if {tuple(weight.shape) for weight in weights.values()} == {shape[1:2]} else None
    return None


def _linear_shape(shape: tuple[int, ...], weights: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    (matrix, *bias) = weights
    fits = shape and len(matrix) == 2 and matrix[1] == shape[-1] and all(one == matrix[:1] for one in bias)
    return (*shape[:-1], matrix[0]) if fits else None


def _convolved_shape(
    operation: Operation, values: Sequence[object], weights: Mapping[str, Tensor]
) -> tuple[int, ...] | None:
    (x,), kernel, groups = values, tuple(weights["weight"].shape), operation.integer("groups")
    rank = len(kernel) - 2
    lists = [operation.attributes[name] for name in SPATIAL if name in operation.attributes]
    if not isinstance(x, Tensor) or x.dim() != rank + 2 or rank < 1 or any(len(each) != rank for each in lists):
        return None
    forward = operation.kind == "conv"
    read, made = (kernel[1] * groups, kernel[0]) if forward else (kernel[0], kernel[1] * groups)
    sizes = (_convolved_sizes if forward else _transposed_sizes)(operation, x.shape[2:], kernel[2:])
    fits = x.shape[1] == read and kernel[0] % groups == 0 and rank <= 3 and min(*x.shape, *kernel, *sizes) >= 1
    return (x.shape[0], made, *sizes) if fits and _has_entries(weights.get("bias"), made) else None


def _has_entries(bias: Tensor | None, count: int) -> bool:
    return bias is None or tuple(bias.shape) == (count,)


def _convolved_sizes(operation: Operation, sizes: Sequence[int], taps: Sequence[int]) -> list[int]:
    """Return the size along each dimension; 0 where it is not plain."""
    geometry = zip(
        sizes, taps, *(operation.attributes[name] for name in ("padding", "dilation", "stride")), strict=True
    )
    plain = operation.text("padding_mode") == "zeros"
    return [
        (n + before + after - d * (k - 1) - 1) // s + 1 if plain and min(before, after) >= 0 else 0
        for n, k, (before, after), d, s in geometry
    ]


def _transposed_sizes(operation: Operation, sizes: Sequence[int], taps: Sequence[int]) -> list[int]:
    """Return the size along each dimension; 0 where it is not plain."""
    names = ("stride", "padding", "dilation", "output_padding")
    geometry = zip(sizes, taps, *(operation.integers(name) for name in names), strict=True)
    return [
        (n - 1) * s - 2 * p + d * (k - 1) + extra + 1 if extra < max(s, d) else 0 for n, k, s, p, d, extra in geometry
    ]
