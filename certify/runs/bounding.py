"""Lipschitz runs: from a model and examples to a sealed report of proved bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import torch
from msgspec import UNSET

from certify.bounds import (
    Analysis,
    analyse,
    certify_examples,
    cores_worthwhile,
    limit_sentence,
    network_lower,
    slope_floor,
    steepest_place,
    weight_rows,
)
from certify.errors import InputError
from certify.examples import Dataset, Example
from certify.falsifier import OFF, falsify_lipschitz
from certify.loading import Model, WeightsOnly, check_dataset, load
from certify.report import lipschitz_statement, summarise_lipschitz
from certify.results import (
    Execution,
    FalsifyLevel,
    InputSpace,
    LipschitzExample,
    LipschitzReport,
    LipschitzSettings,
    ModelRecord,
    NetworkBound,
    Unbounded,
    seal,
)
from certify.runs.places import choose_workers, device_name, search_place
from certify.runs.records import Clock, data_record, read_dataset, tool_record
from certify.smoothing.base_network import cores_per_pass
from certify.smoothing.sampler import use_one_core


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
