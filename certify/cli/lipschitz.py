"""`certify lipschitz`: the bracket of every layer, the bound of the network; with data, certified radii."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from certify.cli import options
from certify.cli.chance import chance_level_note
from certify.cli.configuration import falsify_level, find_configuration, lipschitz_settings, search_device
from certify.cli.output import Output
from certify.cli.progress import consume_lipschitz, meter
from certify.cli.sources import model_path, read_any
from certify.results import FalsifyLevel, LipschitzReport, LipschitzSettings

if TYPE_CHECKING:
    from pathlib import Path


EXIT_UNBOUNDED = 3


def command(
    model: options.ModelArgument = None,
    data: options.DataArgument = None,
    norm: Annotated[options.NormName | None, typer.Option("--norm", help="Norm of distances. [default: l2]")] = None,
    method: Annotated[options.Method | None, typer.Option("--method", help="How to bound. [default: auto]")] = None,
    effort: Annotated[
        options.Effort | None,
        typer.Option("--effort", help="How long to search for tighter bounds. [default: default]"),
    ] = None,
    local: Annotated[
        float | None,
        typer.Option(
            "--local",
            metavar="RADIUS",
            help="Bound the Lipschitz constant on the ball of this radius around each example too.",
        ),
    ] = None,
    arithmetic: Annotated[
        options.Arithmetic | None,
        typer.Option(
            "--arithmetic",
            help="What the certificate covers: the real-valued network with the stored weights (exact), or the program"
            " run in float64 or float32. [default: exact]",
        ),
    ] = None,
    falsify: options.Falsify = None,
    device: options.SearchDevice = None,
    workers: options.Workers = None,
    arch: options.Arch = None,
    label: options.Label = None,
    limit: options.Limit = None,
    skip: options.Skip = None,
    seed: options.Seed = None,
    config: options.Config = None,
    output: options.Output = None,
    format: options.FormatOption = options.Format.terminal,  # noqa: A002 - the name of the flag
    color: options.ColorOption = options.Color.auto,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Prove Lipschitz bounds of a network and, with DATA, certified radii.

    Deterministic: no certificate here can be false by chance. Exits 3 when nothing finite can be proved.
    """
    configuration = find_configuration(config)
    flags = {
        "norm": norm,
        "method": method,
        "effort": effort,
        "local": local,
        "arithmetic": arithmetic,
        "limit": limit,
        "skip": skip,
        "seed": seed,
    }
    settings = lipschitz_settings(configuration, flags)
    out = Output(format, output, color, quiet, verbose)
    path = model_path(model, configuration)
    level = falsify_level(falsify, configuration.lipschitz)
    where = search_device(device, configuration)
    report = run(path, data, arch or configuration.arch, label, settings, out, no_progress, level, workers, where)
    out.show(report)
    certified = any(example.radius > 0.0 for example in report.examples)
    return 0 if certified or report.network.upper is not None else EXIT_UNBOUNDED


def run(
    path: Path,
    data: Path | None,
    arch: str | None,
    label: str | None,
    settings: LipschitzSettings,
    out: Output,
    no_progress: bool,
    falsify: FalsifyLevel = "quick",
    workers: int | None = None,
    device: str = "auto",
) -> LipschitzReport:
    """Return the report of one run, with progress on stderr."""
    from certify.loading import Model
    from certify.runs import choose_device, read_dataset, report_weights, start_lipschitz

    choose_device(device)  # one that is not there is refused before anything is read
    found = read_any(path, arch)
    if not isinstance(found, Model):
        return report_weights(found, settings)
    dataset = None
    if data is not None:
        dataset = read_dataset(data, found, label=label, skip=settings.skip, limit=settings.limit)
    with meter(shown=not (out.quiet or no_progress)) as shown_by:
        shown_by.update(0, 1, "bounding the network")
        where = "" if data is None else str(data)
        started = start_lipschitz(
            found, dataset, settings, data_path=where, falsify=falsify, workers=workers, device=device
        )
        for note in started.notes:
            out.note(note)
        examples = consume_lipschitz(started.examples(), 0 if dataset is None else len(dataset), shown_by)
        shown_by.update(1, 1, "attacking the certificates")
        report = started.report(examples)
    if warning := chance_level_note(examples, len(found.classes)):
        out.note(warning)
    return report
