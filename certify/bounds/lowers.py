"""The lower ends of linear operations that are not enclosed as a matrix: scalings per channel, averages, sums.

Each is attained: by one entry of the channel with the largest scale, or by equal entries in one window. Together with
the gain rule (`rules`) it brackets the operation in the report; no bound is made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from certify.bounds.facts import Facts
from certify.bounds.rules import adaptive_avg_pool_bracket, avg_pool_bracket, group_size
from certify.graph import Operation
from certify.norms import batch_norm_lower, reciprocal_lower
from certify.rounding import div_down, sqrt_down

Lower: TypeAlias = Callable[[Facts, Operation], float]


def _batch_norm(facts: Facts, operation: Operation) -> float:
    variance = facts.graph.required_weight(operation, "variance")
    return batch_norm_lower(facts.graph.weight(operation, "weight"), variance, operation.number("eps"))


def _normalize(facts: Facts, operation: Operation) -> float:
    return reciprocal_lower(facts.graph.required_weight(operation, "std"))


def _mean(facts: Facts, operation: Operation) -> float:
    """Equal entries 1/sqrt(k) of one group of k have l2 norm 1 and mean 1/sqrt(k); in linf ones have mean 1."""
    return 1.0 if facts.norm == "linf" else sqrt_down(div_down(1.0, float(group_size(facts, operation))))


def _sum(facts: Facts, operation: Operation) -> float:
    """Equal entries of one group of k: sqrt(k) in l2, k in linf."""
    entries = float(group_size(facts, operation))
    return entries if facts.norm == "linf" else sqrt_down(entries)


LOWERS: Mapping[str, Lower] = MappingProxyType(
    {
        "batch_norm": _batch_norm,
        "normalize": _normalize,
        "avg_pool": lambda facts, operation: avg_pool_bracket(facts, operation).lower,
        "adaptive_avg_pool": lambda facts, operation: adaptive_avg_pool_bracket(facts, operation).lower,
        "mean": _mean,
        "sum": _sum,
    }
)
WORDS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("batch_norm", "normalize"), "largest scale"),
        **dict.fromkeys(("avg_pool", "adaptive_avg_pool"), "matrix of the windows"),
        **dict.fromkeys(("mean", "sum"), "size of the group"),
    }
)
