"""Balls inside balls: every vector of a small grid, and the extreme ones, against the factors."""

import math
from fractions import Fraction
from itertools import product

import pytest

from certify.stats import converted_radius, inclusion_factor, needed_radius

NORMS = ("l1", "l2", "linf")


def power_of_norm(vector, norm):
    """The norm, or for l2 its square, exactly."""
    if norm == "linf":
        return Fraction(max(map(abs, vector)))
    return Fraction(sum(abs(v) ** (1 if norm == "l1" else 2) for v in vector))


def square(vector, norm):
    found = power_of_norm(vector, norm)
    return found if norm == "l2" else found**2


@pytest.mark.parametrize("have,asked", list(product(NORMS, NORMS)))
def test_no_vector_is_longer_and_one_is_nearly_as_long(have, asked):
    for dimension in (1, 2, 3, 4):
        factor = Fraction(inclusion_factor(have, asked, dimension))
        shares = [
            square(v, have) / (square(v, asked) * factor**2) for v in product(range(-2, 3), repeat=dimension) if any(v)
        ]
        assert max(shares) <= 1
        assert max(shares) >= 1 - Fraction(1, 10**14)


@pytest.mark.parametrize("dimension", [2, 3, 784, 3072])
def test_conversions_round_to_their_safe_sides(dimension):
    for have, asked in product(NORMS, NORMS):
        squared = {0: 1, 1: dimension, 2: dimension**2}[
            max(0, {"l1": 2, "l2": 1, "linf": 0}[have] - {"l1": 2, "l2": 1, "linf": 0}[asked])
        ]
        for radius in (0.0, 1e-9, 0.1, 0.25, 1 / 3, 7.0):
            assert Fraction(needed_radius(radius, have, asked, dimension)) ** 2 >= Fraction(radius) ** 2 * squared
            assert Fraction(converted_radius(radius, have, asked, dimension)) ** 2 * squared <= Fraction(radius) ** 2


@pytest.mark.parametrize("radius", [-1.0, math.nan, "1", None])
def test_what_is_no_distance_is_refused(radius):
    for of in (needed_radius, converted_radius):
        with pytest.raises(ValueError, match="radius"):
            of(radius, "l2", "linf", 3)
