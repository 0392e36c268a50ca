r"""Certified accuracy at all radii at once: how far the observed curve may lie above the true one.

Let X_i be radius x correct of example i, drawn independently, G(r) = P(X >= r) and G_n(r) the observed share. The
inequality of Dvoretzky, Kiefer and Wolfowitz with Massart's constant says, for delta <= 1/2, that with probability at
least 1 - delta, for every r at once,

    G_n(r) - G(r) <= eps = sqrt(ln(1 / delta) / (2 n)).

A certificate at r is issued for an example that is truly robust there, or falsely with probability at most alpha: with
p the share of those that are, G(r) <= p(r) + alpha (1 - p(r)). So for every r at once

    p(r) >= (G_n(r) - eps - alpha) / (1 - alpha) >= G_n(r) - (eps + alpha) / (1 - alpha),

since G_n(r) <= 1 makes G_n - (G_n - eps - alpha) / (1 - alpha) = (eps + alpha - alpha G_n) / (1 - alpha) at most the
last term. At one radius alone `population_limits` says more.

Source: P. Massart, The tight constant in the Dvoretzky-Kiefer-Wolfowitz inequality, Annals of Probability 18 (1990),
Corollary 1.
"""

from __future__ import annotations

import math

from certify.rounding import add_up, div_up, down, sqrt_up, up
from certify.stats.arguments import MAX_DRAWS, check_certificate_alpha, check_confidence, check_integer


def whole_curve_deviation(n: int, *, confidence: float, alpha: float) -> float:
    """Return d such that at every radius at once the share truly certified is at least the observed one minus d.

    Args:
        n: Examples, drawn independently.
        confidence: Above 1/2 and below 1.
        alpha: Error probability of one certificate; 0 for deterministic ones.

    Returns:
        (eps + alpha) / (1 - alpha), rounded up; it may be above 1, and then says nothing.

    Raises:
        ValueError: If an argument is outside its range, of another kind, or NaN.

    Example:
        >>> [round(whole_curve_deviation(n, confidence=0.95, alpha=0.0), 4) for n in (100, 10_000)]
        [0.1224, 0.0122]
    """
    n = check_integer(n, "n", 1, MAX_DRAWS)
    delta, alpha = check_confidence(confidence), check_certificate_alpha(alpha)
    logarithm = up(up(-math.log(delta)))  # the library's is wrong by one ulp at most
    return div_up(add_up(sqrt_up(div_up(logarithm, 2.0 * n)), alpha), down(1.0 - alpha) if alpha else 1.0)
