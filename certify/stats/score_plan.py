r"""Which scores a run uses, and how many draws each example gets: both decided by pilots alone.

A run has one classifier, so it has one map and one temperature: `score_candidates` lists what is tried, and the votes
of the plain network are among them, so that soft scores are used only where they look better. Each candidate has a
*worth* on the pilot of each example,

    worth = max over N of (radius that N draws would certify if mean and variance were the pilot's) / sigma - price N,

where half a draw with score 0 and half a draw with score 1 are added to the pilot of each class (Jeffreys' prior, as
in the plan of votes): else a pilot without variance would promise a radius that only more draws can show. The run
takes the candidate with the largest mean worth over its examples. The N that attains it is the number of estimation
draws of the example (`planned`; under ``fixed`` it is n).

*Soundness.* Pilots share no draw with the estimation. Given all pilots, map, temperature, classes and N are constants,
and each bound holds at the full alpha; the estimation draws of two examples stay independent. Nothing here is proved or
needs to be: a bad choice costs radius, never validity. Labels are not looked at. What does change is what a limit over
the *population* says, since the classifier was chosen on these very examples: a limit holds for each of the C
candidates at confidence 1 - delta / C, hence for the chosen one at 1 - delta.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from certify.stats.arguments import check_alpha, check_integer
from certify.stats.empirical_bernstein import UNITS
from certify.stats.lipschitz_radius import LARGEST, smoothed_lipschitz_upper
from certify.stats.plan import draw_grid, likely_probabilities
from certify.stats.radius import split_alpha
from certify.stats.score_radius import MAPS, Slopes, check_temperature

TEMPERATURES = tuple(2.0**k for k in range(-2, 9))
SMALLEST_MEAN = 1e-12


@dataclass(frozen=True)
class ScoreMap:
    """A map from logits to scores: a row of `MAPS` with its temperature; ``argmax`` (temperature 0): votes."""

    simplex: str
    temperature: float

    @property
    def soft(self) -> bool:
        """Whether these are scores, and not votes."""
        return self.simplex != "argmax"


VOTES = ScoreMap("argmax", 0.0)


def score_candidates(simplex: str | None = None, temperature: float | None = None) -> tuple[ScoreMap, ...]:
    """Return what a run chooses from: with a map or a temperature given, only scores with these.

    Raises:
        ValueError: If the map is unknown or the temperature out of range.

    Example:
        >>> len(score_candidates()), len(score_candidates("softmax")), score_candidates("sparsemax", 4.0)
        (23, 11, (ScoreMap(simplex='sparsemax', temperature=4.0),))
    """
    if simplex is not None and simplex not in MAPS:
        raise ValueError(f"simplex: expected one of {', '.join(MAPS)}, got {simplex!r}; choose one of them")
    maps = tuple(MAPS) if simplex is None else (simplex,)
    steps = TEMPERATURES if temperature is None else (check_temperature(temperature),)
    votes = () if simplex is not None or temperature is not None else (VOTES,)
    return (*votes, *(ScoreMap(name, step) for name in maps for step in steps))


def draw_sizes(cap: int, *, planned: bool) -> tuple[int, ...]:
    """Return the numbers of estimation draws that are considered: one, ``cap``, when they are not planned."""
    return draw_grid(cap) if planned else (cap,)


def plan_scores(
    totals: Sequence[int],
    squares: Sequence[int],
    n0: int,
    *,
    sizes: Sequence[int],
    price: float,
    alpha: float,
    sigma: float,
    slopes: Slopes | None,
) -> tuple[int, float]:
    """Return the estimation draws that one pilot of scores asks for, and their worth.

    Args:
        totals: Sums of scores per class, in units of 2^-30, the invalid outputs as the last class.
        squares: Sums of their squares.
        n0: Draws of the pilot.
        sizes: Numbers of draws to choose from, rising; the first is taken when nothing has a positive worth.
        price: What one draw costs, in radius divided by sigma.
        alpha: Error probability of one certificate.
        sigma: Standard deviation of the noise.
        slopes: What is proved about the scores, if anything.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> high = [round(0.9 * UNITS) * 128, round(0.1 * UNITS) * 128, 0]
        >>> flat = [round(0.81 * UNITS) * 128, round(0.01 * UNITS) * 128, 0]
        >>> plan_scores(high, flat, 128, sizes=(256, 10_000), price=1e-5, alpha=0.001, sigma=0.25, slopes=None)[0]
        10000
    """
    n0 = check_integer(n0, "n0", 1, 10**9)
    alpha_a, alpha_b = split_alpha(check_alpha(alpha))
    means = (np.array(totals, dtype=float) / UNITS + 0.5) / (n0 + 1)
    spreads = np.maximum((np.array(squares, dtype=float) / UNITS + 0.5) / (n0 + 1) - means**2, 0.0)
    first, second = _first_two(means)
    draws = np.array(sizes, dtype=float)
    failure = np.minimum(1.0 - means[first] + _shift(spreads[first], draws, alpha_a), 1.0)
    rival = np.minimum(means[second] + _shift(spreads[second], draws, alpha_b), failure)
    return _best(sizes, _radius(failure, rival, sigma, slopes) / sigma - price * draws)


def votes_worth(votes: Sequence[int], n0: int, *, sizes: Sequence[int], price: float, alpha: float) -> float:
    """Return the worth of plain votes on one pilot: the mean two-interval radius over the likely vote shares.

    As in the plan of votes, these are mid-quantiles of the share given the pilot: a single one would promise too little
    where all votes agree, since the radius rises without bound there.

    Args:
        votes: Votes of the pilot per class.
        n0: Draws of the pilot.
        sizes: Numbers of draws to choose from.
        price: What one draw costs, in radius divided by sigma.
        alpha: Error probability of one certificate.

    Example:
        >>> few = votes_worth([70, 58, 0], 128, sizes=(256, 10_000), price=1e-5, alpha=0.001)
        >>> few < 0.2 < 2.0 < votes_worth([128, 0, 0], 128, sizes=(256, 10_000), price=1e-5, alpha=0.001)
        True
    """
    n0 = check_integer(n0, "n0", 1, 10**9)
    alpha_a, alpha_b = split_alpha(check_alpha(alpha))
    first, second = _first_two(np.array(votes, dtype=float))
    likely = likely_probabilities(n0)[votes[first]][:, None]
    draws = np.array(sizes, dtype=float)
    here = np.clip(np.rint(likely * draws), 1, draws)
    there = np.minimum(np.rint((votes[second] + 0.5) / (n0 + 1) * draws), draws - here)
    failure = scipy.special.betainccinv(draws - here + 1, here, alpha_a)
    rival = np.minimum(scipy.special.betainccinv(there + 1, np.maximum(draws - there, 1), alpha_b), failure)
    radii = np.maximum(_radius(failure, rival, 1.0, None), 0.0).mean(axis=0)
    return _best(sizes, radii - price * draws)[1]


def _first_two(means: NDArray[np.float64]) -> tuple[int, int]:
    first = int(means.argmax())
    return first, max((k for k in range(len(means)) if k != first), key=lambda k: means[k])


def _best(sizes: Sequence[int], worth: NDArray[np.float64]) -> tuple[int, float]:
    """Return the number of draws with the largest worth, the first when none is positive, and that worth."""
    best = int(worth.argmax()) if worth.max() > 0.0 else 0
    return int(sizes[best]), max(float(worth[best]), 0.0)


def _shift(spread: float, draws: NDArray[np.float64], delta: float) -> NDArray[np.float64]:
    log = math.log(2.0 / delta)
    return np.sqrt(2.0 * spread * log / draws) + 7.0 * log / (3.0 * np.maximum(draws - 1.0, 1.0))


def _radius(
    failure: NDArray[np.float64], rival: NDArray[np.float64], sigma: float, slopes: Slopes | None
) -> NDArray[np.float64]:
    """Return the larger of two radii in closed form, that of any scores and that of the plain slope; estimates."""
    failure, rival = np.maximum(failure, SMALLEST_MEAN), np.maximum(rival, SMALLEST_MEAN)
    radii: NDArray[np.float64] = -0.5 * sigma * (scipy.special.ndtri(failure) + scipy.special.ndtri(rival))
    if slopes is None or not 0.0 < slopes.per_class * sigma <= LARGEST or not math.isfinite(slopes.slack_difference):
        return radii
    gap = 1.0 - failure - rival - 2.0 * slopes.slack_difference
    return np.maximum(radii, gap / smoothed_lipschitz_upper(slopes.difference, sigma, 2.0))
