r"""Gains that hold on a ball around one example, for every kind of operation that has a rule near an input.

For a value v let m(v) bound how far v moves from its exact value at x while the input stays within ``radius`` (l2) of
x. Walking the graph, the inputs of an operation stay within m + e of the float64 activations h, e the error of these
(`errors`); its rule there (`nearby`) gives a gain g(v) with ||v(x') - v(x'')|| <= g(v) ||x' - x''|| for any two inputs
of the ball, and m(v) = g(v) radius. The ball is convex and so is every set of values within a distance of h, so the
rules apply on it. A gain over all inputs holds on the ball too: the smaller one is kept.

The certificate: every x' with ||x' - x|| <= R keeps its class when R <= radius and the margin exceeds what it can lose,
L R, with L made of the gains on the ball. Any radius gives a certificate; the best of several is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from certify.bounds.errors import Errors, Pass
from certify.bounds.gains import Gains
from certify.bounds.walk import no_bound, walk
from certify.graph import Operation
from certify.results import Unbounded
from certify.rounding import add_up, mul_up

NEARBY = frozenset(
    {"attention", "mul", "div", "matmul", "layer_norm", "rms_norm", "group_norm", "instance_norm"}
)  # kinds whose rule on a ball is better than the one over all inputs
MOST_TRIALS = 14
GROWTH, SHRINK = 4.0, 0.35


def ball_gains(run: Pass, measured: Errors, radius: float, everywhere: Gains) -> Gains:
    """Return a gain of every value on the l2 ball of a radius around the example of a pass.

    Args:
        run: The forward pass.
        measured: The errors of that pass.
        radius: Of the ball, finite.
        everywhere: Gains over all inputs, in l2.
    """

    def step(operation: Operation, known: Mapping[str, float]) -> float | Unbounded:
        if operation.name in run.facts.independent:
            return 0.0
        reaches = tuple(_reach(known[name], radius, measured[name]) for name in operation.inputs)
        rule = run.rule_nearby(operation, reaches)
        if isinstance(rule, Unbounded):
            return rule
        proved = [rule(*(known[name] for name in operation.inputs)), *_proved_otherwise(run, operation, known)]
        other = everywhere[operation.name]
        proved = [gain for gain in (*proved, math.inf if isinstance(other, Unbounded) else other) if gain < math.inf]
        return min(proved) if proved else no_bound(operation, "the product of the gains overflows")

    return walk(run.facts.graph, step)


def _reach(gain: float, radius: float, error: float | Unbounded) -> float:
    return math.inf if isinstance(error, Unbounded) else add_up(mul_up(gain, radius), error)


def _proved_otherwise(run: Pass, operation: Operation, known: Mapping[str, float]) -> Iterator[float]:
    for group in run.facts.groups_by_value.get(operation.name, ()):
        yield mul_up(group.upper("l2"), known[group.source])


def best_ball(radius_at: Callable[[float], float], start: float) -> float | None:
    """Return the ball (of those tried) on which the certified radius is largest, or None when none certifies.

    Args:
        radius_at: From the radius of a ball to the radius certified on it, 0 when there is none.
        start: The first radius tried, positive and finite.

    Example:
        >>> 0.4 < best_ball(lambda ball: min(ball, 1.0 / (1.0 + ball * ball)), 10.0) < 0.8
        True
    """
    best, ball, least, most = (0.0, 0.0), start, 0.0, math.inf
    for _ in range(MOST_TRIALS):
        found = radius_at(ball)
        best = max(best, (found, ball))
        least, most = (max(least, ball), most) if found >= ball else (least, min(most, ball))
        if most == math.inf:
            ball *= GROWTH
        elif least == 0.0:
            ball = best[0] if 0.0 < best[0] < 0.9 * ball else ball * SHRINK
        else:
            ball = math.sqrt(least * most)
        if not 1e-300 < ball < 1e300 or most <= 1.02 * least:
            break
    return best[1] if best[0] > 0.0 else None
