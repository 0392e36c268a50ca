r"""How much memory a plan takes, known before it is allocated.

At the peak, which is in the search, there are alive (R: the largest register, all in bytes)

- the matrices of the plan, and beside them those of the search: a copy in single precision where the plan is large,
  else parts of them;
- what the pass keeps for its derivatives: of every activation an inverse and the block beside it, of every join its
  parts; half of that in single precision;
- registers being made: at most `REGISTERS` of the size of R, of which a proof, which works in chunks, needs fewer.

`peak_bytes` counts these of a plan as it stands. Before there is a plan, `expected_bytes` tells them from shapes: at
every operation, the channels of all values on the same torus that are still to be read go along.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from certify.bounds.covariance.draft import Draft
from certify.bounds.covariance.registers import products_in_strides, rows
from certify.bounds.covariance.steps import Activate, Flatten, Join, Linear, Mask, Plan, frequency_counts
from certify.bounds.slopes import ACTIVATIONS
from certify.graph import Operation

REGISTERS = 8
SHARE = 0.75  # of the memory that is free
ROOT = Path("/")


@dataclass(frozen=True)
class Bytes:
    """What a plan holds in double precision: its matrices, what a pass keeps, and its largest register."""

    matrices: float = 0.0
    kept: float = 0.0
    largest: float = 0.0

    def __add__(self, other: Bytes) -> Bytes:
        """Return what two parts of a plan hold."""
        return Bytes(self.matrices + other.matrices, self.kept + other.kept, max(self.largest, other.largest))

    def peak(self, *, single: bool) -> float:
        """Return about the most that is alive at once when the search is in single, or in double precision."""
        share = 0.5 if single else 1.0
        return self.matrices + share * (self.matrices + self.kept) + max(share, 0.75) * REGISTERS * self.largest


def register_rows(plan: Plan) -> tuple[int, ...]:
    """Return the number of rows of every register.

    Example:
        >>> from certify.bounds.covariance.steps import Bounded, Join, Start
        >>> register_rows(Plan((Start((), 3), Bounded(0, (), 5, 2.0), Join(0, 1, ()))))
        (3, 5, 8)
    """
    return tuple(rows(plan, position) for position in range(len(plan.steps)))


def register_bytes(plan: Plan, position: int) -> int:
    """Return how many bytes a register takes.

    Example:
        >>> from certify.bounds.covariance.steps import Start
        >>> register_bytes(Plan((Start((), 100),)), 0)
        80000
    """
    return plan.frequencies(position) * rows(plan, position) ** 2 * (16 if plan.steps[position].sides else 8)


def peak_bytes(plan: Plan, *, single: bool) -> float:
    """Return about the most bytes that a search for multipliers and the proof need at once, rather more than fewer.

    Args:
        plan: The plan, whose matrices are counted.
        single: Whether the search is in single precision, as for large plans.
    """
    passed = products_in_strides(plan)
    parts = (_held(plan, position) for position in range(len(plan.steps)))
    largest = max(register_bytes(plan, position) for position in range(len(plan.steps)) if position not in passed)
    return sum(parts, Bytes(largest=float(largest))).peak(single=single)


def _held(plan: Plan, position: int) -> Bytes:
    step, n, number = plan.steps[position], rows(plan, position), 16 if plan.steps[position].sides else 8
    if isinstance(step, Linear | Flatten):
        return Bytes(matrices=step.matrix.numel() * step.matrix.element_size())
    if isinstance(step, Activate | Mask):
        unstable = int(step.unstable.sum()) if isinstance(step, Activate) else len(step.rows)
        return Bytes(kept=plan.frequencies(position) * unstable * n * number)
    if isinstance(step, Join):
        return Bytes(kept=register_bytes(plan, step.first) + register_bytes(plan, step.second))
    return Bytes()


def expected_bytes(draft: Draft) -> float:
    """Return about how many bytes a plan will need at once when it is searched in single precision, from shapes."""
    return sum(_expected(draft), Bytes()).peak(single=True)


def _expected(draft: Draft) -> Iterator[Bytes]:
    order = [operation for operation in draft.facts.graph if operation.name in draft.needed]
    last = {name: place for place, operation in enumerate(order) for name in operation.inputs}
    extents = {operation.name: _extent(draft, operation.name) for operation in order}
    for place, operation in enumerate(order):
        own, frequencies = extents[operation.name]
        before = (one.name for one in order[:place] if last.get(one.name, -1) > place)
        beside = [name for name in before if name not in operation.inputs]
        along = sum(extents[name][0] for name in beside if extents[name][1] == frequencies)
        if operation.kind in ACTIVATIONS or operation.name == draft.start:
            kept = frequencies * own * (own + along) * 16
            yield Bytes(kept=kept, largest=frequencies * (own + along) ** 2 * 16)
        if operation.name != draft.start:
            yield Bytes(matrices=_matrix(operation, own, frequencies, extents, along))


def _matrix(operation: Operation, own: int, frequencies: int, extents: dict[str, tuple[int, int]], along: int) -> float:
    """Return the bytes of the matrix of a layer."""
    read = extents.get(operation.inputs[0]) if operation.kind in ("conv", "conv_transpose", "linear") else None
    return 0.0 if read is None else max(frequencies, read[1]) * own * (read[0] + along) * 16


def _extent(draft: Draft, name: str) -> tuple[int, int]:
    """Return the rows of a value and the number of its frequencies."""
    shape = draft.facts.shapes[name]
    for dims in range(1, len(shape) - 1):
        sides = draft.grids.sides(name, dims)
        if sides is not None:
            return math.prod(shape[:-dims]), math.prod(frequency_counts(sides))
    return math.prod(shape), 1


def free_bytes(root: Path = ROOT) -> float:
    """Return the part of the free memory, of the machine and of its control group, that a plan may take.

    Infinite where neither is known.

    Example:
        >>> free_bytes(Path("no such folder"))
        inf
    """
    free = _numbers(root / "proc/meminfo").get("MemAvailable:", math.inf) * 1024.0
    group = root / "sys/fs/cgroup"
    most, used = (_numbers(group / name).get("", math.inf) for name in ("memory.max", "memory.current"))
    return SHARE * (min(free, most - used) if math.isfinite(used) else free)


def _numbers(path: Path) -> dict[str, float]:
    """Return the numbers of a file of lines "name number", or of one number alone."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    words = (line.split()[:2] for line in lines)
    return {" ".join(name): float(number) for *name, number in words if number.isdecimal()}
