"""A smoothed regression or segmentation on a terminal: plain text, or with colours where the terminal takes them."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from certify.report.neutralise import strip_controls
from certify.report.outputs_words import describe_certified, describe_identity, describe_row, describe_task
from certify.report.promise_words import describe_statement
from certify.report.terminal.frame import draw_panes
from certify.report.terminal.header import HASH_DIGITS, label_rows
from certify.report.wording import describe_falsifier
from certify.results import OutputsReport

MOST_EXAMPLES = 10


def render_outputs(report: OutputsReport, *, width: int | None = None, color: bool = False) -> str:
    """Return the report as text of at most ``width`` columns, with colours when ``color``."""
    return draw_panes(_panes(report), width=width, color=color)


def _panes(report: OutputsReport) -> Iterator[tuple[str, RenderableType | None]]:
    statement, data = report.statement, report.data
    yield "", _title(report)
    yield "", label_rows(list(describe_identity(report, HASH_DIGITS)))
    yield "Statement", Text(strip_controls(statement.text))
    yield "", label_rows([*describe_statement(statement)])
    yield "Certified", Text(describe_certified(report))
    shown = report.examples[:MOST_EXAMPLES]
    yield f"Examples ({len(shown)} of {data.count} shown)", label_rows([(row.id, describe_row(row)) for row in shown])
    noise = f"{report.tables.noise_law}: {report.tables.noise}"
    yield "Draws", label_rows([("n", f"{report.settings.n:,} for every example, and a pilot"), ("noise", noise)])
    yield "Falsifier", Text(describe_falsifier(report.falsifier), style="yellow")
    yield "", Text(f"\ndigest {strip_controls(report.digest) or 'none'}", style="dim")


def _title(report: OutputsReport) -> Text:
    return Text.assemble((f"certify {strip_controls(report.tool.version)}", "bold"), "  ", describe_task(report))
