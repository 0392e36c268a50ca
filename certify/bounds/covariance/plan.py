r"""From the graph to a plan: the covariance recursion of a network, written down.

Linear operations are views and cost nothing until something that is not linear reads them, so they come first; then one
operation at a time, in the order of the graph, becomes a step, taking along whatever else is read later. What no rule
treats goes on by its gain alone. The order of the steps never affects soundness, only which values go along together.

*Why an image may stand on a torus.* For every pair of inputs there are fields on the torus, one per image of the
network, that equal the image's difference on its true pixels, satisfy (I) of `steps` together, and vanish outside the
true pixels where the image is called *clean*. By induction over the steps:

- the input is put on the torus with zeros around it, and P = I holds for any field; it is clean;
- a convolution that reads only true pixels, or a clean image on a torus with a gutter (`readings`), is on the true
  pixels of its output what the torus makes of it; outside, its field is whatever the torus gives, and it is not clean;
- behind an activation, take the field T v with T the secant slopes of the network on the true pixels and any slopes of
  the range outside: 0 where the range contains it, which makes the image clean. The step bounds all such T;
- a mask is the same with slopes 1 on true pixels and 0 outside: the crop that the zero padding of the next layer is;
- behind a max pool, or an operation of which only a gain is known, put the image on the torus with zeros around it.

A padded convolution never reads an image that is not clean: it is masked before, so convolutions are not merged across
padding, while one that reads true pixels only is multiplied into the map before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from certify.bounds.covariance.combining import join, mask
from certify.bounds.covariance.cuts import bottlenecks
from certify.bounds.covariance.draft import Draft
from certify.bounds.covariance.effort import LARGE, work
from certify.bounds.covariance.entrywise import activate, leave_to_pool
from certify.bounds.covariance.gain_steps import begin, bound, pool
from certify.bounds.covariance.limits import MOST_BYTES
from certify.bounds.covariance.linear import Obstacle, linear_view
from certify.bounds.covariance.memory import expected_bytes, free_bytes, peak_bytes
from certify.bounds.covariance.standing import stand
from certify.bounds.covariance.states import Flat, View
from certify.bounds.covariance.steps import Bounded, Linear, Plan
from certify.bounds.facts import Facts
from certify.graph import Operation
from certify.results import Norm, Unbounded


def compile_plan(
    facts: Facts,
    value: str,
    norm: Norm,
    gains: Mapping[str, float | Unbounded],
    *,
    most_bytes: float | None = None,
    images: bool = True,
) -> Plan | Unbounded:
    """Return the plan of a value of a network: steps whose last register bounds how far the value can move.

    Args:
        facts: The network.
        value: The name of the value, as a rule the logits.
        norm: The norm of the input's difference.
        gains: The l2 gain of every value, in either norm.
        most_bytes: How much memory a search and a proof may need at once, by estimates made before any is taken: from
            shapes, and from the plan. Where they would need more, the plan starts as early behind the input as
            possible. None: `MOST_BYTES`, or most of what is free where that is less.
        images: Whether images may stand on a torus, where one multiplier serves all pixels of a channel. Without, every
            entry of every value has a row, and a multiplier, of its own.

    Returns:
        The plan, or `Unbounded` when the value has no gain either, or the plan would be too large in any case.

    Example:
        >>> import torch
        >>> from certify.bounds.facts import collect_facts
        >>> from certify.graph import Graph
        >>> ops = (Operation(name="x", kind="input"),
        ...        Operation(name="h", kind="linear", inputs=("x",), weights={"weight": "V"}),
        ...        Operation(name="a", kind="relu", inputs=("h",)),
        ...        Operation(name="y", kind="linear", inputs=("a",), weights={"weight": "W"}))
        >>> graph = Graph(ops, "y", (2,), {"V": torch.eye(2), "W": torch.ones(1, 2)})
        >>> plan = compile_plan(collect_facts(graph), "y", "l2", {"x": 1.0, "h": 1.0, "a": 1.0, "y": 2.0})
        >>> [type(step).__name__ for step in plan.steps]
        ['Start', 'Linear', 'Activate', 'Linear']
    """
    known = gains[value]
    if isinstance(known, Unbounded):
        return known
    if value in facts.independent:
        return Plan((Bounded(None, (), math.prod(facts.shapes[value]), 0.0),), norm)
    most_bytes = min(MOST_BYTES, free_bytes()) if most_bytes is None else most_bytes
    for start in bottlenecks(facts, value):
        draft = Draft(facts.into("l2"), value, norm, gains, start, images=images)
        plan = _written(draft) if expected_bytes(draft) <= most_bytes else None
        if isinstance(plan, Unbounded):
            return plan
        if plan is not None and peak_bytes(plan, single=work(plan) > LARGE) <= most_bytes:
            return plan
    return Unbounded(
        f"its covariances would take more than {most_bytes / 1e9:.1f} GB", facts.graph.by_name[value].module
    )


def _written(draft: Draft) -> Plan | Unbounded:
    if draft.start != draft.facts.graph.input:
        draft.fallbacks.append(f"what is before {draft.where(draft.start)}: only its gain, for want of memory")
    stopped = begin(draft)
    while stopped is None and draft.value not in draft.held:
        stopped = _advance(draft)
        draft.forget()
    return _finished(draft) if stopped is None else stopped


def _advance(draft: Draft) -> Unbounded | None:
    """Hold the value of one more operation, or prepare it."""
    ready = draft.waiting()
    obstacles = []
    for operation in ready:
        found = leave_to_pool(draft, operation) or linear_view(draft, operation)
        if not isinstance(found, Obstacle):
            draft.held[operation.name] = found
            return None
        obstacles.append(found)
    operation, obstacle = ready[0], obstacles[0]
    steps = {Obstacle.UNMASKED: mask, Obstacle.APART: join, Obstacle.NO_RULE: _step}
    return None if steps[obstacle](draft, operation) else bound(draft, operation)


def _step(draft: Draft, operation: Operation) -> bool:
    return pool(draft, operation) if operation.kind == "max_pool" else activate(draft, operation)


def _finished(draft: Draft) -> Plan | Unbounded:
    """Put the value's own rows, and nothing else, into the last register."""
    held = draft.held.pop(draft.value)
    standing = stand(draft, [held], [draft.value], alone=True) if isinstance(held, View | Flat) else None
    if standing is None:
        reason = "its value has too many entries for one register, or too many pixels to flatten"
        return Unbounded(reason, draft.where(draft.value))
    register, rows = standing.register, standing.rows[0]
    if register != draft.last:
        keep = Linear(register, draft.sides(register), rows, draft.nothing(register))
        register = draft.emit(keep, len(rows))
    draft.mark(draft.value, register, rows)
    return draft.plan()
