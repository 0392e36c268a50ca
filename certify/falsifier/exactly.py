r"""Exact checks: no counterexample counts before it has passed here, and none counts within a rounding error.

*Distance.* Floats are rationals, and so is a pixel k/255. ||x' - x|| < R is decided in rational arithmetic, strictly.

*Domain.* An input outside the declared range is no counterexample; the range is compared without tolerance.

*Logits.* The exact network prefers another class only where the float64 pass says so by more than its error bound
(`certify.bounds.evaluated`).

A certificate in arithmetic ``float32`` or ``float64`` allows for the error of that program *besides* all that the exact
network may do, so an input where the exact network changes its class breaks the proof of any of them.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from certify.bounds.evaluated import Exact, squared_distance
from certify.bounds.steepest import Box
from certify.examples import Example
from certify.results import AnyNorm


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


def is_inside(point: Tensor, box: Box) -> bool:
    """Return whether every coordinate is a number of the box, its ends included."""
    low, high = (-math.inf, math.inf) if box is None else box
    return bool((torch.isfinite(point) & (point >= low) & (point <= high)).all())
