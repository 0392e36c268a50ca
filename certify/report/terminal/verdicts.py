"""The verdicts of a report on a terminal: gates, falsifier, digest."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from certify.report.neutralise import strip_controls
from certify.results import Document, OutputsReport, Report

STYLES = {"passed": "bold green", "failed": "bold red", "undecided": "bold yellow"}


def draw_gates(report: Document) -> Table | None:
    """Return for each gate its verdict and name, and the reason below."""
    if isinstance(report, OutputsReport) or not report.gates:
        return None
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for gate in report.gates:
        grid.add_row(Text(gate.verdict.upper(), style=STYLES[gate.verdict]), Text(strip_controls(gate.name)))
        grid.add_row("", Text(strip_controls(gate.reason), style="dim"))
    return grid


def draw_falsifier(report: Report) -> Text:
    """Return what was tried against the certificates; that nothing was tried is said."""
    falsifier = report.falsifier
    if falsifier.level == "off":
        return Text("not run", style="yellow")
    tried = f"{falsifier.level}: {strip_controls(falsifier.tried)}; "
    found = (f"broke {falsifier.found} certificates", "bold red") if falsifier.found else "found nothing (no proof)"
    return Text.assemble(tried, found)


def draw_digest(report: Document) -> Text:
    """Return the digest of the record."""
    return Text(f"\ndigest {strip_controls(report.digest) or 'none'}", style="dim")
