"""Quantiles, segmentation, top-k and paired comparisons: published values, and exact failure probabilities."""

import itertools
import math

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import beta, binom

from certify.stats import (
    certified_by_holm,
    compare_paired,
    is_not_inferior,
    quantile_ranks,
    smallest_margin,
    top_k_radius,
    top_k_radius_of_bounds,
)


@pytest.mark.parametrize("n, ranks", [(1000, (261, 740)), (10_000, (2934, 7067))])
def test_published_ranks_of_the_median(n, ranks):
    assert quantile_ranks(n, 0.5, 0.5, 0.001) == ranks


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("n", [10, 100, 1000])
def test_ranks_fail_with_at_most_alpha(n, p, ratio):
    """For a continuous output the number of draws at or below a quantile is binomial."""
    alpha = 0.01
    low, high = quantile_ranks(n, p, ratio, alpha)
    below, above = ndtr(ndtri(p) - ratio), ndtr(ndtri(p) + ratio)
    wrong_low = 0.0 if low is None else binom.cdf(low - 1, n, below)
    wrong_high = 0.0 if high is None else binom.sf(high - 1, n, above)
    assert wrong_low + wrong_high <= alpha
    if low is not None:
        assert binom.cdf(low, n, below) > 0.99 * alpha / 2  # the next rank would fail too often
    assert low is None or high is None or low <= high


def test_few_draws_bound_nothing():
    assert quantile_ranks(3, 0.5, 1.0, 0.001) == (None, None)


def test_holm_rejects_in_rising_order_and_stops_at_the_first_failure():
    votes = [100, 99, 90, 80, 75]
    kept = certified_by_holm(votes, 100, 0.75, 0.05)
    tails = [binom.sf(k - 1, 100, 0.75) for k in votes]
    expected, alive = [], True
    for place, tail in enumerate(tails):
        alive = alive and tail <= 0.05 / (len(votes) - place)
        expected.append(alive)
    assert kept.tolist() == expected


def test_a_pixel_behind_the_first_failure_is_not_kept_though_its_own_share_would_do():
    tails = [binom.sf(k - 1, 100, 0.75) for k in range(101)]
    k = next(k for k, tail in enumerate(tails) if tail <= 0.05)
    assert tails[k] > 0.05 / 2
    assert certified_by_holm([k], 100, 0.75, 0.05).tolist() == [True]
    assert certified_by_holm([k, k], 100, 0.75, 0.05).tolist() == [False, False]


def test_holm_fails_with_at_most_alpha_on_independent_pixels():
    """Two pixels at the threshold, one clearly above: the exact probability that a bad one is kept."""
    n, tau, alpha = 12, 0.5, 0.1
    wrong = 0.0
    laws = [binom.pmf(np.arange(n + 1), n, p) for p in (tau, tau, 0.95)]
    for votes in itertools.product(range(n + 1), repeat=3):
        if certified_by_holm(votes, n, tau, alpha)[:2].any():
            wrong += math.prod(law[k] for law, k in zip(laws, votes, strict=True))
    assert 0.0 < wrong <= alpha


@pytest.mark.parametrize("votes", [[101], [-1], [0.5], [[1]]])
def test_holm_refuses_what_are_no_counts(votes):
    with pytest.raises(ValueError, match="votes"):
        certified_by_holm(votes, 100, 0.75, 0.05)


def test_published_radii_of_top_k():
    assert top_k_radius_of_bounds(0.6, [0.3, 0.2], 0.5) == pytest.approx(0.14707, abs=5e-6)
    assert top_k_radius_of_bounds(0.6, [0.3, 0.2, 0.1], 0.5) == pytest.approx(0.25706, abs=1e-5)


def test_top_one_is_the_two_interval_radius():
    for q, b in ((0.1, 0.05), (0.3, 0.2), (0.01, 0.01)):
        expected = 0.5 * 0.5 * (-ndtri(q) - ndtri(b))
        found = top_k_radius_of_bounds(q, [b], 0.5)
        assert expected - 1e-9 <= found <= expected


@pytest.mark.parametrize("k", [1, 2, 3])
def test_each_rival_of_top_k_has_its_share_of_a_tenth_of_alpha(k):
    """Quantiles of scipy's beta law, not raised: limits at these shares give the radius and hardly more."""
    counts, n, alpha = (520, 300, 150, 30, 0), 1000, 0.001
    failure = 1.0 - beta.ppf(0.9 * alpha, counts[0], n - counts[0] + 1)
    uppers = [beta.ppf(1.0 - 0.1 * alpha / k, count + 1, n - count) for count in counts[1 : k + 1]]
    most = top_k_radius_of_bounds(failure, uppers, 0.5)
    assert most - 1e-6 < top_k_radius(counts, 0, k, alpha, 0.5) <= most + 1e-9
    if k > 1:
        without_shares = [beta.ppf(1.0 - 0.1 * alpha, count + 1, n - count) for count in counts[1 : k + 1]]
        assert top_k_radius_of_bounds(failure, without_shares, 0.5) > most + 1e-4


def test_top_k_grows_with_k_and_never_certifies_nothing():
    counts = (500, 300, 150, 50, 0)
    radii = [top_k_radius(counts, 1, k, 0.001, 0.5) for k in (1, 2, 3)]
    assert radii[0] < 0.0 < radii[1] < radii[2]
    assert not top_k_radius((0, 10, 0), 0, 1, 0.001, 0.5) > 0.0


def test_top_k_is_no_larger_than_the_radius_of_a_partition_of_the_line():
    """Classes are intervals of a one-dimensional noise: the true radius is where the class falls behind k others."""
    sigma, cuts = 0.5, (-0.9, -0.2, 0.35, 0.8)

    def probabilities(shift: float) -> np.ndarray:
        ends = ndtr((np.array([-math.inf, *cuts, math.inf]) - shift) / sigma)
        return np.diff(ends)

    here = probabilities(0.0)
    for selected, k in itertools.product(range(5), (1, 2, 3)):
        uppers = sorted(np.delete(here, selected), reverse=True)[:k]
        found = top_k_radius_of_bounds(1.0 - here[selected], uppers, sigma)
        for shift in np.linspace(-max(found, 0.0), max(found, 0.0), 41) * 0.999:
            there = probabilities(shift)
            assert not found > 0.0 or (np.delete(there, selected) >= there[selected]).sum() < k


@pytest.mark.parametrize(
    "n, lower", [(200, -0.0183), (500, -0.0074), (1000, -0.0037), (2000, -0.0018), (10_000, -0.0004)]
)
def test_two_equal_runs_show_only_so_much(n, lower):
    assert compare_paired(0, 0, n, 0.05).difference_lower == pytest.approx(lower, abs=6e-5)
    assert is_not_inferior(compare_paired(0, 0, n, 0.05), smallest_margin(n, 0.05))


def test_ten_won_and_ten_lost():
    found = compare_paired(10, 10, 1000, 0.05)
    assert found.difference_lower == pytest.approx(-0.0135, abs=5e-5)
    assert found.mcnemar == pytest.approx(binom.sf(9, 20, 0.5))


@pytest.mark.parametrize("lost, won", [(0.1, 0.1), (0.02, 0.05), (0.3, 0.0), (0.0, 0.0)])
def test_the_lower_bound_exceeds_the_truth_with_at_most_delta(lost, won):
    n, delta, wrong = 30, 0.1, 0.0
    for b in range(n + 1):
        for c in range(n - b + 1):
            if compare_paired(c, b, n, delta).difference_lower > won - lost:
                ways = math.comb(n, b) * math.comb(n - b, c)
                wrong += ways * lost**b * won**c * (1.0 - lost - won) ** (n - b - c)
    assert wrong <= delta


def test_what_is_lost_and_won_fits_the_examples():
    with pytest.raises(ValueError, match="lost"):
        compare_paired(6, 5, 10, 0.05)
    assert compare_paired(10, 0, 10, 0.05).difference == 1.0
