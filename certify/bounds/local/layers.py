r"""A network as a chain of layers: z_k = W_k h_{k-1} + b_k, h_k = phi_k(z_k), phi_k acting on each entry alone.

h_{-1} is the input, flattened. The rows of a layer stand in *segments*, each with one activation; the activation
``identity`` marks rows that only carry a value through (a residual connection, an average pool before a dense layer).
The last layer has identity rows only: its outputs are the logits.

What is exact. The network's own weights and biases W*, b* are real numbers; the stored floats obey

    |W* - W| <= error |W| entrywise,        |b* - b| <= bias_error entrywise,

with ``error = 0`` and ``bias_error = 0`` unless a batch norm or a normalisation was folded in or a constant added.
Entries of W are 0 or between 2^-500 and 2^500 in size, so that no square of one under- or overflows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from certify.bounds.local.activations import (
    IDENTITY,
    Activation,
    centred_slopes,
    curvature,
    evaluate,
    local_slopes,
    relax,
)
from certify.bounds.local.piecewise import Lines
from certify.bounds.local.windows import Window
from certify.bounds.magnitudes import nextafter_up
from certify.norms import enclose, enclose_conv, enclose_conv_l1, enclose_conv_linf, enclose_l1, enclose_linf
from certify.results import Bracket, Norm
from certify.rounding import add_up, gamma_up, mul_up, sqrt_up


@dataclass(frozen=True, eq=False)
class Segment:
    """Rows ``first`` to ``last - 1`` of a layer: the value of the network they belong to, and their activation."""

    first: int
    last: int
    activation: Activation
    value: str

    @property
    def rows(self) -> slice:
        """The rows, as an index."""
        return slice(self.first, self.last)


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of a chain: m rows on n columns.

    ``window`` is set when the whole layer is one convolution of the whole vector before it (its scales folded in), and
    then the dense matrix is only made when it is asked for; otherwise ``dense`` is given.
    """

    columns: int
    bias: Tensor
    bias_error: Tensor
    error: float
    segments: tuple[Segment, ...]
    window: Window | None = None
    dense: Tensor | None = None

    @property
    def rows(self) -> int:
        """The number m of rows."""
        return len(self.bias)

    @cached_property
    def matrix(self) -> Tensor:
        """The stored matrix W, float64 ``[m, n]``."""
        if self.dense is not None:
            return self.dense
        if self.window is None:
            raise ValueError("expected a layer with a dense matrix or a convolution, got neither")
        return self.window.matrix()

    @cached_property
    def single(self) -> Tensor:
        """The matrix W rounded to float32, ``[m, n]``."""
        return self.matrix.to(torch.float32)

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The activation kind of every segment."""
        return tuple(segment.activation.kind for segment in self.segments)

    @property
    def is_linear(self) -> bool:
        """Whether every row is carried through unchanged."""
        return all(kind == IDENTITY.kind for kind in self.kinds)

    @cached_property
    def bent(self) -> Tensor:
        """The numbers of the rows that are not just carried through."""
        parts = [torch.arange(one.first, one.last) for one in self.segments if one.activation.kind != IDENTITY.kind]
        return torch.cat([torch.zeros(0, dtype=torch.long), *parts])

    @property
    def is_relu(self) -> bool:
        """Whether every row is a relu."""
        return all(kind == "relu" for kind in self.kinds)

    def weight(self, dtype: torch.dtype) -> Tensor:
        """Return the matrix ``[m, n]`` in float64, or rounded to float32."""
        return self.matrix if dtype == torch.float64 else self.single

    def forward(self, h: Tensor) -> Tensor:
        """Return z = W h + b for vectors h ``[B, n]``, in the dtype of h; ``[B, m]``."""
        linear = h @ self.weight(h.dtype).mT if self.window is None else self.window.forward(h)
        return linear + self.bias.to(h.dtype)

    def backward(self, rows: Tensor) -> Tensor:
        """Return A W for rows A ``[..., m]``, in the dtype of A; ``[..., n]``."""
        if self.window is None:
            return rows @ self.weight(rows.dtype)
        return self.window.backward(rows.reshape(-1, self.rows)).reshape(*rows.shape[:-1], self.columns)

    def magnitude(self, h: Tensor) -> Tensor:
        """Return |W| h for non-negative float64 vectors h ``[..., n]``; ``[..., m]``, with the rounding of its sums."""
        if self._absolute.window is not None:
            return self._absolute.window.forward(h.reshape(-1, self.columns)).reshape(*h.shape[:-1], self.rows)
        return h @ self._absolute.matrix.mT

    @cached_property
    def _absolute(self) -> Layer:
        window = None if self.window is None else replace(self.window, weight=self.window.weight.abs())
        return replace(self, window=window, dense=None if self.dense is None else self.dense.abs())

    @property
    def terms(self) -> int:
        """At least the number of terms of an inner product of a column of W, or of a row."""
        if self.window is None:
            return max(self.rows, self.columns)
        return self.window.weight.numel() // min(self.window.weight.shape[:2])

    def row_norms(self, norm: Norm) -> Tensor:
        """Return at least the dual norm of every row of the real W* (l2 for l2, l1 for linf), float64 ``[m]``."""
        if self.window is None:
            sums = (self.matrix.square() if norm == "l2" else self.matrix.abs()).sum(1)
        else:
            sizes = self.window.weight.square() if norm == "l2" else self.window.weight.abs()
            inside = (self.window.positions >= 0).to(torch.float64)
            blocks = sizes.sum(1).flatten(1)
            sums = (blocks @ inside.mT).flatten()
        grown = 1.0 + 4.0 * (gamma_up(self.columns + 8.0) + self.error)
        above = nextafter_up((sums.sqrt() if norm == "l2" else sums) * grown)
        return torch.where(sums > 0.0, above, 0.0)

    @cached_property
    def gain(self) -> float:
        """At least the l2 norm of the real W*: that of W, and ``error`` times sqrt(||W||_1 ||W||_inf)."""
        rounded = sqrt_up(mul_up(self._enclosed("l1").upper, self._enclosed("linf").upper))
        return add_up(self._enclosed("l2").upper, mul_up(self.error, rounded))

    def _enclosed(self, norm: str) -> Bracket:
        if self.window is None:
            return {"l2": enclose, "l1": enclose_l1, "linf": enclose_linf}[norm](self.matrix)
        window = self.window
        rule = {"l2": enclose_conv, "l1": enclose_conv_l1, "linf": enclose_conv_linf}[norm]
        return rule(
            window.weight,
            window.sizes,
            stride=window.stride,
            padding=window.padding,
            dilation=window.dilation,
            groups=window.groups,
        )

    def activate(self, z: Tensor) -> Tensor:
        """Return h = phi(z) for z ``[..., m]``."""
        return self.join(lambda segment: evaluate(segment.activation, z[..., segment.rows]))

    def local_slopes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slope range of every row between any two points of its bounds ``[..., m]``."""
        return self._pair(lambda one, at: local_slopes(one, lower[..., at], upper[..., at]))

    def centred_slopes(self, low: Tensor, high: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slope range of every row between its centre, in [low, high], and points of [lower, upper]."""
        return self._pair(
            lambda one, at: centred_slopes(one, low[..., at], high[..., at], lower[..., at], upper[..., at])
        )

    def curvature(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the activation is surely convex, and where concave, on [lower, upper]."""
        return self._pair(lambda one, at: curvature(one, lower[..., at], upper[..., at]))

    def relax(self, lower: Tensor, upper: Tensor) -> Lines:
        """Return a line below and one above the activation of every row on [lower, upper]."""
        parts = [relax(one.activation, lower[..., one.rows], upper[..., one.rows]) for one in self.segments]
        if len(parts) == 1:
            return parts[0]
        names = ("lower_slope", "lower_offset", "upper_slope", "upper_offset")
        return Lines(*(torch.cat([getattr(part, name) for part in parts], -1) for name in names))

    def _pair(self, part: Callable[[Activation, slice], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        pairs = [part(segment.activation, segment.rows) for segment in self.segments]
        if len(pairs) == 1:
            return pairs[0]
        return torch.cat([pair[0] for pair in pairs], -1), torch.cat([pair[1] for pair in pairs], -1)

    def join(self, part: Callable[[Segment], Tensor]) -> Tensor:
        """Return the parts of all segments beside each other, along the last dimension."""
        if len(self.segments) == 1:
            return part(self.segments[0])
        return torch.cat([part(segment) for segment in self.segments], -1)


@dataclass(frozen=True, eq=False)
class Chain:
    """A network up to one of its values, layer by layer; the last layer is linear."""

    layers: tuple[Layer, ...]
    input_shape: tuple[int, ...]

    @property
    def inputs(self) -> int:
        """The number of input entries."""
        return self.layers[0].columns

    @property
    def outputs(self) -> int:
        """The number of output entries (classes, for logits)."""
        return self.layers[-1].rows

    def pre_activations(self, x: Tensor) -> list[Tensor]:
        """Return z_k of every layer for inputs x ``[B, *input_shape]``, in the dtype of x; each ``[B, m_k]``."""
        h, found = x.flatten(1), []
        for layer in self.layers:
            found.append(layer.forward(h))
            h = layer.activate(found[-1])
        return found

    def run(self, x: Tensor) -> Tensor:
        """Return the value the chain ends in, flattened, for inputs x ``[B, *input_shape]``."""
        return self.pre_activations(x)[-1]
