"""Soft scores: the empirical Bernstein bound by enumeration, and the radii against numbers of high precision."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import scipy

from certify.stats import (
    MAPS,
    Slopes,
    class_radius,
    difference_radius,
    mean_shift_upper,
    mean_upper,
    radius_l2,
    score_bounds,
    score_radius,
    score_slopes,
    smoothed_lipschitz_upper,
)
from certify.stats.empirical_bernstein import UNITS
from certify.stats.lipschitz_radius import ERROR, _mean, reach_lower, slope_radius

FREE = {"alpha": 0.001, "sigma": 0.25}


def square(score: int) -> int:
    return -(-score * score // UNITS)


def sums(scores: list[int]) -> tuple[int, int]:
    return sum(scores), sum(map(square, scores))


# ---- the bound on a mean


@pytest.mark.parametrize(("s", "n", "expected"), [(0.0, 100_000, 2.3108368706e-4), (0.1, 100_000, 1.6384562428e-3),
    (0.3, 100_000, 4.4532013541e-3), (0.5, 100_000, 7.2679464655e-3), (0.1, 1000, 0.0372049944)])  # fmt: skip
def test_shift_at_known_deviations(s, n, expected):
    apart = s * math.sqrt((n - 1) / n)  # half of the scores on either side: the sample deviation is s
    pair = [round((0.5 - apart) * UNITS), round((0.5 + apart) * UNITS)]
    total, squares = sums(pair)
    shift = mean_shift_upper(total * n // 2, squares * n // 2, n, 1e-4)
    assert expected * (1 - 1e-9) <= shift <= expected * (1 + 1e-6)


def test_the_variance_pays_against_hoeffding_below_a_deviation_of_47_hundredths():
    hoeffding = math.sqrt(math.log(1e4) / 2e5)
    assert hoeffding == pytest.approx(6.7861404e-3, rel=1e-7)

    def shift(s):
        total, squares = sums([round((0.5 - s) * UNITS), round((0.5 + s) * UNITS)])
        return mean_shift_upper(total * 50_000, squares * 50_000, 100_000, 1e-4)

    assert shift(0.46) < hoeffding < shift(0.47)


@pytest.mark.parametrize("n", [2, 3, 10, 30, 60])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.25, 0.75), (0.9, 1.0), (0.0, 0.01)])
def test_the_mean_of_two_valued_scores_is_missed_with_probability_delta_at_most(n, low, high):
    delta, u, v = 0.05, round(low * UNITS), round(high * UNITS)
    uppers = [mean_upper((n - k) * u + k * v, (n - k) * square(u) + k * square(v), n, delta) for k in range(n + 1)]
    p = np.linspace(0.0, 1.0, 401)[:, None]
    missed = np.array(uppers) < ((1 - p) * u + p * v) / UNITS
    chance = (scipy.stats.binom.pmf(np.arange(n + 1), n, p) * missed).sum(axis=1)
    assert chance.max() <= delta


def test_a_bound_without_the_variance_term_would_fail():
    """The enumeration can tell: half of the shift misses too often."""
    n, delta = 60, 0.05
    p = np.linspace(0.0, 0.5, 201)[:, None]
    bounds = [k / n + 0.2 * mean_shift_upper(*sums([UNITS] * k), n, delta) for k in range(n + 1)]
    chance = (scipy.stats.binom.pmf(np.arange(n + 1), n, p) * (np.array(bounds) < p)).sum(axis=1)
    assert chance.max() > delta


def test_sums_of_squares_are_exact_or_above_and_do_not_depend_on_batches():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, UNITS + 1, 600).tolist()
    exact = sum(Fraction(score, UNITS) ** 2 for score in scores)
    whole = sums(scores)
    assert exact <= Fraction(whole[1], UNITS) < exact + Fraction(600, UNITS)
    for size in (1, 2, 7, 200, 512):
        parts = [sums(scores[i : i + size]) for i in range(0, 600, size)]
        assert tuple(map(sum, zip(*parts, strict=True))) == whole
    shift = mean_shift_upper(*whole, 600, 0.001)
    plain = np.std(np.array(scores) / UNITS, ddof=1) * math.sqrt(2 * math.log(2000) / 600) + 7 * math.log(2000) / 1797
    assert plain * (1 - 1e-12) <= shift <= plain * (1 + 1e-6)


def test_tiny_and_impossible_sums():
    assert mean_upper(0, 0, 2, 0.01) == 1.0
    assert score_bounds([2 * UNITS, 0], [2 * UNITS, 0], 0, 2, 0.01) == (1.0, 1.0)
    assert score_radius([2 * UNITS, 0], [2 * UNITS, 0], 0, 2, slopes=None, **FREE)[0] < 0.0
    for total, squares, n in ((UNITS, 0, 2), (3 * UNITS, 2 * UNITS, 2), (1, UNITS, 2), (-1, 0, 2), (0, 0, 1)):
        with pytest.raises(ValueError, match="expected"):
            mean_shift_upper(total, squares, n, 0.01)
    with pytest.raises(ValueError, match="add up to at most 1"):
        score_bounds([2 * UNITS, UNITS], [2 * UNITS, UNITS], 0, 2, 0.01)


@pytest.mark.parametrize("patterns", [((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), ((0.9, 0.1, 0.0), (0.2, 0.5, 0.3))])
def test_select_then_estimate_is_wrong_with_probability_alpha_at_most(patterns):
    """Two kinds of draws, three classes: every pilot and every estimation is enumerated."""
    n0, n, alpha = 10, 60, 0.05
    whole = [[math.floor(score * UNITS) for score in pattern] for pattern in patterns]

    def totals(k, draws):
        return [(draws - k) * u + k * v for u, v in zip(*whole, strict=True)]

    def radius(k, selected):
        squares = [(n - k) * square(u) + k * square(v) for u, v in zip(*whole, strict=True)]
        return score_radius(totals(k, n), squares, selected, n, alpha=alpha, sigma=1.0, slopes=None)[0]

    selected = np.array([int(np.argmax(totals(k, n0))) for k in range(n0 + 1)])
    radii = {a: np.array([radius(k, a) for k in range(n + 1)]) for a in set(selected.tolist())}
    certified, worst = 0.0, 0.0
    for p in np.linspace(0.0, 1.0, 101):
        means = [(1 - p) * u / UNITS + p * v / UNITS for u, v in zip(*whole, strict=True)]
        wrong = 0.0
        for a, found in radii.items():
            rival = max(mean for k, mean in enumerate(means) if k != a)
            truth = 0.5 * (scipy.special.ndtri(means[a]) - scipy.special.ndtri(rival))
            chosen = scipy.stats.binom.pmf(np.flatnonzero(selected == a), n0, p).sum()
            wrong += chosen * scipy.stats.binom.pmf(np.flatnonzero((found > 0) & (found > truth)), n, p).sum()
            certified += chosen * scipy.stats.binom.pmf(np.flatnonzero(found > 0), n, p).sum()
        worst = max(worst, wrong)
    assert worst <= alpha
    assert certified > 10


def test_alpha_is_spent_once():
    """Failure at 0.9 alpha and rival at 0.1 alpha: one class each, whatever the number of classes."""
    totals, squares = [600 * UNITS, 200 * UNITS, 200 * UNITS], [600 * UNITS, 200 * UNITS, 200 * UNITS]
    failure, rival = score_bounds(totals, squares, 0, 1000, 0.001)
    assert failure == pytest.approx(0.4 + mean_shift_upper(600 * UNITS, 600 * UNITS, 1000, 0.0009), rel=1e-12)
    assert rival == pytest.approx(0.2 + mean_shift_upper(200 * UNITS, 200 * UNITS, 1000, 0.0001), rel=1e-9)


# ---- radii of Lipschitz scores


def ramp_mean(w, lipschitz, sigma):
    """q(w) in 50 digits."""

    def g(s):
        return s * mpmath.ncdf(s / sigma) + sigma * mpmath.npdf(s / sigma)

    return lipschitz * (g(w) - g(w - 1 / lipschitz))


def exact_s(p, lipschitz, sigma):
    with mpmath.workdps(50):
        lipschitz, sigma = mpmath.mpf(lipschitz), mpmath.mpf(sigma)
        low, high = -12 * sigma, 1 / lipschitz + 12 * sigma
        for _ in range(120):
            middle = (low + high) / 2
            low, high = (low, middle) if ramp_mean(middle, lipschitz, sigma) >= 1 - mpmath.mpf(p) else (middle, high)
        return 1 / (2 * lipschitz) - high


@pytest.mark.parametrize(("lipschitz", "at"), [(0.5, (0.8393, 1.2553, 1.5055)), (1.0, (0.4995, 0.8401, 1.0674)),
    (2.0, (0.3716, 0.6656, 0.8751)), (5.0, (0.3289, 0.5967, 0.7922)), (20.0, (0.3209, 0.5826, 0.7738))])  # fmt: skip
def test_s_at_known_values(lipschitz, at):
    for p, expected in zip((0.9, 0.99, 0.999), at, strict=True):
        assert reach_lower(1 - p, lipschitz, 0.25) == pytest.approx(expected, abs=6e-5)


def test_the_local_slope_at_a_known_value():
    """Of Phi^-1 of the mean, which is what freezing the constant at x would use: 1 / (S'(p) phi(Phi^-1(p)))."""
    p, step, z = 0.9, 1e-4, scipy.special.ndtri(0.9)
    rise = (reach_lower(1 - p - step, 2.0, 0.25) - reach_lower(1 - p + step, 2.0, 0.25)) / (2 * step)
    assert 1 / (rise * scipy.stats.norm.pdf(z)) == pytest.approx(3.498162010232, rel=1e-6)


def test_s_is_below_the_exact_value_and_near_it():
    for lipschitz in (4e-3, 0.1, 1.0, 7.0, 79.0):
        for p in (0.5000001, 0.6, 0.9, 0.9999, 1 - 1e-7):
            failure = math.nextafter(1.0 - p, 1.0)
            truth = exact_s(1 - mpmath.mpf(failure), lipschitz, 0.25)
            found = reach_lower(failure, lipschitz, 0.25)
            assert found <= truth
            assert found >= truth - 3e-9 - 2 * ERROR / lipschitz


def test_the_ramp_mean_is_within_its_stated_error():
    rng = np.random.default_rng(1)
    with mpmath.workdps(60):
        for _ in range(200):
            lipschitz = 10 ** rng.uniform(-3, math.log10(20.0))
            w = float(rng.choice([rng.uniform(-36, 36), rng.uniform(-6, 6), 1 / lipschitz + rng.uniform(-6, 6)]))
            truth = ramp_mean(mpmath.mpf(w), mpmath.mpf(lipschitz), mpmath.mpf(1))
            assert abs(_mean(w, lipschitz, 1.0) / truth - 1) <= ERROR / 100


def test_the_ramp_is_the_worst_case():
    """Moved by S(p) the extremal ramp has mean 1/2, and never more before: the radius cannot be larger."""
    for lipschitz, p in ((1.0, 0.9), (3.0, 0.7), (0.5, 0.99)):
        reach = reach_lower(1 - p, lipschitz, 0.25)
        exact = exact_s(p, lipschitz, 0.25)
        moved = ramp_mean(1 / (2 * mpmath.mpf(lipschitz)) - exact + mpmath.mpf(reach), mpmath.mpf(lipschitz), 0.25)
        assert 1 - moved >= 0.5 - 1e-7
        assert 1 - moved >= mpmath.mpf("0.5")


@pytest.mark.parametrize(("a", "b", "lipschitz", "probit", "expected"), [(0.9, 0.05, 1.0, 0.36580, 0.56134),
    (0.6, 0.2, 1.0, 0.13687, 0.22238), (0.45, 0.1, 2.0, 0.14449, 0.16742)])  # fmt: skip
def test_pairs_at_known_values(a, b, lipschitz, probit, expected):
    assert radius_l2(0.25, 1 - a, b) == pytest.approx(probit, abs=6e-6)
    assert class_radius(0.25, 1 - a, b, lipschitz, 0.0) == pytest.approx(expected, abs=6e-6)


@pytest.mark.parametrize(("width", "lipschitz", "sigma", "expected"), [(1.0, 0.5, 1.0, 0.3413447460685),
    (1.0, 1.0, 0.25, 0.9544997361036), (1.0, 1.0, 0.5, 0.6826894921371), (1.0, 5.0, 0.25, 1.5542174161032),
    (1.0, 100.0, 0.25, 1.5956627433804)])  # fmt: skip
def test_the_constant_that_smoothing_leaves(width, lipschitz, sigma, expected):
    """A range of width 1: with erf(1 / (sqrt 2 L sigma)), as for width 2, it would be up to twice as large."""
    found = smoothed_lipschitz_upper(lipschitz, sigma, width)
    assert expected * (1 - 1e-12) <= found <= expected * (1 + 1e-11)
    assert found <= min(lipschitz, width / (sigma * math.sqrt(2 * math.pi))) * (1 + 1e-13)


def test_the_difference_form():
    assert difference_radius(0.25, 0.1, 0.05, math.sqrt(2), 0.0) == pytest.approx(0.695, abs=5e-4)
    rng = np.random.default_rng(2)
    for _ in range(200):
        failure, rival = rng.uniform(0.0, 0.5), rng.uniform(0.0, 0.4)
        difference, sigma = 10 ** rng.uniform(-2, 1), 10 ** rng.uniform(-1.5, 0.5)
        if 1 - failure > rival and 4e-3 < difference * sigma < 20:
            exact = difference_radius(sigma, failure, rival, difference, 0.0)
            assert exact >= slope_radius(sigma, failure, rival, difference, 0.0) - 1e-8 * sigma - 4 * ERROR / difference


def test_no_lipschitz_radius_is_below_that_of_any_function():
    rng = np.random.default_rng(3)
    for _ in range(200):
        failure, rival, sigma = rng.uniform(1e-6, 0.5), rng.uniform(1e-6, 0.4), 10 ** rng.uniform(-1.5, 0.5)
        lipschitz = 10 ** rng.uniform(-2, 1.2) / sigma
        if 1 - failure > rival + 1e-3:
            assert (
                class_radius(sigma, failure, rival, lipschitz, 0.0) >= radius_l2(sigma, failure, rival) - 1e-7 * sigma
            )


@pytest.mark.parametrize("radius", [class_radius, difference_radius, slope_radius])
def test_slack_and_worse_bounds_only_shrink_a_radius(radius):
    before = radius(0.25, 0.1, 0.05, 1.0, 0.0)
    for failure, rival, constant, slack in ((0.11, 0.05, 1.0, 0.0), (0.1, 0.06, 1.0, 0.0), (0.1, 0.05, 1.2, 0.0),
                                            (0.1, 0.05, 1.0, 1e-6), (0.1, 0.05, 1.0, 0.2)):  # fmt: skip
        after = radius(0.25, failure, rival, constant, slack)
        assert after < before
        before = after if slack else before
    assert not radius(0.25, 0.1, 0.05, 1.0, 0.5) > 0.0
    assert not radius(0.25, 1.0, 0.0, 1.0, 0.0) > 0.0
    assert not radius(0.25, 0.4, 0.6, 1.0, 0.0) > 0.0


def test_a_linear_classifier_is_certified_beyond_its_true_radius_with_probability_alpha_at_most():
    """Scores clip(1/2 -+ (<w, x> - t) L): smoothed, they cross exactly where <w, x> = t, at distance 0.3 of x.

    Two-valued scores would not be Lipschitz; here a, b are random through the sample, drawn many times over.
    """
    rng, distance, sigma, lipschitz, n, alpha = np.random.default_rng(5), 0.3, 0.25, 1.5, 200, 0.05
    slopes, beyond = Slopes(lipschitz, 2 * lipschitz, 0.0, 0.0), 0
    found = []
    for _ in range(200):
        scores = np.clip(0.5 + lipschitz * (distance + sigma * rng.normal(size=n)), 0.0, 1.0)
        here = np.floor(scores * UNITS).astype(int).tolist()
        there = [UNITS - score for score in here]
        (total, squares), (rest, rest_squares) = sums(here), sums(there)
        found.append(score_radius([total, rest, 0], [squares, rest_squares, 0], 0, n, alpha=alpha, sigma=sigma,
                                  slopes=slopes)[0])  # fmt: skip
        beyond += found[-1] > distance
    assert beyond <= scipy.stats.binom.ppf(1 - 1e-6, 200, alpha)
    assert np.mean(found) > 0.55 * distance


def test_nothing_but_the_probit_radius_where_nothing_is_proved():
    totals, squares = [9000 * UNITS, 1000 * UNITS, 0], [9000 * UNITS, 1000 * UNITS, 0]
    steep = score_slopes("softmax", 1000.0, classes=2, lipschitz=10.0, error=0.0, rounded_coordinates=0)
    plain, method = score_radius(totals, squares, 0, 10_000, slopes=None, **FREE)
    assert method == "probit"
    assert score_radius(totals, squares, 0, 10_000, slopes=steep, **FREE) == (plain, method)
    flat = score_slopes("softmax", 1.0, classes=2, lipschitz=1.0, error=0.0, rounded_coordinates=0)
    assert score_radius(totals, squares, 0, 10_000, slopes=flat, **FREE)[0] > plain
    invalid = [8999 * UNITS, 1000 * UNITS, UNITS], [8999 * UNITS, 1000 * UNITS, UNITS]
    assert score_radius(*invalid, 0, 10_000, slopes=flat, **FREE)[1] == "probit"
    wrong = score_slopes("softmax", 1.0, classes=2, lipschitz=1.0, error=math.inf, rounded_coordinates=0)
    assert score_radius(totals, squares, 0, 10_000, slopes=wrong, **FREE)[1] == "probit"
    constant = Slopes(0.0, 0.0, 0.0, 0.0)
    assert score_radius(totals, squares, 0, 10_000, slopes=constant, **FREE)[0] == 16 * 0.25


@pytest.mark.parametrize("simplex", sorted(MAPS))
def test_constants_of_the_maps_are_reached_and_never_exceeded(simplex):
    rng = np.random.default_rng(4)

    def soft(z):
        e = np.exp(z - z.max())
        return e / e.sum()

    def sparse(z):
        u = np.sort(z)[::-1]
        c = np.cumsum(u)
        k = max(j for j in range(1, len(z) + 1) if 1 + j * u[j - 1] > c[j - 1])
        return np.maximum(z - (c[k - 1] - 1) / k, 0)

    scores = {"softmax": soft, "sparsemax": sparse}[simplex]
    one, two = MAPS[simplex](3)
    most = [0.0, 0.0]
    near = [np.array([0.0, 0.0, -9.0]), np.array([np.log(2.0), 0.0, 0.0]), np.zeros(3)]
    for trial in range(3000):
        z = near[trial % 3] + rng.normal(size=3) * (1e-3 if trial < 300 else 1.0)
        step = rng.normal(size=3)
        step *= 1e-6 / np.linalg.norm(step)
        change = (scores(z + step) - scores(z - step)) / 2e-6
        most = [max(most[0], abs(change[0])), max(most[1], abs(change[0] - change[1]))]
    assert most[0] <= one * (1 + 1e-6)
    assert most[1] <= two * (1 + 1e-6)
    assert most[0] >= 0.9 * one
    assert most[1] >= 0.9 * two


@pytest.mark.parametrize("s", [0.02, 0.1, 0.3, 0.5, 0.75, 1.0, 3.0])
def test_rounding_to_the_grid_moves_a_coordinate_by_a_twelfth_at_most_in_square(s):
    """The exact second moment of s Z - round(s Z), level by level, against its bound and its series."""
    edges = np.arange(-math.ceil(40 * s) - 1, math.ceil(40 * s) + 2)
    moment = sum(
        scipy.integrate.quad(lambda y, k=k: (y - k) ** 2 * scipy.stats.norm.pdf(y, scale=s), k - 0.5, k + 0.5)[0]
        for k in edges
    )
    terms = [(-1) ** k * math.exp(-2 * (math.pi * s * k) ** 2) / (math.pi * k) ** 2 for k in range(1, 400)]
    assert moment <= 1 / 12 + 1e-12
    assert moment == pytest.approx(1 / 12 + sum(terms), abs=1e-5)


def test_every_error_is_in_the_slack():
    """Each one alone: the rounding of scores, the program's logits, the grid; a difference has two scores of it."""
    flat = {"classes": 10, "lipschitz": 3.0, "error": 0.0, "rounded_coordinates": 0}
    nothing = score_slopes("sparsemax", 2.0, **flat)
    assert 1 / UNITS < nothing.slack < 1.01 / UNITS
    assert nothing.slack_difference == 2 * nothing.slack
    program = score_slopes("sparsemax", 2.0, **flat | {"error": 0.125})
    assert program.slack >= nothing.slack + 2.0 * math.sqrt(0.9) * 0.125
    assert program.slack_difference >= nothing.slack_difference + 2.0 * math.sqrt(2) * 0.125
    grid = score_slopes("sparsemax", 2.0, **flat | {"rounded_coordinates": 768})
    assert grid.slack >= nothing.slack + 2.0 * math.sqrt(0.9) * 3.0 * 8 / 255
    assert grid.slack_difference >= nothing.slack_difference + 2.0 * math.sqrt(2) * 3.0 * 8 / 255
    assert grid.slack < 1.001 * (nothing.slack + 2.0 * math.sqrt(0.9) * 3.0 * 8 / 255)
