r"""The search for good multipliers of a plan.

The functions minimised are smooth (`objectives`), in coordinates in which most points are feasible (`variables`); the
best point of all those seen is kept, judged by the bound itself, so that the search may stop at any time. How long it
searches is a number of evaluations, worked out from the size of the plan: the same plan gives the same multipliers on
a slow and on a fast machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from certify.bounds.covariance.cotangents import Cotangent
from certify.bounds.covariance.descent import minimise
from certify.bounds.covariance.objectives import Objective, pairs, row, soft_diagonal, soft_norm
from certify.bounds.covariance.starts import SHAPES, start
from certify.bounds.covariance.steps import Multipliers, Plan
from certify.bounds.covariance.trial import Trial, rows
from certify.bounds.covariance.variables import Coordinates

Effort: TypeAlias = Literal["fast", "default", "max"]

WORK = {"default": 2.0e11, "max": 1.0e12}  # floating-point operations, roughly
FEWEST = {"default": 30, "max": 80}
MOST = {"default": 160, "max": 800}
STAGES = ((1e-2, 0.4), (1e-3, 0.3), (1e-4, 0.3))  # mu of the barriers, share of the evaluations


@dataclass
class _Best:
    """The best multipliers seen, and their value."""

    value: float = math.inf
    multipliers: Multipliers | None = None

    def offer(self, value: float, multipliers: Multipliers) -> None:
        if value < self.value:
            self.value, self.multipliers = value, dict(multipliers)


def optimise(plan: Plan, effort: Effort = "default", objective: Objective = "norm") -> Multipliers:
    """Return the best feasible multipliers found.

    Args:
        plan: The plan.
        effort: "fast": the best closed form; "default"; "max": longer.
        objective: What to minimise: "norm", "pairs" (all class pairs at once), one pair (i, j), or one row i.

    Raises:
        ValueError: If no closed form is feasible in floating point: the plan holds numbers that are not finite.
    """
    trial = Trial(plan)
    goal = Goal(objective, plan, trial.weights_of(plan.steps[-1].sides))
    best = _Best()
    for shape in SHAPES:
        made = start(trial, shape)
        if made.feasible:
            best.offer(goal.bound(made.output), made.multipliers)
    if best.multipliers is None:
        raise ValueError("expected a plan with a feasible closed form, got none; are all matrices finite?")
    if effort != "fast" and any(trial.free):
        _search(trial, goal, best, evaluations(plan, effort))
    return best.multipliers


def _search(trial: Trial, goal: Goal, best: _Best, count: int) -> None:
    if best.multipliers is None:
        return
    coordinates = Coordinates(trial, best.multipliers)
    x = coordinates.zero()
    for mu, share in STAGES:

        def function(x: Tensor, mu: float = mu) -> tuple[float, Tensor] | None:
            made = coordinates.run(x)
            if not made.feasible:
                return None
            best.offer(goal.bound(made.output), made.multipliers)
            value, cotangent = goal.smooth(made.output, mu)
            return value + mu * trial.barrier(made), coordinates.gradient(made, cotangent, mu)

        x = minimise(function, x, evaluations=math.ceil(share * count), tolerance=mu / 100)


class Goal:
    """What is minimised: `bound` itself and `smooth` functions that approach it as mu falls."""

    def __init__(self, objective: Objective, plan: Plan, weights: Tensor) -> None:
        self.objective, self.norm, self.weights = objective, plan.norm, weights
        self.classes = rows(plan, len(plan.steps) - 1)

    def smooth(self, M: Tensor, mu: float) -> tuple[float, Cotangent]:
        """Return the value and the derivative of the smooth function for one mu."""
        if self.objective == "norm":
            return (soft_norm if self.norm == "l2" else soft_diagonal)(M, self.weights, mu)
        if self.objective == "pairs":
            return pairs(M)
        return row(M, self._direction(M))

    def bound(self, M: Tensor) -> float:
        """Return the logarithm of the square of the bound."""
        if self.objective == "norm" and self.norm == "l2":
            return math.log(max(float(torch.linalg.eigvalsh(M).max()), 1e-300))
        if self.objective == "norm":
            return math.log(max(float(M[0].diagonal().max()), 1e-300))
        return self.smooth(M, 1.0)[0]

    def _direction(self, M: Tensor) -> Tensor:
        direction = M.new_zeros(self.classes)
        chosen = self.objective if isinstance(self.objective, tuple) else (self.objective,)
        for index, sign in zip(chosen, (1.0, -1.0), strict=False):
            direction[int(index)] += sign
        return direction


def evaluations(plan: Plan, effort: Effort) -> int:
    """Return how many forward and backward passes the effort allows for a plan."""
    if effort == "fast":
        return 0
    return int(min(MOST[effort], max(FEWEST[effort], WORK[effort] / work(plan))))


def work(plan: Plan) -> float:
    """Return roughly the floating-point operations of one pass: matrix products and inverses."""
    total = 1.0
    for position, step in enumerate(plan.steps):
        n, complex_cost = rows(plan, position), 4.0 if step.sides else 1.0
        total += 4.0 * complex_cost * plan.frequencies(position) * n**3
    return total
