r"""A plan while it is written: its steps so far, and how every value that is still to be read is held."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from certify.bounds.covariance.grids import Grids
from certify.bounds.covariance.states import Held, Read, View
from certify.bounds.covariance.steps import Mark, Plan, Sides, Step
from certify.bounds.facts import Facts
from certify.graph import Operation
from certify.results import Norm, Unbounded


class Draft:
    """The steps of a plan so far, from the value ``start`` on; ``held`` says how every value behind it is held.

    With ``images`` false no value stands on a torus.
    """

    def __init__(
        self,
        facts: Facts,
        value: str,
        norm: Norm,
        gains: Mapping[str, float | Unbounded],
        start: str,
        *,
        images: bool = True,
    ) -> None:
        self.facts, self.value, self.norm, self.gains, self.start = facts, value, norm, gains, start
        self.needed = ancestors(facts, value, start)
        self.grids = Grids(facts, self.needed, images=images)
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

    def forget(self) -> None:
        """Drop how values are held that nothing reads any more: their matrices may be large."""
        for name in set(self.held).difference(self.live()):
            self.held[name] = Read()

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
