r"""The noise of a smoothing report, derived again: which law, in which words, what it costs, which scales it can have.

The integer Gaussian law is cut at K = ceil(12 * 255 * sigma) and has 2 K thresholds, each probability a multiple of
2^-63: its charge is n d (2 K) 2^-63 for d coordinates and at most n draws (`certify.stats.noise_charge`). The integer
uniform law on -m..m has 2 m, m the largest integer with m <= 255 sigma sqrt 3.

*Integer or not.* The law is the integer one exactly where every example is stored as 8-bit pixels and no float noise
was asked for. A report that says how its data are stored is held to that; of an older one, law and words must agree.

*Scales.* Of the scales d_1, ..., d_n the record holds a hash, the extremes a <= b and an estimate of the geometric
mean g. One of them is a and, when n > 1, another is b, so that

    (n - 1) log a + log b <= n log g <= log a + (n - 1) log b,

and a = b when n = 1. Equality of two of a, g and b hence is that of all three. The largest enters the charge of integer
noise, too. Within these limits the extremes are taken as they stand, like the hash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction

from msgspec import UNSET

from certify.report.findings import Finding, compare, require
from certify.results import OutputsReport, Scales, SmoothingReport, SmoothingSettings
from certify.stats import noise_charge

TAIL_SIGMAS = 12
PIXEL_LEVELS = 255


def _integer_levels(sigma: float) -> int:
    """Return the thresholds of the integer Gaussian law."""
    return 2 * math.ceil(Fraction(sigma) * PIXEL_LEVELS * TAIL_SIGMAS)


def _uniform_steps(sigma: float) -> int:
    """Return m of the integer uniform law."""
    return math.isqrt(math.floor(3 * (PIXEL_LEVELS * Fraction(sigma)) ** 2))


def _uniform_scale(sigma: float) -> float:
    """Return the half-width sigma sqrt 3, rounded down."""
    nearest = sigma * math.sqrt(3.0)
    return nearest if Fraction(nearest) ** 2 <= 3 * Fraction(sigma) ** 2 else math.nextafter(nearest, 0.0)


def _uniform_grid_scale(sigma: float) -> float:
    """Return the half-width (m + 1/2) / 255, rounded down."""
    exact = Fraction(2 * _uniform_steps(sigma) + 1, 2 * PIXEL_LEVELS)
    nearest = float(exact)
    return nearest if Fraction(nearest) <= exact else math.nextafter(nearest, 0.0)


LEVELS: Mapping[str, Callable[[float], int]] = {
    "gaussian": lambda _: 0,
    "gaussian-255": _integer_levels,
    "gaussian-diagonal": lambda _: 0,
    "gaussian-diagonal-255": _integer_levels,
    "uniform": lambda _: 0,
    "uniform-255": lambda sigma: 2 * _uniform_steps(sigma),
    "split-255": lambda _: 0,
}
"""Levels of each noise law at the sigma of its widest coordinate; 0 where alpha is not charged."""


SCALES: Mapping[str, Callable[[float], float]] = {
    "gaussian": lambda sigma: sigma,
    "gaussian-255": lambda sigma: sigma,
    "gaussian-diagonal": lambda sigma: math.nextafter(sigma * (1.0 - 2.0**-52), 0.0),
    "gaussian-diagonal-255": lambda sigma: math.nextafter(sigma * (1.0 - 2.0**-52), 0.0),
    "uniform": _uniform_scale,
    "uniform-255": _uniform_grid_scale,
}
"""What the radii of each noise law are proportional to."""

WIDEST = 2.0**20
LOGARITHM_ERROR = 2.0**-30  # of the estimated mean: sums of logarithms below 2^10 in float64 err by far less

ADDRESS = "(seed, example, purpose, block, law)"
SOURCES: Mapping[str, str] = {
    "cpu": f"from numpy's Philox, assumed ideal, keyed by {ADDRESS}",
    "cuda": f"from PyTorch's Philox on CUDA, assumed ideal, seeded with 64 bits of a hash of {ADDRESS}",
}
"""Where the noise is made, by the kind of device that the network ran on."""
NOISE_WORDS: Mapping[str, Callable[[float], str]] = {
    "gaussian": lambda _: "float64 Gaussian noise added in float64 (not float-sound)",
    "gaussian-255": lambda _: (
        "Gaussian noise rounded to whole 1/255 levels, drawn exactly (float-sound on 8-bit inputs)"
    ),
    "gaussian-diagonal": lambda _: "float64 Gaussian noise, scaled per coordinate, added in float64 (not float-sound)",
    "gaussian-diagonal-255": lambda _: (
        "Gaussian noise, scaled per coordinate, rounded to whole 1/255 levels, drawn exactly (float-sound on 8-bit)"
    ),
    "uniform": lambda sigma: (
        f"float64 uniform noise of half-width {_uniform_scale(sigma)!r} added in float64 (not float-sound)"
    ),
    "uniform-255": lambda sigma: (
        f"uniform noise on the whole 1/255 levels -{_uniform_steps(sigma)}..{_uniform_steps(sigma)} (half-width "
        f"{2 * _uniform_steps(sigma) + 1}/510), drawn exactly (float-sound on 8-bit inputs)"
    ),
}
"""How the report describes each noise law at its sigma."""


def check_noise(report: SmoothingReport | OutputsReport) -> Iterator[Finding]:
    """Yield where law, words or scales of the noise are not those that settings, input space and data imply."""
    settings, tables = report.settings, report.tables
    laws = _possible_laws(report)
    yield from require(tables.noise_law in laws, "tables.noise_law", f"one of {laws}", tables.noise_law)
    kind = report.tool.device_kind
    yield from require(kind in SOURCES, "tool.device_kind", f"one of {list(SOURCES)}", kind)
    if settings.deterministic:
        yield from compare("tables.noise", _split_words(settings), tables.noise)
    elif tables.noise_law in NOISE_WORDS and kind in SOURCES:
        words = f"{NOISE_WORDS[tables.noise_law](settings.sigma)}; {SOURCES[kind]}"
        yield from compare("tables.noise", words, tables.noise)
    if settings.scales is not UNSET:
        yield from _check_scales(settings.scales, report.model.input.size)


def _split_words(settings: SmoothingSettings) -> str:
    """Return how the report describes deterministic splitting, which has no noise and no source of it."""
    shifts = settings.n
    return (
        f"no noise: midpoints of cells of {shifts} levels of 1/255 (half-width {shifts}/510) at all {shifts} shifts, "
        f"offsets of seed {settings.seed}; deterministic (float-sound on 8-bit inputs)"
    )


def _possible_laws(report: SmoothingReport | OutputsReport) -> list[str]:
    """Return the laws that the settings leave: one, where the report says how its data are stored."""
    settings = report.settings
    plain = settings.noise if settings.scales is UNSET else f"{settings.noise}-diagonal"
    sound = f"{plain}-{PIXEL_LEVELS}"
    eight_bit = UNSET if report.data is UNSET else report.data.eight_bit
    if settings.float_noise or sound not in LEVELS:
        laws = [plain]
    else:
        laws = [plain, sound] if eight_bit is UNSET else [sound if eight_bit else plain]
    return [law for law in laws if law in LEVELS]


def _check_scales(scales: Scales, coordinates: int) -> Iterator[Finding]:
    """Yield where no array of so many positive scales can have these extremes and this mean."""
    place, low, high, mean = "settings.scales", scales.smallest, scales.largest, scales.geometric_mean
    whole = 0.0 < low <= high < math.inf and high <= WIDEST * low
    yield from require(whole, place, "0 < smallest <= largest <= 2^20 smallest", [low, high])
    yield from require(0.0 < mean < math.inf, f"{place}.geometric_mean", "a positive number", mean)
    if whole and 0.0 < mean < math.inf:
        yield from _check_mean(math.log(low), math.log(mean), math.log(high), coordinates)


def _check_mean(low: float, mean: float, high: float, coordinates: int) -> Iterator[Finding]:
    """Yield where one coordinate at either extreme, and the others between, cannot have this mean of logarithms."""
    place, part = "settings.scales", 1.0 / coordinates
    yield from require(coordinates > 1 or low == high, place, "one scale for the one coordinate", "two")
    least, most = low + part * (high - low), high - part * (high - low)
    between = least - LOGARITHM_ERROR <= mean <= most + LOGARITHM_ERROR
    expected = f"a mean of {coordinates} scales, from about {math.exp(least):.9g} to {math.exp(most):.9g}"
    yield from require(between, f"{place}.geometric_mean", expected, math.exp(mean))


def expected_charge(settings: SmoothingSettings, noise_law: str, dimension: int) -> float:
    """Return the part of alpha that the rounding of a noise law costs, at the cap of the draws.

    Example:
        >>> settings = SmoothingSettings(sigma=0.5, n=2**17)
        >>> expected_charge(settings, "gaussian", 3072), expected_charge(settings, "gaussian-255", 3072) < 1.5e-7
        (0.0, True)
    """
    widest = settings.sigma if settings.scales is UNSET else settings.sigma * settings.scales.largest
    levels = LEVELS[noise_law](widest)
    return noise_charge(settings.n, dimension, levels) if levels else 0.0
