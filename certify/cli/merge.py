"""`certify merge`: the parts of one smoothing run, made on several machines, as the report of the whole run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from certify.cli import options
from certify.cli.output import Output
from certify.errors import InputError

SHARD = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


def command(
    reports: Annotated[
        list[Path], typer.Argument(metavar="REPORT...", help="All parts of one run, made with --shard i/N.")
    ],
    output: options.Output = None,
    format: options.FormatOption = options.Format.terminal,  # noqa: A002 - the name of the flag
    color: options.ColorOption = options.Color.auto,
    quiet: options.Quiet = False,
) -> int:
    """Put the parts of one run together to the report of the whole run.

    Parts that are missing, differ in a setting or contradict the others are refused.
    """
    from certify.report import merge_reports, read_report, verify_report

    out = Output(format, output, color, quiet)
    parts = [read_report(path) for path in reports]
    for path, part in zip(reports, parts, strict=True):
        if findings := verify_report(part):
            raise InputError(f"{path}: inconsistent, and so no part of anything ({findings[0]}); see `certify verify`")
    out.show(merge_reports(parts))
    return 0


def parse_shard(text: str) -> tuple[int, int]:
    """Return i and N of a part ``i/N``.

    Raises:
        InputError: If it is not written so; whether there is such a part depends on the data.

    Example:
        >>> parse_shard("2/3")
        (2, 3)
    """
    found = SHARD.fullmatch(text)
    if found is None:
        raise InputError(f"expected --shard i/N, as 1/4 for the first of four parts, got {text!r:.60}")
    return int(found[1]), int(found[2])
