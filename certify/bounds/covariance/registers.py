"""What the registers of a plan are: how many rows a step writes, whether it has a multiplier."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

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
    sources,
)


def is_free(step: Step, norm: str) -> bool:
    """Return whether a step has a multiplier."""
    if isinstance(step, Start):
        return norm == "linf"
    if isinstance(step, Activate):
        return bool(step.unstable.any())
    return isinstance(step, Mask | Pool | Join)


def products_in_strides(plan: Plan) -> frozenset[int]:
    """Return the products that one stride reads and nothing else: both may be taken together.

    Example:
        >>> matrix = torch.ones(1, 2, 1)
        >>> products_in_strides(Plan((Start((4,), 1), Linear(0, (4,), torch.arange(0), matrix), Fold(1, (2,), (2,)))))
        frozenset({1})
    """
    read = [source for step in plan.steps for source in sources(step)]
    strides = (step.source for step in plan.steps if isinstance(step, Fold))
    return frozenset(p for p in strides if isinstance(plan.steps[p], Linear) and read.count(p) == 1)


def move_plan(plan: Plan, device: torch.device | str) -> Plan:
    """Return the plan with all its tensors on a device."""

    def moved(step: Step) -> Step:
        changes: dict[str, Any] = {k: v.to(device) for k, v in vars(step).items() if isinstance(v, Tensor)}
        return dataclasses.replace(step, **changes)

    return dataclasses.replace(plan, steps=tuple(moved(step) for step in plan.steps))


def rows(plan: Plan, position: int) -> int:
    """Return the number of rows of a register.

    Example:
        >>> from certify.bounds.covariance.steps import Plan, Start
        >>> rows(Plan((Start((), 3),)), 0)
        3
    """
    step = plan.steps[position]
    if isinstance(step, Start | Bounded):
        return step.rows
    if isinstance(step, Linear):
        return len(step.keep) + step.matrix.shape[1]
    if isinstance(step, Flatten):
        return step.matrix.shape[1]
    return sum(rows(plan, source) for source in sources(step))
