"""A comparison on a terminal: plain text, or with colours where the terminal takes them."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

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
from certify.report.neutralise import strip_controls
from certify.report.terminal.frame import draw_panes
from certify.report.terminal.header import label_rows
from certify.report.terminal.verdicts import draw_digest, draw_gates
from certify.results import ComparisonReport

MOST_NAMES = 20


def render_comparison(report: ComparisonReport, *, width: int | None = None, color: bool = False) -> str:
    """Return the comparison as text of at most ``width`` columns, with colours when ``color``."""
    return draw_panes(_panes(report), width=width, color=color)


def _panes(report: ComparisonReport) -> Iterator[tuple[str, RenderableType | None]]:
    yield "", _title(report)
    yield "", label_rows([*describe_runs(report), *_data(report)])
    yield "Statement", Text(strip_controls(report.statement.text))
    yield "Change", label_rows(list(describe_question(report)))
    yield "Certified examples", _curve(report)
    for word in ("lost", "won"):
        yield word.capitalize(), _names(report, word)
    yield "Gates", draw_gates(report)
    yield "", draw_digest(report)


def _title(report: ComparisonReport) -> Text:
    version = strip_controls(report.tool.version)
    return Text.assemble((f"certify {version}", "bold"), "  ", describe_comparison(report))


def _data(report: ComparisonReport) -> Iterator[tuple[str, str]]:
    yield "both", describe_common(report)
    yield "data", f"sha256 {report.data.sha256[:16]}  {report.data.count:,} examples: {report.data.selection}"


def _curve(report: ComparisonReport) -> Group:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for title in CURVE_TITLES:
        table.add_column(title, justify="right", no_wrap=True)
    for row in shown_rows(report):
        table.add_row(*curve_cells(row))
    return Group(table, Text(CURVE_NOTE.format(confidence=report.settings.confidence), style="dim"))


def _names(report: ComparisonReport, word: str) -> Text | None:
    found = examples_with(report, word)
    if not found:
        return None
    lines = [strip_controls(describe_example(pair, report)) for pair in found[:MOST_NAMES]]
    more = len(found) - len(lines)
    return Text("\n".join([*lines, *([f"and {more} more; the JSON report has all"] if more else [])]))
