"""What GitHub Actions shows of a gate: an annotation for each that did not pass, and the step's summary.

Workflow commands go to stderr, which the runner reads as it reads stdout: the result alone goes to stdout. In a command
``%``, carriage return and line feed are written ``%25``, ``%0D`` and ``%0A``, and in its title also ``:`` and ``,``, so
that a name cannot end the command or begin another (the runner's own `toolkit`, ``packages/core/src/command.ts``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from certify.cli.output import Output, write_note
from certify.results import GateRow, Judged

LEVELS = {"failed": "error", "undecided": "warning"}
LONGEST = 1000  # characters of one annotation; the runner cuts at 4 KiB
LARGEST_SUMMARY = 2**20  # bytes; the runner shows nothing of a larger file
MESSAGE = {"%": "%25", "\r": "%0D", "\n": "%0A"}
TITLE = {**MESSAGE, ":": "%3A", ",": "%2C"}


def announce(
    reports: Sequence[Judged], out: Output, *, exit_zero: bool, environment: Mapping[str, str] = os.environ
) -> None:
    """Annotate the gates that did not pass and append to the step's summary, when this runs in GitHub Actions.

    With ``exit_zero`` a failed gate is a warning, since it fails nothing.
    """
    if environment.get("GITHUB_ACTIONS") != "true":
        return
    for row in (row for report in reports for row in report.gates):
        if row.verdict in LEVELS:
            write_note(annotation(row, "warning" if exit_zero else LEVELS[row.verdict]))
    if path := environment.get("GITHUB_STEP_SUMMARY"):
        for report in reports:
            _append(Path(path), report, out)


def annotation(row: GateRow, level: str) -> str:
    r"""Return the workflow command that shows one verdict.

    Example:
        >>> row = GateRow(
        ...     name="a,b", metric="lipschitz", threshold=2.0, value=None, lower=None, upper=2.5, verdict="undecided",
        ...     reason="at most 2.5,\n2.0 allowed",
        ... )
        >>> annotation(row, "warning")
        '::warning title=certify%3A a%2Cb undecided::at most 2.5,%0A2.0 allowed'
    """
    title = f"certify: {row.name[:LONGEST]} {row.verdict}"
    return f"::{level} title={_escaped(title, TITLE)}::{_escaped(row.reason[:LONGEST], MESSAGE)}"


def _escaped(text: str, table: Mapping[str, str]) -> str:
    return text.translate({ord(character): code for character, code in table.items()})


def _append(path: Path, report: Judged, out: Output) -> None:
    """Append the view of a report to the summary, unless the file would become too large to be shown at all."""
    from certify.report import FORMATS

    view = FORMATS["markdown"](report, width=100, color=False).encode() + b"\n"
    try:
        with path.open("ab") as summary:
            if summary.tell() + len(view) > LARGEST_SUMMARY:
                out.note("certify: the summary of this step is full; the report is not in it")
            else:
                summary.write(view)
    except OSError as error:
        out.note(f"certify: the summary of this step cannot be written: {error.strerror}")
