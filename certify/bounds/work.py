"""How much one forward pass costs, counted and never timed, so that what depends on it is the same on every machine."""

from __future__ import annotations

import math

from certify.graph import Graph, value_shapes

VALUES_AT_ONCE = 2**23
WORTH_SHARING = 5_000_000  # multiplications of one input: below, cores wait for each other longer than they compute


def multiplications(graph: Graph) -> int:
    """Return about how many multiplications one forward pass of one input takes.

    Example:
        >>> import torch
        >>> from certify.graph import Operation
        >>> ops = (Operation(name="x", kind="input"),
        ...        Operation(name="y", kind="linear", inputs=("x",), weights={"weight": "W"}))
        >>> multiplications(Graph(ops, "y", (3,), {"W": torch.ones(2, 3)}))
        9
    """
    shapes = value_shapes(graph)
    total = 0
    for operation in graph:
        weight = graph.weight(operation, "weight")
        wide = weight is not None and weight.dim() > 1
        # linear and conv: a fan-in of weight[0] per output; conv_transpose: weight[0] uses of every input
        name = operation.inputs[0] if operation.kind == "conv_transpose" else operation.name
        each = math.prod(weight.shape[1:]) if wide and weight is not None else 1
        total += math.prod(shapes[name]) * each
    return total


def rows_at_once(graph: Graph) -> int:
    """Return how many inputs to run side by side so that all their values together stay in some tens of megabytes."""
    values = sum(math.prod(shape) for shape in value_shapes(graph).values())
    return max(1, min(256, VALUES_AT_ONCE // max(1, values)))


def cores_worthwhile(graph: Graph, cores: int) -> int:
    """Return how many of the cores are worth using for one pass of a few inputs: one where the network is small.

    Example:
        >>> from certify.graph import Operation
        >>> cores_worthwhile(Graph((Operation(name="x", kind="input"),), "x", (3,), {}), 8)
        1
    """
    return cores if multiplications(graph) >= WORTH_SHARING else 1
