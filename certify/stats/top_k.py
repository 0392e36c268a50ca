r"""Top-k certificates: the class stays among the k most likely ones.

The pilot names a class l. With a <= p_l at 0.9 alpha and upper bounds u_1 >= ... >= u_k of the k largest other counts
at 0.1 alpha / k each (sorted counts dominate those of the k truly likeliest classes, so k bounds are enough), let S_t
be the t smallest of u_1, ..., u_k and v_t = min(sum of S_t, 1 - a). If l left the k likeliest at x + d, at least k
other classes would each be at least as likely as l there. Of any k classes some t have bounds at x that sum to at most
v_t, and their union would be at least t times as likely as l. Both move by Phi^-1 at most ||d|| / sigma, so l stays for
||d||_2 < R_t, the root of

    Phi(Phi^-1(a) - R / sigma) = Phi(Phi^-1(v_t) + R / sigma) / t,

whose left side falls and right side rises; R = max over t of R_t. For t = 1 this is the two-interval radius with the
smallest bound, u_k.

Source: Jia, Cao, Wang and Gong (2020), Certified robustness for top-k predictions against adversarial perturbations via
randomized smoothing, arXiv 1912.09899, Theorem 1.

Rounding: the bisection keeps the end at which the left side, lowered by 1e-12, is above the right one, raised by 1e-12.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import scipy

from certify.stats.arguments import MAX_DRAWS, check_alpha, check_integer, check_sigma
from certify.stats.clopper_pearson import failure_upper, success_upper
from certify.stats.radius import BOUNDS, RadiusBound, split_alpha

STEPS = 80
ERROR = 1e-12


def radius_bound(bound: str, k: int) -> RadiusBound:
    """Return the bound of a run whose classes are to stay among the k likeliest: a row of `BOUNDS` for k = 1.

    For k > 1 the split of alpha is that of two intervals, and the noise Gaussian, whatever ``bound`` is.

    Example:
        >>> radius_bound("two-interval", 1) is BOUNDS["two-interval"]
        True
        >>> radius_bound("two-interval", 2)((700, 200, 90, 10), 1, 0.001, 1.0) > 0.0
        True
    """
    if k == 1:
        return BOUNDS[bound]
    return RadiusBound(lambda of, alpha, sigma, _: top_k_radius(of.counts, of.selected, k, alpha, sigma))


def top_k_radius(counts: Sequence[int], selected: int, k: int, alpha: float, sigma: float) -> float:
    """Return the radius within which the selected class stays among the k likeliest, not positive if none is certified.

    Args:
        counts: Votes per class, invalid outputs last.
        selected: The class that the pilot named.
        k: At least 1.
        alpha: Error probability of the certificate.
        sigma: Standard deviation of the noise.

    Raises:
        ValueError: If an argument is outside its range, of another kind, or NaN.

    Example:
        The runner-up of these counts is certified to stay among the first two, and not to be the first.

        >>> [top_k_radius((700, 200, 90, 10), 1, k, 0.001, 1.0) > 0.0 for k in (1, 2)]
        [False, True]
    """
    sigma, alpha = check_sigma(sigma), check_alpha(alpha)
    k = check_integer(k, "k", 1, max(1, len(counts) - 1))
    selected = check_integer(selected, "selected", 0, len(counts) - 1)
    votes = [check_integer(count, f"counts[{place}]", 0, MAX_DRAWS) for place, count in enumerate(counts)]
    n = check_integer(sum(votes), "sum of counts", 1, MAX_DRAWS)
    alpha_a, alpha_b = split_alpha(alpha)
    failure = failure_upper(votes[selected], n, alpha_a)
    others = sorted(votes[:selected] + votes[selected + 1 :], reverse=True)[:k]
    part = math.nextafter(alpha_b / k, 0.0)
    return top_k_radius_of_bounds(failure, [success_upper(count, n, part) for count in others], sigma)


def top_k_radius_of_bounds(failure: float, uppers: Sequence[float], sigma: float) -> float:
    """Return R = max_t R_t, rounded down, from 1 - a and the upper bounds u_1 >= ... >= u_k.

    Example:
        >>> [round(top_k_radius_of_bounds(0.6, uppers, 0.5), 4) for uppers in ([0.3, 0.2], [0.3, 0.2, 0.1])]
        [0.1471, 0.2571]
    """
    smallest, total, best = sorted(uppers), 0.0, -math.inf
    for t, upper in enumerate(smallest, start=1):
        total = math.nextafter(total + upper, math.inf)
        best = max(best, _root(failure, min(total, failure), t, sigma))
    return best


def _root(failure: float, other: float, t: int, sigma: float) -> float:
    """Return at most R_t; minus infinity where not even a radius of 0 holds."""
    z_a, z_b = -float(scipy.special.ndtri(failure)), float(scipy.special.ndtri(other))
    if not math.isfinite(z_a) or math.isnan(z_b):
        return -math.inf

    def holds(ratio: float) -> bool:
        left, right = scipy.special.ndtr(z_a - ratio), scipy.special.ndtr(z_b + ratio) / t
        return bool(left * (1.0 - ERROR) - ERROR > right * (1.0 + ERROR) + ERROR)

    low, high = 0.0, abs(z_a) + abs(z_b) + 40.0 if math.isfinite(z_b) else abs(z_a) + 40.0
    if not holds(low):
        return -math.inf
    for _ in range(STEPS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if holds(middle) else (low, middle)
    return math.nextafter(sigma * low * (1.0 - ERROR), -math.inf)
