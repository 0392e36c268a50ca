"""The integer law is the rounded Gaussian, exactly up to the stated charge; the two-level table changes nothing."""

import hashlib
from fractions import Fraction
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch

from certify.errors import InputError
from certify.examples import Example
from certify.results import SmoothingSettings
from certify.smoothing import LAWS, make_law
from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest, block_generator
from certify.smoothing.gaussian import GaussianLaw
from certify.smoothing.gaussian_255 import gaussian_255, integer_gaussian, thresholds
from certify.smoothing.two_level_table import LOW_BITS, first_level, search
from certify.smoothing.uniform import UniformLaw
from certify.smoothing.uniform_255 import uniform_255, uniform_thresholds

SIGMAS = (0.001, 0.05, 0.25)
IMAGE = Example(0, "a", 0, np.random.default_rng(1).integers(0, 256, (3, 5, 5), dtype=np.uint8))
REQUEST = BlockRequest(IMAGE, "estimation", 0, BLOCK_DRAWS)


def phi(k, sigma):
    """P(round(255 sigma g) <= k), by another formula than the package's: the quadrature-free ncdf with 90 digits."""
    return mpmath.ncdf((mpmath.mpf(2 * k + 1) / 2) / (255 * mpmath.mpf(sigma)))


@pytest.mark.parametrize("sigma", SIGMAS)
def test_thresholds_are_the_floors_of_the_exact_probabilities(sigma):
    T = thresholds(sigma)
    half = len(T) // 2
    with mpmath.workdps(90):
        for k in range(-half, half, 1 if sigma < 0.1 else 7):
            exact = phi(k, sigma) * 2**63
            assert int(T[k + half]) <= exact < int(T[k + half]) + 1


@pytest.mark.parametrize("sigma", SIGMAS)
def test_total_variation_is_within_the_charge(sigma):
    law = gaussian_255(sigma)
    T = [0, *thresholds(sigma).tolist(), 2**63]
    half = law.levels // 2
    with mpmath.workdps(90):
        edges = [mpmath.mpf(0), *(phi(k, sigma) for k in range(-half, half)), mpmath.mpf(1)]
        drawn = [mpmath.mpf(b - a) / 2**63 for a, b in pairwise(T)]
        exact = [b - a for a, b in pairwise(edges)]
        outside = phi(-half - 1, sigma) * 2  # the exact law goes on beyond the outer levels
        distance = sum(abs(a - b) for a, b in zip(drawn, exact, strict=True)) / 2 + outside
        assert distance <= mpmath.mpf(law.levels) / 2**63


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_drawn_law_is_that_of_the_thresholds(sigma):
    """Z <= k iff u < T_k, at both sides of every threshold."""
    T = thresholds(sigma)
    half = len(T) // 2
    inner = (T > 0) & (T < 2**63 - 1)
    k = np.flatnonzero(inner) - half
    assert (search(T, T[inner]) - half > k).all()
    assert (search(T, T[inner] - 1) - half <= k).all()


def test_the_search_compares_as_integers():
    assert search(np.array([2**62 + 1]), np.array([2**62])).tolist() == [0]
    with pytest.raises(TypeError, match="int64"):
        search(np.array([2**62 + 1]), np.array([2**62], dtype=np.uint64))
    with pytest.raises(TypeError, match="int64"):
        search(np.array([2**62 + 1], dtype=np.uint64), np.array([2**62]))


@pytest.mark.parametrize("sigma", [*SIGMAS, 1.0])
def test_the_table_equals_plain_search_on_all_63_bits(sigma):
    """Search is monotone in u, so an entry that agrees at both ends of its range agrees inside."""
    sampler = integer_gaussian(sigma)
    first = np.arange(2**16, dtype=np.int64) << LOW_BITS
    low, high = (search(sampler.T, u) - sampler.half for u in (first, first + (2**LOW_BITS - 1)))
    closed = sampler.table != sampler.open_mark
    assert (sampler.table[closed] == low[closed]).all()
    assert (sampler.table[closed] == high[closed]).all()
    assert (low[~closed] < high[~closed]).all()
    assert (first_level(sampler.T)[1] == ~closed).all()


@pytest.mark.parametrize("sigma", [0.05, 0.25, 1.0])
def test_draws_equal_plain_search_of_the_same_bits(sigma):
    sampler, count = integer_gaussian(sigma), 20_001
    found, _ = sampler.draw(np.random.Philox(key=3), count)
    bits = np.random.Philox(key=3)
    top = bits.random_raw(-(-count // 4)).astype("<u8").view("<u2")[:count].astype(np.int64)
    low = np.random.default_rng(0).integers(0, 2**LOW_BITS, count)  # where it does not matter, any low bits will do
    is_open = sampler.table[top] == sampler.open_mark
    low[is_open] = (bits.random_raw(is_open.sum()) >> np.uint64(17)).astype(np.int64)
    assert is_open.any()
    assert np.array_equal(found, search(sampler.T, (top << LOW_BITS) | low) - sampler.half)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_few_coordinates(count):
    values, _ = integer_gaussian(0.25).draw(np.random.Philox(key=3), count)
    more, _ = integer_gaussian(0.25).draw(np.random.Philox(key=3), 8)
    assert values.shape == (count,)
    is_open = integer_gaussian(0.25).open_mark
    assert (values != is_open).all()
    assert (more != is_open).all()


def test_the_network_sees_the_integers_divided_once():
    law = gaussian_255(0.5)
    z = np.arange(-2000, 2300, dtype=law.row_dtype)
    got = law.inputs(torch.from_numpy(z), torch.float32).numpy()
    assert np.array_equal(got, z.astype(np.float32) / np.float32(255))
    exact = [
        abs(Fraction(float(x)) - Fraction(int(n), 255)) <= Fraction(1, 2**25) * abs(n)
        for x, n in zip(got, z, strict=True)
    ]
    assert all(exact)
    assert law.inputs(torch.from_numpy(z), torch.float64).numpy().tolist() == (z.astype(np.float64) / 255).tolist()
    assert law.inputs(torch.from_numpy(z), torch.bfloat16).dtype == torch.bfloat16


def test_rows_are_pixels_plus_noise_and_are_not_clipped():
    law = gaussian_255(1.0)
    bits = block_generator(0, REQUEST, law.name)
    rows = law.draw(REQUEST, bits).rows
    noise, _ = law.sampler.draw(block_generator(0, REQUEST, law.name), rows.size)
    assert np.array_equal(rows.astype(np.int64), IMAGE.stored.astype(np.int64) + noise.reshape(rows.shape))
    assert rows.min() < 0
    assert rows.max() > 255


def test_wide_noise_uses_a_wider_integer():
    law = gaussian_255(10.7)
    assert law.row_dtype == np.int32
    assert law.levels // 2 + 255 > 2**15


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf"), 43.0])
def test_sigma_out_of_range_is_refused(sigma):
    with pytest.raises(InputError, match="sigma"):
        gaussian_255(sigma)


@pytest.mark.parametrize("sigma", [1e-300, 1e-5])
def test_a_tiny_sigma_rounds_to_no_noise(sigma):
    law = gaussian_255(sigma)
    assert (law.draw(REQUEST, block_generator(0, REQUEST, law.name)).rows == IMAGE.stored).all()


def test_integer_noise_refuses_other_data():
    tabular = Example(0, "t", 0, np.zeros(3, dtype=np.float32))
    with pytest.raises(InputError, match="8-bit"):
        gaussian_255(0.5).draw(BlockRequest(tabular, "estimation", 0, 128), block_generator(0, REQUEST, "gaussian-255"))


def test_the_law_follows_from_the_data_and_the_opt_out():
    settings = SmoothingSettings(sigma=0.5)
    assert make_law(settings, eight_bit=True).name == "gaussian-255"
    assert make_law(settings, eight_bit=True).float_sound
    for law in (
        make_law(settings, eight_bit=False),
        make_law(SmoothingSettings(sigma=0.5, float_noise=True), eight_bit=True),
    ):
        assert law.name == "gaussian"
        assert not law.float_sound
        assert "not float-sound" in law.words


def test_float_noise_is_added_in_float64_and_shared_between_sigmas():
    at_zero = Example(0, "t", 0, np.zeros((2, 2), dtype=np.float64))
    request = BlockRequest(at_zero, "estimation", 0, BLOCK_DRAWS)
    one, half = (GaussianLaw(sigma).draw(request, block_generator(0, request, "gaussian")) for sigma in (1.0, 0.5))
    assert one.rows.dtype == np.float64
    assert np.array_equal(one.rows * 0.5, half.rows)
    assert one.fingerprint == half.fingerprint
    rows = torch.from_numpy(one.rows)
    assert torch.equal(GaussianLaw(1.0).inputs(rows, torch.float32), rows.float())


@pytest.mark.parametrize("name", sorted(LAWS))
def test_every_law_keeps_the_interface(name):
    law = LAWS[name](0.25)
    noisy = law.draw(REQUEST, block_generator(0, REQUEST, name))
    again = law.draw(REQUEST, block_generator(0, REQUEST, name))
    assert law.name == name
    assert noisy.rows.shape == (BLOCK_DRAWS, *IMAGE.stored.shape)
    assert noisy.rows.dtype == law.row_dtype
    assert noisy.fingerprint == again.fingerprint
    assert np.array_equal(noisy.rows, again.rows)
    assert not np.array_equal(noisy.rows[0], noisy.rows[1])
    inputs = law.inputs(torch.from_numpy(noisy.rows), torch.float64).numpy()
    # the mean of 128 draws is near the image: the noise is in pixel units, on the stored values over 255
    assert np.abs(inputs.mean(0) - IMAGE.values()).max() < 6 * 0.25 / np.sqrt(BLOCK_DRAWS)
    assert 0.2 < (inputs - IMAGE.values()).std() < 0.3


@pytest.mark.parametrize("steps", [1, 2, 110, 441])
def test_the_uniform_law_is_within_its_charge(steps):
    """Every level has the same probability up to 2^-63, and the distances add up to less than 2m of these."""
    T = [0, *uniform_thresholds(steps).tolist(), 2**63]
    drawn = [Fraction(b - a, 2**63) for a, b in pairwise(T)]
    assert len(drawn) == 2 * steps + 1
    distance = sum(abs(p - Fraction(1, 2 * steps + 1)) for p in drawn) / 2
    assert distance <= Fraction(2 * steps, 2**63)
    assert max(abs(p - Fraction(1, 2 * steps + 1)) for p in drawn) < Fraction(1, 2**63)


def test_uniform_draws_fill_their_levels_evenly():
    law = uniform_255(0.02)
    m = law.sampler.half
    values, _ = law.sampler.draw(np.random.Philox(key=9), 340_000)
    counts = np.bincount(values + m, minlength=2 * m + 1)
    assert len(counts) == 2 * m + 1 == 17
    assert np.abs(counts - 20_000).max() < 6 * np.sqrt(20_000)


def test_uniform_sigmas_without_a_level_are_refused():
    for sigma in (0.002, 0.0, float("nan"), 1e6):
        with pytest.raises(InputError, match="sigma"):
            uniform_255(sigma)


def test_the_half_width_is_that_of_the_rows():
    at_zero = Example(0, "t", 0, np.zeros(1000, dtype=np.float64))
    request = BlockRequest(at_zero, "estimation", 0, BLOCK_DRAWS)
    rows = UniformLaw(0.25).draw(request, block_generator(0, request, "uniform")).rows
    assert 0.43 < np.abs(rows).max() <= UniformLaw(0.25).scale


KEPT_DRAWS = {
    "gaussian-255": "8f4b3d17de1ad4a18698eef5c764826256ca576380020aad7881ef4b88d636b4",
    "uniform-255": "2a406bed271db9f8d81b040cbadd1eb162118633285ff2fe2c891f3545d60cbf",
}


@pytest.mark.parametrize(("law", "digest"), KEPT_DRAWS.items())
def test_the_draws_of_a_key_are_those_of_earlier_versions(law, digest):
    """Stores and reports of finished runs name a seed: the same seed must go on giving the same noise."""
    image = Example(index=0, id="kept", label=0, stored=np.arange(60, dtype=np.uint8).reshape(3, 4, 5) * 4)
    digests = hashlib.sha256()
    for purpose in ("selection", "estimation"):
        request = BlockRequest(image, purpose, 7, BLOCK_DRAWS)
        rows = LAWS[law](0.25).draw(request, block_generator(12, request, law)).rows
        digests.update(rows.astype("<i4").tobytes())
    assert digests.hexdigest() == digest
