"""The analysis of one network: every bracket once, the gain of every value, the bound of the whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from msgspec import UNSET, UnsetType

from certify.bounds.covariance.network import CovarianceBound, covariance_bound
from certify.bounds.covariance.place import ON_CPU, SearchPlace
from certify.bounds.facts import Facts, collect_facts
from certify.bounds.gains import Gains, combine_rules, gain_uppers, linf_from_l2
from certify.bounds.limits import VACUOUS_ABOVE, growth_shares
from certify.bounds.local.certify import LocalNetwork
from certify.bounds.local.chain import chain_of
from certify.bounds.lowers import LOWERS, WORDS
from certify.bounds.margins import deciding_value
from certify.bounds.rules import Combine
from certify.errors import InputError
from certify.graph import Graph, Operation
from certify.results import LayerRow, LipschitzSettings, NetworkBound, Norm, Unbounded

PRODUCT, COVARIANCE = "product", "covariance"
ABOUT_1 = 1.001
SCALINGS = frozenset({"layer_norm", "rms_norm", "group_norm", "instance_norm"})


@dataclass(frozen=True, eq=False)
class Analysis:
    """What is proved about one network, whatever the example.

    ``layers`` are the rows of the report, ``network`` the bound of the whole. ``facts``, ``rules`` and ``gains`` are
    what certificates are made of: ``rules`` in l2 carry rounding errors, ``gains_l2`` and ``gains`` bound every value.
    ``covariance`` is what the covariance recursion adds, or why it adds nothing; ``local`` is the network as the chain
    of layers on which certificates around examples are searched, or why there are none.
    """

    layers: tuple[LayerRow, ...]
    network: NetworkBound
    facts: Facts
    rules: Mapping[str, Combine | Unbounded]
    gains_l2: Mapping[str, float | Unbounded]
    gains: Mapping[str, float | Unbounded]
    covariance: CovarianceBound | Unbounded
    local: LocalNetwork | Unbounded

    @property
    def together(self) -> int:
        """How many examples are certified together; a fixed number, so that no result depends on how they come."""
        return 1 if isinstance(self.local, Unbounded) else self.local.batch

    @property
    def norm(self) -> Norm:
        """The norm of the bound and of every radius."""
        return self.facts.norm


def analyse(graph: Graph, settings: LipschitzSettings, *, pairs: bool = False, place: SearchPlace = ON_CPU) -> Analysis:
    """Return what is proved about a network: its layers' brackets and its Lipschitz bound.

    Args:
        graph: The network, in any floating dtype; its stored weights are converted to float64 exactly.
        settings: The norm, the method and the effort.
        pairs: Whether certificates will be made of it: bounds of class pairs are then searched for too.
        place: Where multipliers of the covariance recursion are searched.

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
    covariance = _covariance(facts, gains_l2, settings, place, pairs=pairs)
    if settings.norm == "l2":
        answers, product = rules, gains_l2
        gains_l2 = gains = gain_uppers(facts, rules, _improved(facts, covariance, settings))
    else:
        facts = facts.into("linf")
        answers, from_l2 = combine_rules(facts), linf_from_l2(facts, gains_l2)
        product = gain_uppers(facts, answers, from_l2)
        gains = gain_uppers(facts, answers, product, _improved(facts, covariance, settings))
    network = _network_bound(product[graph.output], gains[graph.output], settings.norm)
    local = _local(facts, settings) if pairs else Unbounded("no certificates around examples were asked for")
    return Analysis(tuple(_rows(facts, answers, gains)), network, facts, rules, gains_l2, gains, covariance, local)


def _local(facts: Facts, settings: LipschitzSettings) -> LocalNetwork | Unbounded:
    if settings.method != "auto":
        return Unbounded(f"only the {settings.method} bound was asked for")
    chain = chain_of(facts, deciding_value(facts, settings.arithmetic))
    return chain if isinstance(chain, Unbounded) else LocalNetwork(chain, settings.norm, settings.effort)


def _covariance(
    facts: Facts, gains_l2: Gains, settings: LipschitzSettings, place: SearchPlace, *, pairs: bool
) -> CovarianceBound | Unbounded:
    if settings.method == "product":
        return Unbounded("only the product bound was asked for")
    if settings.method == "auto" and settings.effort != "max" and settings.norm == "l2" and _made_1_lipschitz(facts):
        return Unbounded("residual blocks are bounded as gradient steps; --effort max searches for more")
    value = deciding_value(facts, settings.arithmetic)
    return covariance_bound(facts, value, settings.norm, gains_l2, settings.effort, pairs=pairs, place=place)


def _made_1_lipschitz(facts: Facts) -> bool:
    """Tell whether residual blocks are gradient steps of constant about 1, which leave l2 recursions little to gain.

    Of 2 to 12 blocks it gained at most 3 %, in up to a hundred times the time. No floor says so: with depth the slopes
    that are found fall away from the constant (to less than half at 12 blocks), though nothing proves more. In linf it
    gains a factor, for a gradient step has no constant there.
    """
    return bool(facts.steps) and all(step.upper("l2") <= ABOUT_1 for step in facts.steps)


def _improved(facts: Facts, covariance: CovarianceBound | Unbounded, settings: LipschitzSettings) -> Gains:
    """Return the gains that the covariance recursion proves, in the norm of the settings."""
    if isinstance(covariance, Unbounded):
        return {}
    growth = covariance.growth if settings.norm == "l2" else {}
    return {**growth, deciding_value(facts, settings.arithmetic): covariance.upper}


def sentence(found: Unbounded) -> str:
    """Return a typed answer as reports show it: the reason, and where."""
    return f"{found.reason} (at {found.module})" if found.module else found.reason


def _network_bound(product: float | Unbounded, found: float | Unbounded, norm: Norm) -> NetworkBound:
    if isinstance(found, Unbounded):
        return NetworkBound(norm=norm, upper=None, lower=None, method=PRODUCT, proved=True, reason=sentence(found))
    vacuous = f"vacuous: the bound is above {VACUOUS_ABOVE:.0e}"
    reason_or_none = vacuous if found > VACUOUS_ABOVE else UNSET
    method = PRODUCT if found == product else COVARIANCE
    return NetworkBound(norm=norm, upper=found, lower=None, method=method, proved=True, reason=reason_or_none)


def _rows(facts: Facts, rules: Mapping[str, Combine | Unbounded], gains: Gains) -> Iterator[LayerRow]:
    """Yield a row per linear operation, per normalisation, and per operation without a bound; then per group."""
    shares = growth_shares(facts, gains)
    for operation in facts.graph:
        rule, share = rules[operation.name], shares.get(operation.name, 0.0)
        if isinstance(rule, Unbounded):
            if operation.name not in facts.independent:
                yield _row(facts, operation, None, None, f"unbounded: {rule.reason}", UNSET)
        elif operation.name in facts.maps:
            bracket = facts.maps[operation.name].bracket(facts.norm)
            yield _row(facts, operation, bracket.upper, bracket.lower, bracket.method, share)
        elif operation.kind in LOWERS:
            lower = LOWERS[operation.kind](facts, operation)
            yield _row(facts, operation, rule(1.0), lower, WORDS[operation.kind], share)
        elif operation.kind in SCALINGS:
            yield _row(facts, operation, rule(1.0), None, "largest scale", share)
    for fold in facts.folds:
        name, kind = " + ".join(fold.names), "fold"
        method = f"one map: {fold.map.bracket(facts.norm).method}"
        yield LayerRow(name=name, kind=kind, shape=(), upper=fold.upper(facts.norm), lower=None, method=method)
    for step in facts.steps if facts.norm == "l2" else ():
        name, method = " + ".join(step.names), "symmetric Jacobian"
        upper, share = step.upper("l2"), shares.get(step.value, 0.0)
        yield LayerRow(name=name, kind="gradient_step", shape=(), upper=upper, lower=None, method=method, share=share)


def _row(
    facts: Facts,
    operation: Operation,
    upper: float | None,
    lower: float | None,
    method: str,
    share: float | UnsetType,
) -> LayerRow:
    weight = facts.graph.weight(operation, "weight")
    shape = () if weight is None else tuple(weight.shape)
    name = operation.module or operation.name
    return LayerRow(name=name, kind=operation.kind, shape=shape, upper=upper, lower=lower, method=method, share=share)
