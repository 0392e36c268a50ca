"""An estimate of the Lipschitz constant from below: the largest Jacobian norm at given inputs.

Any valid bound is at or above the exact Jacobian norm at any point. The value here is computed in floating point
without an error bound: an *estimate*, to show beside the proved upper bound how much of it may be slack.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from certify.examples import Example
from certify.graph import Graph
from certify.graph.run import run
from certify.results import Norm


def jacobian(graph: Graph, x: Tensor) -> Tensor:
    """Return the Jacobian of the output at one input, ``[outputs, inputs]``, in float64.

    Args:
        graph: The network, in float64.
        x: One input, without a batch dimension.
    """
    point = x.detach().to(torch.float64).unsqueeze(0).requires_grad_()
    output = run(graph, point).reshape(-1)
    rows = [torch.autograd.grad(entry, point, retain_graph=True, allow_unused=True)[0] for entry in output]
    return torch.stack([torch.zeros_like(point) if row is None else row for row in rows]).reshape(len(rows), -1)


def jacobian_norm(matrix: Tensor, norm: Norm) -> float:
    """Return the operator norm of a matrix in floating point: an estimate."""
    if norm == "linf":
        return float(matrix.abs().sum(1).max())
    return float(torch.linalg.svdvals(matrix).max())


def jacobian_floor(graph: Graph, examples: Iterable[Example], *, norm: Norm = "l2") -> float:
    """Return the largest Jacobian norm over the examples: an estimate of the Lipschitz constant from below.

    Example:
        >>> import numpy as np
        >>> from certify.graph import Operation
        >>> ops = (Operation(name="x", kind="input"),
        ...        Operation(name="y", kind="linear", inputs=("x",), weights={"weight": "W"}))
        >>> graph = Graph(ops, "y", (2,), {"W": torch.diag(torch.tensor([3.0, 4.0]))})
        >>> round(jacobian_floor(graph, [Example(0, "0", 0, np.zeros(2))]), 12)
        4.0
    """
    exact = graph.to(torch.float64, "cpu")
    points = (torch.from_numpy(example.values()) for example in examples)
    return max((jacobian_norm(jacobian(exact, point), norm) for point in points), default=0.0)
