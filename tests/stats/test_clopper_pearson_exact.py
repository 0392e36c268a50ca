"""Clopper-Pearson bounds against exact sums of the binomial: one-sided, no tolerance, nothing simulated."""

import math
import random
from fractions import Fraction

import pytest
import scipy
from flint import arb
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from certify.errors import SoundnessError
from certify.stats import failure_upper, success_lower, success_upper
from certify.stats.clopper_pearson import RAISES, TAIL_ERROR
from tests.stats.binomial_truth import ball_pmf, ball_tail, exact_pmf

ALPHAS = (0.3, 0.05, 0.001, 1e-6, 1e-12)


def wilson(k, n, alpha):
    return 1.0 - proportion_confint(k, n, alpha=2 * alpha, method="wilson")[0]


def jeffreys(k, n, alpha):
    return 1.0 - scipy.special.betaincinv(k + 0.5, n - k + 0.5, alpha)


def normal(k, n, alpha):
    return 1.0 - (k / n - scipy.special.ndtri(1 - alpha) * math.sqrt(k * (n - k) / n**3))


def one_too_many(k, n, alpha):
    return scipy.special.betainccinv(n - k, k + 1, alpha) if k < n else failure_upper(n, n, alpha)


def levels(bound, n, alpha):
    """The exact failure probability just below each jump of the bound: the largest values it takes over all p."""
    bounds = [Fraction(bound(k, n, alpha)) for k in range(n + 1)]
    for jump in bounds:
        failure = jump + Fraction(1, 2**80)
        if 0 < failure < 1:
            pmf = exact_pmf(n, 1 - failure)
            yield sum(pmf[k] for k in range(n + 1) if bounds[k] < failure)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("n", [1, 2, 3, 7, 20, 41])
def test_the_exact_failure_probability_is_at_most_alpha_at_every_jump(n, alpha):
    assert max(levels(failure_upper, n, alpha), default=0) <= Fraction(alpha)


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_coverage_at_a_thousand_draws(alpha):
    n = 1000
    bounds = [failure_upper(k, n, alpha) for k in range(n + 1)]
    for jump in bounds[1::37]:
        failure = arb(jump) + arb(2) ** -80
        pmf = ball_pmf(n, 1 - failure)
        assert sum(pmf[k] for k in range(n + 1) if arb(bounds[k]) < failure) <= arb(alpha)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_tightness_the_level_reaches_alpha(alpha):
    assert max(levels(failure_upper, 20, alpha)) >= Fraction(alpha) * Fraction(999_999, 1_000_000)


@pytest.mark.parametrize("mutant", [wilson, jeffreys, normal, one_too_many])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_the_exact_level_condemns_the_wrong_intervals(mutant, alpha):
    assert max(levels(mutant, 20, alpha)) > Fraction(alpha) * Fraction(6, 5)


def random_case(rng):
    n = int(10 ** rng.uniform(0, 9))
    few = min(n, int(10 ** rng.uniform(0, math.log10(n + 1))))
    k = rng.choice([0, rng.randint(0, n), few])
    return rng.choice([k, n - k]), n, 10 ** rng.uniform(-12, math.log10(0.3))


def check_in_balls(seed, cases):
    rng = random.Random(seed)
    for case in range(cases):
        k, n, alpha = random_case(rng)
        q = failure_upper(k, n, alpha)
        assert 0.0 < q <= 1.0
        assert q == 1.0 or ball_tail(n, k, q) <= arb(alpha), (k, n, alpha)
        tighter = q / (1 + 2e-7)  # mostly 3e-8 would do
        assert k == 0 or case % 5 or ball_tail(n, k, tighter) > arb(alpha), (k, n, alpha)


def test_hundreds_of_bounds_in_ball_arithmetic():
    check_in_balls(20_240_601, 400)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_many_bounds_in_ball_arithmetic(seed):
    check_in_balls(seed, 5000)


@pytest.mark.parametrize(
    "k,n,alpha",
    [
        (822_630_893, 822_630_894, 0.2762770556463884),
        (598_741_244, 598_741_249, 0.409942911105055),
        (501_840_388, 501_840_390, 0.31621388615721047),
    ],
)
def test_where_the_quantile_is_off_by_more_than_the_first_raise(k, n, alpha):
    first = float(scipy.special.betainccinv(n - k + 1, k, alpha)) * (1 + RAISES[0])
    assert ball_tail(n, k, first) > arb(alpha)
    assert ball_tail(n, k, failure_upper(k, n, alpha)) <= arb(alpha)


def check_few_failures(seed, cases):
    """The corner where the library's search stops early: many draws, few failures, any alpha."""
    rng = random.Random(seed)
    for _ in range(cases):
        n = int(10 ** rng.uniform(5, 9))
        k, alpha = n - int(10 ** rng.uniform(0, 2)), 10 ** rng.uniform(-3, math.log10(0.49))
        assert ball_tail(n, k, failure_upper(k, n, alpha)) <= arb(alpha), (k, n, alpha)


def test_few_failures_in_many_draws():
    check_few_failures(11, 200)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_few_failures_in_many_draws_at_length(seed):
    check_few_failures(seed, 5000)


@pytest.mark.slow
def test_the_forward_tail_is_within_a_tenth_of_its_allowance():
    rng = random.Random(3)
    for _ in range(5000):
        k, n, alpha = random_case(rng)
        q = failure_upper(k, n, alpha)
        if q < 1.0:
            tail = arb(float(scipy.special.betaincc(n - k + 1, k, q)))
            assert abs(tail / ball_tail(n, k, q) - 1) <= TAIL_ERROR / 10, (k, n, alpha)


def test_the_ball_comparison_finds_the_quantile_that_is_not_raised():
    rng = random.Random(5)
    below = 0
    for _ in range(200):
        k, n, alpha = random_case(rng)
        if 0 < k < n:
            q = float(scipy.special.betainccinv(n - k + 1, k, alpha))
            below += q < 1.0 and bool(ball_tail(n, k, q) > arb(alpha))
    assert below > 0


def test_check_values():
    rows = (
        (100_000, 100_000, 0.9999309248330094),
        (99_000, 100_000, 0.9889893403774748),
        (990, 1000, 0.9760361871553114),
        (10, 10, 0.5011872336),
        (50_200, 100_000, 0.49710895),
    )
    for k, n, exact in rows:
        assert exact * (1 - 5e-8) <= success_lower(k, n, 0.001) <= exact + 1e-9
    assert 6.907516699e-5 <= success_upper(0, 100_000, 0.001) <= 6.907516699e-5 * (1 + 2e-8)
    assert 0.01111578453 <= success_upper(1000, 100_000, 0.001 / 3) <= 0.01111578453 * (1 + 2e-8)


@pytest.mark.parametrize("alpha", [2.0**-900, 1e-100, math.nextafter(0.5, 0)])
def test_the_ends_of_alpha(alpha):
    for k, n in ((1, 1), (1, 10), (9, 10), (10, 10), (600, 1000), (10**9 - 3, 10**9), (5 * 10**8, 10**9)):
        q = failure_upper(k, n, alpha)
        assert q == 1.0 or ball_tail(n, k, q, bits=256) <= arb(alpha)


@pytest.mark.parametrize("n", [1, 10, 1000, 10**9])
def test_no_votes_and_all_votes(n):
    assert failure_upper(0, n, 0.001) == 1.0
    assert success_lower(0, n, 0.001) == 0.0
    assert success_upper(n, n, 0.001) == 1.0
    assert 0.0 < failure_upper(n, n, 0.001) < 1.0


@pytest.mark.parametrize("k,n", [(1, 3), (5, 10), (10, 10), (977, 1000), (99_000, 100_000)])
@pytest.mark.parametrize("alpha", [0.05, 0.001, 1e-6])
def test_statsmodels_two_sided_interval_at_twice_alpha(k, n, alpha):
    lower, upper = proportion_confint(k, n, alpha=2 * alpha, method="beta")
    assert failure_upper(k, n, alpha) == pytest.approx(1.0 - lower, rel=2e-8)
    assert success_upper(k, n, alpha) == pytest.approx(upper, rel=2e-8)


counts = st.integers(1, 10**9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
alphas = st.floats(1e-12, 0.49)


@given(counts, alphas)
def test_success_bounds_enclose_the_share_and_complement(pair, alpha):
    k, n = pair
    assert success_lower(k, n, alpha) <= k / n <= success_upper(k, n, alpha)
    assert success_upper(n - k, n, alpha) == failure_upper(k, n, alpha)
    assert Fraction(success_lower(k, n, alpha)) <= 1 - Fraction(failure_upper(k, n, alpha))


@given(counts, alphas)
def test_one_more_vote_never_hurts(pair, alpha):
    k, n = pair
    assert k == n or failure_upper(k + 1, n, alpha) <= failure_upper(k, n, alpha) * (1 + 2e-7)


@given(counts, alphas, alphas)
def test_more_alpha_never_hurts(pair, one, other):
    k, n = pair
    assert failure_upper(k, n, max(one, other)) <= failure_upper(k, n, min(one, other)) * (1 + 2e-7)


@given(counts, alphas)
def test_one_more_draw_that_fails_never_helps_and_one_that_succeeds_never_hurts(pair, alpha):
    k, n = pair
    if n < 10**9:
        assert failure_upper(k, n, alpha) <= failure_upper(k, n + 1, alpha) * (1 + 2e-7)
        assert failure_upper(k + 1, n + 1, alpha) <= failure_upper(k, n, alpha) * (1 + 2e-7)


WRONG = [lambda q: math.nan, lambda q: 0.0, lambda q: q * 0.999, lambda q: q - 0.5, lambda q: -q, lambda q: 1.5 * q]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_quantile_of_the_library_changes_no_bound_by_much(monkeypatch, wrong):
    right = failure_upper(990, 1000, 0.001)
    library = scipy.special.betainccinv
    monkeypatch.setattr(scipy.special, "betainccinv", lambda a, b, y: wrong(library(a, b, y)))
    found = failure_upper(990, 1000, 0.001)
    assert ball_tail(1000, 990, found) <= arb(0.001)
    assert right * (1 - 3e-7) <= found <= right * (1 + 3e-7)


@pytest.mark.parametrize("wrong", [math.nan, 1.0, math.inf])
def test_a_library_that_proves_nothing_is_refused(monkeypatch, wrong):
    monkeypatch.setattr(scipy.special, "betaincc", lambda *_: wrong)
    with pytest.raises(SoundnessError, match="k=990, n=1000"):
        failure_upper(990, 1000, 0.001)


@pytest.mark.parametrize("n", [50_000_000, 132_579_327, 10**9])
@pytest.mark.parametrize("alpha", [0.25, 0.001, 1e-12])
def test_a_count_whose_library_quantile_is_wrong_is_bounded_like_its_neighbours(n, alpha):
    """At k = 1000, with n this large, the library ends its search elsewhere."""
    less, found, more = (failure_upper(k, n, alpha) for k in (999, 1000, 1001))
    assert more * (1 - 3e-7) <= found <= less * (1 + 3e-7)
    assert ball_tail(n, 1000, found) <= arb(alpha)
    assert ball_tail(n, 1000, found * (1 - 4e-7)) > arb(alpha)
