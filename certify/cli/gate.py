"""`certify gate`: the verdict on the policy in the configuration; runs what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from certify.cli import lipschitz, options, smooth
from certify.cli.configuration import (
    Configuration,
    falsify_level,
    find_configuration,
    lipschitz_settings,
    smoothing_settings,
)
from certify.cli.output import Output
from certify.cli.sources import data_path, model_path, read_known_model
from certify.errors import InputError
from certify.policy import Gate, evaluate_gates, gate_exit_code
from certify.results import GateRow, LipschitzReport, Report, SmoothingReport, seal


def command(
    reports: Annotated[
        list[Path] | None, typer.Argument(metavar="[REPORT]...", help="Reports to judge; default: run what is missing.")
    ] = None,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit 0 whatever the verdicts are.")] = False,
    config: options.Config = None,
    device: options.Device = None,
    batch: options.Batch = None,
    workers: options.Workers = None,
    store: options.StoreFolder = None,
    output: options.Output = None,
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
    out = Output(format, output, color, quiet, verbose)
    if output is not None and len(reports or needed_kinds(configuration)) > 1:
        raise InputError(
            "expected one report to judge with --output, got several; leave --output out, or keep the gates of each"
            " kind in a configuration file of their own (--config)"
        )
    if reports:
        found = [read_verified(path) for path in reports]
    else:
        places = smooth.Places(configuration, device=device, batch=batch, workers=workers, store=store)
        found = [_run(kind, configuration, places, out, no_progress) for kind in needed_kinds(configuration)]
    judged = judge(found, configuration.gates, default_kind(configuration))
    for report in judged:
        out.show(report)
    code = gate_exit_code([row for report in judged for row in report.gates])
    return 0 if exit_zero else code


def kind_of(report: Report) -> str:
    """Return the kind of a report, as a gate names it."""
    return "lipschitz" if isinstance(report, LipschitzReport) else "smoothing"


def gate_kind(gate: Gate, default: str) -> str:
    """Return the kind of certificates a gate speaks of."""
    return gate.kind or default


def default_kind(configuration: Configuration) -> str:
    """Return the kind of a gate that names none: what the configuration has a table for, smoothing first."""
    return "lipschitz" if configuration.lipschitz and not configuration.smooth else "smoothing"


def needed_kinds(configuration: Configuration) -> list[str]:
    """Return the kinds of reports the gates need, each once."""
    return sorted({gate_kind(gate, default_kind(configuration)) for gate in configuration.gates})


def judge(reports: list[Report], gates: tuple[Gate, ...], default: str) -> list[Report]:
    """Return the reports with the verdicts of the gates that speak of them.

    A gate that names no kind speaks of the only report, or among several of the one of the ``default`` kind.

    Raises:
        InputError: If a gate speaks of a kind that no report has, or of several.
    """
    rows: dict[int, list[GateRow]] = {index: [] for index in range(len(reports))}
    for gate in gates:
        kind = gate.kind if len(reports) == 1 else gate_kind(gate, default)
        fitting = [i for i, report in enumerate(reports) if kind in (None, kind_of(report))]
        if len(fitting) != 1:
            raise InputError(
                f"gate {gate.name!r}: expected exactly one report of kind {kind or 'any'}, got {len(fitting)};"
                " set its `kind`, and give one report of each kind"
            )
        rows[fitting[0]] += evaluate_gates(reports[fitting[0]], (gate,))
    return [_with_gates(report, tuple(rows[index])) for index, report in enumerate(reports)]


def _with_gates(report: Report, rows: tuple[GateRow, ...]) -> Report:
    import msgspec

    return seal(msgspec.structs.replace(report, gates=rows, digest=""))


def read_verified(path: Path) -> Report:
    """Return the report in a file, after re-deriving every number in it.

    Raises:
        InputError: If the file is no report, or a number in it does not follow from its record.
    """
    from certify.report import read_report, verify_report

    report = read_report(path)
    findings = verify_report(report)
    if findings:
        raise InputError(f"{path}: inconsistent report, it cannot be judged: {findings[0]}")
    return report


def _run(
    kind: str, configuration: Configuration, places: smooth.Places, out: Output, no_progress: bool
) -> LipschitzReport | SmoothingReport:
    path, data = model_path(None, configuration), data_path(None, configuration)
    if kind == "lipschitz":
        settings = lipschitz_settings(configuration, {})
        level = falsify_level(None, configuration.lipschitz)
        return lipschitz.run(path, data, configuration.arch, None, settings, out, no_progress, level)
    model = read_known_model(path, configuration.arch)
    return smooth.run(model, data, None, smoothing_settings(configuration, {}), places, out, False, no_progress)
