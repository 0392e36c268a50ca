r"""Maxima and minima as relus, exactly: max(a, b) = b + relu(a - b), min(a, b) = a - relu(a - b).

The larger of n entries takes ceil(log2 n) layers: entries are taken two by two. What falls on padding, or fills up a
shorter window, stands for an entry of the same window again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from certify.bounds.local.activations import RELU
from certify.bounds.local.affine import Affine, add, gather, stack
from certify.bounds.local.building import MAX_ROWS, Builder, Rule, broadcast, negated
from certify.bounds.local.windows import flat_positions
from certify.bounds.walk import no_bound
from certify.graph import Operation
from certify.results import Unbounded


def _larger(builder: Builder, operation: Operation, a: Affine, b: Affine) -> Affine:
    """Return max(a, b) = b + relu(a - b)."""
    difference = builder.sum(operation, a, negated(b))
    rest = builder.place(difference, RELU, operation.name)
    return builder.sum(operation, builder.carry(b, rest.stage, operation.name), rest)


def _maximum(builder: Builder, operation: Operation, inputs: list[Affine]) -> Affine:
    a, b = broadcast(builder, operation, inputs)
    return _larger(builder, operation, a, b)


def _minimum(builder: Builder, operation: Operation, inputs: list[Affine]) -> Affine:
    a, b = broadcast(builder, operation, inputs)
    return negated(_larger(builder, operation, negated(a), negated(b)))


def _max_pool(builder: Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
    sizes, outputs = builder.facts.shapes[operation.inputs[0]][2:], builder.facts.shapes[operation.name][2:]
    geometry = [operation.integers(name) for name in ("kernel", "stride", "padding", "dilation")]
    coordinates = [
        torch.arange(n)[:, None] * s + torch.arange(k)[None, :] * d - p
        for n, k, s, p, d in zip(outputs, *geometry, strict=True)
    ]
    return _pooled(builder, operation, inputs[0], coordinates, sizes)


def _adaptive_max_pool(builder: Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
    """Window i of n outputs reads the entries from floor(i size / n) to ceil((i + 1) size / n) - 1."""
    sizes, outputs = builder.facts.shapes[operation.inputs[0]][2:], builder.facts.shapes[operation.name][2:]
    coordinates = []
    for size, n in zip(sizes, outputs, strict=True):
        first, last = torch.arange(n) * size // n, -(-(torch.arange(n) + 1) * size // n) - 1
        longest = int((last - first).max()) + 1
        coordinates.append(torch.minimum(first[:, None] + torch.arange(longest)[None, :], last[:, None]))
    return _pooled(builder, operation, inputs[0], coordinates, sizes)


def _pooled(
    builder: Builder, operation: Operation, value: Affine, coordinates: list[Tensor], sizes: Sequence[int]
) -> Affine | Unbounded:
    positions = flat_positions(coordinates, sizes)
    first = positions.gather(1, (positions >= 0).int().argmax(1, keepdim=True))
    positions = torch.where(positions >= 0, positions, first)
    channels = builder.facts.shapes[operation.inputs[0]][1]
    index = (torch.arange(channels)[:, None, None] * math.prod(sizes) + positions).flatten(0, 1)
    return _tournament(builder, operation, builder.selection(value, operation.inputs[0]), index)


def _largest(builder: Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
    shape, dims = builder.facts.shapes[operation.inputs[0]], operation.integers("dims")
    kept = [dim for dim in range(len(shape)) if dim not in dims]
    index = torch.arange(inputs[0].size).reshape(shape).permute(*kept, *dims)
    index = index.reshape(-1, math.prod(shape[dim] for dim in dims))
    return _tournament(builder, operation, builder.selection(inputs[0], operation.inputs[0]), index)


def _smallest(builder: Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
    found = _largest(builder, operation, [negated(inputs[0])])
    return found if isinstance(found, Unbounded) else negated(found)


def _max_min(builder: Builder, operation: Operation, inputs: list[Affine]) -> Affine:
    dim = operation.integer("dim")
    numbers = torch.arange(inputs[0].size).reshape(builder.facts.shapes[operation.inputs[0]])
    halves = torch.chunk(numbers, 2, dim)
    order = torch.cat(
        [torch.arange(half.numel()).reshape(half.shape) + i * half.numel() for i, half in enumerate(halves)], dim
    )
    return gather(_larger_and_smaller(builder, operation, inputs[0], *halves), order.reshape(-1))


def _sort(builder: Builder, operation: Operation, inputs: list[Affine]) -> Affine | Unbounded:
    dim, shape = operation.integer("dim"), builder.facts.shapes[operation.inputs[0]]
    if shape[dim] != 2:
        return no_bound(operation, f"no local rule for sort of {shape[dim]} entries, only of 2")
    numbers = torch.arange(inputs[0].size).reshape(shape)
    left, right = numbers.select(dim, 0), numbers.select(dim, 1)
    places = torch.arange(left.numel()).reshape(left.shape)
    pair = (places, places + left.numel())
    order = torch.stack(pair if operation.flag("descending") else pair[::-1], dim)
    return gather(_larger_and_smaller(builder, operation, inputs[0], left, right), order.reshape(-1))


def _larger_and_smaller(builder: Builder, operation: Operation, value: Affine, left: Tensor, right: Tensor) -> Affine:
    """Return the larger of all pairs of entries, then the smaller of all pairs."""
    chosen = builder.selection(value, operation.inputs[0])
    a, b = left.reshape(-1), right.reshape(-1)
    difference = builder.sum(operation, gather(chosen, a), negated(gather(chosen, b)))
    rest = builder.place(difference, RELU, operation.name)
    carried = builder.carry(chosen, rest.stage, operation.inputs[0])
    larger = builder.sum(operation, gather(carried, b), rest)
    return stack([larger, builder.sum(operation, gather(carried, a), negated(rest))])


def _tournament(builder: Builder, operation: Operation, value: Affine, index: Tensor) -> Affine | Unbounded:
    """Return, per row of ``index`` ``[windows, k]``, the largest of the entries of a value it names."""
    while index.shape[1] > 1:
        windows, half = index.shape[0], index.shape[1] // 2
        if windows * 2 * half > MAX_ROWS:
            return no_bound(operation, f"no local rule for {operation.kind} of this size")
        left, right = (part.reshape(-1) for part in (index[:, :half], index[:, half : 2 * half]))
        same = left == right
        difference = add(
            gather(value, torch.where(same, -1, left)), negated(gather(value, torch.where(same, -1, right)))
        )
        if difference is None:
            raise ValueError("expected the difference of two selections to be exact")
        rest = builder.place(difference, RELU, operation.name)
        kept = torch.cat([right, index[:, 2 * half :].reshape(-1)])
        carried = builder.carry(gather(value, kept), rest.stage, operation.name)
        tail = torch.full((len(kept) - len(right),), -1)
        value = builder.sum(operation, carried, gather(rest, torch.cat([torch.arange(len(right)), tail])))
        index = torch.arange(len(right)).reshape(windows, half)
        if len(tail):
            index = torch.cat([index, torch.arange(len(right), len(kept))[:, None]], 1)
    return gather(value, index.reshape(-1))


MAXIMA: Mapping[str, Rule] = MappingProxyType(
    {
        "maximum": _maximum,
        "minimum": _minimum,
        "max_pool": _max_pool,
        "adaptive_max_pool": _adaptive_max_pool,
        "amax": _largest,
        "amin": _smallest,
        "max_min": _max_min,
        "sort": _sort,
    }
)
