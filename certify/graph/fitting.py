"""What PyTorch would run but the vocabulary does not mean: refused before any kernel is called.

PyTorch fills up lists of attributes that are too short, halves what has no half, and reads inputs without a batch. The
proofs read every attribute as `certify.graph.vocabulary` states it, so a graph that asks for more must not pass:
`max_min` of three entries, for one, repeats the odd one, and is not 1-Lipschitz.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

from torch import Tensor

from certify.graph.graph import Operation

Values: TypeAlias = "Sequence[Tensor | float]"
Weights: TypeAlias = Mapping[str, Tensor]
Check: TypeAlias = Callable[[Operation, tuple[Tensor, ...], Weights], None]

TAKE_NUMBERS = frozenset({"add", "sub", "mul", "div"})
SPATIAL_LISTS = ("kernel", "stride", "padding", "dilation", "output_padding", "output")
SPATIAL_RANKS = (1, 2, 3)


def check_fit(operation: Operation, values: Values, weights: Weights) -> None:
    """Refuse an operation on inputs, or with attributes, that its kind is not defined for.

    Args:
        operation: The operation.
        values: Its input values; a scalar `constant` is a number.
        weights: Its weights, by role.

    Raises:
        ValueError: If it does not fit; the message says what was expected.

    Example:
        >>> import torch
        >>> halves = Operation(name="y", kind="max_min", inputs=("x",), attributes={"dim": 1})
        >>> check_fit(halves, [torch.ones(1, 3)], {})
        Traceback (most recent call last):
        ValueError: expected two halves along dimension 1, got size 3
    """
    tensors = tuple(value for value in values if isinstance(value, Tensor))
    if len(tensors) < len(values) and operation.kind not in TAKE_NUMBERS:
        raise ValueError("expected tensors, got a number; only add, sub, mul and div take one")
    for check in CHECKS.get(operation.kind, ()):
        check(operation, tensors, weights)


def _has_dim(operation: Operation, values: tuple[Tensor, ...], _: Weights) -> None:
    dim, rank = operation.integer("dim"), values[0].dim()
    if dim >= rank:
        raise ValueError(f"expected a dimension below {rank}, got {dim}")


def _has_halves(operation: Operation, values: tuple[Tensor, ...], _: Weights) -> None:
    dim = operation.integer("dim")
    size = values[0].shape[dim]
    if size % 2:
        raise ValueError(f"expected two halves along dimension {dim}, got size {size}")


def _has_dims(operation: Operation, values: tuple[Tensor, ...], _: Weights) -> None:
    dims, rank = operation.integers("dims"), values[0].dim()
    if max(dims, default=-1) >= rank:
        raise ValueError(f"expected dimensions below {rank}, got {list(dims)}")


def _names_dims(operation: Operation, _values: tuple[Tensor, ...], _: Weights) -> None:
    if not operation.integers("dims"):
        raise ValueError("expected the dimensions to reduce, got none")


def _is_matrix(_operation: Operation, _values: tuple[Tensor, ...], weights: Weights) -> None:
    if weights["weight"].dim() != 2:
        raise ValueError(f"expected a weight [out, in], got shape {list(weights['weight'].shape)}")


def _has_vectors(_operation: Operation, _values: tuple[Tensor, ...], weights: Weights) -> None:
    for role, weight in weights.items():
        if weight.dim() != 1:
            raise ValueError(f"expected {role} with one entry per channel, got shape {list(weight.shape)}")


def _are_matrices(_operation: Operation, values: tuple[Tensor, ...], _: Weights) -> None:
    if min(value.dim() for value in values) < 2:
        raise ValueError("expected matrices, got a vector; reshape it to one row or column")


def _convolves(operation: Operation, values: tuple[Tensor, ...], weights: Weights) -> None:
    rank = weights["weight"].dim() - 2
    _has_spatial_lists(operation, rank)
    if values[0].dim() != rank + 2:
        raise ValueError(f"expected an input [N, C, {rank} spatial dimensions], got {values[0].dim()} dimensions")
    groups, channels = operation.integer("groups"), weights["weight"].shape[0]
    if channels % groups:
        raise ValueError(f"expected a number of groups that divides {channels} channels, got {groups}")


def _pads_outward(operation: Operation, _values: tuple[Tensor, ...], _: Weights) -> None:
    if any(size < 0 for pair in operation.pairs("padding") for size in pair):
        raise ValueError("expected a padding of at least 0; crop with pad")


def _extends_less_than_a_step(operation: Operation, _values: tuple[Tensor, ...], _: Weights) -> None:
    names = ("output_padding", "stride", "dilation")
    for extra, stride, dilation in zip(*(operation.integers(name) for name in names), strict=True):
        if extra >= max(stride, dilation):
            raise ValueError(f"expected output_padding below stride or dilation, got {extra}")


def _pools(operation: Operation, values: tuple[Tensor, ...], _: Weights) -> None:
    rank = len(operation.integers("kernel" if "kernel" in operation.attributes else "output"))
    _has_spatial_lists(operation, rank)
    if values[0].dim() not in (rank + 1, rank + 2):  # without channels, the batch takes their place
        raise ValueError(f"expected {rank} spatial dimensions behind N, C or N, got {values[0].dim()} in all")


def _has_spatial_lists(operation: Operation, rank: int) -> None:
    if rank not in SPATIAL_RANKS:
        raise ValueError(f"expected 1 to 3 spatial dimensions, got {rank}")
    for name in SPATIAL_LISTS:
        entries = operation.attributes.get(name, [0] * rank)
        if len(entries) != rank:
            raise ValueError(f"expected {name} with {rank} entries, got {entries}")


def _leaves_something(operation: Operation, values: tuple[Tensor, ...], _: Weights) -> None:
    pairs = operation.pairs("padding")
    sizes = values[0].shape[values[0].dim() - len(pairs) :]
    for size, (before, after) in zip(sizes, pairs, strict=True):
        if size + min(before, 0) + min(after, 0) < 1:
            raise ValueError(f"expected a crop that leaves something of size {size}, got {[before, after]}")
        if operation.text("mode") == "circular" and min(before, after) < 0:
            raise ValueError("expected a circular padding of at least 0: PyTorch turns what is left after cropping")


_POOLS = ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool")

CHECKS: Mapping[str, tuple[Check, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("softmax", "log_softmax", "sort", "slice", "concat"), (_has_dim,)),
        **dict.fromkeys(("mean", "sum", "amax", "amin"), (_names_dims, _has_dims)),
        **dict.fromkeys(("flip", "roll"), (_has_dims,)),
        **dict.fromkeys(("batch_norm", "group_norm", "instance_norm"), (_has_vectors,)),
        **dict.fromkeys(_POOLS, (_pools,)),
        "max_min": (_has_dim, _has_halves),
        "linear": (_is_matrix,),
        "matmul": (_are_matrices,),
        "conv": (_convolves, _pads_outward),
        "conv_transpose": (_convolves, _extends_less_than_a_step),
        "pad": (_leaves_something,),
    }
)
