r"""Operations that return some of their inputs: which inputs they may return, and which choice makes a product largest.

Near an input without ties such an operation is y = x[p] with fixed positions p, entries of the flattened example: one
entry per window or group for a maximum or minimum (max-pooling, `amax`, `amin`), one order of every line for `sort`,
one order of every pair for `max_min`. Every p that is possible at some input is a Jacobian of the operation. Given
outward weights w, the best of them is

    argmax over p of  sum_i w_i x[p_i]:

of a window, the largest entry where w_i >= 0 and the smallest elsewhere; of a line, the order that sorts x as w is
sorted (the rearrangement inequality); of a pair (a, b) the order given where (w_1 - w_2) (a - b) >= 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from certify.graph import Operation

POOLS = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
ADAPTIVE = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)


def select(x: Tensor, positions: Tensor) -> Tensor:
    """Return x[p] for a batch ``[B, *shape]`` and positions ``[B, *outputs]`` in every flattened example.

    Example:
        >>> select(torch.tensor([[[5.0, 6.0], [7.0, 8.0]]]), torch.tensor([[3, 0]])).tolist()
        [[8.0, 5.0]]
    """
    return x.flatten(1).gather(1, positions.flatten(1)).reshape(positions.shape)


def best_positions(operation: Operation, x: Tensor, outward: Tensor) -> Tensor:
    """Return the positions ``[B, *outputs]`` that maximise the sum of ``outward`` times the selected inputs.

    Args:
        operation: Of a kind in `SELECTIONS`.
        x: Its inputs ``[B, *shape]``.
        outward: The weights, of the shape of the outputs or to be expanded to it.

    Example:
        >>> sort = Operation(name="y", kind="sort", attributes={"dim": 1, "descending": True})
        >>> best_positions(sort, torch.tensor([[10.0, 30.0, 20.0]]), torch.tensor([[0.0, 5.0, -1.0]])).tolist()
        [[2, 1, 0]]
    """
    return SELECTIONS[operation.kind](operation, x, outward)


def _numbers(x: Tensor) -> Tensor:
    """Return the position of every entry in its flattened example."""
    return torch.arange(math.prod(x.shape[1:])).reshape(1, *x.shape[1:]).expand_as(x)


def _ends(ends: Sequence[Tensor], outward: Tensor) -> Tensor:
    """Return the first position, of the largest entry, where the weight is not negative; else the second."""
    return torch.where(outward >= 0.0, ends[0], ends[1])


def _max_pool(operation: Operation, x: Tensor, outward: Tensor) -> Tensor:
    kernel = operation.integers("kernel")
    details = (kernel, operation.integers("stride"), operation.integers("padding"), operation.integers("dilation"))
    pool, ceil = POOLS[len(kernel) - 1], operation.flag("ceil_mode")
    found = [pool(s * x, *details, ceil, return_indices=True)[1] for s in (1.0, -1.0)]
    return _ends([_in_example(x, places, len(kernel)) for places in found], outward)


def _adaptive_max_pool(operation: Operation, x: Tensor, outward: Tensor) -> Tensor:
    output = operation.integers("output")
    found = [ADAPTIVE[len(output) - 1](s * x, output, return_indices=True)[1] for s in (1.0, -1.0)]
    return _ends([_in_example(x, places, len(output)) for places in found], outward)


def _in_example(x: Tensor, places: Tensor, spatial: int) -> Tensor:
    """Return positions in the example for places in the flattened spatial dimensions of a channel."""
    return _numbers(x).flatten(-spatial).gather(-1, places.flatten(-spatial)).reshape(places.shape)


def _extreme(operation: Operation, x: Tensor, outward: Tensor) -> Tensor:
    dims = operation.integers("dims")
    last = [dim for dim in range(x.dim()) if dim not in dims] + list(dims)
    groups, numbers = (part.permute(last).flatten(-len(dims)) for part in (x, _numbers(x)))
    found = [numbers.gather(-1, end[..., None])[..., 0] for end in (groups.argmax(-1), groups.argmin(-1))]
    if operation.flag("keepdim"):
        kept = [1 if dim in dims else size for dim, size in enumerate(x.shape)]
        found = [end.reshape(kept) for end in found]
    return _ends(found, outward)


def _sort(operation: Operation, x: Tensor, outward: Tensor) -> Tensor:
    dim = operation.integer("dim")
    ranks = outward.expand_as(x).argsort(stable=True, dim=dim).argsort(stable=True, dim=dim)
    return _numbers(x).gather(dim, x.argsort(stable=True, dim=dim).gather(dim, ranks))


def _max_min(operation: Operation, x: Tensor, outward: Tensor) -> Tensor:
    dim = operation.integer("dim")
    (a, b), (first, second) = x.chunk(2, dim), outward.expand_as(x).chunk(2, dim)
    left, right = _numbers(x).chunk(2, dim)
    as_given = (first - second) * (a - b) >= 0.0
    return torch.cat([torch.where(as_given, left, right), torch.where(as_given, right, left)], dim)


SELECTIONS: Mapping[str, Callable[[Operation, Tensor, Tensor], Tensor]] = MappingProxyType(
    {
        "max_pool": _max_pool,
        "adaptive_max_pool": _adaptive_max_pool,
        "amax": _extreme,
        "amin": _extreme,
        "sort": _sort,
        "max_min": _max_min,
    }
)
