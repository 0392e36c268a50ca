r"""Operations that multiply entries by known numbers: normalisations with fixed statistics, products with constants.

Shifts do not matter to differences. The factor weight / sqrt(variance + eps) keeps its sign and is computed with three
roundings, 1 / std and the reciprocal of a constant with one: relative errors of at most 4 u and u, above underflow; a
computed factor below `LEAST` is given up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from certify.bounds.facts import Facts
from certify.graph import Operation
from certify.norms import batch_norm_scales

RELATIVE = 2.0**-50  # eight roundings
LEAST = 2.0**-500


def factors(facts: Facts, operation: Operation) -> Tensor | None:
    """Return the factor of every entry of an operation's output, in its shape, or None when it is no scaling.

    Each is known up to the relative error `RELATIVE`.

    Example:
        >>> from certify.bounds.facts import collect_facts
        >>> from certify.graph import Graph
        >>> c = Operation(name="c", kind="constant", attributes={"value": 4.0})
        >>> y = Operation(name="y", kind="div", inputs=("x", "c"))
        >>> factors(collect_facts(Graph((Operation(name="x", kind="input"), c, y), "y", (2,), {})), y).tolist()
        [[0.25, 0.25]]
    """
    rule = SCALINGS.get(operation.kind)
    found = None if rule is None else rule(facts, operation)
    if found is None or not bool(torch.isfinite(found).all()):
        return None
    return found.to(torch.float64).expand(facts.shapes[operation.name])


def _unless_tiny(quotient: Tensor, numerator: Tensor | None = None) -> Tensor | None:
    """Return a computed quotient, or None when an entry may have underflowed."""
    tiny = quotient.abs() < LEAST
    exact = torch.zeros_like(tiny) if numerator is None else numerator == 0.0
    return None if bool((tiny & ~exact).any()) else quotient


def _batch_norm(facts: Facts, operation: Operation) -> Tensor | None:
    weight, variance = facts.graph.weight(operation, "weight"), facts.graph.required_weight(operation, "variance")
    scale, _ = batch_norm_scales(weight, variance, operation.number("eps"))
    found = _unless_tiny(scale, weight)
    return None if found is None else found.reshape(1, -1, *[1] * (len(facts.shape(operation)) - 2))


def _normalize(facts: Facts, operation: Operation) -> Tensor | None:
    return _unless_tiny(1.0 / facts.graph.required_weight(operation, "std"))


def _mul(facts: Facts, operation: Operation) -> Tensor | None:
    known = [name for name in operation.inputs if name in facts.constants]
    return facts.constants[known[0]] if known else None


def _div(facts: Facts, operation: Operation) -> Tensor | None:
    below = operation.inputs[1]
    return _unless_tiny(1.0 / facts.constants[below]) if below in facts.constants else None


SCALINGS: Mapping[str, Callable[[Facts, Operation], Tensor | None]] = MappingProxyType(
    {"batch_norm": _batch_norm, "normalize": _normalize, "mul": _mul, "div": _div}
)
