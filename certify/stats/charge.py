r"""The part of alpha spent because integer noise is drawn with 63-bit probabilities.

The sampler draws each coordinate from a law whose cumulative probabilities are those of the rounded Gaussian, floored
to multiples of 2^-63 at ``levels`` thresholds. Each of the ``levels`` + 1 cells is off by at most 2^-63, so one
coordinate is within (levels + 1) 2^-64 of the exact law in total variation, and within levels 2^-63 together with the
mass beyond the outer thresholds: at 12 sigma it is below 1e-32, far less than 2^-64. Total variation adds over
independent coordinates and draws, and changes the probability of any event by that much at most; in particular of the
event "the certificate is false":

    P(false | as drawn) <= P(false | exact law) + n d levels 2^-63.

So bounds run at alpha' = alpha - n d levels 2^-63 and the whole holds at alpha. The generator is assumed ideal.
Pilot draws need no charge: a pilot may be anything.
"""

from __future__ import annotations

import math
from fractions import Fraction

from certify.rounding import sub_down, up
from certify.stats.arguments import MAX_DRAWS, check_alpha, check_integer, check_within


def noise_charge(n: int, dimension: int, levels: int) -> float:
    """Return n d levels 2^-63, rounded up: what ``n`` estimation draws of the integer noise cost.

    Args:
        n: The most estimation draws of one example.
        dimension: Coordinates d of one input.
        levels: Thresholds of the integer law; 24 * 255 * sigma for 8-bit pixels cut at 12 sigma.

    Raises:
        ValueError: If an argument is not a positive integer.

    Example:
        >>> noise_charge(2**20, 2**10, 2**11) == 2.0**-22 * (1 + 2.0**-52)
        True
    """
    draws = check_integer(n, "n", 1, MAX_DRAWS)
    coordinates = check_integer(dimension, "dimension", 1, 2**63)
    thresholds = check_integer(levels, "levels", 2, 2**63)
    return up(float(Fraction(draws * coordinates * thresholds, 2**63)))


def charged_alpha(alpha: float, charge: float) -> float:
    """Return alpha - charge, rounded down: the error probability that is left for the bounds.

    Raises:
        ValueError: If the charge takes more than half of ``alpha``, or an argument is outside its range or NaN.

    Example:
        >>> charged_alpha(0.001, 0.0), 0.000899 < charged_alpha(0.001, 1e-4) < 0.0009
        (0.001, True)
    """
    alpha = check_alpha(alpha)
    charge = check_within(charge, "charge", 0.0, math.inf, "compute it with noise_charge")
    left = sub_down(alpha, charge)
    if not left >= 0.5 * alpha:
        raise ValueError(
            f"charge: expected at most half of alpha={alpha}, got {charge}; lower the draws per example, or raise alpha"
        )
    return left
