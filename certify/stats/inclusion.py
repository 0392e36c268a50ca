r"""A certificate in one norm says something in every other: balls inside balls.

In d dimensions ||v||_p <= d^(1/p - 1/q) ||v||_q for p <= q, with equality at the all-ones vector (Hoelder), and
||v||_p <= ||v||_q for p >= q, with equality at a unit vector. So with

    c = sup ||v||_have / ||v||_asked = d^max(0, 1/have - 1/asked),

the ball of radius r in the asked norm lies in the ball of radius c r in the norm of the certificate, and in no smaller
one. A certificate of radius R in its own norm certifies R / c in the asked one: nothing is lost from l2 to l1, a factor
of sqrt d from l2 to linf, of d from l1 to linf. Such radii are always labelled *converted*: noise made for the asked
norm may certify far more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType

from certify.results import AnyNorm
from certify.rounding import div_down, mul_up, sqrt_up
from certify.stats.arguments import check_integer, check_within

RECIPROCALS: Mapping[AnyNorm, Fraction] = MappingProxyType(
    {"l1": Fraction(1), "l2": Fraction(1, 2), "linf": Fraction(0)}
)


def inclusion_factor(have: AnyNorm, asked: AnyNorm, dimension: int) -> float:
    """Return c = sup ||v||_have / ||v||_asked over vectors of ``dimension`` coordinates, rounded up.

    Example:
        >>> [inclusion_factor("l2", norm, 64) for norm in ("l1", "l2", "linf")], inclusion_factor("l1", "linf", 64)
        ([1.0, 1.0, 8.000000000000002], 64.0)
    """
    dimension = check_integer(dimension, "dimension", 1, 2**53)
    power = max(Fraction(0), RECIPROCALS[have] - RECIPROCALS[asked])
    return {Fraction(0): 1.0, Fraction(1, 2): sqrt_up(float(dimension)), Fraction(1): float(dimension)}[power]


def needed_radius(radius: float, have: AnyNorm, asked: AnyNorm, dimension: int) -> float:
    """Return the least radius in the norm of the certificates whose ball holds the asked ball, rounded up.

    Example:
        >>> needed_radius(0.25, "l1", "l2", 4) >= 0.5
        True
    """
    radius = check_within(radius, "radius", 0.0, math.inf, "ask for a distance in the input")
    return mul_up(radius, inclusion_factor(have, asked, dimension))


def converted_radius(radius: float, have: AnyNorm, asked: AnyNorm, dimension: int) -> float:
    """Return what a certified radius is worth in another norm, rounded down.

    Example:
        >>> 0.249999 < converted_radius(0.5, "l2", "linf", 4) <= 0.25, converted_radius(1.0, "l2", "l1", 4)
        (True, 1.0)
    """
    radius = check_within(radius, "radius", 0.0, math.inf, "give a certified radius")
    return div_down(radius, inclusion_factor(have, asked, dimension))
