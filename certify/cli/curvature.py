"""`certify curvature`: readings of curvature and sensitivity on a batch, certificates of the same model beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from certify.cli import options
from certify.cli.configuration import Configuration, curvature_settings, find_configuration
from certify.cli.output import Output
from certify.cli.progress import Meter, meter
from certify.cli.reading import read_verified
from certify.cli.sources import data_path, model_path, read_known_model
from certify.results import CurvatureReport, CurvatureSettings, NetworkReading

if TYPE_CHECKING:
    from certify.runs.readings import CurvatureRun


def command(
    model: options.ModelArgument = None,
    data: options.DataArgument = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            "--with",
            metavar="REPORT",
            help="Certificates of the same model, put beside the readings and held against them; repeatable.",
        ),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option("--sigma", help="Noise on each weight, for the loss gap and the last layer. [default: 0.01]"),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Lanczos steps. [default: 30]")] = None,
    probes: Annotated[
        int | None, typer.Option("--probes", help="Hessian products of each estimate of the trace. [default: 33]")
    ] = None,
    pairs: Annotated[
        int | None, typer.Option("--pairs", help="Pairs of opposite noise of the loss gap. [default: 16]")
    ] = None,
    arch: options.Arch = None,
    label: options.Label = None,
    limit: options.Limit = None,
    skip: options.Skip = None,
    seed: options.Seed = None,
    device: options.Device = None,
    config: options.Config = None,
    output: options.Output = None,
    format: options.FormatOption = options.Format.terminal,  # noqa: A002 - the name of the flag
    color: options.ColorOption = options.Color.auto,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Read curvature and sensitivity on DATA: diagnostics, never certificates.

    Needs curvlinops: pip install "certify-nn[curvature]". Exits 70 when a reading disproves a certificate.
    """
    configuration = find_configuration(config)
    flags = {
        "sigma": sigma,
        "steps": steps,
        "probes": probes,
        "pairs": pairs,
        "limit": limit,
        "skip": skip,
        "seed": seed,
    }
    settings = curvature_settings(configuration, flags)
    out = Output(format, output, color, quiet, verbose)
    where = data_path(data, configuration)
    path, network = model_path(model, configuration), arch or configuration.arch
    out.show(
        run(path, where, network, label, settings, configuration, out, no_progress, beside=beside or (), device=device)
    )
    return 0


def run(
    path: Path,
    data: Path,
    arch: str | None,
    label: str | None,
    settings: CurvatureSettings,
    configuration: Configuration,
    out: Output,
    no_progress: bool,
    *,
    beside: Sequence[Path] = (),
    device: str | None = None,
) -> CurvatureReport:
    """Return the readings of one run, with progress on stderr."""
    from certify.runs import read_dataset
    from certify.runs.readings import start_curvature

    certificates = [read_verified(report) for report in beside]
    model = read_known_model(path, arch)
    dataset = read_dataset(data, model, label=label, skip=settings.skip, limit=settings.limit)
    where = str(device or configuration.curvature.get("device", "auto"))
    started = start_curvature(model, dataset, settings, beside=certificates, device=where, data_path=str(data))
    with meter(shown=not (out.quiet or no_progress)) as shown_by:
        return _consume(started, len(dataset), shown_by)


def _consume(started: CurvatureRun, total: int, shown_by: Meter) -> CurvatureReport:
    shown_by.update(0, total, "reading the batch")
    found = []
    for example in started.examples():
        found.append(example)
        shown_by.update(len(found), total, f"{len(found)}/{total} examples")
    return started.report(found, _network(started, shown_by))


def _network(started: CurvatureRun, shown_by: Meter) -> NetworkReading | str:
    """Return the readings of the whole network, showing what is read."""
    stages = started.network()
    while True:
        try:
            shown_by.update(0, 1, next(stages))
        except StopIteration as ended:
            found: NetworkReading | str = ended.value
            return found
