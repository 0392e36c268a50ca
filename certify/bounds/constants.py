"""Values that do not depend on the input: which they are, and which of them are known exactly.

A value no operation computes from the input cannot vary, so its Lipschitz constant is 0 whatever its operations are.
A product with it is linear; to bound that product its entries must be known *exactly*, which holds when they are only
moved around (`MOVING`) and never computed with in floating point.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from certify.graph import Graph
from certify.graph.run import run_operation

MOVING = frozenset(
    {"constant", "reshape", "permute", "expand", "slice", "flip", "roll", "concat", "pad", "upsample_nearest"}
)


def independent_values(graph: Graph) -> frozenset[str]:
    """Return the names of the values that do not depend on the input.

    Example:
        >>> from certify.graph import Operation as Op
        >>> ops = (Op(name="x", kind="input"), Op(name="c", kind="constant", attributes={"value": 2.0}),
        ...        Op(name="d", kind="relu", inputs=("c",)), Op(name="y", kind="add", inputs=("x", "d")))
        >>> sorted(independent_values(Graph(ops, "y", (3,), {})))
        ['c', 'd']
    """
    dependent = {graph.input}
    for operation in graph:
        if any(name in dependent for name in operation.inputs):
            dependent.add(operation.name)
    return frozenset(operation.name for operation in graph if operation.name not in dependent)


def exact_constants(graph: Graph) -> Mapping[str, Tensor]:
    """Return the values that are independent of the input and exact, in float64, for one example.

    Args:
        graph: A network with float64 tensors.
    """
    found: dict[str, Tensor] = {}
    for operation in graph.operations[1:]:
        if operation.kind in MOVING and all(name in found for name in operation.inputs):
            inputs = [found[name] for name in operation.inputs]
            found[operation.name] = torch.as_tensor(run_operation(graph, operation, inputs, 1), dtype=torch.float64)
    return found
