"""How long a plan is searched: a number of evaluations, worked out from its size alone and not from a clock."""

from __future__ import annotations

from typing import Literal, TypeAlias

from certify.bounds.covariance.registers import rows
from certify.bounds.covariance.steps import Activate, Flatten, Linear, Plan

Effort: TypeAlias = Literal["fast", "default", "max"]

WORK = {"fast": 0.0, "default": 1e12, "max": 5e12}  # floating-point operations, roughly
FEWEST = {"fast": 4, "default": 5, "max": 30}  # evaluations, of every plan
MOST = {"fast": 4, "default": 160, "max": 800}
LARGE = 1e10  # floating-point operations of one pass from which on the search is the short one


def evaluations(plan: Plan, effort: Effort) -> int:
    """Return how many forward and backward passes the effort allows for a plan."""
    return int(min(MOST[effort], max(FEWEST[effort], WORK[effort] / max(1.0, work(plan)))))


def work(plan: Plan) -> float:
    """Return roughly the floating-point operations of one pass: matrix products and inverses.

    Example:
        >>> import torch
        >>> from certify.bounds.covariance.steps import Activate, Plan, Start
        >>> slopes = torch.zeros(3), torch.ones(3)
        >>> work(Plan((Start((), 3), Activate(0, (), *slopes))))
        54.0
    """
    return sum(_work(plan, position) for position in range(len(plan.steps)))


def _work(plan: Plan, position: int) -> float:
    step, n = plan.steps[position], float(rows(plan, position))
    if isinstance(step, Activate):
        return 2 * n**3 * plan.frequencies(position) * (4 if step.sides else 1)
    if isinstance(step, Linear | Flatten):
        count, m, k = step.matrix.shape
        return 2.0 * m * k * (m + k) * max(count, plan.frequencies(position)) * (4 if count > 1 else 1)
    return 0.0
