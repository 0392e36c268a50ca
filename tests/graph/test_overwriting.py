"""A program's ReLU overwrites its input only where nothing else reads it: inputs and outputs stay as they are."""

import pytest
import torch

from certify.graph import Graph, Operation, Program, run


def operation(name, kind, *inputs, **more):
    return Operation(name=name, kind=kind, inputs=inputs, **more)


def graph(*operations, output="z"):
    tensors = {"w": torch.tensor([[1.0, -1.0], [2.0, 0.5]])} if LINEAR in operations else {}
    return Graph((operation("x", "input"), *operations), output, (2,), tensors)


LINEAR, RELU = operation("y", "linear", "x", weights={"weight": "w"}), operation("z", "relu", "y")
FLAT = operation("y", "reshape", "x", attributes={"shape": [-1, 2]})
CASES = {
    "its only reader": (graph(LINEAR, RELU), True),
    "the network's input": (graph(operation("z", "relu", "x")), False),
    "a view of the input": (graph(FLAT, RELU), False),
    "read again": (graph(LINEAR, RELU, operation("s", "add", "y", "z"), output="s"), False),
    "read twice": (
        graph(LINEAR, RELU, operation("t", "tanh", "y"), operation("s", "sub", "z", "t"), output="s"),
        False,
    ),
    "read as both terms": (graph(LINEAR, operation("s", "add", "y", "y"), operation("z", "relu", "s")), True),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("gradients", [True, False])
def test_a_relu_overwrites_what_nothing_else_reads(case, gradients):
    network, overwrites = CASES[case]
    x = torch.tensor([[3.0, -2.0], [-1.0, 4.0], [-0.0, torch.nan], [torch.inf, -torch.inf]])
    given, program = x.clone(), Program(network)
    with torch.set_grad_enabled(gradients):
        found = [program(x).clone() for _ in range(2)]
    for output in found:
        assert torch.equal(output.view(torch.int32), run(network, given).view(torch.int32))  # bits, NaN too
    assert torch.equal(x.view(torch.int32), given.view(torch.int32))
    assert ("relu_in_place" in program.module.code) == overwrites
    assert "relu_in_place" not in Program(network, compiled_rows=4).module.code
