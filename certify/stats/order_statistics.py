r"""Median smoothing: certified bounds of a quantile of a noisy scalar output.

y is a scalar function, q_p(x) the p-quantile of y(x + e), e ~ N(0, sigma^2 I). For ||d||_2 <= r

    q_{p-}(x) <= q_p(x + d) <= q_{p+}(x),        p-+ = Phi(Phi^-1(p) -+ r / sigma),

because the probability of {y <= t} is such that Phi^-1 of it moves by at most r / sigma (Cohen, Rosenfeld and Kolter,
arXiv 1902.02918, Lemma 4, applied to that event).

*From n draws*, sorted: X_(1) <= ... <= X_(n). X_(k) <= q_{p-} fails only if fewer than k draws are at or below the
quantile, of probability at most P(Bin(n, p-) <= k - 1); X_(k) >= q_{p+} fails only if at least k draws are strictly
below it, of probability at most P(Bin(n, p+) >= k). With alpha / 2 for each,

    lower  X_(kl),  kl = max{k : P(Bin(n, p-) <= k - 1) <= alpha / 2},
    upper  X_(ku),  ku = min{k : P(Bin(n, p+) >= k) <= alpha / 2};        none: minus, plus infinity.

Outputs that are not numbers count as minus infinity for the lower end and plus infinity for the upper one.

Source: Chiang, Curry, Abdelkader, Kumar, Dickerson and Goldstein (2020), Detection as regression: certified object
detection by median smoothing, arXiv 2007.03730, Section 3.

Rounding: p- is lowered and p+ raised by 1e-12 of their smaller tail, and each binomial tail raised by 1e-9 of itself.
"""

from __future__ import annotations

import math

import scipy

from certify.stats.arguments import MAX_DRAWS, check_alpha, check_integer, check_within

NORMAL_ERROR = 1e-12
TAIL_ERROR = 1e-9


def quantile_ranks(n: int, p: float, ratio: float, alpha: float) -> tuple[int | None, int | None]:
    """Return the ranks (kl, ku) of the sorted draws that bound the p-quantile on the ball of radius ratio * sigma.

    Args:
        n: Draws, fixed before they are seen.
        p: The quantile; 1/2 for the median.
        ratio: r / sigma, at least 0.
        alpha: Error probability of both ends together.

    Returns:
        Ranks from 1 to n; None where no draw bounds that end.

    Raises:
        ValueError: If an argument is outside its range, of another kind, or NaN.

    Example:
        >>> quantile_ranks(1000, 0.5, 0.5, 0.001), quantile_ranks(10_000, 0.5, 0.5, 0.001)
        ((261, 740), (2934, 7067))
    """
    n = check_integer(n, "n", 1, MAX_DRAWS)
    p = check_within(p, "p", 2.0**-40, 1.0 - 2.0**-40, "ask for a quantile inside (0, 1)")
    ratio = check_within(ratio, "ratio", 0.0, 40.0, "give the radius in units of sigma")
    half = check_alpha(alpha) / 2.0
    below = least_rank(n, lowered(p, ratio), half)
    # by symmetry: the upper rank counted from the largest draw
    above = least_rank(n, lowered(1.0 - p, ratio), half)
    return below, None if above is None else n + 1 - above


def lowered(p: float, ratio: float) -> float:
    """Return at most Phi(Phi^-1(p) - ratio)."""
    found = float(scipy.special.ndtr(scipy.special.ndtri(p) - ratio))
    size = abs(float(scipy.special.ndtri(p))) + ratio + 1.0
    return max(0.0, found * (1.0 - NORMAL_ERROR * size * size))


def least_rank(n: int, p: float, alpha: float) -> int | None:
    """Return the largest k with P(Bin(n, p) <= k - 1) <= alpha, or None."""
    low, high = 0, n + 1  # low always holds (k = 0 stands for none), high never does
    while high - low > 1:
        middle = (low + high) // 2
        tail = float(scipy.special.bdtr(middle - 1, n, p)) * (1.0 + TAIL_ERROR)
        low, high = (middle, high) if p > 0.0 and math.isfinite(tail) and tail <= alpha else (low, middle)
    return low or None
