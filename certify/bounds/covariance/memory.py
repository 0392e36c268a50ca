"""How much memory a plan takes, known before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Iterator

from certify.bounds.covariance.draft import Draft
from certify.bounds.covariance.registers import rows
from certify.bounds.covariance.steps import Flatten, Linear, Plan, frequency_counts
from certify.bounds.slopes import ACTIVATIONS
from certify.graph import Operation


def register_rows(plan: Plan) -> tuple[int, ...]:
    """Return the number of rows of every register.

    Example:
        >>> from certify.bounds.covariance.steps import Bounded, Join, Start
        >>> register_rows(Plan((Start((), 3), Bounded(0, (), 5, 2.0), Join(0, 1, ()))))
        (3, 5, 8)
    """
    return tuple(rows(plan, position) for position in range(len(plan.steps)))


def plan_bytes(plan: Plan) -> int:
    """Return about how many bytes the registers and the matrices of a plan take, each held once.

    A differentiable evaluation holds about four times as much, a proof about as much.

    Example:
        >>> from certify.bounds.covariance.steps import Start
        >>> plan_bytes(Plan((Start((), 100),)))
        80000
    """
    total = 0
    for position, (step, count) in enumerate(zip(plan.steps, register_rows(plan), strict=True)):
        total += plan.frequencies(position) * count**2 * (16 if step.sides else 8)
        if isinstance(step, Linear | Flatten):
            total += step.matrix.numel() * step.matrix.element_size()
    return total


def expected_bytes(draft: Draft) -> int:
    """Return about how many bytes a plan will take, from shapes alone, rather more than fewer.

    Counted are two registers an activation, and the matrices; three times that where branches go along.
    """
    needed = [operation for operation in draft.facts.graph if operation.name in draft.needed]
    branches = any(len(draft.readers(operation.name)) > 1 for operation in needed)
    return (3 if branches else 1) * sum(sum(_expected(draft, operation)) for operation in needed)


def _expected(draft: Draft, operation: Operation) -> Iterator[int]:
    rows, frequencies = _extent(draft, operation.name)
    if operation.name == draft.start:
        yield frequencies * rows**2 * 16
        return
    if operation.kind in ACTIVATIONS:
        yield 2 * frequencies * rows**2 * 16
    if operation.kind in ("conv", "linear"):
        columns, before = _extent(draft, operation.inputs[0])
        yield max(frequencies, before) * rows * columns * 16


def _extent(draft: Draft, name: str) -> tuple[int, int]:
    """Return the rows of a value and the number of its frequencies."""
    shape = draft.facts.shapes[name]
    for dims in range(1, len(shape) - 1):
        sides = draft.grids.sides(name, dims)
        if sides is not None:
            return math.prod(shape[:-dims]), math.prod(frequency_counts(sides))
    return math.prod(shape), 1
