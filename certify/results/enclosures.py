"""What is proved of one number: a bracket, an upper bound, or the reason why there is none."""

from __future__ import annotations

from msgspec import Struct

from certify.errors import SoundnessError


class Bracket(Struct, frozen=True):
    """A proved enclosure ``lower <= truth <= upper`` and how it was proved.

    Raises:
        SoundnessError: If the ends are not ordered, negative, or NaN.
    """

    lower: float
    upper: float
    method: str

    def __post_init__(self) -> None:
        if not (0.0 <= self.lower <= self.upper):
            raise SoundnessError(f"expected 0 <= lower <= upper, got [{self.lower}, {self.upper}] by {self.method}")


class Unbounded(Struct, frozen=True):
    """The typed answer "there is no finite bound here": why, and at which module."""

    reason: str
    module: str = ""

    def __str__(self) -> str:
        where = f" at {self.module}" if self.module else ""
        return f"unbounded: {self.reason}{where}"


class RandomStartUpper(Struct, frozen=True):
    """An upper bound that fails with a known probability over a random start: no end of any `Bracket`.

    It has a type, a column and a failure probability of its own, and never enters a deterministic verdict.

    Raises:
        SoundnessError: If the bound is negative or NaN, or the probability outside (0, 1).
    """

    upper: float
    failure_probability: float

    def __post_init__(self) -> None:
        if not (self.upper >= 0.0 and 0.0 < self.failure_probability < 1.0):
            raise SoundnessError(f"expected upper >= 0 with a probability in (0, 1), got {self}")
