"""The group-sequential test: exact levels by a recursion of their own, published rows, and wrong rules that fail."""

import math
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
from flint import arb, ctx
from scipy.special import ndtri
from scipy.stats import beta, binom

from certify.stats import crossing, look_grid, operate, sequential_test
from certify.stats.recursion import START, advance, crossing_from, vote_laws
from certify.stats.sequential import rows_at

P0 = (0.6, 0.9, 0.99, 0.999)


def plain_recursion(looks, up, lo, p):
    """Crossing probability, give-up probability and mean draws, votes by votes, with nothing dropped."""
    alive, crossed, given, mean = {0: 1.0}, 0.0, 0.0, 0.0
    for (before, now), most, least in zip(pairwise((0, *looks)), up, lo, strict=True):
        if not alive:
            break
        mean += (now - before) * sum(alive.values())
        more = binom.pmf(np.arange(now - before + 1), now - before, p)
        width = max(alive) + len(more)
        after = np.zeros(width)
        for votes, probability in alive.items():
            after[votes : votes + len(more)] += probability * more
        crossed += after[most:].sum() if most < width else 0.0
        given += after[: least + 1].sum()
        alive = {votes: after[votes] for votes in range(max(0, least + 1), min(most, width)) if after[votes] > 0.0}
    return crossed, given, mean


LEVELS = [  # every probability at one level and every level at one probability; all pairs in the slow suite
    pytest.param(alpha, p0, marks=[] if alpha == 1e-3 or p0 == 0.9 else pytest.mark.slow)
    for alpha, p0 in product((0.05, 1e-3, 1e-6), P0)
]


@pytest.mark.parametrize("alpha, p0", LEVELS)
def test_the_exact_level_is_at_most_alpha_and_nearly_used(alpha, p0):
    test = sequential_test(float(ndtri(p0)), alpha, alpha, 20_000)
    crossed, _, _ = plain_recursion(test.looks, test.up, (-1,) * len(test.looks), p0)
    assert crossed <= alpha
    assert crossed >= (0.9 if alpha >= 1e-3 else 0.5) * alpha  # counts are whole: a tiny alpha is harder to use up
    _, given, _ = plain_recursion(test.looks, tuple(n + 1 for n in test.looks), test.lo, p0)
    assert given <= alpha
    assert all(low < most for low, most in zip(test.lo, test.up, strict=True))


@pytest.mark.parametrize("p0", [0.999, 0.99, *(pytest.param(p, marks=pytest.mark.slow) for p in (0.6, 0.9))])
def test_the_level_at_the_default_cap(p0):
    test = sequential_test(float(ndtri(p0)), 1e-3, 1e-3, 100_000)
    crossed, _, _ = plain_recursion(test.looks, test.up, (-1,) * len(test.looks), p0)
    assert 0.9e-3 <= crossed <= 1e-3
    assert crossing(test.looks, test.up, p0) == pytest.approx(crossed, rel=1e-9)


@pytest.mark.parametrize(
    "n, q", [(128, 0.1), (19_000, 1e-3), (1_500_000, 1e-5), (15_000_000, 1e-6), (130_000_000, 3e-7), (130_000_000, 0.1)]
)
def test_a_law_of_votes_is_within_its_stated_error(n, q):
    """Against the pmf in balls, around the likeliest count and at the ends that hold a millionth."""
    p = 1.0 - q
    (law,) = vote_laws((n,), p, 1.0 - p)
    middle, spread = round(n * p), math.ceil(5 * math.sqrt(n * q))
    with ctx.workprec(200):
        for k in {middle - spread, middle - 1, middle, min(middle + 1, n), min(middle + spread, n)}:
            ways = arb(n + 1).lgamma() - arb(k + 1).lgamma() - arb(n - k + 1).lgamma()
            exact = (ways + k * arb(p).log() + (n - k) * (1 - arb(p)).log()).exp()
            assert abs(arb(float(law.probabilities[k - law.first])) / exact - 1) <= 1e-14 * n


@pytest.mark.parametrize("ratio", [4.2, pytest.param(3.95, marks=pytest.mark.slow)])
def test_the_rounding_of_the_longest_laws_is_left_free(ratio):
    test = sequential_test(ratio, 1e-3, 1e-3, 10**9)
    assert 0.9e-3 < test.level <= 1e-3 * (1 - 1e-5)


@pytest.mark.parametrize(
    "ratio, cap",
    [
        (1.6, 10_000),
        (0.5, 20_000),
        (3.09, 10_000),
        *(pytest.param(r, 100_000, marks=pytest.mark.slow) for r in (1.0, 1.6)),
    ],
)
def test_no_single_row_could_be_lowered(ratio, cap):
    """Where whole votes leave a part of alpha unused, it is too small for one vote less at any look."""
    test = sequential_test(ratio, 1e-3, 1e-3, cap)
    assert test.level <= 1e-3
    if test.level < 0.99e-3:
        for place, most in enumerate(test.up):
            lowered = (*test.up[:place], most - 1, *test.up[place + 1 :])
            assert plain_recursion(test.looks, lowered, (-1,) * len(test.looks), test.p0)[0] > 1e-3 * (1 - 2e-6)
    else:
        assert plain_recursion(test.looks, test.up, (-1,) * len(test.looks), test.p0)[0] <= 1e-3


@pytest.mark.parametrize("ratio", [0.1, 0.8, 1.4, 1.6, 1.8, 2.6])
def test_nine_tenths_of_the_level_are_used_at_every_radius(ratio):
    """A jump of the rows at the first look once left 15 % of alpha unused at 1.6 sigma."""
    test = sequential_test(ratio, 1e-3, 1e-3, 20_000)
    assert 0.99e-3 <= crossing(test.looks, test.up, test.p0) <= 1e-3


def test_a_smaller_probability_crosses_less_often():
    test = sequential_test(1.0, 0.01, 0.01, 2000)
    levels = [crossing(test.looks, test.up, p) for p in np.linspace(0.5, test.p0, 12)]
    assert levels == sorted(levels)
    assert levels[-1] <= 0.01


def test_the_published_rows():
    test = sequential_test(float(ndtri(0.9)), 1e-3, 1e-3, 2048)
    assert test.looks == (128, 256, 384, 512, 640, 768, 896, 1152, 1408, 1664, 1920, 2048)
    assert test.up == (126, 246, 365, 484, 603, 721, 838, 1074, 1308, 1543, 1777, 1894)
    assert test.lo == (102, 211, 322, 434, 546, 658, 771, 997, 1223, 1449, 1676, 1789)
    assert test.threshold == pytest.approx(4.89650, abs=5e-6)
    assert test.level == pytest.approx(9.93454e-4, rel=1e-5)
    assert test.give_up_level == pytest.approx(9.9616e-4, rel=1e-4)
    assert operate(test.looks, test.up, test.lo, 0.95).mean_draws == pytest.approx(462.21, abs=0.01)
    other = sequential_test(1.0, 1e-3, 1e-3, 4096)
    assert other.looks[9:] == (1664, 1920, 2304, 2688, 3200, 3712, 4096)
    assert other.threshold == pytest.approx(4.93802, abs=5e-6)
    assert other.level == pytest.approx(9.95217e-4, rel=1e-5)
    assert other.up == (121, 235, 348, 460, 572, 683, 794, 1016, 1236, 1457, 1677, 2006, 2335, 2773, 3210, 3538)
    assert other.lo == (92, 193, 295, 398, 502, 606, 711, 920, 1130, 1341, 1552, 1868, 2186, 2609, 3033, 3352)
    assert operate(other.looks, other.up, other.lo, 0.95).mean_draws == pytest.approx(168.98, abs=0.01)


MEAN_DRAWS = {  # (p, r / R): mean draws of the published test at alpha = beta = 1e-3, cap 100,000
    (0.6, 0.5): 1653,
    (0.6, 0.8): 11_368,
    (0.6, 1.25): 7209,
    (0.9, 0.5): 146,
    (0.9, 0.8): 673,
    (0.9, 0.9): 2927,
    (0.99, 0.8): 798,
    (0.99, 0.9): 3798,
    (0.99, 1.1): 5133,
    (0.999, 0.8): 1961,
    (0.999, 0.9): 11_061,
    (0.999, 1.1): 22_894,
}


@pytest.mark.parametrize(
    "p, share", [pytest.param(*row, marks=pytest.mark.slow if row[0] == 0.6 else []) for row in MEAN_DRAWS]
)
def test_the_mean_draws_are_within_five_percent_of_the_published_ones(p, share):
    test = sequential_test(float(share * ndtri(p)), 1e-3, 1e-3, 100_000)
    _, _, mean = plain_recursion(test.looks, test.up, test.lo, p)
    assert mean <= 1.05 * MEAN_DRAWS[p, share]
    assert operate(test.looks, test.up, test.lo, p).mean_draws == pytest.approx(mean, rel=1e-6)


def test_the_recursion_agrees_with_all_paths_in_rational_numbers():
    looks, up, lo, p = (2, 5, 9), (2, 5, 8), (-1, 1, 4), Fraction(7, 10)
    crossed = given = Fraction(0)
    mean = Fraction(0)
    for path in product((0, 1), repeat=9):
        weight = math.prod((p if vote else 1 - p) for vote in path)
        for n, most, least in zip(looks, up, lo, strict=True):
            votes = sum(path[:n])
            if votes >= most or votes <= least or n == looks[-1]:
                crossed += weight * (votes >= most)
                given += weight * (votes <= least)
                mean += weight * n
                break
    found = operate(looks, up, lo, 0.7)
    assert found.certified == pytest.approx(float(crossed), rel=1e-12)
    assert found.given_up == pytest.approx(float(given), rel=1e-12)
    assert found.mean_draws == pytest.approx(float(mean), rel=1e-12)


def test_the_recursion_goes_on_from_any_look_and_stops_at_what_is_enough():
    """From every look on it gives the same bits, and a level above the one asked for is infinite, never a number."""
    test = sequential_test(1.0, 1e-3, 1e-3, 10_000)
    laws, whole, going = vote_laws(test.looks, test.p0, 1.0 - test.p0), crossing(test.looks, test.up, test.p0), START
    for place, (law, most) in enumerate(zip(laws, test.up, strict=True)):
        assert crossing_from(going, laws[place:], test.up[place:]) == whole
        assert crossing_from(going, laws[place:], test.up[place:], enough=whole) == whole
        assert crossing_from(going, laws[place:], test.up[place:], enough=math.nextafter(whole, 0.0)) == math.inf
        going = advance(going, law, most, -1)


@pytest.mark.parametrize("p0", P0)
def test_rows_between_those_of_other_thresholds_are_those_of_the_whole_search(p0):
    looks, thresholds = look_grid(100_000), np.linspace(0.0, 12.0, 49)
    rows = [rows_at(looks, p0, 1.0 - p0, threshold) for threshold in thresholds]
    for place in range(1, len(rows) - 1):
        assert rows_at(looks, p0, 1.0 - p0, thresholds[place], rows[place - 1], rows[place + 1]) == rows[place]


@pytest.mark.parametrize("p0, level", [(0.6, 0.0148), (0.9, 0.0143), (0.99, 0.0108)])
def test_a_fixed_bound_after_every_look_would_break_the_level(p0, level):
    looks = look_grid(100_000)
    naive = [next(k for k in range(int(p0 * n), n + 2) if k > n or beta.ppf(1e-3, k, n - k + 1) > p0) for n in looks]
    assert crossing(looks, naive, p0) == pytest.approx(level, rel=0.02)


def test_a_fixed_bound_on_the_counts_at_the_stop_would_be_invalid():
    """Where the test stops with S of n votes, Clopper-Pearson of (S, n) exceeds p too often."""
    test = sequential_test(float(ndtri(0.9)), 1e-3, 1e-3, 20_000)
    stops = [max(most, math.ceil(0.9 * n)) for most, n in zip(test.up, test.looks, strict=True)]
    naive = [
        next(k for k in range(int(0.9 * n), n + 2) if k > n or beta.ppf(1e-3, k, n - k + 1) > 0.9) for n in test.looks
    ]
    assert all(k <= stop for k, stop in zip(naive, stops, strict=True))  # every stop would certify more than allowed
    assert crossing(test.looks, naive, 0.9) > 5e-3


@pytest.mark.parametrize("cap", [1, 10, 127, 128, 129, 1000])
def test_small_caps(cap):
    looks = look_grid(cap)
    assert looks[-1] == cap
    assert list(looks) == sorted(set(looks))
    test = sequential_test(0.5, 0.001, 0.001, cap)
    assert test.level <= 0.001
    if cap < 19:
        assert all(most > n for most, n in zip(test.up, test.looks, strict=True))  # no count can certify


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.nan, 9.0])
def test_ratios_outside_the_range_are_refused(ratio):
    with pytest.raises(ValueError, match="ratio"):
        sequential_test(ratio, 1e-3, 1e-3, 1000)


@pytest.mark.parametrize("alpha", [0.0, 0.5, math.nan])
def test_alphas_outside_the_range_are_refused(alpha):
    with pytest.raises(ValueError, match="alpha"):
        sequential_test(1.0, alpha, 1e-3, 1000)


def test_the_null_is_rounded_up():
    from mpmath import mp, ncdf

    with mp.workdps(40):
        for ratio in (0.1, 0.5, 1.0, 2.0, 4.0, 7.5):
            assert sequential_test(ratio, 1e-3, 1e-3, 500).p0 >= ncdf(ratio)


def test_the_hash_is_that_of_the_question_and_its_rows():
    first, second = (sequential_test(1.0, 1e-3, 1e-3, cap) for cap in (1000, 2000))
    assert len(first.sha256) == 64
    assert first.sha256 != second.sha256
