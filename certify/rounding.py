r"""Outward scalar arithmetic: every proved number is made of these steps.

Each function returns a float64 on the stated side of the exact real result. IEEE round-to-nearest puts the computed
value next to the exact one, so one step of `math.nextafter` in the stated direction restores the inequality,
subnormal results and overflow included: fl(a * b) = 0 for positive a, b moves up to the smallest subnormal.
``math.sqrt`` is correctly rounded by IEEE 754 as well.

Two exact cases are kept exact, since they are common and need no step: adding zero, multiplying by zero or one.
NaN passes through every function, so that the positive-proof rule (`if not lower > need: refuse`) refuses it.
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext

U64 = 2.0**-53
U32 = 2.0**-24
SMALLEST = 2.0**-1074
ENOUGH_DIGITS = 400  # any float64 has at most 309 digits before its point


def up(value: float) -> float:
    """Return the next float above ``value`` (infinity stays)."""
    return math.nextafter(value, math.inf)


def down(value: float) -> float:
    """Return the next float below ``value``; infinity becomes the largest float, so check what is finite *before*."""
    return math.nextafter(value, -math.inf)


def add_up(*terms: float) -> float:
    """Return at least the sum of the terms.

    Example:
        >>> add_up(0.1, 0.2) > 0.1 + 0.2 and add_up(1.5, 0.0) == 1.5
        True
    """
    total = 0.0
    for term in terms:
        total = term if total == 0.0 else total if term == 0.0 else up(total + term)
    return total


def sub_down(a: float, b: float) -> float:
    """Return at most ``a - b``."""
    return a if b == 0.0 else down(a - b)


def mul_up(*factors: float) -> float:
    """Return at least the product of non-negative factors (0 times infinity is NaN).

    Example:
        >>> mul_up(0.1, 3.0) >= 0.30000000000000004 and mul_up(1.0, 0.1) == 0.1
        True
    """
    if 0.0 in factors:
        return 0.0 if all(math.isfinite(factor) for factor in factors) else math.nan
    product = 1.0
    for factor in factors:
        if product == 1.0:
            product = factor
        elif factor != 1.0:
            product = up(product * factor)
    return product


def mul_down(a: float, b: float) -> float:
    """Return at most ``a * b`` for non-negative factors, never below 0."""
    if 0.0 in (a, b):
        return a * b
    return a * b if 1.0 in (a, b) else _at_least_zero(down(a * b))


def div_up(a: float, b: float) -> float:
    """Return at least ``a / b`` for a >= 0 and b > 0.

    Raises:
        ValueError: If ``b`` is not positive.
    """
    if not b > 0.0:
        raise ValueError(f"expected a positive divisor, got {b}")
    return a if b == 1.0 or a == 0.0 else up(a / b)


def div_down(a: float, b: float) -> float:
    """Return at most ``a / b`` for b > 0 (for positive ``a`` never below 0).

    Raises:
        ValueError: If ``b`` is not positive.
    """
    if not b > 0.0:
        raise ValueError(f"expected a positive divisor, got {b}")
    if b == 1.0 or a == 0.0:
        return a
    below = down(a / b)
    return _at_least_zero(below) if a > 0.0 else below


def sqrt_up(value: float) -> float:
    """Return at least the square root of a non-negative number."""
    return value if value in (0.0, 1.0) else up(math.sqrt(value))


def sqrt_down(value: float) -> float:
    """Return at most the square root of a non-negative number."""
    return value if value in (0.0, 1.0) else _at_least_zero(down(math.sqrt(value)))


def _at_least_zero(value: float) -> float:
    """Clamp at 0 without turning NaN into 0, as max(0.0, nan) would."""
    return 0.0 if value < 0.0 else value


def gamma_up(n: float, u: float = U64) -> float:
    r"""Return at least gamma_n = n u / (1 - n u), or infinity when n u >= 1.

    Reference: N. Higham, Accuracy and Stability of Numerical Algorithms, Lemma 3.1: |fl(x . y) - x . y| <=
    gamma_n |x| . |y| for an inner product of length n in any order of summation, fused or not.
    """
    nu = n * u  # exact: u is a power of two
    return math.inf if nu >= 1.0 else div_up(nu, down(1.0 - nu))


def floor_text(value: float, digits: int) -> str:
    """Return ``value`` with ``digits`` decimals, rounded down: the exact binary value, never to nearest.

    Example:
        >>> floor_text(0.24999, 3), floor_text(-0.0001, 3)
        ('0.249', '-0.001')
    """
    return _decimal_text(value, digits, ROUND_FLOOR)


def ceiling_text(value: float, digits: int) -> str:
    """Return ``value`` with ``digits`` decimals, rounded up.

    Example:
        >>> ceiling_text(0.24901, 3)
        '0.250'
    """
    return _decimal_text(value, digits, ROUND_CEILING)


def _decimal_text(value: float, digits: int, rounding: str) -> str:
    if not math.isfinite(value):
        return str(value)
    with localcontext(prec=ENOUGH_DIGITS):
        return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), rounding=rounding))
