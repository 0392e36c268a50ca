"""What holds at every stop: exact crossing probabilities by enumeration, published first certificates."""

import math

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import binom

from certify.stats import anytime_radius, is_certified_anytime
from certify.stats.sequential import null_probability

SMALLEST = 2.0**-30  # of a ratio: p0 is one half


@pytest.mark.parametrize("p0, first", [(0.5, 12), (0.9, 77), (0.99, 804)])
def test_the_first_certificate_of_unanimous_votes_is_the_published_one(p0, first):
    ratio = max(SMALLEST, float(ndtri(p0)))
    assert not any(is_certified_anytime(n, n, ratio, 1e-3) for n in range(1, first))
    assert is_certified_anytime(first, first, ratio, 1e-3)


@pytest.mark.parametrize("p0", [0.5, 0.6, 0.9])
@pytest.mark.parametrize("alpha", [0.2, 0.05])
def test_looking_after_every_draw_keeps_the_level(p0, alpha):
    """The exact probability that 400 looks at p = p0 ever certify."""
    ratio = max(SMALLEST, float(ndtri(p0)))
    p, _ = null_probability(ratio)
    alive, crossed = np.array([1.0]), 0.0
    for n in range(1, 401):
        alive = np.convolve(alive, [1.0 - p, p])
        least = next((k for k in range(math.ceil(p * n), n + 1) if is_certified_anytime(k, n, ratio, alpha)), n + 1)
        crossed += alive[least:].sum()
        alive[least:] = 0.0
    assert 0.05 * alpha < crossed <= alpha


def test_a_certificate_is_monotone_in_votes_and_in_the_radius():
    for n in (50, 500):
        certified = [is_certified_anytime(k, n, 0.5, 0.01) for k in range(n + 1)]
        assert certified == sorted(certified)
        rejected = [is_certified_anytime(n, n, ratio, 0.01) for ratio in (0.1, 0.5, 1.0, 1.5, 2.0, 3.0)]
        assert rejected == sorted(rejected, reverse=True)


def test_the_radius_stops_at_the_first_grid_point_that_is_not_certified():
    looks = [(128, 128), (250, 256)]
    whole = anytime_radius(looks, [0.1, 0.2, 0.3], 0.25, 0.001)
    assert whole == 0.3
    assert anytime_radius([(70, 128)], [0.1, 0.2], 0.25, 0.001) == 0.0
    assert anytime_radius(looks, [0.1, 3.0], 0.25, 0.001) == 0.1


def test_a_grid_point_above_one_that_is_not_rejected_is_not_reported(monkeypatch):
    """The proof needs every smaller grid point rejected, whatever the ratios do."""
    monkeypatch.setattr("certify.stats.anytime.is_certified_anytime", lambda k, n, ratio, alpha: not 0.7 < ratio < 0.9)
    assert anytime_radius([(128, 128)], [0.1, 0.2, 0.4], 0.25, 0.001) == 0.1


@pytest.mark.parametrize("radii", [[0.2, 0.1], [0.0, 0.1], [math.nan], [-1.0]])
def test_a_grid_that_does_not_rise_is_refused(radii):
    with pytest.raises(ValueError, match="radii"):
        anytime_radius([(10, 10)], radii, 0.25, 0.001)


def test_the_two_sided_use_of_alpha_is_not_taken():
    """A threshold of log(1 / (2 alpha)) would certify one draw earlier, at up to twice the level."""
    first = next(n for n in range(1, 100) if is_certified_anytime(n, n, SMALLEST, 1e-3))
    assert first > next(n for n in range(1, 100) if is_certified_anytime(n, n, SMALLEST, 2e-3))
    assert binom.sf(first - 1, first, 0.5) <= 1e-3
