r"""What is proved about the logits as a function of the input, and about the program that computes them.

Two numbers for a whole region: the l2 Lipschitz constant of the real-arithmetic logits, which holds everywhere, and a
bound of the l2 error of the deployed program's logits at every input within ``reach`` of a centre
(`certify.bounds.errors`, at the centre with the ball of that radius). Beside the error of a program that rounds a real
input once, 2^-50 of the size of inputs and logits is added: room for an input that is rounded to float64 first, and for
a few float64 operations on the logits afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.analysis import analyse
from certify.bounds.errors import Pass, deployed_errors, measured_errors
from certify.bounds.magnitudes import l2_upper
from certify.graph import Graph, run_all
from certify.results import LipschitzSettings, Unbounded
from certify.rounding import add_up, mul_up

ROOM = 2.0**-50


@dataclass(frozen=True)
class LogitFacts:
    """Upper bounds of the Lipschitz constant of the logits (l2, everywhere) and of the program's error (near)."""

    lipschitz: float
    error: float


def logit_facts(graph: Graph, centre: Tensor, reach: float, arithmetic: str) -> LogitFacts | Unbounded:
    """Return what is proved about the logits of a network, or why nothing is.

    Args:
        graph: The network that is run: with what is folded before running folded here too.
        centre: An input, without a batch dimension, in float64.
        reach: The error holds for every input within this l2 distance of the centre.
        arithmetic: ``float32`` or ``float64``, what the program computes in, in any order of summation.

    Raises:
        InputError: If a tensor of the network is not finite, or the output is not ``[N, classes]``.

    Example:
        >>> from certify.graph import Operation
        >>> ops = (Operation(name="x", kind="input"),
        ...        Operation(name="y", kind="linear", inputs=("x",), weights={"weight": "W"}))
        >>> net = Graph(ops, "y", (2,), {"W": torch.diag(torch.tensor([3.0, 4.0], dtype=torch.float64))})
        >>> found = logit_facts(net, torch.zeros(2, dtype=torch.float64), 10.0, "float32")
        >>> 4.0 <= found.lipschitz < 4.0001, 0.0 < found.error < 1e-4
        (True, True)
    """
    analysis = analyse(graph, LipschitzSettings())
    facts, output = analysis.facts, analysis.facts.graph.output
    gain = analysis.gains_l2[output]
    if isinstance(gain, Unbounded):
        return gain
    with torch.no_grad():
        run = Pass(facts.into("l2"), analysis.rules, run_all(facts.graph, centre.unsqueeze(0)))

    def movement(name: str) -> float:
        moved = analysis.gains_l2[name]
        return float("inf") if isinstance(moved, Unbounded) else mul_up(moved, reach)

    measured = measured_errors(run, rounded_input=True)
    error = deployed_errors(run, measured, movement, arithmetic)[output]
    if isinstance(error, Unbounded):
        return error
    inputs = add_up(l2_upper(run.tensor(facts.graph.input)), reach)
    logits = add_up(l2_upper(run.tensor(output)), movement(output), error)
    return LogitFacts(gain, add_up(error, mul_up(ROOM, add_up(mul_up(gain, inputs), logits))))
