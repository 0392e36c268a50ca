"""Which operations have no rule: asked without enclosing a single norm, so that the answer is quick.

Whether a rule exists depends on kinds, attributes and constants, not on how large a weight is: linear maps always have
one and are not asked.
"""

from __future__ import annotations

from certify.bounds.analysis import sentence
from certify.bounds.facts import collect_structure
from certify.bounds.linear_maps import WEIGHTED
from certify.bounds.rules import RULES
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
    facts = collect_structure(graph).into(norm)
    asked = (op for op in facts.graph if op.kind not in WEIGHTED and op.name not in facts.independent)
    answers = (ask(RULES, facts, operation) for operation in asked)
    return tuple(sentence(answer) for answer in answers if isinstance(answer, Unbounded))
