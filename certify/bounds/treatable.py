"""Which operations have no rule: asked without enclosing a single norm, so that the answer is quick.

Whether a rule exists depends on kinds, attributes and constants, not on how large a weight is: linear maps always have
one and are not asked.
"""

from __future__ import annotations

from collections.abc import Iterator

from certify.bounds.analysis import sentence
from certify.bounds.ball import NEARBY
from certify.bounds.facts import Facts, collect_structure
from certify.bounds.linear_maps import WEIGHTED
from certify.bounds.rules import NORMALISATIONS, RULES
from certify.bounds.walk import ask
from certify.graph import Graph
from certify.results import Norm, Unbounded


def unbounded_operations(graph: Graph, norm: Norm) -> tuple[str, ...]:
    """Return, in graph order, why operations that depend on the input have no global Lipschitz rule in a norm.

    Empty: the network has a finite bound, unless the product of its gains overflows.

    Raises:
        InputError: If a tensor is not finite.

    Example:
        >>> from certify.graph import Operation
        >>> ops = (Operation(name="x", kind="input"), Operation(name="y", kind="mul", inputs=("x", "x"), module="gate"))
        >>> unbounded_operations(Graph(ops, "y", (2,), {}), "l2")[0].endswith("(at gate)")
        True
    """
    return tuple(sentence(answer) for _, answer in _unbounded(collect_structure(graph).into(norm)))


def unbounded_near_examples(graph: Graph) -> tuple[str, ...]:
    """Return, in graph order, why operations have no rule on a ball around an example either, in any norm.

    Empty: certificates around examples are tried. Whether one comes out depends on the example: a divisor, say, must
    stay away from 0.

    Raises:
        InputError: If a tensor is not finite.

    Example:
        >>> from certify.graph import Operation
        >>> ops = (Operation(name="x", kind="input"), Operation(name="y", kind="mul", inputs=("x", "x"), module="gate"))
        >>> unbounded_near_examples(Graph(ops, "y", (2,), {}))
        ()
    """
    found = _unbounded(collect_structure(graph))  # balls in linf lie in balls in l2; no ball mends a normalisation
    return tuple(sentence(answer) for kind, answer in found if kind not in NEARBY - NORMALISATIONS)


def _unbounded(facts: Facts) -> Iterator[tuple[str, Unbounded]]:
    """Yield kinds and typed answers of the operations without a rule over all inputs."""
    for operation in facts.graph:
        if operation.kind not in WEIGHTED and operation.name not in facts.independent:
            answer = ask(RULES, facts, operation)
            if isinstance(answer, Unbounded):
                yield operation.kind, answer
