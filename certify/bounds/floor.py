"""An estimate of the Lipschitz constant from below: the largest Jacobian norm at given inputs.

Any valid bound is at or above the exact Jacobian norm at any point. The value here is computed in floating point
without an error bound: an *estimate*, to show beside the proved upper bound how much of it may be slack.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from certify.errors import InputError
from certify.examples import Example
from certify.graph import Graph, run
from certify.results import Norm

CHUNK = 64


def jacobian(graph: Graph, x: Tensor) -> Tensor:
    """Return the Jacobian of the output at one input, ``[outputs, inputs]``, in float64.

    Row k is the gradient of output k. Rows are computed side by side, one copy of the input for each: examples of a
    batch do not touch each other, so the sum of output k of copy k over all k has row k as its gradient in copy k.

    Args:
        graph: The network, in float64; its output has the batch as its first dimension.
        x: One input, without a batch dimension.

    Raises:
        InputError: If PyTorch cannot differentiate an operation with such attributes.
    """
    point = x.detach().to(torch.float64)
    with torch.no_grad():
        outputs = run(graph, point.unsqueeze(0)).numel()
    return torch.cat([_rows(graph, point, rows) for rows in torch.split(torch.arange(outputs), CHUNK)])


def _rows(graph: Graph, point: Tensor, rows: Tensor) -> Tensor:
    copies = point.expand(len(rows), *point.shape).clone().requires_grad_()
    output = run(graph, copies).reshape(len(rows), -1)
    if not output.requires_grad:  # no output depends on the input
        return torch.zeros(len(rows), point.numel(), dtype=torch.float64)
    try:
        (gradient,) = torch.autograd.grad(output[torch.arange(len(rows)), rows].sum(), copies)
    except RuntimeError as error:  # PyTorch differentiates some kinds with attributes in float32
        reason = str(error).splitlines()[0]
        raise InputError(f"expected a network that PyTorch can differentiate, got: {reason}") from error
    return gradient.reshape(len(rows), -1)


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
