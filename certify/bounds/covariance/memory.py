"""How much memory a plan takes, known before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

from certify.bounds.covariance.steps import (
    Activate,
    Bounded,
    Flatten,
    Fold,
    Join,
    Linear,
    Mask,
    Plan,
    Pool,
    Start,
    Step,
)


def register_rows(plan: Plan) -> tuple[int, ...]:
    """Return the number of rows of every register.

    Example:
        >>> register_rows(Plan((Start((), 3), Bounded(0, (), 5, 2.0), Join(0, 1, ()))))
        (3, 5, 8)
    """
    found: list[int] = []
    for step in plan.steps:
        found.append(_rows(step, found))
    return tuple(found)


def _rows(step: Step, before: Sequence[int]) -> int:
    match step:
        case Start() | Bounded():
            return step.rows
        case Linear():
            return len(step.keep) + step.matrix.shape[1]
        case Flatten():
            return int(step.matrix.shape[1])
        case Join():
            return before[step.first] + before[step.second]
        case Fold() | Activate() | Mask() | Pool():
            return before[step.source]


def plan_bytes(plan: Plan) -> int:
    """Return about how many bytes the registers and the matrices of a plan take, each held once.

    A differentiable evaluation holds about four times as much, a proof about as much.

    Example:
        >>> plan_bytes(Plan((Start((), 100),)))
        80000
    """
    total = 0
    for position, (step, rows) in enumerate(zip(plan.steps, register_rows(plan), strict=True)):
        total += plan.frequencies(position) * rows**2 * (16 if step.sides else 8)
        if isinstance(step, Linear | Flatten):
            total += step.matrix.numel() * step.matrix.element_size()
    return total
