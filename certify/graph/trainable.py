"""A graph as a module whose weights are parameters: what a loss can be differentiated in."""

from __future__ import annotations

from torch import nn
from torch.fx import GraphModule

from certify.graph.graph import Graph
from certify.graph.run import to_module

VARIED = frozenset({"weight", "bias"})
"""The roles of tensors that training varies; statistics of batch norms, input normalisation and constants stay."""


def to_trainable(graph: Graph) -> GraphModule:
    """Return the graph as a module in evaluation mode; each weight and bias is a parameter, once however often used.

    Args:
        graph: The network, in the dtype and on the device to run in.

    Example:
        >>> import torch
        >>> from certify.graph.graph import Operation
        >>> ops = (Operation(name="x", kind="input"),
        ...        Operation(name="y", kind="linear", inputs=("x",), weights={"weight": "W"}))
        >>> [tuple(p.shape) for p in to_trainable(Graph(ops, "y", (3,), {"W": torch.ones(2, 3)})).parameters()]
        [(2, 3)]
    """
    varied = {name for op in graph for role, name in op.weights.items() if role in VARIED}
    module = to_module(graph)
    for position, (name, tensor) in enumerate(graph.tensors.items()):
        if name in varied:
            attribute = f"tensor_{position}"
            delattr(module, attribute)
            module.register_parameter(attribute, nn.Parameter(tensor.detach().clone()))
    return module.eval()
