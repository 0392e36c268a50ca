r"""Convolutional networks in oneDNN's own memory layouts, on the CPU in float32: the same products, less moving about.

PyTorch computes most convolutions on a CPU with oneDNN, which works in blocks of channels: every convolution brings
its input into blocks and its output back. A program leaves values in blocks between the convolutions, ReLUs and sums
that can take them there, which saves a seventh of the time of a small network or a ResNet.

**What is the same.** The kernels are those that PyTorch calls, and so are the bits in all that is ordinary (the tests
compare them); for a few rows PyTorch has kernels of its own, whose sums are in another order. Two things would differ:
oneDNN's ReLU turns -0 into 0, which only a division tells apart, so that networks that divide stay plain; and it turns
NaN into 0. A network that overflows must not look as if it gave answers. So blocks are used only where **nothing in
them, and nothing they are made of, can be NaN or infinite**, by proof:

With |x| <= m in every coordinate of the input, a value has |v| <= g m + h. For an input g = 1, h = 0; a ReLU, a
maximum pool, a reshape and a permutation change no magnitude; sums and differences add both g and h; (x - mean) / std
adds the largest |mean| to h, and divides both by the least std, or 1 if that is less; a convolution or linear layer
multiplies them with its largest sum of absolute weights of one output, and adds its largest |bias| to h. Behind all
other kinds nothing is known. Float32 rounding of sums of n terms grows a magnitude by less than the factor exp(2 n
2^-24) while nothing overflows; `GROWTH` covers it for n up to 2^22, and layers with more terms are left out. So every
partial sum is below float32's 3.4e38 if g m + h <= `FINITE`, there and in every value before: a small gain behind a
large one brings no infinity back. The magnitude of every batch is measured; one beyond ``largest``, or with a NaN, is
evaluated by the plain module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from certify.errors import InputError
from certify.graph.graph import Graph, Operation
from certify.graph.run import to_module, value_shapes

FINITE = 1e37
GROWTH = 1.7  # > exp(2 * 2^22 * 2^-24)
MOST_TERMS = 2**22
LEAST_LARGEST = 2.0**40  # no input of a sensible run is larger
SAME_MAGNITUDE = frozenset({"relu", "reshape", "permute", "max_pool", "slice", "flip"})
Magnitude = tuple[float, float, float]  # g, h, and the largest m


@dataclass(frozen=True, eq=False)
class BlockedModule:
    """A module with values in blocks for inputs up to ``largest`` in magnitude, and the plain one for all others."""

    blocked: Callable[[Tensor], Tensor]
    plain: Callable[[Tensor], Tensor]
    largest: float

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch; a NaN is in no comparison, and goes the plain way."""
        if x.numel() == 0:
            return self.plain(x)
        least, most = torch.aminmax(x)
        within = -self.largest <= float(least) and float(most) <= self.largest
        return self.blocked(x.contiguous()) if within else self.plain(x)


def blocked_module(graph: Graph, plain: fx.GraphModule) -> BlockedModule | None:
    """Return a network in blocks, or None where nothing is gained, nothing proved, or oneDNN is missing.

    Args:
        graph: The network in float32 on the CPU.
        plain: Its module.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    divides = any(operation.kind == "div" for operation in graph.operations)
    if divides or not any(_is_plain_convolution(graph, operation) for operation in graph.operations):
        return None
    magnitudes = _magnitudes(graph)
    finite = {name for name, found in magnitudes.items() if found[2] >= LEAST_LARGEST}
    names = _blocked_operations(graph, finite)
    if not names:
        return None
    module = to_module(graph, in_place=True, blocked=names).eval()
    try:
        module(torch.zeros(1, *graph.input_shape))
    except RuntimeError:  # this build of oneDNN, or this processor
        return None
    return BlockedModule(module.forward, plain.forward, min(magnitudes[name][2] for name in names))


def _largest(gain: float, offset: float) -> float:
    """Return the largest m with g m + h <= `FINITE`; -infinity when that is not known."""
    return (FINITE - offset) / max(gain, 1.0) if math.isfinite(gain + offset) else -math.inf


def _blocked_operations(graph: Graph, finite: set[str]) -> frozenset[str]:
    """Return the convolutions, and the ReLUs and sums of what is in blocks, all of whose values are finite."""
    try:
        shapes = [value_shapes(graph, rows) for rows in (1, 2)]
    except InputError:  # a slice of the batch that is empty at one of these
        return frozenset()
    found: set[str] = set()
    for operation in graph.operations[1:]:
        inside = all(name in found for name in operation.inputs)
        same = all(len({of[name] for name in operation.inputs}) == 1 for of in shapes)
        fits = _is_plain_convolution(graph, operation) or (operation.kind in ("relu", "add") and inside and same)
        if fits and operation.name in finite and finite.issuperset(operation.inputs):
            found.add(operation.name)
    return frozenset(found)


def _is_plain_convolution(graph: Graph, operation: Operation) -> bool:
    if operation.kind != "conv" or operation.attributes["padding_mode"] != "zeros":
        return False
    pads: Sequence[Sequence[int]] = operation.attributes["padding"]
    return graph.tensors[operation.weights["weight"]].dim() == 4 and all(before == after for before, after in pads)


def _magnitudes(graph: Graph) -> dict[str, Magnitude]:
    """Return g and h of every value, and the largest m at which it and all it is made of are finite."""
    found: dict[str, Magnitude] = {graph.input: (1.0, 0.0, FINITE)}
    for operation in graph.operations[1:]:
        inputs = [found[name] for name in operation.inputs]
        gain, offset = _magnitude(graph, operation, [one[0] for one in inputs], [one[1] for one in inputs])
        found[operation.name] = gain, offset, min([_largest(gain, offset), *(one[2] for one in inputs)])
    return found


def _magnitude(
    graph: Graph, operation: Operation, gains: Sequence[float], offsets: Sequence[float]
) -> tuple[float, float]:
    if operation.kind in ("conv", "linear"):
        weight = graph.tensors[operation.weights["weight"]].detach().double().abs().flatten(1)
        bias = graph.tensors[operation.weights["bias"]].detach().double().abs() if "bias" in operation.weights else None
        if weight.shape[1] > MOST_TERMS:
            return math.inf, math.inf
        row, more = GROWTH * float(weight.sum(1).max()), 0.0 if bias is None else GROWTH * float(bias.max())
        return row * gains[0], row * offsets[0] + more
    if operation.kind in ("add", "sub"):
        return GROWTH * sum(gains), GROWTH * sum(offsets)
    if operation.kind == "normalize":
        mean, std = (graph.tensors[operation.weights[role]].detach().double().abs() for role in ("mean", "std"))
        least = min(float(std.min()), 1.0)
        grown = GROWTH / least if least > 0.0 else math.inf
        return grown * gains[0], grown * (offsets[0] + float(mean.max()))
    dilated = operation.kind == "max_pool" and any(step != 1 for step in operation.attributes["dilation"])
    if operation.kind in SAME_MAGNITUDE and not dilated:  # a dilated window can lie in the padding, at -inf
        return gains[0], offsets[0]
    return math.inf, math.inf
