"""Small runs to falsify: networks whose true radii are known, and certificates that are right, or wrong on purpose."""

from collections.abc import Sequence

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor

from certify.bounds import Analysis, analyse, certify_examples
from certify.examples import Example
from certify.graph import Graph, run
from certify.results import LipschitzExample, LipschitzSettings, Norm
from tests.bounds.small_networks import Build

NORMS: tuple[Norm, ...] = ("l2", "linf")


def affine(inputs: int, classes: int, seed: int) -> Graph:
    b = Build(inputs, seed=seed)
    b.linear(inputs, classes)
    return b.graph()


def convolutional(seed: int) -> Graph:
    """An untrained network of the shape of those for digits: two convolutions and two dense layers, 10 classes."""
    b = Build(1, 12, 12, seed=seed)
    b.conv(0.5 * b.normal(4, 1, 4, 4), stride=[2, 2])
    b.add("relu")
    b.conv(0.3 * b.normal(8, 4, 4, 4), stride=[2, 2])
    b.add("relu")
    b.add("reshape", shape=[-1, 8 * 3 * 3])
    b.linear(72, 20, scale=1.4)
    b.add("relu")
    b.linear(20, 10)
    return b.graph()


def points(graph: Graph, count: int, seed: int = 0) -> list[Example]:
    random = np.random.default_rng(seed)
    return [Example(k, str(k), 0, random.standard_normal(graph.input_shape)) for k in range(count)]


def images(graph: Graph, count: int, seed: int = 0) -> list[Example]:
    random = np.random.default_rng(seed)
    shape = graph.input_shape
    return [Example(k, str(k), 0, random.integers(0, 256, shape).astype(np.uint8)) for k in range(count)]


def certified(
    graph: Graph, examples: Sequence[Example], **settings: object
) -> tuple[Analysis, list[LipschitzExample], LipschitzSettings]:
    own = LipschitzSettings(**{"method": "product", **settings})
    analysis = analyse(graph, own)
    return analysis, list(certify_examples(analysis, examples, own)), own


def inflated(rows: Sequence[LipschitzExample], factor: float) -> list[LipschitzExample]:
    return [replace(row, radius=factor * row.radius) for row in rows]


def claimed(row: LipschitzExample, radius: float) -> LipschitzExample:
    """The certificate with another radius, of the class the network gives."""
    return replace(row, radius=radius, predicted=row.clean_predicted)


def distances(graph: Graph, examples: Sequence[Example], norm: Norm) -> list[float]:
    """Return, per example, the distance of some input of another class: on the way to another example, by halving."""
    exact = graph.to(torch.float64)
    x = torch.from_numpy(np.stack([example.values() for example in examples]))
    count = len(x)
    starts, ways = x.repeat_interleave(count, 0), x.repeat(count, *[1] * (x.dim() - 1)) - x.repeat_interleave(count, 0)
    labels = run(exact, x).argmax(1).repeat_interleave(count)

    def flips(shares: Tensor) -> Tensor:
        return run(exact, starts + shares.reshape(-1, *[1] * (x.dim() - 1)) * ways).argmax(1) != labels

    low, high = torch.zeros(count * count, dtype=torch.float64), torch.ones(count * count, dtype=torch.float64)
    ever = flips(high)
    for _ in range(30):
        middle = (low + high) / 2
        lost = flips(middle)
        low, high = torch.where(lost, low, middle), torch.where(lost, middle, high)
    lengths = torch.linalg.vector_norm(ways.flatten(1), 2 if norm == "l2" else torch.inf, dim=1)
    return torch.where(ever, high * lengths, torch.inf).reshape(count, count).amin(1).tolist()
