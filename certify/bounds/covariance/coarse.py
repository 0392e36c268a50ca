r"""The same plan on a coarser set of frequencies: a cheap place to begin the search of a large plan.

Multipliers do not depend on the frequency, and the matrices of a plan are smooth functions of it: every f-th frequency
per axis, which is the spectrum of a torus with sides divided by f, says most of what all of them say at 1 / f^2 of the
cost. Nothing is claimed for the coarse plan. Its multipliers are taken over with their margin,

    lmax(D^{-1/2} M_UU D^{-1/2}),

kept: where the largest eigenvalue over all frequencies is larger than over the coarse ones, D is enlarged as much.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from certify.bounds.covariance.moves import full
from certify.bounds.covariance.spectrum import half_spectrum, largest_value, stored
from certify.bounds.covariance.steps import Activate, Flatten, Linear, Mask, Multipliers, Plan, Pool, Sides, Step
from certify.bounds.covariance.trial import Pass, Trial

REPAIRS = 40


def factors(plan: Plan) -> list[int]:
    """Return the numbers, above 1 and ascending, by which all sides of all tori of a plan can be divided.

    Example:
        >>> from certify.bounds.covariance.steps import Fold, Start
        >>> factors(Plan((Start((12, 12), 1), Fold(0, (6, 6), (2, 2)))))
        [2, 3, 6]
    """
    common = math.gcd(*(side for step in plan.steps for side in step.sides))
    return [factor for factor in range(2, common + 1) if common % factor == 0]


def coarsen(plan: Plan, factor: int) -> Plan:
    """Return the plan at every ``factor``-th frequency per axis."""
    return dataclasses.replace(plan, steps=tuple(_coarse(step, factor) for step in plan.steps))


def _coarse(step: Step, factor: int) -> Step:
    changes: dict[str, Any] = {}
    if step.sides:
        changes["sides"] = _divided(step.sides, factor)
    sides = step.sides
    if isinstance(step, Flatten):
        sides, changes["source_sides"] = step.source_sides, _divided(step.source_sides, factor)
    if isinstance(step, Linear | Flatten) and step.matrix.shape[0] > 1:
        index = stored(half_spectrum(_divided(sides, factor)) * factor, sides)[0]
        changes["matrix"] = step.matrix[index.to(step.matrix.device)]
    return dataclasses.replace(step, **changes)


def _divided(sides: Sides, factor: int) -> Sides:
    return tuple(side // factor for side in sides)


def transfer(coarse: Trial, multipliers: Multipliers, fine: Trial) -> Pass:
    """Return the pass of the fine trial with the multipliers of the coarse one, enlarged to keep their margins."""
    shares: dict[int, float] = {}

    def given(position: int, read: tuple[Tensor, ...]) -> Tensor:
        shares[position] = _share(coarse, position, read, multipliers[position])
        return multipliers[position]

    coarse.run(given, lean=True)

    def enlarged(position: int, read: tuple[Tensor, ...]) -> Tensor:
        multiplier = multipliers[position].to(fine.device, fine.dtype)
        share = _share(fine, position, read, multiplier)
        return multiplier * max(1.0, share / shares[position]) if shares[position] > 0 else multiplier

    return fine.run(enlarged, repairs=REPAIRS, lean=True)


def _share(trial: Trial, position: int, read: tuple[Tensor, ...], D: Tensor) -> float:
    """Return lmax(D^{-1/2} M_UU D^{-1/2}) over all frequencies, or 0 where the multiplier bounds no matrix."""
    step = trial.plan.steps[position]
    if not isinstance(step, Activate | Mask | Pool):
        return 0.0
    M = full(read[0])
    if not isinstance(step, Pool):
        rows = step.rows if isinstance(step, Mask) else step.unstable.nonzero().flatten()
        M = M[:, rows[:, None], rows]
    if D.ndim == 1:
        root = D.rsqrt()
        return largest_value(root[:, None] * M * root)
    root = torch.linalg.cholesky(D).to(M.dtype)
    half = torch.linalg.solve_triangular(root, M, upper=False)
    return largest_value(torch.linalg.solve_triangular(root, half.mH, upper=False))
