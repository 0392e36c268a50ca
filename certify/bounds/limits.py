r"""What makes a network's bound as large as it is: the share of each operation, and one sentence.

*Share.* Let g(v) bound the gain of value v and f = g(v) / max g(inputs of v) be the growth through one operation. On a
chain the bound is the product of all growths, so ln f is what the operation adds to its logarithm; shares are the
positive ln f, divided by their sum. They are estimates: quotients of bounds, not bounds.

*Limit.* No method that knows of each activation only its range of slopes can go below the slope floor, the norm of the
network with slopes chosen badly (`slope_floor`). How near the bound is to it tells which of the two to improve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from certify.bounds.facts import Facts
from certify.graph import Operation
from certify.results import Unbounded

NEAR = 1.1  # within this factor of a floor there is little left to gain
VACUOUS_ABOVE = 1e6


def growth_shares(facts: Facts, gains: Mapping[str, float | Unbounded]) -> Mapping[str, float]:
    """Return the share of every operation through which the gain grows, by its name.

    Example:
        >>> from certify.bounds.facts import collect_structure
        >>> from certify.graph import Graph
        >>> ops = (Operation(name="x", kind="input"), Operation(name="a", kind="relu", inputs=("x",)),
        ...        Operation(name="b", kind="abs", inputs=("a",)))
        >>> growth_shares(collect_structure(Graph(ops, "b", (2,), {})), {"x": 1.0, "a": 2.0, "b": 8.0})
        {'a': 0.333..., 'b': 0.666...}
    """
    grown = {operation.name: _logarithm(facts, operation, gains) for operation in facts.graph.operations[1:]}
    for step in facts.steps if facts.norm == "l2" else ():
        grown |= dict.fromkeys(step.inside, 0.0)  # the block grows as a whole, from its input to its end
    total = sum(grown.values())
    return {name: part / total for name, part in grown.items() if part > 0.0}


def _logarithm(facts: Facts, operation: Operation, gains: Mapping[str, float | Unbounded]) -> float:
    own = gains[operation.name]
    before = [gains[name] for name in operation.inputs if name not in facts.independent]
    if isinstance(own, Unbounded) or any(isinstance(gain, Unbounded) for gain in before):
        return 0.0
    largest = max((gain for gain in before if not isinstance(gain, Unbounded)), default=0.0)
    return max(0.0, math.log(own / largest)) if own > 0.0 and largest > 0.0 else 0.0


def limit_sentence(upper: float, *, data_floor: float, slope_floor: float | None, obstacles: Sequence[str]) -> str:
    """Return in one sentence what keeps the upper bound from the steepest slope that was found.

    Args:
        upper: The proved bound.
        data_floor: The steepest slope found (an estimate).
        slope_floor: The steepest with slopes chosen freely (an estimate), or None where it could not be sought.
        obstacles: Where a bound was made of norms alone, and why.

    Example:
        >>> limit_sentence(10.0, data_floor=1.0, slope_floor=9.5, obstacles=())
        'slope ranges: bounds that know only the range of each slope cannot go below 9.5; local bounds can'
    """
    if upper <= NEAR * data_floor:
        return "nothing much: a slope almost as steep was found"
    if slope_floor is not None and upper <= NEAR * slope_floor:
        return (
            f"slope ranges: bounds that know only the range of each slope cannot go below {slope_floor:.4g};"
            " local bounds can"
        )
    if obstacles:
        return f"lost correlations: {obstacles[0]}"
    if slope_floor is None:
        return "the bounds of single layers, multiplied where no correlation between them is known"
    return (
        f"slope ranges, which leave {slope_floor / data_floor:.3g} times the steepest slope found, and a search for"
        f" multipliers that ends {upper / slope_floor:.3g} times above them"
    )
