r"""Ellipsoids dz dz^T <= s^2 M of a layer: given by their matrix, or in factors, M = J J^T, for a first layer.

A first layer that is a convolution never needs J as a dense matrix for products with many rows: images V J go back
through the convolution (by patches where the second layer is one too), J^T diag(g) J is summed window by window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from certify.bounds.local.layers import Layer
from certify.bounds.local.patches import Patches
from certify.bounds.local.rows import gram_in_order, outer, pick_columns, pick_rows, pick_square
from certify.bounds.local.windows import Window


class Ellipsoid(Protocol):
    """What the recursion asks of an ellipsoid of p rows."""

    def diagonal(self) -> Tensor:
        """Return M_jj ``[1 or B, p]``."""

    def square(self, index: Tensor) -> Tensor:
        """Return M_UU ``[B, q, q]``."""

    def couple(self, x: Tensor, index: Tensor) -> Tensor:
        """Return (x M)_:U ``[B, o, q]`` for rows x ``[B, o, p]``."""


class InFactors(Ellipsoid, Protocol):
    """An ellipsoid M = F F^T whose factor is only applied."""

    def image(self, V: Tensor) -> Tensor:
        """Return A = V F ``[B, r, k]`` for V ``[B, r, p]``."""

    def crossing(self, A: Tensor, index: Tensor) -> Tensor:
        """Return A (F_U)^T ``[B, r, q]``."""


@dataclass(frozen=True, eq=False)
class Explicit:
    """An ellipsoid given by its matrix M ``[B, p, p]``."""

    M: Tensor

    def diagonal(self) -> Tensor:
        """Return M_jj ``[B, p]``."""
        return self.M.diagonal(dim1=1, dim2=2)

    def square(self, index: Tensor) -> Tensor:
        """Return M_UU ``[B, q, q]``."""
        return pick_square(self.M, index)

    def couple(self, x: Tensor, index: Tensor) -> Tensor:
        """Return (x M)_:U ``[B, o, q]``."""
        return pick_columns(x @ self.M, index)


@dataclass(frozen=True, eq=False)
class Factored:
    """The ellipsoid M = J J^T of a first layer, J = W_1 diag(stretch), on all its rows.

    ``stretch`` is ``[B, d]`` or None for ones, ``gram`` is W_1 W_1^T where it is kept, ``patches`` the first two layers
    where both are convolutions.
    """

    layer: Layer
    dtype: torch.dtype
    stretch: Tensor | None = None
    gram: Tensor | None = None
    patches: Patches | None = None

    def diagonal(self) -> Tensor:
        """Return M_jj ``[1 or B, p]``."""
        if self.stretch is None:
            return self.layer.row_norms("l2").square().to(self.dtype)[None]
        return (self.layer.weight(self.dtype) * self.stretch[:, None]).square().sum(2)

    def square(self, index: Tensor) -> Tensor:
        """Return M_UU ``[B, q, q]``."""
        if self.stretch is None and self.gram is not None:
            return pick_square(self.gram[None].expand(index.shape[0], -1, -1), index)
        J = self.rows(index)
        if len(J) > 1:
            return outer(J)
        return gram_in_order(J[0], J[0, :, :0], self.layer.order(index[0]))[None]

    def rows(self, index: Tensor) -> Tensor:
        """Return J_U ``[B, q, d]``."""
        return self._stretched(pick_rows(self.layer.weight(self.dtype)[None], index))

    def weighted(self, g: Tensor) -> Tensor:
        """Return J^T diag(g) J ``[B, d, d]`` for weights ``[B, p]``, of which most may be 0."""
        if self.layer.window is not None and self.layer.window.groups == 1:
            found = window_products(self.layer.window, g)
        else:
            W = self.layer.weight(self.dtype)
            found = W.mT @ (W * g[..., None])
        return found if self.stretch is None else found * self.stretch[:, None] * self.stretch[:, :, None]

    def image(self, V: Tensor) -> Tensor:
        """Return A = V J ``[B, r, d]`` for V ``[B, r, p]``."""
        return self._stretched(self.layer.backward(V))

    def patch_image(self, values: Tensor, chosen: Tensor) -> Tensor:
        """Return V J ``[1, r, d]`` for rows V of the second layer given by their values (`Patches.entries`)."""
        if self.patches is None:
            raise ValueError("expected two convolutions in a row")
        return self._stretched(self.patches.image(values, chosen)[None])

    def crossing(self, A: Tensor, index: Tensor) -> Tensor:
        """Return A J_U^T ``[B, r, q]``."""
        A = self._stretched(A)
        if self.layer.window is None:
            return pick_columns(A @ self.layer.weight(A.dtype).mT, index)
        return pick_columns(self.layer.window.forward(A.flatten(0, -2)).reshape(*A.shape[:-1], self.layer.rows), index)

    def couple(self, x: Tensor, index: Tensor) -> Tensor:
        """Return (x M)_:U ``[B, o, q]``."""
        return self.crossing(self.image(x), index)

    def _stretched(self, A: Tensor) -> Tensor:
        return A if self.stretch is None else A * self.stretch[:, None]


def window_products(window: Window, g: Tensor) -> Tensor:
    """Return W^T diag(g) W ``[B, d, d]`` of a convolution without groups, for g ``[B, m]``.

    Row (c, p) reads only the entries of window p: position by position, the products of its kernels are summed over the
    channels c and added where they belong.
    """
    kernel = window.weight.to(g.dtype).flatten(1)  # [c, i k]
    P, K = window.positions.shape
    entries = kernel.shape[1] // K
    parts = (g.reshape(len(g), len(kernel), P).mT[..., None] * kernel).mT @ kernel  # [B, P, i k, i k]
    side = window.columns // entries
    at = window.positions[:, None, :] + torch.arange(entries)[:, None] * side  # [P, i, k]
    at = torch.where(window.positions[:, None, :] >= 0, at, window.columns).reshape(P, -1)
    d = window.columns + 1  # padding goes to a row and a column of its own
    flat = (at[:, :, None] * d + at[:, None, :]).reshape(-1)
    found = g.new_zeros(len(g), d * d).index_add_(1, flat, parts.flatten(1))
    return found.reshape(-1, d, d)[:, :-1, :-1]
