"""Binomial tails and normal quantiles by a second road: exact rationals and ball arithmetic, no scipy.

A comparison of balls is true only when it is certain, so ``assert tail <= alpha`` passes on a proof only.
"""

from fractions import Fraction
from math import comb

from flint import arb, ctx


def exact_tail(n, k, p):
    """P(Bin(n, p) >= k) for a rational p, by adding the terms."""
    return sum(exact_pmf(n, p)[k:], Fraction(0))


def exact_pmf(n, p):
    a, b = p.numerator, p.denominator - p.numerator
    return [Fraction(comb(n, j) * a**j * b ** (n - j), p.denominator**n) for j in range(n + 1)]


def ball_tail(n, k, q, bits=128):
    """P(Bin(n, 1 - q) >= k) = I_{1-q}(k, n - k + 1) as a ball, q any float or ball, 1 <= k."""
    with ctx.workprec(bits):
        return (1 - arb(q)).beta_lower(arb(k), arb(n - k + 1), 1)


def ball_pmf(n, p, bits=160):
    """The pmf of Bin(n, p), by the ratio of neighbours."""
    with ctx.workprec(bits):
        p = arb(p)
        terms = [(1 - p) ** n]
        for j in range(n):
            terms.append(terms[-1] * (n - j) / (j + 1) * p / (1 - p))
        return terms


def ball_quantile(q, bits=200):
    """Phi^-1(1 - q) as a ball."""
    with ctx.workprec(bits):
        return (2 * arb(q)).erfcinv() * arb(2).sqrt()


def ball_normal_cdf(x, bits=200):
    with ctx.workprec(bits):
        return (-arb(x) / arb(2).sqrt()).erfc() / 2
