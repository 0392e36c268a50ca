r"""Values of the exact network, as far as a float64 pass with its error bound tells; what follows for differences.

*Logits.* z' is the float64 output at x', off by at most e in l2 (`certify.bounds.errors`). The exact network prefers
class j to y at x' when z'_j - z'_y > sqrt 2 e: two entries of a vector of length e differ by at most sqrt 2 e. And two
outputs that are off by e and e' differ by at least ||z - z'|| - e - e'.

*Distances.* Floats are rationals, and the distance of two float64 inputs is found in rational arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import torch
from torch import Tensor

from certify.bounds.analysis import Analysis
from certify.bounds.errors import Pass, measured_errors
from certify.graph import run_all
from certify.results import Norm, Unbounded
from certify.rounding import add_up, div_down, down, mul_up, sqrt_down, sqrt_up, sub_down, up

Exact = list[Fraction]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A value of the exact network at one float64 input, as far as a float64 pass with its error bound can tell.

    ``numbers`` are its entries as computed, off by at most ``error`` in l2 together.
    """

    point: Tensor
    numbers: tuple[float, ...]
    error: float

    @cached_property
    def exact(self) -> Exact:
        """The coordinates of the input."""
        return exact_point(self.point)

    def prefers(self, other: int, label: int) -> bool:
        """Return whether the exact network is proved to give class ``other`` a larger logit than ``label``."""
        need = mul_up(sqrt_up(2.0), self.error)
        return bool(sub_down(self.numbers[other], self.numbers[label]) > need)


def evaluate(analysis: Analysis, value: str, point: Tensor) -> Evaluated | None:
    """Return a value of the network at one input ``[*input_shape]``, or None where nothing is proved of it."""
    x = point.detach().double().unsqueeze(0)
    if not bool(torch.isfinite(x).all()):
        return None
    with torch.no_grad():
        run = Pass(analysis.facts.into("l2"), analysis.rules, run_all(analysis.facts.graph, x))
    error = measured_errors(run, rounded_input=False)[value]
    found = run.tensor(value).flatten()
    if isinstance(error, Unbounded) or not 0.0 <= error < math.inf or not bool(torch.isfinite(found).all()):
        return None
    return Evaluated(x[0], tuple(found.tolist()), error)


def exact_point(values: Tensor) -> Exact:
    """Return the coordinates of a float64 input as rationals."""
    return [Fraction(number) for number in values.flatten().tolist()]


def squared_distance(x: Exact, y: Exact) -> Fraction:
    """Return the square of the l2 distance."""
    return sum(((a - b) ** 2 for a, b in zip(x, y, strict=True)), Fraction(0))


def _nearest(number: Fraction) -> float:
    """Return the nearest float to a non-negative number; infinity beyond the largest, and `down` of it is below."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


def distance_upper(x: Exact, y: Exact, norm: Norm) -> float:
    """Return at least ||x - y||, for people and for quotients."""
    if norm == "linf":
        return up(_nearest(max(abs(a - b) for a, b in zip(x, y, strict=True))))
    return sqrt_up(up(_nearest(squared_distance(x, y))))


def movement_lower(p: Evaluated, q: Evaluated, norm: Norm) -> float:
    """Return at most the norm of the difference of two exact outputs."""
    exact_p, exact_q = ([Fraction(number) for number in at.numbers] for at in (p, q))
    if norm == "linf":
        found = down(_nearest(max(abs(a - b) for a, b in zip(exact_p, exact_q, strict=True))))
    else:
        found = sqrt_down(max(0.0, down(_nearest(squared_distance(exact_p, exact_q)))))
    return sub_down(found, add_up(p.error, q.error))


def pair_movement_lower(p: Evaluated, q: Evaluated, first: int, second: int) -> float:
    """Return at most how much the exact difference of two logits changes between two inputs."""
    change = sum(
        (
            sign * Fraction(at.numbers[k])
            for at, k, sign in ((p, first, 1), (p, second, -1), (q, first, -1), (q, second, 1))
        ),
        Fraction(0),
    )
    return sub_down(down(_nearest(abs(change))), mul_up(sqrt_up(2.0), add_up(p.error, q.error)))


def quotient_lower(p: Evaluated, q: Evaluated, norm: Norm) -> float:
    """Return at most ||f(p) - f(q)|| / ||p - q|| of the exact network f; 0 for equal inputs, and never less."""
    apart = distance_upper(p.exact, q.exact, norm)
    moved = movement_lower(p, q, norm)
    return div_down(moved, apart) if apart > 0.0 and moved > 0.0 else 0.0
