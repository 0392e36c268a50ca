"""The examples of a run in one view."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from certify.results.row import Row


class CertifiedAccuracy(Row, frozen=True, kw_only=True):
    """The share of examples certified correct at ``radius``, with its two one-sided limits over examples."""

    radius: float
    accuracy: float
    lower: float
    upper: float
    confidence: float


class CertifiedCount(Row, frozen=True, kw_only=True):
    """What a run that stopped early shows at ``radius``: of ``examples``, ``at_least`` and no more than ``at_most``."""

    radius: float
    at_least: int
    at_most: int
    examples: int


class WholeCurve(Row, frozen=True, kw_only=True):
    """At every radius at once the share truly certified in the population is at least the observed minus this."""

    deviation: float
    confidence: float


class Summary(Row, frozen=True, kw_only=True):
    """The examples in one view. ``mean_radius`` averages radius x correct over all examples; null after stops.

    ``clean_accuracy`` is null where the certificates do not say which class is answered: among the k likeliest, k > 1.

    With asked radii, ``certified_accuracy`` is at these. A run that stopped early has ``unsampled`` examples without
    draws: no share of all ``examples`` is known, so ``clean_accuracy`` is null, ``certified_accuracy`` empty, and
    ``certified_counts`` says what is.
    """

    examples: int
    clean_accuracy: float | None
    abstained: int
    mean_radius: float | None
    certified_accuracy: tuple[CertifiedAccuracy, ...]
    unsampled: int | UnsetType = UNSET
    certified_counts: tuple[CertifiedCount, ...] | UnsetType = UNSET
    whole_curve: WholeCurve | UnsetType = UNSET
