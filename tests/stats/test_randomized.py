"""The randomized bound: exact coverage by sums over counts and integrals over the random number."""

import math

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import binom

from certify.stats import BOUNDS, failure_upper
from certify.stats.randomized import failure_upper_randomized, uniform_of


def chance_of_failure(n, alpha, p):
    """P(p_L(S, W) > p): for each count, the length of the W at which the bound fails, found by bisection."""
    total = 0.0
    for k in range(n + 1):
        low, high = 0.0, 1.0  # the bound fails for W below a threshold: it rises with W
        if failure_upper_randomized(k, n, alpha, 0.0) >= 1.0 - p:
            continue
        for _ in range(40):
            middle = (low + high) / 2.0
            fails = failure_upper_randomized(k, n, alpha, middle) < 1.0 - p
            low, high = (middle, high) if fails else (low, middle)
        total += high * float(binom.pmf(k, n, p))
    return total


@pytest.mark.parametrize("n, alpha", [(10, 0.05), (25, 0.01), (40, 0.001)])
@pytest.mark.parametrize("p", [0.3, 0.5, 0.77, 0.93])
def test_the_error_is_alpha_itself(n, alpha, p):
    """Where no count reaches the cap; the deterministic bound uses less."""
    found = chance_of_failure(n, alpha, p)
    assert found <= alpha
    if p < alpha ** (1.0 / (n + 1)):
        assert found == pytest.approx(alpha, rel=1e-6)
    deterministic = sum(binom.pmf(k, n, p) for k in range(n + 1) if failure_upper(k, n, alpha) < 1.0 - p)
    assert deterministic <= found


def test_above_the_cap_nothing_fails():
    n, alpha = 10, 0.05
    assert chance_of_failure(n, alpha, 0.5 + alpha ** (1 / 11) / 2) == 0.0
    assert failure_upper_randomized(n, n, alpha, 2.0**-53) >= 1.0 - alpha ** (1 / 11)


@pytest.mark.parametrize(
    "k, n, alpha", [(95, 100, 0.001), (999, 1000, 1e-6), (50, 60, 0.05), (100_000, 100_000, 0.001)]
)
def test_it_solves_its_equation_from_the_safe_side(k, n, alpha):
    for w in (1e-3, 0.2, 0.9):
        q = failure_upper_randomized(k, n, alpha, w)
        tail = binom.sf(k, n, 1.0 - q) + w * binom.pmf(k, n, 1.0 - q)
        assert tail <= alpha * (1.0 + 1e-12)
        if k < n or (alpha / w) ** (1.0 / n) < alpha ** (1.0 / (n + 1)):
            assert tail == pytest.approx(alpha, rel=1e-4)


def test_it_lies_between_the_deterministic_bounds_and_falls_with_the_number():
    bounds = [failure_upper_randomized(90, 100, 0.001, w) for w in np.linspace(0.0, 1.0, 21)]
    assert bounds == sorted(bounds)
    assert failure_upper(91, 100, 0.001) * (1 - 1e-7) <= bounds[0] < bounds[-1] <= failure_upper(90, 100, 0.001)
    assert failure_upper_randomized(0, 100, 0.001, 0.5) == 1.0


def test_all_successes_never_give_an_infinite_radius():
    radius = BOUNDS["randomized-clopper-pearson"]((100, 0), 0, 0.001, 1.0, (), lambda s, a, b: -s * ndtri(a), 2.0**-53)
    assert radius <= ndtri(0.001 ** (1 / 101))


def test_without_its_number_it_is_clopper_pearson():
    for counts in ((990, 10), (60, 40), (5, 95)):
        plain = BOUNDS["clopper-pearson"](counts, 0, 0.001, 0.25)
        assert BOUNDS["randomized-clopper-pearson"](counts, 0, 0.001, 0.25) == pytest.approx(plain, rel=1e-6)


def test_the_mean_radius_grows_most_where_draws_are_few():
    """Averaged over the number, at a vote share of 0.9: some percent at 100 draws, almost nothing at 10,000."""
    gains = []
    for n in (100, 10_000):
        k = n * 9 // 10
        plain = -ndtri(failure_upper(k, n, 0.001))
        numbers = (np.arange(50) + 0.5) / 50
        gains.append(np.mean([-ndtri(failure_upper_randomized(k, n, 0.001, w)) for w in numbers]) / plain - 1)
    assert 0.01 < gains[0] < 0.1
    assert 0.0 < gains[1] < 0.01


def test_the_number_is_a_function_of_seed_and_example_and_looks_uniform():
    found = np.array([uniform_of(seed, f"{i}.png", "ab") for seed in range(4) for i in range(1000)])
    assert uniform_of(3, "7.png", "ab") == found[3007]
    assert len(set(found)) == 4000
    assert found.min() > 0.0
    assert found.max() <= 1.0
    ecdf = np.arange(1, 4001) / 4000
    assert np.abs(np.sort(found) - ecdf).max() < 1.95 / math.sqrt(4000)  # Kolmogorov's 0.1 % point; the seeds are fixed


@pytest.mark.parametrize("uniform", [-0.1, 1.1, math.nan, True])
def test_a_number_outside_its_range_is_refused(uniform):
    with pytest.raises(ValueError, match="uniform"):
        failure_upper_randomized(5, 10, 0.05, uniform)
