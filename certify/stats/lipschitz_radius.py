r"""Certified l2 radii of Gaussian smoothing for scores that are Lipschitz: sharper than those for any function.

f: R^d -> [0, 1] is L-Lipschitz in l2, h(x) = E f(x + e) with e ~ N(0, sigma^2 I), G(s) = s Phi(s / sigma) +
sigma phi(s / sigma), which is E max(s + sigma Z, 0) for a standard normal Z. Put

    q(w) = L (G(w) - G(w - 1/L)) = E clip(L (w + sigma Z), 0, 1),     S(p) = 1/(2 L) - w,  where q(w) = 1 - p.

**Theorem.** S o h is 1-Lipschitz. S increases, and S(1 - p) = -S(p).

*Proof.* Fix x, a unit vector u, and p = h(x). Among all L-Lipschitz f with values in [0, 1] and E f(x + e) = p, the
slope of h along u is the largest for the ramp f* = clip(1/2 + L (<u, . - x> + S(p)), 0, 1), for which E f*(x + e) = p.
Indeed that slope is E f(x + e) <u, e> / sigma^2, which depends on f only through its mean given t = <u, e>, again
L-Lipschitz in t; f* - f as a function of t changes its sign once, from - to +: where f* is neither 0 nor 1 it rises
with the largest slope there is, below it is 0 <= f, above it is 1 >= f. Say the change is at c; then E (f* - f)(t - c)
>= 0, and E (f* - f) = 0 gives E (f* - f) t >= 0. Along the ramp's own shift its mean runs through p(r) = 1 - q(1/(2L)
- S(p) - r), which by the definition of S is the curve S(p(r)) = S(p) + r. So the slope of h at a point of value p is
at most that of this curve at p, which is 1 / S'(p), and S o h has slope at most 1. Symmetry: clip(., 0, 1) and 1 -
clip exchange under reflection. []

S is never flatter than Phi^-1 times sigma, and equals it as L grows: this radius is the larger one, and worth its while
up to about L sigma = 1.

**Two scores.** h_A(x) >= a and h_B(x) <= b give h_A > h_B at every x' with ||x' - x|| < (S(a) - S(b)) / 2, since
S(h_A(x')) >= S(a) - r and S(h_B(x')) <= S(b) + r. **Their difference.** (1 + f_A - f_B) / 2 has values in [0, 1] and
the Lipschitz constant D/2 when f_A - f_B has D; it stays above 1/2 for ||x' - x|| < S_{D/2}((1 + a - b) / 2). **The
plain slope.** A function with values in an interval of length r and Lipschitz constant L has a smoothed one with
constant L erf(r / (2^{3/2} L sigma)) (its slope is L times the mass where the ramp is not clipped, at most that of the
middle); for f_A - f_B, r = 2, so h_A > h_B for ||x' - x|| < (a - b) / (D erf(1 / (sqrt 2 D sigma))). The difference
form is never below it, because S' is least at 1/2, where it is 1 / Lip.

*Slack.* Let each mean at x and at x' be known only up to ``slack`` (of one score; ``slack`` of the difference for the
second): rounding of the program and of the noise. Then a - slack and b + slack bound the means of the exact functions
at x, and h_A must exceed h_B by 2 slack at x' for the program's own means to be in order. With h_A(x') >= P(S(a -
slack) - r) and h_B(x') <= P(S(b + slack) + r), P the inverse of S, the radius is the largest r at which the first is
above the second by more than 2 slack. For the difference D: S((1 + a - b - slack) / 2) - S((1 + slack) / 2).

*Floating point.* q is computed within `ERROR` of itself (tested against 50 digits for L sigma within 1e-3..20); a root
is taken from the side on which this proves the inequality, and 1e-9 sigma is taken off every radius for the scalar
steps. Beyond L sigma = 20 nothing is gained and minus infinity returned; below 1e-3 the larger constant 1e-3 / sigma
is used.

Source: the ramp as extremal function is the Neyman-Pearson argument of Cohen, Rosenfeld and Kolter (arXiv 1902.02918)
for Lipschitz functions; a local constant in place of S is used by arXiv 2309.16883 (LVM-RS).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import scipy

from certify.rounding import add_up, div_up, down, mul_up, sub_down, up
from certify.stats.arguments import check_sigma, check_within

ERROR = 1e-10  # relative, of q
LARGEST, SMALLEST = 20.0, 1e-3  # of L sigma: nothing is gained above, nothing is lost below
FARTHEST = 37.0  # standard deviations: beyond, the normal density underflows
MARGIN = 1e-9  # of sigma, off every radius
HALVINGS = 60


def smoothed_lipschitz_upper(lipschitz: float, sigma: float, width: float) -> float:
    """Return at least the Lipschitz constant that smoothing leaves of a function with values in a range of ``width``.

    Raises:
        ValueError: If an argument is negative or not finite, or sigma not positive.

    Example:
        L = 1/2, sigma = 1, width 1: erf(1 / sqrt 2) / 2.

        >>> 0.3413447460685 <= smoothed_lipschitz_upper(0.5, 1.0, 1.0) < 0.341344746069
        True
    """
    sigma = check_sigma(sigma)
    constant = check_within(lipschitz, "lipschitz", 2.0**-500, 2.0**500, "give a proved constant")
    width = check_within(width, "width", 2.0**-500, 2.0**500, "give the length of the range")
    share = math.erf(width / (2.0**1.5 * constant * sigma)) * (1 + 1e-14)  # of the argument and of erf
    return mul_up(constant, min(share, 1.0))


def slope_radius(sigma: float, failure_upper_a: float, upper_b: float, difference: float, slack: float) -> float:
    """Return the radius of the plain slope, rounded down; not positive when nothing is certified.

    Args:
        sigma: Standard deviation of the noise.
        failure_upper_a: At least 1 - a.
        upper_b: At least b.
        difference: Lipschitz constant of f_A - f_B.
        slack: Of the difference.
    """
    gap = sub_down(sub_down(1.0, add_up(failure_upper_a, upper_b)), mul_up(2.0, slack))
    radius = gap / smoothed_lipschitz_upper(_within_reason(difference, sigma), sigma, 2.0)
    return down(radius - MARGIN * check_sigma(sigma))


def reach_lower(failure: float, lipschitz: float, sigma: float) -> float:
    """Return at most S(1 - failure) for an L-Lipschitz score; minus infinity where nothing is proved.

    Args:
        failure: At least 1 - p, a mean's distance from 1.
        lipschitz: L.
        sigma: Standard deviation of the noise.

    Raises:
        ValueError: If an argument is negative or NaN, or sigma not positive.

    Example:
        >>> 0.3715 < reach_lower(0.1, 2.0, 0.25) < 0.37155 + 1e-5
        True
    """
    sigma = check_sigma(sigma)
    failure = check_within(failure, "failure", 0.0, math.inf, "give an upper bound of 1 - p")
    constant = _within_reason(lipschitz, sigma)
    if not (constant * sigma <= LARGEST and failure < 1.0):
        return -math.inf
    low, high = -FARTHEST * sigma, up(1.0 / constant) + FARTHEST * sigma
    if not _mean(high, constant, sigma) * (1 - ERROR) >= failure:
        return -math.inf
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        if _mean(middle, constant, sigma) * (1 - ERROR) >= failure:
            high = middle
        else:
            low = middle
    return sub_down(sub_down(0.5 / constant, high), MARGIN * sigma)


def class_radius(sigma: float, failure_upper_a: float, upper_b: float, lipschitz: float, slack: float) -> float:
    """Return the radius of two L-Lipschitz scores, rounded down; minus infinity when nothing is certified.

    Args:
        sigma: Standard deviation of the noise.
        failure_upper_a: At least 1 - a.
        upper_b: At least b.
        lipschitz: L, of each score.
        slack: Of one mean.

    Example:
        >>> 0.16741 < class_radius(0.25, 1 - 0.45, 0.1, 2.0, 0.0) < 0.167425
        True
    """
    constant = _within_reason(lipschitz, sigma)
    above = reach_lower(add_up(failure_upper_a, slack), constant, sigma)
    below = reach_lower(add_up(upper_b, slack), constant, sigma)
    if not math.isfinite(above + below):
        return -math.inf
    need = mul_up(2.0, slack)

    def in_order(radius: float) -> bool:
        fallen = _mean(0.5 / constant - above + radius, constant, sigma)
        risen = _mean(0.5 / constant + below - radius, constant, sigma)
        return risen * (1 - ERROR) - fallen * (1 + ERROR) > need

    return _largest(in_order, 0.5 * (above + below), sigma)


def difference_radius(sigma: float, failure_upper_a: float, upper_b: float, difference: float, slack: float) -> float:
    """Return the radius of the difference of two scores, rounded down; minus infinity when nothing is certified.

    Args:
        sigma: Standard deviation of the noise.
        failure_upper_a: At least 1 - a.
        upper_b: At least b.
        difference: Lipschitz constant of f_A - f_B.
        slack: Of the difference of the means.

    Example:
        >>> 0.694 < difference_radius(0.25, 0.1, 0.05, 2**0.5, 0.0) < 0.6955
        True
    """
    constant = mul_up(0.5, difference)
    here = reach_lower(mul_up(0.5, add_up(failure_upper_a, upper_b, slack)), constant, sigma)
    if slack == 0.0:
        return here  # S(1/2) = 0
    return add_down(here, reach_lower(mul_up(0.5, add_up(1.0, slack)), constant, sigma))


def add_down(a: float, b: float) -> float:
    """Return at most ``a + b``; minus infinity when either is."""
    return down(a + b) if math.isfinite(a + b) else -math.inf


def _within_reason(lipschitz: float, sigma: float) -> float:
    """Return the constant, raised to where the recipe is tested: a larger one is a Lipschitz constant too."""
    constant = check_within(lipschitz, "lipschitz", 0.0, math.inf, "give a proved constant")
    return max(constant, div_up(SMALLEST, sigma))


def _mean(w: float, lipschitz: float, sigma: float) -> float:
    """Return q(w), within `ERROR` of itself."""
    return lipschitz * (_ramp_mean(w, sigma) - _ramp_mean(w - 1.0 / lipschitz, sigma))


def _ramp_mean(s: float, sigma: float) -> float:
    """Return G(s) = E max(s + sigma Z, 0); for s < 0 from the scaled error function, so that nothing cancels."""
    t = s / sigma
    density = math.exp(-0.5 * t * t) / math.sqrt(2.0 * math.pi)
    if t >= 0.0:
        return s * float(scipy.special.ndtr(t)) + sigma * density
    tail = 1.0 + t * math.sqrt(0.5 * math.pi) * float(scipy.special.erfcx(-t / math.sqrt(2.0)))
    return sigma * density * max(tail, 0.0)


def _largest(holds: Callable[[float], bool], most: float, sigma: float) -> float:
    """Return the largest radius up to ``most`` found to hold, less the margin; minus infinity when none does."""
    if not (most > 0.0 and holds(0.0)):
        return -math.inf
    low, high = 0.0, most
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return down(low - MARGIN * sigma)
