"""Graphs that PyTorch would run but that mean something else, or nothing: refused before a proof reads them."""

from __future__ import annotations

import json

import pytest
import torch

from certify.errors import CertifyError, InputError, NoRuleError
from certify.graph import Graph, Operation, check_examples_apart, recognise, run, value_shapes

POOL = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], "ceil_mode": False}
MAX_POOL = {**POOL, "dilation": [1, 1]}
AVG_POOL = {**POOL, "count_include_pad": True, "divisor": None}
CONV = {
    "stride": [1, 1],
    "padding": [[1, 1], [1, 1]],
    "dilation": [1, 1],
    "groups": 1,
    "padding_mode": "zeros",
}
TRANSPOSED = {
    "stride": [2, 2],
    "padding": [1, 1],
    "output_padding": [1, 1],
    "dilation": [1, 1],
    "groups": 1,
}
KERNEL = {"weight": torch.ones(2, 2, 3, 3)}
IMAGE = (2, 5, 5)


def one(shape: tuple[int, ...], kind: str, *inputs: str, weights: dict | None = None, **attributes: object) -> Graph:
    """Return the graph of one operation on the input ``x`` and the constants named ``scalar``, ``point``, ``row``."""
    tensors = {"point": torch.tensor(2.0), "row": torch.ones(shape[-1]), **(weights or {})}
    constants = {
        "scalar": Operation(name="scalar", kind="constant", attributes={"value": 2.0}),
        **{
            name: Operation(name=name, kind="constant", weights={"value": name}, attributes={"value": None})
            for name in ("point", "row")
        },
    }
    made = Operation(
        name="y",
        kind=kind,
        inputs=inputs or ("x",),
        weights={role: role for role in weights or {}},
        attributes=attributes,
    )
    operations = (Operation(name="x", kind="input"), *(constants[name] for name in constants if name in inputs), made)
    used = {name for operation in operations for name in operation.weights.values()}
    return Graph(operations, "y", shape, {name: tensors[name] for name in used})


MISFITS = {
    "max_min of three repeats the odd one": lambda: one((3,), "max_min", dim=1),
    "circular padding after a crop": lambda: one((2, 3), "pad", padding=[[1, -1]], mode="circular", value=0.0),
    "crop of everything": lambda: one((2, 3), "pad", padding=[[-3, 0]], mode="constant", value=0.0),
    "crop and pad of nothing": lambda: one((2, 3), "pad", padding=[[-3, 3]], mode="constant", value=0.0),
    "empty slice": lambda: one((6,), "slice", dim=1, start=3, stop=3, step=1),
    "no dimension to reduce": lambda: one((3,), "sum", dims=[], keepdim=True),
    "reduction of a number": lambda: one((3,), "mean", "point", dims=[0], keepdim=True),
    "softmax of a number": lambda: one((3,), "softmax", "scalar", dim=0),
    "softmax of a point": lambda: one((3,), "softmax", "point", dim=0),
    "flip of a point": lambda: one((3,), "flip", "point", dims=[0]),
    "product with a vector": lambda: one((2, 3), "matmul", "x", "row"),
    "linear with a vector": lambda: one((3,), "linear", weights={"weight": torch.ones(3)}),
    "boolean weight": lambda: one((3,), "linear", weights={"weight": torch.ones(2, 3, dtype=torch.bool)}),
    "batch norm with columns": lambda: one(
        (2,), "batch_norm", weights={"mean": torch.zeros(2), "variance": torch.ones(2, 1)}, eps=1.0
    ),
    "no outputs": lambda: one((3,), "linear", weights={"weight": torch.ones(0, 3)}),
    "short stride": lambda: one(IMAGE, "conv", weights=KERNEL, **{**CONV, "stride": [1]}),
    "short padding": lambda: one(IMAGE, "conv", weights=KERNEL, **{**CONV, "padding": [[1, 1]]}),
    "long dilation": lambda: one(IMAGE, "conv", weights=KERNEL, **{**CONV, "dilation": [1, 1, 1]}),
    "cropping convolution": lambda: one(IMAGE, "conv", weights=KERNEL, **{**CONV, "padding": [[-1, 0], [0, 0]]}),
    "convolution without a batch": lambda: one((2, 5), "conv", weights=KERNEL, **CONV),
    "one output for two groups": lambda: one(
        IMAGE, "conv", weights={"weight": torch.ones(1, 1, 3, 3)}, **{**CONV, "groups": 2}
    ),
    "output padding of a whole step": lambda: one(
        IMAGE, "conv_transpose", weights=KERNEL, **{**TRANSPOSED, "output_padding": [2, 2]}
    ),
    "max pool without strides": lambda: one(IMAGE, "max_pool", **{**MAX_POOL, "stride": []}),
    "avg pool with a short stride": lambda: one(IMAGE, "avg_pool", **{**AVG_POOL, "stride": [2]}),
    "adaptive pool over channels": lambda: one((3,), "adaptive_avg_pool", output=[2, 2]),
    "input beyond any memory": lambda: one((2**62, 4), "relu"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_the_vocabulary_does_not_mean_is_refused(name):
    with pytest.raises(InputError, match="expected"):
        value_shapes(MISFITS[name]())


GROWING = {
    "six steps of a roll": lambda: one((3,), "roll", shifts=[6], dims=[0]),
    "a roll over everything": lambda: one((3,), "roll", shifts=[18], dims=[]),
    "the first five examples": lambda: one((3,), "slice", dim=0, start=0, stop=5, step=1),
}


@pytest.mark.parametrize("name", GROWING)
def test_what_batches_of_two_and_three_cannot_show_is_refused(name):
    graph = GROWING[name]()
    assert all(torch.equal(run(graph, x), x) for x in (torch.rand(2, 3), torch.rand(3, 3)))
    with pytest.raises(NoRuleError, match="grows with the batch"):
        check_examples_apart(graph)


def test_a_value_that_counts_the_examples_is_refused():
    operations = (
        Operation(name="x", kind="input"),
        Operation(name="one", kind="constant", weights={"value": "one"}, attributes={"value": None}),
        Operation(name="row", kind="expand", inputs=("one",), attributes={"shape": [-1, 3]}),
        Operation(name="count", kind="sum", inputs=("row",), attributes={"dims": [0], "keepdim": True}),
        Operation(name="y", kind="mul", inputs=("x", "count")),
    )
    graph = Graph(operations, "y", (3,), {"one": torch.ones(1, 3)})
    x = torch.ones(1, 3)
    assert not torch.equal(run(graph, x), run(graph, x.expand(5, 3))[:1])
    with pytest.raises(NoRuleError, match="grows with the batch"):
        check_examples_apart(graph)


@pytest.mark.parametrize(("kind", "values"), [("div", [1.0, 0.0]), ("div", [1, 0]), ("add", [10**400, 1])])
def test_numbers_that_python_refuses_are_input_errors(kind, values):
    constants = [
        {"name": f"c{i}", "kind": "constant", "inputs": [], "attributes": {"value": v}} for i, v in enumerate(values)
    ]
    operations = [
        {"name": "x", "kind": "input"},
        *constants,
        {"name": "c", "kind": kind, "inputs": ["c0", "c1"]},
        {"name": "y", "kind": "add", "inputs": ["x", "c"]},
    ]
    text = json.dumps({"format": 1, "input_shape": [3], "output": "y", "operations": operations})
    with pytest.raises(CertifyError):
        value_shapes(Graph.from_json(text, {}))


def test_whole_numbers_do_not_grow_without_end():
    squares = [Operation(name=f"c{i + 1}", kind="mul", inputs=(f"c{i}", f"c{i}")) for i in range(64)]
    operations = (
        Operation(name="x", kind="input"),
        Operation(name="c0", kind="constant", attributes={"value": 3}),
        *squares,
        Operation(name="y", kind="mul", inputs=("x", "c64")),
    )
    assert run(Graph(operations, "y", (1,), {}), torch.ones(1, 1)).tolist() == [[float("inf")]]


def test_a_padding_with_ones_is_not_taken_for_the_one_of_softsign():
    operations = (
        Operation(name="x", kind="input"),
        Operation(name="size", kind="abs", inputs=("x",)),
        Operation(
            name="one",
            kind="pad",
            inputs=("size",),
            attributes={"padding": [[0, 0]], "mode": "constant", "value": 1.0},
        ),
        Operation(name="below", kind="add", inputs=("size", "one")),
        Operation(name="y", kind="div", inputs=("x", "below")),
    )
    graph, x = Graph(operations, "y", (2,), {}), torch.tensor([[3.0, -4.0]])
    assert run(graph, x).tolist() == [[0.5, -0.5]]
    assert torch.equal(run(recognise(graph), x), run(graph, x))
