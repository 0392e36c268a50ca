"""The product/sum bound of a network: one gain per value, in l2 or in linf.

The *gain* g of a value v is proved to satisfy ||v(x) - v(x')|| <= g ||x - x'|| for all inputs x, x'. The input has gain
1, values that do not depend on it 0, and every other value what its rule makes of the gains it reads (`rules`), or less
where a group of operations (`folds`, `gradient_steps`) or another table proves less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from certify.bounds.facts import Facts
from certify.bounds.magnitudes import root_upper
from certify.bounds.rules import RULES, Combine
from certify.bounds.walk import ask, no_bound, walk
from certify.graph import Operation
from certify.results import Unbounded
from certify.rounding import mul_up

Gains: TypeAlias = Mapping[str, "float | Unbounded"]


def combine_rules(facts: Facts) -> Mapping[str, Combine | Unbounded]:
    """Return, per operation, how it combines bounds of its inputs' differences, or why it does not."""
    return {operation.name: ask(RULES, facts, operation) for operation in facts.graph}


def gain_uppers(facts: Facts, rules: Mapping[str, Combine | Unbounded], *also: Gains) -> Gains:
    """Return the gain of every value: at most its rule's, and at most what a group or any other table gives.

    Args:
        facts: The network and the norm.
        rules: The answers of `combine_rules` in the same norm.
        also: Tables of bounds of the same gains that were proved otherwise, by value.
    """

    def step(operation: Operation, known: Mapping[str, float]) -> float | Unbounded:
        if operation.name in facts.independent:
            return 0.0
        rule = rules[operation.name]
        if isinstance(rule, Unbounded):
            return rule
        proved = _proved_gains(facts, operation, rule, known, also)
        finite = [gain for gain in proved if math.isfinite(gain)]
        return min(finite) if finite else no_bound(operation, "the product of the gains overflows")

    return walk(facts.graph, step)


def _proved_gains(
    facts: Facts, operation: Operation, rule: Combine, known: Mapping[str, float], also: Iterable[Gains]
) -> Iterator[float]:
    yield rule(*(known[name] for name in operation.inputs))
    for group in facts.groups_by_value.get(operation.name, ()):
        yield mul_up(group.upper(facts.norm), known[group.source])
    for table in also:
        other = table.get(operation.name)
        if other is not None and not isinstance(other, Unbounded):
            yield other


def linf_from_l2(facts: Facts, gains_l2: Gains) -> Gains:
    """Return linf gains that follow from l2 gains: ||dv||_inf <= ||dv||_2 <= g ||dx||_2 <= g sqrt(d) ||dx||_inf.

    Here d is the number of entries of the input. In deep networks this is often far below the product of row sums.
    """
    root = root_upper(math.prod(facts.graph.input_shape))
    return {name: gain if isinstance(gain, Unbounded) else mul_up(root, gain) for name, gain in gains_l2.items()}
