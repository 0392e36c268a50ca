"""Smoothing runs: from a model and examples to a sealed report of certificates of the noisy vote."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import torch
from msgspec import UNSET
from numpy.typing import NDArray
from torch import Tensor

from certify.bounds import cores_worthwhile
from certify.errors import InputError, SoundnessError
from certify.examples import Dataset, Example
from certify.falsifier import falsify_scores, falsify_smoothing
from certify.loading import Model
from certify.report import smoothing_statement, summarise_smoothing
from certify.results import (
    Execution,
    Falsifier,
    FalsifyLevel,
    SmoothingExample,
    SmoothingReport,
    SmoothingSettings,
    Tables,
    UnsampledExample,
    seal,
)
from certify.runs.opening import STORE_FOLDER, open_question
from certify.runs.places import choose_device, choose_placement, device_name
from certify.runs.records import Clock, data_record, tool_record
from certify.smoothing import (
    NoiseLaw,
    Procedure,
    Store,
    earlier_runs,
    earlier_seeds,
    is_complete,
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
from certify.smoothing.placement import Engine, Placement, Rows
from certify.smoothing.scales import check_scales, describe_scales
from certify.smoothing.soft_classification import LogitBound
from certify.smoothing.soft_run import SoftRun
from certify.stats import self_test

COMPILED_ROWS = 128


@dataclass(frozen=True, eq=False)
class SmoothingRun:
    """A smoothing run with its store open: events come when asked for, the report is a function of the store."""

    model: Model
    data: Dataset
    settings: SmoothingSettings
    store: Store
    placement: Placement
    data_path: str = ""
    falsify: FalsifyLevel = "quick"
    _clock: Clock = field(default_factory=Clock)
    scales: NDArray[np.float64] | None = None
    bound: LogitBound | None = None  # with soft scores

    def events(self) -> Events[SmoothingExample]:
        """Yield certified examples in order, and progress between them; see `certify.smoothing.smoothing_events`."""
        placement = replace(self.placement, batch=self._compiled_rows or self.placement.batch)
        if soft := self._soft():
            return soft.events(self._predict, placement=placement)
        return smoothing_events(
            self._predict,
            self.data,
            classes=len(self.model.classes),
            settings=self.settings,
            store=self.store,
            placement=placement,
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
                tool=tool_record(self.placement.device, self.settings.dtype),
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
        channels_last, device = self.settings.channels_last is True, self.placement.device
        return self.model.predict(device, dtype, compiled_rows=self._compiled_rows, channels_last=channels_last)

    @property
    def _compiled_rows(self) -> int | None:
        """The rows that a compiled network takes: those asked for, else those of the store; sizes are not timed."""
        if self.settings.compile is not True:
            return None
        return self.placement.rows or self.store.micro_batch() or COMPILED_ROWS

    def _falsifier(self, examples: Sequence[SmoothingExample]) -> Falsifier:
        """Return what was tried against the certificates, on no more cores than the run had, or are worth it."""
        place = self.placement
        cores = cores_worthwhile(self.model.graph, min(place.workers, torch.get_num_threads()))
        with cores_per_pass(torch.device(place.device), cores):
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
            device=self.placement.device,
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
            device=self.placement.device,
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
            batch=str(self.placement.batch),
            micro_batch=self.store.micro_batch() or 0,
            workers=self.placement.workers,
            engine=self.placement.engine,
            threads=torch.get_num_threads(),
            device_name=device_name(self.placement.device),
            started=self._clock.started,
            seconds=self._clock.seconds,
            earlier_seeds=earlier_seeds(self.store.path.parent, self.store.header),
            earlier_runs=earlier_runs(self.store.path.parent, self.store.header) or UNSET,
        )


@contextmanager
def start_smoothing(
    model: Model,
    data: Dataset,
    settings: SmoothingSettings,
    *,
    store: str | Path = STORE_FOLDER,
    device: str = "auto",
    batch: Rows = "auto",
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
    placement = choose_placement(device, batch, workers, engine)
    sizes = None if scales is None else check_scales(scales, model.input.shape)
    if sizes is not None:
        settings = msgspec.structs.replace(settings, scales=describe_scales(sizes))
    header, reading, bound = open_question(model, data, settings, placement.device)
    with open_store(Path(store), header, reading=reading, restart=restart) as opened:
        yield SmoothingRun(model, data, settings, opened, placement, data_path, falsify, clock, sizes, bound)


def has_run(
    model: Model, data: Dataset, settings: SmoothingSettings, *, store: str | Path = STORE_FOLDER, device: str = "auto"
) -> bool:
    """Return whether a run of these settings was begun in the store.

    Raises:
        InputError: If the settings or the data do not fit.
    """
    header, _, _ = open_question(model, data, settings, choose_device(device))
    return store_path(Path(store), header).is_file()


def has_complete_run(
    model: Model, data: Dataset, settings: SmoothingSettings, *, store: str | Path = STORE_FOLDER, device: str = "auto"
) -> bool:
    """Return whether a finished run of these settings is in the store.

    Raises:
        InputError: If the settings or the data do not fit, or the store is in use or damaged.
    """
    if not has_run(model, data, settings, store=store, device=device):
        return False
    with start_smoothing(model, data, settings, store=store, device=device) as run:
        return run.is_complete()


def _without_draws(example: Example) -> UnsampledExample:
    return UnsampledExample(index=example.index, id=example.id, hash=example.hash, label=example.label)
