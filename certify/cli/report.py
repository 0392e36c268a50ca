"""`certify report`, `certify verify` and `certify schema`: what works from reports alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from certify.cli import options
from certify.cli.output import Output, write_note, write_text
from certify.cli.pages import show_page
from certify.errors import InputError
from certify.results import CurvatureReport, Document, LogReport, OutputsReport

EXIT_INCONSISTENT = 2
Thumbnails: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--thumbnails",
        metavar="DATA",
        help="With --format html: show the images of these data, each found by the hash that the report holds for it.",
    ),
]
Sigma: TypeAlias = Annotated[
    float | None, typer.Option("--sigma", help="For an imported log: the noise its owner used; a log does not say.")
]
Alpha: TypeAlias = Annotated[
    float | None, typer.Option("--alpha", help="For an imported log: its failure probability. [default: 0.001]")
]
Draws: TypeAlias = Annotated[
    int | None, typer.Option("--n", help="For an imported log: its draws per example. [default: 100000]", min=1)
]


def report_command(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT...", help="Reports, or logs as .tsv.")],
    format: options.FormatOption = options.Format.terminal,  # noqa: A002 - the name of the flag
    color: options.ColorOption = options.Color.auto,
    thumbnails: Thumbnails = None,
    sigma: Sigma = None,
    alpha: Alpha = None,
    n: Draws = None,
) -> int:
    """Show reports in another format; as HTML, all of them on one page.

    Several are one list in JSON, one set of suites in JUnit, one block of a card; tables take one. One that is
    inconsistent is shown with a warning, and the exit code is 2. A tab-separated certification log (idx label predict
    radius correct time) is imported and audited.
    """
    from certify.report import verify_report

    paged = format is options.Format.html
    if thumbnails is not None and not paged:
        raise InputError(f"expected --format html with --thumbnails, got {format.value}; only a page shows images")
    out = Output(format, None, color)
    found = read_reports(reports, sigma=sigma, alpha=alpha, n=n)
    findings = [verify_report(report) for report in found]
    for path, contradictions in zip(reports, findings, strict=True):
        if contradictions:
            write_note(f"warning: {path}: inconsistent, do not trust it ({contradictions[0]}); see `certify verify`")
    if paged:
        write_text(show_page(reports, found, findings, thumbnails))
    else:
        out.show(*found)
    return EXIT_INCONSISTENT if any(findings) else 0


def read_reports(
    paths: Sequence[Path], *, sigma: float | None, alpha: float | None, n: int | None
) -> tuple[Document, ...]:
    """Return the reports in files, logs imported; what was stated about logs is an error where there is none.

    Raises:
        InputError: If a file is neither, or what was stated is outside its range.
    """
    from certify.report import read_document, read_log
    from certify.report.log_reading import is_log, log_settings

    logs = [is_log(path) for path in paths]
    stated = {"sigma": sigma, "alpha": alpha, "n": n}
    given = {name: value for name, value in stated.items() if value is not None}
    if given and not any(logs):
        raise InputError(f"expected a log with --{next(iter(given))}, got reports, which hold their own settings")
    settings = log_settings(sigma=sigma, alpha=alpha, n=n)
    return tuple(
        read_log(path, settings) if log else read_document(path) for path, log in zip(paths, logs, strict=True)
    )


def verify_command(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT...", help="Reports as JSON.")],
    quiet: options.Quiet = False,
) -> int:
    """Derive every radius, the summary and the verdicts again from the record; needs no model and no torch."""
    return max(_verify(path, len(reports) > 1, quiet) for path in reports)


def _verify(path: Path, named: bool, quiet: bool) -> int:
    """Say whether the report in a file is consistent; return the exit code that says the same."""
    from certify.report import read_document, strip_controls, verify_report

    found = read_document(path)
    findings = verify_report(found)
    for finding in findings:
        write_note(f"inconsistent: {finding}")
    if findings:
        write_note(f"{path}: inconsistent in {len(findings)} places; do not trust it")
        return EXIT_INCONSISTENT
    if not quiet:
        write_text(f"{strip_controls(f'{path}: ') if named else ''}consistent: {_what_was_checked(found)}")
    return 0


def schema_command() -> int:
    """Print the JSON Schema of the report."""
    from certify.report import schema_text

    write_text(schema_text())
    return 0


def _what_was_checked(report: Document) -> str:
    """Return what a verification without findings has shown."""
    from certify.report.outputs_words import describe_checking

    if isinstance(report, LogReport):
        return f"{len(report.examples)} rows and what follows from them; a log holds no votes to check"
    if isinstance(report, CurvatureReport):
        return f"{len(report.examples)} examples, all that follows from readings and samples, which rest on the weights"
    unchecked = describe_checking(report) if isinstance(report, OutputsReport) else ""
    return f"{len(report.examples)} examples, {unchecked or 'every number re-derived from the record'}"
