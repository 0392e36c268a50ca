r"""Which operations read an image through one small kernel, the same at every pixel, and where they read it.

Output j of such an operation reads the pixels ``stride j + dilation a - before`` for the taps a of its kernel, along
every axis; what lies outside the image is zero. Convolutions are of this form, and so are transposed ones of stride 1,
average pools whose windows all have the same divisor, zero pads and spatial slices.

Transposed convolutions of a larger stride and nearest upsampling are not: their outputs read by as many kernels as the
stride has phases, so that a covariance behind them is the same only at every stride-th pixel. Exact matrices would
hold a channel per phase, from there to the end of the network, stride^(2 dims) times the work of the fine torus per
layer; and a covariance that is the same at every pixel and no smaller exceeds it by up to the number of phases, while
the gain, which is used, is the operation's own norm.

*The torus.* Put the image at the origin of a torus of side N with zeros elsewhere. The outputs of the image are those
of the torus if no read that leaves the image comes back to it: reads go from -before to ``last``, so it is enough that
N >= size + max(before, last - size + 1, 0). Proof: a read x < 0 is at N + x >= N - before >= size, a read x >= size is
at x <= last < N; both are zeros.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from certify.bounds.facts import Facts
from certify.graph import Operation
from certify.rounding import U64


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a reading."""

    taps: int
    stride: int
    dilation: int
    before: int
    size: int
    outputs: int
    wraps: bool = False

    @property
    def last(self) -> int:
        """The last position that is read."""
        return self.stride * (self.outputs - 1) + self.dilation * (self.taps - 1) - self.before

    @property
    def leaves(self) -> bool:
        """Whether a position outside the image is read."""
        return not self.wraps and (self.before > 0 or self.last >= self.size)

    @property
    def need(self) -> int:
        """The least side of a torus on which the reads are those of the image; for reads that wrap, the only one."""
        return self.size if self.wraps else self.size + max(self.before, self.last - self.size + 1, 0)

    @property
    def only_moves(self) -> bool:
        """Whether zeros outside the image stay zeros outside the output: one tap, and no pixel is cropped."""
        furthest = (self.size - 1 + self.before) // self.stride
        return not self.wraps and self.taps == 1 and self.before >= 0 and furthest < self.outputs


@dataclass(frozen=True, eq=False)
class Reading:
    """How an operation reads: its axes, and its kernel ``[co, ci / groups, *taps]`` up to a relative error.

    ``kernel`` None: every channel is read as it is, through one tap; then ``channels`` moves the channels (-1: zeros).
    """

    axes: tuple[Axis, ...]
    kernel: Tensor | None = None
    groups: int = 1
    relative: float = 0.0
    channels: Tensor | None = None

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of every axis."""
        return tuple(axis.stride for axis in self.axes)

    @property
    def leaves(self) -> bool:
        """Whether anything outside the image is read."""
        return any(axis.leaves for axis in self.axes)

    def suits(self, sides: Sequence[int]) -> bool:
        """Whether the reads are those of the image on a torus of these sides, which are no less than needed."""
        return all(not axis.wraps or axis.size == side for axis, side in zip(self.axes, sides, strict=True))

    @property
    def only_moves(self) -> bool:
        """Whether zeros outside the image stay zeros outside the output."""
        return all(axis.only_moves for axis in self.axes)


def reading_of(facts: Facts, operation: Operation, dims: int) -> Reading | None:
    """Return how an operation reads an image of ``dims`` spatial axes, or None when it does not read in this way.

    Example:
        >>> from certify.bounds.facts import collect_facts
        >>> from certify.graph import Graph
        >>> pool = Operation(name="y", kind="adaptive_avg_pool", inputs=("x",), attributes={"output": [2]})
        >>> facts = collect_facts(Graph((Operation(name="x", kind="input"), pool), "y", (1, 6), {}))
        >>> reading_of(facts, pool, 1).axes
        (Axis(taps=3, stride=3, dilation=1, before=0, size=6, outputs=2, wraps=False),)
    """
    rule = READINGS.get(operation.kind)
    shape = facts.shape(operation)
    if rule is None or len(shape) <= dims or shape[0] != 1:
        return None
    return rule(facts, operation, dims)


def _axes(facts: Facts, operation: Operation, windows: Mapping[str, tuple[int, ...]]) -> tuple[Axis, ...]:
    """Return the axes of an operation with taps, stride, dilation and before per axis."""
    dims = len(windows["taps"])
    spans = zip(facts.shape(operation)[-dims:], facts.shapes[operation.name][-dims:], strict=True)
    words = ("taps", "stride", "dilation", "before")
    numbers = ([windows[word][d] for word in words] for d in range(dims))
    return tuple(
        Axis(taps, stride, dilation, before, size, outputs)
        for (taps, stride, dilation, before), (size, outputs) in zip(numbers, spans, strict=True)
    )


def _conv(facts: Facts, operation: Operation, dims: int) -> Reading | None:
    pads = operation.pairs("padding")
    if len(pads) != dims:
        return None
    kernel = facts.graph.required_weight(operation, "weight")
    windows = {
        "taps": tuple(kernel.shape[2:]),
        "stride": operation.integers("stride"),
        "dilation": operation.integers("dilation"),
        "before": tuple(before for before, _ in pads),
    }
    padded = any(size != 0 for pair in pads for size in pair)
    axes = _padded(_axes(facts, operation, windows), pads, operation.text("padding_mode") if padded else "zeros")
    return None if axes is None else Reading(axes, kernel, operation.integer("groups"))


def _padded(axes: tuple[Axis, ...], pads: Sequence[tuple[int, int]], mode: str) -> tuple[Axis, ...] | None:
    """Return the axes with what is read beyond the image; None where that is neither zero nor the other side of it."""
    if mode == "zeros":
        return axes
    found = tuple(dataclasses.replace(axis, wraps=any(pair)) for axis, pair in zip(axes, pads, strict=True))
    wraps = [axis for axis in found if axis.wraps]
    whole = all(axis.size % axis.stride == 0 and axis.outputs * axis.stride <= axis.size for axis in wraps)
    return found if mode == "circular" and whole else None


def _conv_transpose(facts: Facts, operation: Operation, dims: int) -> Reading | None:
    """Return a transposed convolution of stride 1 as the convolution that it is: by the turned kernel.

    Its output j = i + dilation a - padding receives K_a x_i; with a = taps - 1 - a' it reads the pixels
    j + dilation a' - (dilation (taps - 1) - padding). With a larger stride no single kernel serves all outputs.
    """
    if len(operation.integers("stride")) != dims or any(stride > 1 for stride in operation.integers("stride")):
        return None
    stored, groups = facts.graph.required_weight(operation, "weight"), operation.integer("groups")
    taps, dilation = tuple(stored.shape[2:]), operation.integers("dilation")
    grouped = stored.reshape(groups, -1, *stored.shape[1:]).transpose(1, 2)
    turned = grouped.flatten(0, 1).flip(tuple(range(2, 2 + dims)))
    reach = (d * (k - 1) - p for d, k, p in zip(dilation, taps, operation.integers("padding"), strict=True))
    windows = {"taps": taps, "stride": (1,) * dims, "dilation": dilation, "before": tuple(reach)}
    return Reading(_axes(facts, operation, windows), turned, groups)


def _average(facts: Facts, operation: Operation, windows: Mapping[str, tuple[int, ...]], divisor: int) -> Reading:
    channels = facts.shape(operation)[1]
    kernel = torch.full((channels, 1, *windows["taps"]), 1.0 / divisor, dtype=torch.float64)
    return Reading(_axes(facts, operation, windows), kernel, channels, 2.0 * U64)


def _avg_pool(facts: Facts, operation: Operation, dims: int) -> Reading | None:
    taps, before = operation.integers("kernel"), operation.integers("padding")
    if len(taps) != dims:
        return None
    windows = {"taps": taps, "stride": operation.integers("stride"), "dilation": (1,) * dims, "before": before}
    divisor = operation.attributes["divisor"]
    if divisor is not None:
        return _average(facts, operation, windows, int(divisor))
    axes = _axes(facts, operation, windows)
    counts_pads = operation.flag("count_include_pad") or not any(before)
    clipped = any(axis.last >= axis.size + axis.before for axis in axes)
    return _average(facts, operation, windows, math.prod(taps)) if counts_pads and not clipped else None


def _adaptive_avg_pool(facts: Facts, operation: Operation, dims: int) -> Reading | None:
    outputs = operation.integers("output")
    sizes = facts.shape(operation)[-dims:]
    if len(outputs) != dims or any(n % out for n, out in zip(sizes, outputs, strict=True)):
        return None
    taps = tuple(n // out for n, out in zip(sizes, outputs, strict=True))
    windows = {"taps": taps, "stride": taps, "dilation": (1,) * dims, "before": (0,) * dims}
    return _average(facts, operation, windows, math.prod(taps))


def _pad(facts: Facts, operation: Operation, dims: int) -> Reading | None:
    pairs = operation.pairs("padding")
    shape = facts.shape(operation)
    if operation.text("mode") != "constant":
        return None
    full = ((0, 0),) * (len(shape) - len(pairs)) + pairs
    windows = {**_one_tap(dims), "before": tuple(before for before, _ in full[-dims:])}
    channels = _padded_rows(shape[:-dims], full[:-dims])
    return Reading(_axes(facts, operation, windows), channels=channels)


def _padded_rows(lead: tuple[int, ...], pairs: tuple[tuple[int, int], ...]) -> Tensor:
    """Return which channel stands where after padding the leading dimensions; -1 in the padding."""
    flat = [size for pair in reversed(pairs) for size in pair]
    numbers = torch.arange(math.prod(lead)).reshape(lead)
    return torch.nn.functional.pad(numbers, flat, value=-1).reshape(-1)


def _slice(facts: Facts, operation: Operation, dims: int) -> Reading | None:
    rank = len(facts.shape(operation))
    place = operation.integer("dim") - (rank - dims)
    if place < 0:
        return None
    windows = dict(_one_tap(dims))
    windows["stride"] = tuple(operation.integer("step") if d == place else 1 for d in range(dims))
    windows["before"] = tuple(-operation.integer("start") if d == place else 0 for d in range(dims))
    return Reading(_axes(facts, operation, windows))


def _one_tap(dims: int) -> Mapping[str, tuple[int, ...]]:
    return {"taps": (1,) * dims, "stride": (1,) * dims, "dilation": (1,) * dims, "before": (0,) * dims}


READINGS: Mapping[str, Callable[[Facts, Operation, int], Reading | None]] = MappingProxyType(
    {
        "conv": _conv,
        "conv_transpose": _conv_transpose,
        "avg_pool": _avg_pool,
        "adaptive_avg_pool": _adaptive_avg_pool,
        "pad": _pad,
        "slice": _slice,
    }
)
