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
from certify.bounds.local.forms import Dense, Part
from certify.bounds.local.piecewise import Lines
from certify.bounds.local.windows import Window
from certify.bounds.magnitudes import nextafter_up
from certify.results import Norm
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

    Its matrix is given as ``window`` (the whole layer is one convolution of the whole vector before it, its scales
    folded in), as ``dense``, or as ``parts``, forms in their places with zeros elsewhere. The dense matrix of a
    convolution or of parts is only made when it is asked for.
    """

    columns: int
    bias: Tensor
    bias_error: Tensor
    error: float
    segments: tuple[Segment, ...]
    window: Window | None = None
    dense: Tensor | None = None
    parts: tuple[Part, ...] = ()

    @property
    def rows(self) -> int:
        """The number m of rows."""
        return len(self.bias)

    @cached_property
    def placed(self) -> tuple[Part, ...]:
        """The forms the matrix is made of, in their places."""
        if self.window is not None:
            return (Part(0, 0, self.window),)
        return self.parts if self.dense is None else (Part(0, 0, Dense(self.dense)),)

    @cached_property
    def matrix(self) -> Tensor:
        """The stored matrix W, float64 ``[m, n]``."""
        if self.dense is not None:
            return self.dense
        found = torch.zeros(self.rows, self.columns, dtype=torch.float64)
        for part in self.placed:
            found[part.at_rows, part.at_columns] = part.form.matrix()
        return found

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
        """Whether every row that is not just carried through is a relu."""
        return all(kind in ("relu", IDENTITY.kind) for kind in self.kinds)

    def weight(self, dtype: torch.dtype) -> Tensor:
        """Return the matrix ``[m, n]`` in float64, or rounded to float32."""
        return self.matrix if dtype == torch.float64 else self.single

    def forward(self, h: Tensor) -> Tensor:
        """Return z = W h + b for vectors h ``[B, n]``, in the dtype of h; ``[B, m]``."""
        return self._times(h) + self.bias.to(h.dtype)

    def backward(self, rows: Tensor) -> Tensor:
        """Return A W for rows A ``[..., m]``, in the dtype of A; ``[..., n]``."""
        flat = rows.reshape(-1, self.rows)
        if len(self.placed) == 1 and self.placed[0].form.columns == self.columns:
            found = self.placed[0].form.backward(flat[:, self.placed[0].at_rows])
        else:
            found = flat.new_zeros(len(flat), self.columns)
            for part in self.placed:
                found[:, part.at_columns] += part.form.backward(flat[:, part.at_rows])
        return found.reshape(*rows.shape[:-1], self.columns)

    def _times(self, h: Tensor) -> Tensor:
        """Return W h."""
        if len(self.placed) == 1 and self.placed[0].form.rows == self.rows:
            return self.placed[0].form.forward(h[:, self.placed[0].at_columns])
        found = h.new_zeros(len(h), self.rows)
        for part in self.placed:
            found[:, part.at_rows] += part.form.forward(h[:, part.at_columns])
        return found

    def magnitude(self, h: Tensor) -> Tensor:
        """Return |W| h for non-negative float64 vectors h ``[..., n]``; ``[..., m]``, with the rounding of its sums."""
        return self._absolute._times(h.reshape(-1, self.columns)).reshape(*h.shape[:-1], self.rows)

    def order(self, rows: Tensor) -> Tensor | None:
        """Return an order of some rows of a convolution in which neighbours read much the same; else None."""
        return None if self.window is None else torch.argsort(rows % len(self.window.positions), stable=True)

    def backward_magnitude(self, rows: Tensor) -> Tensor:
        """Return A |W| for non-negative float64 rows A ``[r, m]``; ``[r, n]``, with the rounding of its sums."""
        return self._absolute.backward(rows)

    @cached_property
    def _absolute(self) -> Layer:
        parts = tuple(replace(part, form=part.form.absolute()) for part in self.placed)
        return replace(self, window=None, dense=None, parts=parts)

    @cached_property
    def terms(self) -> int:
        """At least the number of terms of an inner product of a column of W, or of a row."""
        return sum(part.form.terms for part in self.placed)

    def row_norms(self, norm: Norm) -> Tensor:
        """Return at least the dual norm of every row of the real W* (l2 for l2, l1 for linf), float64 ``[m]``."""
        sums = torch.zeros(self.rows, dtype=torch.float64)
        for part in self.placed:
            sums[part.at_rows] += part.form.row_sums(norm)
        grown = 1.0 + 4.0 * (gamma_up(self.columns + 8.0) + self.error)
        above = nextafter_up((sums.sqrt() if norm == "l2" else sums) * grown)
        return torch.where(sums > 0.0, above, 0.0)

    @cached_property
    def gain(self) -> float:
        """At least the l2 norm of the real W*: that of W, and ``error`` times sqrt(||W||_1 ||W||_inf)."""
        rounded = mul_up(self.error, sqrt_up(mul_up(self._norm_upper("l1"), self._norm_upper("linf"))))
        return add_up(self._norm_upper("l2"), rounded)

    def _norm_upper(self, norm: str) -> float:
        """Return at least a norm of W, that of the matrix of its parts' norms: in l2 by sqrt(||.||_1 ||.||_inf)."""
        norms = [(part, part.form.norm_upper(norm)) for part in self.placed]
        if len(norms) == 1:
            return norms[0][1]
        rows = max(add_up(*(size for part, size in norms if part.first_row == p.first_row)) for p, _ in norms)
        columns = max(add_up(*(size for part, size in norms if part.first_column == p.first_column)) for p, _ in norms)
        return {"l1": columns, "l2": sqrt_up(mul_up(rows, columns)), "linf": rows}[norm]

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
