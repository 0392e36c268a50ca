r"""How many estimation draws each example gets, decided by its pilot alone.

Some examples need few draws and some repay many. The pilot's k votes of n0 for the selected class say which: with a
Jeffreys prior, p_A given k is Beta(k + 1/2, n0 - k + 1/2). Sixteen mid-quantiles p of that law stand for it. The worth
of N draws is the mean radius they would certify, in units of sigma, less their price:

    value(N) = mean over p of max(0, ratio(p_L(round(p N), N, alpha)))  -  price N,

with ratio = Phi^-1 for Gaussian noise; for uniform noise it is sqrt 3 (2 p_L - 1), as its half-width is sqrt 3 sigma.

*Soundness*: N is a function of the pilot, which shares no draw with the estimation. Given the pilot, N is a constant
and the bound holds at the full alpha; averaging over pilots keeps it. Nothing here is proved or needs to be: a bad plan
costs draws or radius, never validity. So the plain quantiles of scipy serve, without outward rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import scipy
from numpy.typing import NDArray

from certify.stats.arguments import MAX_DRAWS, check_alpha, check_integer, check_within

BLOCK = 128  # draws are made in blocks of this many
POINTS = 27  # of the grid of sample sizes
QUANTILES = 16  # of the law of p_A given the pilot
RATIOS: Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = MappingProxyType(
    {
        "gaussian": lambda failure: -scipy.special.ndtri(failure),
        "uniform": lambda failure: math.sqrt(3.0) * (1.0 - 2.0 * failure),
    }
)


def draw_grid(cap: int) -> tuple[int, ...]:
    """Return the sample sizes a plan chooses from: about geometric from 256 to ``cap``, in whole blocks of 128.

    Every size is at most ``cap``. Below 256 only one size is left: the whole blocks in ``cap``, or ``cap`` itself when
    it is less than one block.

    Raises:
        ValueError: If ``cap`` is not an integer within 1..10^9.

    Example:
        >>> draw_grid(1000)
        (256, 384, 512, 640, 768, 896)
        >>> draw_grid(100)
        (100,)
    """
    cap = check_integer(cap, "cap", 1, MAX_DRAWS)
    last = cap // BLOCK * BLOCK or cap
    first = min(2 * BLOCK, last)
    between = np.geomspace(first, last, POINTS)
    blocks = {min(round(size / BLOCK) * BLOCK, last) for size in between}
    return tuple(sorted({first, last, *blocks} - {0}))


def sample_plan(n0: int, cap: int, price: float, alpha: float, noise: str = "gaussian") -> tuple[int, ...]:
    """Return the estimation draws after k = 0..n0 pilot votes for the selected class.

    Entry k is the size of `draw_grid` with the largest value (the module docstring has the formula), the smaller of two
    equal ones; or the smallest size, when no value is positive. A function of its arguments only.

    Args:
        n0: Pilot draws, at least 1.
        cap: The most draws of one example.
        price: What one draw costs, in radius divided by sigma; 0 always asks for the most draws that gain.
        alpha: Error probability of one certificate.
        noise: "gaussian" or "uniform": which radius is worth what.

    Raises:
        ValueError: If an argument is outside its range, of another kind, or NaN, or the noise has another name.

    Example:
        >>> plan = sample_plan(4, 1000, 1e-4, 0.001)
        >>> len(plan), plan[0], plan[4]
        (5, 256, 896)
    """
    n0 = check_integer(n0, "n0", 1, MAX_DRAWS)
    price = check_within(price, "price", 0.0, 1.0, "give radius in units of sigma per draw")
    alpha = check_alpha(alpha)
    if noise not in RATIOS:
        raise ValueError(f"noise: expected one of {', '.join(RATIOS)}, got {noise!r:.100}")
    grid = draw_grid(cap)
    likely = likely_probabilities(n0)
    values = np.stack([_mean_ratio(likely, size, alpha, noise) - price * size for size in grid], axis=1)
    best = np.where(values.max(axis=1) > 0.0, values.argmax(axis=1), 0)
    return tuple(grid[i] for i in best)


def likely_probabilities(n0: int) -> NDArray[np.float64]:
    """Return the mid-quantiles of Beta(k + 1/2, n0 - k + 1/2), as ``[n0 + 1, QUANTILES]``."""
    k = np.arange(n0 + 1)[:, None]
    middles = (np.arange(QUANTILES) + 0.5) / QUANTILES
    quantiles: NDArray[np.float64] = scipy.special.betaincinv(k + 0.5, n0 - k + 0.5, middles)
    return quantiles


def _mean_ratio(likely: NDArray[np.float64], n: int, alpha: float, noise: str) -> NDArray[np.float64]:
    """Return the mean certified radius / sigma of ``n`` draws, over the last axis of ``likely``."""
    votes = np.clip(np.rint(likely * n), 1, n)  # no votes and one vote both certify nothing
    failure = scipy.special.betainccinv(n - votes + 1, votes, alpha)
    ratios: NDArray[np.float64] = np.maximum(0.0, RATIOS[noise](failure)).mean(axis=-1)
    return ratios
