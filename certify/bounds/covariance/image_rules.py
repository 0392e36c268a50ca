r"""Linear operations on images, as maps of the register the image is held by.

A rule answers with the new view, or None when the operation does not act on every pixel alike. Values of one register
are combined exactly; that they stand on the same pixels has been checked before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from certify.bounds.covariance.draft import Draft
from certify.bounds.covariance.grids import keeps_sizes
from certify.bounds.covariance.maps import (
    Entries,
    Map,
    Rows,
    add,
    as_entries,
    compose,
    enlarge,
    error_of,
    scale,
    sizes,
    stack,
    take,
)
from certify.bounds.covariance.readings import Reading, reading_of
from certify.bounds.covariance.scalings import RELATIVE, factors
from certify.bounds.covariance.states import View
from certify.bounds.covariance.symbols import kernel_symbol, phase_error, phases
from certify.graph import Operation
from certify.graph.run import KERNELS
from certify.rounding import U64

Rule = Callable[[Draft, Operation, Sequence[View]], View | None]


def image_view(draft: Draft, operation: Operation, views: Sequence[View]) -> View | None:
    """Return an operation's output as a view of the register of its inputs, or None when there is no rule."""
    dims = len(views[0].strides)
    sides = draft.grids.sides(operation.name, dims)
    if sides is None:
        return None
    reading = reading_of(draft.facts, operation, dims)
    if reading is not None:
        fills = sides == draft.facts.shapes[operation.name][-dims:]
        return _read(draft, reading, views[0], fills) if reading.suits(draft.pixels(views[0])) else None
    rule = RULES.get(operation.kind)
    if rule is None or not keeps_sizes(draft.facts, operation, dims):
        return None
    return rule(draft, operation, views)


def _changed(view: View, rows: Map, clean: bool) -> View:
    return View(view.register, rows, view.strides, clean)


def _read(draft: Draft, reading: Reading, view: View, fills: bool) -> View:
    """Return a value read through a kernel: its symbol times the map, on coarser pixels.

    ``fills``: the value has all pixels of its torus, so that nothing lies outside.
    """
    strides = tuple(a * b for a, b in zip(view.strides, reading.strides, strict=True))
    found = (
        _shifted(draft, reading, view) if reading.kernel is None else _filtered(draft, reading, view, reading.kernel)
    )
    return View(view.register, found, strides, fills or (view.clean and reading.only_moves))


def _filtered(draft: Draft, reading: Reading, view: View, kernel: Tensor) -> Map:
    matrix, error = kernel_symbol(reading, kernel, draft.sides(view.register), view.strides)
    if all(axis.taps == 1 and axis.before == 0 for axis in reading.axes):
        matrix = matrix[:1]  # the same at every frequency
    return compose(matrix, error, view.map, draft.width(view.register))


def _shifted(draft: Draft, reading: Reading, view: View) -> Map:
    rows = view.map if reading.channels is None else take(view.map, reading.channels)
    shift = [-q * axis.before for axis, q in zip(reading.axes, view.strides, strict=True)]
    if not any(shift):
        return rows
    sides = draft.sides(view.register)
    part = as_entries(rows, draft.width(view.register), torch.complex128)
    values = part.values * phases(sides, torch.tensor([shift]))[:, :, None]
    error = error_of(part) * 2.0 + (phase_error(len(sides)) + 8.0 * U64) * sizes(part.values)
    return Entries(values, enlarge(error, 4))


def _sum(sign: float) -> Rule:
    def rule(draft: Draft, operation: Operation, views: Sequence[View]) -> View | None:
        shape = draft.facts.shapes[operation.name]
        if any(draft.facts.shapes[name] != shape for name in draft.varying(operation)):
            return None
        if len(views) == 1:
            return _negated(draft, operation, views[0], sign)
        register = views[0].register
        rows = add(views[0].map, views[1].map, draft.width(register), draft.dtype(register), sign)
        return _changed(views[0], rows, views[0].clean and views[1].clean)

    return rule


def _negated(draft: Draft, operation: Operation, view: View, sign: float) -> View:
    """Return x + c, x - c or c - x: up to a sign, x."""
    if sign > 0.0 or operation.inputs[0] not in draft.facts.independent:
        return view
    minus = torch.full(
        (math.prod(draft.facts.shapes[operation.name][: -len(view.strides)]),), -1.0, dtype=torch.float64
    )
    return _changed(view, scale(view.map, minus, 0.0, draft.width(view.register), torch.complex128), view.clean)


def _concat(draft: Draft, operation: Operation, views: Sequence[View]) -> View | None:
    dims = len(views[0].strides)
    lead = draft.facts.shapes[operation.name][:-dims]
    if operation.integer("dim") >= len(lead):
        return None
    register, held = views[0].register, iter(views)
    parts: list[Map] = []
    numbers, start = [], 0
    for name in operation.inputs:
        own = draft.facts.shapes[name][:-dims]
        count = math.prod(own)
        fixed = name in draft.facts.independent
        parts.append(Rows(torch.full((count,), -1)) if fixed else next(held).map)
        numbers.append(torch.arange(start, start + count).reshape(own))
        start += count
    order = torch.cat(numbers, operation.integer("dim")).reshape(-1)
    rows = take(stack(parts, draft.width(register), draft.dtype(register)), order)
    return _changed(views[0], rows, all(view.clean for view in views))


def _scaled(draft: Draft, operation: Operation, views: Sequence[View]) -> View | None:
    """Return a value times a factor per channel; None when it changes from pixel to pixel."""
    found, dims = factors(draft.facts, operation), len(views[0].strides)
    if found is None or found.shape != draft.facts.shapes[draft.varying(operation)[0]]:
        return None
    per_row = found.reshape(-1, math.prod(found.shape[-dims:]))
    if not bool((per_row == per_row[:, :1]).all()):
        return None
    view = views[0]
    rows = scale(view.map, per_row[:, 0].contiguous(), RELATIVE, draft.width(view.register), torch.complex128)
    return _changed(view, rows, view.clean)


def _moved(draft: Draft, operation: Operation, views: Sequence[View]) -> View | None:
    dims = len(views[0].strides)
    index = _lead_index(draft, operation, dims)
    return None if index is None else _changed(views[0], take(views[0].map, index), views[0].clean)


def _lead_index(draft: Draft, operation: Operation, dims: int) -> Tensor | None:
    """Return which channel stands where after an operation that moves whole channels; None when it moves pixels."""
    before, after = draft.facts.shape(operation)[:-dims], draft.facts.shapes[operation.name][:-dims]
    numbers = torch.arange(math.prod(before)).reshape(before)
    if operation.kind == "reshape":
        return numbers.reshape(-1)
    if operation.kind == "permute":
        return numbers.permute(operation.integers("dims")[:-dims]).reshape(-1)
    if operation.kind == "expand":
        return numbers.expand(after).reshape(-1)
    moved = operation.integers("dims") if "dims" in operation.attributes else (operation.integer("dim"),)
    if not moved or any(dim >= len(before) for dim in moved):
        return None
    ones = numbers.reshape(*before, *[1] * dims)
    return KERNELS[operation.kind](ones, **operation.attributes).reshape(-1)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "add": _sum(1.0),
        "sub": _sum(-1.0),
        "concat": _concat,
        **dict.fromkeys(("batch_norm", "normalize", "mul", "div"), _scaled),
        **dict.fromkeys(("reshape", "permute", "expand", "flip", "roll", "slice"), _moved),
    }
)
