"""The covariance bound of a network: compile a plan, search for multipliers, prove what they give.

The search is never trusted. It is also allowed to fail: a plan that is too large, holds numbers beyond the range of
float64, or whose multipliers the proof refuses, gives a typed answer, and the product bound stands alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.covariance.memory import register_rows
from certify.bounds.covariance.optimise import optimise, polish
from certify.bounds.covariance.plan import compile_plan
from certify.bounds.covariance.proof import Proved, prove
from certify.bounds.covariance.steps import Plan
from certify.bounds.facts import Facts
from certify.results import Effort, Norm, Unbounded

MOST_POLISHED = 20  # classes whose pairs are searched one by one


@dataclass(frozen=True, eq=False)
class CovarianceBound:
    """What the covariance recursion proves of one value (the logits).

    ``upper`` bounds its Lipschitz constant in the norm of the analysis; ``pair_uppers`` ``[K, K]`` those of all
    differences of two of its entries, None where it is no row of entries; ``growth`` bounds ||dv||_2 of other values
    per distance of the inputs; ``fallbacks`` say where a correlation was given up.
    """

    upper: float
    pair_uppers: Tensor | None
    growth: Mapping[str, float]
    fallbacks: tuple[str, ...]


def covariance_bound(
    facts: Facts,
    value: str,
    norm: Norm,
    gains_l2: Mapping[str, float | Unbounded],
    effort: Effort = "default",
    *,
    pairs: bool = False,
) -> CovarianceBound | Unbounded:
    """Return the covariance bound of a value, or why there is none.

    Args:
        facts: The network.
        value: The value to bound, of shape ``[1, K]`` for bounds of pairs.
        norm: l2: of the difference of the inputs and of the value; linf: likewise.
        gains_l2: The l2 gain of every value, used where no correlation is known.
        effort: How long to search.
        pairs: Whether to search for multipliers that suit the differences of two entries too.
    """
    plan = compile_plan(facts, value, norm, gains_l2)
    if isinstance(plan, Unbounded):
        return plan
    found = _search(plan, effort, pairs=pairs)
    if not found:
        return Unbounded("no multipliers of its covariances could be proved feasible")
    uppers = [proved.upper() if norm == "l2" else float(proved.row_uppers().max()) for proved in found]
    pair_uppers = [proved.pair_uppers() for proved in found] if not plan.steps[-1].sides else []
    least = torch.stack(pair_uppers).amin(0) if pair_uppers else None
    return CovarianceBound(min(uppers), least, found[0].growth, plan.fallbacks)


def _search(plan: Plan, effort: Effort, *, pairs: bool) -> list[Proved]:
    """Return what is proved with multipliers for the norm, for all pairs, and at most effort for every single pair."""
    try:
        candidates = [optimise(plan, effort, "norm")]
    except ValueError:  # no closed form is feasible: the plan holds numbers beyond the range of float64
        return []
    classes = register_rows(plan)[-1]
    if pairs and classes > 1:
        candidates.append(optimise(plan, effort, "pairs", warm=candidates[0]))
        if effort == "max" and classes <= MOST_POLISHED:
            candidates.extend(polish(plan, candidates[-1], itertools.combinations(range(classes), 2)).values())
    found = [prove(plan, multipliers, with_growth=not place) for place, multipliers in enumerate(candidates)]
    return [proved for proved in found if proved is not None and math.isfinite(proved.upper())]
