"""The library calls that combine stages: what each command does, without printing.

A long run is an object that yields results as they are proved (`LipschitzRun.examples`, `SmoothingRun.events`), so that
whoever consumes it can draw a progress bar; `lipschitz` and `smooth` consume it whole. Options go down once, as one
frozen settings object, and are echoed whole into the report.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import msgspec
import numpy as np
import torch
from msgspec import UNSET
from numpy.typing import NDArray
from torch import Tensor, nn

from certify._version import __version__
from certify.bounds import (
    WORTHWHILE,
    Analysis,
    SearchPlace,
    analyse,
    certify_examples,
    cores_worthwhile,
    limit_sentence,
    logit_facts,
    network_lower,
    slope_floor,
    steepest_place,
    weight_rows,
)
from certify.errors import InputError, SoundnessError
from certify.examples import Dataset, Example
from certify.falsifier import OFF, falsify_lipschitz, falsify_scores, falsify_smoothing
from certify.graph import fold_batch_norm
from certify.loading import Model, WeightsOnly, check_dataset, load, read_data
from certify.output_runs import smooth_outputs
from certify.report import lipschitz_statement, smoothing_statement, summarise_lipschitz, summarise_smoothing
from certify.results import (
    DataRecord,
    Execution,
    Falsifier,
    FalsifyLevel,
    InputSpace,
    LipschitzExample,
    LipschitzReport,
    LipschitzSettings,
    ModelRecord,
    NetworkBound,
    OutputsReport,
    Regression,
    Segmentation,
    SmoothingExample,
    SmoothingReport,
    SmoothingSettings,
    Tables,
    Tool,
    TopK,
    Unbounded,
    UnsampledExample,
    seal,
)
from certify.smoothing import (
    NoiseLaw,
    Procedure,
    Reading,
    RunHeader,
    Store,
    check_settings,
    earlier_seeds,
    is_complete,
    law_name,
    make_law,
    make_tables,
    open_store,
    plan_procedure,
    smoothing_events,
    store_path,
)
from certify.smoothing.base_network import DTYPES, cores_per_pass
from certify.smoothing.classification import Classification
from certify.smoothing.loop import Events
from certify.smoothing.noise_source import source_name
from certify.smoothing.sampler import use_one_core
from certify.smoothing.scales import check_scales, describe_scales
from certify.smoothing.shards import Engine, cluster_workers
from certify.smoothing.soft_classification import LogitBound, check_score_settings, score_reading
from certify.smoothing.soft_run import SoftRun, enclosing_ball
from certify.smoothing.votes import Votes
from certify.stats import self_test

STORE_FOLDER = ".certify_cache"
PROGRAM = "eager, batch norm folded"
COMPILED_ROWS = 128


def choose_device(name: str = "auto") -> str:
    """Return the device to run on: "auto" is CUDA where there is one.

    Raises:
        InputError: If the name is not auto, cpu, cuda or cuda:i, or that device is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdigit())):
        raise InputError(f"expected device auto, cpu, cuda or cuda:i, got {name!r}")
    if kind == "cuda" and not (torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count()):
        raise InputError(f"expected a CUDA device for {name!r}, got none; use --device cpu")
    return name


def search_place(device: str = "auto") -> SearchPlace:
    """Return where multipliers are searched: "auto" is CUDA, where there is one, for all but small networks.

    Raises:
        InputError: As `choose_device`.
    """
    return SearchPlace(choose_device(device), WORTHWHILE if device == "auto" else 0.0)


def choose_workers(device: str, engine: Engine = "local") -> int:
    """Return how much runs side by side by default: on a CPU the threads PyTorch would use, on a CUDA device one.

    On a Ray cluster: as many as it has cores, or GPUs.
    """
    if engine == "ray":
        return cluster_workers(device)
    return torch.get_num_threads() if device == "cpu" else 1


def read_dataset(
    path: str | Path, model: Model, *, label: str | None = None, skip: int = 0, limit: int | None = None
) -> Dataset:
    """Return the examples at a path, as the model takes them; see `certify.loading.read_data`."""
    return read_data(path, input=model.input, classes=model.classes, label=label, skip=skip, limit=limit)


def data_record(data: Dataset) -> DataRecord:
    """Return which examples a report speaks of."""
    part = UNSET if data.part is None else data.part
    return DataRecord(
        sha256=data.sha256, count=len(data), selection=data.selection, part=part, eight_bit=data.eight_bit
    )


def tool_record(device: str, dtype: str) -> Tool:
    """Return what computes a report here."""
    return Tool(
        version=__version__,
        python=platform.python_version(),
        torch=str(torch.__version__),
        device_kind=device.partition(":")[0],
        dtype=dtype,
    )


def device_name(device: str) -> str:
    """Return the name of the processor behind a device."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()


@dataclass(frozen=True)
class Clock:
    """When a run began."""

    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    zero: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return round(time.monotonic() - self.zero, 3)


@dataclass(frozen=True, eq=False)
class LipschitzRun:
    """A Lipschitz analysis under way: the bounds are proved, the examples come when they are asked for."""

    model: Model
    data: Dataset | None
    settings: LipschitzSettings
    analysis: Analysis
    data_path: str = ""
    falsify: FalsifyLevel = "quick"
    workers: int = 1
    device: str = "cpu"
    _clock: Clock = field(default_factory=Clock)

    @property
    def searched_on(self) -> str:
        """The kind of device that multipliers of the network's bound were searched on; all proofs are the CPU's."""
        return "cpu" if isinstance(self.analysis.covariance, Unbounded) else self.analysis.covariance.searched_on

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how the bound came about."""
        return () if isinstance(self.analysis.covariance, Unbounded) else self.analysis.covariance.notes

    def examples(self) -> Iterator[LipschitzExample]:
        """Yield the certificate of each example, in order.

        Batches of examples are certified side by side, each in a thread of its own and on one core: neither how many
        there are nor their order changes a result.
        """
        if self.data is None:
            return
        together = self.analysis.together
        batches = [self.data.examples[first : first + together] for first in range(0, len(self.data), together)]
        with ThreadPoolExecutor(self.workers, initializer=use_one_core) as pool:
            try:
                waiting = [pool.submit(self._certify, batch) for batch in batches]
                for batch in waiting:
                    yield from batch.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _certify(self, batch: Sequence[Example]) -> list[LipschitzExample]:
        return list(certify_examples(self.analysis, batch, self.settings))

    def report(self, examples: Sequence[LipschitzExample]) -> LipschitzReport:
        """Return the sealed report of the analysis and of all examples, after attacks on what it certifies.

        Raises:
            BrokenCertificate: If an attack broke a certificate: the report is withheld, a bug of this tool.
        """
        attacked = () if self.data is None else self.data.examples
        with _worthwhile_cores(self.model):
            network = self._network()
            falsifier = falsify_lipschitz(
                replace(self.analysis, network=network),
                attacked,
                examples,
                self.settings,
                level=self.falsify,
                range=self.model.input.range,
            )
        statement = lipschitz_statement(
            settings=self.settings, model=self.model.record, network=network, examples=examples
        )
        report = LipschitzReport(
            tool=tool_record(self.searched_on, "float64"),
            model=self.model.record,
            settings=self.settings,
            statement=statement,
            network=network,
            layers=self.analysis.layers,
            examples=tuple(examples),
            falsifier=falsifier,
            execution=Execution(
                model_path=self.model.path,
                data_path=self.data_path,
                workers=self.workers,
                threads=torch.get_num_threads(),
                device_name=device_name(self.device if self.searched_on != "cpu" else "cpu"),
                started=self._clock.started,
                seconds=self._clock.seconds,
            ),
        )
        if self.data is not None:
            summary = summarise_lipschitz(examples, self.settings)
            report = msgspec.structs.replace(report, data=data_record(self.data), summary=summary)
        return seal(report)

    def _network(self) -> NetworkBound:
        """Return the proved bound with what was found beside it: how steep the network is, how steep it might be."""
        graph, norm, seed = self.model.graph, self.settings.norm, self.settings.seed
        examples = () if self.data is None else self.data.examples
        place = steepest_place(graph, examples, norm=norm, seed=seed, range=self.model.input.range)
        steepest = None if place is None else place.slope
        slopes = slope_floor(graph, norm=norm, seed=seed)
        # The network's own slopes are among those that are free: what was found of them counts.
        possible = None if isinstance(slopes, Unbounded) else max(slopes, steepest or 0.0)
        found = self.analysis.network
        sentence = UNSET if found.upper is None or steepest is None else self._limit(found.upper, steepest, possible)
        return msgspec.structs.replace(
            found,
            lower=None if place is None else network_lower(self.analysis, place, range=self.model.input.range),
            data_floor=UNSET if steepest is None else steepest,
            slope_floor=UNSET if possible is None else possible,
            limited_by=sentence,
        )

    def _limit(self, upper: float, steepest: float, possible: float | None) -> str:
        covariance = self.analysis.covariance
        obstacles = (covariance.reason,) if isinstance(covariance, Unbounded) else covariance.fallbacks
        return limit_sentence(upper, data_floor=steepest, slope_floor=possible, obstacles=obstacles)


def _worthwhile_cores(model: Model) -> AbstractContextManager[None]:
    """Use as many cores as a pass of the network is worth: where they share too little, they wait for each other."""
    return cores_per_pass(torch.device("cpu"), cores_worthwhile(model.graph, torch.get_num_threads()))


def start_lipschitz(
    model: Model,
    data: Dataset | None = None,
    settings: LipschitzSettings | None = None,
    *,
    data_path: str = "",
    falsify: FalsifyLevel = "quick",
    workers: int | None = None,
    device: str = "auto",
) -> LipschitzRun:
    """Prove the bounds of a network and return the run that certifies examples with them.

    ``falsify`` says how hard the certificates are attacked before the report leaves, ``workers`` how many batches of
    examples are certified side by side (None: one a core), ``device`` where multipliers are searched.

    Raises:
        InputError: If the data do not fit the model, or the device is not there.
    """
    settings, place = settings or LipschitzSettings(), search_place(device)
    if settings.local is not None and (data is None or not 0.0 < settings.local < math.inf):
        raise InputError(f"expected DATA and a positive radius for local constants, got radius {settings.local}")
    if data is not None:
        check_dataset(data, input=model.input, classes=model.classes)
    clock = Clock()
    analysis = analyse(model.graph, settings, pairs=data is not None, place=place)
    side_by_side = workers or choose_workers("cpu")
    return LipschitzRun(model, data, settings, analysis, data_path, falsify, side_by_side, place.device, clock)


def lipschitz(
    model: Model | str | Path,
    data: Dataset | str | Path | None = None,
    settings: LipschitzSettings | None = None,
    *,
    falsify: FalsifyLevel = "quick",
    workers: int | None = None,
    device: str = "auto",
) -> LipschitzReport:
    """Return the report of a network's Lipschitz bound and, with data, of certified radii.

    ``radius`` of an example: the real-arithmetic network with the stored weights gives the predicted class to every
    input nearer than that, in the norm of the settings. `certify.bounds` states and proves it.

    Args:
        model: A model, or the path of its file.
        data: Examples, or their path; None for the bounds alone.
        settings: Norm, method, effort and arithmetic; see `certify.results.LipschitzSettings`.
        falsify: How hard the certificates are attacked before the report leaves: "off", "quick" or "full".
        workers: How many batches of examples are certified side by side; None: one a core. Never changes a result.
        device: Where multipliers of the network's bound are searched: "auto" (CUDA, where there is one, for all but
            small networks), "cpu", "cuda" or "cuda:i". Proofs, local bounds and attacks stay on the CPU. Another kind
            of device may find another bound, as sound as that of the CPU; the report names the kind that was used.

    Raises:
        BrokenCertificate: If an attack broke a certificate: a bug of this tool; there is no report.
        InputError: If a file is not what it must be, or data and model do not fit.
        NoRuleError: If the architecture is unknown. A network without a bound is no error: the report says why.

    Example:
        >>> import tempfile, torch, certify
        >>> layer = torch.nn.Linear(2, 2, bias=False)
        >>> _ = torch.nn.init.constant_(layer.weight, 1.0)  # all ones: the norm is 2
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     certify.save(layer, f"{folder}/model.safetensors", input_shape=(2,))
        ...     report = certify.lipschitz(f"{folder}/model.safetensors")
        >>> 2.0 <= report.network.upper < 2.0001
        True
    """
    settings = settings or LipschitzSettings()
    loaded = model if isinstance(model, Model) else load(model)
    path = "" if data is None or isinstance(data, Dataset) else str(data)
    if data is not None and not isinstance(data, Dataset):
        data = read_dataset(data, loaded, skip=settings.skip, limit=settings.limit)
    run = start_lipschitz(loaded, data, settings, data_path=path, falsify=falsify, workers=workers, device=device)
    return run.report(tuple(run.examples()))


def report_weights(weights: WeightsOnly, settings: LipschitzSettings | None = None) -> LipschitzReport:
    """Return the report of a file of weights without an architecture: each weight's bracket, no network bound."""
    settings = settings or LipschitzSettings()
    clock = Clock()
    parameters = sum(tensor.numel() for tensor in weights.tensors.values())
    model = ModelRecord(
        sha256=weights.sha256,
        source="safetensors, weights only",
        input=InputSpace(()),
        classes=(),
        parameters=parameters,
    )
    network = NetworkBound(
        norm=settings.norm, upper=None, lower=None, method="none", proved=True, reason=weights.reason
    )
    return seal(
        LipschitzReport(
            tool=tool_record("cpu", "float64"),
            model=model,
            settings=settings,
            statement=lipschitz_statement(settings=settings, model=model, network=network, examples=()),
            network=network,
            layers=weight_rows(weights.tensors),
            falsifier=OFF,
            execution=Execution(model_path=weights.path, started=clock.started, seconds=clock.seconds),
        )
    )


@dataclass(frozen=True, eq=False)
class SmoothingRun:
    """A smoothing run with its store open: events come when asked for, the report is a function of the store."""

    model: Model
    data: Dataset
    settings: SmoothingSettings
    store: Store
    device: str
    batch: int | Literal["auto"]
    workers: int = 1
    data_path: str = ""
    falsify: FalsifyLevel = "quick"
    _clock: Clock = field(default_factory=Clock)
    scales: NDArray[np.float64] | None = None
    bound: LogitBound | None = None  # with soft scores
    engine: Engine = "local"

    def events(self) -> Events[SmoothingExample]:
        """Yield certified examples in order, and progress between them; see `certify.smoothing.smoothing_events`."""
        batch = self._compiled_rows or self.batch
        if soft := self._soft():
            return soft.events(self._predict, device=self.device, batch=batch, workers=self.workers, engine=self.engine)
        return smoothing_events(
            self._predict,
            self.data,
            classes=len(self.model.classes),
            settings=self.settings,
            store=self.store,
            device=self.device,
            batch=batch,
            workers=self.workers,
            engine=self.engine,
            scales=self.scales,
        )

    def report(self, examples: Sequence[SmoothingExample], *, settled: bool = False) -> SmoothingReport:
        """Return the sealed report of all examples, after attacks on what it certifies.

        Args:
            examples: The examples, in order.
            settled: Whether the verdicts of all gates were settled by these; they may then be the first ones only.

        Raises:
            InputError: If examples are missing: a partial run has no report.
            BrokenCertificate: If the attacks broke more certificates than chance allows: the report is withheld.
        """
        rest = self.data.examples[len(examples) :]
        if rest and not settled:
            raise InputError(f"expected all {len(self.data)} examples, got {len(examples)}; run the command again")
        tables = self._tables()
        record = self.model.record
        return seal(
            SmoothingReport(
                tool=tool_record(self.device, self.settings.dtype),
                model=record,
                data=data_record(self.data),
                settings=self.settings,
                statement=smoothing_statement(
                    settings=self.settings, model=record, tables=tables, examples=len(self.data)
                ),
                tables=tables,
                examples=tuple(examples),
                unsampled=tuple(map(_without_draws, rest)) or UNSET,
                summary=summarise_smoothing(examples, self.settings, unsampled=len(rest)),
                falsifier=self._falsifier(examples),
                execution=self._execution(),
            )
        )

    @cached_property
    def _predict(self) -> Callable[[Tensor], Tensor]:
        """The network as it is certified, for the attacks too: a compiled one is compiled once."""
        dtype = DTYPES[self.settings.dtype]
        channels_last = self.settings.channels_last is True
        return self.model.predict(self.device, dtype, compiled_rows=self._compiled_rows, channels_last=channels_last)

    @property
    def _compiled_rows(self) -> int | None:
        """The rows that a compiled network takes: those asked for, else those of the store; sizes are not timed."""
        if self.settings.compile is not True:
            return None
        return (self.store.micro_batch() or COMPILED_ROWS) if self.batch == "auto" else self.batch

    def _falsifier(self, examples: Sequence[SmoothingExample]) -> Falsifier:
        """Return what was tried against the certificates, on no more cores than the run had."""
        with cores_per_pass(torch.device(self.device), min(self.workers, torch.get_num_threads())):
            scored = any(example.scores is not UNSET for example in examples)
            return self._score_falsifier(examples) if scored else self._vote_falsifier(examples)

    def _vote_falsifier(self, examples: Sequence[SmoothingExample]) -> Falsifier:
        return falsify_smoothing(
            self._predict,
            self.model.graph,
            self.data.examples[: len(examples)],
            examples,
            self.settings,
            classes=len(self.model.classes),
            level=self.falsify,
            device=self.device,
            range=self.model.input.range,
            scales=self.scales,
        )

    def _score_falsifier(self, examples: Sequence[SmoothingExample]) -> Falsifier:
        """Return what was tried against mean scores: a vote may be lost where a mean score is not."""
        soft = self._soft()
        if soft is None:
            raise SoundnessError("expected rows without sums of scores from a run of votes")
        return falsify_scores(
            self._predict,
            self.model.graph,
            self.data.examples[: len(examples)],
            examples,
            self.settings,
            soft.task().score_map,
            classes=len(self.model.classes),
            level=self.falsify,
            device=self.device,
            range=self.model.input.range,
        )

    def is_complete(self) -> bool:
        """Return whether the store holds every draw of this run already."""
        soft = self._soft()
        return soft.is_complete() if soft else is_complete(self.store, self.data, Classification(self._procedure()[0]))

    def _soft(self) -> SoftRun | None:
        """Return the run with soft scores, when they are asked for."""
        return None if self.bound is None else SoftRun(*self._procedure(), self.data, self.bound, self.store)

    def _tables(self) -> Tables:
        tables, soft = make_tables(*self._procedure(), self.store.header.device_kind), self._soft()
        return msgspec.structs.replace(tables, scores=soft.task().table) if soft else tables

    def _procedure(self) -> tuple[Procedure, NoiseLaw]:
        law = make_law(self.settings, eight_bit=self.data.eight_bit, scales=self.scales)
        size = self.model.input.size
        return plan_procedure(self.settings, classes=len(self.model.classes), law=law, dimension=size), law

    def _execution(self) -> Execution:
        return Execution(
            model_path=self.model.path,
            data_path=self.data_path,
            batch=str(self.batch),
            micro_batch=self.store.micro_batch() or 0,
            workers=self.workers,
            engine=self.engine,
            threads=torch.get_num_threads(),
            device_name=device_name(self.device),
            started=self._clock.started,
            seconds=self._clock.seconds,
            earlier_seeds=earlier_seeds(self.store.path.parent, self.store.header),
        )


@contextmanager
def start_smoothing(
    model: Model,
    data: Dataset,
    settings: SmoothingSettings,
    *,
    store: str | Path = STORE_FOLDER,
    device: str = "auto",
    batch: int | Literal["auto"] = "auto",
    workers: int | None = None,
    restart: bool = False,
    data_path: str = "",
    falsify: FalsifyLevel = "quick",
    scales: object = None,
    engine: Engine = "local",
) -> Iterator[SmoothingRun]:
    """Open the store of a run, continuing what an earlier start has left, and close it afterwards.

    ``falsify`` says how hard the certificates are attacked before the report leaves, ``scales`` the size of the noise
    in every coordinate and ``engine`` where the workers are, as in `smooth`.

    Raises:
        InputError: If the settings or the data do not fit, or the store is in use or damaged.
        SoundnessError: If the installed statistics do not give the check values.
    """
    self_test()
    clock = Clock()
    chosen = choose_device(device)
    sizes = None if scales is None else check_scales(scales, model.input.shape)
    if sizes is not None:
        settings = msgspec.structs.replace(settings, scales=describe_scales(sizes))
    header, reading, bound = _opening(model, data, settings, chosen)
    with open_store(Path(store), header, reading=reading, restart=restart) as opened:
        side_by_side = workers or choose_workers(chosen, engine)
        place = (opened, chosen, batch, side_by_side)
        yield SmoothingRun(model, data, settings, *place, data_path, falsify, clock, sizes, bound, engine)


def has_complete_run(
    model: Model, data: Dataset, settings: SmoothingSettings, *, store: str | Path = STORE_FOLDER, device: str = "auto"
) -> bool:
    """Return whether a finished run of these settings is in the store.

    Raises:
        InputError: If the settings or the data do not fit, or the store is in use or damaged.
    """
    header, _, _ = _opening(model, data, settings, choose_device(device))
    if not store_path(Path(store), header).is_file():
        return False
    with start_smoothing(model, data, settings, store=store, device=device) as run:
        return run.is_complete()


def _opening(
    model: Model, data: Dataset, settings: SmoothingSettings, device: str
) -> tuple[RunHeader, Reading, LogitBound | None]:
    """Return what a run is and reads, and with soft scores what is proved about its logits."""
    header, classes = _header(model, data, settings, device), len(model.classes)
    if settings.scores is UNSET:
        return header, Votes(classes), None
    bound = bound_logits(model, data, settings, device)
    reading = score_reading(settings, classes, bound)
    return replace(header, reading=reading.name), reading, bound


def bound_logits(model: Model, data: Dataset, settings: SmoothingSettings, device: str = "cpu") -> LogitBound:
    """Return what is proved about the logits of the network as it is run, near all examples with noise.

    Its Lipschitz constant is that of `lipschitz` for the network with batch norm folded, and the error that of its
    program in float32 or float64 on a CPU; elsewhere nothing bounds the error, and nothing is used.

    Raises:
        InputError: If the network's tensors are not finite.
    """
    if device != "cpu" or settings.dtype == "bfloat16" or settings.compile is True:
        return LogitBound(reason=f"no bound on the rounding error of logits in {settings.program} on {device}")
    centre, reach = enclosing_ball(data, settings.sigma)
    folded = fold_batch_norm(model.graph.to(torch.float64))
    found = logit_facts(folded, torch.from_numpy(centre), reach, settings.dtype)
    if isinstance(found, Unbounded):
        return LogitBound(reason=str(found))
    if not (math.isfinite(found.lipschitz) and math.isfinite(found.error)):
        return LogitBound(reason="the bounds of the logits are not finite")
    return LogitBound(found.lipschitz, found.error)


def _header(model: Model, data: Dataset, settings: SmoothingSettings, device: str) -> RunHeader:
    """Return what a run is, after checking that its data fit its model."""
    check_settings(settings)
    check_score_settings(settings)
    check_dataset(data, input=model.input, classes=model.classes)
    return RunHeader(
        model_sha256=model.sha256,
        data_sha256=data.sha256,
        settings=settings,
        classes=len(model.classes),
        noise_law=law_name(settings, eight_bit=data.eight_bit),
        network_sha256=model.graph.sha256,
        device_kind=device.partition(":")[0],
        noise_source=source_name(device),
        program=_program(settings),
    )


def _program(settings: SmoothingSettings) -> str:
    """Return how the network is run, in words.

    Raises:
        InputError: If two choices exclude each other.
    """
    if settings.compile is not True:
        return f"{PROGRAM}, channels-last" if settings.channels_last is True else PROGRAM
    if settings.channels_last is True:
        raise InputError(
            "expected --channels-last without --compile, which chooses memory formats itself; leave one out"
        )
    return "compiled by torch.compile, batch norm folded"


def _without_draws(example: Example) -> UnsampledExample:
    return UnsampledExample(index=example.index, id=example.id, hash=example.hash, label=example.label)


def _outputs_data(
    model: Model | nn.Module | str | Path, data: Dataset | NDArray[Any] | str | Path, settings: SmoothingSettings
) -> Dataset | NDArray[Any]:
    """Return the inputs of a task of outputs; a path is read as the model's own data are."""
    if not isinstance(data, str | Path):
        return data
    if isinstance(model, nn.Module):
        raise InputError(f"expected an array of inputs or a data set beside a module in memory, got the path {data!s}")
    known = model if isinstance(model, Model) else load(model)
    return read_dataset(data, known, skip=settings.skip, limit=settings.limit)


@overload
def smooth(
    model: Model | str | Path,
    data: Dataset | str | Path,
    settings: SmoothingSettings,
    *,
    store: str | Path = ...,
    device: str = ...,
    batch: int | Literal["auto"] = ...,
    workers: int | None = ...,
    engine: Engine = ...,
    restart: bool = ...,
    falsify: FalsifyLevel = ...,
    scales: object = ...,
    task: TopK | None = None,
) -> SmoothingReport: ...


@overload
def smooth(
    model: Model | nn.Module | str | Path,
    data: Dataset | NDArray[Any] | str | Path,
    settings: SmoothingSettings,
    *,
    store: str | Path = ...,
    device: str = ...,
    batch: int | Literal["auto"] = ...,
    workers: int | None = ...,
    engine: Engine = ...,
    restart: bool = ...,
    falsify: FalsifyLevel = ...,
    scales: object = ...,
    task: Regression | Segmentation,
) -> OutputsReport: ...


def smooth(
    model: Model | nn.Module | str | Path,
    data: Dataset | NDArray[Any] | str | Path,
    settings: SmoothingSettings,
    *,
    store: str | Path = STORE_FOLDER,
    device: str = "auto",
    batch: int | Literal["auto"] = "auto",
    workers: int | None = None,
    restart: bool = False,
    falsify: FalsifyLevel = "quick",
    scales: object = None,
    task: TopK | Regression | Segmentation | None = None,
    engine: Engine = "local",
) -> SmoothingReport | OutputsReport:
    """Return the report of randomized smoothing: for each example a class and a radius that hold for the noisy vote.

    Except with probability ``alpha`` over its own draws, the smoothed classifier g(x) = argmax_k P(f(x + noise) = k)
    gives the reported class to every input nearer than ``radius`` in l2 (l1 for uniform noise). The network f itself is
    promised nothing.
    With radii asked for (``at``), each example ends as soon as they are decided, after far fewer draws.
    Source: Cohen, Rosenfeld and Kolter (2019), arXiv 1902.02918, Theorem 1 and Algorithm Certify.

    Args:
        model: A model, or the path of its file; with a task of outputs also a module in memory.
        data: Examples, or their path; with a task of outputs also an array of inputs.
        settings: sigma, alpha, draws and bound; see `certify.results.SmoothingSettings`.
        store: Folder of the run store: an interrupted run continues, a finished one is re-used.
        device: "auto", "cpu", "cuda" or "cuda:i".
        batch: Rows per forward pass; never changes a count.
        workers: Forward passes side by side on a CPU; None: as many as there are cores. A CUDA device, where the noise
            is made too, runs one after the other. Never changes a count.
        restart: Discard what an earlier run of the same settings has left.
        falsify: How hard the certificates are attacked before the report leaves: "off", "quick" or "full".
        scales: An array d of the shape of one input, fixed before the data are seen: the noise has the standard
            deviation sigma d_i in coordinate i, and radii are in ||D^-1 v||_2; see `certify.smoothing.scales`.
        task: What is certified; None: the class of the vote. ``TopK(k)``: that the class the pilot names stays among
            the k likeliest; ``correct`` still says whether it is the label. ``Regression`` and ``Segmentation``: bounds
            of noisy outputs, and pixels, of any network (`certify.output_runs`): their report has no labels and no
            attacks, and every example gets exactly n draws.
        engine: "ray": the workers are processes of a Ray cluster, as many as it has cores or GPUs
            (`certify.smoothing.shards`). Never changes a count.

    Raises:
        InputError: If a file or setting is not what it must be, or data and model do not fit.
        NoRuleError: If the network is no function of its input.
        InterruptedRun: After SIGINT or SIGTERM; what is done is kept.
    """
    if isinstance(task, Regression | Segmentation):
        chosen = choose_device(device)
        return smooth_outputs(
            load(model) if isinstance(model, str | Path) else model,
            _outputs_data(model, data, settings),
            settings,
            task,
            store=store,
            device=chosen,
            batch=batch,
            workers=workers or choose_workers(chosen, engine),
            restart=restart,
            scales=scales,
            engine=engine,
        )
    if isinstance(model, nn.Module) or isinstance(data, np.ndarray):
        raise InputError("expected a loaded model and a data set or their paths; save a module with certify.save first")
    if task is not None:
        settings = msgspec.structs.replace(settings, task=task)
    loaded = model if isinstance(model, Model) else load(model)
    path = "" if isinstance(data, Dataset) else str(data)
    if not isinstance(data, Dataset):
        data = read_dataset(data, loaded, skip=settings.skip, limit=settings.limit)
    with start_smoothing(
        loaded,
        data,
        settings,
        store=store,
        device=device,
        batch=batch,
        workers=workers,
        restart=restart,
        data_path=path,
        falsify=falsify,
        scales=scales,
        engine=engine,
    ) as run:
        examples = [event for event in run.events() if isinstance(event, SmoothingExample)]
        return run.report(examples)
