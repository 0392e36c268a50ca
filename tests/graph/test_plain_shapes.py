"""Shapes without kernels: what is read off is what the kernel gives, and what does not fit is left to the kernel."""

from __future__ import annotations

from importlib import import_module
from itertools import product

import pytest
import torch

from certify.graph import Graph, Operation, value_shapes
from certify.graph.plain_shapes import MAPS, plain_shape
from certify.graph.run import KERNELS

SIZES = [(), (1,), (3,), (1, 3), (2, 3), (3, 2), (2, 3, 1), (2, 3, 3)]
WEIGHTS = [(), (2,), (3,), (2, 2), (2, 3), (1, 3), (1, 2, 3)]
ATTRIBUTES = {"leaky_relu": {"negative_slope": 0.1}, "gelu": {"approximate": "tanh"}}
TWO = frozenset({"add", "sub", "mul", "div", "maximum", "minimum"})


def kernel_shape(kind, values, weights, **attributes):
    """Return the shape that PyTorch computes; None where it refuses."""
    try:
        return tuple(KERNELS[kind](*values, **weights, **attributes).shape)
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None


@pytest.mark.parametrize("kind", sorted(MAPS))
def test_entry_by_entry(kind):
    for shapes in product(SIZES, repeat=2 if kind in TWO else 1):
        values = [torch.ones(shape) for shape in shapes]
        attributes = ATTRIBUTES.get(kind, {})
        operation = Operation(name="y", kind=kind, inputs=("x",) * len(shapes), attributes=attributes)
        found = plain_shape(operation, values, {})
        assert (found is not None) == (len(set(shapes)) == 1)
        assert found in (None, kernel_shape(kind, values, {}, **attributes))


def test_halves_where_there_are_two():
    for shape, dim in product([*SIZES, (4,), (2, 4)], range(3)):
        found = plain_shape(
            Operation(name="y", kind="max_min", inputs=("x",), attributes={"dim": dim}), [torch.ones(shape)], {}
        )
        even = dim < len(shape) and shape[dim] % 2 == 0
        assert found == (kernel_shape("max_min", [torch.ones(shape)], {}, dim=dim) if even else None)


@pytest.mark.parametrize("bias", [None, *WEIGHTS], ids=str)
def test_linear_layers(bias):
    for shape, matrix in product(SIZES, WEIGHTS):
        weights = {"weight": torch.ones(matrix)} | ({} if bias is None else {"bias": torch.ones(bias)})
        values = [torch.ones(shape)]
        found = plain_shape(Operation(name="y", kind="linear", inputs=("x",)), values, weights)
        expected = kernel_shape("linear", values, weights)
        plainly = len(matrix) == 2 and bias in (None, matrix[:1])
        assert found == (expected if plainly else None)


def test_batch_norms():
    for shape, channels in product(SIZES, WEIGHTS):
        roles = ("mean", "variance", "weight", "bias")
        weights = {role: torch.ones(channels) for role in roles}
        values = [torch.ones(shape)]
        operation = Operation(name="y", kind="batch_norm", inputs=("x",), attributes={"eps": 0.1})
        found = plain_shape(operation, values, weights)
        assert found == (kernel_shape("batch_norm", values, weights, eps=0.1) if len(channels) == 1 else None)
        for role in roles:
            odd = {**weights, role: torch.ones(5)}
            assert plain_shape(operation, values, odd) is None


@pytest.mark.parametrize("kind", ["reshape", "softmax", "prelu"])
def test_other_kinds_and_numbers_are_left_to_the_kernel(kind):
    assert plain_shape(Operation(name="y", kind=kind, inputs=("x",)), [torch.ones(2, 3)], {}) is None
    assert plain_shape(Operation(name="y", kind="add", inputs=("x", "c")), [torch.ones(2, 3), 1.0], {}) is None


def geometries(transposed):
    """Yield attributes of convolutions in one and two dimensions, odd and impossible ones among them."""
    for rank, stride, dilation, groups in product((1, 2), (1, 2), (1, 2), (1, 2)):
        attributes = {"stride": [stride] * rank, "dilation": [dilation] * rank, "groups": groups}
        if transposed:
            for padding, extra in product((0, 1), (0, 1)):
                yield {**attributes, "padding": [padding] * rank, "output_padding": [extra] * rank}
        else:
            for before, after in product((0, 1), (0, 2)):
                yield {**attributes, "padding": [[before, after]] * rank, "padding_mode": "zeros"}


@pytest.mark.parametrize("kind", ["conv", "conv_transpose"])
def test_convolutions(kind):
    plain = 0
    sizes = [(2, 4, 5), (2, 2, 1), (2, 4, 5, 4), (2, 2, 2, 3), (4, 5)]
    kernels = [(4, 2, 3), (2, 4, 1), (4, 4, 3, 2), (4, 2, 1, 2), (3, 2, 2), (4, 2)]
    for attributes, shape, kernel, bias in product(geometries(kind != "conv"), sizes, kernels, (None, 4)):
        weights = {"weight": torch.ones(kernel)} | ({} if bias is None else {"bias": torch.ones(bias)})
        operation = Operation(name="y", kind=kind, inputs=("x",), attributes=attributes)
        found = plain_shape(operation, [torch.ones(shape)], weights)
        plain += found is not None
        assert found in (None, kernel_shape(kind, [torch.ones(shape)], weights, **attributes))
    assert plain > 100


def test_a_padding_that_copies_is_left_to_the_kernel():
    attributes = {"stride": [1], "dilation": [1], "groups": 1, "padding": [[1, 1]], "padding_mode": "circular"}
    operation = Operation(name="y", kind="conv", inputs=("x",), attributes=attributes)
    assert plain_shape(operation, [torch.ones(1, 2, 5)], {"weight": torch.ones(3, 2, 3)}) is None


def test_a_plain_network_needs_no_kernel(monkeypatch):
    operations = (
        Operation(name="x", kind="input"),
        Operation(name="a", kind="linear", inputs=("x",), weights={"weight": "w"}),
        Operation(name="y", kind="relu", inputs=("a",)),
    )
    graph = Graph(operations, "y", (3,), {"w": torch.ones(2, 3)})
    monkeypatch.setattr(import_module("certify.graph.run"), "KERNELS", {})
    assert value_shapes(graph, 4) == {"x": (4, 3), "a": (4, 2), "y": (4, 2)}
