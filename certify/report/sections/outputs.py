"""A smoothed regression or segmentation: what is promised, how much is certified, and every example."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from certify.report.outline import Facts, Outline, Quote, Section, Text, table_of
from certify.report.outputs_words import (
    describe_certified,
    describe_checking,
    describe_identity,
    describe_row,
    describe_task,
)
from certify.report.promise_words import describe_statement
from certify.report.sections.examples import OPEN_UP_TO
from certify.report.sections.record import CHECK, describe_tool
from certify.report.wording import describe_falsifier
from certify.results import OutputsReport


def outputs_outline(report: OutputsReport) -> Outline:
    """Return a regression or segmentation as an outline."""
    return Outline(describe_certified(report), describe_task(report), tuple(_sections(report)))


def _sections(report: OutputsReport) -> Iterator[Section]:
    statement, total = report.statement, len(report.examples)
    yield Section("statement", "What is promised", (Quote(statement.text), Facts(describe_statement(statement))))
    rows = ((str(row.index), row.id, describe_row(row)) for row in report.examples)
    table = table_of("Examples", ("#index", "example", "certified"), rows, count=total, folded=total > OPEN_UP_TO)
    yield Section("examples", f"Examples ({total:,})", (replace(table, sortable=True),))
    yield Section("record", "Record", (Facts(tuple(_record(report))), Text(_check(report))))


def _check(report: OutputsReport) -> str:
    """Return how to check the numbers, and which of them cannot be."""
    unchecked = describe_checking(report)
    return f"{CHECK} Of a regression {unchecked}." if unchecked else CHECK


def _record(report: OutputsReport) -> Iterator[tuple[str, str]]:
    yield from describe_identity(report)
    yield "noise", f"{report.tables.noise_law}: {report.tables.noise}"
    yield "falsifier", describe_falsifier(report.falsifier)
    yield "tool", describe_tool(report.tool)
    yield "digest", report.digest or "none"
