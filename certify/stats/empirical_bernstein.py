r"""Bounds on the mean of a score in [0, 1] from n independent draws: the empirical Bernstein bound.

**Theorem** (A. Maurer, M. Pontil, *Empirical Bernstein bounds and sample variance penalization*, COLT 2009, arXiv
0907.3740, Theorem 4). X_1, ..., X_n independent with values in [0, 1], m their mean and V = sum (X_i - m)^2 / (n - 1)
their sample variance. For every delta in (0, 1), with probability at least 1 - delta,

    E m  <=  m + shift(delta),     shift(delta) = sqrt(2 V ln(2 / delta) / n) + 7 ln(2 / delta) / (3 (n - 1)).

The same for 1 - X_i bounds the mean from below. A larger V only widens the bound, so V may be rounded up.

*Scores are integers.* A score is a multiple of `UNIT` = 2^-30: s = i UNIT with 0 <= i <= 2^30, rounded down from what
the network gives. What is bounded is the mean of that rounded score, so the rounding costs nothing, and sums are exact
whatever their order. Of each square the sum takes ceil(i^2 UNIT), again in units of 2^-30: exact in 64 bits for n up to
10^9 draws, and never too small. With T = sum i and Q = sum ceil(i^2 UNIT),

    V  <=  (Q UNIT - (T UNIT)^2 / n) / (n - 1),

a rational number, computed exactly from integers: the size of a batch cannot enter it.

*Several classes.* Let A be fixed before the counted draws. With b_k = m_k + shift_k(beta), max over k != A of b_k is
below max over k != A of E m_k with probability at most beta: the class that attains the second maximum is not random,
and its own b_k bounds it. So the number of classes costs nothing (as for votes, `certify.stats.radius`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from certify.rounding import add_up, div_up, mul_up, sqrt_up, up
from certify.stats.arguments import MAX_DRAWS, check_alpha, check_integer
from certify.stats.radius import split_alpha

UNITS = 2**30  # of one
LOG_MARGIN = 1 + 2.0**-50  # of the logarithm and of the quotient inside it


def mean_shift_upper(total: int, squares: int, n: int, delta: float) -> float:
    """Return shift(delta) of the module docstring, rounded up.

    Args:
        total: Sum of the scores, in units of 2^-30.
        squares: Sum of their squares, each rounded up to whole units of 2^-30.
        n: Draws, at least 2.
        delta: Error probability of this one bound, strictly between 0 and 1/2.

    Raises:
        ValueError: If an argument is outside its range, or no scores in [0, 1] have these sums.

    Example:
        Scores that are all equal have no variance: 7 ln(2 / delta) / (3 (n - 1)) is left.

        >>> 2.3108368706e-4 <= mean_shift_upper(0, 0, 100_000, 1e-4) < 2.3108368707e-4
        True
    """
    n = check_integer(n, "n", 2, MAX_DRAWS)
    delta = check_alpha(delta, "delta")
    total = check_integer(total, "total", 0, n * UNITS)
    squares = check_integer(squares, "squares", 0, n * UNITS)
    spread = Fraction(squares, UNITS) - Fraction(total, UNITS) ** 2 / n
    if spread < 0 or squares > total + n:
        raise ValueError(f"squares: expected sums of scores in [0, 1], got total {total} and squares {squares} of {n}")
    log = mul_up(math.log(2.0 / delta), LOG_MARGIN)
    variance = up(float(spread / (n - 1)))
    return add_up(sqrt_up(div_up(mul_up(2.0, variance, log), float(n))), div_up(mul_up(7.0, log), 3.0 * (n - 1)))


def mean_upper(total: int, squares: int, n: int, delta: float) -> float:
    """Return an upper bound of the mean score, at most 1: too small with probability at most ``delta``.

    Raises:
        ValueError: As for `mean_shift_upper`.

    Example:
        >>> mean_upper(0, 0, 2, 0.01), mean_upper(0, 0, 100_000, 1e-4) < 2.4e-4
        (1.0, True)
    """
    return min(add_up(up(float(Fraction(total, n * UNITS))), mean_shift_upper(total, squares, n, delta)), 1.0)


def score_bounds(
    totals: Sequence[int], squares: Sequence[int], selected: int, n: int, alpha: float
) -> tuple[float, float]:
    """Return upper bounds of 1 - (mean score of the selected class) and of the largest mean of another class.

    Both hold together with probability at least 1 - alpha, when the class was fixed before the draws: 0.9 alpha is
    spent on the first, the rest on the second. Scores of one draw add up to at most 1, so the first bounds the second.

    Args:
        totals: Sums of the scores per class, the invalid outputs as a class of their own.
        squares: Sums of their squares.
        selected: The class.
        n: Draws.
        alpha: Error probability of both bounds together.

    Raises:
        ValueError: If an argument is outside its range, or there are not as many sums of squares as classes.

    Example:
        >>> everything, nothing = 1000 * UNITS, 0
        >>> failure, rival = score_bounds([everything, nothing], [everything, nothing], 0, 1000, 0.001)
        >>> 0.0 < failure == rival < 0.02
        True
    """
    if len(totals) != len(squares) or len(totals) < 2:
        raise ValueError(f"squares: expected one per class, got {len(squares)} for {len(totals)}; pass both whole")
    selected = check_integer(selected, "selected", 0, len(totals) - 1)
    if not sum(totals) <= n * UNITS:
        raise ValueError(f"totals: expected scores of one draw to add up to at most 1, got {sum(totals)} for {n} draws")
    alpha_a, alpha_b = split_alpha(alpha)
    shift = mean_shift_upper(totals[selected], squares[selected], n, alpha_a)
    failure = min(add_up(up(float(1 - Fraction(totals[selected], n * UNITS))), shift), 1.0)
    others = [k for k in range(len(totals)) if k != selected]
    rival = max(mean_upper(totals[k], squares[k], n, alpha_b) for k in others)
    return failure, min(rival, failure)
