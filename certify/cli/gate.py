"""`certify gate`: the verdict on the policy in the configuration; runs what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from certify.cli import options
from certify.cli.annotations import announce
from certify.cli.configuration import find_configuration
from certify.cli.gate_plan import plan_text
from certify.cli.judging import Question, decide
from certify.cli.output import Output, write_text
from certify.cli.verdicts import gates_of, kind_of, needed_kinds
from certify.errors import InputError
from certify.policy import gate_exit_code, refuse_diagnostic

KINDS = ("lipschitz", "smoothing", "curvature")


def command(
    reports: Annotated[
        list[Path] | None, typer.Argument(metavar="[REPORT]...", help="Reports to judge; default: run what is missing.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what must be observed for each gate to pass, and run nothing.")
    ] = False,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit 0 whatever the verdicts are.")] = False,
    allow_diagnostic: Annotated[
        bool,
        typer.Option("--allow-diagnostic-gate", help="Let gates judge readings of curvature, which certify nothing."),
    ] = False,
    falsify: options.Falsify = None,
    config: options.Config = None,
    device: options.Device = None,
    batch: options.Batch = None,
    workers: options.Workers = None,
    store: options.StoreFolder = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the report as JSON to this file; in a folder, one of each kind."),
    ] = None,
    format: options.FormatOption = options.Format.terminal,  # noqa: A002 - the name of the flag
    color: options.ColorOption = options.Color.auto,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Judge the gates of the configuration: exit 0 when all pass, 1 when one fails, 4 when one is undecided."""
    configuration = find_configuration(config)
    if not configuration.gates:
        where = configuration.path or "certify.toml (none found)"
        raise InputError(f"{where}: expected at least one [[gate]], got none")
    for gate in () if allow_diagnostic else configuration.gates:
        refuse_diagnostic(gate)
    if plan:
        write_text(
            plan_text(configuration, {kind: gates_of(configuration, kind) for kind in needed_kinds(configuration)})
        )
        return 0
    from certify.report import refuse_several

    several = len(reports or needed_kinds(configuration))
    refuse_several(several, format.value)
    files = {kind: Output(path=path, quiet=quiet, verbose=verbose) for kind, path in _files(output, several).items()}
    out = Output(format, None, color, quiet, verbose)
    question = Question(configuration, reports or (), falsify, device, batch, workers, store, allow_diagnostic)
    judged = decide(question, out, no_progress=no_progress)
    for report in judged if files else ():
        files[kind_of(report)].write(report)
    out.show(*judged)
    announce(judged, out, exit_zero=exit_zero)
    code = gate_exit_code([row for report in judged for row in report.gates])
    return 0 if exit_zero else code


def _files(output: Path | None, several: int) -> dict[str, Path]:
    """Return where the report of each kind is written: into the file, or into one of its name in the folder.

    Raises:
        InputError: If there are several reports for one file.
    """
    if output is None:
        return {}
    if output.is_dir():
        return {kind: output / f"{kind}.json" for kind in KINDS}
    if several > 1:
        raise InputError(
            f"expected a folder for --output, as there is a report of each kind, got {str(output)!r}; make the folder,"
            " or leave --output out"
        )
    return dict.fromkeys(KINDS, output)
