r"""The randomized Clopper-Pearson bound: its error is alpha itself, at every probability.

With S ~ Bin(n, p) and W uniform on (0, 1], independent of S, the lower bound of p from k successes is

    p_L(k, W) = inf { p : P_p(Bin > k) + W P_p(Bin = k) > alpha }.

*Statement*: P(p_L(S, W) > p) <= alpha, with equality when W is uniform on the reals. *Proof*: the sum is continuous and
does not fall in p, so p_L > p exactly when T = P_p(Bin > S) + W P_p(Bin = S) <= alpha. The values of T for the counts
k = n, n - 1, ..., 0 fill intervals (P_p(Bin > k), P_p(Bin >= k)] that tile (0, 1], each with its length as probability
and T uniform in it: T is uniform on (0, 1]. []

*The uniform number.* W = (m + 1) / 2^53 with m uniform on 0..2^53 - 1 is at most w with probability at most w: it is
stochastically no smaller than a uniform real one. T increases in W, so the statement holds for it, without a charge.
W is a function of the run's seed and the example alone (`uniform_of`): it is fixed before any draw, and nobody can draw
it again. That hashes behave like independent random numbers is an assumption, as it is for the noise.

*All successes.* T is W p^n then, and p_L = (alpha / W)^(1/n): 1, an infinite radius, with probability alpha. A bound is
capped by that of n + 1 successes in n + 1 draws, alpha^(1/(n+1)): lowering a lower bound keeps its statement.

With W = 1 it is the Clopper-Pearson bound; the gain is largest where counts are few. A radius then depends on a number
that says nothing about the network: never a default, and the statement of a report says it.

*Floating point.* As in `clopper_pearson`, what is returned has proved itself by the forward function of the library,
raised by 1e-9 of itself for its error; the search may stop anywhere.

Source: W. L. Stevens, Fiducial limits of the parameter of a discontinuous distribution, Biometrika 37 (1950); for
smoothing V. Voracek, Treatment of statistical estimation problems in randomized smoothing, arXiv 2406.17830.
"""

from __future__ import annotations

import hashlib
import json

import scipy

from certify.stats.arguments import MAX_DRAWS, check_alpha, check_count, check_within
from certify.stats.clopper_pearson import TAIL_ERROR, failure_upper

BITS = 53
STEPS = 60  # halvings of the interval between two deterministic bounds


def uniform_of(seed: int, example_id: str, example_hash: str) -> float:
    """Return W of an example in a run: above 0, at most 1, the same whenever it is asked for.

    Example:
        >>> round(uniform_of(0, "cat/1.png", "ab"), 6), round(uniform_of(1, "cat/1.png", "ab"), 6)
        (0.93007, 0.331098)
    """
    text = json.dumps([seed, example_id, example_hash, "randomization"], separators=(",", ":"))
    first = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> (64 - BITS)
    return (first + 1) / 2.0**BITS


def failure_upper_randomized(k: int, n: int, alpha: float, uniform: float) -> float:
    """Return an upper bound of the failure probability 1 - p from ``k`` successes in ``n`` draws and W.

    P(bound < 1 - p) <= alpha for S ~ Bin(n, p), every p, and W as `uniform_of` gives it.

    Args:
        k: Successes, 0..n.
        n: Draws, fixed before they are seen.
        alpha: Error probability of this one bound.
        uniform: W; 1 gives the deterministic bound, 0 the least one that any W could.

    Raises:
        ValueError: If an argument is outside its range, of another kind, or NaN.
        SoundnessError: If the installed scipy does not prove the deterministic bound.

    Example:
        >>> bounds = [failure_upper_randomized(95, 100, 0.001, w) for w in (0.0, 0.5, 1.0)]
        >>> bounds == sorted(bounds), failure_upper(96, 100, 0.001) < bounds[1] < failure_upper(95, 100, 0.001)
        (True, True)
    """
    k, n = check_count(k, n)
    alpha = check_alpha(alpha)
    uniform = check_within(uniform, "uniform", 0.0, 1.0, "take it from uniform_of")
    high = failure_upper(k, n, alpha)
    if k == 0:
        return high
    most = min(n + 1, MAX_DRAWS)
    low = failure_upper(most, most, alpha)  # the cap
    for _ in range(STEPS):
        middle = (low + high) / 2.0
        tail = (1.0 - uniform) * _at_least(k + 1, n, middle) + uniform * _at_least(k, n, middle)
        low, high = (low, middle) if tail * (1.0 + TAIL_ERROR) <= alpha else (middle, high)
    return high


def _at_least(k: int, n: int, q: float) -> float:
    """Return P(Bin(n, 1 - q) >= k) for k >= 1."""
    return 0.0 if k > n else float(scipy.special.betaincc(n - k + 1, k, q))
