"""Radii against the normal law in ball arithmetic, against published values, and the refusals."""

import math
import random
from fractions import Fraction

import pytest
from flint import arb, ctx
from hypothesis import given
from hypothesis import strategies as st

from certify.rounding import floor_text
from certify.stats import BOUNDS, class_buckets, failure_upper, radius_l2, smallest_n, split_alpha, success_upper
from tests.stats.binomial_truth import ball_quantile

SINGLE, PAIR = BOUNDS["clopper-pearson"], BOUNDS["two-interval"]


def exact_radius(sigma, q, b):
    with ctx.workprec(200):
        return arb(sigma) / 2 * (ball_quantile(q) + ball_quantile(b))


def random_probability(rng):
    if rng.random() < 0.3:
        return 0.5 + rng.uniform(-1, 1) * 10 ** rng.uniform(-15, -0.4)
    return rng.choice([rng.random(), 10 ** rng.uniform(-300, 0)])


def check_radii(seed, cases):
    rng = random.Random(seed)
    for _ in range(cases):
        q, sigma = random_probability(rng), 10 ** rng.uniform(-3, 3)
        b = rng.choice([q, min(q, random_probability(rng)), random_probability(rng)])
        exact = exact_radius(sigma, q, b)
        radius = radius_l2(sigma, q, b)
        assert arb(radius) <= exact, (sigma, q, b)
        assert exact - arb(radius) <= arb(sigma) * 1e-10, (sigma, q, b)


def test_radii_are_below_the_exact_radius_and_near_it():
    check_radii(7, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_many_radii_are_below_the_exact_radius(seed):
    check_radii(seed, 5000)


@pytest.mark.parametrize("power", [-500, -80, 0, 80, 500])
def test_radii_at_the_ends_of_sigma(power):
    for q in (1e-300, 1e-5, 0.3, math.nextafter(0.5, 0)):
        assert arb(radius_l2(2.0**power, q, q)) <= exact_radius(2.0**power, q, q)


@given(st.floats(1e-300, 1.0), st.floats(1e-300, 1.0), st.floats(1e-3, 1e3), st.integers(-60, 60))
def test_scaling_sigma_by_a_power_of_two_scales_the_radius(q, b, sigma, power):
    unit, scaled = radius_l2(sigma, q, b), radius_l2(sigma * 2.0**power, q, b)
    assert scaled == unit * 2.0**power


@given(st.floats(1e-300, 1.0), st.floats(1e-300, 1.0), st.floats(1e-300, 1.0), st.floats(1e-3, 1e3))
def test_a_larger_bound_never_gives_a_larger_radius(q, b, c, sigma):
    slack = sigma * 1e-9
    assert radius_l2(sigma, q, max(b, c)) <= radius_l2(sigma, q, min(b, c)) + slack
    assert radius_l2(sigma, max(b, c), q) <= radius_l2(sigma, min(b, c), q) + slack


def test_one_sigma_is_the_quantile_of_its_normal_probability():
    assert 0.499999999 < radius_l2(0.5, 1 - 0.8413447460685429, 1 - 0.8413447460685429) < 0.5000000000001


CHECK_VALUES = (
    (100_000, 100_000, 0.25, 0.9528641402277169),
    (99_000, 100_000, 0.25, 0.5724999878525993),
    (990, 1000, 0.25, 0.4945023944721768),
    (10, 10, 0.25, 0.0007439863169845),
)


@pytest.mark.parametrize("k,n,sigma,radius", CHECK_VALUES)
def test_single_class_check_values(k, n, sigma, radius):
    assert SINGLE((k, n - k), 0, 0.001, sigma) == pytest.approx(radius, abs=1e-13)


PAIR_CHECK_VALUES = (
    ((6100, 1900, 1000, 500, 300, 100, 60, 20, 15, 5), 0.26591539, 0.1199644134),
    ((4400, 2900, 1100, 1000, 500, 50, 30, 10, 5, 5), 0.07840884, -math.inf),
    ((3000, 1500, 1000, 1000, 1000, 1000, 500, 500, 300, 200), 0.10344475, -math.inf),
    ((9950, 20, 10, 5, 5, 4, 3, 2, 1, 0), 1.26483795, 1.2141633718),
)


@pytest.mark.parametrize("counts,pair,single", PAIR_CHECK_VALUES)
def test_pair_check_values(counts, pair, single):
    assert PAIR(counts, 0, 0.001, 0.5) == pytest.approx(pair, abs=1e-8)
    found = SINGLE(counts, 0, 0.001, 0.5)
    assert found < 0.0 if single < 0.0 else found == pytest.approx(single, abs=1e-7)


def test_half_of_the_votes_and_a_bit_abstains():
    assert not SINGLE((50_200, 49_800), 0, 0.001, 0.25) > 0.0


def by_even_pilot(counts, selected, alpha, sigma):
    """CPM with a pilot that puts every rival into a bucket of its own."""
    return BOUNDS["cpm"](counts, selected, alpha, sigma, [1] * len(counts))


@pytest.mark.parametrize("bound", [*(BOUNDS[name] for name in sorted({*BOUNDS} - {"cpm"})), by_even_pilot])
class TestEveryBound:
    def test_no_votes_abstain_without_nan(self, bound):
        for counts in ((0, 100, 0), (0, 1), (0, 0, 10**9)):
            assert bound(counts, 0, 0.001, 0.5) == -math.inf

    def test_tiny_samples_abstain(self, bound):
        for n in range(1, 10):
            for k in range(n + 1):
                assert not bound((k, n - k, 0), 0, 0.001, 0.5) > 0.0

    def test_the_place_of_a_rival_and_of_the_selected_class_do_not_matter(self, bound):
        expected = bound((700, 200, 90, 10), 0, 0.001, 0.5)
        assert bound((10, 90, 700, 200), 2, 0.001, 0.5) == expected
        assert bound((200, 10, 90, 700), 3, 0.001, 0.5) == expected

    def test_the_largest_radius_is_that_of_n_equal_votes(self, bound):
        with ctx.workprec(200):  # with all votes the lower bound of p is the n-th root of alpha
            exact = (1 - arb(0.001) ** (arb(1) / 10**5)).lower()
            failure = math.nextafter(float(exact), 0.0)  # below the exact one: a larger radius
        assert arb(bound((10**5, 0), 0, 0.001, 0.25)) <= exact_radius(0.25, failure, failure) <= 0.953

    @given(data=st.data())
    def test_a_vote_moved_to_the_selected_class_never_hurts(self, bound, data):
        counts = data.draw(st.lists(st.integers(0, 10**6), min_size=2, max_size=6).filter(lambda c: sum(c) > 0))
        rival = data.draw(st.integers(1, len(counts) - 1))
        if counts[rival] > 0:
            moved = list(counts)
            moved[0], moved[rival] = counts[0] + 1, counts[rival] - 1
            assert bound(moved, 0, 0.001, 0.5) >= bound(counts, 0, 0.001, 0.5) - 1e-9

    @pytest.mark.parametrize("counts", [(), (5,), (0, 0), (5, -1), (5, 1.0), (5, True), (5, math.nan), (10**9, 1)])
    def test_wrong_counts_are_refused(self, bound, counts):
        with pytest.raises(ValueError, match=r"count.*expected"):
            bound(counts, 0, 0.001, 0.5)

    @pytest.mark.parametrize("selected", [-1, 2, 0.0, None, False])
    def test_a_wrong_class_is_refused(self, bound, selected):
        with pytest.raises(ValueError, match="selected: expected"):
            bound((5, 5), selected, 0.001, 0.5)

    @pytest.mark.parametrize("alpha", [0, 1e-300, 0.5, 1, -0.1, math.nan, math.inf, "0.1", None, True])
    def test_a_wrong_alpha_is_refused(self, bound, alpha):
        with pytest.raises(ValueError, match="alpha: expected"):
            bound((50, 5), 0, alpha, 0.5)

    @pytest.mark.parametrize("sigma", [0, -0.0, -0.5, 1e-320, 1e300, math.nan, math.inf, -math.inf, "1", None, True])
    def test_a_wrong_sigma_is_refused(self, bound, sigma):
        with pytest.raises(ValueError, match="sigma: expected"):
            bound((50, 5), 0, 0.001, sigma)


def test_the_rival_is_bounded_by_the_smaller_of_its_two_bounds():
    selected, rival = split_alpha(0.001)
    q = failure_upper(9000, 10_000, selected)
    assert PAIR((9000, 1000), 0, 0.001, 1.0) == radius_l2(1.0, q, q)
    b = success_upper(500, 10_000, rival)
    assert b < q
    assert PAIR((9000, 500, 500), 0, 0.001, 1.0) == radius_l2(1.0, q, b)


@given(st.floats(2.0**-900, 0.5, exclude_max=True))
def test_the_shares_of_alpha_add_up_to_alpha(alpha):
    selected, rival = split_alpha(alpha)
    assert selected > 0.0
    assert rival > 0.0
    assert Fraction(selected) + Fraction(rival) == Fraction(alpha)


def test_a_radius_just_below_a_threshold_is_not_rounded_to_it():
    radii = (SINGLE((k, 10_000 - k), 0, 0.001, 0.25) for k in range(8000, 9000))
    near = [radius for radius in radii if 0.2495 < radius < 0.25]
    assert near
    for radius in near:
        assert f"{radius:.3f}" == "0.250"
        assert floor_text(radius, 3) == "0.249"
        assert not radius >= 0.25
    assert floor_text(0.24961, 3) == "0.249"
    assert floor_text(0.9777, 3) == "0.977"


@pytest.mark.parametrize("ratio,n", [(0, 10), (0.25, 14), (0.5, 19), (1, 40), (1.5, 100), (2, 301), (3, 5114)])
def test_the_least_number_of_draws(ratio, n):
    assert smallest_n(0.001, ratio) == n


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("alpha", [0.3, 0.01, 1e-9])
@pytest.mark.parametrize("ratio", [0.0, 0.7, 2.5])
def test_one_draw_less_cannot_certify(bound, alpha, ratio):
    n = smallest_n(alpha, ratio, bound)
    enough = BOUNDS[bound]((n, 0), 0, alpha, 1.0, (1, 0))
    assert enough > 0.0
    assert enough >= ratio
    if n > 1:
        fewer = BOUNDS[bound]((n - 1, 0), 0, alpha, 1.0, (1, 0))
        assert not (fewer > 0.0 and fewer >= ratio)


def test_a_sample_of_32_says_little_at_one_in_a_thousand():
    assert smallest_n(0.001, 1.0) > 32 >= smallest_n(0.001, 0.5)


def test_impossible_radii_are_refused_with_advice():
    with pytest.raises(ValueError, match=r"that 1000000000 draws can certify.*raise sigma"):
        smallest_n(0.001, 7.0)
    with pytest.raises(ValueError, match="bound: expected one of two-interval, clopper-pearson"):
        smallest_n(0.001, 1.0, "wald")


def test_a_bound_of_one_certifies_nothing_and_is_no_nan():
    for q, b in ((1.0, 1.0), (1.0, 0.3), (0.3, 1.0), (1.0, math.ulp(0.0)), (math.ulp(0.0), 1.0)):
        assert radius_l2(0.5, q, b) == -math.inf


@pytest.mark.parametrize("value", [math.nan, 0.0, -0.1, 1.1, math.inf, "0.5", None, True])
def test_radius_refuses_what_is_no_probability(value):
    with pytest.raises(ValueError, match="failure_upper_a: expected"):
        radius_l2(0.5, value, 0.1)
    with pytest.raises(ValueError, match="upper_b: expected"):
        radius_l2(0.5, 0.1, value)


VECTORS = (  # published: pilot, counts, CPM's radius and buckets, Bonferroni's radius
    ([60, 20, 10, 5, 3, 1, 1, 0, 0, 0], [6100, 1900, 1000, 500, 300, 100, 60, 20, 15, 5], 0.25722949, 3, 0.26401958),
    ([45, 30, 10, 10, 5, 0, 0, 0, 0, 0], [4400, 2900, 1100, 1000, 500, 50, 30, 10, 5, 5], 0.07856535, 3, 0.07652662),
    ([30, 15, 10, 10, 10, 10, 5, 5, 3, 2], [3000, 1500, *[1000] * 4, 500, 500, 300, 200], 0.10211469, 7, 0.10146809),
    ([99, 1, 0, 0, 0, 0, 0, 0, 0, 0], [9950, 20, 10, 5, 5, 4, 3, 2, 1, 0], 1.2417807525, 3, 1.2583075066),
)


@pytest.mark.parametrize("pilot, counts, cpm, buckets, bonferroni", VECTORS)
def test_published_radii_of_partitions(pilot, counts, cpm, buckets, bonferroni):
    assert len(class_buckets(pilot, 0)) + 1 == buckets
    assert BOUNDS["cpm"](counts, 0, 0.001, 0.5, pilot) == pytest.approx(cpm, abs=1e-7)
    assert BOUNDS["bonferroni"](counts, 0, 0.001, 0.5) == pytest.approx(bonferroni, abs=1e-7)


LIMITS = ((0.5932683946, 0.2139013363), (0.4231121057, 0.3056566582), (0.2835130454, 0.1633221190),
          (0.9921235312, 0.0053471302))  # fmt: skip


@pytest.mark.parametrize("vector, limits", [*zip(VECTORS, LIMITS, strict=True)])
def test_published_limits_of_partitions(vector, limits):
    """a of the first bucket and b of the heaviest other one, each at its share of alpha."""
    pilot, counts, _, buckets, _ = vector
    heaviest = max(sum(counts[k] for k in bucket) for bucket in class_buckets(pilot, 0))
    share = 0.001 / buckets
    assert 1.0 - failure_upper(counts[0], sum(counts), share) == pytest.approx(limits[0], abs=2e-8)
    assert success_upper(heaviest, sum(counts), share) == pytest.approx(limits[1], abs=2e-8)


def test_a_partition_needs_the_pilot_of_the_same_classes():
    with pytest.raises(ValueError, match="pilot"):
        BOUNDS["cpm"]((90, 10), 0, 0.001, 0.5)
    with pytest.raises(ValueError, match="pilot"):
        BOUNDS["cpm"]((90, 10), 0, 0.001, 0.5, (9, 1, 0))
