"""A layer made of parts answers like its dense matrix."""

from __future__ import annotations

import pytest
import torch

from certify.bounds.facts import collect_structure
from certify.bounds.local.chain import chain_of
from certify.bounds.local.layers import Chain, Layer
from tests.bounds.small_networks import Build


def residual_layers(seed: int) -> list[Layer]:
    """Layers of convolutions, copies, scaled copies with zeros, and dense matrices, beside and above each other."""
    b = Build(2, 5, 5, seed=seed)
    h = b.add("relu", b.conv(b.normal(3, 2, 3, 3), "x", stride=[2, 2]))
    total = b.add("add", h, b.conv(b.normal(3, 3, 3, 3), b.add("relu", b.conv(b.normal(3, 3, 3, 3), h))))
    padded = b.add("pad", b.add("mul", total, b.constant(-1.5)), padding=[[1, 0], [0, 1]], mode="constant", value=0.5)
    b.add("reshape", b.add("concat", padded, padded, dim=1), shape=[-1, 96])
    b.linear(96, 3)
    graph = b.graph()
    found = chain_of(collect_structure(graph), graph.output)
    assert isinstance(found, Chain)
    return list(found.layers)


LAYERS = residual_layers(0)


def test_the_layers_are_of_many_forms():
    forms = {type(part.form).__name__ for layer in LAYERS for part in layer.placed}
    assert forms == {"Window", "Selection", "Dense"}
    assert max(len(layer.placed) for layer in LAYERS) >= 2


@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_a_layer_answers_like_its_matrix(number):
    layer, random = LAYERS[number], torch.Generator().manual_seed(number)
    W = layer.matrix
    assert W.shape == (layer.rows, layer.columns)
    h = torch.randn(3, layer.columns, generator=random, dtype=torch.float64)
    A = torch.randn(2, 3, layer.rows, generator=random, dtype=torch.float64)
    torch.testing.assert_close(layer.forward(h), h @ W.mT + layer.bias)
    torch.testing.assert_close(layer.backward(A), A @ W)
    torch.testing.assert_close(layer.backward(A.float()), (A @ W).float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.forward(h.float()), (h @ W.mT + layer.bias).float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.magnitude(h.abs()), h.abs() @ W.abs().mT)
    assert layer.terms >= max(int((W != 0).sum(0).max()), int((W != 0).sum(1).max()))


@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_norms_of_a_layer_are_upper_and_near(number):
    layer = LAYERS[number]
    W = layer.matrix
    for norm, exact in (("l2", W.norm(dim=1)), ("linf", W.abs().sum(1))):
        found = layer.row_norms(norm)
        assert bool((found >= exact).all())
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=0.0)
    exact = float(torch.linalg.matrix_norm(W, 2))
    assert layer.gain >= exact
    assert layer.gain <= exact * (1.00001 if len(layer.placed) == 1 else 1.8)
