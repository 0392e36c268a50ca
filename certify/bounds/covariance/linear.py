r"""Operations that need no step: their outputs are views of the registers their inputs are held by.

What stands in the way of one that could be a view is an `Obstacle`: a padded operation that reads an image with
arbitrary values outside (it must be masked), or inputs in different registers (they must be joined).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from types import MappingProxyType

import torch
from torch import Tensor

from certify.bounds.covariance import limits
from certify.bounds.covariance.draft import Draft
from certify.bounds.covariance.image_rules import image_view
from certify.bounds.covariance.maps import Entries, Rows, row_count
from certify.bounds.covariance.readings import reading_of
from certify.bounds.covariance.row_rules import row_map
from certify.bounds.covariance.states import Flat, View
from certify.bounds.covariance.symbols import block_diagonal
from certify.graph import Operation
from certify.graph.run import KERNELS


class Obstacle(Enum):
    """Why an operation is not a view: it has no exact rule, or something has to happen before."""

    NO_RULE = "no rule"
    UNMASKED = "reads beyond an image with arbitrary values there"
    APART = "inputs in different registers"


def linear_view(draft: Draft, operation: Operation) -> View | Flat | Obstacle:
    """Return how the output of a linear operation is held without a step, or what stands in the way."""
    held = [draft.held[name] for name in draft.varying(operation)]
    views = [one for one in held if isinstance(one, View | Flat)]
    if len(views) < len(held) or not _has_rule(draft, operation):
        return Obstacle.NO_RULE
    if len({view.register for view in views}) > 1:
        return Obstacle.APART
    images = [view for view in views if isinstance(view, View) and view.strides]
    if len(images) == len(views) and len({view.strides for view in images}) == 1:
        found = _from_images(draft, operation, images)
        if found is not None:
            return found
    return _from_rows(draft, operation, views)


LINEAR = frozenset(
    {
        *("linear", "conv", "conv_transpose", "matmul", "avg_pool", "adaptive_avg_pool", "mean", "sum", "add", "sub"),
        *("batch_norm", "normalize", "mul", "div", "reshape", "permute", "expand", "slice", "flip", "roll", "concat"),
        *("pad", "upsample_nearest"),
    }
)


def _has_rule(draft: Draft, operation: Operation) -> bool:
    several = len(draft.varying(operation)) > 1 and operation.kind in ("mul", "div", "matmul")
    return operation.kind in LINEAR and not several


def _from_images(draft: Draft, operation: Operation, views: Sequence[View]) -> View | Flat | Obstacle | None:
    dims = len(views[0].strides)
    on_torus = draft.grids.sides(operation.name, dims) is not None
    reading = reading_of(draft.facts, operation, dims) if on_torus else None
    if reading is not None and not views[0].clean and _is_read_beyond(draft, draft.varying(operation)[0], dims):
        return Obstacle.UNMASKED  # for all convolutions that read it, so that they stay in one register
    if on_torus:
        found = image_view(draft, operation, views)
        return found if found is None or draft.pixels(found) == draft.grids.sides(operation.name, dims) else None
    means = MEANS.get(operation.kind)
    return None if means is None else means(draft, operation, views[0])


def _is_read_beyond(draft: Draft, name: str, dims: int) -> bool:
    readers = (draft.facts.graph.by_name[reader] for reader in draft.readers(name))
    readings = (reading_of(draft.facts, reader, dims) for reader in readers)
    return any(reading is not None and reading.leaves for reading in readings)


def _from_rows(draft: Draft, operation: Operation, held: Sequence[View | Flat]) -> View | Flat | Obstacle:
    if draft.grids.dims[operation.name] and any(not isinstance(one, View) or one.strides for one in held):
        return Obstacle.NO_RULE  # plain rows would not serve the convolutions ahead
    flats = [flattened(draft, name) for name in draft.varying(operation)]
    if any(not _same_columns(flats[0], one) for one in flats):
        return Obstacle.APART
    width = _columns(draft, flats[0])
    found = row_map(draft.facts, operation, [one.map for one in flats], width)
    if found is None:
        return Obstacle.NO_RULE
    first = flats[0]
    if isinstance(first, View):
        return View(first.register, found)
    return Flat(first.view, first.sizes, found, first.windows, first.relative)


def flattened(draft: Draft, name: str) -> View | Flat:
    """Return a value as plain rows."""
    held = draft.held[name]
    if isinstance(held, View) and held.strides:
        sizes = draft.facts.shapes[name][-len(held.strides) :]
        return Flat(held, sizes, Rows(torch.arange(row_count(held.map) * math.prod(sizes))))
    if isinstance(held, View | Flat):
        return held
    raise TypeError(f"expected a value that is a map of a register, got {held}")


def _same_columns(first: View | Flat, second: View | Flat) -> bool:
    """Tell whether two values are maps of the same columns."""
    if isinstance(first, Flat) and isinstance(second, Flat):
        same_image = first.view.map is second.view.map and first.view.strides == second.view.strides
        return same_image and first.sizes == second.sizes and first.windows is second.windows
    return type(first) is type(second)


def _columns(draft: Draft, held: View | Flat) -> int:
    if isinstance(held, View):
        return draft.width(held.register)
    windows = math.prod(held.sizes) if held.windows is None else held.windows.shape[0]
    return row_count(held.view.map) * windows


def _mean_windows(draft: Draft, operation: Operation, view: View) -> Flat | None:
    """The mean or sum of whole images."""
    sizes = draft.facts.shape(operation)[-len(view.strides) :]
    rank = len(draft.facts.shape(operation))
    if operation.integers("dims") != tuple(range(rank - len(sizes), rank)):
        return None
    pixels = math.prod(sizes)
    weight = 1.0 / pixels if operation.kind == "mean" else 1.0
    return _windowed(view, sizes, torch.full((1, pixels), weight, dtype=torch.float64))


def _pool_windows(draft: Draft, operation: Operation, view: View) -> Flat | None:
    """An average pool of few windows: the weights of each are what it makes of single pixels."""
    shape = draft.facts.shape(operation)
    sizes = shape[-len(view.strides) :]
    pixels = math.prod(sizes)
    if len(shape) != len(sizes) + 2 or shape[0] != 1 or pixels > limits.MOST_ROWS:
        return None
    impulses = torch.eye(pixels, dtype=torch.float64).reshape(pixels, 1, *sizes)
    found = KERNELS[operation.kind](impulses, **operation.attributes)
    return _windowed(view, sizes, found.reshape(pixels, -1).mT.contiguous())


def _windowed(view: View, sizes: tuple[int, ...], windows: Tensor) -> Flat:
    return Flat(view, sizes, Rows(torch.arange(row_count(view.map) * windows.shape[0])), windows, 2.0**-48)


def _single_pixel(draft: Draft, operation: Operation, view: View) -> Flat | None:
    """A convolution with one output pixel: its kernel, put where it reads."""
    dims = len(view.strides)
    reading = reading_of(draft.facts, operation, dims)
    if reading is None or reading.kernel is None or any(axis.wraps for axis in reading.axes):
        return None
    if math.prod(draft.facts.shapes[operation.name][-dims:]) != 1:
        return None
    placed = reading.kernel
    margins: list[int] = []
    for place, axis in enumerate(reading.axes):
        reach = axis.dilation * (axis.taps - 1) + 1
        shape = [*placed.shape[: 2 + place], reach, *placed.shape[3 + place :]]
        placed = placed.new_zeros(shape).index_copy(2 + place, axis.dilation * torch.arange(axis.taps), placed)
        margins = [-axis.before, axis.size - reach + axis.before, *margins]
    spread = torch.nn.functional.pad(placed, margins).flatten(2).movedim(2, 0)  # [pixels, co, ci / groups]
    values = block_diagonal(spread, reading.groups).permute(1, 2, 0).flatten(1)
    return Flat(view, tuple(axis.size for axis in reading.axes), Entries(values[None]))


MEANS: Mapping[str, Callable[[Draft, Operation, View], Flat | None]] = MappingProxyType(
    {
        **dict.fromkeys(("mean", "sum"), _mean_windows),
        **dict.fromkeys(("avg_pool", "adaptive_avg_pool"), _pool_windows),
        "conv": _single_pixel,
    }
)
"""Operations on images whose outputs are plain rows."""
