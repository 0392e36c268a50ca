"""Steps that prepare a linear operation: cropping an image to its true pixels, joining two registers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from certify.bounds.covariance import limits
from certify.bounds.covariance.draft import Draft
from certify.bounds.covariance.linear import flattened
from certify.bounds.covariance.maps import Entries, Map, Rows, error_of
from certify.bounds.covariance.standing import Standing, stand
from certify.bounds.covariance.states import Flat, View
from certify.bounds.covariance.steps import Join, Mask
from certify.graph import Operation


def mask(draft: Draft, operation: Operation) -> bool:
    """Crop the image that a padded operation reads to its true pixels; False when no register can hold it."""
    name = draft.varying(operation)[0]
    standing = _lift(draft, [name], alone=False)
    if standing is None:
        return False
    register, rows = standing.register, standing.rows[0]
    draft.mark(name, register, rows)
    made = draft.emit(Mask(register, draft.sides(register), rows), draft.width(register))
    draft.follow((*standing.along, name), made)
    draft.held[name] = View(made, Rows(rows), (1,) * len(draft.sides(made)), clean=True)
    return True


def _lift(draft: Draft, names: Sequence[str], *, alone: bool) -> Standing | None:
    """Give values of one register rows of their own, in place of what they were; None when they are too many."""
    held = {name: draft.held.pop(name) for name in names}
    targets = [one for one in held.values() if isinstance(one, View | Flat)]
    standing = stand(draft, targets, names, alone=alone) if len(targets) == len(names) else None
    draft.held.update(held)
    if standing is None:
        return None
    ones = (1,) * len(draft.sides(standing.register))
    for name, target, rows in zip(names, targets, standing.rows, strict=True):
        clean = not isinstance(target, View) or target.clean
        draft.held[name] = View(standing.register, Rows(rows), ones, clean)
    return standing


def join(draft: Draft, operation: Operation) -> bool:
    """Bring inputs of an operation that stand apart into one register; False when they do not fit into one.

    Two registers at a time: an operation with more inputs comes again.
    """
    names = list(dict.fromkeys(draft.varying(operation)))
    if not _on_one_torus(draft, operation, names):
        return False
    groups: dict[int, list[str]] = {}
    for name in names:
        held = draft.held[name]
        if isinstance(held, View | Flat):
            groups.setdefault(held.register, []).append(name)
    chosen = list(groups.values())[:2]
    found = [_lift(draft, group, alone=False) for group in chosen]
    if len(found) == 1:
        return found[0] is not None
    first, second = found
    if first is None or second is None:
        return False
    if not limits.fits(draft.sides(first.register), draft.width(first.register) + draft.width(second.register)):
        first, second = (_lift(draft, group, alone=True) for group in chosen)
        if first is None or second is None:
            return False
    return _emit_join(draft, (first, chosen[0]), (second, chosen[1]))


def _on_one_torus(draft: Draft, operation: Operation, names: Sequence[str]) -> bool:
    """Tell whether values stand on the same pixels, after making plain rows of all if some are."""
    held = [draft.held[name] for name in names]
    images = [one for one in held if isinstance(one, View) and one.strides]
    if len(images) == len(names):
        output = draft.grids.sides(operation.name, len(images[0].strides))
        return all(draft.pixels(view) == output for view in images)
    if any(not isinstance(one, View | Flat) for one in held):
        return False
    for name in names:
        draft.held[name] = flattened(draft, name)
    return True


def _emit_join(draft: Draft, first: tuple[Standing, list[str]], second: tuple[Standing, list[str]]) -> bool:
    widths = [draft.width(standing.register) for standing, _ in (first, second)]
    sides = draft.sides(first[0].register)
    if not sides and sum(widths) > limits.MOST_ROWS:
        return False
    words = " and ".join(draft.where(names[0]) for _, names in (first, second))
    draft.fallbacks.append(f"{words}: added as if nothing were known about their correlation")
    made = draft.emit(Join(first[0].register, second[0].register, sides), sum(widths))
    for (standing, names), offset in ((first, 0), (second, widths[0])):
        for name in (*standing.along, *names):
            held = draft.held[name]
            if isinstance(held, View):
                placed = _offset(held.map, offset, sum(widths))
                draft.held[name] = View(made, placed, held.strides, held.clean)
    return True


def _offset(view: Map, offset: int, width: int) -> Map:
    """Return the same map of a register in which its own rows begin at ``offset``."""
    if isinstance(view, Rows):
        return Rows(torch.where(view.index >= 0, view.index + offset, view.index))
    end = offset + view.values.shape[2]
    values = view.values.new_zeros(*view.values.shape[:2], width)
    values[:, :, offset:end] = view.values
    error = error_of(view).new_zeros(view.values.shape[1], width)
    error[:, offset:end] = error_of(view)
    return Entries(values, error)
