r"""Exact checks: no counterexample counts before it has passed here, and none counts within a rounding error.

*Distance.* Floats are rationals, and so is a pixel k/255. ||x' - x|| < R is decided in rational arithmetic, strictly.

*Domain.* An input outside the declared range is no counterexample; the range is compared without tolerance.

*Logits.* z' is the float64 output at x', off by at most e in l2 (`certify.bounds.errors`). The exact network prefers
class j to y at x' when z'_j - z'_y > sqrt 2 e: two entries of a vector of length e differ by at most sqrt 2 e. And two
outputs that are off by e and e' differ by at least ||z - z'|| - e - e'.

A certificate in arithmetic ``float32`` or ``float64`` allows for the error of that program *besides* all that the exact
network may do, so an input where the exact network changes its class breaks the proof of any of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from certify.bounds import Analysis
from certify.bounds.errors import Pass, measured_errors
from certify.bounds.steepest import Box
from certify.examples import Example
from certify.graph import run_all
from certify.results import AnyNorm, Norm, Unbounded
from certify.rounding import add_up, down, mul_up, sqrt_down, sqrt_up, sub_down, up

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


def exact_example(example: Example) -> Exact:
    """Return the coordinates of an example as rationals: a pixel of 8 bits is k/255, not the float beside it."""
    if example.eight_bit:
        return [Fraction(int(k), 255) for k in example.stored.ravel()]
    return [Fraction(float(number)) for number in np.asarray(example.stored, dtype=np.float64).ravel()]


def is_nearer(x: Exact, y: Exact, radius: float, norm: AnyNorm) -> bool:
    """Return whether ||x - y|| < radius, decided in rational arithmetic.

    Example:
        >>> half = [Fraction(1, 2)]
        >>> [is_nearer(half, [Fraction(0)], r, "l2") for r in (0.5, math.nextafter(0.5, 1.0), math.nan)]
        [False, True, False]
    """
    if not (radius > 0.0 and radius < math.inf):
        return False
    if norm == "linf":
        return max(abs(a - b) for a, b in zip(x, y, strict=True)) < Fraction(radius)
    if norm == "l1":
        return sum((abs(a - b) for a, b in zip(x, y, strict=True)), Fraction(0)) < Fraction(radius)
    return squared_distance(x, y) < Fraction(radius) ** 2


def squared_distance(x: Exact, y: Exact) -> Fraction:
    """Return the square of the l2 distance."""
    return sum(((a - b) ** 2 for a, b in zip(x, y, strict=True)), Fraction(0))


def distance_upper(x: Exact, y: Exact, norm: Norm) -> float:
    """Return at least ||x - y||, for people and for quotients."""
    if norm == "linf":
        return up(float(max(abs(a - b) for a, b in zip(x, y, strict=True))))
    return sqrt_up(up(float(squared_distance(x, y))))


def is_inside(point: Tensor, box: Box) -> bool:
    """Return whether every coordinate is a number of the box, its ends included."""
    low, high = (-math.inf, math.inf) if box is None else box
    return bool((torch.isfinite(point) & (point >= low) & (point <= high)).all())


def movement_lower(p: Evaluated, q: Evaluated, norm: Norm) -> float:
    """Return at most the norm of the difference of two exact outputs."""
    exact_p, exact_q = ([Fraction(number) for number in at.numbers] for at in (p, q))
    if norm == "linf":
        found = down(float(max(abs(a - b) for a, b in zip(exact_p, exact_q, strict=True))))
    else:
        found = sqrt_down(max(0.0, down(float(squared_distance(exact_p, exact_q)))))
    return sub_down(found, add_up(p.error, q.error))


def pair_movement_lower(p: Evaluated, q: Evaluated, first: int, second: int) -> float:
    """Return at most how much the exact difference of two logits changes between two inputs."""
    change = sum(
        sign * Fraction(at.numbers[k])
        for at, k, sign in ((p, first, 1), (p, second, -1), (q, first, -1), (q, second, 1))
    )
    return sub_down(down(float(abs(change))), mul_up(sqrt_up(2.0), add_up(p.error, q.error)))
