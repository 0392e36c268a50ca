r"""Ellipsoids dz dz^T <= s^2 M of a layer: given by their matrix, or in factors, M = J J^T, for a first layer.

A first layer that is a convolution never needs J as a dense matrix for products with many rows: images V J go back
through the convolution (by patches where the second layer is one too), J^T diag(g) J is summed window by window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from certify.bounds.local.layers import Layer
from certify.bounds.local.patches import Patches
from certify.bounds.local.rows import pick_rows, pick_square
from certify.bounds.local.windows import Window


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

    def times(self, x: Tensor) -> Tensor:
        """Return x M for rows ``[B, o, p]``."""
        return x @ self.M


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
        return J @ J.mT

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

    def image(self, V: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Return A = V J ``[B, r, d]``.

        Args:
            V: ``[B, r, p]``.
            chosen: Where V is W_2 times a diagonal: which rows of W_2 they are ``[B, r]``.
        """
        if chosen is not None and self.patches is not None and len(V) == 1:
            return self._stretched(patch_image(self.patches, V, chosen))
        return self._stretched(self.layer.backward(V))

    def crossing(self, A: Tensor) -> Tensor:
        """Return A J^T ``[B, r, p]``."""
        A = self._stretched(A)
        if self.layer.window is None:
            return A @ self.layer.weight(A.dtype).mT
        return self.layer.window.forward(A.flatten(0, -2)).reshape(*A.shape[:-1], -1)

    def times(self, x: Tensor) -> Tensor:
        """Return x M for rows ``[B, o, p]``."""
        return self.crossing(self.image(x))

    def _stretched(self, A: Tensor) -> Tensor:
        return A if self.stretch is None else A * self.stretch[:, None]


def patch_image(patches: Patches, V: Tensor, chosen: Tensor) -> Tensor:
    """Return V W_1 ``[1, r, d]`` for rows V ``[1, r, m]`` that are 0 outside their row's window of the second layer."""
    windows = len(patches.second.positions)
    at = chosen[0] % windows
    channels = torch.arange(patches.second.channels)[:, None]
    places = channels * (V.shape[2] // len(channels)) + patches.second.positions[at].clamp(min=0)[:, None]  # [r, c, K]
    held = (patches.second.positions[at] >= 0)[:, None]
    rows = (V[0].gather(1, places.flatten(1)).reshape(places.shape) * held).flatten(1)
    moved = rows @ patches.transfer.to(V.dtype)  # [r, c_0 R]
    pixels = patches.places[at][:, None] + torch.arange(patches.first.channels)[:, None] * math.prod(
        patches.first.sizes
    )
    pixels = torch.where(patches.inside[at][:, None], pixels, patches.first.columns).flatten(1)
    found = V.new_zeros(len(rows), patches.first.columns + 1).scatter_(1, pixels, moved)
    return found[None, :, :-1]


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


Ellipsoid: TypeAlias = Explicit | Factored
