"""How many shifts deterministic splitting has at a sigma: of the settings, which are complete without statistics."""

from __future__ import annotations

import math
from fractions import Fraction

LEVELS = 255
BEYOND = 2.0**40  # of sigma: there are at most 2^52 shifts below, and nobody evaluates them


def nearest_shifts(sigma: float) -> int:
    """Return K, the integer nearest to 510 sigma sqrt 3, exactly; 0 for what is not positive, or absurdly large.

    With x = 510 sigma sqrt 3, floor(x + 1/2) = floor((floor(2 x) + 1) / 2), and floor(2 x) is the integer square root
    of the floor of 4 x^2, a rational number.

    Example:
        >>> nearest_shifts(0.25), nearest_shifts(0.5), nearest_shifts(float("nan"))
        (221, 442, 0)
    """
    if not 0.0 < sigma < BEYOND:
        return 0
    return (math.isqrt(math.floor(12 * (2 * LEVELS * Fraction(sigma)) ** 2)) + 1) // 2
