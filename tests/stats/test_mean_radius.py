"""Limits of the mean radius, held to their statements by enumerating every small sample with its exact chance."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise, product
from math import prod

import pytest

from certify.stats.mean_radius import mean_radius_limits, mean_radius_of_list, smallest_mean_radius_sample

CONFIDENCE = 0.75
DELTA = Fraction(1) - Fraction(CONFIDENCE)
LAWS = [
    {0.0: Fraction(1, 2), 1.0: Fraction(1, 2)},
    {0.0: Fraction(1, 10), 1.0: Fraction(9, 10)},
    {0.25: Fraction(1, 3), 0.5: Fraction(1, 3), 1.0: Fraction(1, 3)},
    {0.0: Fraction(2, 5), 0.3: Fraction(2, 5), 1.0: Fraction(1, 5)},
    {0.7: Fraction(1)},
]


def lists(law, n):
    """Every list of n draws, with its probability."""
    for drawn in product(law, repeat=n):
        yield drawn, prod(law[radius] for radius in drawn)


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_each_limit_is_wrong_with_its_probability_at_most(law, n):
    mean = sum(Fraction(radius) * chance for radius, chance in law.items())
    above = below = Fraction(0)
    for drawn, chance in lists(law, n):
        lower, upper = mean_radius_limits(drawn, confidence=CONFIDENCE, alpha=0.0, cap=1.0)
        above += chance * (Fraction(lower) > mean)
        below += chance * (Fraction(upper) < mean)
    assert above <= DELTA
    assert below <= DELTA


@pytest.mark.parametrize("alpha", [0.1, 0.4])
@pytest.mark.parametrize("true", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("n", [1, 3, 8])
def test_false_certificates_are_inside_both_statements(true, alpha, n):
    """The worst procedure: every radius is the true one, and with the full alpha the largest there is."""
    chances = {true: 1 - Fraction(alpha), 1.0: Fraction(alpha)}
    wrong_list = wrong_population = Fraction(0)
    for drawn, chance in lists(chances, n):
        lower, _ = mean_radius_limits(drawn, confidence=CONFIDENCE, alpha=alpha)
        wrong_population += chance * (lower > true)
        wrong_list += chance * (mean_radius_of_list(drawn, alpha=alpha, rho=float(DELTA)) > true)
    assert wrong_population <= DELTA
    assert wrong_list <= DELTA


def test_the_level_would_be_broken_without_alpha():
    """The same procedure convicts limits that forget the false certificates."""
    true, alpha, n = 0.0, 0.4, 8
    wrong = sum(
        chance * (mean_radius_limits(drawn, confidence=CONFIDENCE, alpha=0.0)[0] > true)
        for drawn, chance in lists({true: 1 - Fraction(alpha), 1.0: Fraction(alpha)}, n)
    )
    assert wrong > DELTA


@pytest.mark.parametrize("alpha", [0.0, 0.05])
def test_the_lower_limit_is_the_integral_of_its_proof(alpha):
    radii = [0.0, 0.125, 0.125, 0.5, 0.75, 1.0, 2.0, 2.5]
    n, eps = len(radii), math.sqrt(math.log(4) / 16)
    steps = sorted({0.0, *radii})
    expected = sum(
        (b - a) * max(sum(r >= b for r in radii) / n - eps - alpha, 0.0) / (1 - alpha) for a, b in pairwise(steps)
    )
    found, upper = mean_radius_limits(radii, confidence=CONFIDENCE, alpha=alpha)
    assert found == pytest.approx(expected, rel=1e-12)
    assert upper is None


def test_the_upper_limit_is_the_integral_of_its_proof():
    radii = [0.0, 0.125, 0.125, 0.5, 0.75, 1.0, 2.0, 2.5]
    n, eps, cap = len(radii), math.sqrt(math.log(4) / 16), 3.0
    steps = sorted({0.0, *radii, cap})
    expected = sum((b - a) * min(sum(r >= b for r in radii) / n + eps, 1.0) for a, b in pairwise(steps))
    assert mean_radius_limits(radii, confidence=CONFIDENCE, alpha=0.0, cap=cap)[1] == pytest.approx(expected, rel=1e-12)


def test_limits_are_no_looser_than_hoeffding():
    radii, cap = [0.1 * k for k in range(11)] * 20, 1.5
    n, mean = len(radii), sum(radii) / len(radii)
    slack = cap * math.sqrt(math.log(20) / (2 * n))
    lower, upper = mean_radius_limits(radii, confidence=0.95, alpha=0.0, cap=cap)
    assert mean - slack <= lower <= mean <= upper <= mean + slack


def test_means_are_rounded_outward():
    third = [0.1] * 3  # three times the float 0.1 is no float
    found = mean_radius_of_list([*third, 0.2], alpha=0.0, rho=0.05)
    exact = (3 * Fraction(0.1) + Fraction(0.2)) / 4
    assert Fraction(found) <= exact < Fraction(math.nextafter(found, 1.0))
    assert mean_radius_of_list(third, alpha=0.0, rho=0.05) == 0.1


@pytest.mark.parametrize("target, cap, alpha", [(0.5, 1.0, 0.0), (0.9, 1.0, 0.001), (0.1, 0.8, 0.02)])
def test_the_smallest_sample_is_the_first_that_can_show_the_target(target, cap, alpha):
    n = smallest_mean_radius_sample(target, cap=cap, confidence=0.95, alpha=alpha)
    shown, short = (mean_radius_limits([cap] * k, confidence=0.95, alpha=alpha)[0] for k in (n, n - 1))
    assert short < target <= shown


def test_no_sample_shows_more_than_the_cap():
    assert smallest_mean_radius_sample(1.0, cap=1.0, confidence=0.95, alpha=0.0) is None
    assert smallest_mean_radius_sample(0.0, cap=1.0, confidence=0.95, alpha=0.0) == 1


@pytest.mark.parametrize(
    "radii, options",
    [
        ([], {}),
        ([math.nan], {}),
        ([math.inf], {}),
        ([-0.1], {}),
        ([0.5], {"cap": 0.4}),
        ([0.5], {"confidence": 0.5}),
        ([0.5], {"alpha": math.nan}),
    ],
    ids=str,
)
def test_what_has_no_meaning_is_refused(radii, options):
    with pytest.raises(ValueError, match="expected"):
        mean_radius_limits(radii, **{"confidence": 0.95, "alpha": 0.0, **options})
