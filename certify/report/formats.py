"""The views of a report: a table from the name of a format to its renderer. A further format is one file and one line.

A renderer returns the whole text. ``width`` (columns; None: as the format sees fit) and ``color`` (escape sequences
allowed) matter to a terminal only. Every renderer neutralises the names it shows (`certify.report.neutralise`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from certify.report.tsv import render_tsv
from certify.results import Report, report_to_json


class Renderer(Protocol):
    """One view: the report in, its text out."""

    def __call__(self, report: Report, *, width: int | None = None, color: bool = False) -> str:
        """Return the text of the view."""
        ...


def render_terminal(report: Report, *, width: int | None = None, color: bool = False) -> str:
    """Return the view on a terminal; rich is imported here, since no other format needs it."""
    from certify.report import terminal

    return terminal.render_terminal(report, width=width, color=color)


def render_json(report: Report, *, width: int | None = None, color: bool = False) -> str:  # noqa: ARG001 - one table
    """Return the report itself, as ``report.json`` holds it."""
    return report_to_json(report)


FORMATS: Mapping[str, Renderer] = MappingProxyType(
    {
        "terminal": render_terminal,
        "json": render_json,
        "tsv": render_tsv,
    }
)
