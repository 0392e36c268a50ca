"""A model on one batch, as curvature is read of it: in float64, in micro-batches that the network alone decides.

Sums depend on their order, so how many inputs run side by side is a function of the network, and how many probes one of
the network and the batch: the same call gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

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
    leads_clearly,
    mean_largest,
    smoothed_loss_gap,
)
from certify.errors import InputError
from certify.examples import Dataset, Example
from certify.graph import Graph, Operation, run_all, to_trainable, value_shapes
from certify.loading import Model
from certify.report.curvature_summary import exact_mean
from certify.results import (
    CurvatureExample,
    CurvatureSettings,
    LastLayerReading,
    NetworkReading,
    Ritz,
    SampledMean,
)

MOST_BYTES = 8 * 2**30  # of Krylov vectors and probes
JACOBIAN_VALUES = 2**25
MOST_COLUMNS = 16
Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class Outputs:
    """What the batch gives: inputs and labels on the device; on the host logits, and the last layer's input if any.

    Shapes: ``inputs`` ``[N, ...]``, ``labels`` ``[N]``, ``logits`` ``[N, K]``, ``activations`` ``[N, features]``.
    """

    inputs: Tensor
    labels: Tensor
    logits: Tensor
    activations: Tensor | None


@dataclass(frozen=True, eq=False)
class Batch:
    """The readings of a model on examples, each computed when it is asked for."""

    model: Model
    data: Dataset
    settings: CurvatureSettings
    device: str

    def examples(self) -> Iterator[CurvatureExample]:
        """Yield what is seen at each example, in order.

        Raises:
            InputError: If the network cannot be differentiated, or a number is not finite.
        """
        found, closed = self.outputs, self._closed_forms
        losses = cross_entropy(found.logits, found.labels.cpu(), reduction="none").tolist()
        predicted: list[int] = found.logits.argmax(1).tolist()
        clear: list[bool] = leads_clearly(found.logits).tolist()
        for place, (example, slopes) in enumerate(zip(self.data, self._slopes(), strict=True)):
            _refuse_overflow(example, *slopes[:3])
            yield CurvatureExample(
                index=example.index,
                id=example.id,
                hash=example.hash,
                label=example.label,
                predicted=predicted[place],
                correct=predicted[place] == example.label,
                clear=clear[place],
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

    def last_layer(self, examples: Sequence[CurvatureExample]) -> LastLayerReading | str:
        """Return the closed forms of the last layer over the examples, or why it has none."""
        last, found = last_layer_of(self.graph), self.outputs
        if not isinstance(last, Operation) or found.activations is None:
            return str(last)
        steps, seed = self.settings.steps, self.settings.seed
        return LastLayerReading(
            module=last.module,
            classes=found.logits.shape[1],
            features=found.activations.shape[1],
            largest=_ritz(mean_largest(found.activations, found.logits, steps=steps, seed=seed)),
            largest_mean=exact_mean([example.last_layer_largest or 0.0 for example in examples]),
            trace=exact_mean([example.last_layer_trace or 0.0 for example in examples]),
            decay_bound=decay_bound(self.settings.sigma, [example.activation_square or 0.0 for example in examples]),
        )

    def network(self) -> Generator[str, None, NetworkReading | str]:
        """Yield in words what is read next of the whole network; return all of it, or why there is nothing to read.

        Raises:
            InputError: If the network cannot be differentiated twice, or the Hessian needs too much memory.
        """
        module, found, settings = to_trainable(self.graph), self.outputs, self.settings
        size = sum(parameter.numel() for parameter in module.parameters())
        if not size:
            return "the network has no weights to vary"
        _refuse_memory(size, settings)
        seed, together, probes = settings.seed, self._columns, settings.probes
        product = hessian_of(module, found.inputs, found.labels, rows_at_once=self.rows)
        yield f"{settings.steps} Lanczos steps with the Hessian in {size:,} weights"
        ends = _computed(lambda: largest_eigenvalues(product, size, steps=settings.steps, seed=seed))
        yield f"{probes} probes of its trace"
        trace = _computed(lambda: hutchinson(product, size, samples=probes, seed=seed + 1, columns_at_once=together))
        yield f"{probes} probes of its trace by Hutch++"
        trace_plus = _computed(
            lambda: hutch_plus_plus(product, size, samples=probes, seed=seed + 2, columns_at_once=together)
        )
        yield f"{settings.pairs} pairs of noise on the weights"
        gap = _computed(
            lambda: smoothed_loss_gap(
                module,
                found.inputs,
                found.labels,
                sigma=settings.sigma,
                pairs=settings.pairs,
                seed=seed + 3,
                rows_at_once=self.rows,
            )
        )
        return NetworkReading(
            variables=size,
            largest=_ritz(ends[0]),
            steepest=_ritz(ends[1]),
            trace=_sampled(trace),
            trace_plus=_sampled(trace_plus),
            loss_gap=_sampled(gap),
        )

    @cached_property
    def graph(self) -> Graph:
        """The network in float64, on the device."""
        return self.model.graph.to(torch.float64, self.device)

    @cached_property
    def rows(self) -> int:
        """How many inputs run side by side."""
        return rows_at_once(self.model.graph)

    @property
    def _columns(self) -> int:
        """How many probes run side by side, each beside that many inputs."""
        values = sum(math.prod(shape) for shape in value_shapes(self.model.graph).values())
        return max(1, min(MOST_COLUMNS, VALUES_AT_ONCE // (values * min(self.rows, len(self.data)))))

    @cached_property
    def outputs(self) -> Outputs:
        """What the network gives on the batch.

        Raises:
            InputError: If a logit is not finite.
        """
        inputs = torch.from_numpy(np.stack([example.values() for example in self.data])).to(self.device)
        labels = torch.tensor([example.label for example in self.data], device=self.device)
        last = last_layer_of(self.graph)
        logits, activations = [], []
        with torch.no_grad():
            for part in torch.split(inputs, self.rows):
                values = run_all(self.graph, part)
                logits.append(values[self.graph.output].cpu())
                if isinstance(last, Operation):
                    activations.append(values[last.inputs[0]].cpu())
        joined = torch.cat(logits)
        for example, row in zip(self.data, joined.abs().amax(1).tolist(), strict=True):
            _refuse_overflow(example, row)
        return Outputs(inputs, labels, joined, torch.cat(activations) if activations else None)

    @cached_property
    def _closed_forms(self) -> LastLayerCurvature | None:
        found = self.outputs
        if found.activations is None:
            return None
        return last_layer_curvature(found.activations, found.logits, found.labels.cpu(), sigma=self.settings.sigma)

    def _slopes(self) -> Iterator[tuple[float, float, float, float]]:
        """Yield input gradient, both Jacobian norms and flip distance of each example."""
        module, found = to_trainable(self.graph).requires_grad_(False), self.outputs
        values = len(self.model.classes) * self.model.input.size
        rows = max(1, min(self.rows, JACOBIAN_VALUES // values))
        for x, labels in zip(torch.split(found.inputs, rows), torch.split(found.labels, rows), strict=True):
            with _differentiable():
                gradients = gradient_norms(module, x, labels)
                spectral, frobenius = jacobian_norms(module, x)
                flips = flip_distances(module, x, box=self.model.input.range)
            yield from zip(*(part.cpu().tolist() for part in (gradients, spectral, frobenius, flips)), strict=True)


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


def _computed(reading: Callable[[], Found]) -> Found:
    with _differentiable():
        return reading()


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


def _refuse_overflow(example: Example, *numbers: float) -> None:
    if not all(map(math.isfinite, numbers)):
        raise InputError(f"{example.id}: expected finite logits and slopes in float64, got NaN or infinity")


def _refuse_memory(size: int, settings: CurvatureSettings) -> None:
    vectors = 2 * min(settings.steps, size) + 2 * (settings.probes // 3)
    if 8 * size * vectors > MOST_BYTES:
        raise InputError(
            f"expected Krylov vectors and probes within {MOST_BYTES / 2**30:.0f} GiB, got {vectors} of {size:,} "
            "weights; lower --steps and --probes"
        )


def _ritz(found: RitzValue) -> Ritz:
    return Ritz(value=found.value, residual=found.residual, steps=found.steps)


def _sampled(found: MeanEstimate) -> SampledMean:
    return SampledMean(value=found.value, standard_error=found.standard_error, known=found.known, samples=found.samples)
