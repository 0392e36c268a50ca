"""Where multipliers are searched: on a device where that pays, else, and where that fails, on the CPU.

A search is floating point in any precision and any order, and never trusted: what it finds comes back to the CPU, where
the proof is made as ever. So a device cannot make a bound wrong. It can make another one: its sums round differently,
and the search goes another way. That is why a report says which kind of device searched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch

from certify.bounds.covariance.effort import work
from certify.bounds.covariance.objectives import Objective
from certify.bounds.covariance.optimise import optimise, polish
from certify.bounds.covariance.registers import move_plan
from certify.bounds.covariance.steps import Multipliers, Plan
from certify.results import Effort

Found = TypeVar("Found")
WORTHWHILE = 1e9  # floating-point operations of one pass; below, a device spends its time on starting operations


@dataclass(frozen=True)
class SearchPlace:
    """A device, and from how much work on (`effort.work`) a plan is searched there; smaller ones stay on the CPU."""

    device: str = "cpu"
    least_work: float = 0.0


ON_CPU = SearchPlace()


class Search:
    """The searches for one bound, all in one place until that fails: as a rule for want of memory.

    ``moved`` says whether anything was found on the device, ``note`` in words how it failed.
    """

    def __init__(self, place: SearchPlace) -> None:
        self.place, self.moved, self.note = place, False, ""

    @property
    def kind(self) -> str:
        """The kind of device that searched: "cpu", unless another one found something."""
        return torch.device(self.place.device).type if self.moved else "cpu"

    def optimise(
        self,
        plan: Plan,
        effort: Effort,
        objective: Objective,
        *,
        warm: Multipliers | None = None,
    ) -> Multipliers:
        """Return the best multipliers found, on the CPU, unsettled; see `certify.bounds.covariance.optimise`."""

        def searched(plan: Plan, warm: Multipliers) -> dict[str, Multipliers]:
            return {"": optimise(plan, effort, objective, warm=warm or None, settled=False)}

        return self._somewhere(searched, plan, warm or {})[""]

    def polish(
        self, plan: Plan, multipliers: Multipliers, objectives: Iterable[Objective]
    ) -> dict[Objective, Multipliers]:
        """Return multipliers for each of several objectives, on the CPU; see `certify.bounds.covariance.optimise`."""
        asked = tuple(objectives)
        return self._somewhere(lambda plan, given: polish(plan, given, asked), plan, multipliers)

    def _somewhere(
        self, search: Callable[[Plan, Multipliers], dict[Found, Multipliers]], plan: Plan, given: Multipliers
    ) -> dict[Found, Multipliers]:
        device = self.place.device
        if device != "cpu" and not self.note and work(plan) >= self.place.least_work:
            try:
                found = search(move_plan(plan, device), _placed(given, device))
            except RuntimeError as error:  # of the device: no memory, no kernel for it, no decomposition
                self.note = f"multipliers are searched on the CPU: {device} failed ({_first_line(error)})"
            else:
                self.moved = True
                return {name: _placed(multipliers, "cpu") for name, multipliers in found.items()}
        return search(plan, given)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _placed(multipliers: Multipliers, device: str) -> Multipliers:
    return {position: multiplier.to(device) for position, multiplier in multipliers.items()}
