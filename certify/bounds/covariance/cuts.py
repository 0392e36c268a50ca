r"""Where a plan may start: at the input, or where that would be too large, at a value that all paths pass through.

If every path from the input to the output passes through a value v with gain g, the plan may start from v with
P = g^2 I: what lies before v is bounded by the product of its gains, what lies behind it by the recursion.
"""

from __future__ import annotations

from collections.abc import Iterator

from certify.bounds.covariance.draft import ancestors
from certify.bounds.facts import Facts


def bottlenecks(facts: Facts, value: str) -> Iterator[str]:
    """Yield the values that every path from the input to ``value`` passes through, in the order of the graph.

    Example:
        >>> from certify.bounds.facts import collect_structure
        >>> from certify.graph import Graph, Operation
        >>> ops = (Operation(name="x", kind="input"), Operation(name="h", kind="relu", inputs=("x",)),
        ...        Operation(name="y", kind="add", inputs=("x", "h")), Operation(name="z", kind="relu", inputs=("y",)))
        >>> list(bottlenecks(collect_structure(Graph(ops, "z", (3,), {})), "z"))
        ['x', 'y', 'z']
    """
    needed = ancestors(facts, value, facts.graph.input)
    order = [operation for operation in facts.graph if operation.name in needed]
    last_reader = {name: place for place, operation in enumerate(order) for name in operation.inputs}
    furthest = 0  # the last place that reads anything computed before the one at hand
    for place, operation in enumerate(order):
        if furthest <= place:
            yield operation.name
        furthest = max(furthest, last_reader.get(operation.name, place))
