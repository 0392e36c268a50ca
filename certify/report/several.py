"""Reports in one text: one as its format shows it, several as a list, a document of suites, a page, or one by one.

A table of examples has one kind of row and one header, so in such a format several reports are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from certify.errors import InputError
from certify.report.formats import FORMATS
from certify.results import Document, LogReport, OutputsReport, Report, dump_json

if TYPE_CHECKING:
    from certify.report.junit import HasGates

MARKDOWN_BYTES = 1_000_000  # of all together; GitHub shows a step summary of up to 1 MiB

Several: TypeAlias = Callable[[Sequence[Document], int | None, bool], str]


def render(report: Document | Sequence[Document], name: str) -> str:
    """Return a report in the format of this name, as `FORMATS` lists them; or several in one text.

    Raises:
        InputError: If there is no such format, or it has no place for this kind of report, or for several.

    Example:
        >>> render(None, "pdf")
        Traceback (most recent call last):
        certify.errors.InputError: expected terminal, json, csv, tsv, markdown, html, junit or card, got 'pdf'
    """
    if name not in FORMATS:
        *most, last = FORMATS
        raise InputError(f"expected {', '.join(most)} or {last}, got {name!r:.60}")
    return render_several(report if isinstance(report, Sequence) else [report], name)


def render_several(reports: Sequence[Document], name: str, *, width: int | None = None, color: bool = False) -> str:
    """Return reports in the format of this name: one as `FORMATS` shows it, several as one valid text.

    Raises:
        InputError: If the format has no place for a report of this kind, or for several.
    """
    if len(reports) == 1:
        return FORMATS[name](reports[0], width=width, color=color)
    refuse_several(len(reports), name)
    return SEVERAL[name](reports, width, color)


def refuse_several(reports: int, name: str) -> None:
    """Return when so many reports fit into one text of a format.

    Raises:
        InputError: If it takes one.

    Example:
        >>> refuse_several(2, "tsv")
        Traceback (most recent call last):
        certify.errors.InputError: expected one report with --format tsv, got 2; call once for each
    """
    if reports > 1 and name not in SEVERAL:
        raise InputError(f"expected one report with --format {name}, got {reports}; call once for each")


def _on_a_terminal(reports: Sequence[Document], width: int | None, color: bool) -> str:
    return "\n".join(FORMATS["terminal"](report, width=width, color=color) for report in reports)


def _as_list(reports: Sequence[Document], width: int | None, color: bool) -> str:  # noqa: ARG001 - one table
    return dump_json(list(reports), indent=1) + "\n"


def _as_markdown(reports: Sequence[Document], width: int | None, color: bool) -> str:  # noqa: ARG001 - one table
    """Return the reports one under the other as long as they fit, and how many were left out."""
    texts: list[str] = []
    left = MARKDOWN_BYTES
    for number, report in enumerate(reports):
        text = FORMATS["markdown"](report)
        left -= len(text.encode()) + 1
        if left < 0:
            texts.append(f"... and {len(reports) - number} more of {len(reports)} reports, left out for length.\n")
            break
        texts.append(text)
    return "\n".join(texts)


def _as_suites(reports: Sequence[Document], width: int | None, color: bool) -> str:  # noqa: ARG001 - one table
    from certify.report.junit import render_suites

    judged: list[HasGates] = []
    for report in reports:
        if isinstance(report, LogReport | OutputsReport):
            FORMATS["junit"](report)  # raises what a single one of its kind does
        else:
            judged.append(report)
    return render_suites(judged)


def _as_cards(reports: Sequence[Document], width: int | None, color: bool) -> str:  # noqa: ARG001 - one table
    from certify.report.card import render_cards

    found = [report for report in reports if isinstance(report, Report)]
    if len(found) < len(reports):
        raise InputError("expected certificates of classes for one card of several reports, got others; call once each")
    return render_cards(found)


def _as_page(reports: Sequence[Document], width: int | None, color: bool) -> str:  # noqa: ARG001 - one table
    from certify.report.html_view import NamedReport, render_html_page

    return render_html_page([NamedReport("", report) for report in reports])


SEVERAL: Mapping[str, Several] = MappingProxyType(
    {
        "terminal": _on_a_terminal,
        "json": _as_list,
        "markdown": _as_markdown,
        "html": _as_page,
        "junit": _as_suites,
        "card": _as_cards,
    }
)
