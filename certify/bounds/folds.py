r"""Scalings folded into the linear map beside them: frozen batch norm behind it, input normalisation before it.

Let W be linear (dense or a convolution), s a positive scale per input channel and g a scale per output channel. The
product bound of the three maps is max|g| ||W|| max|s|; the norm of diag(g) W diag(s) itself is never above it and often
far below. Two facts make the folded number a proof:

- *Monotone in each scale.* If |g_c| <= g'_c then diag(g) = diag(g / g') diag(g') and the first factor is a contraction
  in l2 and linf; likewise on the right, since scaling per channel commutes with every padding that copies or inserts
  zeros. So upward rounded scales g', s' give an upper bound.
- *The products are rounded.* The stored V = fl(g' W s') differs from the exact product by at most 3u |V| entrywise, so
  ||diag(g') W diag(s')||_2 <= ||V||_2 + 3u || |V| ||_2 (see `linear_maps`), and in linf the norm is at most
  (1 + 3u) ||V||_inf. Weights or scales of such a size that a product could underflow are not folded.

Shifts (the means, the biases) do not matter: two inputs of the network are shifted alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.linear_maps import WEIGHTED, LinearMap, Shapes, enclose_operation
from certify.bounds.magnitudes import nextafter_up
from certify.graph import Graph, Operation
from certify.norms import batch_norm_scales
from certify.results import Norm
from certify.rounding import U64, add_up, mul_up, sub_down

ROUNDING = 4.0 * U64
LEAST_WEIGHT, LEAST_SCALE = 2.0**-400, 2.0**-200  # two scales times a weight are then far from underflow


@dataclass(frozen=True)
class Fold:
    """Value ``value`` is one linear map of value ``source``, up to shifts; ``names`` are the operations in it."""

    value: str
    source: str
    names: tuple[str, ...]
    map: LinearMap

    def upper(self, norm: Norm) -> float:
        """Return at least the norm of the exact folded map."""
        if norm == "linf":
            return mul_up(self.map.linf.upper, 1.0 + ROUNDING)
        return add_up(self.map.l2.upper, mul_up(ROUNDING, self.map.abs_upper))


def find_folds(graph: Graph, shapes: Shapes) -> tuple[Fold, ...]:
    """Return every fold of a normalisation or a batch norm into the linear operation beside it.

    Args:
        graph: The network, in float64.
        shapes: The shape of every value for one example.
    """
    maps = [operation for operation in graph if operation.kind in WEIGHTED]
    return tuple(fold for operation in maps for fold in _folds_of(graph, operation, shapes))


def _folds_of(graph: Graph, operation: Operation, shapes: Shapes) -> Iterator[Fold]:
    """Yield the folds around one linear operation: with the batch norms behind it, or else with what is before it."""
    before = graph.by_name[operation.inputs[0]]
    scale_in = _normalize_scale(graph, before, operation, shapes)
    first = (operation,) if scale_in is None else (before, operation)
    readers = graph.readers(operation.name)
    scales = [(after, _batch_norm_scale(graph, after, operation, shapes)) for after in readers]
    for after, scale_out in scales:
        if scale_out is not None:
            yield from _fold(graph, (*first, after), operation, scale_out, scale_in, shapes)
    alone = not readers or any(scale_out is None for _, scale_out in scales)
    if scale_in is not None and alone:
        yield from _fold(graph, first, operation, None, scale_in, shapes)


def _fold(
    graph: Graph,
    operations: tuple[Operation, ...],
    operation: Operation,
    scale_out: Tensor | None,
    scale_in: Tensor | None,
    shapes: Shapes,
) -> Iterator[Fold]:
    weight = graph.required_weight(operation, "weight")
    scales = [scale for scale in (scale_out, scale_in) if scale is not None]
    if not (_in_range(weight[weight != 0.0], LEAST_WEIGHT) and all(_in_range(s, LEAST_SCALE) for s in scales)):
        return
    names = tuple(one.module or one.name for one in operations)
    found = enclose_operation(operation, _scale_channels(operation, weight, scale_out, scale_in), shapes)
    yield Fold(operations[-1].name, operations[0].inputs[0], names, found)


def _in_range(x: Tensor, least: float) -> bool:
    """Tell that all sizes are between ``least`` and its reciprocal."""
    sizes = x.abs()
    return bool(torch.all((sizes >= least) & (sizes <= 1.0 / least)))


def _scale_channels(operation: Operation, weight: Tensor, scale_out: Tensor | None, scale_in: Tensor | None) -> Tensor:
    """Return the weight times its scales per output and input channel, in the layout of the operation."""
    groups = operation.integer("groups") if operation.kind != "linear" else 1
    blocks = weight.reshape(groups, -1, *weight.shape[1:])  # [groups, rows / groups, columns, *kernel]
    transposed = operation.kind == "conv_transpose"
    on_rows, on_columns = (scale_in, scale_out) if transposed else (scale_out, scale_in)
    ones = [1] * (weight.dim() - 2)
    if on_columns is not None:
        blocks = blocks * on_columns.reshape(groups, 1, -1, *ones)
    if on_rows is not None:
        blocks = blocks * on_rows.reshape(groups, -1, 1, *ones)
    return blocks.reshape(weight.shape)


def _batch_norm_scale(graph: Graph, after: Operation, operation: Operation, shapes: Shapes) -> Tensor | None:
    """Return |weight| / sqrt(variance + eps), rounded up, when ``after`` is a batch norm over the output channels."""
    per_channel = operation.kind != "linear" or len(shapes[operation.name]) == 2
    if after.kind != "batch_norm" or not per_channel:
        return None
    if not divides_by_positive(graph, after):
        return None
    variance = graph.required_weight(after, "variance")
    _, scale = batch_norm_scales(graph.weight(after, "weight"), variance, after.number("eps"))
    larger: Tensor = scale.to(torch.float64).clamp(min=LEAST_SCALE)  # a larger scale is still an upper bound
    return None if _all_equal(larger) else larger


def divides_by_positive(graph: Graph, norm: Operation) -> bool:
    """Tell whether a batch norm has eps and variances of at least 0, and variance + eps rounded down is above 0."""
    least, eps = float(graph.required_weight(norm, "variance").min()), norm.number("eps")
    return min(least, eps) >= 0.0 and sub_down(least, -eps) > 0.0


def _normalize_scale(graph: Graph, before: Operation, operation: Operation, shapes: Shapes) -> Tensor | None:
    """Return 1 / |std|, rounded up, when ``before`` divides each input channel by a std of its own."""
    if before.kind != "normalize":
        return None
    shape, std = shapes[before.name], graph.required_weight(before, "std")
    channel_last = operation.kind == "linear" and len(shape) == 2
    if not (channel_last or operation.kind != "linear") or shape != shapes[before.inputs[0]]:
        return None
    sizes = (1,) * (len(shape) - std.dim()) + tuple(std.shape)
    others = sizes[:1] + sizes[2:]
    if sizes[1] != shape[1] or any(size != 1 for size in others) or bool(torch.any(std == 0.0)):
        return None
    scale = nextafter_up(1.0 / std.abs().reshape(-1))
    return None if _all_equal(scale) else scale


def _all_equal(scale: Tensor) -> bool:
    """Tell whether folding cannot help: the product of the norms is then the norm of the product."""
    return bool(torch.all(scale == scale[0]))
