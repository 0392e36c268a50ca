"""Numbers as text, never on the wrong side of what was proved.

An upper bound is printed rounded up, a lower bound and a radius rounded down, from the exact binary value: 0.24961
never shows as 0.25. An estimate and an observed share have no side; they are rounded to nearest.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal

SIGNIFICANT = 5
EXACT = 18  # decimals of 18 digits lie closer than half the space of two floats: either direction reads back the same
PLAIN_FROM, PLAIN_BELOW = Decimal("1e-4"), Decimal("1e7")
SHORT = 7  # characters
PIXEL_STEPS = {k / 255: f"{k}/255" for k in range(1, 33)}


def upper_figure(value: float) -> str:
    """Return a proved upper bound with five significant digits, rounded up.

    Example:
        >>> upper_figure(1.23451), upper_figure(2.0), upper_figure(3.00001e12)
        ('1.2346', '2', '3.0001e+12')
    """
    return _figure(value, ROUND_CEILING)


def lower_figure(value: float) -> str:
    """Return a radius or a proved lower bound with five significant digits, rounded down.

    Example:
        >>> lower_figure(0.249619), lower_figure(1.00009e-9)
        ('0.24961', '1e-9')
    """
    return _figure(value, ROUND_FLOOR)


def estimate_figure(value: float) -> str:
    """Return an estimate with five significant digits, rounded to nearest.

    Example:
        >>> estimate_figure(0.1)
        '0.1'
    """
    return _figure(value, ROUND_HALF_EVEN)


def error_figure(value: float) -> str:
    """Return a standard error or a residual with two significant digits, rounded up: never smaller than it is.

    Example:
        >>> error_figure(221.3), error_figure(0.00071), error_figure(2.6e-14)
        ('230', '0.00072', '2.6e-14')
    """
    return _figure(value, ROUND_CEILING, 2)


def lower_digits(value: float) -> str:
    """Return a radius or a proved lower bound for a machine: at most the exact value, and read back as the same float.

    The shortest text of a float may lie above it (0.3 is 0.299999999999999988...); eighteen digits rounded down do not.

    Example:
        >>> lower_digits(0.3), lower_digits(0.25), float(lower_digits(0.3)) == 0.3
        ('0.299999999999999988', '0.25', True)
    """
    return _figure(value, ROUND_FLOOR, EXACT)


def upper_digits(value: float) -> str:
    """Return a proved upper bound for a machine: at least the exact value, and read back as the same float.

    Example:
        >>> upper_digits(0.1), float(upper_digits(0.1)) == 0.1
        ('0.100000000000000006', True)
    """
    return _figure(value, ROUND_CEILING, EXACT)


def _figure(value: float, rounding: str, digits: int = SIGNIFICANT) -> str:
    rounded = Context(prec=digits, rounding=rounding).create_decimal_from_float(value)
    if not rounded.is_finite():
        return str(value)
    if rounded == 0 or PLAIN_FROM <= abs(rounded) < PLAIN_BELOW:
        text = f"{rounded:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{rounded.normalize():e}"


def radius_label(radius: float) -> str:
    """Return an asked radius exactly: as k/255 where it is one, else the shortest decimal that means this float.

    Radius 0 asks for any positive radius.

    Example:
        >>> radius_label(8 / 255), radius_label(0.3), radius_label(0.0)
        ('8/255', '0.3', '> 0')
    """
    return "> 0" if radius == 0.0 else PIXEL_STEPS.get(radius, repr(radius))


def radius_text(radius: float) -> str:
    """Return a radius for a narrow table: as asked where that is short, else rounded down.

    Example:
        >>> radius_text(0.25), radius_text(0.7312345678)
        ('0.25', '0.73123')
    """
    label = radius_label(radius)
    return label if len(label) <= SHORT else lower_figure(radius)
