"""The borders of this package: every function checks its arguments here, before any arithmetic.

Checks are written positively (``if not low < value < high: refuse``), so that NaN is refused by each of them. A
refusal is a ``ValueError`` that says what was expected, what came, and what to do.
"""

from __future__ import annotations

import math
from numbers import Integral, Real

MAX_DRAWS = 10**9  # the interval recipe is compared with ball arithmetic up to here
MIN_ALPHA = 2.0**-900  # inside, no tail underflows to a proof
MIN_SIGMA, MAX_SIGMA = 2.0**-500, 2.0**500  # inside, no product of the radius recipe leaves the normal range


def check_integer(value: object, name: str, least: int, most: int) -> int:
    """Return ``value`` as an int.

    Raises:
        ValueError: If it is not an integer (booleans and floats are not) within ``least..most``.

    Example:
        >>> check_integer(True, "n", 1, 10)
        Traceback (most recent call last):
        ValueError: n: expected an integer within 1..10, got True; counts are whole numbers of draws
    """
    whole = _as_int(value)
    if whole is not None and least <= whole <= most:
        return whole
    raise ValueError(
        f"{name}: expected an integer within {least}..{most}, got {value!r}; counts are whole numbers of draws"
    )


def check_count(count: object, n: object, name: str = "k") -> tuple[int, int]:
    """Return ``(count, n)`` with 1 <= n <= 10^9 and 0 <= count <= n.

    Raises:
        ValueError: If either is not such an integer.
    """
    whole = check_integer(n, "n", 1, MAX_DRAWS)
    return check_integer(count, name, 0, whole), whole


def check_alpha(alpha: object, name: str = "alpha") -> float:
    """Return an error probability strictly between 0 and 1/2.

    Raises:
        ValueError: If it is not a real number there, or below 2^-900.

    Example:
        >>> check_alpha(95)
        Traceback (most recent call last):
        ValueError: alpha: expected a probability of error strictly between 0 and 1/2, got 95; write 0.05 for 5 %
    """
    number = _as_float(alpha)
    if MIN_ALPHA <= number < 0.5:
        return number
    raise ValueError(
        f"{name}: expected a probability of error strictly between 0 and 1/2, got {alpha!r}; write 0.05 for 5 %"
    )


def check_certificate_alpha(alpha: object) -> float:
    """Return the error probability of one certificate: 0 when it is deterministic, else as `check_alpha`.

    Raises:
        ValueError: If it is neither.
    """
    return 0.0 if _as_float(alpha) == 0.0 else check_alpha(alpha)


def check_within(value: object, name: str, least: float, most: float, advice: str) -> float:
    """Return a real number with ``least <= value <= most``.

    Raises:
        ValueError: If it is not one.
    """
    number = _as_float(value)
    if least <= number <= most:
        return number
    raise ValueError(f"{name}: expected a number within {least:g}..{most:g}, got {value!r}; {advice}")


def check_sigma(sigma: object) -> float:
    """Return a standard deviation, positive and far from underflow and overflow.

    Raises:
        ValueError: If it is not.
    """
    return check_within(sigma, "sigma", MIN_SIGMA, MAX_SIGMA, "give the noise level in the model's input space")


def check_confidence(confidence: object) -> float:
    """Return the error probability ``1 - confidence``, exact for a confidence strictly between 1/2 and 1.

    Raises:
        ValueError: If it is not a real number there.

    Example:
        >>> check_confidence(0.75)
        0.25
    """
    number = _as_float(confidence)
    if 0.5 < number < 1.0:
        return 1.0 - number  # exact: Sterbenz
    raise ValueError(
        f"confidence: expected a number strictly between 1/2 and 1, got {confidence!r}; write 0.95 for 95 %"
    )


def _as_int(value: object) -> int | None:
    """Return a whole number as an int, and None for anything else."""
    if type(value) is int:  # first: asking an abstract class takes longer than the bound that is checked here
        return value
    if isinstance(value, bool) or not isinstance(value, Integral):
        return None
    return int(value)


def _as_float(value: object) -> float:
    """Return a real number as a float, and NaN for anything else: every check refuses it."""
    if type(value) is float:
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    return float(value)
