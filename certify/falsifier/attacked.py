"""The run under attack: its network as functions, its examples as points, and the records of what broke."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from certify.bounds import Analysis
from certify.bounds.margins import deciding_value, pair_gains_upper
from certify.bounds.steepest import Box, Network
from certify.bounds.work import rows_at_once
from certify.errors import BrokenCertificate
from certify.examples import Example
from certify.graph import Graph, drop_unused, run
from certify.results import LipschitzExample, LipschitzSettings, Unbounded

MOST = torch.finfo(torch.float32).max


@dataclass(frozen=True, eq=False)
class Attacked:
    """A Lipschitz run: what was proved, for which examples, with which settings, in which box of inputs."""

    analysis: Analysis
    examples: Sequence[Example]
    rows: Sequence[LipschitzExample]
    settings: LipschitzSettings
    box: Box

    @property
    def graph(self) -> Graph:
        """The network in float64."""
        return self.analysis.facts.graph

    @cached_property
    def decisive(self) -> str:
        """The value whose largest entry is the class of the exact network."""
        return deciding_value(self.analysis.facts, "exact")

    @cached_property
    def certifying(self) -> str:
        """The value whose differences the certificates bound: that of the program they speak of."""
        return deciding_value(self.analysis.facts, self.settings.arithmetic)

    @cached_property
    def class_uppers(self) -> Tensor | None:
        """The constants of the differences of two entries of `certifying`, ``[K, K]``; None where there are none."""
        found = self.analysis
        if isinstance(found.gains[self.certifying], Unbounded):
            return None
        classes = range(found.facts.shapes[self.certifying][1])
        rows = [pair_gains_upper(found.facts, found.gains, found.gains_l2, self.certifying, k) for k in classes]
        uppers = torch.tensor(rows, dtype=torch.float64)
        pairs = None if isinstance(found.covariance, Unbounded) else found.covariance.pair_uppers
        return uppers if pairs is None else torch.minimum(uppers, pairs.double())

    @cached_property
    def program(self) -> Network | None:
        """One program that the certificates speak of, in its own precision; None when it is the exact network alone."""
        if self.settings.arithmetic == "exact":
            return None
        dtype = torch.float32 if self.settings.arithmetic == "float32" else torch.float64
        deployed = self.graph.to(dtype)
        return lambda x: run(deployed, x.to(dtype)).double()

    @cached_property
    def rows_at_once(self) -> int:
        """How many inputs run side by side."""
        return rows_at_once(self.graph)

    def points(self, positions: Sequence[int]) -> Tensor:
        """Return some examples in float64, ``[positions, *input_shape]``."""
        if not positions:
            return torch.zeros(0, *self.graph.input_shape, dtype=torch.float64)
        return torch.from_numpy(np.stack([self.examples[position].values() for position in positions]))

    def exact(self, value: str) -> Network:
        """Return the float64 network up to a value."""
        return partial(run, _up_to(self.graph, value))

    def fast(self, value: str) -> Network:
        """Return the network up to a value as attacks run it: float64 in and out, float32 inside where that fits.

        Only candidates come from it. Numbers beyond the range of float32 keep it in float64.
        """
        single = _up_to(self.graph, value).to(torch.float32)
        if not _fits(single):
            return self.exact(value)
        return lambda x: run(single, x.float()).double()


def _up_to(graph: Graph, value: str) -> Graph:
    return graph if value == graph.output else drop_unused(replace(graph, output=value))


def _fits(single: Graph) -> bool:
    """Return whether every number of a network is one of float32."""
    numbers = [n for operation in single for n in operation.attributes.values() if isinstance(n, float)]
    tensors = [t for t in single.tensors.values() if t.is_floating_point()]
    return all(abs(n) < MOST for n in numbers) and all(bool(torch.isfinite(t).all()) for t in tensors)


def broken(message: str, settings: LipschitzSettings, evidence: dict[str, object]) -> BrokenCertificate:
    """Return the error of a confirmed counterexample; the evidence gets the settings of the run."""
    own = {"norm": settings.norm, "arithmetic": settings.arithmetic, "method": settings.method, "seed": settings.seed}
    return BrokenCertificate(f"{message}; this is a bug of certify, and the report is withheld", {**evidence, **own})


def listed(point: Tensor) -> list[float]:
    """Return all coordinates of an input as plain numbers; they read back as the same floats."""
    found: list[float] = point.double().flatten().tolist()
    return found
