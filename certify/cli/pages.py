"""`certify report --format html`: one page of one report or several, with thumbnails when the data are at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from certify.errors import InputError
from certify.results import Document, LipschitzReport, Report, SmoothingReport

if TYPE_CHECKING:
    from certify.report import Finding

MOST_PICTURES = 2000  # images on one page


def show_page(
    paths: Sequence[Path],
    reports: Sequence[Document],
    findings: Sequence[Sequence[Finding]],
    thumbnails: Path | None,
) -> str:
    """Return the page of these reports; one that contradicts itself says so at its top.

    Args:
        paths: The files of the reports, whose names the page uses.
        reports: Their content.
        findings: For each, where it contradicts itself.
        thumbnails: The data to take images from; None: no images.

    Raises:
        InputError: If the data hold none of the examples.
    """
    from certify.report.html_view import NamedReport, render_html_page

    pictures = {} if thumbnails is None else _pictures(reports, thumbnails)
    parts = [
        NamedReport(path.name, report, warning=str(found[0]) if found else "", pictures=pictures)
        for path, report, found in zip(paths, reports, findings, strict=True)
    ]
    return render_html_page(parts)


def _pictures(reports: Sequence[Document], data: Path) -> Mapping[str, str]:
    """Return images of the examples of reports, each found by the hash that the report holds for it."""
    with_examples = [report for report in reports if isinstance(report, LipschitzReport | SmoothingReport)]
    pictures: dict[str, str] = {}
    for report in with_examples:
        pictures |= _pictures_of(report, data)
    if not pictures:
        raise InputError(f"expected the data of the report for thumbnails, got none of its examples in {str(data)!r}")
    return pictures


def _pictures_of(report: Report, data: Path) -> dict[str, str]:
    from certify.loading import encode_thumbnails, read_data

    space, settings = report.model.input, report.settings
    limit = MOST_PICTURES if settings.limit is None else min(settings.limit, MOST_PICTURES)
    found = read_data(data, input=space, classes=report.model.classes, skip=settings.skip, limit=limit)
    return encode_thumbnails(found, space, frozenset(example.hash for example in report.examples))
