r"""The slope floor: what no bound from slope ranges alone can go below.

Every method that knows of an activation only that each entry has secant slopes in [a, b], whatever the others do (the
product of norms, LipSDP with diagonal multipliers, the covariance recursion), bounds ||J(T)|| for *all* diagonal T
with entries in [a, b] (`linear_part`). So

    floor = max over T of ||J(T)||  <=  every such bound,

and what lies between the Lipschitz constant and the floor is out of their reach: only slope ranges of a neighbourhood
can say more. Any T gives a value at or below the maximum. Here T is climbed: u.J(T)v is affine in every entry of one
layer's T, and the best end of each range is told by the sign of its coefficient, the product of the forward value
and the gradient behind it; one layer at a time, u and v following by the power method. It stops at a local maximum, so
it is restarted. Floating point without an error bound: an *estimate*. The climb runs in float32, a quarter of the time
on convolutions; the norms that count are those of float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from certify.bounds.linear_part import LinearPart, linear_part
from certify.bounds.steepest import input_direction, output_dual, unit_directions, vector_size
from certify.bounds.work import multiplications, rows_at_once
from certify.graph import Graph, value_shapes
from certify.results import Norm, Unbounded

BUDGET = 2e10  # multiplications of one climb: a second or two on one core
RESTARTS, SWEEPS, LAST_STEPS, EXACT_STEPS = 32, 20, 20, 2
SHAVED = 1.0 - 2.0**-40  # more than the rounding of a float64 pass


@dataclass(frozen=True, eq=False)
class _Pass:
    """J(T)^T u for every restart, the coefficient of every entry of T in u.J(T)v, and the values that were used."""

    gradient: Tensor
    coefficients: dict[str, Tensor]
    inputs: dict[str, Tensor]


@dataclass(eq=False)
class _Climb:
    """Where a climb stands: v, the choices T per operation, and in linf the row that each restart is for."""

    part: LinearPart
    norm: Norm
    rows: Tensor
    v: Tensor
    choices: dict[str, Tensor]

    def run(self) -> _Pass:
        v = self.v.clone().requires_grad_()
        slopes = {name: self.choices[name].clone().requires_grad_() for name in self.part.ends}
        values = self.part.values(v, {**self.choices, **slopes})
        output = values[self.part.graph.output].flatten(1)
        one_row = torch.zeros_like(output).scatter_(1, self.rows, 1.0)
        u = output_dual(output.detach(), "l2") if self.norm == "l2" else one_row
        wanted = [v, *slopes.values(), *(values[name] for name in self.part.selections)]
        found = torch.autograd.grad((u * output).sum(), wanted, allow_unused=True, materialize_grads=True)
        coefficients = dict(zip((*slopes, *self.part.selections), found[1:], strict=True))
        inputs = {name: values[self.part.graph.by_name[name].inputs[0]].detach() for name in self.part.selections}
        return _Pass(found[0], coefficients, inputs)

    def rounded(self) -> _Climb:
        """Return the same place on the same network in float32."""
        ends = {name: (low.float(), high.float()) for name, (low, high) in self.part.ends.items()}
        choices = {name: choice.float() if name in ends else choice for name, choice in self.choices.items()}
        part = replace(self.part, graph=self.part.graph.to(torch.float32), ends=ends)
        return _Climb(part, self.norm, self.rows, self.v.float(), choices)

    def moved(self, place: _Climb) -> _Climb:
        """Return the place of a rounded climb on this network, in float64, slopes between their ends."""
        slopes = {name: place.choices[name].double().clamp(*ends) for name, ends in self.part.ends.items()}
        return replace(self, v=place.v.double(), choices={**place.choices, **slopes})

    def turn(self, found: _Pass) -> None:
        """One step of the power method."""
        self.v = input_direction(found.gradient, self.v, self.norm)

    def improve(self, name: str, found: _Pass) -> bool:
        """Set every entry of one operation to the end that its coefficient asks for; return whether any changed."""
        before = self.choices[name]
        self.choices[name] = self._best(name, found)
        return not torch.equal(before, self.choices[name])

    def _best(self, name: str, found: _Pass) -> Tensor:
        coefficient = found.coefficients[name]
        if name in self.part.selections:
            return self.part.best_selection(name, found.inputs[name], coefficient)
        low, high = self.part.ends[name]
        return torch.where(coefficient > 0.0, high, torch.where(coefficient < 0.0, low, self.choices[name]))


def slope_floor(graph: Graph, *, norm: Norm = "l2", seed: int = 0) -> float | Unbounded:
    """Return the largest ||J(T)|| found, an estimate; `Unbounded`, with the operation, when the network has no J(T).

    Args:
        graph: The network.
        norm: The norm.
        seed: Of the restarts. The value is a function of the arguments.

    Example:
        The two units never work together, so the Lipschitz constant is 1; slopes alone allow both.

        >>> from certify.graph import Operation
        >>> weights = {"V": torch.tensor([[1.0], [-1.0]]), "W": torch.tensor([[1.0, -1.0]])}
        >>> ops = (Operation(name="x", kind="input"),
        ...        Operation(name="h", kind="linear", inputs=("x",), weights={"weight": "V"}),
        ...        Operation(name="a", kind="relu", inputs=("h",)),
        ...        Operation(name="y", kind="linear", inputs=("a",), weights={"weight": "W"}))
        >>> round(slope_floor(Graph(ops, "y", (1,), weights)), 9)
        2.0
    """
    part = linear_part(graph)
    if isinstance(part, Unbounded):
        return part
    passes = BUDGET / (3 * multiplications(graph))
    start = _start(part, norm, seed, restarts=int(max(2, min(RESTARTS, rows_at_once(graph), passes / LAST_STEPS / 2))))
    climb = start.rounded()
    _ascend(climb, passes / len(climb.v) - LAST_STEPS)
    for _ in range(LAST_STEPS - EXACT_STEPS):
        climb.turn(climb.run())
    exact = start.moved(climb)
    _sweep(exact, _order(exact))
    return max(_turned(exact) for _ in range(EXACT_STEPS)) * SHAVED


def _start(part: LinearPart, norm: Norm, seed: int, restarts: int) -> _Climb:
    """Return restarts from all slopes at their upper ends, from all in the middle, and from random ends."""
    generator = torch.Generator().manual_seed(seed)
    shapes = value_shapes(part.graph)
    classes = math.prod(shapes[part.graph.output])
    v = unit_directions(torch.empty(restarts, *part.graph.input_shape, dtype=torch.float64), seed)
    choices = {name: _random_ends(*ends, restarts, generator) for name, ends in part.ends.items()}
    for name in part.selections:
        shape = (restarts, *shapes[part.graph.by_name[name].inputs[0]][1:])
        anything = torch.randn(shape, generator=generator, dtype=torch.float64)
        choices[name] = part.best_selection(name, anything, torch.ones(()))
    output = part.values(v, choices)[part.graph.output].flatten(1)
    rows = output.abs().amax(0).argsort(stable=True, dim=0, descending=True)  # the liveliest first
    return _Climb(part, norm, rows[torch.arange(restarts) % classes].unsqueeze(1), v, choices)


def _random_ends(low: Tensor, high: Tensor, restarts: int, generator: torch.Generator) -> Tensor:
    heads = torch.rand(restarts, *low.shape, generator=generator, dtype=torch.float64) < 0.5
    chosen = torch.where(heads, low, high)
    chosen[0], chosen[1] = high, (low + high) / 2.0
    return chosen


def _ascend(climb: _Climb, passes: float) -> None:
    """Sweep over the layers, to and fro, until a sweep changes no choice or the passes are used up."""
    order = _order(climb)
    sweeps = int(min(SWEEPS, max(1, passes / (2 * max(1, len(order))))))
    for sweep in range(sweeps):
        if not _sweep(climb, order[::-1] if sweep % 2 else order):
            return


def _order(climb: _Climb) -> list[str]:
    return [operation.name for operation in climb.part.graph if operation.name in climb.choices]


def _sweep(climb: _Climb, order: Sequence[str]) -> bool:
    """Improve one layer after the other, v following; return whether any choice changed."""
    changed = False
    for name in order:
        climb.turn(climb.run())
        changed |= climb.improve(name, climb.run())
    return changed


def _turned(climb: _Climb) -> float:
    """Return the largest ||J(T)^T u||, after one step of the power method."""
    found = climb.run()
    climb.turn(found)
    return float(torch.nan_to_num(vector_size(found.gradient, climb.norm), nan=0.0, posinf=0.0).max())
