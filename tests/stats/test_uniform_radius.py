"""Uniform noise: the shift of a probability by counting grid points, exact levels, and wrong formulas that fail."""

import math
from fractions import Fraction
from functools import cache
from itertools import product

import pytest

from certify.stats import BOUNDS, GEOMETRIES, sequential_test, smallest_n
from certify.stats.uniform import grid_half_width, grid_steps, half_width, radius_l1, uniform_tail
from tests.stats.binomial_truth import exact_pmf, exact_tail

ALPHA = 0.05
LAWS = [
    tuple(Fraction(part, 1000) for part in parts)
    for parts in ((500, 499, 1), (501, 498, 1), (400, 350, 250), (600, 300, 100), (905, 90, 5), (450, 430, 120))
]


def not_shared(m, shift):
    """How many of the points of the integer cube -m..m the cube moved by ``shift`` lacks, by going through them."""
    cube = product(range(-m, m + 1), repeat=len(shift))
    return sum(any(abs(z - d) > m for z, d in zip(point, shift, strict=True)) for point in cube)


@pytest.mark.parametrize("m,dimension", [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 2)])
def test_no_probability_moves_by_more_than_the_distance_over_the_width(m, dimension):
    """Every event moves by at most the share of points not shared; one axis reaches the bound."""
    side, reached = 2 * m + 1, 0
    for shift in product(range(-side, side + 1), repeat=dimension):
        moved = Fraction(not_shared(m, shift), side**dimension)
        distance = Fraction(sum(map(abs, shift)), side)
        assert moved <= distance
        reached += 0 < moved == distance
    assert reached >= 2 * dimension


@pytest.mark.parametrize("m", [1, 2])
def test_every_classifier_of_a_small_grid_keeps_its_class_inside_the_radius(m):
    """All 2-class functions on a line of pixels, and the smoothed class at every pixel, by counting."""
    side, pixels = 2 * m + 1, 6
    width = Fraction(side, 2)
    for votes in product((0, 1), repeat=pixels + 2 * m):
        ones = [sum(votes[x : x + side]) for x in range(pixels)]
        for x, y in product(range(pixels), repeat=2):
            share = Fraction(ones[x], side)
            if abs(x - y) < width * (2 * share - 1):
                assert 2 * ones[y] > side


def test_the_radius_is_reached_by_a_half_space():
    """f = 1 from a threshold on: the smoothed class changes exactly where the radius ends."""
    m = 4
    for distance in range(1, m + 1):
        share = Fraction(sum(z + distance > 0 for z in range(-m, m + 1)), 2 * m + 1)
        exact = Fraction(2 * m + 1, 2) * (2 * share - 1)
        assert exact == distance - Fraction(1, 2)  # the nearest pixel of the other class is at ``distance``


def test_the_radius_is_rounded_down():
    for width, q, b in product((0.1, 110.5 / 255, 3.0), (1e-300, 0.1, 1 / 3, 0.7, 1.0), (1e-9, 0.2, 0.7, 1.0)):
        exact = Fraction(width) * (1 - Fraction(q) - Fraction(b))
        found = radius_l1(width, q, b)
        assert Fraction(found) <= exact <= Fraction(math.nextafter(found, math.inf))


@pytest.mark.parametrize("sigma", [0.0023, 0.01, 0.1, 0.12, 0.25, 0.289, 0.5, 1.0, 2.0])
def test_widths_belong_to_sigma(sigma):
    w, m, asked = Fraction(half_width(sigma)), grid_steps(sigma), 3 * Fraction(sigma) ** 2
    assert w**2 <= asked < Fraction(math.nextafter(half_width(sigma), math.inf)) ** 2
    assert m**2 <= asked * 255**2 < (m + 1) ** 2
    spread = Fraction(sum(z * z for z in range(-m, m + 1)), 2 * m + 1)  # the exact variance, in levels
    assert abs(spread - (255 * Fraction(sigma)) ** 2) <= 255 * Fraction(sigma)  # next to the asked one
    assert Fraction(grid_half_width(sigma)) <= Fraction(2 * m + 1, 510)
    assert Fraction(math.nextafter(grid_half_width(sigma), math.inf)) > Fraction(2 * m + 1, 510)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf, 0.002, 1e9, "1"])
def test_sigma_without_a_grid_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma"):
        grid_steps(sigma)


@pytest.mark.parametrize("q,b", [(0.0, 0.1), (0.1, 0.0), (math.nan, 0.1), (0.1, 1.1), (-0.1, 0.1), (True, 0.1)])
def test_what_is_no_upper_bound_is_refused(q, b):
    with pytest.raises(ValueError, match="probability"):
        radius_l1(0.5, q, b)


@cache
def outcomes(n, law):
    ways = math.factorial
    return [
        ((a, b, n - a - b), Fraction(ways(n), ways(a) * ways(b) * ways(n - a - b)) * law[0] ** a * law[1] ** b
         * law[2] ** (n - a - b))
        for a in range(n + 1)
        for b in range(n + 1 - a)
    ]  # fmt: skip


def false_probability(radius_of, law, pilot_draws=6, n=18):
    """The exact probability that a certified radius (in units of w) exceeds p_A - max p_k."""
    total = Fraction(0)
    chosen = {}
    for pilot, weight in outcomes(pilot_draws, law):
        selected = pilot.index(max(pilot))
        key = (selected, pilot if radius_of is cpm else ())
        if key not in chosen:
            true = law[selected] - max(p for k, p in enumerate(law) if k != selected)
            false = (p for counts, p in outcomes(n, law) if radius_of(counts, selected, pilot) > 0 and
                     not Fraction(radius_of(counts, selected, pilot)) <= true)  # fmt: skip
            chosen[key] = sum(false, Fraction(0))
        total += weight * chosen[key]
    return total


@cache
def of_bound(bound, counts, selected, pilot=()):
    return BOUNDS[bound](counts, selected, ALPHA, 1.0, pilot, radius_l1)


def cpm(counts, selected, pilot):
    return of_bound("cpm", counts, selected, pilot)


@pytest.mark.parametrize("law", LAWS[::2], ids=str)
@pytest.mark.parametrize("bound", sorted({*BOUNDS} - {"cpm"}))
def test_no_more_than_alpha_of_the_certificates_are_false(bound, law):
    assert false_probability(lambda counts, selected, _: of_bound(bound, counts, selected), law) <= Fraction(ALPHA)


def test_no_more_than_alpha_of_the_cpm_certificates_are_false():
    assert false_probability(cpm, LAWS[3], pilot_draws=5, n=12) <= Fraction(ALPHA)


def test_the_normal_radius_under_uniform_noise_is_convicted():
    """The mutants: sigma Phi^-1 in place of w (2p - 1), and a radius of 2 w (a - b)."""
    law = LAWS[4]
    plain = lambda counts, selected, _: BOUNDS["two-interval"](counts, selected, ALPHA, 1.0)  # noqa: E731
    twice = lambda counts, selected, _: 2.0 * of_bound("two-interval", counts, selected)  # noqa: E731
    assert false_probability(plain, law) > Fraction(ALPHA)
    assert false_probability(twice, law) > Fraction(ALPHA)


@pytest.mark.parametrize("n", [10, 40, 60])
def test_a_linear_classifier_whose_true_radius_is_its_distance(n):
    """f = [x_1 > t] at distance d < w: p_A = (1 + d / w) / 2, in l1 as along the axis. The worst d is just missed."""
    for bound, level in (("clopper-pearson", 0.99), ("two-interval", 0.89)):
        for k in range(n // 2, n + 1):
            radius = BOUNDS[bound]((k, n - k), 0, ALPHA, 1.0, (), radius_l1)
            if radius > 0.0:
                p = (1 + Fraction(radius)) / 2  # the largest p at which a radius of k votes would still be false
                false = exact_tail(n, k, p)
                assert false <= Fraction(ALPHA)
                assert false >= Fraction(ALPHA) * Fraction(level)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.8, 0.98])
def test_the_sequential_test_keeps_its_level(ratio):
    """Every path of votes over the looks, with the exact null (1 + r/w)/2."""
    test = sequential_test(ratio, 0.05, 0.05, 300, "uniform")
    p = (1 + Fraction(ratio)) / 2
    assert Fraction(test.p0) >= p
    alive, crossed, given = {0: Fraction(1)}, Fraction(0), Fraction(0)
    for before, now, most, least in zip((0, *test.looks), test.looks, test.up, test.lo, strict=False):
        more, after = exact_pmf(now - before, p), {}
        for votes, weight in alive.items():
            for extra, chance in enumerate(more):
                after[votes + extra] = after.get(votes + extra, 0) + weight * Fraction(float(chance))
        crossed += sum(weight for votes, weight in after.items() if votes >= most)
        given += sum(weight for votes, weight in after.items() if votes <= least)
        alive = {votes: weight for votes, weight in after.items() if least < votes < most}
    assert Fraction(4, 100) <= crossed <= Fraction(ALPHA)
    assert given <= Fraction(ALPHA)
    assert test.sha256 != sequential_test(ratio, 0.05, 0.05, 300).sha256


@pytest.mark.parametrize("ratio", [0.0, 1.0, 1.5, math.nan, -0.5])
def test_a_radius_that_no_vote_reaches_is_refused(ratio):
    with pytest.raises(ValueError, match="half-width"):
        sequential_test(ratio, 0.05, 0.05, 300, "uniform")


def test_the_tail_is_an_enclosure():
    for ratio in (1e-6, 0.1, 1 / 3, 0.9, 1 - 1e-7):
        low, high = uniform_tail(ratio)
        assert Fraction(low) <= (1 - Fraction(ratio)) / 2 <= Fraction(high) <= Fraction(math.nextafter(low, 1.0))


def test_the_least_number_of_draws():
    """alpha^(1/n) >= (1 + ratio) / 2."""
    for ratio in (0.0, 0.5, 0.9):
        n = smallest_n(0.001, ratio, radius=radius_l1)
        assert 0.001 ** (1 / n) > (1 + ratio) / 2 > 0.001 ** (1 / (n - 1))


def test_each_law_says_what_its_certificates_are():
    assert {name: law.norm for name, law in GEOMETRIES.items()} == {
        "gaussian": "l2",
        "gaussian-255": "l2",
        "gaussian-diagonal": "weighted-l2",
        "gaussian-diagonal-255": "weighted-l2",
        "uniform": "l1",
        "uniform-255": "l1",
    }
    assert GEOMETRIES["gaussian"].scale(0.25) == 0.25
    assert GEOMETRIES["uniform-255"].scale(0.25) <= 110.5 / 255
