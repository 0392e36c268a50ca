r"""The gate question "is the radius at least r?": an exact group-sequential test.

Let A be fixed by the pilot, p its probability, and p0 = Phi(r / sigma), or (1 + r / w) / 2 for uniform noise of
half-width w: the radius exceeds r when p > p0. S_n counts the votes for A among the first n fresh draws. At looks
n_1 < ... < n_K the test compares S with two rows of integers:

    S >= up_j    "certified r"        S <= lo_j    "given up"        after n_K    "undecided".

*Level.* For every p <= p0 the probability that S ever reaches up_j is at most alpha. At p = p0 it is computed
(`certify.stats.recursion`), and the rows are chosen so that it is at most alpha. For p < p0 draw both laws from common
uniforms: S_n(p) <= S_n(p0) for all n at once, and a path that crosses still crosses when raised. Giving up only removes
paths.
Looks, cap and rows depend on (p0, alpha, beta, cap) alone, never on data. In the same way, with failures in place of
votes, the test gives up with probability at most beta when p >= p0. []

*Shape.* The rows are level sets of a likelihood ratio of p > p0 against p0, with the prior Beta(1/2, 1/2) cut off below
p0; q standing for a success probability,

    log W(S, n) = log B(S + 1/2, n - S + 1/2) - log B(1/2, 1/2) + log P(Beta(S + 1/2, n - S + 1/2) > p0)
                  - log P(Beta(1/2, 1/2) > p0) - S log p0 - (n - S) log(1 - p0).

Nothing rests on W: any rows with a small enough crossing probability are valid, and these are nearly the shortest. W
alone gives a threshold that always suffices: it is a non-negative supermartingale for every p <= p0, because the mean
of one factor, p q / p0 + (1 - p)(1 - q) / (1 - p0) with q > p0 >= p, is at most 1; by Ville's inequality it ever
reaches 1/alpha with probability at most alpha. That threshold, log(1 / alpha), is the upper end of the search, and the
test that holds at *every* n (`anytime`).

*Rounding.* p0 is rounded up, so the exact null lies inside the computed one. The crossing probability is off by
less than 1e-14 cap of itself, which the calibration leaves free: 1e-6 of alpha, and 1.1e-14 cap where that is more.

Source: H. Robbins, Statistical methods related to the law of the iterated logarithm, Annals of Mathematical Statistics
41 (1970), for mixtures and Ville's inequality; the exact recursion has its own source.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
import scipy
from numpy.typing import NDArray

from certify.stats.arguments import MAX_DRAWS, check_alpha, check_integer, check_within
from certify.stats.plan import BLOCK
from certify.stats.recursion import START, VoteLaw, advance, crossing_from, vote_laws
from certify.stats.uniform import uniform_tail

GROWTH = 1.15  # of one look to the next
SLACK, SLACK_PER_DRAW = 1e-6, 1.1e-14  # of alpha, for the rounding of the crossing probability
POLISHED, POLISHED_GIVING_UP = 0.99, 0.95  # of the level: below, single rows are lowered
STEPS = 40  # of the bisection over the threshold
LARGEST_RATIO = 8.0  # r / sigma; beyond, p0 is 1 in float64
QUANTILE_ERROR = 1e-13  # relative, of the normal tail of scipy


@dataclass(frozen=True)
class SequentialTest:
    """The table of one question: at ``looks[j]`` draws, ``up[j]`` votes certify and ``lo[j]`` votes give up.

    ``p0`` is the null, rounded up. ``level`` bounds the probability of a false certificate, ``give_up_level`` that of
    giving up although p >= p0. A row above its look, or below 0, cannot be reached.
    """

    ratio: float
    p0: float
    alpha: float
    beta: float
    cap: int
    looks: tuple[int, ...]
    up: tuple[int, ...]
    lo: tuple[int, ...]
    threshold: float
    level: float
    give_up_level: float
    noise: str = "gaussian"

    @property
    def sha256(self) -> str:
        """The hash of the question and its integer rows."""
        law = () if self.noise == "gaussian" else (self.noise,)
        text = repr((self.ratio, self.alpha, self.beta, self.cap, self.looks, self.up, self.lo, *law))
        return hashlib.sha256(text.encode()).hexdigest()


def look_grid(cap: int) -> tuple[int, ...]:
    """Return the looks: whole blocks of 128, each at least 1.15 times the one before, the last at ``cap``.

    Raises:
        ValueError: If ``cap`` is not an integer within 1..10^9.

    Example:
        >>> look_grid(1200)
        (128, 256, 384, 512, 640, 768, 896, 1152, 1200)
    """
    cap = check_integer(cap, "cap", 1, MAX_DRAWS)
    looks = [min(BLOCK, cap)]
    while looks[-1] < cap:
        blocks = max(math.ceil(GROWTH * looks[-1] / BLOCK), looks[-1] // BLOCK + 1)
        looks.append(min(blocks * BLOCK, cap))
    return tuple(looks)


@lru_cache(maxsize=64, typed=True)  # True is no ratio, though it equals 1
def sequential_test(ratio: float, alpha: float, beta: float, cap: int, noise: str = "gaussian") -> SequentialTest:
    """Return the table of the question "is the radius at least ratio times the scale of the noise?".

    Args:
        ratio: r / sigma, above 0 and at most 8; under uniform noise r over its half-width, below 1.
        alpha: Bound of the probability of certifying when p <= p0.
        beta: Bound of the probability of giving up when p >= p0.
        cap: The most draws.
        noise: The family of the noise law, a row of `TAILS`.

    Raises:
        ValueError: If an argument is outside its range, of another kind, or NaN.

    Example:
        >>> test = sequential_test(1.0, 0.001, 0.001, 4096)
        >>> test.looks[:3], test.up[:3], test.lo[:3]
        ((128, 256, 384), (121, 235, 348), (92, 193, 295))
        >>> 0.0009 < test.level <= 0.001
        True
    """
    p0, q0 = null_probability(ratio, noise)
    alpha, beta = check_alpha(alpha), check_alpha(beta, "beta")
    looks = look_grid(cap)
    up, threshold, level = _calibrated(looks, p0, q0, alpha, POLISHED)
    give_up = TAILS[noise](ratio)[1]
    failures, _, give_up_level = _calibrated(looks, give_up, 1.0 - give_up, beta, POLISHED_GIVING_UP)
    lo = tuple(min(n - most, top - 1) for n, most, top in zip(looks, failures, up, strict=True))
    return SequentialTest(ratio, p0, alpha, beta, looks[-1], looks, up, lo, threshold, level, give_up_level, noise)


def gaussian_tail(ratio: float) -> tuple[float, float]:
    """Return a lower and an upper bound of 1 - Phi(ratio).

    Raises:
        ValueError: If the ratio is not within 2^-30..8, or NaN.
    """
    ratio = check_within(ratio, "ratio", 2.0**-30, LARGEST_RATIO, "ask for a radius of at most 8 sigma")
    tail = float(scipy.special.ndtr(-ratio))
    return math.nextafter(tail * (1 - QUANTILE_ERROR), 0.0), math.nextafter(tail * (1 + QUANTILE_ERROR), 1.0)


TAILS: Mapping[str, Callable[[float], tuple[float, float]]] = MappingProxyType(
    {"gaussian": gaussian_tail, "uniform": uniform_tail}
)
"""Bounds of 1 - p0 by family of the noise law, p0 the probability at which the radius is ``ratio`` times the scale."""


def null_probability(ratio: float, noise: str = "gaussian") -> tuple[float, float]:
    """Return p0 >= Phi(ratio), or that of another noise law, and 1 - p0 exactly.

    Raises:
        ValueError: If the ratio is not within 2^-30..8 (below 1 for uniform noise), or NaN.

    Example:
        >>> p0, q0 = null_probability(1.0)
        >>> 0.8413447460685429 <= p0 < 0.8413447460686 and p0 + q0 == 1.0
        True
    """
    p0 = math.nextafter(1.0 - TAILS[noise](ratio)[0], 1.0)
    return p0, 1.0 - p0


def log_ratio(votes: NDArray[np.float64], draws: NDArray[np.float64], p0: float, q0: float) -> NDArray[np.float64]:
    """Return log W of the module docstring, q0 = 1 - p0 given apart since it may be tiny."""
    special = scipy.special
    a, b = votes + 0.5, draws - votes + 0.5
    weight = special.betaln(a, b) - special.betaln(0.5, 0.5)
    with np.errstate(divide="ignore"):
        beyond = np.log(special.betaincc(a, b, p0)) - np.log(special.betaincc(0.5, 0.5, p0))
    found: NDArray[np.float64] = weight + beyond - votes * math.log1p(-q0) - (draws - votes) * math.log(q0)
    return found


def rows_at(
    looks: Sequence[int],
    p0: float,
    q0: float,
    threshold: float,
    below: Sequence[int] | None = None,
    above: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """Return per look the least votes, at least p0 n, with log W >= threshold; n + 1 where none has it.

    They are searched between the rows of a smaller threshold, ``below``, and of a larger one, ``above``.
    """
    draws = np.asarray(looks, dtype=np.float64)
    low = np.ceil(p0 * draws) if below is None else np.asarray(below, dtype=np.float64)
    high = draws + 1.0 if above is None else np.asarray(above, dtype=np.float64)
    while np.any(low < high):
        middle = np.floor((low + high) / 2.0)
        reached = log_ratio(np.minimum(middle, draws), draws, p0, q0) >= threshold
        enough = reached & (middle <= draws)
        high = np.where(enough, middle, high)
        low = np.where(enough, low, np.minimum(middle + 1.0, high))
    return tuple(int(votes) for votes in high)


def _calibrated(
    looks: Sequence[int], p0: float, q0: float, alpha: float, enough: float
) -> tuple[tuple[int, ...], float, float]:
    """Return the rows of the least threshold found whose crossing probability at p0 is below alpha, it, and that."""
    most = alpha * (1.0 - max(SLACK, SLACK_PER_DRAW * looks[-1]))
    low, high = 0.0, math.log(1.0 / alpha) + 1e-6
    laws, rows, failing = vote_laws(looks, p0, q0), rows_at(looks, p0, q0, high), None
    level = crossing_from(START, laws, rows, most)
    if not level <= most:  # never seen: Ville's inequality is strict by a wide margin
        return tuple(n + 1 for n in looks), math.inf, 0.0
    for _ in range(STEPS):
        middle = (low + high) / 2.0
        tried = rows_at(looks, p0, q0, middle, failing, rows)
        found = level if tried == rows else math.inf if tried == failing else crossing_from(START, laws, tried, most)
        if found <= most:
            rows, level, high = tried, found, middle
        else:
            failing, low = tried, middle
    if level < enough * most:
        rows, level = _polished(laws, rows, most, level)
    return rows, high, level


def _polished(
    laws: Sequence[VoteLaw], rows: tuple[int, ...], most: float, level: float
) -> tuple[tuple[int, ...], float]:
    """Lower single rows by one vote, late looks first, until the crossing probability allows no more anywhere.

    A late row costs little of the level and decides the hardest examples, where most draws are spent. Lowering a row
    leaves the looks before it as they were. A row that may not be lowered never may again: the others only get lower.
    """
    places = [place for place in reversed(range(len(laws))) if rows[place] > 0]
    while places:
        before = [START]
        for law, up in zip(laws, rows, strict=True):
            before.append(advance(before[-1], law, up, -1))
        lowered = []
        for place in places:
            tried = (*rows[:place], rows[place] - 1, *rows[place + 1 :])
            found = crossing_from(before[place], laws[place:], tried[place:], most)
            if found <= most:
                rows, level = tried, found
                lowered += [place]
        places = [place for place in lowered if rows[place] > 0]
    return rows, level
