r"""Activations, and other operations that act on every entry alone: where the slopes of a plan come from.

*Widening.* What a padded operation reads must be zero outside the image. Behind an activation that is so if 0 is among
its slopes there, so slopes [a, b] become [min(a, 0), max(b, 0)] where a padded operation reads the value, also behind
sums, concatenations and other operations pixel by pixel. Without it the bound is wrong: slopes [1, 1] between two
padded convolutions would make one convolution of them, on a torus where the crop between them is missing.

*A factor that changes from pixel to pixel* is, per channel, a slope between its least and its largest value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from certify.bounds.covariance.draft import Draft
from certify.bounds.covariance.grids import POINTWISE
from certify.bounds.covariance.maps import Rows
from certify.bounds.covariance.readings import reading_of
from certify.bounds.covariance.scalings import RELATIVE, factors
from certify.bounds.covariance.standing import Standing, stand
from certify.bounds.covariance.states import Behind, Flat, View
from certify.bounds.covariance.steps import Activate
from certify.bounds.magnitudes import nextafter_up
from certify.bounds.slopes import ACTIVATIONS, slope_range
from certify.graph import Operation
from certify.results import Unbounded

Slopes = tuple[Tensor, Tensor]
ENTRYWISE = ACTIVATIONS | {"mul", "div", "normalize", "batch_norm"}


def slopes_of(draft: Draft, operation: Operation, dims: int) -> Slopes | None:
    """Return the least and the largest slope of every row of an operation, or None when it is not entry by entry.

    Rows are channels when ``dims`` is positive, else entries.
    """
    shape = draft.facts.shapes[operation.name]
    if operation.kind not in ENTRYWISE or any(draft.facts.shapes[name] != shape for name in draft.varying(operation)):
        return None
    pixels = math.prod(shape[len(shape) - dims :])
    if operation.kind not in ACTIVATIONS:
        return _scale_slopes(draft, operation, pixels)
    if operation.kind == "prelu":
        weight = draft.facts.graph.required_weight(operation, "weight").double()
        own = weight.reshape(1, -1, *[1] * (len(shape) - 2)).expand(shape).reshape(-1, pixels)[:, 0]
        return own.clamp(max=1.0), own.clamp(min=1.0)
    found = slope_range(draft.facts.graph, operation)
    if isinstance(found, Unbounded):
        return None
    like = torch.ones(math.prod(shape) // pixels, dtype=torch.float64)
    return found[0] * like, found[1] * like


def _scale_slopes(draft: Draft, operation: Operation, pixels: int) -> Slopes | None:
    found = factors(draft.facts, operation)
    if found is None:
        return None
    rows = found.reshape(-1, pixels)
    slack = 4.0 * RELATIVE * rows.abs().amax(1)
    return -nextafter_up(slack - rows.amin(1)), nextafter_up(rows.amax(1) + slack)


def dims_of(held: View | Flat) -> int:
    """Return the number of spatial axes of a value that stands in a register, 0 for plain rows."""
    return len(held.strides) if isinstance(held, View) else 0


def read_entrywise(draft: Draft, operation: Operation) -> View | Flat | None:
    """Return the value an operation acts on entry by entry, or None when it does not, or no register holds it."""
    varying = draft.varying(operation)
    held = draft.held[varying[0]] if len(set(varying)) == 1 else None
    if not isinstance(held, View | Flat) or operation.kind not in ENTRYWISE or len(varying) != 1:
        return None
    return held if slopes_of(draft, operation, dims_of(held)) is not None else None


def activate(draft: Draft, operation: Operation) -> bool:
    """Send an operation, and all others that are ready on the same register, through one step.

    Returns:
        Whether that was possible: not if it does not act entry by entry, or on too many rows.
    """
    first = read_entrywise(draft, operation)
    if first is None:
        return False
    group = [(one, held) for one, held in _ready(draft) if _stands_with(held, first)]
    standing = stand(draft, [held for _, held in group], [one.name for one, _ in group])
    if standing is None and len(group) > 1:
        group = [(operation, first)]
        standing = stand(draft, [first], [operation.name])
    if standing is None:
        return False
    _emit(draft, group, standing, dims_of(first))
    return True


def _ready(draft: Draft) -> list[tuple[Operation, View | Flat]]:
    read = ((operation, read_entrywise(draft, operation)) for operation in draft.waiting())
    return [(operation, held) for operation, held in read if held is not None]


def _stands_with(held: View | Flat, first: View | Flat) -> bool:
    same_pixels = not isinstance(held, View) or not isinstance(first, View) or held.strides == first.strides
    return held.register == first.register and type(held) is type(first) and same_pixels


def _emit(draft: Draft, group: Sequence[tuple[Operation, View | Flat]], standing: Standing, dims: int) -> None:
    register, width = standing.register, draft.width(standing.register)
    lower = torch.ones(width, dtype=torch.float64)
    upper = lower.clone()
    for (operation, _), rows in zip(group, standing.rows, strict=True):
        lower[rows], upper[rows] = _widened(draft, operation, dims)
        draft.mark(draft.varying(operation)[0], register, rows)
    made = draft.emit(Activate(register, draft.sides(register), lower, upper), width)
    draft.follow(standing.along, made)
    for (operation, held), rows in zip(group, standing.rows, strict=True):
        contains_zero = bool(((lower[rows] <= 0.0) & (upper[rows] >= 0.0)).all())
        clean = contains_zero or (isinstance(held, View) and held.clean)
        draft.held[operation.name] = View(made, Rows(rows), (1,) * dims, clean)
        draft.mark(operation.name, made, rows)


def _widened(draft: Draft, operation: Operation, dims: int) -> Slopes:
    slopes = slopes_of(draft, operation, dims)
    if slopes is None:
        raise TypeError(f"expected an operation that acts entry by entry, got {operation.where}")
    if not (dims and must_be_zero_outside(draft, operation.name, dims)):
        return slopes
    return slopes[0].clamp(max=0.0), slopes[1].clamp(min=0.0)


def must_be_zero_outside(draft: Draft, name: str, dims: int) -> bool:
    """Tell whether an operation that reads beyond the image reads this value, or a pixelwise combination of it."""
    waiting, seen = [name], {name}
    while waiting:
        for reader in draft.readers(waiting.pop()):
            operation = draft.facts.graph.by_name[reader]
            reading = reading_of(draft.facts, operation, dims)
            if reading is not None and reading.leaves:
                return True
            passes = operation.kind in POINTWISE - ACTIVATIONS or (reading is not None and reading.only_moves)
            if passes and reader not in seen:
                seen.add(reader)
                waiting.append(reader)
    return False


def leave_to_pool(draft: Draft, operation: Operation) -> Behind | None:
    """Return an activation as part of the max pool that is its only reader, or None.

    With c the largest absolute slope, P' = c^2 diag(delta) for diag(delta) >= M bounds both. Nothing is lost: behind
    slopes that reach c, the pool alone needs diag(delta') >= c^2 M as well.
    """
    held, readers = draft.held[draft.varying(operation)[0]], draft.readers(operation.name)
    if operation.kind not in ACTIVATIONS or not isinstance(held, View) or not held.strides:
        return None
    if len(readers) != 1 or draft.facts.graph.by_name[readers[0]].kind != "max_pool":
        return None
    slopes = slopes_of(draft, operation, len(held.strides))
    return None if slopes is None else Behind(held, float(torch.maximum(slopes[0].abs(), slopes[1].abs()).max()))
