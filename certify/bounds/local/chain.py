r"""From a graph to a chain: the network up to one value, as layers "linear, then an activation per entry".

A value of *stage* k is an affine map of the outputs of layer k (`affine`). The graph is walked once: a linear operation
is composed with the map it reads (`linear_rules`), an activation closes a layer, a maximum becomes relus (`maxima`),
and values that stay alive are carried through identity rows (`building`).

What has no rule here gets the typed answer `Unbounded`: the global bound of the network still holds then.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

from certify.bounds.facts import Facts
from certify.bounds.local.activations import IDENTITY
from certify.bounds.local.affine import Affine, constant, whole
from certify.bounds.local.building import MAX_ROWS, Builder, Rule
from certify.bounds.local.layers import Chain
from certify.bounds.local.linear_rules import LINEAR, activation_rule
from certify.bounds.local.maxima import MAXIMA
from certify.bounds.slopes import ACTIVATIONS
from certify.bounds.walk import no_bound
from certify.graph import Operation
from certify.results import Unbounded

RULES: Mapping[str, Rule] = MappingProxyType({**LINEAR, **MAXIMA, **dict.fromkeys(ACTIVATIONS, activation_rule)})


def chain_of(facts: Facts, value: str) -> Chain | Unbounded:
    """Return the network up to a value as a chain of layers, or why there is no local rule for it.

    The chain's real weights and biases (see `layers`) make exactly the function of the graph.

    Args:
        facts: The network, in float64 (`collect_structure` is enough).
        value: The value the chain ends in, the logits.

    Example:
        >>> import torch
        >>> from certify.bounds.facts import collect_structure
        >>> from certify.graph import Graph, Operation as Op
        >>> ops = (Op(name="x", kind="input"), Op(name="h", kind="relu", inputs=("x",)),
        ...        Op(name="y", kind="add", inputs=("x", "h")))
        >>> chain = chain_of(collect_structure(Graph(ops, "y", (2,), {})), "y")
        >>> [layer.kinds for layer in chain.layers], chain.run(torch.tensor([[-1.0, 2.0]])).tolist()
        ([('relu', 'identity'), ('identity',)], [[-1.0, 4.0]])
    """
    needed = _ancestors(facts, value)
    out_of_range = _check_range(facts, needed)
    if out_of_range is not None:
        return out_of_range
    builder = Builder(facts)
    known: dict[str, Affine] = {}
    for operation in facts.graph:
        if operation.name in needed:
            made = _affine_of(builder, operation, known)
            if isinstance(made, Unbounded):
                return made
            if made.size > MAX_ROWS:
                return no_bound(operation, f"its {made.size} entries are too many for a local bound")
            known[operation.name] = made
    builder.place(known[value], IDENTITY, value)
    return builder.chain()


def _ancestors(facts: Facts, value: str) -> set[str]:
    needed = {value}
    for operation in reversed(facts.graph.operations):
        if operation.name in needed and operation.name not in facts.constants:
            needed.update(operation.inputs)
    return needed


def _check_range(facts: Facts, needed: set[str]) -> Unbounded | None:
    """Return why the tensors cannot be multiplied with a small relative error, if so."""
    for operation in facts.graph:
        names = operation.weights.values() if operation.name in needed else ()
        for name in names:
            sizes = facts.graph.tensors[name].to(torch.float64).abs()
            if not bool(torch.all((sizes == 0.0) | ((sizes >= 2.0**-200) & (sizes <= 2.0**200)))):
                return no_bound(operation, f"tensor {name!r} has entries too small or too large for a local bound")
    return None


def _affine_of(builder: Builder, operation: Operation, known: Mapping[str, Affine]) -> Affine | Unbounded:
    facts = builder.facts
    if operation.kind == "input":
        return whole(builder.input)
    if operation.name in facts.constants:
        return constant(facts.constants[operation.name])
    if operation.name in facts.independent:
        return no_bound(operation, "no local rule for a value that is computed from constants")
    inputs = [known[name] for name in operation.inputs]
    rule = RULES.get(operation.kind)
    if rule is None:
        return no_bound(operation, f"no local rule for {operation.kind}")
    return rule(builder, operation, inputs)
