"""The covariance bound of a network: compile a plan, search for multipliers, prove what they give.

The search is never trusted. It is also allowed to fail: a plan that is too large, holds numbers beyond the range of
float64, or whose multipliers the proof refuses, gives a typed answer, and the product bound stands alone.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.covariance.effort import FEWEST, WORK, work
from certify.bounds.covariance.memory import register_rows
from certify.bounds.covariance.objectives import Objective
from certify.bounds.covariance.optimise import settle
from certify.bounds.covariance.place import ON_CPU, Search, SearchPlace
from certify.bounds.covariance.plan import compile_plan
from certify.bounds.covariance.positions import MOST_POSITIONS, per_position
from certify.bounds.covariance.proof import Proved, prove
from certify.bounds.covariance.steps import Multipliers, Plan, Start
from certify.bounds.facts import Facts
from certify.bounds.slopes import ACTIVATIONS
from certify.results import Effort, Norm, Unbounded

MOST_POLISHED = 20  # classes whose pairs are searched one by one


@dataclass(frozen=True, eq=False)
class CovarianceBound:
    """What the covariance recursion proves of one value (the logits).

    ``upper`` bounds its Lipschitz constant in the norm of the analysis; ``pair_uppers`` ``[K, K]`` those of all
    differences of two of its entries, None where it is no row of entries; ``growth`` bounds ||dv||_2 of other values
    per distance of the inputs; ``fallbacks`` say where a correlation was given up. ``searched_on`` is the kind of
    device that multipliers were searched on, ``notes`` why it may be another one than was asked for.
    """

    upper: float
    pair_uppers: Tensor | None
    growth: Mapping[str, float]
    fallbacks: tuple[str, ...]
    searched_on: str = "cpu"
    notes: tuple[str, ...] = ()


def covariance_bound(
    facts: Facts,
    value: str,
    norm: Norm,
    gains_l2: Mapping[str, float | Unbounded],
    effort: Effort = "default",
    *,
    pairs: bool = False,
    most_bytes: float | None = None,
    place: SearchPlace = ON_CPU,
) -> CovarianceBound | Unbounded:
    """Return the covariance bound of a value, or why there is none.

    Args:
        facts: The network.
        value: The value to bound, of shape ``[1, K]`` for bounds of pairs.
        norm: l2: of the difference of the inputs and of the value; linf: likewise.
        gains_l2: The l2 gain of every value, used where no correlation is known.
        effort: How long to search.
        pairs: Whether to search for multipliers that suit the differences of two entries too.
        most_bytes: How much memory may be needed at once; None: `limits.MOST_BYTES`, or most of what is free where that
            is less. Where it is too little, the first layers are bounded by their gain, and ``fallbacks`` say so.
        place: Where multipliers are searched; what they give is proved on the CPU.
    """
    plan = compile_plan(facts, value, norm, gains_l2, most_bytes=most_bytes)
    if isinstance(plan, Unbounded):
        return plan
    plain = functools.partial(compile_plan, facts, value, norm, gains_l2, most_bytes=most_bytes, images=False)
    dense = _plain_rows(facts, plan, plain) if effort == "max" else None
    search = Search(place)
    found = _search(search, plan, dense, effort, pairs=pairs)
    if not found:
        return Unbounded("no multipliers of its covariances could be proved feasible")
    uppers = [proved.upper() if norm == "l2" else float(proved.row_uppers().max()) for proved in found]
    pair_uppers = [proved.pair_uppers() for proved in found] if not plan.steps[-1].sides else []
    least = torch.stack(pair_uppers).amin(0) if pair_uppers else None
    notes = (search.note,) if search.note else ()
    return CovarianceBound(min(uppers), least, found[0].growth, plan.fallbacks, search.kind, notes)


def _plain_rows(facts: Facts, plan: Plan, compiled: Callable[[], Plan | Unbounded]) -> Plan | None:
    """Return the plan with multipliers for every position, where that is another one and not too large."""
    widths = [math.prod(facts.shapes[operation.name]) for operation in facts.graph if operation.kind in ACTIVATIONS]
    if not any(step.sides for step in plan.steps) or max(widths, default=0) > MOST_POSITIONS:
        return None
    dense = compiled()
    if isinstance(dense, Unbounded) or not isinstance(dense.steps[0], Start):
        return None
    return dense if work(dense) * FEWEST["max"] <= WORK["max"] else None


def _search(search: Search, plan: Plan, dense: Plan | None, effort: Effort, *, pairs: bool) -> list[Proved]:
    """Return what is proved with multipliers for the norm, for all pairs, and at most effort for every single pair.

    With a plan of plain rows those for the norm and for all pairs are searched once more there, for every position.
    """
    try:
        candidates = [(plan, search.optimise(plan, effort, "norm"))]
    except ValueError:  # no closed form is feasible: the plan holds numbers beyond the range of float64
        return []
    classes = register_rows(plan)[-1]
    if pairs and classes > 1:
        candidates.append((plan, search.optimise(plan, effort, "pairs", warm=candidates[0][1])))
    if dense is not None:
        objectives: tuple[Objective, ...] = ("norm", "pairs")
        for objective, (_, shared) in zip(objectives, tuple(candidates), strict=False):
            copied = per_position(plan, shared, dense)
            if copied is not None:
                candidates.append((dense, search.optimise(dense, effort, objective, warm=copied)))
    if pairs and effort == "max" and 1 < classes <= MOST_POLISHED:
        polished = search.polish(plan, candidates[1][1], itertools.combinations(range(classes), 2))
        candidates.extend((plan, multipliers) for multipliers in polished.values())
    found = [_proved(*candidate, with_growth=not place) for place, candidate in enumerate(candidates)]
    return [proved for proved in found if proved is not None and math.isfinite(proved.upper())]


def _proved(plan: Plan, multipliers: Multipliers, *, with_growth: bool) -> Proved | None:
    """Return what is proved with multipliers, which may have been found in single precision."""
    found = prove(plan, multipliers, with_growth=with_growth)
    return prove(plan, settle(plan, multipliers), with_growth=with_growth) if found is None else found
