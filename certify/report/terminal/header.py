"""The head of the terminal view: what certified which model on which data, and what is promised."""

from __future__ import annotations

from msgspec import UNSET
from rich.console import Group
from rich.table import Table
from rich.text import Text

from certify.report.conversions import describe_conversions
from certify.report.neutralise import strip_controls
from certify.report.promise_words import describe_statement
from certify.report.wording import describe_data, describe_kind, describe_settings, describe_space
from certify.results import Report

HASH_DIGITS = 16


def label_rows(rows: list[tuple[str, str]]) -> Table:
    """Return a grid of dim labels and their texts, neutralised."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True, min_width=9)
    grid.add_column(overflow="fold")
    for label, text in rows:
        grid.add_row(strip_controls(label), Text(strip_controls(text)))
    return grid


def draw_title(report: Report) -> Text:
    """Return the title line: the tool, the kind of certificates, and whether they can fail by chance."""
    return Text.assemble((f"certify {strip_controls(report.tool.version)}", "bold"), "  ", describe_kind(report))


def draw_identity(report: Report) -> Table:
    """Return which model the report speaks of."""
    model = report.model
    what = f"{model.source}, {model.parameters:,} parameters, {len(model.classes)} classes"
    return label_rows(
        [("model", f"sha256 {model.sha256[:HASH_DIGITS]}  {what}"), ("input", describe_space(model.input))]
    )


def draw_data(report: Report) -> Table | None:
    """Return which examples the report speaks of."""
    if report.data is UNSET:
        return None
    data = report.data
    return label_rows([("data", f"sha256 {data.sha256[:HASH_DIGITS]}  {describe_data(data)}")])


def draw_settings(report: Report) -> Table:
    """Return the options that can change a result, in one line."""
    return label_rows([("settings", describe_settings(report.settings))])


def draw_statement(report: Report) -> Group:
    """Return the promise in words, and its fields."""
    statement, conversions = report.statement, describe_conversions(report)
    return Group(
        Text(strip_controls(statement.text)),
        label_rows([*describe_statement(statement), *([("converted", conversions)] if conversions else [])]),
    )
