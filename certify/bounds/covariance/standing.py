r"""Registers are made here: rows for the values that need them, beside the values that are read later.

Values that are read later stay in the register that is transformed now, beside the rows that the transformation is for:
this is the joint covariance of a skip connection and its branch, and of any other branches. Where rows cannot go along
(they stand on another torus, become plain rows, or the register would be too large) they stay behind in the register
before, their correlation with the others is given up, and the plan says so in words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.covariance import limits
from certify.bounds.covariance.draft import Draft
from certify.bounds.covariance.layout import Layout
from certify.bounds.covariance.maps import Map, compose, row_count
from certify.bounds.covariance.states import Behind, Flat, Held, Lost, Read, View
from certify.bounds.covariance.steps import Flatten, Fold, Linear, Sides, frequency_counts
from certify.bounds.covariance.symbols import flat_symbol


@dataclass(frozen=True, eq=False)
class Standing:
    """A register in which targets have rows of their own; the values ``along`` are views of it as well."""

    register: int
    rows: tuple[Tensor, ...]
    along: tuple[str, ...]


def stand(draft: Draft, targets: Sequence[View | Flat], done: Iterable[str], *, alone: bool = False) -> Standing | None:
    """Make a register in which every target has rows of its own, beside the values that are read after ``done``.

    Args:
        draft: The plan so far.
        targets: Views of one register on the same pixels, or plain rows of one register.
        done: The operations that will have been computed with the targets.
        alone: Whether the other values must stay behind.

    Returns:
        The register, or None when the targets have too many rows for one.
    """
    register = targets[0].register
    names = [name for name in draft.live(done) if _register(draft.held[name]) == register]
    along = [name for name in names if not alone and _alike(draft.held[name], targets[0])]
    if any(_is_too_wide(draft, one) for one in (*targets, *(draft.held[name] for name in along))):
        return stand(draft, targets, done, alone=True) if along else None
    maps = [_own_map(draft, target) for target in targets]
    carried = {name: _own_map(draft, draft.held[name]) for name in along}
    flat = isinstance(targets[0], Flat)
    keeps_basis = not flat and not any(stride > 1 for stride in _strides(targets[0]))
    layout = Layout(draft.width(register), draft.dtype(register), maps, carried, keeps_basis)
    dense = flat or not draft.sides(register)
    if along and not limits.fits(() if dense else _sides_of(draft, targets[0]), layout.rows):
        draft.fallbacks.append(f"{_words(draft, along)}: held apart from its branches, together they are too large")
        return stand(draft, targets, done, alone=True)
    if dense and layout.rows > limits.MOST_ROWS:
        return None
    _say_what_stays(draft, names, along, targets[0])
    made = _emit_layout(draft, register, targets[0], layout)
    for name in along:
        _move(draft, name, made, layout.carried[name])
    return Standing(made, tuple(layout.targets), tuple(along))


def _is_too_wide(draft: Draft, held: Held) -> bool:
    """Tell whether plain rows are too many to be written out, or read too many pixels at too many frequencies."""
    if not isinstance(held, Flat):
        return False
    phases_held = math.prod(frequency_counts(draft.sides(held.register))) * math.prod(held.sizes)
    return row_count(held.map) > limits.MOST_ROWS or phases_held > limits.MOST_PHASES


def _register(held: Held) -> int | None:
    return None if isinstance(held, Lost | Read) else held.register


def _alike(held: Held, target: View | Flat) -> bool:
    if isinstance(held, Behind):
        return False
    return type(held) is type(target) and (isinstance(held, Flat) or held.strides == _strides(target))


def _strides(target: View | Flat) -> tuple[int, ...]:
    return target.strides if isinstance(target, View) else ()


def _sides_of(draft: Draft, target: View | Flat) -> Sides:
    """Return the sides of the torus a view stands on: its register's, or those that its strides leave."""
    return draft.pixels(target) if isinstance(target, View) and target.strides else draft.sides(target.register)


def _own_map(draft: Draft, held: Held) -> Map:
    """Return what a value is of its register: for plain rows of an image, A(w) of `Flatten`."""
    if isinstance(held, Flat):
        matrix, error = flat_symbol(held, draft.sides(held.register))
        return compose(matrix, error, held.view.map, draft.width(held.register))
    if not isinstance(held, View):
        raise TypeError(f"expected a value that is a map of a register, got {held}")
    return held.map


def _emit_layout(draft: Draft, register: int, target: View | Flat, layout: Layout) -> int:
    sides = draft.sides(register)
    if isinstance(target, Flat):
        part = layout.matrix()
        values = part.values.expand(math.prod(frequency_counts(sides)), -1, -1)
        return draft.emit(Flatten(register, sides, values, part.error), layout.rows)
    made = register
    if not layout.changes_nothing:
        part = layout.matrix()
        step = Linear(register, sides, torch.tensor(layout.keep, dtype=torch.int64), part.values, part.error)
        made = draft.emit(step, layout.rows)
    if any(stride > 1 for stride in target.strides):
        made = draft.emit(Fold(made, _sides_of(draft, target), target.strides), layout.rows)
    return made


def _move(draft: Draft, name: str, register: int, view: Map) -> None:
    before = draft.held[name]
    clean = before.clean if isinstance(before, View) else True
    draft.held[name] = View(register, view, (1,) * len(draft.sides(register)), clean)


def _say_what_stays(draft: Draft, names: Sequence[str], along: Sequence[str], target: View | Flat) -> None:
    staying = [name for name in names if name not in along]
    if staying:
        reason = "flattened" if isinstance(target, Flat) else "computed"
        words = _words(draft, staying)
        draft.fallbacks.append(f"{words}: its correlation with what is {reason} beside it is given up")


def _words(draft: Draft, names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(draft.where(name) for name in names))
