r"""The linear forms a layer is made of: dense matrices, selections, and convolutions (`windows`).

All answer the same questions: ``forward`` is W x for vectors ``[B, columns]``, ``backward`` A W for rows ``[R, rows]``,
both in the dtype of what they are given; ``absolute`` the form of |W|; ``terms`` at least the number of terms of an
inner product with a row or a column; ``row_sums`` the sums of squares (l2) or sizes (linf) of the rows, as computed;
``norm_upper`` at least the norm of W. A layer of a residual network is a few of them, each in its place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from certify.bounds.local.windows import Window
from certify.norms import enclose, enclose_l1, enclose_linf
from certify.results import Norm

_ENCLOSED = {"l1": enclose_l1, "l2": enclose, "linf": enclose_linf}


@dataclass(frozen=True, eq=False)
class Dense:
    """A matrix ``[rows, columns]``."""

    weight: Tensor

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.weight.shape[0])

    @property
    def columns(self) -> int:
        """The number of columns."""
        return int(self.weight.shape[1])

    @property
    def terms(self) -> int:
        """The larger number of rows and columns."""
        return max(self.weight.shape)

    def matrix(self) -> Tensor:
        """Return the matrix."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return W x."""
        return x @ self._in(x.dtype).mT

    def backward(self, rows: Tensor) -> Tensor:
        """Return A W."""
        return rows @ self._in(rows.dtype)

    def absolute(self) -> Dense:
        """Return |W|."""
        return Dense(self.weight.abs())

    def row_sums(self, norm: Norm) -> Tensor:
        """Return the sum of the squares or sizes of every row."""
        return (self.weight.square() if norm == "l2" else self.weight.abs()).sum(1)

    def norm_upper(self, norm: str) -> float:
        """Return at least the norm, l1, l2 or linf."""
        return _ENCLOSED[norm](self.weight).upper

    def _in(self, dtype: torch.dtype) -> Tensor:
        return self.weight if dtype == self.weight.dtype else self._single

    @cached_property
    def _single(self) -> Tensor:
        return self.weight.to(torch.float32)


@dataclass(frozen=True, eq=False)
class Selection:
    """Row i is ``scale[i]`` times entry ``index[i]``, or zero where the index is -1.

    Example:
        >>> chosen = Selection(torch.tensor([1, -1]), torch.tensor([2.0, 0.0]), 2)
        >>> chosen.matrix().tolist(), chosen.forward(torch.tensor([[3.0, 4.0]])).tolist()
        ([[0.0, 2.0], [0.0, 0.0]], [[8.0, 0.0]])
    """

    index: Tensor
    scale: Tensor
    columns: int

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.index)

    @cached_property
    def terms(self) -> int:
        """The number of rows that read the same entry, at most."""
        used = self.index[self.index >= 0]
        return int(torch.bincount(used).max()) if len(used) else 1

    def matrix(self) -> Tensor:
        """Return the dense matrix."""
        return self.backward(torch.eye(self.rows, dtype=self.scale.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return W x."""
        return x[:, self.index.clamp(min=0)] * self._scale(x.dtype)

    def backward(self, rows: Tensor) -> Tensor:
        """Return A W."""
        found = rows.new_zeros(len(rows), self.columns)
        return found.index_add_(1, self.index.clamp(min=0), rows * self._scale(rows.dtype))

    def absolute(self) -> Selection:
        """Return |W|."""
        return replace(self, scale=self.scale.abs())

    def row_sums(self, norm: Norm) -> Tensor:
        """Return the square or size of every row's entry."""
        scale = self._scale(self.scale.dtype)
        return scale.square() if norm == "l2" else scale.abs()

    def norm_upper(self, norm: str) -> float:
        """Return at least the norm: a column has ``terms`` entries at most."""
        largest = float(self.scale.abs().max())
        return {"l1": largest * self.terms, "l2": largest * self.terms, "linf": largest}[norm] * (1.0 + 2.0**-40)

    def _scale(self, dtype: torch.dtype) -> Tensor:
        return torch.where(self.index >= 0, self.scale, 0.0).to(dtype)


Form: TypeAlias = Dense | Selection | Window


@dataclass(frozen=True, eq=False)
class Part:
    """A form in its place: its first row and its first column in the layer's matrix."""

    first_row: int
    first_column: int
    form: Form

    @property
    def at_rows(self) -> slice:
        """Its rows, as an index."""
        return slice(self.first_row, self.first_row + self.form.rows)

    @property
    def at_columns(self) -> slice:
        """Its columns, as an index."""
        return slice(self.first_column, self.first_column + self.form.columns)
