"""The comparison of two reports: its verdict, both curves, and which examples were lost and won."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import UNSET

from certify.policy.promises import certified_words
from certify.report.comparison_facts import (
    CURVE_NOTE,
    CURVE_TITLES,
    can_fail,
    curve_cells,
    describe_common,
    describe_comparison,
    describe_example,
    describe_question,
    describe_runs,
    examples_with,
    shown_rows,
)
from certify.report.curve import MOST_STEPS, UNLIMITED, Curve, share_at, thin_out
from certify.report.curve_plot import draw_curves
from certify.report.outline import Block, Facts, Figure, Outline, Quote, Section, Text, Verdicts, table_of
from certify.report.sections.verdicts import verdict_row
from certify.report.wording import share_words
from certify.results import CertifiedAccuracy, ComparisonReport, PairedExample

CHECK = (
    "To check: `certify verify` derives every number again from the JSON report of this comparison, without the two "
    "models and without PyTorch; `certify verify` on the two reports checks what it was made from."
)


def comparison_outline(report: ComparisonReport) -> Outline:
    """Return a comparison as an outline, the verdict first."""
    verdicts = "".join(f", {gate.verdict}" for gate in report.gates)
    lost, won, total = len(report.summary.lost), len(report.summary.won), report.summary.examples
    title = f"{lost:,} lost, {won:,} won of {total:,}{verdicts}"
    return Outline(title, describe_comparison(report), tuple(_sections(report)))


def _sections(report: ComparisonReport) -> Iterator[Section]:
    share = "certified accuracy" if report.new.smoothing is UNSET else share_words(report.new.smoothing)
    verdicts = (Verdicts(tuple(verdict_row(gate, share) for gate in report.gates)),) if report.gates else ()
    yield Section("verdicts", "The question", (*verdicts, Facts(tuple(describe_question(report)))))
    statement = report.statement
    facts = (("domain", statement.domain), ("confidence", f"{report.settings.confidence!r} for each limit"))
    yield Section("statement", "What is promised", (Quote(statement.text), Facts(facts)))
    yield Section("accuracy", f"{share.capitalize()}, old and new", (_figure(report), _note(report)))
    yield from filter(None, (_changed(report, "lost"), _changed(report, "won")))
    yield Section("record", "Record", (Facts(tuple(_record(report))), Text(CHECK)))


def _note(report: ComparisonReport) -> Text:
    return Text(f"{CURVE_NOTE.format(confidence=report.settings.confidence).capitalize()}.", quiet=True)


def _figure(report: ComparisonReport) -> Figure:
    rows = [curve_cells(row) for row in shown_rows(report)]
    table = table_of("Both reports at fixed radii", [f"#{title}" for title in CURVE_TITLES], rows, count=len(rows))
    here = report.summary.at_radius
    alt = f"Two falling lines: at the asked radius {here.old} examples were certified before and {here.new} are now."
    legend = (("s0", "old"), ("s1", "new"))
    words = "certified correct" if report.new.smoothing is UNSET else certified_words(report.new.smoothing)
    return Figure(f"Share of examples {words}", alt, draw_curves(_curves(report)), table, legend)


def _curves(report: ComparisonReport) -> list[Curve]:
    chance = can_fail(report)
    curves = []
    for series, name in enumerate(("old", "new")):
        radii = sorted(filter(None, (_certified(pair, name) for pair in report.examples)))
        steps, points = ((), _points(report, name)) if report.summary.radii is None else (_steps(radii, report), ())
        curves.append(Curve(name, series, report.settings.norm, chance, steps, points, beyond_upper=0.0))
    return curves


def _certified(pair: PairedExample, name: str) -> float:
    """Return the radius that counts: none where the answer is wrong or absent."""
    radius, predicted = (
        (pair.old_radius, pair.old_predicted) if name == "old" else (pair.new_radius, pair.new_predicted)
    )
    return min(radius, UNLIMITED) if predicted == pair.label else 0.0


def _steps(radii: Sequence[float], report: ComparisonReport) -> tuple[tuple[float, float], ...]:
    return tuple((r, share_at(radii, r, report.summary.examples)) for r in thin_out([0.0, *radii], MOST_STEPS))


def _points(report: ComparisonReport, name: str) -> tuple[CertifiedAccuracy, ...]:
    """Return the shares at the asked radii; the limits of a comparison are those of the change, so a point has none."""
    shares = [(row.radius, getattr(row, name) / report.summary.examples) for row in report.summary.curve]
    level = report.settings.confidence
    return tuple(CertifiedAccuracy(radius=r, accuracy=s, lower=s, upper=s, confidence=level) for r, s in shares)


def _changed(report: ComparisonReport, word: str) -> Section | None:
    found = examples_with(report, word)
    rows = [(str(pair.index), describe_example(pair, report)) for pair in found]
    block: Block = table_of(f"Examples {word}", ("#index", "example"), rows, count=len(rows), folded=len(rows) > 100)
    return Section(word, f"{word.capitalize()} ({len(rows):,})", (block,)) if rows else None


def _record(report: ComparisonReport) -> Iterator[tuple[str, str]]:
    yield from describe_runs(report)
    yield "both", describe_common(report)
    yield "data", f"sha256 {report.data.sha256}, {report.data.count:,} examples: {report.data.selection}"
    yield "tool", f"certify {report.tool.version}, Python {report.tool.python}"
    yield "digest", report.digest or "none"
