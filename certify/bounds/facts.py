"""What the rules may ask about a network: shapes, exact constants, enclosed norms. Computed once per network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from certify.bounds.constants import exact_constants, independent_values
from certify.bounds.folds import Fold, find_folds
from certify.bounds.gradient_steps import GradientStep, find_gradient_steps
from certify.bounds.linear_maps import WEIGHTED, LinearMap, Shapes, enclose_matrix, enclose_operation
from certify.bounds.tokens import Known, Sizes, token_sizes
from certify.errors import InputError
from certify.graph import Graph, Operation, merge_pads, value_shapes
from certify.results import Norm


@dataclass(frozen=True, eq=False)
class Facts:
    """One network, in float64 on the CPU, and everything about it that does not depend on an example.

    ``shapes`` are those of one example (batch size 1); ``constants`` the exactly known values that do not depend on the
    input, ``independent`` all values that do not; ``maps`` the enclosed norms of the linear operations; ``folds`` and
    ``steps`` are groups of operations bounded as one; ``norm`` is the one the rules answer in.
    """

    graph: Graph
    shapes: Shapes
    constants: Mapping[str, Tensor]
    independent: frozenset[str]
    maps: Mapping[str, LinearMap]
    folds: tuple[Fold, ...]
    steps: tuple[GradientStep, ...] = ()
    norm: Norm = "l2"

    def into(self, norm: Norm) -> Facts:
        """Return the same facts, answering in another norm."""
        return replace(self, norm=norm)

    def shape(self, operation: Operation, position: int = 0) -> tuple[int, ...]:
        """Return the shape of one input value of an operation."""
        return self.shapes[operation.inputs[position]]

    def is_constant(self, operation: Operation, position: int) -> bool:
        """Tell whether an input value of an operation is known exactly."""
        return operation.inputs[position] in self.constants

    @cached_property
    def groups_by_value(self) -> Mapping[str, tuple[Fold | GradientStep, ...]]:
        """The groups of operations, bounded as one, that end in each value."""
        groups: tuple[Fold | GradientStep, ...] = (*self.folds, *self.steps)
        return {value: tuple(g for g in groups if g.value == value) for value in {g.value for g in groups}}

    @cached_property
    def _sizes(self) -> Mapping[str, Sizes]:
        return token_sizes(Known(self.graph, self.shapes, self.constants, self.maps))

    def token_limit(self, name: str) -> float:
        """Return at least the l2 norm of each row (last dimension) of a value over all inputs; infinity if none is."""
        sizes = self._sizes.get(name)
        return math.inf if sizes is None else max(sizes.rows())

    @cached_property
    def absolute(self) -> Graph:
        """The network with the absolute values of its tensors, to evaluate |W| |h| + |b|."""
        sizes = {name: t.abs() if t.is_floating_point() else t for name, t in self.graph.tensors.items()}
        return replace(self.graph, tensors=sizes)  # of constants, which no weight is, masks stay as they are


def collect_structure(graph: Graph) -> Facts:
    """Return the facts of a network that need no enclosure: no linear maps, no groups.

    Raises:
        InputError: If a tensor is not finite, or an operation does not fit its inputs.
    """
    check_finite(graph.tensors)
    exact = merge_pads(graph.to(torch.float64, "cpu"))
    constants = exact_constants(exact)
    products = {operation.name: enclose_matmul(operation, constants) for operation in exact}
    maps = {name: found for name, found in products.items() if found is not None}
    return Facts(exact, value_shapes(exact), constants, independent_values(exact), maps, ())


def collect_facts(graph: Graph) -> Facts:
    """Return all facts of a network.

    Raises:
        InputError: If a tensor is not finite, an operation does not fit its inputs, or subnormals are flushed to zero.
        SoundnessError: If an enclosure is broken (a bug of this tool).
    """
    check_arithmetic()
    plain = collect_structure(graph)
    exact, shapes = plain.graph, plain.shapes
    maps = {
        operation.name: enclose_operation(operation, exact.required_weight(operation, "weight"), shapes)
        for operation in exact
        if operation.kind in WEIGHTED
    }
    steps = find_gradient_steps(exact, shapes, maps)
    return replace(plain, maps={**maps, **plain.maps}, folds=find_folds(exact, shapes), steps=steps)


def enclose_matmul(operation: Operation, constants: Mapping[str, Tensor]) -> LinearMap | None:
    """Return the norms of x C, or of C x, for a matmul with a constant matrix C; None for any other operation."""
    if operation.kind != "matmul" or not any(name in constants for name in operation.inputs):
        return None
    left, right = operation.inputs
    factor = constants[right].mT if right in constants and constants[right].dim() == 2 else constants.get(left)
    return enclose_matrix(factor.contiguous()) if factor is not None and factor.dim() == 2 else None


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that hold NaN or infinity.

    Raises:
        InputError: Naming the first such tensor.
    """
    for name, tensor in tensors.items():
        bad = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise InputError(f"tensor {name!r}: expected finite numbers, got {bad} that are NaN or infinite")


def check_arithmetic() -> None:
    """Refuse to prove anything while subnormal numbers are flushed to zero: the error model does not hold then.

    Raises:
        InputError: If they are.
    """
    if float(torch.tensor([2.0**-1022], dtype=torch.float64) / 2.0) == 0.0:
        raise InputError(
            "expected IEEE arithmetic, got subnormals flushed to zero; call torch.set_flush_denormal(False)"
        )
