r"""A proved lower bound of the Lipschitz constant of a network: one pair of inputs.

The constant L of f on a set satisfies L >= ||f(p) - f(q)|| / ||p - q|| for any two inputs of the set. With p and q
float64 inputs, their distance is known exactly and rounded up; both outputs come from a float64 pass and are wrong by
at most e_p and e_q (`certify.bounds.errors`), so that

    L  >=  (||f'(p) - f'(q)|| - e_p - e_q) / ||p - q||,     rounded down.

The pairs are x, x + h v and x, x - h v, with x a steep place and v the direction its Jacobian stretches most: where x
lies on a kink, one side is as steep as the whole or steeper. A long pair crosses kinks, a short one drowns in e_p +
e_q: several lengths are tried, for each is a proof, and so is their maximum.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from certify.bounds.analysis import Analysis
from certify.bounds.evaluated import evaluate, quotient_lower
from certify.bounds.floor import SteepPlace
from certify.bounds.steepest import Box, inside

HALVES = (3e-2, 3e-3, 3e-4, 3e-5)  # of the pairs, in units of a typical distance of two inputs


def network_lower(analysis: Analysis, place: SteepPlace, *, range: Box = None) -> float | None:  # noqa: A002 - as in InputSpace
    """Return a number that the Lipschitz constant of the network is proved to be at least, in the norm of the analysis.

    Args:
        analysis: The network.
        place: Where it is steep.
        range: Where inputs lie; the pairs stay inside. None for everywhere.

    Returns:
        The bound, at least 0; None where nothing is proved of the outputs of a pass.

    Example:
        >>> import torch
        >>> from certify.bounds import analyse, steepest_place
        >>> from certify.graph import Graph, Operation
        >>> from certify.results import LipschitzSettings
        >>> ops = (Operation(name="x", kind="input"),
        ...        Operation(name="y", kind="linear", inputs=("x",), weights={"weight": "W"}))
        >>> graph = Graph(ops, "y", (2,), {"W": torch.diag(torch.tensor([3.0, 4.0]))})
        >>> found = network_lower(analyse(graph, LipschitzSettings()), steepest_place(graph))
        >>> 3.99999 < found <= 4.0
        True
    """
    found = [_proved(analysis, _line(place, half * place.distance, range)) for half in HALVES]
    return max((proved for proved in found if proved is not None), default=None)


def _line(place: SteepPlace, half: float, box: Box) -> tuple[Tensor, Tensor, Tensor]:
    """Return x - h v, x and x + h v, with x moved so far inwards that all three lie in the box where it is wide."""
    step, stay = half * place.direction, inside(box)
    x = place.x if box is None else place.x.clamp(box[0] + step.abs(), box[1] - step.abs())
    return stay(x - step), stay(x), stay(x + step)


def _proved(analysis: Analysis, line: tuple[Tensor, Tensor, Tensor]) -> float | None:
    values = [evaluate(analysis, analysis.facts.graph.output, point) for point in line]
    if any(value is None for value in values):
        return None
    return max(quotient_lower(p, q, analysis.norm) for p, q in pairwise(values) if p is not None and q is not None)
