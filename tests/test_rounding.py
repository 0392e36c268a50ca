"""Outward arithmetic against exact rationals: the stated side, always, subnormals and the largest floats included."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certify.rounding import (
    U32,
    U64,
    add_up,
    ceiling_text,
    div_down,
    div_up,
    down,
    floor_text,
    gamma_up,
    mul_down,
    mul_up,
    sqrt_down,
    sqrt_up,
    sub_down,
    up,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=0.0, allow_nan=False, allow_infinity=False)
divisor = st.floats(min_value=0.0, exclude_min=True, allow_nan=False, allow_infinity=False)


def exact(value: float) -> Fraction | float:
    return Fraction(value) if math.isfinite(value) else value


@given(positive, positive, positive)
def test_sums_and_products_are_at_least_exact(a, b, c):
    assert exact(add_up(a, b, c)) >= Fraction(a) + Fraction(b) + Fraction(c)
    assert exact(mul_up(a, b, c)) >= Fraction(a) * Fraction(b) * Fraction(c)
    assert exact(mul_down(a, b)) <= Fraction(a) * Fraction(b)


@given(finite, finite)
def test_differences_are_at_most_exact(a, b):
    assert exact(sub_down(a, b)) <= Fraction(a) - Fraction(b)


@given(positive, divisor)
def test_quotients_enclose(a, b):
    assert exact(div_down(a, b)) <= Fraction(a) / Fraction(b) <= exact(div_up(a, b))


@given(positive)
def test_roots_enclose(a):
    assert Fraction(sqrt_down(a)) ** 2 <= Fraction(a) <= Fraction(sqrt_up(a)) ** 2


@given(st.integers(1, 10**9), st.sampled_from([U32, U64]))
def test_gamma_is_at_least_exact(n, u):
    nu = n * Fraction(u)
    assert nu >= 1 or Fraction(gamma_up(n, u)) >= nu / (1 - nu)
    assert nu < 1 or gamma_up(n, u) == math.inf


@given(finite, st.integers(0, 12))
def test_printed_digits_never_pass_the_number(value, digits):
    assert Decimal(floor_text(value, digits)) <= Decimal(value) <= Decimal(ceiling_text(value, digits))


def test_one_step_is_one_step():
    assert up(1.0) == 1.0 + 2**-52
    assert down(1.0) == 1.0 - 2**-53
    assert up(math.inf) == math.inf


@pytest.mark.parametrize("function", [add_up, mul_up, mul_down, sub_down, div_down])
def test_nan_passes_through(function):
    assert math.isnan(function(math.nan, 2.0))


@pytest.mark.parametrize("function", [div_up, div_down])
@pytest.mark.parametrize("b", [0.0, -1.0, math.nan])
def test_a_divisor_that_is_not_positive_is_refused(function, b):
    with pytest.raises(ValueError, match="positive"):
        function(1.0, b)
