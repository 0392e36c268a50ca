r"""Tests and radii that hold at every number of draws at once, whatever made the run stop.

With W(S, n) the truncated-Beta likelihood ratio of `sequential` for the null p <= p0 = Phi(r / sigma): for every such p
it is a non-negative supermartingale that starts at 1, so by Ville's inequality it ever reaches 1/alpha with probability
at most alpha. "Certify r as soon as W >= 1/alpha" is valid for any looks and any stopping rule, and needs no cap.

*A radius.* Fix radii r_1 < r_2 < ... before the draws. r_j is rejected once W for p0 = Phi(r_j / sigma) has reached
1/alpha at some look; the report is the largest r_j such that r_1, ..., r_j are all rejected. If the report exceeds the
true radius, the least grid point at or above the truth was rejected although its null is true: probability at most
alpha, for all stopping times at once and without a correction over the grid. []

A verdict of the group-sequential test and one of these on the same draws share one alpha only if it is split.

Rounding: log W is lowered by 1e-9 of the size of its largest term, far more than the error of the library functions it
is made of, and p0 is rounded up.

Source: J. Ville, Etude critique de la notion de collectif (1939); H. Robbins, Annals of Mathematical Statistics 41
(1970).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy

from certify.stats.arguments import check_alpha, check_count, check_sigma
from certify.stats.sequential import LARGEST_RATIO, log_ratio, null_probability

LIBRARY_ERROR = 1e-9


def is_certified_anytime(k: int, n: int, ratio: float, alpha: float) -> bool:
    """Return whether k votes of n draws certify a radius of ratio * sigma, at any n and any stop.

    Args:
        k: Votes for the class that the pilot selected.
        n: Draws so far.
        ratio: r / sigma.
        alpha: Error probability over all n together.

    Raises:
        ValueError: If an argument is outside its range, of another kind, or NaN.

    Example:
        All votes for the class, p0 = Phi(0) = 1/2: the first n that certifies is 12 (10 for a single fixed n).

        >>> [n for n in range(1, 20) if is_certified_anytime(n, n, 2.0**-30, 0.001)][0]
        12
    """
    k, n = check_count(k, n)
    alpha = check_alpha(alpha)
    p0, q0 = null_probability(ratio)
    if not k >= p0 * n:
        return False
    found = float(log_ratio(np.array([float(k)]), np.array([float(n)]), p0, q0)[0])
    size = (
        abs(k * math.log1p(-q0)) + abs((n - k) * math.log(q0)) + abs(float(scipy.special.betaln(k + 0.5, n - k + 0.5)))
    )
    return found - LIBRARY_ERROR * (1.0 + size) >= math.log(1.0 / alpha)


def anytime_radius(looks: Sequence[tuple[int, int]], radii: Sequence[float], sigma: float, alpha: float) -> float:
    """Return the largest radius of a grid that the votes seen so far certify, 0 when none does.

    Args:
        looks: (votes, draws) at each look so far.
        radii: The grid, rising, fixed before the draws.
        sigma: Standard deviation of the noise.
        alpha: Error probability, over all stopping times together.

    Raises:
        ValueError: If the grid does not rise from above 0, or another argument is outside its range.

    Example:
        >>> anytime_radius([(128, 128), (256, 256)], [0.1, 0.2, 0.4, 0.8], 0.25, 0.001)
        0.4
    """
    sigma = check_sigma(sigma)
    if not all(low < high for low, high in zip((0.0, *radii), radii, strict=False)):
        raise ValueError(f"radii: expected a rising grid above 0, got {list(radii)!r:.100}; fix it before the draws")
    best = 0.0
    for radius in radii:
        ratio = math.nextafter(radius / sigma, math.inf)
        if not ratio <= LARGEST_RATIO or not any(is_certified_anytime(k, n, ratio, alpha) for k, n in looks):
            break
        best = radius
    return best
