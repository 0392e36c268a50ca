"""Small chains of layers for the tests of local certificates, and what a search around their inputs starts from."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from certify.bounds.facts import collect_structure
from certify.bounds.local.chain import Chain, chain_of
from certify.bounds.local.lines import Relaxation
from certify.bounds.local.starts import Centres
from certify.graph import Graph
from tests.bounds.small_networks import Build


def chain(graph: Graph) -> Chain:
    """Return a graph as the chain that it is."""
    found = chain_of(collect_structure(graph), graph.output)
    assert isinstance(found, Chain), found
    return found


def dense(kind: str = "relu", widths: tuple[int, ...] = (5, 9, 8), **details: object) -> Callable[[int], Graph]:
    def build(seed: int) -> Graph:
        b = Build(widths[0], seed=seed)
        for inputs, outputs in itertools.pairwise(widths):
            b.linear(inputs, outputs, scale=1.5)
            b.add(kind, **details)
        b.linear(widths[-1], 4)
        return b.graph()

    return build


def residual(seed: int) -> Graph:
    b = Build(4, seed=seed)
    h = b.linear(4, 6, "x")
    for _ in range(2):
        h = b.add("add", h, b.linear(6, 6, b.add("relu", h), scale=1.4))
    b.linear(6, 3, h)
    return b.graph()


def normalised(seed: int) -> Graph:
    """Weights that are not floats: a normalisation before and a batch norm behind a convolution."""
    b = Build(2, 4, 4, seed=seed)
    b.add("normalize", mean=b.normal(2, 1, 1), std=b.positive(2, 1, 1))
    b.conv(b.normal(3, 2, 3, 3) / 3)
    norm = {"mean": b.normal(3), "variance": b.positive(3), "weight": b.normal(3), "bias": b.normal(3), "eps": 1e-3}
    b.add("batch_norm", **norm)
    b.add("relu")
    b.conv(b.normal(3, 3, 2, 2) / 3, stride=[2, 1], padding=[[1, 0], [0, 1]])
    b.add("relu")
    b.add("reshape", shape=[-1, 24])
    b.linear(24, 3)
    return b.graph()


def stacked(*widths: int, kind: str = "relu", seed: int = 0, scale: float = 1.4) -> Chain:
    """Dense layers with activations between them."""
    b = Build(widths[0], seed=seed)
    for n, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        b.linear(inputs, outputs, scale=scale)
        if n < len(widths) - 2:
            b.add(kind)
    return chain(b.graph())


def convolutions(seed: int) -> Chain:
    b = Build(2, 6, 6, seed=seed)
    b.conv(b.normal(6, 2, 3, 3) / 3, padding=[[1, 1], [0, 1]], stride=[1, 2])
    b.add("relu")
    b.conv(b.normal(4, 6, 2, 2) / 3, stride=[2, 1], padding=[[1, 0], [0, 1]])
    b.add("relu")
    b.add("reshape", shape=[-1, 36])
    b.linear(36, 3)
    return chain(b.graph())


def centres(made: Chain, count: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Centres:
    """Random inputs, with their margins and the relaxation around them."""
    x = torch.randn(count, *made.input_shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    z, last = made.pre_activations(x), made.layers[-1]
    y = z[-1].argmax(1)
    others = torch.tensor([[j for j in range(made.outputs) if j != c] for c in y.tolist()])
    rows = last.matrix[y][:, None] - last.matrix[others]
    offsets = last.bias[y][:, None] - last.bias[others]
    margins = z[-1].gather(1, y[:, None]) - z[-1].gather(1, others)
    W = made.layers[0].weight(dtype)
    lines = Relaxation(made, [one.to(dtype) for one in z])
    return Centres(lines, rows.to(dtype), offsets.to(dtype), margins.to(dtype), W @ W.mT)
