"""The analysis of one network: every bracket once, the gain of every value, the bound of the whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from msgspec import UNSET

from certify.bounds.facts import Facts, collect_facts
from certify.bounds.gains import combine_rules, gain_uppers, linf_from_l2
from certify.bounds.lowers import LOWERS, WORDS
from certify.bounds.rules import Combine
from certify.errors import InputError
from certify.graph import Graph, Operation
from certify.results import LayerRow, LipschitzSettings, NetworkBound, Norm, Unbounded

PRODUCT = "product"
VACUOUS_ABOVE = 1e6
SCALINGS = frozenset({"layer_norm", "rms_norm", "group_norm", "instance_norm"})


@dataclass(frozen=True, eq=False)
class Analysis:
    """What is proved about one network, whatever the example.

    ``layers`` are the rows of the report, ``network`` the bound of the whole. ``facts``, ``rules`` and ``gains`` are
    what certificates are made of: ``rules`` in l2 carry rounding errors, ``gains_l2`` and ``gains`` bound every value.
    """

    layers: tuple[LayerRow, ...]
    network: NetworkBound
    facts: Facts
    rules: Mapping[str, Combine | Unbounded]
    gains_l2: Mapping[str, float | Unbounded]
    gains: Mapping[str, float | Unbounded]

    @property
    def norm(self) -> Norm:
        """The norm of the bound and of every radius."""
        return self.facts.norm


def analyse(graph: Graph, settings: LipschitzSettings) -> Analysis:
    """Return what is proved about a network: its layers' brackets and its Lipschitz bound.

    Args:
        graph: The network, in any floating dtype; its stored weights are converted to float64 exactly.
        settings: The norm and the method.

    Raises:
        InputError: If a tensor is not finite, or the output is not ``[N, classes]``.

    Example:
        >>> import torch
        >>> ops = (Operation(name="x", kind="input"),
        ...        Operation(name="y", kind="linear", inputs=("x",), weights={"weight": "W"}))
        >>> found = analyse(Graph(ops, "y", (2,), {"W": torch.diag(torch.tensor([3.0, 4.0]))}), LipschitzSettings())
        >>> 4.0 <= found.network.upper < 4.0001
        True
    """
    facts = collect_facts(graph)
    if len(facts.shapes[graph.output]) != 2:
        raise InputError(f"expected an output [N, classes], got {['N', *facts.shapes[graph.output][1:]]}")
    rules = combine_rules(facts)
    gains_l2 = gain_uppers(facts, rules)
    if settings.norm == "l2":
        answers, gains = rules, gains_l2
    else:
        facts = facts.into("linf")
        answers = combine_rules(facts)
        gains = gain_uppers(facts, answers, linf_from_l2(facts, gains_l2))
    network = _network_bound(gains[graph.output], settings.norm)
    return Analysis(tuple(_rows(facts, answers)), network, facts, rules, gains_l2, gains)


def sentence(found: Unbounded) -> str:
    """Return a typed answer as reports show it: the reason, and where."""
    return f"{found.reason} (at {found.module})" if found.module else found.reason


def _network_bound(found: float | Unbounded, norm: Norm) -> NetworkBound:
    if isinstance(found, Unbounded):
        return NetworkBound(norm=norm, upper=None, lower=None, method=PRODUCT, proved=True, reason=sentence(found))
    vacuous = f"vacuous: the bound is above {VACUOUS_ABOVE:.0e}"
    reason_or_none = vacuous if found > VACUOUS_ABOVE else UNSET
    return NetworkBound(norm=norm, upper=found, lower=None, method=PRODUCT, proved=True, reason=reason_or_none)


def _rows(facts: Facts, rules: Mapping[str, Combine | Unbounded]) -> Iterator[LayerRow]:
    """Yield a row per linear operation, per normalisation, and per operation without a bound; then the folds."""
    for operation in facts.graph:
        rule = rules[operation.name]
        if isinstance(rule, Unbounded):
            if operation.name not in facts.independent:
                yield _row(facts, operation, None, None, f"unbounded: {rule.reason}")
        elif operation.name in facts.maps:
            bracket = facts.maps[operation.name].bracket(facts.norm)
            yield _row(facts, operation, bracket.upper, bracket.lower, bracket.method)
        elif operation.kind in LOWERS:
            lower = LOWERS[operation.kind](facts, operation)
            yield _row(facts, operation, rule(1.0), lower, WORDS[operation.kind])
        elif operation.kind in SCALINGS:
            yield _row(facts, operation, rule(1.0), None, "largest scale")
    for fold in facts.folds:
        name, kind = " + ".join(fold.names), "fold"
        method = f"one map: {fold.map.bracket(facts.norm).method}"
        yield LayerRow(name=name, kind=kind, shape=(), upper=fold.upper(facts.norm), lower=None, method=method)


def _row(facts: Facts, operation: Operation, upper: float | None, lower: float | None, method: str) -> LayerRow:
    weight = facts.graph.weight(operation, "weight")
    shape = () if weight is None else tuple(weight.shape)
    name = operation.module or operation.name
    return LayerRow(name=name, kind=operation.kind, shape=shape, upper=upper, lower=lower, method=method)
