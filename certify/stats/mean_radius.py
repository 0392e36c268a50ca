r"""What the certified radii of a list say about the mean radius: of these examples, and of their population.

X_i >= 0 is radius x correct of example i, R_i its true radius (0 where the answer is wrong), and for every example
P(X_i > R_i) <= alpha over its own noise. Deterministic certificates have alpha = 0.

**List statement.** With q the quantile of `false_certificates_quantile`, at most q of the n certificates are false with
probability 1 - rho. The others have R_i >= X_i and the false ones R_i >= 0, so that

    sum R_i >= sum of X_i without its q largest.

**Population statement.** Examples are drawn independently. Let G(r) = P(X >= r) and G_n(r) the share of the list with
X_i >= r. The inequality of Dvoretzky, Kiefer and Wolfowitz with the constant of Massart (Ann. Probab. 18(3), 1990,
Corollary 1) says that G_n(r) <= G(r) + eps for all r at once, with probability at least 1 - delta, where
eps = sqrt(ln(1/delta) / (2n)) and delta <= 1/2; and the same for the other side. X >= r is issued for an example with
R >= r, or falsely: G(r) <= P(R >= r) + alpha (1 - P(R >= r)). Integrating over r (Anderson, Confidence limits for the
expected value of an arbitrary bounded random variable, Stanford 1969, for a variable bounded from below only):

    E R = int P(R >= r) dr >= int max(G_n(r) - eps - alpha, 0) dr / (1 - alpha)
        = (sum of X_i without its n (eps + alpha) largest) / (n (1 - alpha)),

where a fraction of the next value is left out too. It needs no largest radius. The upper limit does: when X <= cap, the
mean of what this procedure certifies is E X <= int_0^cap min(G_n(r) + eps, 1) dr, the mean of the list with its n eps
smallest values raised to ``cap``. Both are at least as tight as Hoeffding's limits with the same cap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from certify.rounding import div_up, down, sqrt_up, up
from certify.stats.arguments import MAX_DRAWS, check_certificate_alpha, check_confidence, check_integer
from certify.stats.populations import false_certificates_quantile


def mean_radius_limits(
    radii: Sequence[float], *, confidence: float, alpha: float, cap: float | None = None
) -> tuple[float, float | None]:
    """Return (lower, upper): the mean true radius is at least ``lower``, that of this procedure at most ``upper``.

    Each end holds with probability ``confidence`` on its own. The module docstring has the statements and their proof.
    Needs examples drawn independently from the population.

    Args:
        radii: Radius x correct of each example, n of them.
        confidence: Strictly between 1/2 and 1.
        alpha: Error probability of one certificate; 0 for deterministic ones.
        cap: A number that no radius of this procedure can exceed; None where there is none.

    Returns:
        Two numbers, rounded outward; None for an upper limit without a cap.

    Raises:
        ValueError: If an argument is outside its range, or a radius is not finite, negative, or above the cap.

    Example:
        >>> lower, upper = mean_radius_limits([0.5] * 200, confidence=0.95, alpha=0.001, cap=1.0)
        >>> 0.45 < lower < 0.5 < upper < 0.55
        True
    """
    ordered = _checked(radii, cap)
    delta, chance = check_confidence(confidence), Fraction(check_certificate_alpha(alpha))
    n, eps = len(ordered), Fraction(_deviation_upper(len(ordered), delta))
    lower = _rounded_down(_without_largest(ordered, n * (eps + chance)) / (n * (1 - chance)))
    if cap is None:
        return lower, None
    raised = _without_largest([Fraction(cap) - Fraction(radius) for radius in ordered[::-1]], n * eps)
    return lower, _rounded_up(Fraction(cap) - raised / n)


def mean_radius_of_list(radii: Sequence[float], *, alpha: float, rho: float) -> float:
    """Return a number that the mean true radius of *these* examples is at least, with probability 1 - ``rho``.

    Args:
        radii: Radius x correct of each example.
        alpha: Error probability of one certificate; 0 for deterministic ones, and the mean is that of the radii.
        rho: The probability that the statement is false.

    Raises:
        ValueError: If an argument is outside its range, or a radius is not finite or negative.

    Example:
        >>> mean_radius_of_list([0.5, 0.25, 0.0, 0.25], alpha=0.0, rho=0.05)
        0.25
        >>> mean_radius_of_list([0.5, 0.25, 0.0, 0.25], alpha=0.02, rho=0.05)  # one of them may be false
        0.125
    """
    ordered = _checked(radii, None)
    false_ones = false_certificates_quantile(len(ordered), alpha, rho)
    return _rounded_down(_without_largest(ordered, Fraction(false_ones)) / len(ordered))


def smallest_mean_radius_sample(target: float, *, cap: float, confidence: float, alpha: float) -> int | None:
    """Return the least number of examples that can show a mean radius of ``target``, all of them at the ``cap``.

    With every radius at the cap c, the lower limit is c (1 - eps - alpha) / (1 - alpha), which rises with n: None when
    no number of examples reaches the target.

    Raises:
        ValueError: If an argument is outside its range, or NaN.

    Example:
        >>> smallest_mean_radius_sample(0.5, cap=1.0, confidence=0.95, alpha=0.0)
        6
    """
    delta, chance = check_confidence(confidence), Fraction(check_certificate_alpha(alpha))
    if not 0.0 <= target < math.inf or not 0.0 < cap < math.inf:
        raise ValueError(f"expected a target and a positive cap that are finite, got {target!r} and {cap!r}")

    def shows(n: int) -> bool:
        left = max(1 - chance - Fraction(_deviation_upper(n, delta)), Fraction(0))
        return _rounded_down(Fraction(cap) * left / (1 - chance)) >= target

    if not shows(MAX_DRAWS):
        return None
    low, high = 1, MAX_DRAWS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if shows(middle) else (middle + 1, high)
    return low


def _checked(radii: Sequence[float], cap: float | None) -> list[float]:
    """Return the radii, largest first."""
    check_integer(len(radii), "the number of radii", 1, MAX_DRAWS)
    most = math.inf if cap is None else cap
    for radius in radii:
        if not (0.0 <= radius <= most and radius < math.inf):
            raise ValueError(f"expected radii of at least 0, finite and at most {most!r}, got {radius!r}")
    return sorted(radii, reverse=True)


def _deviation_upper(n: int, delta: float) -> float:
    """Return at least eps = sqrt(ln(1/delta) / (2n)); the logarithm of the library is wrong by one ulp at most."""
    return sqrt_up(div_up(up(up(-math.log(delta))), 2.0 * n))


def _without_largest(ordered: Sequence[float | Fraction], count: Fraction) -> Fraction:
    """Return the sum of falling numbers without the ``count`` largest, a fraction of the next one left out too."""
    whole = math.floor(count)
    if whole >= len(ordered):
        return Fraction(0)
    kept = [Fraction(number) for number in ordered[whole:]]
    return sum(kept, Fraction(0)) - (count - whole) * kept[0]


def _rounded_down(number: Fraction) -> float:
    nearest = float(number)
    return nearest if Fraction(nearest) <= number else down(nearest)


def _rounded_up(number: Fraction) -> float:
    return -_rounded_down(-number)
