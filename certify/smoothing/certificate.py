"""The outcome of one example, and the class that wins its votes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from certify.results import Decision


@dataclass(frozen=True)
class Certificate:
    """The outcome of one example: ``predicted`` is None on abstention, ``radius`` then 0 and ``reason`` in words.

    ``decisions`` answer the asked radii, when there are any.
    """

    predicted: int | None
    radius: float
    reason: str = ""
    decisions: tuple[Decision, ...] = ()


def select_class(votes: Sequence[int]) -> int | None:
    """Return the class with the most votes, the lowest at a tie; None when the invalid outputs have the most.

    Example:
        >>> select_class([1, 3, 3, 0]), select_class([0, 3, 0, 4]), select_class([0, 4, 0, 4])
        (1, None, 1)
    """
    winner = max(range(len(votes)), key=lambda k: (votes[k], -k))
    return None if winner == len(votes) - 1 else winner
