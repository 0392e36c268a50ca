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

from certify.graph import Graph, Operation
from certify.norms import enclose, enclose_conv, enclose_conv_l1, enclose_conv_linf, enclose_l1, enclose_linf
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


def enclose_operation(graph: Graph, operation: Operation, weight: Tensor, shapes: Shapes) -> LinearMap:
    """Return the norms of a linear operation of the graph with its weight replaced by ``weight``.

    Args:
        graph: The network.
        operation: An operation of a kind in `WEIGHTED`.
        weight: Its weight, or the weight scaled per channel.
        shapes: The shape of every value for one example.
    """
    return WEIGHTED[operation.kind](graph, operation, weight, shapes)


def enclose_matrix(matrix: Tensor) -> LinearMap:
    """Return the norms of a dense matrix."""
    return LinearMap(enclose(matrix), enclose_linf(matrix), enclose_l1(matrix))


def _linear(_graph: Graph, _operation: Operation, weight: Tensor, _shapes: Shapes) -> LinearMap:
    return enclose_matrix(weight)


def _conv(_: Graph, operation: Operation, weight: Tensor, shapes: Shapes) -> LinearMap:
    geometry = {
        "stride": operation.integers("stride"),
        "padding": operation.pairs("padding"),
        "dilation": operation.integers("dilation"),
        "groups": operation.integer("groups"),
        "padding_mode": operation.text("padding_mode"),
    }
    return _enclose_convolution(weight, shapes[operation.inputs[0]][2:], geometry)


def _conv_transpose(_: Graph, operation: Operation, weight: Tensor, shapes: Shapes) -> LinearMap:
    geometry = {
        "stride": operation.integers("stride"),
        "padding": operation.integers("padding"),
        "dilation": operation.integers("dilation"),
        "groups": operation.integer("groups"),
        "output_padding": operation.integers("output_padding"),
        "transposed": True,
    }
    return _enclose_convolution(weight, shapes[operation.inputs[0]][2:], geometry)


def _enclose_convolution(kernel: Tensor, size: tuple[int, ...], geometry: dict[str, Any]) -> LinearMap:
    return LinearMap(
        enclose_conv(kernel, size, **geometry),
        enclose_conv_linf(kernel, size, **geometry),
        enclose_conv_l1(kernel, size, **geometry),
    )


WEIGHTED: Mapping[str, Callable[[Graph, Operation, Tensor, Shapes], LinearMap]] = MappingProxyType(
    {"linear": _linear, "conv": _conv, "conv_transpose": _conv_transpose}
)
