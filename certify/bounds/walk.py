"""One traversal, many tables: carry a value along the graph and ask a table for the rule of each operation.

An analysis is a *table* from kind to *rule*. A rule sees the facts of the network and one operation and answers, or it
gives the typed answer `Unbounded` with its reason. A kind that is missing from the table is `Unbounded` too: nothing is
skipped and nothing has a default. What depends on an unbounded value is unbounded for the same first reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

from certify.graph import Graph, Operation
from certify.results import Unbounded

F = TypeVar("F")
R = TypeVar("R")
V = TypeVar("V")
Table: TypeAlias = Mapping[str, Callable[[F, Operation], R | Unbounded]]
Step: TypeAlias = Callable[[Operation, Mapping[str, V]], V | Unbounded]


def no_bound(operation: Operation, reason: str) -> Unbounded:
    """Return the typed answer that an operation has no bound, with the path of its module."""
    return Unbounded(reason, operation.module or operation.name)


def ask(table: Table[F, R], facts: F, operation: Operation) -> R | Unbounded:
    """Return what the rule of an operation answers; a kind without a rule is `Unbounded`."""
    rule = table.get(operation.kind)
    return no_bound(operation, f"there is no rule for {operation.kind}") if rule is None else rule(facts, operation)


def walk(graph: Graph, step: Step[V]) -> dict[str, V | Unbounded]:
    """Return the value of every operation of the graph.

    Args:
        graph: The network.
        step: From an operation and the values before it to its own value.

    Returns:
        One value per operation, or the first `Unbounded` it depends on.

    Example:
        >>> ops = (Operation(name="x", kind="input"), Operation(name="y", kind="add", inputs=("x", "x")))
        >>> walk(Graph(ops, "y", (3,), {}), lambda op, known: 1 + sum(known[name] for name in op.inputs))
        {'x': 1, 'y': 3}
    """
    known: dict[str, V] = {}
    answers: dict[str, V | Unbounded] = {}
    for operation in graph:
        answer = _first_stop(operation, answers) or step(operation, known)
        answers[operation.name] = answer
        if not isinstance(answer, Unbounded):
            known[operation.name] = answer
    return answers


def _first_stop(operation: Operation, answers: Mapping[str, object]) -> Unbounded | None:
    read = (answers[name] for name in operation.inputs)
    return next((answer for answer in read if isinstance(answer, Unbounded)), None)
