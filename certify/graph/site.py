"""One traced call, and the graph under construction: what a translation sees.

A translation takes a `Site` (the call's arguments by schema name, the shapes around it, and the graph being built) and
returns the name of the value it produced, or a tuple of names for operators with several results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

from certify.errors import NoRuleError
from certify.graph.graph import Operation

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """A traced tensor: the name of its value, and its shape with batch multiples as ``-k``."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class Constant:
    """A traced tensor that does not depend on the input: a weight, a buffer, or computed from these."""

    name: str
    tensor: Tensor


Traced: TypeAlias = "Value | Constant"
Result: TypeAlias = "str | tuple[str, ...]"


@dataclass
class Builder:
    """The graph under construction."""

    operations: list[Operation] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def add(self, operation: Operation) -> str:
        """Append an operation and return its value's name."""
        self.operations.append(operation)
        return operation.name

    def tensor(self, constant: Constant) -> str:
        """Register a constant's tensor and return its name in the file; tied tensors get one name."""
        for name, known in self.tensors.items():
            same_place = known.data_ptr() == constant.tensor.data_ptr() and known.stride() == constant.tensor.stride()
            if same_place and known.shape == constant.tensor.shape and known.numel() > 0:
                return name
        self.tensors[constant.name] = constant.tensor
        return constant.name


@dataclass(frozen=True)
class Site:
    """One traced call: ``arguments`` by schema name, ``shapes`` of its result(s), and where it stands."""

    builder: Builder
    name: str
    operator: str
    module: str
    arguments: Mapping[str, Any]
    shapes: tuple[Shape, ...]

    @property
    def where(self) -> str:
        """The call as an error message names it."""
        return f"{self.operator} at {self.module}" if self.module else self.operator

    def refuse(self, reason: str) -> NoRuleError:
        """Return the error for a call that cannot be translated."""
        return NoRuleError(f"{self.where}: {reason}")

    def emit(
        self,
        kind: str,
        inputs: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
        weights: Mapping[str, Constant | None] | None = None,
        *,
        suffix: str = "",
    ) -> str:
        """Append one operation of this call and return its value's name."""
        present = {role: constant for role, constant in (weights or {}).items() if constant is not None}
        return self.builder.add(
            Operation(
                name=self.name + suffix,
                kind=kind,
                inputs=tuple(inputs),
                weights={role: self.builder.tensor(constant) for role, constant in present.items()},
                attributes=dict(attributes or {}),
                module=self.module,
            )
        )

    def value(self, argument: str) -> Value:
        """Return an argument that must depend on the input."""
        traced = self.arguments[argument]
        if not isinstance(traced, Value):
            raise self.refuse(f"expected {argument} to be an activation, got a constant")
        return traced

    def weight(self, argument: str) -> Constant | None:
        """Return an argument that must be a stored weight, or None when absent."""
        traced = self.arguments[argument]
        if traced is not None and not isinstance(traced, Constant):
            raise self.refuse(f"expected {argument} to be a stored weight, got an activation")
        return traced

    def operand(self, argument: str) -> str:
        """Return the value name of any operand: activations as they are, constants and scalars as `constant`."""
        return self.named(self.arguments[argument], f"_{argument}")

    def named(self, traced: object, suffix: str) -> str:
        """Return the value name of an activation, constant tensor or scalar."""
        if isinstance(traced, Value):
            return traced.name
        if isinstance(traced, Constant):
            return self.emit("constant", (), {"value": None}, {"value": traced}, suffix=suffix)
        if isinstance(traced, int | float) and not isinstance(traced, bool) and math.isfinite(traced):
            return self.emit("constant", (), {"value": float(traced)}, suffix=suffix)
        raise self.refuse(f"expected a tensor or a finite number, got {traced!r}")

    def dim(self, argument: str = "dim", of: str = "self") -> int:
        """Return a dimension argument, counted from 0."""
        rank = len(self.value(of).shape)
        return int(self.arguments[argument]) % rank


Translation: TypeAlias = Callable[[Site], Result]


def family(prefix: str, names: str, translation: Translation) -> dict[str, Translation]:
    """Return the entries of operators that share a translation: ``names`` are appended to ``prefix``."""
    return {f"aten.{prefix}{name}": translation for name in names.split()}
