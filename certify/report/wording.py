"""What several views say in the same words: kinds, spaces, settings, abstentions; plain text, not yet neutralised.

A view clips, escapes and colours for its own place (`certify.report.neutralise`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from msgspec import UNSET

from certify.report.figures import estimate_figure, lower_figure, radius_label, upper_figure
from certify.report.neutralise import strip_controls
from certify.results import (
    CertifiedAccuracy,
    DataRecord,
    Falsifier,
    GateRow,
    InputSpace,
    LipschitzExample,
    LipschitzReport,
    LipschitzSettings,
    Listing,
    LogExample,
    LogReport,
    LogSettings,
    Report,
    SmoothingExample,
    SmoothingReport,
    SmoothingSettings,
    Summary,
    Verdict,
)
from certify.rounding import ceiling_text

SHARE_DIGITS = 3
VERDICT_ORDER: tuple[Verdict, ...] = ("failed", "undecided", "passed")  # those that ask for action first


@dataclass(frozen=True)
class Floor:
    """A short name of an estimate of the network's constant, and what it means."""

    name: str
    meaning: str


FLOORS: Mapping[str, Floor] = MappingProxyType(
    {
        "data_floor": Floor("data floor", "steepest slope found: the constant is about this or more"),
        "slope_floor": Floor(
            "slope floor", "steepest if slopes were free: no bound from slope ranges alone goes below"
        ),
    }
)

LIMITS_NOTE = (
    "limits: lower of the share that is truly certified in the population, upper of the share that this "
    "procedure certifies; each one-sided at {confidence:g}, for examples drawn independently"
)


def describe_whole_curve(summary: Summary) -> str:
    """Return what holds at all radii at once; nothing where the summary does not say, or all would be below 0.

    Example:
        >>> from certify.results import WholeCurve
        >>> describe_whole_curve(Summary(examples=9, clean_accuracy=1.0, abstained=0, mean_radius=None,
        ...     certified_accuracy=(), whole_curve=WholeCurve(deviation=0.1224, confidence=0.95)))
        'at all radii at once: at least the observed share minus 0.123, at 0.95'
    """
    whole = summary.whole_curve
    if whole is UNSET or not whole.deviation < 1.0:
        return ""
    below = ceiling_text(whole.deviation, SHARE_DIGITS)
    return f"at all radii at once: at least the observed share minus {below}, at {whole.confidence:g}"


def describe_kind(report: Report) -> str:
    """Return the kind of certificates, their norm, and whether they can fail by chance."""
    if isinstance(report, LipschitzReport):
        return f"Lipschitz certificates, {report.settings.norm}, deterministic"
    if report.settings.deterministic:
        return f"smoothing certificates, {report.settings.norm}, deterministic (splitting)"
    return (
        f"smoothing certificates, {report.settings.norm}, probabilistic (alpha {report.settings.alpha!r} per example)"
    )


def describe_headline(report: Report) -> str:
    """Return the one line that stands over a report: its verdicts, else what it certified."""
    verdicts = [gate.verdict for gate in report.gates]
    if verdicts:
        counts = ", ".join(f"{verdicts.count(word)} {word}" for word in VERDICT_ORDER if word in verdicts)
        return f"Gates: {counts}"
    if report.summary is not UNSET:
        return f"Certificates of {report.summary.examples:,} examples"
    return "A bound of the network, without examples"


def describe_asked(gate: GateRow, share: str = "certified accuracy") -> str:
    """Return what a gate asks for, in one phrase; ``share`` is what the share of certified examples is called."""
    metric = gate.metric.replace("_", " ").replace("certified accuracy", share)
    norm = "" if gate.norm is UNSET else f"{gate.norm} "
    where = "" if gate.radius is UNSET else f" at {norm}radius {radius_label(gate.radius)}"
    if gate.metric == "lipschitz":
        return f"Lipschitz constant of the network at most {gate.threshold!r} (proved)"
    if gate.diagnostic is not UNSET:
        return _asked_reading(gate, metric)
    metric = metric.replace(f"class {share}", f"{share} of every class")
    plain = "plain mean" if gate.metric == "mean_radius" else "plain share"
    claim = plain if gate.on == "estimate" else f"{gate.claim}, confidence {gate.confidence!r}"
    least = "at least" if gate.baseline is UNSET else "below the baseline's by at most"
    return f"{metric}{where} {least} {gate.threshold!r} ({claim})"


def _asked_reading(gate: GateRow, metric: str) -> str:
    if gate.trend is UNSET:
        return f"{metric} at most {gate.threshold!r} (diagnostic, no certificate)"
    return f"{metric} at most {gate.threshold!r} errors above the earlier reading (diagnostic, no certificate)"


def describe_shape(shape: Sequence[int]) -> str:
    """Return a shape as it is read aloud.

    Example:
        >>> describe_shape((64, 3, 3, 3))
        '64x3x3x3'
    """
    return "x".join(map(str, shape))


def describe_space(space: InputSpace) -> str:
    """Return an input space in words: shape, name and range.

    Example:
        >>> describe_space(InputSpace((3, 8, 8), (0.0, 1.0), "pixels"))
        '3x8x8, pixels, in [0, 1]'
    """
    shape = "x".join(map(str, space.shape)) or "shape unknown"
    bounds = "range unchecked" if space.range is None else f"in [{space.range[0]:g}, {space.range[1]:g}]"
    return f"{shape}, {space.space}, {bounds}"


def describe_data(data: DataRecord) -> str:
    """Return which examples a report speaks of, and of which part of them.

    Example:
        >>> from certify.results import Part
        >>> describe_data(DataRecord(sha256="ab", count=3, selection="all 9", part=Part(number=1, parts=3, of=9)))
        '3 examples: part 1 of 3 of all 9'
    """
    part = "" if data.part is UNSET else f"part {data.part.number} of {data.part.parts} of "
    return f"{data.count:,} examples: {part}{data.selection}"


def describe_settings(settings: LipschitzSettings | SmoothingSettings) -> str:
    """Return the options that can change a result, in one line."""
    return ", ".join(_lipschitz(settings) if isinstance(settings, LipschitzSettings) else _smoothing(settings))


def _lipschitz(settings: LipschitzSettings) -> list[str]:
    return [f"norm {settings.norm}", f"method {settings.method}", f"arithmetic {settings.arithmetic}"]


def _smoothing(settings: SmoothingSettings) -> list[str]:
    if settings.deterministic:
        shifts = f"all {settings.n:,} shifts"
        return [f"sigma {settings.sigma:g}", "splitting", shifts, settings.program, f"seed {settings.seed}"]
    planned = settings.procedure == "planned" and not settings.at
    procedure = f"sequential at {', '.join(map(radius_label, settings.at))}" if settings.at else settings.procedure
    return [
        f"sigma {settings.sigma:g}",
        *([] if settings.top_k == 1 else [f"top {settings.top_k}"]),
        *_scales(settings),
        f"{settings.noise} noise",
        f"{procedure} n {'up to ' if planned or settings.at else ''}{settings.n:,}",
        f"n0 {settings.n0}",
        f"alpha {settings.alpha!r}",
        *([f"price {settings.price:g}"] if planned else []),
        *([] if settings.at else [f"bound {settings.bound}"]),
        *([] if settings.scores is UNSET else [f"{settings.scores} scores"]),
        settings.program,
        f"seed {settings.seed}",
    ]


def _scales(settings: SmoothingSettings) -> list[str]:
    """Return the scales in words: their extremes, and the estimate by which volumes are compared."""
    if settings.scales is UNSET:
        return []
    found = settings.scales
    mean = f"geometric mean {estimate_figure(found.geometric_mean)} (estimate)"
    return [f"scales {lower_figure(found.smallest)} to {upper_figure(found.largest)}, {mean}"]


def describe_claim(settings: LogSettings) -> str:
    """Return what the owner of a log states about it.

    Example:
        >>> describe_claim(LogSettings())
        'sigma unknown, alpha 0.001, n 100,000'
    """
    sigma = "unknown" if settings.sigma is None else f"{settings.sigma:g}"
    return f"sigma {sigma}, alpha {settings.alpha!r}, n {settings.n:,}"


def describe_falsifier(falsifier: Falsifier) -> str:
    """Return what was tried against the certificates; that nothing was tried is said.

    Example:
        >>> describe_falsifier(Falsifier(level="off", tried="", found=0))
        'not run'
    """
    if falsifier.level == "off":
        return "not run"
    found = f"broke {falsifier.found} certificates" if falsifier.found else "found nothing (no proof)"
    return f"{falsifier.level}: {falsifier.tried}; {found}"


def name_label(report: Listing, label: int) -> str:
    """Return the name of a class, or its number where the model names none."""
    classes = () if isinstance(report, LogReport) else report.model.classes
    return classes[label] if 0 <= label < len(classes) else str(label)


def answers_known(report: Listing) -> bool:
    """Return whether a report says which class is answered: not where it is certified among the k likeliest, k > 1."""
    return not isinstance(report, SmoothingReport) or report.settings.top_k == 1


def describe_clean(summary: Summary) -> str:
    """Return the clean accuracy, or that none is known: the run stopped early, or answers are not certified."""
    return "not known" if summary.clean_accuracy is None else f"{summary.clean_accuracy:.{SHARE_DIGITS}f}"


def describe_counts(summary: Summary) -> Iterator[tuple[str, str]]:
    """Yield radius and count of the certified examples of a run that stopped early: bounds, and no share."""
    counts = () if summary.certified_counts is UNSET else summary.certified_counts
    for row in counts:
        words = f"at least {row.at_least} of {row.examples} certified, at most {row.at_most}"
        yield radius_label(row.radius), words


def describe_stop(summary: Summary) -> str:
    """Return that examples got no draws, and why; nothing when all have some.

    Example:
        >>> describe_stop(Summary(examples=9, clean_accuracy=1.0, abstained=0, mean_radius=None, certified_accuracy=()))
        ''
    """
    if summary.unsampled is UNSET:
        return ""
    sampled = summary.examples - summary.unsampled
    return (
        f"stopped after {sampled} of {summary.examples} examples: the others cannot change a verdict and got no draws; "
        "the share among those drawn is no accuracy"
    )


def until_zero(rows: Iterable[CertifiedAccuracy]) -> Iterator[CertifiedAccuracy]:
    """Yield rows up to the first with accuracy 0, that one included: at larger radii it stays 0."""
    for row in rows:
        yield row
        if not row.accuracy > 0.0:
            return


def count_abstentions(examples: Sequence[LipschitzExample | SmoothingExample | LogExample]) -> list[tuple[str, int]]:
    """Return the reasons of the abstentions with their counts, most frequent first.

    Reasons that differ only after their first colon (the numbers of one example) are one.
    """
    groups: dict[str, list[str]] = {}
    for example in examples:
        if example.predicted is None:
            given = None if isinstance(example, LogExample) else example.reason
            reason = strip_controls(given) if isinstance(given, str) else "no reason given"
            groups.setdefault(reason.partition(":")[0], []).append(reason)
    named = [(full[0] if len(set(full)) == 1 else short, len(full)) for short, full in groups.items()]
    return sorted(named, key=lambda pair: -pair[1])


def share_words(settings: LipschitzSettings | SmoothingSettings) -> str:
    """Return what the share of the examples that count is called.

    Example:
        >>> from certify.results import TopK
        >>> share_words(SmoothingSettings(sigma=0.25, task=TopK(2)))
        'top-2 certified accuracy'
    """
    k = settings.top_k if isinstance(settings, SmoothingSettings) else 1
    return "certified accuracy" if k == 1 else f"top-{k} certified accuracy"


def share_of(report: Listing) -> str:
    """Return what the share of a report's examples that count is called; a log holds no task."""
    return "certified accuracy" if isinstance(report, LogReport) else share_words(report.settings)
