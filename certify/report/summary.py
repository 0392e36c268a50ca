"""The examples of a report in one view: accuracy, abstentions, and certified accuracy against the radius.

*Certified at r* means: correct, with a radius that is positive and at least r. The share observed at r is a fact about
this list. Its two limits are a statement about the population the examples were drawn from, independently: each holds
alone with confidence 0.95. For smoothing the chance alpha of a false certificate is inside the lower limit
(`certify.stats.population_limits`); a deterministic certificate has alpha = 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from msgspec import UNSET
from msgspec.structs import replace

from certify.results import (
    AnyNorm,
    CertifiedAccuracy,
    CertifiedCount,
    LipschitzExample,
    LipschitzSettings,
    LogExample,
    LogSettings,
    SmoothingExample,
    SmoothingSettings,
    Summary,
    WholeCurve,
    certified_at,
    clean_correct,
)
from certify.rounding import down
from certify.stats import population_limits, score_candidates
from certify.stats.whole_curve import whole_curve_deviation

CONFIDENCE, DOUBT = 0.95, 0.05
RADII: Mapping[AnyNorm, tuple[float, ...]] = {
    "l1": (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0),
    "l2": (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0),
    "weighted-l2": (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0),
    "linf": (0.0, 1 / 255, 2 / 255, 4 / 255, 8 / 255, 0.05, 0.1, 0.2, 0.3),
}


def summarise_lipschitz(examples: Sequence[LipschitzExample], settings: LipschitzSettings) -> Summary:
    """Return the summary of deterministic certificates; its limits are binomial limits over examples alone."""
    return _summarise(examples, RADII[settings.norm], alpha=0.0)


def summarise_smoothing(
    examples: Sequence[SmoothingExample], settings: SmoothingSettings, *, unsampled: int = 0
) -> Summary:
    """Return the summary of smoothing certificates; each may be false with probability alpha, so the limits say less.

    The clean answer of an example is its smoothed vote: an abstention is wrong. With asked radii, only these are
    spoken of, and there is no mean radius. Certificates of the task "among the k likeliest" do not say which class is
    answered: then there is no clean accuracy. ``unsampled`` examples without draws leave counts, and no shares: of n
    examples at least the certified ones are, and at most these and the unsampled ones.

    Soft scores are chosen among C candidates on these very examples. For each candidate alone the limits are at
    1 - 0.05 / C, so that with 0.95 they hold for all of them, the chosen one included.
    """
    confidence = limits_confidence(settings)
    found = _summarise(examples, settings.at or RADII[settings.norm], alpha=settings.alpha, confidence=confidence)
    if settings.at:
        found = replace(found, mean_radius=None)
    if settings.top_k > 1:
        found = replace(found, clean_accuracy=None)
    return _partial(found, examples, settings.at, unsampled) if unsampled else found


def summarise_log(examples: Sequence[LogExample], settings: LogSettings) -> Summary:
    """Return the summary of an imported log, as far as its radii and the alpha that its owner states are right."""
    return _summarise(examples, RADII["l2"], alpha=settings.alpha)


def _partial(sampled: Summary, examples: Sequence[SmoothingExample], radii: Sequence[float], unsampled: int) -> Summary:
    """Return the summary of a run that stopped early, from that of its sampled examples."""
    counts = [sum(certified_at(example, radius) for example in examples) for radius in radii]
    total = sampled.examples + unsampled
    return replace(
        sampled,
        examples=total,
        clean_accuracy=None,
        mean_radius=None,
        certified_accuracy=(),
        whole_curve=UNSET,
        unsampled=unsampled,
        certified_counts=tuple(
            CertifiedCount(radius=radius, at_least=count, at_most=count + unsampled, examples=total)
            for radius, count in zip(radii, counts, strict=True)
        ),
    )


def _summarise(
    examples: Sequence[LipschitzExample] | Sequence[SmoothingExample] | Sequence[LogExample],
    radii: Sequence[float],
    *,
    alpha: float,
    confidence: float = CONFIDENCE,
) -> Summary:
    counts = [sum(certified_at(example, radius) for example in examples) for radius in radii]
    return Summary(
        examples=len(examples),
        clean_accuracy=_share(sum(map(clean_correct, examples)), len(examples)),
        abstained=sum(example.predicted is None for example in examples),
        mean_radius=_mean_down([example.radius if example.correct else 0.0 for example in examples]),
        certified_accuracy=tuple(
            _at_radius(radius, count, len(examples), alpha, confidence)
            for radius, count in zip(radii, counts, strict=True)
        ),
        whole_curve=_whole_curve(len(examples), alpha, confidence) if examples else UNSET,
    )


def _whole_curve(examples: int, alpha: float, confidence: float) -> WholeCurve:
    deviation = whole_curve_deviation(examples, confidence=confidence, alpha=alpha)
    return WholeCurve(deviation=deviation, confidence=confidence)


def limits_confidence(settings: SmoothingSettings) -> float:
    """Return the confidence of each limit: 0.95, and what is left of it for one of several candidates of scores.

    Example:
        >>> limits_confidence(SmoothingSettings(sigma=0.5))
        0.95
        >>> limits_confidence(SmoothingSettings(sigma=0.5, scores="soft")) == 1.0 - 0.05 / 23
        True
    """
    if settings.scores is UNSET:
        return CONFIDENCE
    simplex = None if settings.score_map is UNSET else settings.score_map
    temperature = None if settings.temperature is UNSET else settings.temperature
    candidates = len(score_candidates(simplex, temperature))
    return CONFIDENCE if candidates == 1 else 1.0 - DOUBT / candidates


def _at_radius(radius: float, count: int, examples: int, alpha: float, confidence: float) -> CertifiedAccuracy:
    limits = population_limits(count, examples, confidence=confidence, alpha=alpha) if examples else (0.0, 1.0)
    return CertifiedAccuracy(
        radius=radius,
        accuracy=_share(count, examples),
        lower=limits[0],
        upper=limits[1],
        confidence=confidence,
    )


def _share(count: int, examples: int) -> float:
    """Return the observed share; 0 of 0 counts as 0, since nothing was shown."""
    return count / examples if examples else 0.0


def _mean_down(radii: Sequence[float]) -> float | None:
    """Return the mean of the radii, rounded down from its exact rational value; none of none."""
    if not radii:
        return None
    exact = sum(map(Fraction, radii), Fraction(0)) / len(radii)
    nearest = float(exact)
    return nearest if Fraction(nearest) <= exact else down(nearest)
