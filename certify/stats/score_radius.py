r"""Certified l2 radii from soft scores: what the maps onto the simplex cost, and the best of several valid radii.

*Maps.* f = s(tau z), z the logits, tau the temperature. For logits that are L_z-Lipschitz from l2 to l2:

- softmax: grad s_k = tau s_k (e_k - s), of length at most tau sqrt 2 s_k (1 - s_k), so each score is
  tau L_z sqrt 2 / 4-Lipschitz, and a difference s_A - s_B tau L_z / sqrt 2: its gradient is tau (s_A (e_A - s) -
  s_B (e_B - s)), longest at s_A = s_B = 1/2;
- sparsemax (A. Martins, R. Astudillo, ICML 2016, arXiv 1602.02068), the projection onto the simplex: its derivative is
  I_S - 11^T / |S| on the support S, a projection: a row has length sqrt(1 - 1/|S|), so tau L_z sqrt((K - 1) / K), and a
  difference of two rows at most sqrt 2 tau L_z.

*Radii.* With failure >= 1 - a and rival >= b from `certify.stats.score_bounds`, which hold together with probability 1
- alpha: ``probit`` is the radius of any scores (`certify.stats.radius_l2`); ``class slopes``, ``difference slope`` and
``plain slope`` are those of Lipschitz scores (`certify.stats.lipschitz_radius`). All are true on one event, so the
largest may be taken after the scores are seen: nothing random enters besides a and b.

*Slack.* The scores of the program differ from exact Lipschitz functions of x + noise: by the error e of its logits
(times the constant of the map), by the computation of the map (in float64, from differences to the largest logit), by
scores being whole multiples of 2^-30, by draws further away than e is proved for, and, with integer noise, by the
rounding of x + noise to the grid. A coordinate of that rounding has mean square at most 1 / (12 * 255^2): the distance
of a normal variable s Z to the nearest integer has the second moment 1/12 + sum_k (-1)^k exp(-2 pi^2 s^2 k^2) / (pi
k)^2 (the Fourier series of the density of s Z modulo 1), where the sum alternates, shrinks and begins below zero. By
Jensen the mean l2 length is at most sqrt(d / 12) / 255, which moves a mean of an L-Lipschitz function by at most L
times as much. With float noise the sum x + noise is rounded to the format, which is inside e, and nothing is added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from certify.rounding import add_up, div_up, mul_up, sqrt_up
from certify.stats.arguments import check_integer, check_within
from certify.stats.empirical_bernstein import UNITS, score_bounds
from certify.stats.lipschitz_radius import LARGEST, class_radius, difference_radius, slope_radius
from certify.stats.radius import radius_l2

PIXEL_LEVELS = 255
FARTHEST_DRAW = 8.0  # e is proved for noise shorter than (sqrt d + 8) sigma; a draw is longer with probability e^-32
OUTSIDE = 2.0**-40  # above e^-32, with room for what is left out
FARTHEST_RADIUS = 16.0  # sigmas: e is proved for centres up to here


def _softmax(classes: int) -> tuple[float, float]:  # noqa: ARG001 - the same for any number of classes
    return div_up(sqrt_up(2.0), 4.0), div_up(1.0, math.nextafter(math.sqrt(2.0), 0.0))


def _sparsemax(classes: int) -> tuple[float, float]:
    return sqrt_up(div_up(float(classes - 1), float(classes))), sqrt_up(2.0)


MAPS: Mapping[str, Callable[[int], tuple[float, float]]] = MappingProxyType(
    {"softmax": _softmax, "sparsemax": _sparsemax}
)
"""Per map: at least the Lipschitz constants of one score and of a difference of two, for K classes at tau L_z = 1."""


@dataclass(frozen=True)
class Slopes:
    """What is proved about the scores as functions of the input: constants, and slack of a mean and of a difference."""

    per_class: float
    difference: float
    slack: float
    slack_difference: float


def score_slopes(
    simplex: str, temperature: float, *, classes: int, lipschitz: float, error: float, rounded_coordinates: int
) -> Slopes:
    """Return the Lipschitz constants of the scores, rounded up, and their slack.

    Args:
        simplex: A row of `MAPS`.
        temperature: tau.
        classes: K, without the invalid outputs.
        lipschitz: At least the Lipschitz constant of the logits, l2 to l2, in the space of the noise.
        error: At least the l2 error of the program's logits at every input with noise that is not too long.
        rounded_coordinates: d under integer noise of 8-bit pixels, 0 under float noise.

    Raises:
        ValueError: If an argument is negative or NaN, or the map unknown.

    Example:
        >>> found = score_slopes("softmax", 4.0, classes=10, lipschitz=1.0, error=0.0, rounded_coordinates=0)
        >>> 2**0.5 <= found.per_class < 1.41421357 and 2.0 * 2**0.5 <= found.difference < 2.8284272
        True
    """
    classes = check_integer(classes, "classes", 2, 2**20)
    advice = "give proved upper bounds"
    steep = mul_up(check_temperature(temperature), 1.0)
    lipschitz = check_within(lipschitz, "lipschitz", 0.0, math.inf, advice)
    error = check_within(error, "error", 0.0, math.inf, advice)
    one, two = (mul_up(constant, steep) for constant in MAPS[simplex](classes))
    moved = div_up(sqrt_up(div_up(float(rounded_coordinates), 12.0)), float(PIXEL_LEVELS))
    computed = add_up(1.0 / UNITS, OUTSIDE, (classes + 16) * 2.0**-50)
    return Slopes(
        per_class=mul_up(one, lipschitz),
        difference=mul_up(two, lipschitz),
        slack=add_up(mul_up(one, add_up(error, mul_up(lipschitz, moved))), computed),
        slack_difference=add_up(mul_up(two, add_up(error, mul_up(lipschitz, moved))), 2.0 * computed),
    )


def check_temperature(temperature: object) -> float:
    """Return a temperature from 2^-20 to 2^20.

    Raises:
        ValueError: If it is not there.
    """
    return check_within(temperature, "temperature", 2.0**-20, 2.0**20, "it multiplies the logits")


def score_radius(
    totals: Sequence[int],
    squares: Sequence[int],
    selected: int,
    n: int,
    *,
    alpha: float,
    sigma: float,
    slopes: Slopes | None,
) -> tuple[float, str]:
    """Return the largest radius that the sums of scores prove, and the name of its method.

    P(radius > true radius) <= alpha when class, map, temperature and slopes were fixed before the counted draws.

    Args:
        totals: Sums of scores per class, in units of 2^-30, the invalid outputs as the last class.
        squares: Sums of their squares.
        selected: The class.
        n: Draws.
        alpha: Error probability.
        sigma: Standard deviation of the noise.
        slopes: What is proved about the scores; None: nothing, or an output was not finite.

    Raises:
        ValueError: If an argument is outside its range, or no scores have these sums.

    Example:
        Scores of 0.9 in every draw, at a network of Lipschitz constant 1: more than any function would have.

        >>> score = round(0.9 * UNITS)
        >>> totals, squares = [score * 10_000, 0, 0], [-(-score * score // UNITS) * 10_000, 0, 0]
        >>> score_radius(totals, squares, 0, 10_000, alpha=0.001, sigma=0.25, slopes=None)[1]
        'probit'
        >>> slopes = score_slopes("softmax", 1.0, classes=2, lipschitz=1.0, error=0.0, rounded_coordinates=0)
        >>> radius, method = score_radius(totals, squares, 0, 10_000, alpha=0.001, sigma=0.25, slopes=slopes)
        >>> method, radius > 1.0
        ('class slopes', True)
    """
    failure, rival = score_bounds(totals, squares, selected, n, alpha)
    smallest = math.ulp(0.0)
    found = [(radius_l2(sigma, max(failure, smallest), max(rival, smallest)), "probit")]
    if slopes is not None and totals[-1] == 0 and mul_up(slopes.per_class, sigma) <= LARGEST:
        apart = slopes.slack_difference
        found += [
            (class_radius(sigma, failure, rival, slopes.per_class, slopes.slack), "class slopes"),
            (difference_radius(sigma, failure, rival, slopes.difference, apart), "difference slope"),
            (slope_radius(sigma, failure, rival, slopes.difference, apart), "plain slope"),
        ]
    return max(
        (radius if method == "probit" else min(radius, FARTHEST_RADIUS * sigma), method) for radius, method in found
    )
