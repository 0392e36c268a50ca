"""Numbers of settings as they are written: 1 and 1.0 are one sigma, one text, one hash and one run store.

A report holds a field of floats as floats. A whole number given for one would be written without its point, read back
as a float, and the report would no longer fit its digest; a number of numpy cannot be written at all.
"""

from __future__ import annotations

from functools import lru_cache
from numbers import Integral, Real
from typing import get_args

import msgspec


def take_plain_numbers(settings: msgspec.Struct) -> None:
    """Make real numbers in fields of floats floats, and whole numbers in fields of integers ints; nothing else changes.

    Example:
        >>> from fractions import Fraction
        >>> from certify.results import Regression
        >>> Regression(radius=1), Regression(radius=Fraction(1, 4)).radius, Regression(radius=True).radius
        (Regression(radius=1.0, quantile=0.5), 0.25, True)
    """
    for name, kind in _number_fields(type(settings)):
        value = getattr(settings, name)
        plain = tuple(map(kind.of, value)) if isinstance(value, tuple) else kind.of(value)
        if plain is not value:
            msgspec.structs.force_setattr(settings, name, plain)


class _Kind:
    """A kind of number: what is taken for it, and what it is made into."""

    def __init__(self, taken: type, made: type) -> None:
        self.taken, self.made = taken, made

    def of(self, value: object) -> object:
        """Return the number as it is written; anything that is no such number, or too large for it, as it is."""
        if type(value) is self.made or isinstance(value, bool) or not isinstance(value, self.taken):
            return value
        try:
            return self.made(value)
        except OverflowError:
            return value


FLOAT, INTEGER = _Kind(Real, float), _Kind(Integral, int)


@lru_cache(maxsize=32)
def _number_fields(struct: type[msgspec.Struct]) -> tuple[tuple[str, _Kind], ...]:
    """Return the fields that hold numbers, alone, in a tuple, or beside something that stands for their absence."""
    found = []
    for field in msgspec.structs.fields(struct):
        kinds = {field.type, *get_args(field.type)}
        if float in kinds or int in kinds:
            found.append((field.name, FLOAT if float in kinds else INTEGER))
    return tuple(found)
