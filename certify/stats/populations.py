r"""What the counts of certified examples say about the data: intervals and requirements.

V_i = 1 when example i was certified correct at the radius asked for, T_i = 1 when that certificate is true, and
P(V_i = 1 | T_i = 0) <= alpha. Deterministic certificates have alpha = 0. Noise is independent from example to example.

**List statement**: about these n examples. The number F of false certificates is stochastically at most Bin(n, alpha):
given the others, each is false with probability at most alpha. With q(rho) the least q such that
P(Bin(n, alpha) > q) <= rho, at least count - q of *these* examples are truly certified, with probability 1 - rho; for
all radii at once, since a certificate is false when its radius exceeds the true one, whatever radius is asked for.

**Population statement**: about the law the examples were drawn from, independently. Let p = P(T = 1). A certificate is
issued for a true example or falsely, P(V = 1) <= p + alpha (1 - p), hence p >= (P(V = 1) - alpha) / (1 - alpha). With L
the Clopper-Pearson lower bound of P(V = 1) at error 1 - confidence, p >= (L - alpha) / (1 - alpha). The noise of the
certificates is inside that one statement; no level is added. The upper limit U is of P(V = 1), the certified accuracy
of this procedure; an example that is not certified may still be robust. The ends are one-sided, each at ``confidence``.

A *requirement* is both on the integers: the count that proves the target, and the largest count that disproves it. One
between them is undecided, which is never a pass. Each V_i depends on its own noise only, so a verdict that the examples
still to come cannot change is the verdict of the whole run, and stopping there costs no level.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import scipy

from certify.results import Verdict
from certify.rounding import div_down, mul_up, sub_down, up
from certify.stats.arguments import (
    MAX_DRAWS,
    check_alpha,
    check_certificate_alpha,
    check_confidence,
    check_count,
    check_integer,
    check_within,
)
from certify.stats.clopper_pearson import TAIL_ERROR, success_lower, success_upper


@dataclass(frozen=True)
class Requirement:
    """Integers that decide "at least the target": a count of ``passes_from`` proves it, ``fails_to`` disproves it.

    ``passes_from`` may exceed the number of examples (no count passes), and ``fails_to`` may be -1 (no count fails).

    Example:
        >>> rule = Requirement(passes_from=8, fails_to=4)
        >>> rule.verdict(8), rule.verdict(6), rule.verdict(3), rule.verdict(3, open_examples=2)
        ('passed', 'undecided', 'failed', 'undecided')
    """

    passes_from: int
    fails_to: int

    def verdict(self, count: int, open_examples: int = 0) -> Verdict:
        """Return what ``count`` certified examples prove while ``open_examples`` more may still become certified.

        Open are the examples not yet run, and for the last word those whose own question ended undecided. A verdict
        other than "undecided" is final.

        Raises:
            ValueError: If an argument is not a non-negative integer.
        """
        count = check_integer(count, "count", 0, MAX_DRAWS)
        open_examples = check_integer(open_examples, "open_examples", 0, MAX_DRAWS)
        if count >= self.passes_from:
            return "passed"
        return "failed" if count + open_examples <= self.fails_to else "undecided"


def false_certificates_quantile(n: int, alpha: float, rho: float) -> int:
    """Return the least q with P(Bin(n, alpha) > q) <= rho.

    With probability at least 1 - rho no more than q of n certificates are false.

    Rounding: the tail is raised by 1e-9 of itself, 40 times its error, before it is compared, so q is never too small.

    Args:
        n: Examples, each with noise of its own.
        alpha: Error probability of one certificate; 0 for deterministic ones.
        rho: Error probability of the statement.

    Raises:
        ValueError: If an argument is outside its range, of another kind, or NaN.

    Example:
        >>> [false_certificates_quantile(500, 0.001, rho) for rho in (0.05, 0.01, 0.001)]
        [2, 3, 4]
    """
    n = check_integer(n, "n", 1, MAX_DRAWS)
    alpha, rho = check_certificate_alpha(alpha), check_alpha(rho, "rho")
    return _least(0, n, lambda q: q == n or alpha == 0.0 or _tail_upper(q, n, alpha) <= rho)


def expected_false_upper(n: int, alpha: float) -> float:
    """Return n alpha, rounded up: the expected number of false certificates is at most this, under any dependence.

    Raises:
        ValueError: If an argument is outside its range, of another kind, or NaN.

    Example:
        >>> 0.5 <= expected_false_upper(500, 0.001) < 0.5000001
        True
    """
    return mul_up(float(check_integer(n, "n", 1, MAX_DRAWS)), check_certificate_alpha(alpha))


def alpha_for_all(n: int, alpha: float) -> float:
    """Return alpha / n, rounded down: certificates made at it are *all* true with probability 1 - alpha (Bonferroni).

    Raises:
        ValueError: If an argument is outside its range, of another kind, or NaN.

    Example:
        >>> 500 * alpha_for_all(500, 0.001) <= 0.001
        True
    """
    return div_down(check_alpha(alpha), float(check_integer(n, "n", 1, MAX_DRAWS)))


def population_limits(count: int, n: int, *, confidence: float, alpha: float) -> tuple[float, float]:
    """Return (lower, upper): p = P(T = 1) is at least ``lower``, and P(V = 1) at most ``upper``.

    Each end holds with probability ``confidence`` on its own; both together with 2 confidence - 1. The module docstring
    has the statement and its proof. Needs examples drawn independently from the population, which the first rows of a
    sorted file are not.

    Args:
        count: Examples certified correct.
        n: Examples.
        confidence: Strictly between 1/2 and 1.
        alpha: Error probability of one certificate; 0 for deterministic ones.

    Returns:
        Two numbers in [0, 1], rounded outward.

    Raises:
        ValueError: If an argument is outside its range, of another kind, or NaN.

    Example:
        96 of 100 are needed to show 0.9 at 95 %.

        >>> [population_limits(c, 100, confidence=0.95, alpha=0.001)[0] >= 0.9 for c in (95, 96)]
        [False, True]
    """
    count, n = check_count(count, n, "count")
    delta, alpha = check_confidence(confidence), check_certificate_alpha(alpha)
    certified = success_lower(count, n, delta)
    left_over = up(1.0 - alpha) if alpha else 1.0
    lower = max(0.0, div_down(sub_down(certified, alpha), left_over))
    return lower, success_upper(count, n, delta)


def population_requirement(n: int, target: float, *, confidence: float, alpha: float) -> Requirement:
    """Return the counts of ``n`` that show "at least ``target`` of the population", and that show the contrary.

    Passed: the lower limit of `population_limits` is at least ``target``. Failed: its upper limit is below ``target``.
    The target is the decimal number it is written as: 0.7, not the float nearest to it.

    Raises:
        ValueError: If an argument is outside its range, of another kind, or NaN.

    Example:
        >>> population_requirement(1000, 0.9, confidence=0.95, alpha=0.001)
        Requirement(passes_from=916, fails_to=883)
    """
    n = check_integer(n, "n", 1, MAX_DRAWS)
    wanted = _as_written(target)

    def limits(count: int) -> tuple[float, float]:
        return population_limits(count, n, confidence=confidence, alpha=alpha)

    return Requirement(
        passes_from=_least(0, n + 1, lambda c: c == n + 1 or limits(c)[0] >= wanted),
        fails_to=_least(0, n + 1, lambda c: c == n + 1 or limits(c)[1] >= wanted) - 1,
    )


def list_requirement(n: int, target: float, *, alpha: float, rho: float) -> Requirement:
    """Return the counts that show "at least ``target`` of these ``n`` examples are truly certified".

    Passed from ceil(target n) + q(rho) on; every smaller count fails. The target is the decimal number it is written
    as.

    Raises:
        ValueError: If an argument is outside its range, of another kind, or NaN.

    Example:
        >>> list_requirement(500, 0.55, alpha=0.001, rho=0.05)
        Requirement(passes_from=277, fails_to=276)
    """
    q = false_certificates_quantile(n, alpha, rho)
    true_ones = math.ceil(_as_written(target) * n)
    need = true_ones + q if true_ones else 0
    return Requirement(passes_from=need, fails_to=need - 1)


def smallest_population_sample(target: float, *, confidence: float, alpha: float) -> int | None:
    """Return the least number of examples that can show ``target``, all of them certified; None when no number can.

    Raises:
        ValueError: If an argument is outside its range, of another kind, or NaN.

    Example:
        >>> smallest_population_sample(0.9, confidence=0.95, alpha=0.0)
        29
    """
    wanted = _as_written(target)

    def shows(n: int) -> bool:
        return population_limits(n, n, confidence=confidence, alpha=alpha)[0] >= wanted

    return _least(1, MAX_DRAWS, shows) if shows(MAX_DRAWS) else None


def _as_written(target: float) -> Fraction:
    """Return the decimal number that a target is written as: 0.7 is 7/10, not the float below it."""
    return Fraction(repr(check_within(target, "target", 0.0, 1.0, "write 0.9 for 90 % of the examples")))


def _tail_upper(q: int, n: int, alpha: float) -> float:
    """Return at least P(Bin(n, alpha) > q) for 0 <= q < n."""
    return mul_up(float(scipy.special.betainc(q + 1, n - q, alpha)), 1 + TAIL_ERROR)


def _least(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """Return the least integer in low..high at which ``holds``, a rising predicate that is true at ``high``."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
