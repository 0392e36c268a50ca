"""Shapes that are read off an operation without its kernel.

PyTorch's kernels for the meta device load its compiler when the first of them runs: two seconds at every start, for
networks of a few layers too. Where an operation plainly fits its inputs, its shape is known without them; where it does
not, or is of another kind, the kernel decides and says what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from certify.graph.graph import Operation

MAPS = frozenset(
    {
        *("relu", "selu", "silu", "mish", "tanh", "sigmoid", "hardswish", "hardsigmoid", "abs", "softsign"),
        *("logsigmoid", "tanhshrink", "sin", "add", "sub", "mul", "div", "maximum", "minimum"),
    }
)
"""Kinds without attributes and weights that take each entry, or the entries at one place, to one entry."""


def plain_shape(
    operation: Operation, values: Sequence[object], weights: Mapping[str, Tensor]
) -> tuple[int, ...] | None:
    """Return the shape of an operation's value, None where only its kernel knows.

    - Entry by entry, of inputs of one shape: that shape.
    - `linear`, x [..., in], weight [out, in], bias [out]: [..., out].
    - `batch_norm`, x [N, C, ...] and each weight [C]: the shape of x.

    Example:
        >>> import torch
        >>> weights = {"weight": torch.ones(2, 3)}
        >>> plain_shape(Operation(name="y", kind="linear", inputs=("x",)), [torch.ones(5, 3)], weights)
        (5, 2)
    """
    shapes = {tuple(value.shape) if isinstance(value, Tensor) else None for value in values}
    shape = shapes.pop()
    if shapes or shape is None:
        return None
    if operation.kind in MAPS:
        return shape
    if operation.kind == "linear":
        return _linear_shape(shape, [tuple(weights[role].shape) for role in ("weight", "bias") if role in weights])
    if operation.kind == "batch_norm" and len(shape) > 1:
        return shape if {tuple(weight.shape) for weight in weights.values()} == {shape[1:2]} else None
    return None


def _linear_shape(shape: tuple[int, ...], weights: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    (matrix, *bias) = weights
    fits = shape and len(matrix) == 2 and matrix[1] == shape[-1] and all(one == matrix[:1] for one in bias)
    return (*shape[:-1], matrix[0]) if fits else None
