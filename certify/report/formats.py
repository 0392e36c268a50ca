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
from certify.results import ComparisonReport, CurvatureReport, Document, LogReport, OutputsReport, report_to_json


class Renderer(Protocol):
    """One view: the report in, its text out."""

    def __call__(self, report: Document, *, width: int | None = None, color: bool = False) -> str:
        """Return the text of the view."""
        ...


REFUSALS: Mapping[type, str] = MappingProxyType(
    {
        ComparisonReport: (
            "expected a format that shows comparisons (terminal, json, csv, markdown, html, junit), got another"
        ),
        LogReport: "expected a format that shows imported logs (terminal, json, csv, tsv, markdown, html), got another",
        OutputsReport: "expected a format that shows outputs (terminal, json, markdown, html), got another",
        CurvatureReport: (
            "expected a format that shows readings (terminal, json, csv, markdown, html, junit, card), got tsv, whose "
            "columns are those of certified radii"
        ),
    }
)


def render_json(report: Document, *, width: int | None = None, color: bool = False) -> str:  # noqa: ARG001 - one table
    """Return the report itself, as ``report.json`` holds it."""
    return report_to_json(report)


def _load_later(plain: str, *, comparison: str = "", log: str = "", outputs: str = "", curvature: str = "") -> Renderer:
    """Return a renderer whose file is loaded when it is first used: no format pays for what another needs.

    Each is ``module.function``: for certificates, for comparisons, for imported logs, for regressions and
    segmentations, for readings of curvature; "" where the format has no place for one.
    """
    homes = {
        ComparisonReport: comparison,
        LogReport: log,
        OutputsReport: outputs,
        CurvatureReport: curvature,
    }

    def render(report: Document, *, width: int | None = None, color: bool = False) -> str:
        home = homes.get(type(report), plain)
        if not home:
            raise InputError(REFUSALS[type(report)])
        module, _, function = home.rpartition(".")
        renderer: Renderer = getattr(import_module(f"certify.report.{module}"), function)
        return renderer(report, width=width, color=color)

    return render


FORMATS: Mapping[str, Renderer] = MappingProxyType(
    {
        "terminal": _load_later(
            "terminal.render_terminal",
            comparison="comparison_terminal.render_comparison",
            log="outline_text.render_terminal_outline",
            outputs="outputs_terminal.render_outputs",
            curvature="curvature_terminal.render_curvature",
        ),
        "json": render_json,
        "csv": _load_later(
            "csv_view.render_csv",
            comparison="csv_view.render_csv",
            log="csv_view.render_csv",
            curvature="csv_view.render_csv",
        ),
        "tsv": _load_later("tsv.render_tsv", log="tsv.render_tsv"),
        "markdown": _load_later(
            "markdown.render_markdown",
            comparison="comparison_markdown.render_comparison",
            log="outline_text.render_markdown_outline",
            outputs="outline_text.render_markdown_outline",
            curvature="outline_text.render_markdown_outline",
        ),
        "html": _load_later(
            "html_view.render_html",
            comparison="html_view.render_html",
            log="html_view.render_html",
            outputs="html_view.render_html",
            curvature="html_view.render_html",
        ),
        "junit": _load_later("junit.render_junit", comparison="junit.render_junit", curvature="junit.render_junit"),
        "card": _load_later("card.render_card", curvature="card_readings.render_readings"),
    }
)
