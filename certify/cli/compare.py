"""`certify compare`: two reports on the same examples, paired; with --max-drop, a gate on what was lost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from certify.cli import options
from certify.cli.output import Output
from certify.cli.reading import read_verified
from certify.policy import gate_exit_code


def command(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The report compared with.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The report compared.")],
    radius: Annotated[
        float | None,
        typer.Option("--radius", help="Compare what is certified here. [default: the asked radius, else any positive]"),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            help="Gate: the share may drop by at most this; exit 1 when it drops more, 4 when neither is shown.",
        ),
    ] = None,
    confidence: Annotated[
        float, typer.Option("--confidence", help="Of each limit over the examples. [default: 0.95]", show_default=False)
    ] = 0.95,
    output: options.Output = None,
    format: options.FormatOption = options.Format.terminal,  # noqa: A002 - the name of the flag
    color: options.ColorOption = options.Color.auto,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Compare two reports on the same examples: which were lost, which won, and how much of the share at most.

    Exits 0 unless --max-drop asks for a verdict. The settings that decide what is certified must be equal in both.
    """
    from certify.report import compare_reports

    out = Output(format, output, color, quiet, verbose)
    reports = (read_verified(old), read_verified(new))
    found = compare_reports(*reports, radius=radius, max_drop=max_drop, confidence=confidence)
    out.show(found)
    return gate_exit_code(found.gates)
