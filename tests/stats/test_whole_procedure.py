"""Select, then estimate: the exact probability of a false certificate, by enumerating every pilot and every count.

The mutants are defects that were published; the same enumeration must convict them, or it proves nothing about us.
"""

from fractions import Fraction
from functools import cache
from math import factorial, inf

import pytest
from flint import arb, ctx

from certify.stats import BOUNDS, failure_upper, radius_l2, split_alpha, success_upper
from tests.stats.binomial_truth import ball_normal_cdf, ball_quantile, ball_tail

ALPHA, PILOT, DRAWS = 0.05, 10, 30
LAWS = [
    tuple(Fraction(part, 1000) for part in parts)
    for parts in (
        (500, 499, 1), (501, 498, 1), (334, 333, 333), (400, 350, 250), (450, 430, 120), (600, 300, 100),
        (700, 290, 10), (800, 100, 100), (905, 90, 5), (980, 10, 10), (460, 450, 90), (420, 400, 180),
    )
]  # fmt: skip


@cache
def outcomes(n, law):
    """Every count of three classes in ``n`` draws, with its exact probability."""
    found = []
    for a in range(n + 1):
        for b in range(n + 1 - a):
            counts = (a, b, n - a - b)
            ways = factorial(n) // (factorial(a) * factorial(b) * factorial(counts[2]))
            found.append((counts, ways * law[0] ** a * law[1] ** b * law[2] ** counts[2]))
    return found


def winner(counts):
    return counts.index(max(counts))


def is_false(radius, law, selected):
    """Whether a positive radius (sigma = 1) exceeds the true one; what cannot be decided counts as false."""
    return radius > 0.0 and not true_radius(law, selected) >= arb(radius)


@cache
def true_radius(law, selected):
    """The radius of the smoothed classifier in a ball of numbers; 0 where another class is as likely."""
    rival = max(p for k, p in enumerate(law) if k != selected)
    if law[selected] <= rival:
        return arb(0)
    with ctx.workprec(200):
        p_a, p_b = (arb(p.numerator) / p.denominator for p in (law[selected], rival))
        return (ball_quantile(1 - p_a) + ball_quantile(p_b)) / 2


def false_probability(procedure, law, n=DRAWS, n_of=None, read=lambda pilot: pilot):
    """The exact P(a false certificate) of ``procedure(pilot, counts) -> (selected, radius)``.

    Of a pilot the procedure uses ``read(pilot)`` alone: pilots that read the same share one enumeration.
    """
    shared = {}
    for pilot, weight in outcomes(PILOT, law):
        key = (n_of(pilot) if n_of else n, read(pilot))
        first, total = shared.get(key, (pilot, Fraction(0)))
        shared[key] = first, total + weight
    return sum(
        (total * false_after(procedure, pilot, draws, law) for (draws, _), (pilot, total) in shared.items()),
        Fraction(0),
    )


def false_after(procedure, pilot, n, law):
    total = Fraction(0)
    for counts, probability in outcomes(n, law):
        selected, radius = procedure(pilot, counts)
        if is_false(radius, law, selected):
            total += probability
    return total


@cache
def ours(bound):
    """The procedure as it is used; its radii are functions of the counts, shared by all laws."""

    @cache
    def certify(selected, counts, pilot):
        return selected, BOUNDS[bound](counts, selected, ALPHA, 1.0, pilot)

    return lambda pilot, counts: certify(winner(pilot), counts, read_by(bound)(pilot))


def read_by(bound):
    """What a bound reads of the pilot: only CPM more than its winner."""
    return (lambda pilot: pilot) if bound == "cpm" else winner


@cache
def same_draws(bound, counts):
    selected = winner(counts)
    return selected, BOUNDS[bound](counts, selected, ALPHA, 1.0)


@cache
def alpha_twice(counts):
    """Both sides at the full alpha, for a class that the counts chose."""
    selected = winner(counts)
    q_a = failure_upper(counts[selected], sum(counts), ALPHA)
    rival = max(count for k, count in enumerate(counts) if k != selected)
    return selected, radius_l2(1.0, q_a, min(success_upper(rival, sum(counts), ALPHA), q_a))


def named_rival(pilot, counts):
    """Bound only the class that came second in the pilot."""
    order = sorted(range(3), key=lambda k: (-pilot[k], k))
    return named_rival_radius(order[0], order[1], counts)


@cache
def named_rival_radius(selected, rival, counts):
    alpha_a, alpha_b = split_alpha(ALPHA)
    q_a = failure_upper(counts[selected], sum(counts), alpha_a)
    return selected, radius_l2(1.0, q_a, success_upper(counts[rival], sum(counts), alpha_b))


@cache
def nearest_radius(selected, counts):
    """The plain quotients instead of bounds."""
    n = sum(counts)
    q_a = 1 - counts[selected] / n
    return selected, radius_l2(1.0, q_a, q_a) if q_a > 0.0 else inf


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: "/".join(map(str, law)))
def test_no_more_than_alpha_of_our_certificates_are_false(bound, law):
    assert false_probability(ours(bound), law, read=read_by(bound)) <= Fraction(ALPHA)


def test_a_sample_size_that_depends_on_the_pilot_keeps_the_level():
    for law in LAWS[:4]:
        planned = false_probability(ours("two-interval"), law, n_of=lambda pilot: 12 + 2 * max(pilot))
        assert planned <= Fraction(ALPHA)


def test_choosing_the_class_on_the_counted_draws_is_convicted():
    law = LAWS[0]
    broken = false_probability(lambda _, counts: same_draws("clopper-pearson", counts), law)
    assert broken > Fraction(9, 100)
    assert false_probability(ours("clopper-pearson"), law) < broken / Fraction(19, 10)


def test_spending_alpha_on_both_sides_of_a_chosen_class_is_convicted():
    assert false_probability(lambda _, counts: alpha_twice(counts), LAWS[0]) > Fraction(ALPHA)


def test_bounding_only_the_rival_named_by_the_pilot_is_convicted():
    law = (Fraction(45, 100), Fraction(43, 100), Fraction(12, 100))
    misleading = (6, 1, 3)
    assert false_probability(named_rival, law, n=60) > Fraction(ALPHA)
    assert false_after(named_rival, misleading, 60, law) > Fraction(7, 10)
    assert false_after(ours("two-interval"), misleading, 60, law) <= Fraction(ALPHA)


def test_plain_quotients_are_convicted():
    broken = max(
        false_probability(lambda pilot, counts: nearest_radius(winner(pilot), counts), law)
        for law in (LAWS[0], LAWS[7])
    )
    assert broken > Fraction(3, 10)


def test_the_published_counter_example_to_named_pairs_does_not_concern_the_largest_count():
    law = (Fraction(1, 2), Fraction(1, 20), Fraction(9, 20))
    assert false_probability(ours("two-interval"), law, n=10) <= Fraction(ALPHA)


@pytest.mark.parametrize("bound,level", [("clopper-pearson", 0.999), ("two-interval", 0.899)])
@pytest.mark.parametrize("n", [1000, 10_000, 100_000])
def test_a_linear_classifier_whose_true_radius_is_its_distance(bound, level, n):
    """f = sign(w x + b) at distance d: p_A = Phi(d / sigma). The worst d is the radius of a count, just missed."""
    alpha, sigma = 0.001, 0.25
    for k in (n * 6 // 10, n * 9 // 10, n - 10, n):
        distance = BOUNDS[bound]((k, n - k), 0, alpha, sigma) * (1 - 1e-15)
        assert (
            BOUNDS[bound]((k, n - k), 0, alpha, sigma) > distance > BOUNDS[bound]((k - 1, n - k + 1), 0, alpha, sigma)
        )
        false = ball_tail(n, k, 1 - ball_normal_cdf(arb(distance) / arb(sigma)), bits=256)
        assert false <= arb(alpha)
        assert false >= arb(alpha) * level  # tightness: the level is used
