r"""Certified l1 radii of uniform smoothing: how far a probability moves, the half-widths of the noise, the radius.

f is the classifier, e uniform on the cube [-w, w]^d with half-width w, p_k(x) = P(f(x + e) = k).

**Theorem** (Lee, Yuan, Chang, Jaakkola, arXiv 1906.04948, and Yang, Duan, Hu, Salman, Razenshteyn, Li, arXiv
2002.08118). |p_k(x + d) - p_k(x)| <= ||d||_1 / (2 w) for every class and every d. So with a <= p_A and b >= p_k for
every other k, the smoothed class stays A for

    ||d||_1 < R = w (a - b).

*Proof*. The laws of x + e and x + d + e have the same constant density on two cubes of volume (2w)^d, which share a
box with the sides (2w - |d_i|)_+. The share they have in common is prod_i (1 - |d_i| / 2w)_+ >= 1 - sum_i |d_i| / 2w
(Weierstrass), and an event has at most what is not common more probability under the one than under the other. A beats
k as long as a - ||d||_1 / 2w > b + ||d||_1 / 2w. No other bound does better from a and b: for d along one axis the
first inequality is an equality, and half of either event can lie in each part that is not shared. []

**On whole levels.** Let x be an image of integers and Z uniform on the integers -m..m, independently in every
coordinate, and f a function of integer images z, seen by the network as z / 255. The laws of x + Z and x' + Z are
constant on two integer cubes of 2m + 1 points a side, of which 2m + 1 - |x_i - x'_i| coincide in coordinate i. The same
proof gives the theorem for integer x and x' with 2w = (2m + 1) / 255, **exactly**: Z is the rounding of the uniform law
on [-(m + 1/2), m + 1/2], and f o round is a function of its real input. No floating-point step is left out.

*Standard deviations*. The cube's is w / sqrt 3 in each coordinate, and w = sigma sqrt 3 rounded down. That of Z is
sqrt(m (m + 1) / 3) levels; m is the largest integer with m <= 255 sigma sqrt 3, so m + 1/2 is the half-integer next
to 255 sigma sqrt 3. Reports state the half-width, on which the proof rests.

*The gate question* "is the radius at least r?" is p_A > p0 = (1 + r / w) / 2, the single-class radius w (2 p_A - 1).
"""

from __future__ import annotations

import math
from fractions import Fraction

from certify.rounding import down, up
from certify.stats.arguments import check_sigma, check_within

LEVELS = 255
MOST_STEPS = 2**17  # of the integer noise to either side


def half_width(sigma: float) -> float:
    """Return w = sigma sqrt 3, rounded down: sigma is the standard deviation of each coordinate of the cube.

    Example:
        >>> 0.4330127 < half_width(0.25) < 0.4330128
        True
    """
    sigma = check_sigma(sigma)
    found = sigma * math.sqrt(3.0)
    while not Fraction(found) ** 2 <= 3 * Fraction(sigma) ** 2:
        found = down(found)
    return found


def grid_steps(sigma: float) -> int:
    """Return m, the largest integer with m <= 255 sigma sqrt 3: integer noise is uniform on -m..m.

    Raises:
        ValueError: If sigma is too small for one level, or too large for a table.

    Example:
        >>> grid_steps(0.25), grid_steps(0.5)
        (110, 220)
    """
    sigma = check_sigma(sigma)
    steps = math.isqrt(math.floor(3 * (LEVELS * Fraction(sigma)) ** 2))
    if 1 <= steps <= MOST_STEPS:
        return steps
    raise ValueError(
        f"sigma: expected {1 / (LEVELS * math.sqrt(3)):.5f} to {MOST_STEPS / (LEVELS * math.sqrt(3)):.1f} for uniform "
        f"noise on 8-bit pixels, got {sigma!r}; sigma is stated in [0, 1] pixels"
    )


def grid_half_width(sigma: float) -> float:
    """Return (m + 1/2) / 255, rounded down: the half-width that integer noise on -m..m is the rounding of.

    Example:
        >>> grid_steps(0.289), grid_half_width(0.289)
        (127, 0.5)
    """
    exact = Fraction(2 * grid_steps(sigma) + 1, 2 * LEVELS)
    found = float(exact)
    return found if Fraction(found) <= exact else down(found)


def radius_l1(width: float, failure_upper_a: float, upper_b: float) -> float:
    r"""Return w (1 - q_A - b), rounded down from its exact rational value.

    Args:
        width: Half-width w of the noise, or less.
        failure_upper_a: q_A >= 1 - p_A.
        upper_b: b >= p_B; ``failure_upper_a`` itself for the single-class radius.

    Returns:
        The radius; not positive when nothing is certified.

    Raises:
        ValueError: If an argument is not a positive number in its range, or NaN.

    Example:
        >>> radius_l1(0.5, 0.25, 0.25)
        0.25
        >>> radius_l1(0.5, 0.5, 0.5)
        0.0
    """
    width = check_sigma(width)
    advice = "pass an upper confidence bound of a probability"
    q_a = check_within(failure_upper_a, "failure_upper_a", math.ulp(0.0), 1.0, advice)
    b = check_within(upper_b, "upper_b", math.ulp(0.0), 1.0, advice)
    exact = Fraction(width) * (1 - Fraction(q_a) - Fraction(b))
    found = float(exact)
    return found if Fraction(found) <= exact else down(found)


def uniform_tail(ratio: float) -> tuple[float, float]:
    """Return a lower and an upper bound of 1 - p0 = (1 - r / w) / 2 for r / w = ``ratio``.

    Raises:
        ValueError: If the ratio is not within 2^-30..1 - 2^-30, or NaN: no vote reaches a radius of w.

    Example:
        >>> uniform_tail(0.5)
        (0.25, 0.25)
    """
    ratio = check_within(
        ratio, "ratio", 2.0**-30, 1.0 - 2.0**-30, "ask for a radius below the half-width of the noise, or raise sigma"
    )
    exact = (1 - Fraction(ratio)) / 2
    found = float(exact)
    below = found if Fraction(found) <= exact else down(found)
    return below, below if Fraction(below) == exact else up(below)
