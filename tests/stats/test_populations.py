"""Statements about a set of examples: published tables, exact binomial sums, and the three answers of a requirement."""

import math
from fractions import Fraction

import pytest
from flint import arb
from hypothesis import given
from hypothesis import strategies as st

from certify.stats import (
    Requirement,
    alpha_for_all,
    expected_false_upper,
    failure_upper,
    false_certificates_quantile,
    list_requirement,
    population_limits,
    population_requirement,
    radius_l2,
    smallest_population_sample,
    success_lower,
    success_upper,
)
from tests.stats.binomial_truth import ball_tail, exact_pmf, exact_tail

ALPHA = 0.001
NEEDED_AT_95 = {
    100: (59, 69, 78, 87, 96),
    200: (113, 132, 152, 170, 188),
    500: (270, 319, 368, 416, 462),
    1000: (528, 627, 725, 822, 916),
    2000: (1039, 1238, 1435, 1631, 1823),
    10_000: (5088, 6086, 7079, 8069, 9051),
}
NEEDED_AT_99 = {
    100: (63, 72, 81, 90, 97, 100),
    200: (118, 137, 156, 174, 190, 197),
    500: (277, 327, 375, 421, 466, 487),
    1000: (538, 637, 735, 830, 923, 966),
    2000: (1054, 1253, 1449, 1643, 1832, 1923),
    10_000: (5122, 6119, 7110, 8096, 9071, 9552),
}
TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
NEEDED = [
    (n, target, confidence, count)
    for confidence, table in ((0.95, NEEDED_AT_95), (0.99, NEEDED_AT_99))
    for n, row in table.items()
    for target, count in zip(TARGETS, row, strict=False)
]


@pytest.mark.parametrize("n,target,confidence,count", NEEDED)
def test_required_counts(n, target, confidence, count):
    rule = population_requirement(n, target, confidence=confidence, alpha=ALPHA)
    assert rule.passes_from == count
    assert population_limits(count, n, confidence=confidence, alpha=ALPHA)[0] >= target
    assert not population_limits(count - 1, n, confidence=confidence, alpha=ALPHA)[0] >= target


@pytest.mark.parametrize("n,quantiles", [(500, (2, 3, 4)), (1000, (3, 4, 5)), (10_000, (15, 18, 21))])
def test_false_certificates_among_a_list(n, quantiles):
    assert tuple(false_certificates_quantile(n, ALPHA, rho) for rho in (0.05, 0.01, 0.001)) == quantiles


@pytest.mark.parametrize("alpha", [0.3, 0.01, 0.001, 1e-9])
@pytest.mark.parametrize("rho", [0.4, 0.05, 1e-6, 1e-12])
@pytest.mark.parametrize("n", [1, 2, 10, 57])
def test_the_quantile_is_the_least_one_by_exact_sums(n, alpha, rho):
    q = false_certificates_quantile(n, alpha, rho)
    assert exact_tail(n, q + 1, Fraction(alpha)) <= Fraction(rho)
    assert q == 0 or exact_tail(n, q, Fraction(alpha)) > Fraction(rho)


@given(st.integers(1, 10**6), st.floats(1e-9, 0.3), st.floats(1e-9, 0.4))
def test_the_quantile_holds_in_ball_arithmetic(n, alpha, rho):
    q = false_certificates_quantile(n, alpha, rho)
    assert q == n or ball_tail(n, q + 1, 1 - arb(alpha)) <= arb(rho)


def population_error(n, p, alpha, confidence):
    """The exact P(lower > p) when certificates are as often false as they may be: P(V = 1) = p + alpha (1 - p)."""
    certified = p + Fraction(alpha) * (1 - p)
    lowers = [Fraction(population_limits(c, n, confidence=confidence, alpha=alpha)[0]) for c in range(n + 1)]
    return sum(mass for lower, mass in zip(lowers, exact_pmf(n, certified), strict=True) if lower > p)


@pytest.mark.parametrize("alpha", [0.0, 0.001, 0.1])
@pytest.mark.parametrize("confidence", [0.75, 0.95, 0.999])
def test_the_lower_limit_covers_at_every_jump(alpha, confidence):
    n = 25
    for count in range(1, n + 1):
        jump = Fraction(population_limits(count, n, confidence=confidence, alpha=alpha)[0])
        if jump > 0:
            p = jump * (1 - Fraction(1, 2**80))
            assert population_error(n, p, alpha, confidence) <= 1 - Fraction(confidence)


def test_forgetting_the_false_certificates_is_convicted():
    """The mutant that reports L itself: its exact error at a jump exceeds the stated one."""
    n, alpha, confidence = 25, 0.1, 0.95
    worst = Fraction(0)
    lowers = [Fraction(success_lower(c, n, 1 - confidence)) for c in range(n + 1)]
    for jump in lowers[1:]:
        p = jump * (1 - Fraction(1, 2**80))
        pmf = exact_pmf(n, p + Fraction(alpha) * (1 - p))
        worst = max(worst, sum(mass for lower, mass in zip(lowers, pmf, strict=True) if lower > p))
    assert worst > Fraction(2, 10)


def test_the_upper_limit_is_that_of_the_share_certified():
    for count in (0, 3, 25):
        upper = population_limits(count, 25, confidence=0.75, alpha=0.1)[1]
        assert upper == success_upper(count, 25, 0.25)
        assert count == 25 or exact_tail(25, 25 - count, 1 - Fraction(upper)) <= Fraction(1, 4)


def test_deterministic_certificates_get_the_plain_interval():
    assert population_limits(90, 100, confidence=0.75, alpha=0.0)[0] == success_lower(90, 100, 0.25)
    assert population_limits(0, 100, confidence=0.95, alpha=0.3)[0] == 0.0
    assert population_limits(100, 100, confidence=0.95, alpha=0.0)[1] == 1.0


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0, 0.4))
def test_limits_enclose_the_share_and_alpha_only_lowers(pair, alpha):
    count, n = pair
    alpha = alpha if alpha > 1e-250 else 0.0
    lower, upper = population_limits(count, n, confidence=0.95, alpha=alpha)
    assert 0.0 <= lower <= count / n <= upper <= 1.0
    assert lower <= population_limits(count, n, confidence=0.95, alpha=0.0)[0]
    certified = Fraction(success_lower(count, n, 1 - 0.95))
    assert Fraction(lower) <= max(Fraction(0), (certified - Fraction(alpha)) / (1 - Fraction(alpha)))


def test_the_lower_limit_is_rounded_down_in_every_step():
    for count in range(40, 1001, 7):
        for alpha in (0.001, 0.01, 0.1, 0.3):
            certified = Fraction(success_lower(count, 1000, 1 - 0.95))
            lower = Fraction(population_limits(count, 1000, confidence=0.95, alpha=alpha)[0])
            exact = (certified - Fraction(alpha)) / (1 - Fraction(alpha))
            assert lower <= max(Fraction(0), exact)
            assert lower >= exact - Fraction(1, 2**50)


@given(st.integers(1, 3000), st.floats(0, 1), st.sampled_from([0.0, 0.001, 0.1]))
def test_a_requirement_says_what_the_limits_say(n, target, alpha):
    rule = population_requirement(n, target, confidence=0.95, alpha=alpha)
    assert -1 <= rule.fails_to < rule.passes_from <= n + 1
    for count in {0, rule.fails_to, rule.fails_to + 1, rule.passes_from - 1, rule.passes_from, n} & set(range(n + 1)):
        lower, upper = population_limits(count, n, confidence=0.95, alpha=alpha)
        expected = "passed" if lower >= target else "failed" if upper < target else "undecided"
        assert rule.verdict(count) == expected


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 60), st.integers(0, 20))
def test_an_early_verdict_is_the_verdict_of_the_whole_run(low, gap, count, open_examples):
    rule = Requirement(passes_from=low + gap, fails_to=low - 1)
    early = rule.verdict(count, open_examples)
    finals = {rule.verdict(count + more) for more in range(open_examples + 1)}
    assert early == "undecided" or finals == {early}


def test_a_verdict_refuses_what_is_no_count():
    for bad in (math.nan, -1, 1.0, None, True):
        with pytest.raises(ValueError, match="count: expected"):
            Requirement(5, 4).verdict(bad)
        with pytest.raises(ValueError, match="open_examples: expected"):
            Requirement(5, 4).verdict(3, bad)


@pytest.mark.parametrize("target,n,need", [(0.55, 100, 55), (0.7, 10, 7), (0.1, 30, 3), (1.0, 7, 7), (0.0, 7, 0)])
def test_a_target_is_the_decimal_it_is_written_as(target, n, need):
    assert list_requirement(n, target, alpha=0.0, rho=0.05) == Requirement(need, need - 1)


def test_a_list_needs_the_false_ones_on_top():
    assert list_requirement(10_000, 0.9, alpha=ALPHA, rho=0.01) == Requirement(9018, 9017)
    assert list_requirement(500, 1.0, alpha=ALPHA, rho=0.05).verdict(500) == "failed"
    assert list_requirement(500, 0.0, alpha=ALPHA, rho=0.05).verdict(0) == "passed"


def test_what_no_count_can_show():
    assert population_requirement(20, 0.9, confidence=0.95, alpha=ALPHA).passes_from == 21
    assert population_requirement(20, 0.0, confidence=0.95, alpha=ALPHA) == Requirement(0, -1)
    assert smallest_population_sample(1.0, confidence=0.95, alpha=ALPHA) is None
    assert smallest_population_sample(0.0, confidence=0.95, alpha=ALPHA) == 1


@pytest.mark.parametrize("target", [0.3, 0.5, 0.9, 0.99])
def test_the_least_number_of_examples(target):
    n = smallest_population_sample(target, confidence=0.95, alpha=ALPHA)
    assert population_requirement(n, target, confidence=0.95, alpha=ALPHA).passes_from == n
    assert population_requirement(n - 1, target, confidence=0.95, alpha=ALPHA).passes_from == n


@given(st.integers(1, 10**9), st.floats(2.0**-900, 0.49))
def test_shares_and_expectations_are_on_their_side(n, alpha):
    assert n * Fraction(alpha_for_all(n, alpha)) <= Fraction(alpha)
    assert Fraction(expected_false_upper(n, alpha)) >= n * Fraction(alpha)
    assert expected_false_upper(n, 0.0) == 0.0


@pytest.mark.parametrize("examples,ratio", [(1, 3.8115), (500, 3.6498), (10_000, 3.5967)])
def test_radii_when_every_certificate_must_hold(examples, ratio):
    q = failure_upper(100_000, 100_000, alpha_for_all(examples, ALPHA))
    assert radius_l2(1.0, q, q) == pytest.approx(ratio, abs=6e-5)
