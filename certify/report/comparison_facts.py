"""What the views of a comparison say in the same words: who was compared, the curve, what was lost and won.

Plain text, not yet neutralised. A change observed has no side and is rounded to nearest; its lower limit is rounded
down and its upper one up.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import UNSET, UnsetType

from certify.report.figures import lower_figure, radius_label
from certify.report.promise_words import promise_words, scales_words
from certify.report.score_words import describe_answer
from certify.results import ComparedRun, ComparisonReport, PairedCounts, PairedExample, SmoothingSettings
from certify.rounding import ceiling_text, floor_text

DIGITS = 3
CURVE_NOTE = (
    "lower and upper: limits of the expected change of the share, each alone at confidence {confidence:g}, for "
    "examples drawn independently; what is not certified is not proved fragile"
)
CURVE_TITLES = ("radius", "old", "new", "won", "lost", "change", "lower", "upper")


def describe_comparison(report: ComparisonReport) -> str:
    """Return what was compared, in one line."""
    settings = report.settings
    chance = "probabilistic" if can_fail(report) else "deterministic"
    return f"comparison of two {settings.certificates} reports, {settings.norm}, {chance} certificates"


def can_fail(report: ComparisonReport) -> bool:
    """Return whether the certificates that are compared can fail by chance."""
    return not (isinstance(report.new.smoothing, UnsetType) or report.new.smoothing.deterministic)


def describe_runs(report: ComparisonReport) -> Iterator[tuple[str, str]]:
    """Yield the old and the new report: model, what may differ between them, and digest."""
    for which, run in (("old", report.old), ("new", report.new)):
        yield which, ", ".join(_run(run))


def _run(run: ComparedRun) -> Iterator[str]:
    yield f"model sha256 {run.model.sha256[:16]}"
    if not isinstance(run.smoothing, UnsetType):
        settings = run.smoothing
        yield f"sigma {settings.sigma!r}"
        yield f"seed {settings.seed}"
        yield settings.program
    yield f"certify {run.tool.version}"
    yield f"report {run.digest[:16]}"


def describe_common(report: ComparisonReport) -> str:
    """Return what both reports have in common, in one line."""
    run = report.new
    if isinstance(run.smoothing, UnsetType):
        settings = run.lipschitz
        return "" if isinstance(settings, UnsetType) else f"method {settings.method}, arithmetic {settings.arithmetic}"
    smoothing = run.smoothing
    if smoothing.deterministic:
        return "splitting, all shifts"
    drawn = f"asked at {', '.join(map(radius_label, smoothing.at))}" if smoothing.at else smoothing.procedure
    bound = "" if smoothing.at else f", bound {smoothing.bound}"
    facts = f"{run.noise_law} noise, {drawn}, n {smoothing.n:,}, n0 {smoothing.n0}, alpha {smoothing.alpha!r}{bound}"
    return "; ".join([facts, *_promised(smoothing)])


def _promised(settings: SmoothingSettings) -> Iterator[str]:
    """Yield task, scores and scales, where they are not the plain ones."""
    if settings.top_k > 1:
        yield f"the smoothed classifier {promise_words(settings)} every point of the ball"
    yield from describe_answer(settings)
    if settings.scales is not UNSET:
        yield scales_words(settings).removesuffix(", ")


def shown_rows(report: ComparisonReport) -> Iterator[PairedCounts]:
    """Yield the rows of the curve up to the first radius at which neither report certifies anything."""
    for row in report.summary.curve:
        yield row
        if not (row.old or row.new):
            return


def curve_cells(row: PairedCounts) -> tuple[str, ...]:
    """Return the cells of one radius under `CURVE_TITLES`."""
    counts = (row.old, row.new, row.won, row.lost)
    limits = (f"{row.difference:+.{DIGITS}f}", floor_text(row.lower, DIGITS), ceiling_text(row.upper, DIGITS))
    return (radius_label(row.radius), *map(str, counts), *limits)


def describe_question(report: ComparisonReport) -> Iterator[tuple[str, str]]:
    """Yield what the comparison found at the radius asked for."""
    summary, settings = report.summary, report.settings
    here = summary.at_radius
    yield "radius", f"{radius_label(settings.radius)}: {here.old} certified before, {here.new} now"
    yield "change", summary.reason
    if summary.verdict is None:
        shown = ceiling_text(summary.least_drop, 4)
        yield "drop", f"no verdict on {settings.max_drop!r}: {summary.examples} examples show {shown} at best"
    else:
        yield "drop", f"at most {settings.max_drop!r}: {summary.verdict}"
    yield "McNemar", f"p = {summary.mcnemar:.3g} (information only: a large one is no evidence of equality)"
    if summary.radii is not None:
        signs = summary.radii
        yield "radii", f"{signs.larger} larger, {signs.smaller} smaller, {signs.equal} equal"


def describe_example(pair: PairedExample, report: ComparisonReport) -> str:
    """Return one example with its answers in both reports."""
    old = _answer(pair.old_predicted, pair.old_radius, report)
    return (
        f"{pair.id}  {_class(pair.label, report)}: {old} before, {_answer(pair.new_predicted, pair.new_radius, report)}"
    )


def _answer(predicted: int | None, radius: float, report: ComparisonReport) -> str:
    return "abstained" if predicted is None else f"{_class(predicted, report)} with radius {lower_figure(radius)}"


def _class(number: int, report: ComparisonReport) -> str:
    classes = report.new.model.classes
    return classes[number] if 0 <= number < len(classes) else str(number)


def examples_with(report: ComparisonReport, change: str) -> list[PairedExample]:
    """Return the examples with a change, those that lost or won the largest radius first."""
    found = [pair for pair in report.examples if pair.change == change]
    return sorted(found, key=lambda pair: -abs(pair.old_radius - pair.new_radius))
