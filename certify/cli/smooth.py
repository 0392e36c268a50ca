"""`certify smooth`: randomized-smoothing certificates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import UNSET

from certify.cli import options
from certify.cli.baselines import certified_before
from certify.cli.chance import chance_level_note
from certify.cli.configuration import Configuration, falsify_level, find_configuration, smoothing_settings
from certify.cli.merge import parse_shard
from certify.cli.output import Output, write_text
from certify.cli.plan import AskedRadii, plan_text, questions_of_run
from certify.cli.progress import consume_smoothing, meter
from certify.cli.sources import data_path, is_named, model_path, read_known_model
from certify.errors import InputError
from certify.policy import Gate, Settlement
from certify.results import Judged, SmoothingReport, SmoothingSettings

if TYPE_CHECKING:
    from certify.examples import Dataset
    from certify.loading import Model
    from certify.smoothing.placement import Engine, Rows


NUMBER = re.compile(r"[0-9]{1,7}")
MOST_ROWS, MOST_WORKERS = 2**20, 256


def command(
    data: options.DataArgument = None,
    sigma: Annotated[
        float | None,
        typer.Option("--sigma", help="Standard deviation of the noise, in the space of the data ([0, 1] pixels)."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="The model; default: the configuration's, else ./model.safetensors.")
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--n", help="Draws per example: the cap, or exactly this many. [default: 10000; with --at 100000]"
        ),
    ] = None,
    at: Annotated[
        list[float] | None,
        typer.Option("--at", help="Decide 'radius >= this' sequentially instead of measuring it; repeatable."),
    ] = None,
    n0: Annotated[int | None, typer.Option("--n0", help="Draws that select the class. [default: 128]")] = None,
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="Chance that one certificate is false. [default: 0.001]")
    ] = None,
    procedure: Annotated[
        options.Procedure | None,
        typer.Option("--procedure", help="planned: draws as the pilot asks; fixed: n for all. [default: planned]"),
    ] = None,
    price: Annotated[
        float | None, typer.Option("--price", help="Radius (in sigmas) a draw must be worth. [default: 1e-5]")
    ] = None,
    bound: Annotated[
        options.Bound | None,
        typer.Option("--bound", help="two-interval, or Cohen's clopper-pearson. [default: two-interval]"),
    ] = None,
    noise: Annotated[
        options.Noise | None,
        typer.Option(
            "--noise", help="gaussian: l2; uniform: l1; split: l1, deterministic (8-bit data). [default: gaussian]"
        ),
    ] = None,
    scores: Annotated[
        options.Scores | None,
        typer.Option("--scores", help="hard: votes; soft: mean scores, with the network's Lipschitz constant. [hard]"),
    ] = None,
    score_map: Annotated[
        options.ScoreMap | None, typer.Option("--score-map", help="The map of soft scores. [default: chosen on pilots]")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Factor of logits in soft scores. [default: chosen on pilots]")
    ] = None,
    float_noise: Annotated[
        bool | None, typer.Option("--float-noise", help="Float noise for 8-bit data too: not float-sound.")
    ] = None,
    dtype: Annotated[
        options.Dtype | None, typer.Option("--dtype", help="What the network runs in. [default: float32]")
    ] = None,
    compiled: Annotated[
        bool | None,
        typer.Option("--compile", help="Run the network compiled by torch.compile: another, named base classifier."),
    ] = None,
    channels_last: Annotated[
        bool | None,
        typer.Option("--channels-last", help="Run it in this memory format: another, named base classifier."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the sample plan or the sequential tables, and run nothing.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="i/N", help="Part i of N of the examples; `certify merge` joins the reports."),
    ] = None,
    falsify: options.Falsify = None,
    restart: Annotated[bool, typer.Option("--restart", help="Discard what an earlier run has left.")] = False,
    arch: options.Arch = None,
    label: options.Label = None,
    limit: options.Limit = None,
    skip: options.Skip = None,
    seed: options.Seed = None,
    device: options.Device = None,
    batch: options.Batch = None,
    workers: options.Workers = None,
    engine: options.EngineOption = None,
    store: options.StoreFolder = None,
    config: options.Config = None,
    output: options.Output = None,
    format: options.FormatOption = options.Format.terminal,  # noqa: A002 - the name of the flag
    color: options.ColorOption = options.Color.auto,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Certify the noisy vote of a network: each certificate is false with probability at most alpha.

    With --noise split the vote is over all shifts of a splitting of the pixels, and certificates never fail.
    An interrupted run continues where it was; a finished one is re-used. Exits 0 whatever the examples end as.
    """
    configuration = find_configuration(config)
    flags = {
        "sigma": sigma,
        "n": n,
        "at": at or None,
        "n0": n0,
        "alpha": alpha,
        "procedure": procedure,
        "price": price,
        "bound": bound,
        "noise": noise,
        "scores": scores,
        "score_map": score_map,
        "temperature": temperature,
        "float_noise": float_noise,
        "dtype": dtype,
        "compile": compiled,
        "channels_last": channels_last,
        "limit": limit,
        "skip": skip,
        "seed": seed,
    }
    _refuse_both(at, procedure=procedure, price=price, bound=bound)
    settings = smoothing_settings(configuration, flags)
    out = Output(format, output, color, quiet, verbose)
    if plan:
        write_text(plan_text(settings, _asked_radii(settings, model, data, configuration, arch, label)))
        return 0
    path, examples = model_path(model, configuration), data_path(data, configuration)
    places = Places(
        configuration, device=device, batch=batch, workers=workers, engine=engine, store=store, falsify=falsify
    )
    found = read_known_model(path, arch or configuration.arch)
    dataset = _part(read_examples(found, examples, label, settings), shard, settings)
    out.show(run(found, dataset, settings, places, out, no_progress, data=examples, restart=restart))
    return 0


def _part(dataset: Dataset, shard: str | None, settings: SmoothingSettings) -> Dataset:
    """Return the part of the examples that was asked for; soft scores choose their map on all pilots of a run."""
    if shard is None:
        return dataset
    from certify.examples import take_part

    if settings.scores is not UNSET:
        raise InputError("expected --shard without --scores soft, whose map is chosen on the pilots of all examples")
    return take_part(dataset, *parse_shard(shard))


def _asked_radii(
    settings: SmoothingSettings,
    model: Path | None,
    data: Path | None,
    configuration: Configuration,
    arch: str | None,
    label: str | None,
) -> AskedRadii | None:
    """Return the tests that a run would use; None where no radius is asked for, or model or data are not named."""
    if not (settings.at and is_named(model, data, configuration)):
        return None
    found = read_known_model(model_path(model, configuration), arch or configuration.arch)
    return questions_of_run(found, read_examples(found, data_path(data, configuration), label, settings), settings)


def _refuse_both(at: list[float] | None, **others: object) -> None:
    """Refuse flags that measure radii beside --at, which decides them."""
    given = [name for name, value in others.items() if at and value is not None]
    if given:
        raise InputError(f"expected --at without --{given[0]}, which plays no part in a sequential test; leave one out")


class Places:
    """Where a run takes place and how hard it is attacked, from flags, else the configuration, else the defaults."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        device: str | None,
        batch: str | None,
        workers: int | None,
        engine: str | None = None,
        store: Path | None,
        falsify: str | None = None,
    ) -> None:
        from certify.runs import STORE_FOLDER

        table: Mapping[str, Any] = configuration.smooth
        self.device = str(device or table.get("device", "auto"))
        rows = str(batch or table.get("batch", "auto"))
        self.batch: Rows = "auto" if rows == "auto" else _number("batch", "auto or ", rows, MOST_ROWS)
        asked = workers or table.get("workers")
        self.workers = None if asked is None else _number("workers", "", str(asked), MOST_WORKERS)
        self.engine: Engine = _engine(engine or table.get("engine", "local"))
        self.store = store or configuration.store or Path(STORE_FOLDER)
        self.falsify = falsify_level(falsify, table)


def _engine(word: object) -> Engine:
    if word == "local":
        return "local"
    if word == "ray":
        return "ray"
    raise InputError(f"expected engine local or ray, got {word!r:.100}")


def _number(flag: str, others: str, text: str, most: int) -> int:
    if NUMBER.fullmatch(text) and 1 <= int(text) <= most:
        return int(text)
    raise InputError(f"expected --{flag} {others}a number from 1 to {most}, got {text!r:.100}")


def read_examples(model: Model, data: Path, label: str | None, settings: SmoothingSettings) -> Dataset:
    """Return the examples of a run."""
    from certify.runs import read_dataset

    return read_dataset(data, model, label=label, skip=settings.skip, limit=settings.limit)


def run(
    model: Model,
    dataset: Dataset,
    settings: SmoothingSettings,
    places: Places,
    out: Output,
    no_progress: bool,
    *,
    data: Path,
    restart: bool = False,
    gates: Sequence[Gate] = (),
    compared: Sequence[Gate] = (),
    baselines: Mapping[str, Judged] = MappingProxyType({}),
) -> SmoothingReport:
    """Return the report of one run, with progress on stderr; with gates it ends when their verdicts are settled.

    Before anything is drawn the run is compared with the baselines of the gates, and of those in ``compared``, which do
    not end it.
    """
    from certify.cli.memory import keep_freed_memory, leave_imports_alone
    from certify.runs import start_smoothing

    keep_freed_memory()
    leave_imports_alone()
    with start_smoothing(
        model,
        dataset,
        settings,
        store=places.store,
        device=places.device,
        batch=places.batch,
        workers=places.workers,
        engine=places.engine,
        restart=restart,
        data_path=str(data),
        falsify=places.falsify,
    ) as started:
        before = certified_before(started, (*gates, *compared), baselines)
        watched_by = _watch(gates, dataset, settings, before, len(model.classes)) if gates else None
        with meter(shown=not (out.quiet or no_progress)) as shown_by:
            examples = consume_smoothing(started.events(), len(dataset), shown_by, settings.at, watched_by)
        if warning := chance_level_note(examples, len(model.classes)):
            out.note(warning)
        return started.report(examples, settled=bool(gates))


def _watch(
    gates: Sequence[Gate],
    dataset: Dataset,
    settings: SmoothingSettings,
    before: Mapping[str, tuple[int, ...]],
    classes: int,
) -> Settlement:
    """Return what watches the examples of a run until the verdicts of its gates stand."""
    labels = [example.label for example in dataset]
    return Settlement(gates, n=len(dataset), alpha=settings.alpha, certified=before, labels=labels, classes=classes)
