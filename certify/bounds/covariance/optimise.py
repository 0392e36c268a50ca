r"""The search for good multipliers of a plan.

The functions minimised are smooth (`objectives`), in coordinates in which most points are feasible (`variables`); the
best point of all those seen is kept, judged by the bound itself, so that the search may stop at any time. How long it
searches is a number of evaluations, worked out from the size of the plan: the same plan gives the same multipliers on
a slow and on a fast machine.

For every choice of multipliers the bound is at least the optimum of the semidefinite program LipSDP-Neuron (Fazlyab et
al., NeurIPS 2019, arXiv 1906.04893) with multipliers shared as in the plan, and the best choice attains it: with
Lambda = 1 / (C^2 D) the recursion eliminates one layer after the other from its matrix inequality by Schur complements.
At that optimum the matrices D - M are singular as a rule. So the search follows the minima of

    f(x) = smooth objective(mu) + mu times the sum of all barriers,     mu -> 0,

which are smooth: descent on the objective alone gets far in a few steps, and then stops at a kink. Plans so large that
only a few evaluations can be paid for are searched on a coarser torus first (`coarse`), then on their own in single
precision and without barriers, whose derivatives have full rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from certify.bounds.covariance.coarse import coarsen, factors, transfer
from certify.bounds.covariance.cotangents import Cotangent
from certify.bounds.covariance.descent import Descent, Point
from certify.bounds.covariance.effort import LARGE, WORK, Effort, evaluations, work
from certify.bounds.covariance.objectives import Objective, pairs, row, soft_diagonal, soft_norm
from certify.bounds.covariance.registers import rows
from certify.bounds.covariance.starts import SHAPES, Shape, start
from certify.bounds.covariance.steps import Activate, Join, Multipliers, Plan, Start
from certify.bounds.covariance.trial import Pass, Trial
from certify.bounds.covariance.variables import Coordinates

COARSE = {"fast": 12, "default": 60, "max": 160}  # evaluations of the coarse plan of a large one
PLAIN, PLAIN_EVALUATIONS = 1e-2, 5  # mu of the objective while there are no barriers, and for how long
WALLS: Mapping[Effort, tuple[float, ...]] = MappingProxyType(  # mu of objective and barriers, one stage after another
    {"fast": (), "default": (1e-2, 1e-3, 2e-4), "max": (1e-2, 1e-3, 1e-4, 1e-5)}
)
WIDTH = 100  # rows of the widest activation up to which barriers have mu as their factor; beyond, less in proportion
POLISHING, POLISHING_EVALUATIONS = 1e-4, 30
FEW_SHAPES: tuple[Shape, ...] = (0.25, "product")
GUESSES = 4
REPAIRS = 40
APART = 1.3


@dataclass
class _Best:
    """The best multipliers seen, and their value."""

    value: float = math.inf
    multipliers: Multipliers | None = None

    def offer(self, value: float, multipliers: Multipliers) -> None:
        if value < self.value:
            self.value, self.multipliers = value, dict(multipliers)

    def take(self, goal: Goal, made: Pass) -> None:
        if made.feasible:
            self.offer(goal.bound(made.output), made.multipliers)


def optimise(
    plan: Plan,
    effort: Effort = "default",
    objective: Objective = "norm",
    *,
    warm: Multipliers | None = None,
    settled: bool = True,
) -> Multipliers:
    """Return the best feasible multipliers found.

    Args:
        plan: The plan.
        effort: "fast": the best closed form and a few steps from there; "default"; "max": longer.
        objective: What to minimise: "norm", "pairs" (all class pairs at once), one pair (i, j), or one row i.
        warm: Feasible multipliers to start from instead of closed forms, as those of another objective.
        settled: Whether those of a large plan, found in single precision, are made feasible in double (`settle`).

    Raises:
        ValueError: If no closed form is feasible in floating point: the plan holds numbers that are not finite.
    """
    if work(plan) <= LARGE:
        return _searched(plan, effort, objective, warm, large=False)
    found = _searched(plan, effort, objective, warm, large=True)
    return settle(plan, found) if settled else found


def _searched(
    plan: Plan, effort: Effort, objective: Objective, warm: Multipliers | None, *, large: bool
) -> Multipliers:
    trial = Trial(plan, torch.float32 if large else torch.float64)
    goal = Goal(objective, plan, trial.weights_of(plan.steps[-1].sides))
    best = _Best()
    if warm is not None:
        best.take(goal, trial.run(lambda position, _: trial.cast(warm[position]), repairs=REPAIRS, lean=True))
    elif large and (factor := _factor(plan, effort)) > 1:
        best.take(goal, _taken_over(coarsen(plan, factor), effort, objective, trial))
    if best.multipliers is None:
        best = _started(trial, goal, FEW_SHAPES if large else SHAPES)
    if any(trial.free) and (not large or effort != "fast"):
        stages = _stages(trial, "fast" if large else effort, evaluations(plan, effort), warm=warm is not None)
        origin = best.multipliers if warm is None or large else _apart(trial, best.multipliers or {})
        _search(trial, goal, best, stages, origin or {})
    return best.multipliers or {}


def _apart(trial: Trial, multipliers: Multipliers) -> Multipliers:
    """Return multipliers further from the barriers, at which a search has ended that another is to go on from."""

    def enlarged(position: int, _read: tuple[Tensor, ...]) -> Tensor:
        given = trial.cast(multipliers[position])
        return given if isinstance(trial.plan.steps[position], Start | Join) else APART * given

    made = trial.run(enlarged, repairs=REPAIRS, lean=True)
    return made.multipliers if made.feasible else multipliers


def _taken_over(coarse: Plan, effort: Effort, objective: Objective, fine: Trial) -> Pass:
    """Return the pass of the fine trial with multipliers searched on a coarse plan."""
    large = work(coarse) > LARGE
    trial = Trial(coarse, torch.float32 if large else torch.float64)
    goal = Goal(objective, coarse, trial.weights_of(coarse.steps[-1].sides))
    best = _started(trial, goal, FEW_SHAPES)
    if any(trial.free):
        count = max(COARSE[effort] // 2, min(COARSE[effort], evaluations(coarse, effort)))
        _search(trial, goal, best, _stages(trial, "fast" if large else "default", count), best.multipliers or {})
    return transfer(trial, best.multipliers or {}, fine)


def _factor(plan: Plan, effort: Effort) -> int:
    """Return the least factor for which the coarse plan can be searched thoroughly; the largest where none is."""
    found = 1
    for factor in factors(plan):
        found = factor
        if work(coarsen(plan, factor)) <= min(LARGE, WORK[effort] / COARSE[effort]):
            break
    return found


def polish(plan: Plan, multipliers: Multipliers, objectives: Iterable[Objective]) -> dict[Objective, Multipliers]:
    """Return multipliers for each of several objectives, each searched for a little from the same start.

    Args:
        plan: The plan.
        multipliers: Feasible ones, as a rule those of the objective "pairs".
        objectives: As a rule all pairs (i, j).
    """
    trial, found = Trial(plan), {}
    multipliers = settle(plan, multipliers)
    for objective in objectives:
        goal = Goal(objective, plan, trial.weights_of(plan.steps[-1].sides))
        best = _Best(math.inf, multipliers)
        _search(trial, goal, best, [_Stage(POLISHING, POLISHING, POLISHING_EVALUATIONS)], multipliers)
        found[objective] = best.multipliers or multipliers
    return found


def _started(trial: Trial, goal: Goal, shapes: Iterable[Shape]) -> _Best:
    best = _Best()
    for shape in shapes:
        best.take(goal, start(trial, shape))
    if best.multipliers is None:
        raise ValueError("expected a plan with a feasible closed form, got none; are all matrices finite?")
    return best


class _Stage(NamedTuple):
    """Part of a search: mu of the objective, of the barriers, and how many evaluations."""

    mu: float
    wall: float
    evaluations: int


def _stages(trial: Trial, effort: Effort, count: int, *, warm: bool = False) -> tuple[_Stage, ...]:
    """Return the stages of a search of ``count`` evaluations: without barriers, then with ever lower ones.

    A warm start stands near a barrier, which would stop the first stage: it is left out.
    """
    walls = WALLS[effort]
    first = min(0 if warm else PLAIN_EVALUATIONS, count) if walls else count
    share = min(1.0, WIDTH / max([1, *_widths(trial.plan)]))
    rest = (_Stage(mu, share * mu, math.ceil((count - first) / len(walls))) for mu in walls)
    return (_Stage(PLAIN, 0.0, first), *rest) if first else tuple(rest)


def _widths(plan: Plan) -> list[int]:
    return [int(step.unstable.sum()) for step in plan.steps if isinstance(step, Activate)]


def _search(trial: Trial, goal: Goal, best: _Best, stages: Iterable[_Stage], origin: Multipliers) -> None:
    coordinates = Coordinates(trial, origin)
    x, guesses = coordinates.zero(), GUESSES
    for mu, wall, count in stages:
        coordinates.sharpen(mu)

        def function(x: Tensor, mu: float = mu, wall: float = wall) -> Point | None:
            made = coordinates.run(x)
            if not made.feasible:
                return None
            best.offer(goal.bound(made.output), made.multipliers)
            value, cotangent = goal.smooth(made.output, mu)
            gradient, guess = coordinates.gradient(made, cotangent, wall)
            return Point(value + (wall * trial.barrier(made) if wall else 0.0), gradient, guess)

        x = Descent(function, x, guesses=guesses).run(count, tolerance=mu / 300)
        guesses = 0


def settle(plan: Plan, given: Multipliers) -> Multipliers:
    """Return multipliers in double precision, enlarged where they are not feasible in it: one more pass."""
    trial = Trial(plan)
    made = trial.run(lambda position, _: trial.cast(given[position]), repairs=REPAIRS, lean=True)
    return made.multipliers if made.feasible else start(trial, "product").multipliers


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
        """Return the logarithm of the square of the bound; infinite where M is not finite."""
        if not bool(M.isfinite().all()):
            return math.inf
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
