"""Readings of curvature from a model and a batch to a sealed report, certificates of the same model beside them."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import torch
from msgspec import UNSET
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from certify.bounds.work import VALUES_AT_ONCE, rows_at_once
from certify.curvature import (
    LastLayerCurvature,
    MeanEstimate,
    RitzValue,
    flip_distances,
    gradient_norms,
    hessian_of,
    hutch_plus_plus,
    hutchinson,
    jacobian_norms,
    largest_eigenvalues,
    last_layer_curvature,
    mean_largest,
    require_curvlinops,
    smoothed_loss_gap,
)
from certify.errors import BrokenCertificate, InputError
from certify.examples import Dataset
from certify.graph import Graph, Operation, run_all, to_trainable, value_shapes
from certify.loading import Model, check_dataset, load
from certify.report.certificates_beside import certificates_beside, refuse_other_model
from certify.report.curvature_checks import contradictions, count_relations
from certify.report.curvature_summary import curvature_statement, exact_mean, summarise_curvature
from certify.report.curvature_table import reading_rows
from certify.report.verify import verify_report
from certify.results import (
    CertificatesBeside,
    CurvatureExample,
    CurvatureReport,
    CurvatureSettings,
    Execution,
    LastLayerReading,
    NetworkReading,
    Report,
    Ritz,
    SampledMean,
    dump_json,
    seal,
)
from certify.runs import Clock, choose_device, data_record, device_name, read_dataset, tool_record

MOST_STEPS, MOST_PROBES, MOST_PAIRS = 10_000, 100_000, 100_000
FEWEST_PROBES, FEWEST_PAIRS = 6, 2  # a standard error needs two values, and Hutch++ takes a third of the probes each
MOST_BYTES = 8 * 2**30  # of Krylov vectors and probes
JACOBIAN_VALUES = 2**25
MOST_COLUMNS = 16


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
class _Outputs:
    """What the batch gives: inputs and labels on the device; on the host logits, and the last layer's input if any.

    Shapes: ``inputs`` ``[N, ...]``, ``labels`` ``[N]``, ``logits`` ``[N, K]``, ``activations`` ``[N, features]``.
    """

    inputs: Tensor
    labels: Tensor
    logits: Tensor
    activations: Tensor | None


@dataclass(frozen=True, eq=False)
class CurvatureRun:
    """Readings under way: the examples come when they are asked for, the rest with the report."""

    model: Model
    data: Dataset
    settings: CurvatureSettings
    device: str = "cpu"
    beside: tuple[Report, ...] = ()
    data_path: str = ""
    _clock: Clock = field(default_factory=Clock)

    def examples(self) -> Iterator[CurvatureExample]:
        """Yield what is seen at each example, in order."""
        found, closed = self._outputs, self._last_layer_forms
        losses = nn.functional.cross_entropy(found.logits, found.labels.cpu(), reduction="none").tolist()
        predicted = found.logits.argmax(1).tolist()
        with _differentiable():
            for place, slopes in enumerate(self._slopes()):
                example = self.data.examples[place]
                yield CurvatureExample(
                    index=example.index,
                    id=example.id,
                    hash=example.hash,
                    label=example.label,
                    predicted=predicted[place],
                    correct=predicted[place] == example.label,
                    loss=losses[place],
                    activation_square=None if closed is None else float(closed.squares[place]),
                    last_layer_largest=None if closed is None else float(closed.largest[place]),
                    last_layer_trace=None if closed is None else float(closed.trace[place]),
                    last_layer_gradient=None if closed is None else float(closed.gradient[place]),
                    input_gradient=slopes[0],
                    jacobian_spectral=slopes[1],
                    jacobian_frobenius=slopes[2],
                    flip_distance=slopes[3] if math.isfinite(slopes[3]) else None,
                )

    def network(self) -> Generator[str, None, NetworkReading | str]:
        """Yield in words what is read next of the whole network; return all of it, or why there is nothing to read.

        Raises:
            InputError: If the network cannot be differentiated twice, or the Hessian needs too much memory.
        """
        module, found = to_trainable(self._graph), self._outputs
        size = sum(parameter.numel() for parameter in module.parameters())
        if not size:
            return "the network has no weights to vary"
        _refuse_memory(size, self.settings)
        settings, seed, columns = self.settings, self.settings.seed, self._columns
        product = hessian_of(module, found.inputs, found.labels, rows_at_once=self._rows)
        with _differentiable():
            yield f"{settings.steps} Lanczos steps with the Hessian in {size:,} weights"
            largest, steepest = largest_eigenvalues(product, size, steps=settings.steps, seed=seed)
            probes = {"samples": settings.probes, "columns_at_once": columns}
            yield f"{settings.probes} probes of its trace"
            trace = hutchinson(product, size, seed=seed + 1, **probes)
            yield f"{settings.probes} probes of its trace by Hutch++"
            trace_plus = hutch_plus_plus(product, size, seed=seed + 2, **probes)
            yield f"{settings.pairs} pairs of noise on the weights"
            gap = smoothed_loss_gap(
                module,
                found.inputs,
                found.labels,
                sigma=settings.sigma,
                pairs=settings.pairs,
                seed=seed + 3,
                rows_at_once=self._rows,
            )
        return NetworkReading(
            variables=size,
            largest=_ritz(largest),
            steepest=_ritz(steepest),
            trace=_sampled(trace),
            trace_plus=_sampled(trace_plus),
            loss_gap=_sampled(gap),
        )

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
        record, data = self.model.record, data_record(self.data)
        last = self._read_last_layer(examples)
        network = end_of(self.network()) if network is None else network
        report = CurvatureReport(
            tool=tool_record(self.device, "float64"),
            model=record,
            data=data,
            settings=self.settings,
            statement=curvature_statement(model=record, data=data),
            table=(),
            last_layer=last if isinstance(last, LastLayerReading) else None,
            last_layer_reason=last if isinstance(last, str) else UNSET,
            network=network if isinstance(network, NetworkReading) else None,
            network_reason=network if isinstance(network, str) else UNSET,
            summary=summarise_curvature(examples),
            examples=tuple(examples),
            beside=self._beside(examples),
            consistency=(),
            execution=Execution(
                model_path=self.model.path,
                data_path=self.data_path,
                micro_batch=self._rows,
                threads=torch.get_num_threads(),
                device_name=device_name(self.device),
                started=self._clock.started,
                seconds=self._clock.seconds,
            ),
        )
        _refuse_contradictions(report)
        return seal(msgspec.structs.replace(report, table=reading_rows(report), consistency=count_relations(report)))

    def _beside(self, examples: Sequence[CurvatureExample]) -> tuple[CertificatesBeside, ...]:
        return tuple(certificates_beside(report, self.model.record, examples) for report in self.beside)

    @cached_property
    def _graph(self) -> Graph:
        return self.model.graph.to(torch.float64, self.device)

    @cached_property
    def _rows(self) -> int:
        """How many inputs run side by side: a function of the network alone, since sums depend on it."""
        return rows_at_once(self.model.graph)

    @property
    def _columns(self) -> int:
        """How many probes run side by side, each beside that many inputs."""
        values = sum(math.prod(shape) for shape in value_shapes(self.model.graph).values())
        inputs = min(self._rows, len(self.data))
        return max(1, min(MOST_COLUMNS, VALUES_AT_ONCE // (values * inputs)))

    @cached_property
    def _outputs(self) -> _Outputs:
        inputs = torch.from_numpy(np.stack([example.values() for example in self.data])).to(self.device)
        labels = torch.tensor([example.label for example in self.data], device=self.device)
        last = last_layer_of(self._graph)
        logits, activations = [], []
        with torch.no_grad(), _differentiable():
            for part in torch.split(inputs, self._rows):
                values = run_all(self._graph, part)
                logits.append(values[self._graph.output].cpu())
                if isinstance(last, Operation):
                    activations.append(values[last.inputs[0]].cpu())
        joined = torch.cat(logits)
        _refuse_overflow(joined, self.data)
        return _Outputs(inputs, labels, joined, torch.cat(activations) if activations else None)

    @cached_property
    def _last_layer_forms(self) -> LastLayerCurvature | None:
        found = self._outputs
        if found.activations is None:
            return None
        return last_layer_curvature(found.activations, found.logits, found.labels.cpu(), sigma=self.settings.sigma)

    def _slopes(self) -> Iterator[tuple[float, float, float, float]]:
        """Yield input gradient, both Jacobian norms and flip distance of each example."""
        module, found = to_trainable(self._graph).requires_grad_(False), self._outputs
        values = len(self.model.classes) * self.model.input.size
        rows = max(1, min(self._rows, JACOBIAN_VALUES // values))
        for x, labels in zip(torch.split(found.inputs, rows), torch.split(found.labels, rows), strict=True):
            gradients = gradient_norms(module, x, labels)
            spectral, frobenius = jacobian_norms(module, x)
            flips = flip_distances(module, x, box=self.model.input.range)
            yield from zip(*(part.cpu().tolist() for part in (gradients, spectral, frobenius, flips)), strict=True)

    def _read_last_layer(self, examples: Sequence[CurvatureExample]) -> LastLayerReading | str:
        last, found = last_layer_of(self._graph), self._outputs
        if not isinstance(last, Operation) or found.activations is None:
            return str(last)
        steps, seed = self.settings.steps, self.settings.seed
        largest = mean_largest(found.activations, found.logits, steps=steps, seed=seed)
        squares = [example.activation_square or 0.0 for example in examples]
        return LastLayerReading(
            module=last.module,
            classes=found.logits.shape[1],
            features=found.activations.shape[1],
            largest=_ritz(largest),
            largest_mean=exact_mean([example.last_layer_largest or 0.0 for example in examples]),
            trace=exact_mean([example.last_layer_trace or 0.0 for example in examples]),
            decay_bound=decay_bound(self.settings.sigma, squares),
        )


def end_of(stages: Generator[str, None, NetworkReading | str]) -> NetworkReading | str:
    """Return what a generator of stages ends with."""
    while True:
        try:
            next(stages)
        except StopIteration as ended:
            found: NetworkReading | str = ended.value
            return found


def last_layer_of(graph: Graph) -> Operation | str:
    """Return the linear layer that gives the logits, or why there is none whose Hessian has a closed form.

    Example:
        >>> ops = (Operation(name="x", kind="input"), Operation(name="y", kind="relu", inputs=("x",)))
        >>> last_layer_of(Graph(ops, "y", (2,), {}))
        'the network ends in relu y, not in a linear layer'
    """
    last = graph.by_name[graph.output]
    if last.kind != "linear":
        return f"the network ends in {last.where}, not in a linear layer"
    weight = last.weights["weight"]
    if sum(name == weight for operation in graph for name in operation.weights.values()) > 1:
        return f"the weight of {last.where} is used elsewhere too"
    return last


def decay_bound(sigma: float, squares: Sequence[float]) -> float:
    """Return (sigma^2 / 2) mean ||a||^2, rounded once: see `certify.curvature.last_layer`.

    Example:
        >>> decay_bound(0.25, [16.0, 48.0])
        1.0
    """
    total = sum(map(Fraction, squares), Fraction(0))
    return float(Fraction(sigma) ** 2 * total / (2 * len(squares)))


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
    return CurvatureRun(model, data, settings, choose_device(device), tuple(beside), data_path)


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


@contextmanager
def _differentiable() -> Iterator[None]:
    """Take the plain kernel of attention, the only one with second derivatives; say what has none.

    Raises:
        InputError: If PyTorch cannot differentiate an operation twice, or a value overflows on the way.
    """
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    except RuntimeError as error:
        if "derivative" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise InputError(f"expected a network that PyTorch can differentiate twice, got: {reason:.300}") from error
    except ValueError as error:
        raise InputError(f"expected finite derivatives in float64, got: {error}") from error


def _refuse_overflow(logits: Tensor, data: Dataset) -> None:
    for place in (~torch.isfinite(logits).all(1)).nonzero().flatten().tolist():
        raise InputError(f"{data.examples[place].id}: expected finite logits in float64, got NaN or infinity")


def _refuse_memory(size: int, settings: CurvatureSettings) -> None:
    vectors = 2 * min(settings.steps, size) + 2 * (settings.probes // 3)
    if 8 * size * vectors > MOST_BYTES:
        raise InputError(
            f"expected Krylov vectors and probes within {MOST_BYTES / 2**30:.0f} GiB, got {vectors} of {size:,} "
            "weights; lower --steps and --probes"
        )


def _refuse_contradictions(report: CurvatureReport) -> None:
    found = [str(finding) for finding in contradictions(report)]
    if found:
        raise BrokenCertificate(
            f"readings and certificates contradict each other in {len(found)} places: {found[0]}",
            {"claim": "consistency", "contradictions": found, "report": msgspec.json.decode(dump_json(report))},
        )


def _ritz(found: RitzValue) -> Ritz:
    return Ritz(value=found.value, residual=found.residual, steps=found.steps)


def _sampled(found: MeanEstimate) -> SampledMean:
    return SampledMean(value=found.value, standard_error=found.standard_error, known=found.known, samples=found.samples)
