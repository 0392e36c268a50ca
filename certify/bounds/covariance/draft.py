r"""A plan while it is written: its steps so far, and how every value that is still to be read is held.

Values that are read later stay in the register that is transformed now, beside the rows that the transformation is for:
this is the joint covariance of a skip connection and its branch, and of any other branches. Where rows cannot go along
(they stand on another torus, become plain rows, or the register would be too large) they stay behind in the register
before, their correlation with the others is given up, and the plan says so in words.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from certify.bounds.covariance.grids import Grids
from certify.bounds.covariance.maps import (
    Entries,
    Map,
    Rows,
    as_entries,
    compose,
    enlarge,
    error_of,
    picked,
    row_count,
    stack,
)
from certify.bounds.covariance.states import Behind, Flat, Held, Lost, View
from certify.bounds.covariance.steps import Flatten, Fold, Linear, Mark, Plan, Sides, Step, frequency_counts
from certify.bounds.covariance.symbols import phase_error, phases
from certify.bounds.facts import Facts
from certify.graph import Operation
from certify.results import Norm, Unbounded
from certify.rounding import gamma_up

MOST_ROWS = 6000  # of a dense register: a factorisation of one such matrix takes some seconds on one core
MOST_JOINT_BYTES = 2**29  # of a register that holds more than the rows it is made for
MOST_PHASES = 2**26  # of one flattened image: a gigabyte


class Draft:
    """The steps of a plan so far, from the value ``start`` on; ``held`` says how every value behind it is held."""

    def __init__(
        self, facts: Facts, value: str, norm: Norm, gains: Mapping[str, float | Unbounded], start: str
    ) -> None:
        self.facts, self.value, self.norm, self.gains, self.start = facts, value, norm, gains, start
        self.needed = ancestors(facts, value, start)
        self.grids = Grids(facts, self.needed)
        self._readers: dict[str, list[str]] = {name: [] for name in self.needed}
        for operation in facts.graph:
            for name in set(self.varying(operation)) & self.needed if operation.name in self.needed else ():
                self._readers[name].append(operation.name)
        self.held: dict[str, Held] = {}
        self.fallbacks: list[str] = []
        self._steps: list[Step] = []
        self._widths: list[int] = []
        self._marks: list[Mark] = []

    def plan(self) -> Plan:
        """Return the plan."""
        return Plan(tuple(self._steps), self.norm, tuple(self._marks), tuple(dict.fromkeys(self.fallbacks)))

    def emit(self, step: Step, width: int) -> int:
        """Append a step whose register has ``width`` rows; return its position."""
        self._steps.append(step)
        self._widths.append(width)
        return len(self._steps) - 1

    @property
    def last(self) -> int:
        """The position of the last step."""
        return len(self._steps) - 1

    def sides(self, register: int) -> Sides:
        """Return the sides of a register."""
        return self._steps[register].sides

    def width(self, register: int) -> int:
        """Return the number of rows of a register."""
        return self._widths[register]

    def dtype(self, register: int) -> torch.dtype:
        """Return the dtype of matrices that act on a register."""
        return torch.complex128 if self.sides(register) else torch.float64

    def pixels(self, view: View) -> Sides:
        """Return the sides of the torus a view stands on, fewer than its register's behind strides."""
        return tuple(a // b for a, b in zip(self.sides(view.register), view.strides, strict=True))

    def nothing(self, register: int) -> Tensor:
        """Return the matrix of a `Linear` that computes no rows."""
        return torch.zeros(1, 0, self.width(register), dtype=self.dtype(register))

    def follow(self, names: Iterable[str], register: int) -> None:
        """Let values be views of a register whose rows are those of the one they are views of."""
        for name in names:
            held = self.held[name]
            if isinstance(held, View):
                self.held[name] = replace(held, register=register)

    def mark(self, value: str, register: int, rows: Tensor) -> None:
        """Note that a value of the network stands in these rows, if they are consecutive."""
        first, last = int(rows[0]), int(rows[-1]) + 1
        found = Mark(value, register, first, last)
        if found not in self._marks and torch.equal(rows, torch.arange(first, last)):
            self._marks.append(found)

    def varying(self, operation: Operation) -> list[str]:
        """Return the inputs of an operation that depend on the network's input."""
        return [name for name in operation.inputs if name not in self.facts.independent]

    def waiting(self) -> list[Operation]:
        """Return the operations whose inputs are held and whose value is not, in the order of the graph."""
        return [
            operation
            for operation in self.facts.graph
            if operation.name in self.needed
            and operation.name not in self.held
            and all(name in self.held for name in self.varying(operation))
        ]

    def live(self, done: Iterable[str] = ()) -> list[str]:
        """Return the held values that are still to be read once the operations ``done`` are computed."""
        computed = {*self.held, *done}
        return [name for name in self.held if name == self.value or not computed.issuperset(self._readers[name])]

    def readers(self, name: str) -> list[str]:
        """Return the operations of the plan that read a value."""
        return self._readers[name]

    def where(self, name: str) -> str:
        """Return the module path of a value, or its name."""
        return self.facts.graph.by_name[name].module or name


def ancestors(facts: Facts, value: str, start: str) -> frozenset[str]:
    """Return the values that depend on the input and that ``value`` is computed from, itself and ``start`` included.

    What ``start`` is computed from is left out.
    """
    needed, waiting = {value, start}, [value]
    while waiting:
        name = waiting.pop()
        fresh = set() if name == start else set(facts.graph.by_name[name].inputs) - needed - facts.independent
        needed |= fresh
        waiting.extend(fresh)
    return frozenset(needed)


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
    layout = _Layout(draft.width(register), draft.dtype(register), maps, carried, keeps_basis)
    dense = flat or not draft.sides(register)
    if along and not fits(() if dense else draft.sides(register), layout.rows):
        draft.fallbacks.append(f"{_words(draft, along)}: held apart from its branches, together they are too large")
        return stand(draft, targets, done, alone=True)
    if dense and layout.rows > MOST_ROWS:
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
    return row_count(held.map) > MOST_ROWS or phases_held > MOST_PHASES


def _register(held: Held) -> int | None:
    return None if isinstance(held, Lost) else held.register


def _alike(held: Held, target: View | Flat) -> bool:
    if isinstance(held, Behind):
        return False
    return type(held) is type(target) and (isinstance(held, Flat) or held.strides == _strides(target))


def _strides(target: View | Flat) -> tuple[int, ...]:
    return target.strides if isinstance(target, View) else ()


def _own_map(draft: Draft, held: Held) -> Map:
    """Return what a value is of its register: for plain rows of an image, A(w) of `Flatten`."""
    if isinstance(held, Flat):
        return _flat_map(draft, held)
    if not isinstance(held, View):
        raise TypeError(f"expected a value that is a map of a register, got {held}")
    return held.map


def _flat_map(draft: Draft, flat: Flat) -> Map:
    r"""Return A(w) = sum_x W[:, :, x] exp(+i w.x) times the map of the image; with windows, of their weights.

    With sizes s_p of the windows (1 for a pixel) the entries of A err by (1.5 gamma + 8 d u + ...) sum_p |W| s_p.
    """
    register, sides = flat.register, draft.sides(flat.register)
    pixels = itertools.product(*(range(0, q * n, q) for n, q in zip(flat.sizes, flat.view.strides, strict=True)))
    factors = phases(sides, torch.tensor(list(pixels)))
    extent, relative = torch.ones(factors.shape[1], dtype=torch.float64), phase_error(len(sides))
    if flat.windows is not None:
        factors = factors @ flat.windows.T.to(factors.dtype)
        extent = flat.windows.abs().sum(1)
        relative += gamma_up(4 * flat.windows.shape[1] + 8) + 2.0 * flat.relative
    channels = row_count(flat.view.map)
    dense = as_entries(flat.map, channels * factors.shape[1], torch.float64)
    weights = dense.values[0].reshape(-1, channels, factors.shape[1])
    parts = [torch.einsum("mcp,fp->fmc", weights, half) for half in (factors.real, factors.imag)]
    sums = (weights.abs() * extent).sum(2) * (2.0 * relative + 1.5 * gamma_up(factors.shape[1] + 1))
    unsure = (error_of(dense).reshape(weights.shape) * extent).sum(2) * 2.0
    error = enlarge(sums + unsure, factors.shape[1])
    return compose(torch.complex(*parts), error, flat.view.map, draft.width(register))


class _Layout:
    """Which rows a new register has: kept ones first, then computed ones.

    Other values go along as they are; where their rows would be more than those of the register they are maps of, the
    register's rows go along instead and they remain maps of these (``keeps_basis`` allows it).
    """

    def __init__(
        self, width: int, dtype: torch.dtype, maps: Sequence[Map], carried: Mapping[str, Map], keeps_basis: bool
    ) -> None:
        self.width, self._dtype = width, dtype
        self.keep: list[int] = []
        self._blocks: list[Map] = []
        used = _used_columns(carried.values(), width) if keeps_basis else []
        as_basis = keeps_basis and len(used) < sum(row_count(view) for view in carried.values())
        if as_basis:
            self.keep = used
        placed = {} if as_basis else {name: self._put(view) for name, view in carried.items()}
        found = [self._put(view) for view in maps]
        self.targets = [torch.tensor([self._number(row) for row in rows]) for rows in found]
        self.carried: dict[str, Map] = {
            name: _recolumned(view, used, self.rows)
            if as_basis
            else Rows(torch.tensor([self._number(row) for row in placed[name]]))
            for name, view in carried.items()
        }

    def _put(self, view: Map) -> list[tuple[bool, int]]:
        """Give a value rows; return them as (kept, position in its part)."""
        rows = picked(view)
        if rows is not None and not set(rows) & set(self.keep):
            self.keep.extend(rows)
            return [(True, len(self.keep) - len(rows) + i) for i in range(len(rows))]
        start = sum(row_count(block) for block in self._blocks)
        self._blocks.append(view)
        return [(False, start + i) for i in range(row_count(view))]

    def _number(self, row: tuple[bool, int]) -> int:
        kept, position = row
        return position if kept else len(self.keep) + position

    @property
    def rows(self) -> int:
        """The number of rows of the new register."""
        return len(self.keep) + sum(row_count(block) for block in self._blocks)

    @property
    def changes_nothing(self) -> bool:
        """Whether the new register would be the old one."""
        return not self._blocks and self.keep == list(range(self.width))

    def matrix(self) -> Entries:
        """Return the computed rows."""
        if not self._blocks:
            return Entries(torch.zeros(1, 0, self.width, dtype=self._dtype))
        return as_entries(stack(self._blocks, self.width, self._dtype), self.width, self._dtype)


def _used_columns(views: Iterable[Map], width: int) -> list[int]:
    used = torch.zeros(width, dtype=torch.bool)
    for view in views:
        if isinstance(view, Rows):
            used[view.index[view.index >= 0]] = True
        else:
            used |= (view.values != 0).any(0).any(0) | (error_of(view) > 0).any(0)
    found: list[int] = used.nonzero()[:, 0].tolist()
    return found


def _recolumned(view: Map, used: Sequence[int], width: int) -> Map:
    """Return the same map of a register whose first rows are the rows ``used`` of the one before."""
    if isinstance(view, Rows):
        number = {row: i for i, row in enumerate(used)}
        return Rows(torch.tensor([number.get(row, -1) for row in view.index.tolist()]))
    values = view.values.new_zeros(*view.values.shape[:2], width)
    values[:, :, : len(used)] = view.values[:, :, used]
    error = error_of(view).new_zeros(view.values.shape[1], width)
    error[:, : len(used)] = error_of(view)[:, used]
    return Entries(values, error)


def fits(sides: Sides, rows: int) -> bool:
    """Tell whether a register of so many rows is not too large to hold values together that could be apart."""
    number = 16 if sides else 8
    held = math.prod(frequency_counts(sides)) * rows**2 * number <= MOST_JOINT_BYTES
    return held and (bool(sides) or rows <= MOST_ROWS)


def _emit_layout(draft: Draft, register: int, target: View | Flat, layout: _Layout) -> int:
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
        coarse = tuple(side // stride for side, stride in zip(sides, target.strides, strict=True))
        made = draft.emit(Fold(made, coarse, target.strides), layout.rows)
    return made


def _move(draft: Draft, name: str, register: int, view: Map) -> None:
    before = draft.held[name]
    clean = before.clean if isinstance(before, View) else True
    draft.held[name] = View(register, view, (1,) * len(draft.sides(register)), clean)


def _say_what_stays(draft: Draft, names: Sequence[str], along: Sequence[str], target: View | Flat) -> None:
    staying = [name for name in names if name not in along]
    if staying:
        reason = "flattened" if isinstance(target, Flat) else "computed from"
        words = _words(draft, staying)
        draft.fallbacks.append(f"{words}: its correlation with what is {reason} beside it is given up")


def _words(draft: Draft, names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(draft.where(name) for name in names))
