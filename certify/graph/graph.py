"""The graph: a list of operations of the vocabulary, the tensors they name, and its JSON form.

The JSON holds structure only (`certify.graph.vocabulary` defines it); the tensors travel beside it. A `Graph` is
checked whole when it is made, so nothing after this file meets an unknown kind, a missing weight or a dangling name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import msgspec
import torch
from torch import Tensor

from certify.errors import InputError
from certify.examples import hash_array
from certify.graph.vocabulary import check_operation
from certify.results import dump_json, load_json

GRAPH_FORMAT = 1
MAX_OPERATIONS = 20_000


class Operation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One operation: its output's name, its kind, and what it reads.

    ``weights`` maps a role to the name of a tensor; ``module`` is the path of the module it came from ("" = the root).
    """

    name: str
    kind: str
    inputs: tuple[str, ...] = ()
    weights: dict[str, str] = {}
    attributes: dict[str, Any] = {}  # plain JSON; `KINDS` checks every entry
    module: str = ""

    @property
    def where(self) -> str:
        """The operation as an error message names it: its kind and the path of its module."""
        return f"{self.kind} at {self.module}" if self.module else f"{self.kind} {self.name}"

    def flag(self, attribute: str) -> bool:
        """Return a boolean attribute."""
        return bool(self.attributes[attribute])

    def integer(self, attribute: str) -> int:
        """Return an integer attribute."""
        return int(self.attributes[attribute])

    def number(self, attribute: str) -> float:
        """Return a float attribute."""
        return float(self.attributes[attribute])

    def optional_number(self, attribute: str) -> float | None:
        """Return a float attribute that may be null."""
        value = self.attributes[attribute]
        return None if value is None else float(value)

    def text(self, attribute: str) -> str:
        """Return a string attribute."""
        return str(self.attributes[attribute])

    def integers(self, attribute: str) -> tuple[int, ...]:
        """Return a list of integers."""
        return tuple(self.attributes[attribute])

    def pairs(self, attribute: str) -> tuple[tuple[int, int], ...]:
        """Return a list of ``[before, after]`` pairs."""
        return tuple((before, after) for before, after in self.attributes[attribute])


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON form of a graph."""

    format: int
    input_shape: tuple[int, ...]
    output: str
    operations: tuple[Operation, ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """A network as data: operations in execution order, from one input to one output, and the tensors they name.

    ``input_shape`` is the shape of one input, without the batch. The first operation is the only one of kind
    ``input``; every value is defined once and before its use; every tensor is used.

    Raises:
        InputError: If any of this does not hold, naming the operation.

    Example:
        >>> import torch
        >>> operations = (
        ...     Operation(name="x", kind="input"),
        ...     Operation(name="y", kind="linear", inputs=("x",), weights={"weight": "W"}),
        ... )
        >>> graph = Graph(operations, "y", (3,), {"W": torch.ones(2, 3)})
        >>> Graph.from_json(graph.to_json(), graph.tensors).operations == graph.operations
        True
    """

    operations: tuple[Operation, ...]
    output: str
    input_shape: tuple[int, ...]
    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        _check_structure(self)

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    @cached_property
    def by_name(self) -> Mapping[str, Operation]:
        """The operation that defines each value."""
        return {operation.name: operation for operation in self.operations}

    @property
    def input(self) -> str:
        """The name of the input value."""
        return self.operations[0].name

    @property
    def parameter_count(self) -> int:
        """The number of stored numbers in all tensors."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    @cached_property
    def sha256(self) -> str:
        """The hash of what the network computes: structure and every tensor. A file of weights alone has no structure.

        Example:
            >>> import torch
            >>> def activation(kind: str) -> Graph:
            ...     operations = (Operation(name="x", kind="input"), Operation(name="y", kind=kind, inputs=("x",)))
            ...     return Graph(operations, "y", (3,), {})
            >>> activation("relu").sha256 == activation("relu").sha256 != activation("tanh").sha256
            True
        """
        tensors = {name: hash_array(tensor.detach().cpu().numpy()) for name, tensor in self.tensors.items()}
        return hashlib.sha256(dump_json([self.to_json(), tensors]).encode()).hexdigest()

    def weight(self, operation: Operation, role: str) -> Tensor | None:
        """Return the tensor an operation has in a role, or None when it has none."""
        name = operation.weights.get(role)
        return None if name is None else self.tensors[name]

    def required_weight(self, operation: Operation, role: str) -> Tensor:
        """Return the tensor an operation has in a role its kind requires."""
        return self.tensors[operation.weights[role]]

    def readers(self, name: str) -> tuple[Operation, ...]:
        """Return the operations that read a value."""
        return tuple(operation for operation in self.operations if name in operation.inputs)

    def to(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Graph:
        """Return the same graph with its floating tensors in another dtype, and all of them on another device."""
        moved = {name: t.to(device, dtype if t.is_floating_point() else t.dtype) for name, t in self.tensors.items()}
        return replace(self, tensors=moved)

    def to_json(self) -> str:
        """Return the strict JSON of the structure."""
        return dump_json(_Record(GRAPH_FORMAT, self.input_shape, self.output, self.operations))

    @classmethod
    def from_json(cls, text: str | bytes, tensors: Mapping[str, Tensor], *, name: str = "graph") -> Graph:
        """Return the graph whose structure is ``text`` and whose tensors are ``tensors``.

        Raises:
            InputError: If the text is not strict JSON of a graph, or does not fit the tensors.
        """
        try:
            record = msgspec.convert(load_json(text, name=name), _Record)
        except msgspec.ValidationError as error:
            raise InputError(f"{name}: expected a graph of format {GRAPH_FORMAT}, got a mismatch: {error}") from error
        if record.format != GRAPH_FORMAT:
            raise InputError(f"{name}: expected graph format {GRAPH_FORMAT}, got {record.format}; use a newer certify")
        return cls(record.operations, record.output, record.input_shape, tensors)


def _check_structure(graph: Graph) -> None:
    if not 1 <= len(graph.operations) <= MAX_OPERATIONS:
        raise InputError(f"expected 1 to {MAX_OPERATIONS} operations, got {len(graph.operations)}")
    if not graph.input_shape or min(graph.input_shape) < 1:
        raise InputError(f"expected an input shape of positive sizes, got {list(graph.input_shape)}")
    defined: set[str] = set()
    used: set[str] = set()
    for position, operation in enumerate(graph.operations):
        where = f"operation {operation.name!r} ({operation.where})"
        check_operation(operation.kind, len(operation.inputs), operation.weights, operation.attributes, where)
        if (operation.kind == "input") != (position == 0):
            raise InputError(f"{where}: expected exactly one input, as the first operation")
        if operation.kind == "constant" and ("value" in operation.weights) == (
            operation.attributes["value"] is not None
        ):
            raise InputError(f"{where}: expected a tensor or a scalar as its value, exactly one of them")
        if operation.name in defined:
            raise InputError(f"{where}: its name is defined twice")
        for value in operation.inputs:
            if value not in defined:
                raise InputError(f"{where}: reads {value!r} before it is defined")
        for tensor in operation.weights.values():
            if tensor not in graph.tensors:
                raise InputError(f"{where}: names the tensor {tensor!r}, which is missing")
            if operation.kind != "constant" and not graph.tensors[tensor].is_floating_point():
                found = graph.tensors[tensor].dtype
                raise InputError(f"{where}: expected weights of float32 or float64, got {tensor!r} of {found}")
            used.add(tensor)
        defined.add(operation.name)
    if graph.output not in defined:
        raise InputError(f"expected an output among the operations, got {graph.output!r}")
    unused = sorted(graph.tensors.keys() - used)
    if unused:
        raise InputError(f"expected every tensor to be used, got unused {unused[:5]}; remove them from the file")
