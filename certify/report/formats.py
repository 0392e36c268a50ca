"""The views of a report: a table from the name of a format to its renderer. A further format is one file and one line.

A renderer returns the whole text. ``width`` (columns; None: as the format sees fit) and ``color`` (escape sequences
allowed) matter to a terminal only. Every renderer neutralises the names it shows (`certify.report.neutralise`).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Protocol

from certify.errors import InputError
from certify.results import ComparisonReport, Document, report_to_json


class Renderer(Protocol):
    """One view: the report in, its text out."""

    def __call__(self, report: Document, *, width: int | None = None, color: bool = False) -> str:
        """Return the text of the view."""
        ...


COMPARING = "terminal, json, csv, markdown, html"


def render_json(report: Document, *, width: int | None = None, color: bool = False) -> str:  # noqa: ARG001 - one table
    """Return the report itself, as ``report.json`` holds it."""
    return report_to_json(report)


def _load_later(module: str, name: str, *, comparison: str = "") -> Renderer:
    """Return a renderer whose file is loaded when it is first used: no format pays for what another needs.

    ``comparison`` is the file that renders comparisons; "" where the format has no place for one.
    """

    def render(report: Document, *, width: int | None = None, color: bool = False) -> str:
        compared = isinstance(report, ComparisonReport)
        if compared and not comparison:
            raise InputError(f"expected a format that shows comparisons ({COMPARING}), got another")
        file, function = (comparison, "render_comparison") if compared and comparison != module else (module, name)
        renderer: Renderer = getattr(import_module(f"certify.report.{file}"), function)
        return renderer(report, width=width, color=color)

    return render


FORMATS: Mapping[str, Renderer] = MappingProxyType(
    {
        "terminal": _load_later("terminal", "render_terminal", comparison="comparison_terminal"),
        "json": render_json,
        "csv": _load_later("csv_view", "render_csv", comparison="csv_view"),
        "tsv": _load_later("tsv", "render_tsv"),
        "markdown": _load_later("markdown", "render_markdown", comparison="comparison_markdown"),
        "html": _load_later("html_view", "render_html", comparison="html_view"),
        "junit": _load_later("junit", "render_junit"),
        "card": _load_later("card", "render_card"),
    }
)
