r"""Where a convolution reads: one table of indices per spatial dimension.

*Convolution* here is the map ``y[o, j] = sum over c, a of K[o, c, a] x[c, stride j + dilation a - before]`` per spatial
dimension, groups side by side. An `Axis` is one spatial dimension of it, and its *source table* ``[outputs, taps]``
holds the input index that output j reads through tap a, or -1 where it reads a zero. One table describes strides,
dilations, both paddings and all padding modes, so everything that follows is written once.

*Kernel layout*: ``[G, co, ci, *taps]``, one block per group. A transposed convolution is the adjoint of the convolution
with the same tensor, and has its norm (l1 and l-infinity change places): it is described by that convolution, whose
``size`` is the transposed one's output and whose ``outputs`` are the transposed one's input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias, TypedDict, cast

import torch
from torch import Tensor

PaddingMode: TypeAlias = Literal["zeros", "circular", "reflect", "replicate"]
Padding: TypeAlias = int | Sequence[int] | Sequence[tuple[int, int]]


class Geometry(TypedDict, total=False):
    """The keyword arguments of `describe`, those of a PyTorch convolution."""

    stride: int | Sequence[int]
    padding: Padding
    dilation: int | Sequence[int]
    groups: int
    padding_mode: str
    transposed: bool
    output_padding: int | Sequence[int]


MODES = ("zeros", "circular", "reflect", "replicate")


@dataclass(frozen=True)
class Axis:
    """One spatial dimension of a convolution; ``size`` and ``outputs`` are None when every size is meant."""

    taps: int
    stride: int
    dilation: int
    before: int
    after: int
    mode: PaddingMode
    size: int | None = None
    outputs: int | None = None

    @property
    def reach(self) -> int:
        """The number of input positions from the first tap to the last one."""
        return self.dilation * (self.taps - 1) + 1

    @property
    def known_size(self) -> int:
        """The input size, which must be known."""
        return cast(int, self.size)

    @property
    def known_outputs(self) -> int:
        """The number of outputs, which must be known."""
        return cast(int, self.outputs)

    @cached_property
    def sources(self) -> Tensor:
        """The source table ``[outputs, taps]``; -1 stands for a zero."""
        first = self.stride * torch.arange(self.known_outputs) - self.before
        positions = first[:, None] + self.dilation * torch.arange(self.taps)
        return wrap(positions, self.known_size, self.mode)

    @cached_property
    def distinct(self) -> Tensor:
        """Which outputs read no input twice: ``[outputs]``, boolean."""
        ordered = self.sources.sort(1).values
        return ~((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(1)

    def reads(self, rows: Tensor | None = None) -> Tensor:
        """Return how many outputs (of the chosen rows) read input x through tap a: ``[size, taps]``, float64."""
        table = self.sources if rows is None else self.sources[rows]
        counts = torch.zeros(self.known_size + 1, self.taps, dtype=torch.float64)
        counts.scatter_add_(0, table.where(table >= 0, self.known_size), torch.ones_like(table, dtype=torch.float64))
        return counts[: self.known_size]

    @property
    def most_reads(self) -> int:
        """The largest number of (output, tap) pairs that read one input under zero padding, over all sizes.

        Output j reads x through tap a iff dilation a = x + before - stride j: the taps that qualify are those of one
        residue class modulo stride / gcd(stride, dilation).
        """
        return math.ceil(self.taps / (self.stride // math.gcd(self.stride, self.dilation)))

    @property
    def copies(self) -> int:
        """The largest number of times the padding of this axis copies one input; of any size, when it is unknown."""
        if self.size is not None:
            return padding_copies(self.size, self.before, self.after, self.mode)
        if self.mode == "zeros":
            return 1
        return 1 + (self.before + self.after if self.mode == "replicate" else (self.before > 0) + (self.after > 0))

    def valid(self) -> Axis:
        """Return the same axis on the padded input, without padding: the convolution after the padding."""
        size = None if self.size is None else self.size + self.before + self.after
        return replace(self, size=size, before=0, after=0, mode="zeros")


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution: kernel ``[G, co, ci, *taps]`` in float64, and one axis per spatial dimension."""

    kernel: Tensor
    axes: tuple[Axis, ...]

    @property
    def sized(self) -> bool:
        """Whether the input size is known."""
        return all(axis.size is not None for axis in self.axes)

    @property
    def mode(self) -> PaddingMode:
        """The padding mode, the same for all axes."""
        return self.axes[0].mode

    @property
    def copies(self) -> int:
        """The largest number of times the padding copies one input."""
        return math.prod(axis.copies for axis in self.axes)

    @property
    def strided(self) -> bool:
        """Whether any stride is above 1."""
        return any(axis.stride > 1 for axis in self.axes)

    def valid(self) -> Convolution:
        """Return the convolution that follows the padding."""
        return Convolution(self.kernel, tuple(axis.valid() for axis in self.axes))


def wrap(positions: Tensor, size: int, mode: PaddingMode) -> Tensor:
    """Return the input index that each position of the padded input copies, -1 for a zero.

    Example:
        >>> positions = torch.arange(-2, 5)
        >>> wrap(positions, 3, "reflect").tolist(), wrap(positions, 3, "zeros").tolist()
        ([2, 1, 0, 1, 2, 1, 0], [-1, -1, 0, 1, 2, -1, -1])
    """
    if mode == "circular":
        return positions % size
    if mode == "replicate":
        return positions.clamp(0, size - 1)
    if mode == "reflect":
        return (size - 1 - (size - 1 - positions.abs()).abs()).clamp(0, size - 1)
    return positions.where((positions >= 0) & (positions < size), -1)


def padding_copies(size: int, before: int, after: int, mode: PaddingMode) -> int:
    """Return the largest number of positions of the padded input that hold the same input: counted.

    Example:
        >>> [padding_copies(5, 2, 2, mode) for mode in ("zeros", "circular", "reflect", "replicate")]
        [1, 2, 3, 3]
    """
    held = wrap(torch.arange(-before, size + after), size, mode)
    held = held[held >= 0]
    return int(held.bincount().max()) if len(held) else 0


def describe(
    kernel: Tensor,
    input_size: Sequence[int] | None,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    transposed: bool = False,
    output_padding: int | Sequence[int] = 0,
) -> Convolution:
    """Return the convolution that the arguments of a PyTorch module describe, the adjoint of a transposed one.

    Raises:
        ValueError: If they do not fit together; the message says what was expected.
    """
    dims = kernel.ndim - 2
    if dims not in (1, 2, 3):
        raise ValueError(f"expected a kernel [out, in, 1 to 3 sides], got shape {tuple(kernel.shape)}")
    if type(groups) is not int or groups < 1 or kernel.shape[0] % groups:
        raise ValueError(f"expected a number of groups that divides {kernel.shape[0]} channels, got {groups}")
    if padding_mode not in MODES or (transposed and padding_mode != "zeros"):
        raise ValueError(f"expected a padding mode of {MODES} (zeros if transposed), got {padding_mode!r}")
    sizes = (None,) * dims if input_size is None else _per_dim("input_size", input_size, dims, least=1)
    strides, dilations = _per_dim("stride", stride, dims, least=1), _per_dim("dilation", dilation, dims, least=1)
    extra = _per_dim("output_padding", output_padding, dims, least=0)
    rows = zip(kernel.shape[2:], strides, dilations, _pairs(padding, dims), sizes, extra, strict=True)
    build = _transposed_axis if transposed else _axis
    axes = tuple(
        build(Axis(taps, step, spread, before, after, cast(PaddingMode, padding_mode), size), more)
        for taps, step, spread, (before, after), size, more in rows
    )
    return Convolution(kernel.reshape(groups, kernel.shape[0] // groups, *kernel.shape[1:]), axes)


def _axis(axis: Axis, extra: int) -> Axis:
    if extra:
        raise ValueError(f"expected output_padding 0 for a convolution, got {extra}; it belongs to transposed ones")
    if axis.size is None:
        return axis
    most = {"zeros": math.inf, "replicate": math.inf, "circular": axis.size, "reflect": axis.size - 1}[axis.mode]
    if max(axis.before, axis.after) > most:
        raise ValueError(f"expected a {axis.mode} padding of at most {most} for size {axis.size}, got {axis}")
    outputs = (axis.size + axis.before + axis.after - axis.reach) // axis.stride + 1
    return replace(axis, outputs=_positive(outputs, axis))


def _transposed_axis(axis: Axis, extra: int) -> Axis:
    if extra >= max(axis.stride, axis.dilation):
        raise ValueError(f"expected output_padding below stride or dilation, got {extra} for {axis}")
    if axis.size is None:
        return axis
    size = (axis.size - 1) * axis.stride - axis.before - axis.after + axis.reach + extra
    return replace(axis, size=_positive(size, axis), outputs=axis.size)


def _positive(outputs: int, axis: Axis) -> int:
    if outputs < 1:
        raise ValueError(f"expected an input large enough for at least one output, got {axis}")
    return outputs


def _per_dim(name: str, value: int | Sequence[int], dims: int, least: int) -> tuple[int, ...]:
    entries = (value,) * dims if isinstance(value, int) else tuple(value)
    if len(entries) != dims or any(type(entry) is not int or entry < least for entry in entries):
        raise ValueError(f"expected {name} as {dims} whole numbers of at least {least}, got {value!r}")
    return entries


def _pairs(padding: Padding, dims: int) -> list[tuple[int, int]]:
    entries = (padding,) * dims if isinstance(padding, int) else padding
    pairs = [(entry, entry) if isinstance(entry, int) else (entry[0], entry[1]) for entry in entries]
    if len(pairs) != dims or any(type(width) is not int or width < 0 for pair in pairs for width in pair):
        raise ValueError(f"expected padding as a number, {dims} numbers or {dims} (before, after), got {padding!r}")
    return pairs
