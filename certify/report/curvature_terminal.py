"""Readings on a terminal: the one table, grouped by what a row speaks of, with the kind in every row."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from certify.report.curvature_words import (
    KINDS_NOTE,
    describe_chance,
    describe_curvature,
    describe_curvature_settings,
    describe_number,
    describe_title,
)
from certify.report.neutralise import strip_controls
from certify.report.terminal.frame import DEFAULT_WIDTH, draw_panes
from certify.report.terminal.header import HASH_DIGITS, label_rows
from certify.report.terminal.verdicts import draw_digest, draw_gates
from certify.report.wording import describe_data, describe_falsifier, describe_space
from certify.results import CurvatureReport, ReadingRow

WIDE = 95
VALUE, KIND, CHANCE = 25, 23, 5  # columns of the terminal
NARROW_KIND = 13
TITLES = ("quantity", "value", "kind", "fails")


def render_curvature(report: CurvatureReport, *, width: int | None = None, color: bool = False) -> str:
    """Return the report as text of at most ``width`` columns, with colours when ``color``."""
    kind = KIND if (width or DEFAULT_WIDTH) >= WIDE else NARROW_KIND
    return draw_panes(_panes(report, kind), width=width, color=color)


def _panes(report: CurvatureReport, kind: int) -> Iterator[tuple[str, RenderableType | None]]:
    title = f"{describe_title(report)}: {describe_curvature(report)}"
    yield "", Text.assemble((f"certify {strip_controls(report.tool.version)}", "bold"), "  ", title)
    yield "", label_rows(list(_identity(report)))
    yield "Statement", Text(strip_controls(report.statement.text))
    yield "Readings", Group(_table(report, kind), Text(KINDS_NOTE, style="dim"))
    for beside in report.beside:
        facts = [("falsifier", describe_falsifier(beside.falsifier)), ("report", beside.digest[:HASH_DIGITS])]
        yield f"Beside: {strip_controls(beside.object)}", Group(Text(strip_controls(beside.text)), label_rows(facts))
    yield "Held against each other", label_rows(list(_relations(report)))
    yield "Gates", draw_gates(report)
    yield "", draw_digest(report)


def _identity(report: CurvatureReport) -> Iterator[tuple[str, str]]:
    model, data = report.model, report.data
    what = f"{model.source}, {model.parameters:,} parameters, {len(model.classes)} classes"
    yield "model", f"sha256 {model.sha256[:HASH_DIGITS]}  {what}"
    yield "input", describe_space(model.input)
    yield "batch", f"sha256 {data.sha256[:HASH_DIGITS]}  {describe_data(data)}"
    yield "settings", describe_curvature_settings(report.settings)


def _table(report: CurvatureReport, kind: int) -> Group:
    """Return the table, one part for each object and domain; its columns have the same places in all of them."""
    chances = any(row.failure_probability is not None for row in report.table)
    head = _columns(kind, chances=chances)
    head.add_row(*(Text(title, style="dim") for title in TITLES[: 3 + chances]))
    parts: list[RenderableType] = [head]
    for (of, domain), rows in groupby(report.table, key=lambda row: (row.object, row.domain)):
        parts.append(Text.assemble((strip_controls(of), "bold"), (f"  {strip_controls(domain)}", "dim")))
        table = _columns(kind, chances=chances)
        for row in rows:
            table.add_row(*_cells(row), *([describe_chance(row)] if chances else []))
        parts.append(table)
    return Group(*parts)


def _columns(kind: int, *, chances: bool) -> Table:
    """Return a table of the columns; what can fail by chance has one where certificates stand beside."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, pad_edge=False, expand=True)
    table.add_column(overflow="fold", ratio=1)
    table.add_column(overflow="fold", justify="right", min_width=VALUE, max_width=VALUE)
    table.add_column(overflow="fold", min_width=kind, max_width=kind)
    if chances:
        table.add_column(overflow="fold", min_width=CHANCE, max_width=CHANCE)
    return table


def _cells(row: ReadingRow) -> tuple[Text, ...]:
    style = "" if row.failure_probability is None else "bold"
    return (
        Text(f"  {strip_controls(row.quantity)}"),
        Text(strip_controls(describe_number(row)), style=style),
        Text(row.kind, style="" if row.failure_probability is not None else "dim"),
    )


def _relations(report: CurvatureReport) -> Iterator[tuple[str, str]]:
    for row in report.consistency:
        if row.compared:
            yield f"{row.compared:,}", row.relation
    left = [row.relation for row in report.consistency if not row.compared]
    if left:
        yield "nothing", f"to compare for {len(left)} more: certificates of this model beside, --with REPORT, would be"
