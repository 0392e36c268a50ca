"""The pilot's sample plan against a slow reading of its formula, and the charge of the integer noise."""

import functools
import math
import statistics
from fractions import Fraction

import mpmath
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from certify.stats import charged_alpha, draw_grid, noise_charge, sample_plan


@functools.cache
def likely(k, n0):
    return [scipy.stats.beta.ppf((j + 0.5) / 16, k + 0.5, n0 - k + 0.5) for j in range(16)]


WORTH = {
    "gaussian": statistics.NormalDist().inv_cdf,
    "uniform": lambda lower: math.sqrt(3) * (2 * lower - 1),  # radius w (2 p - 1) with w = sqrt 3 sigma
}


def plain_value(k, n0, n, price, alpha, noise):
    """value(N) of the formula, one number at a time, with the interval of statsmodels and the normal law of Python."""
    ratios = []
    for p in likely(k, n0):
        votes = min(round(p * n), n)
        lower = proportion_confint(votes, n, alpha=2 * alpha, method="beta")[0]
        ratios.append(WORTH[noise](lower) if lower > 0.5 else 0.0)
    return statistics.fmean(ratios) - price * n


@pytest.mark.parametrize(
    ("price", "noise"),
    [
        (1e-3, "uniform"),
        (1.2e-5, "gaussian"),  # at which a larger size loses less than the smallest
        pytest.param(0.0, "gaussian", marks=pytest.mark.slow),
        pytest.param(1e-5, "uniform", marks=pytest.mark.slow),
    ],
)
def test_the_plan_is_the_argmax_of_its_formula(price, noise):
    n0, cap, alpha = 12, 3000, 0.001
    plan = sample_plan(n0, cap, price, alpha, noise)
    for k in range(n0 + 1):
        values = {n: plain_value(k, n0, n, price, alpha, noise) for n in draw_grid(cap)}
        best = max(values.values())
        assert values[plan[k]] >= best - 1e-12 if best > 0 else plan[k] == 256


@pytest.mark.parametrize("cap", [10_000, 100_096])
def test_the_plans_of_the_defaults(cap):
    plan = sample_plan(128, cap, 1e-5, 0.001)
    assert len(plan) == 129
    assert set(plan) <= set(draw_grid(cap))
    assert set(plan[:40]) == {256}
    assert plan[128] > 256
    assert plan == sample_plan(128, cap, 1e-5, 0.001)


def test_cheaper_draws_are_asked_for_more():
    totals = [sum(sample_plan(128, 100_096, price, 0.001)) for price in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)]
    assert totals == sorted(totals)
    assert totals[0] < totals[-1]


@given(st.integers(1, 10**9))
def test_the_grid_is_whole_blocks_within_the_cap(cap):
    grid = draw_grid(cap)
    assert list(grid) == sorted(set(grid))
    assert 1 <= len(grid) <= 27
    assert grid[-1] == (cap if cap < 128 else cap // 128 * 128)
    assert grid[0] == min(256, grid[-1])
    assert cap < 128 or all(n % 128 == 0 for n in grid)


def test_the_grid_of_the_published_table():
    assert draw_grid(100_096)[-1] == 100_096
    assert len(draw_grid(100_096)) == 26


@pytest.mark.parametrize("cap", [1, 50, 127, 128, 255, 256])
def test_a_cap_of_at_most_two_blocks_leaves_one_size(cap):
    assert len(set(sample_plan(3, cap, 1e-5, 0.001))) == 1


def test_the_charge_of_the_published_sizes():
    assert noise_charge(100_000, 3072, 3060) == pytest.approx(1.0e-7, rel=0.03)
    assert noise_charge(100_000, 150_528, 6120) == pytest.approx(1.0e-5, rel=0.01)


@given(st.integers(1, 10**9), st.integers(1, 10**6), st.integers(2, 10**5))
def test_the_charge_covers_the_exact_product(n, dimension, levels):
    assert Fraction(noise_charge(n, dimension, levels)) >= Fraction(n * dimension * levels, 2**63)


def test_the_charge_is_rounded_up_where_the_product_is_no_float():
    for n in range(10**9 - 20, 10**9):
        product = n * 999_983 * 99_991
        assert Fraction(product, 2**63) <= Fraction(noise_charge(n, 999_983, 99_991))
        assert noise_charge(n, 999_983, 99_991) <= product / 2**63 * (1 + 1e-15)


def test_the_total_variation_of_a_floored_normal_table_is_within_the_charge():
    """One coordinate, sigma = 8 / 255: the exact distance between the drawn law and the rounded Gaussian."""
    with mpmath.workdps(60):
        sigma = mpmath.mpf(8)
        edge = 12 * 8
        exact = [mpmath.ncdf((k + mpmath.mpf("0.5")) / sigma) for k in range(-edge, edge)]
        drawn = [min(int(mpmath.floor(p * 2**63)), 2**63 - 1) for p in exact]
        cells = [
            mpmath.mpf(b - a) / 2**63 - (d - c)
            for a, b, c, d in zip([0, *drawn], [*drawn, 2**63], [0, *exact], [*exact, 1], strict=True)
        ]
        outside = 2 * mpmath.ncdf(-12)
        distance = sum(map(abs, cells)) / 2 + outside
        assert 0 < distance <= mpmath.mpf(noise_charge(1, 1, 2 * edge))


@given(st.floats(1e-9, 0.49), st.floats(0, 0.5))
def test_what_is_left_of_alpha(alpha, share):
    charge = alpha * share * 0.999
    left = charged_alpha(alpha, charge)
    assert Fraction(left) + Fraction(charge) <= Fraction(alpha)
    assert left >= alpha / 2


@pytest.mark.parametrize("charge", [0.00051, 0.001, 1.0, math.inf])
def test_a_charge_of_more_than_half_is_refused(charge):
    with pytest.raises(ValueError, match=r"charge: expected at most half of alpha=0\.001.*lower the draws"):
        charged_alpha(0.001, charge)
