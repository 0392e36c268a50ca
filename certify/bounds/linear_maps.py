r"""The norms of the linear operations of a network, each enclosed once, in l2, linf and l1.

``abs_upper`` bounds the l2 norm of the map with all weights replaced by their absolute values, |W|: taking absolute
values changes neither row nor column sums, and ||A||_2^2 <= ||A||_1 ||A||_inf holds for every matrix, so

    || |W| ||_2  <=  sqrt( ||W||_1 ||W||_inf ).

Rounding errors of weights and of products are bounded through it: E with |E| <= t |W| entrywise has
||E||_2 <= || |E| ||_2 <= t || |W| ||_2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor

from certify.graph import Operation
from certify.norms import (
    THOROUGH_OPERATIONS,
    enclose,
    enclose_conv,
    enclose_conv_l1,
    enclose_conv_linf,
    enclose_l1,
    enclose_linf,
)
from certify.results import Bracket, Norm
from certify.rounding import mul_up, sqrt_up


@dataclass(frozen=True)
class LinearMap:
    """The enclosed norms of one linear operation (biases do not matter)."""

    l2: Bracket
    linf: Bracket
    l1: Bracket

    @property
    def abs_upper(self) -> float:
        """At least the l2 norm of the map of absolute weights."""
        return sqrt_up(mul_up(self.linf.upper, self.l1.upper))

    def bracket(self, norm: Norm) -> Bracket:
        """Return the enclosure in one norm."""
        return self.l2 if norm == "l2" else self.linf


Shapes = Mapping[str, tuple[int, ...]]
Geometry = dict[str, Any]


def enclose_operation(operation: Operation, weight: Tensor, shapes: Shapes) -> LinearMap:
    """Return the norms of a linear operation of the graph with its weight replaced by ``weight``.

    Args:
        operation: An operation of a kind in `WEIGHTED`.
        weight: Its weight, or the weight scaled per channel.
        shapes: The shape of every value for one example.
    """
    geometry = WEIGHTED[operation.kind](operation)
    if geometry is None:
        return enclose_matrix(weight)
    size = shapes[operation.inputs[0]][2:]
    return LinearMap(
        enclose_conv(weight, size, most_operations=THOROUGH_OPERATIONS, **geometry),
        enclose_conv_linf(weight, size, **geometry),
        enclose_conv_l1(weight, size, **geometry),
    )


def enclose_matrix(matrix: Tensor) -> LinearMap:
    """Return the norms of a dense matrix."""
    return LinearMap(enclose(matrix), enclose_linf(matrix), enclose_l1(matrix))


def absolute_upper(operation: Operation, weight: Tensor, shapes: Shapes) -> float:
    """Return at least the l2 norm of a linear operation with the absolute values of ``weight``: row sums alone."""
    geometry = WEIGHTED[operation.kind](operation)
    if geometry is None:
        rows, columns = enclose_linf(weight), enclose_l1(weight)
    else:
        size = shapes[operation.inputs[0]][2:]
        rows, columns = enclose_conv_linf(weight, size, **geometry), enclose_conv_l1(weight, size, **geometry)
    return sqrt_up(mul_up(rows.upper, columns.upper))


def _linear(_: Operation) -> None:
    return None


def _conv(operation: Operation) -> Geometry:
    return {
        "stride": operation.integers("stride"),
        "padding": operation.pairs("padding"),
        "dilation": operation.integers("dilation"),
        "groups": operation.integer("groups"),
        "padding_mode": operation.text("padding_mode"),
    }


def _conv_transpose(operation: Operation) -> Geometry:
    return {
        "stride": operation.integers("stride"),
        "padding": operation.integers("padding"),
        "dilation": operation.integers("dilation"),
        "groups": operation.integer("groups"),
        "output_padding": operation.integers("output_padding"),
        "transposed": True,
    }


WEIGHTED: Mapping[str, Callable[[Operation], Geometry | None]] = MappingProxyType(
    {"linear": _linear, "conv": _conv, "conv_transpose": _conv_transpose}
)
"""The geometry of each linear kind, as `certify.norms.enclose_conv` takes it; None for a matrix."""
