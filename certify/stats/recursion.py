r"""What a test with rows does at one p, exactly: the law of the votes that have met no row yet, from look to look.

S_n counts votes of probability p among n draws. At looks n_1 < ... < n_K a path of S ends where S >= up_j ("certified")
or S <= lo_j ("given up"). Between two looks the law of the paths that go on is convolved with a binomial law; at a look
the parts that end are summed and taken out.

*Rounding.* All terms are non-negative, and each probability of a binomial law of n draws is off by less than 1e-14 n of
itself, from the logarithms of factorials: over all looks by less than 1e-14 n_K. What is dropped at the ends of a law
is added to the probability of "certified".

Source: P. Armitage, C. McPherson and B. Rowe, Repeated significance tests on accumulating data, JRSS A 132 (1969).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

DROPPED = 1e-20  # probabilities below are taken out of the recursion, and into that of crossing


class Operation(NamedTuple):
    """What a test does at one p: probabilities of its ends, and the mean number of draws."""

    certified: float
    given_up: float
    mean_draws: float


class VoteLaw(NamedTuple):
    """The law of the votes between two looks: ``probabilities[i]`` is that of first + i votes in ``draws`` draws."""

    draws: int
    first: int
    probabilities: NDArray[np.float64]


class Going(NamedTuple):
    """The paths after some looks: ``alive[i]`` is the probability of first + i votes and no end yet."""

    alive: NDArray[np.float64]
    first: int = 0
    certified: float = 0.0
    given_up: float = 0.0
    dropped: float = 0.0
    mean: float = 0.0

    @property
    def crossed(self) -> float:
        """The probability of having certified, rounded up; it never falls from one look to the next."""
        return min(1.0, self.certified + self.dropped)


START = Going(np.ones(1))


def vote_laws(looks: Sequence[int], p: float, q: float) -> tuple[VoteLaw, ...]:
    """Return the laws of the votes between looks, q = 1 - p given apart since it may be tiny."""
    return tuple(_vote_law(now - before, p, q) for before, now in pairwise((0, *looks)))


def advance(going: Going, law: VoteLaw, most: int, least: int) -> Going:
    """Return the paths after one more look, at which ``most`` votes certify and ``least`` give up."""
    if not len(going.alive):
        return going
    mean = going.mean + law.draws * float(going.alive.sum())
    alive, first = np.convolve(going.alive, law.probabilities), going.first + law.first
    votes = first + np.arange(len(alive))
    kept = (votes > least) & (votes < most)
    small = kept & (alive < DROPPED)
    inside = np.flatnonzero(kept & ~small)
    begin, end = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)
    return Going(
        np.where(kept, alive, 0.0)[begin:end],
        first + begin,
        going.certified + float(alive[votes >= most].sum()),
        going.given_up + float(alive[votes <= least].sum()),
        going.dropped + (float(alive[small].sum()) + 1e-18),
        mean,
    )


def crossing(looks: Sequence[int], up: Sequence[int], p: float, q: float | None = None) -> float:
    """Return the probability that the votes ever reach ``up``, by the recursion over looks, up to rounding from above.

    Args:
        looks: Draws at each look.
        up: Votes that cross there.
        p: The probability of a vote.
        q: 1 - p, where that loses digits.

    Example:
        One look: a binomial tail, here P(Bin(10, 1/2) >= 9) = 11/1024.

        >>> abs(crossing((10,), (9,), 0.5) - 11 / 1024) < 1e-12
        True
    """
    return crossing_from(START, vote_laws(looks, p, 1.0 - p if q is None else q), up)


def crossing_from(going: Going, laws: Sequence[VoteLaw], up: Sequence[int], enough: float = math.inf) -> float:
    """Return the probability of reaching ``up`` at the looks that remain or before; infinity if above ``enough``.

    It only grows from look to look, so the looks after the one that passes ``enough`` are not computed.
    """
    for law, most in zip(laws, up, strict=True):
        going = advance(going, law, most, -1)
        if going.crossed > enough:
            return math.inf
    return going.crossed


def operate(looks: Sequence[int], up: Sequence[int], lo: Sequence[int], p: float, q: float | None = None) -> Operation:
    """Return the probabilities of both ends and the mean number of draws, by the recursion over looks."""
    going = START
    laws = vote_laws(looks, p, 1.0 - p if q is None else q)
    for law, most, least in zip(laws, up, lo, strict=True):
        going = advance(going, law, most, least)
    return Operation(going.crossed, going.given_up, going.mean)


def _vote_law(n: int, p: float, q: float) -> VoteLaw:
    """Return the law Bin(n, p) around its mean; what is left out is below 1e-18."""
    if min(p, q) <= 0.0:
        return VoteLaw(n, n if q <= 0.0 else 0, np.ones(1))
    spread = 10.0 * math.sqrt(n * p * q) + 50.0
    first, last = max(0, math.floor(n * p - spread)), min(n, math.ceil(n * p + spread))
    k = np.arange(first, last + 1, dtype=np.float64)
    special = scipy.special
    ways = special.gammaln(n + 1.0) - special.gammaln(k + 1.0) - special.gammaln(n - k + 1.0)
    return VoteLaw(n, first, np.exp(ways + special.xlogy(k, p) + special.xlogy(n - k, q)))
