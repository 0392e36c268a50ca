"""Which operations have no rule: asked without enclosing a single norm, so that the answer is quick.

Whether a rule exists depends on kinds, attributes and constants, not on how large a weight is; so every linear map is
given a placeholder enclosure, and only the typed answers are kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from certify.bounds.constants import exact_constants, independent_values
from certify.bounds.facts import Facts
from certify.bounds.gains import combine_rules
from certify.bounds.linear_maps import WEIGHTED, LinearMap
from certify.graph import Graph, value_shapes
from certify.results import Bracket, Norm, Unbounded

PLACEHOLDER = Bracket(0.0, 1.0, "not enclosed")


def unbounded_operations(graph: Graph, norm: Norm) -> tuple[str, ...]:
    """Return, in graph order, why operations that depend on the input have no global Lipschitz rule in a norm.

    Empty: the network has a finite bound, unless the product of its gains overflows.

    Example:
        >>> from certify.graph import Operation
        >>> ops = (Operation(name="x", kind="input"), Operation(name="y", kind="mul", inputs=("x", "x"), module="gate"))
        >>> unbounded_operations(Graph(ops, "y", (2,), {}), "l2")[0].endswith("(at gate)")
        True
    """
    exact = graph.to(torch.float64)
    constants = exact_constants(exact)
    linear = {operation.name for operation in exact if operation.kind in WEIGHTED or operation.kind == "matmul"}
    maps = {
        name: LinearMap(PLACEHOLDER, PLACEHOLDER, PLACEHOLDER) for name in linear if _is_linear(exact, name, constants)
    }
    facts = Facts(exact, value_shapes(exact), constants, independent_values(exact), maps, (), norm)
    rules = combine_rules(facts)
    answers = [rules[operation.name] for operation in exact if operation.name not in facts.independent]
    return tuple(f"{answer.reason} (at {answer.module})" for answer in answers if isinstance(answer, Unbounded))


def _is_linear(graph: Graph, name: str, constants: Mapping[str, Tensor]) -> bool:
    operation = graph.by_name[name]
    return operation.kind in WEIGHTED or any(value in constants for value in operation.inputs)
