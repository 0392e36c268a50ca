"""A comparison for a pull-request comment: the verdict first, then the change, then what was lost and won."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from certify.report.comparison_facts import (
    CURVE_NOTE,
    CURVE_TITLES,
    curve_cells,
    describe_common,
    describe_comparison,
    describe_example,
    describe_question,
    describe_runs,
    examples_with,
    shown_rows,
)
from certify.report.markdown import CURVE, EXAMPLES, MARKS, PARAGRAPH, SENTENCE, make_folded, make_table
from certify.report.neutralise import markdown_text
from certify.results import ComparisonReport


def render_comparison(report: ComparisonReport, *, width: int | None = None, color: bool = False) -> str:  # noqa: ARG001 - one table
    """Return the comparison as GitHub-flavoured Markdown, in at most 60,000 bytes."""
    sections = (_title, _question, _statement, _curve, _lost, _won, _record)
    texts = ("\n".join(section(report)) for section in sections)
    return "\n\n".join(filter(None, texts)) + "\n"


def _title(report: ComparisonReport) -> Iterator[str]:
    verdict = next((gate.verdict for gate in report.gates), None)
    lost, won = len(report.summary.lost), len(report.summary.won)
    mark = "" if verdict is None else f"{MARKS[verdict]} "
    yield f"## {mark}certify: {lost} lost, {won} won of {report.summary.examples}"
    yield ""
    yield f"{describe_comparison(report)}."


def _question(report: ComparisonReport) -> Iterator[str]:
    yield from _facts(describe_question(report))
    for gate in report.gates:
        yield f"- gate: {MARKS[gate.verdict]} {gate.verdict}, {markdown_text(gate.reason, SENTENCE)}"


def _statement(report: ComparisonReport) -> Iterator[str]:
    yield f"> {markdown_text(report.statement.text, PARAGRAPH)}"


def _curve(report: ComparisonReport) -> Iterator[str]:
    rows = list(shown_rows(report))
    cells = ([markdown_text(cell, SENTENCE) for cell in curve_cells(row)] for row in rows)
    yield from make_table(CURVE_TITLES, cells, total=len(rows), most=CURVE)
    yield ""
    yield f"{CURVE_NOTE.format(confidence=report.settings.confidence).capitalize()}."


def _lost(report: ComparisonReport) -> Iterator[str]:
    return _names(report, "lost")


def _won(report: ComparisonReport) -> Iterator[str]:
    return _names(report, "won")


def _names(report: ComparisonReport, word: str) -> Iterator[str]:
    found = examples_with(report, word)
    if found:
        rows = ([str(pair.index), markdown_text(describe_example(pair, report), SENTENCE)] for pair in found)
        table = make_table(("index", word), rows, total=len(found), most=EXAMPLES)
        yield from make_folded(f"{word.capitalize()} ({len(found)})", table)


def _record(report: ComparisonReport) -> Iterator[str]:
    data = report.data
    yield from _facts(
        [
            *describe_runs(report),
            ("both", describe_common(report)),
            ("data", f"sha256 {data.sha256}, {data.count:,} examples: {data.selection}"),
            ("digest", f"{report.digest or 'none'}, certify {report.tool.version}"),
        ]
    )


def _facts(facts: Iterable[tuple[str, str]]) -> Iterator[str]:
    return (f"- {label}: {markdown_text(text, SENTENCE)}" for label, text in facts)
