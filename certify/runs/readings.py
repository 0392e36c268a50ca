"""Readings of curvature from a model and a batch to a sealed report, certificates of the same model beside them."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch
from msgspec import UNSET

from certify.curvature import require_curvlinops
from certify.errors import BrokenCertificate, InputError
from certify.examples import Dataset
from certify.loading import Model, check_dataset, load
from certify.report.certificates_beside import certificates_beside, refuse_other_model
from certify.report.curvature_checks import contradictions, count_relations
from certify.report.curvature_summary import curvature_statement, summarise_curvature
from certify.report.curvature_table import reading_rows
from certify.report.verify import verify_report
from certify.results import (
    CurvatureExample,
    CurvatureReport,
    CurvatureSettings,
    Execution,
    LastLayerReading,
    NetworkReading,
    Report,
    dump_json,
    seal,
)
from certify.runs.batch_readings import Batch
from certify.runs.places import choose_device, device_name
from certify.runs.records import Clock, data_record, read_dataset, tool_record

MOST_STEPS, MOST_PROBES, MOST_PAIRS = 10_000, 100_000, 100_000
FEWEST_PROBES, FEWEST_PAIRS = 6, 2  # a standard error needs two values, and Hutch++ takes a third of the probes each


def check_curvature_settings(settings: CurvatureSettings) -> None:
    """Return when settings are within their range.

    Raises:
        InputError: Naming the one that is not.

    Example:
        >>> check_curvature_settings(CurvatureSettings(probes=2))
        Traceback (most recent call last):
        certify.errors.InputError: expected probes from 6 to 100,000, got 2
    """
    limits = (
        ("steps", settings.steps, 1, MOST_STEPS),
        ("probes", settings.probes, FEWEST_PROBES, MOST_PROBES),
        ("pairs", settings.pairs, FEWEST_PAIRS, MOST_PAIRS),
    )
    for name, value, least, most in limits:
        if not least <= value <= most:
            raise InputError(f"expected {name} from {least} to {most:,}, got {value}")
    if not 0.0 < settings.sigma < math.inf:
        raise InputError(f"expected a positive sigma, the noise on each weight, got {settings.sigma}")


@dataclass(frozen=True, eq=False)
class CurvatureRun:
    """Readings under way: the examples come when they are asked for, then the whole network, then the report."""

    batch: Batch
    beside: tuple[Report, ...] = ()
    data_path: str = ""
    _clock: Clock = field(default_factory=Clock)

    def examples(self) -> Iterator[CurvatureExample]:
        """Yield what is seen at each example, in order."""
        return self.batch.examples()

    def network(self) -> Generator[str, None, NetworkReading | str]:
        """Yield in words what is read next of the whole network; return all of it, or why there is nothing to read."""
        return self.batch.network()

    def report(
        self, examples: Sequence[CurvatureExample], network: NetworkReading | str | None = None
    ) -> CurvatureReport:
        """Return the sealed report of all readings, after holding them against each other and the certificates.

        Args:
            examples: What `examples` gave.
            network: What `network` returned; None to read it now.

        Raises:
            BrokenCertificate: If they contradict each other: the report is withheld.
            InputError: If the network cannot be differentiated twice, or the Hessian needs too much memory.
        """
        batch, record, data = self.batch, self.batch.model.record, data_record(self.batch.data)
        last = batch.last_layer(examples)
        network = end_of(self.network()) if network is None else network
        report = CurvatureReport(
            tool=tool_record(batch.device, "float64"),
            model=record,
            data=data,
            settings=batch.settings,
            statement=curvature_statement(model=record, data=data),
            table=(),
            last_layer=last if isinstance(last, LastLayerReading) else None,
            last_layer_reason=last if isinstance(last, str) else UNSET,
            network=network if isinstance(network, NetworkReading) else None,
            network_reason=network if isinstance(network, str) else UNSET,
            summary=summarise_curvature(examples),
            examples=tuple(examples),
            beside=tuple(certificates_beside(report, record, examples) for report in self.beside),
            consistency=(),
            execution=self._execution(),
        )
        _refuse_contradictions(report)
        return seal(msgspec.structs.replace(report, table=reading_rows(report), consistency=count_relations(report)))

    def _execution(self) -> Execution:
        return Execution(
            model_path=self.batch.model.path,
            data_path=self.data_path,
            micro_batch=self.batch.rows,
            threads=torch.get_num_threads(),
            device_name=device_name(self.batch.device),
            started=self._clock.started,
            seconds=self._clock.seconds,
        )


def end_of(stages: Generator[str, None, NetworkReading | str]) -> NetworkReading | str:
    """Return what a generator of stages ends with."""
    while True:
        try:
            next(stages)
        except StopIteration as ended:
            found: NetworkReading | str = ended.value
            return found


def _refuse_contradictions(report: CurvatureReport) -> None:
    found = [str(finding) for finding in contradictions(report)]
    if found:
        raise BrokenCertificate(
            f"readings and certificates contradict each other in {len(found)} places: {found[0]}",
            {"claim": "consistency", "contradictions": found, "report": msgspec.json.decode(dump_json(report))},
        )


def start_curvature(
    model: Model,
    data: Dataset,
    settings: CurvatureSettings | None = None,
    *,
    beside: Sequence[Report] = (),
    device: str = "auto",
    data_path: str = "",
) -> CurvatureRun:
    """Return the run that reads curvature and sensitivity of a model on a batch.

    Raises:
        InputError: If curvlinops is missing, data or settings do not fit, or a report beside speaks of another model,
            or contradicts itself.
    """
    settings = settings or CurvatureSettings()
    check_curvature_settings(settings)
    require_curvlinops()
    if not len(data):
        raise InputError("expected at least one example to read curvature on, got none")
    check_dataset(data, input=model.input, classes=model.classes)
    for report in beside:
        refuse_other_model(report, model.record)
        if found := verify_report(report):
            raise InputError(f"expected consistent certificates beside the readings, got {found[0]}")
    return CurvatureRun(Batch(model, data, settings, choose_device(device)), tuple(beside), data_path)


def measure_curvature(
    model: Model | str | Path,
    data: Dataset | str | Path,
    settings: CurvatureSettings | None = None,
    *,
    beside: Sequence[Report] = (),
    device: str = "auto",
) -> CurvatureReport:
    """Return readings of curvature and sensitivity on a batch: diagnostics, each with its kind, none a certificate.

    Everything runs in float64 on the listed examples, whose hash is in the report; the same call on the same machine
    gives the same numbers.

    Args:
        model: A model, or the path of its file.
        data: Examples, or their path.
        settings: Steps, probes, pairs and noise; see `certify.results.CurvatureSettings`.
        beside: Certificates of the same model, from `certify.lipschitz` and `certify.smooth`.
        device: "auto", "cpu", "cuda" or "cuda:i".

    Raises:
        BrokenCertificate: If a reading disproves a certificate, or another reading: there is no report.
        InputError: If curvlinops is missing, a file or setting is not what it must be, or a report is of another model.

    Example:
        >>> import tempfile, numpy, torch, certify
        >>> layer = torch.nn.Linear(2, 2, bias=False)
        >>> _ = torch.nn.init.constant_(layer.weight, 0.0)  # p = (1/2, 1/2): C has the eigenvalues 0 and 1/2
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     certify.save(layer, f"{folder}/model.safetensors", input_shape=(2,))
        ...     numpy.savez(f"{folder}/data.npz", x=numpy.array([[3.0, 4.0]]), y=numpy.array([0]))
        ...     report = certify.measure_curvature(f"{folder}/model.safetensors", f"{folder}/data.npz")
        >>> report.last_layer.trace, round(report.network.largest.value, 9)  # ||a||^2 / 2 = 25 / 2
        (12.5, 12.5)
    """
    settings = settings or CurvatureSettings()
    loaded = model if isinstance(model, Model) else load(model)
    path = "" if isinstance(data, Dataset) else str(data)
    if not isinstance(data, Dataset):
        data = read_dataset(data, loaded, skip=settings.skip, limit=settings.limit)
    run = start_curvature(loaded, data, settings, beside=beside, device=device, data_path=path)
    return run.report(tuple(run.examples()))
