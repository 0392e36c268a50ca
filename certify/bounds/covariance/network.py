"""The covariance bound of a network: compile a plan, search for multipliers, prove what they give.

The search is never trusted. It is also allowed to fail: a plan that is too large, holds numbers beyond the range of
float64, or whose multipliers the proof refuses, gives a typed answer, and the product bound stands alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.covariance.memory import plan_bytes
from certify.bounds.covariance.optimise import optimise
from certify.bounds.covariance.plan import compile_plan
from certify.bounds.covariance.proof import Proved, prove
from certify.bounds.covariance.steps import Plan
from certify.bounds.facts import Facts
from certify.results import Effort, Norm, Unbounded

MOST_BYTES = 1.5e9  # of a plan; its search holds some four times as much


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
    if plan_bytes(plan) > MOST_BYTES:
        return Unbounded(f"its covariances would take {plan_bytes(plan) / 1e9:.1f} GB, more than {MOST_BYTES / 1e9} GB")
    found = _search(plan, effort, pairs=pairs)
    if not found:
        return Unbounded("no multipliers of its covariances could be proved feasible")
    uppers = [proved.upper() if norm == "l2" else float(proved.row_uppers().max()) for proved in found]
    pair_uppers = [proved.pair_uppers() for proved in found] if not plan.steps[-1].sides else []
    growth = {name: min(proved.growth[name] for proved in found) for name in found[0].growth}
    least = torch.stack(pair_uppers).amin(0) if pair_uppers else None
    return CovarianceBound(min(uppers), least, growth, plan.fallbacks)


def _search(plan: Plan, effort: Effort, *, pairs: bool) -> list[Proved]:
    try:
        candidates = [optimise(plan, effort, "norm")]
        if pairs:
            candidates.append(optimise(plan, effort, "pairs"))
    except ValueError:  # no closed form is feasible: the plan holds numbers beyond the range of float64
        return []
    found = [prove(plan, multipliers) for multipliers in candidates]
    return [proved for proved in found if proved is not None and math.isfinite(proved.upper())]
