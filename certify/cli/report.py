"""`certify report`, `certify verify` and `certify schema`: what works from reports alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from certify.cli import options
from certify.cli.output import Output, write_note, write_text
from certify.cli.pages import show_page
from certify.errors import InputError

EXIT_INCONSISTENT = 2
Thumbnails: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--thumbnails",
        metavar="DATA",
        help="With --format html: show the images of these data, each found by the hash that the report holds for it.",
    ),
]
ReportArgument = Annotated[Path, typer.Argument(metavar="REPORT", help="A report.json.")]


def report_command(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT...", help="Reports to show.")],
    format: options.FormatOption = options.Format.terminal,  # noqa: A002 - the name of the flag
    color: options.ColorOption = options.Color.auto,
    thumbnails: Thumbnails = None,
) -> int:
    """Show reports in another format, with a warning where one is inconsistent; as HTML all of them on one page."""
    from certify.report import read_document, verify_report

    paged = format is options.Format.html
    if thumbnails is not None and not paged:
        raise InputError(f"expected --format html with --thumbnails, got {format.value}; only a page shows images")
    out = Output(format, None, color)
    found = [read_document(path) for path in reports]
    findings = [verify_report(report) for report in found]
    for path, report, contradictions in zip(reports, found, findings, strict=True):
        if contradictions:
            write_note(f"warning: {path}: inconsistent, do not trust it ({contradictions[0]}); see `certify verify`")
        if not paged:
            out.show(report)
    if paged:
        write_text(show_page(reports, found, findings, thumbnails))
    return 0


def verify_command(report: ReportArgument, quiet: options.Quiet = False) -> int:
    """Derive every radius, the summary and the verdicts again from the record; needs no model and no torch."""
    from certify.report import read_document, verify_report

    found = read_document(report)
    findings = verify_report(found)
    for finding in findings:
        write_note(f"inconsistent: {finding}")
    if findings:
        write_note(f"{report}: inconsistent in {len(findings)} places; do not trust it")
        return EXIT_INCONSISTENT
    if not quiet:
        write_text(f"consistent: {len(found.examples)} examples, every number re-derived from the record")
    return 0


def schema_command() -> int:
    """Print the JSON Schema of the report."""
    from certify.report import schema_text

    write_text(schema_text())
    return 0
