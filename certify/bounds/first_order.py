r"""How far the linearised network lets a prediction live: an estimate that says whether a search is worth its time.

With the margin m = F_y - F_j and its gradient at x, the linearisation loses class y to class j at the distance
m / ||grad m||_* (the dual norm: l2 for l2, l1 for linf). No method can certify much more where the gradient does not
shrink nearby. So where gains over all inputs certify nearly as much already, as in networks that are 1-Lipschitz by
construction, a long search around the example is not worth its time. An estimate: it decides about time, never about a
certificate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from certify.graph import Graph, run
from certify.results import Norm

DUAL = {"l2": 2.0, "linf": 1.0}
LITTLE = 1.2  # a search that can gain at most about this factor is left out


def first_order_distance(graph: Graph, x: Tensor, chosen: int, other: int, norm: Norm) -> float:
    """Return the distance at which the linearisation at ``x`` ``[1, *input_shape]`` gives two classes equal logits.

    Returns:
        An estimate; infinity where the gradient of their difference is 0.

    Example:
        >>> from certify.graph import Operation
        >>> ops = (Operation(name="x", kind="input"),
        ...        Operation(name="y", kind="linear", inputs=("x",), weights={"weight": "W"}))
        >>> graph = Graph(ops, "y", (2,), {"W": torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)})
        >>> x = torch.ones(1, 2, dtype=torch.float64)
        >>> [first_order_distance(graph, x, 0, 1, norm) for norm in ("l2", "linf")]  # 7 / 5 and 7 / 7
        [1.4, 1.0]
    """
    inputs = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = run(graph, inputs)[0]
        margin = logits[chosen] - logits[other]
        (slope,) = torch.autograd.grad(margin, inputs)
    size = float(torch.linalg.vector_norm(slope, DUAL[norm]))
    return float(margin.detach()) / size if size != 0.0 else math.inf


def search_may_gain(
    graph: Graph, x: Tensor, logits: Sequence[float], gains: Sequence[float], chosen: int, norm: Norm
) -> bool:
    """Return whether the class that limits the radius is lost much later by the linearisation than gains can prove.

    Args:
        graph: The network.
        x: The input ``[1, *input_shape]``.
        logits: Those of the input.
        gains: Per class, the gain over all inputs of its difference to the chosen one; infinite where unknown.
        chosen: The predicted class.
        norm: The norm of the radius.
    """
    radii = {
        other: (logits[chosen] - logit) / gains[other]
        for other, logit in enumerate(logits)
        if other != chosen and gains[other] > 0.0
    }
    if not radii:
        return True
    rival = min(radii, key=radii.__getitem__)
    return not LITTLE * radii[rival] >= first_order_distance(graph, x, chosen, rival, norm)
