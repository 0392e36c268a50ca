r"""Linear relaxation of a batch of inputs: bounds of every layer and margins on a ball, by lines carried backward.

With lines lo z + lo' <= phi(z) <= up z + up' on [l, u] for every entry, a row A on y_k = phi_k(z_k) obeys

    A y_k + c  >=  (A^+ lo + A^- up) z_k  +  c + A^+ lo' + A^- up',         A^+ = max(A, 0), A^- = min(A, 0),

and z_k = W_k y_{k-1} + b_k carries it on. At the first layer, with z_0 = z_0(x0) + W_0 delta,

    A z_0 + c  >=  A z_0(x0) + c  -  ||A W_0||* ||delta||,

with the dual norm (l2: l2; linf: l1). So a row gives a certificate (v, s): its value is at least v - s ||delta|| on the
whole ball, the lines being valid there. With rows +-e_j this bounds layer k; a margin's row gives its certificate.

Plain floating point in the dtype of the inputs (float32 for searches): `lines_proof` proves the same numbers.
Reference: H. Zhang et al. (2018), arXiv 1811.00866 (CROWN).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from certify.bounds.local.layers import Chain
from certify.bounds.local.patches import patches_of
from certify.bounds.local.piecewise import Lines
from certify.bounds.local.sides import bounds_by_sides
from certify.results import Norm

MOST_ENTRIES = 2**24  # of the rows that are carried back at once
Bounds = tuple[Tensor, Tensor]


class Relaxation:
    """Linear relaxation around a batch of centres.

    ``bounds(0, ...)``, ``bounds(1, ...)``, ... are asked in order; between two calls the caller may tighten what it was
    given (``below`` holds, for the layers before, what is to be used). Layers are counted from 0; the last one, L - 1,
    is linear, so y_{L-2} are the last outputs of an activation. Rows that are only carried through, which have exact
    lines whatever their bounds, are bounded by |W| |y| + |b| alone.

    Args:
        chain: The network.
        z: The pre-activations of every layer at the centres, each ``[B, m_k]``; their dtype is that of all results.
        norm: Of the ball.
    """

    def __init__(self, chain: Chain, z: Sequence[Tensor], norm: Norm = "l2") -> None:
        self.chain, self.z, self.norm = chain, tuple(z), norm
        self.gram = _gram(chain, self.z[0].dtype) if norm == "l2" else None
        self.reach = _row_norms(chain, self.z[0].dtype, norm)
        windows = [layer.window for layer in chain.layers[:2]]
        self.patches = patches_of(*windows) if len(windows) == 2 else None
        self._lines: dict[int, tuple[Bounds, Lines]] = {}

    @classmethod
    def at(cls, chain: Chain, x: Tensor, norm: Norm = "l2") -> Relaxation:
        """Return the relaxation around inputs ``[B, *input_shape]``, in their dtype."""
        return cls(chain, chain.pre_activations(x), norm)

    def choose(self, index: Tensor) -> Relaxation:
        """Return the relaxation around some of the centres."""
        found = copy.copy(self)
        found.z, found._lines = tuple(z[index] for z in self.z), {}
        return found

    def bounds(self, k: int, eps: Tensor, below: Sequence[Bounds]) -> Bounds:
        """Return l <= z_k <= u on the balls of radius eps ``[B]``; each ``[B, m_k]``.

        Args:
            k: The layer.
            eps: The radii.
            below: The bounds of the layers before, at least those that hold on the same balls.
        """
        eps = eps[:, None]
        if k == 0:
            return self.z[0] - eps * self.reach, self.z[0] + eps * self.reach
        if k == 1 and self.patches is not None:
            return self._bounds_by_patches(eps, below)
        layer = self.chain.layers[k]
        widest = max(one.rows for one in self.chain.layers[:k]) * 2 * len(eps)
        needed = layer.is_relu or len(layer.bent) < layer.rows
        size = self._magnitude(k, below) if needed else torch.zeros_like(self.z[k])
        low, high = -size, size.clone()

        def lower(signs: Tensor, rows: Tensor) -> Tensor:
            return self._one_sided(k, signs, rows, eps, below)

        for at in torch.split(layer.bent, MOST_ENTRIES // widest + 1):
            if layer.is_relu:
                low[:, at], high[:, at] = bounds_by_sides(self.z[k], at, size, lower)
            else:
                ones = torch.ones_like(self.z[k][:, at])
                low[:, at], high[:, at] = lower(ones, at), -lower(-ones, at)
        return low, high

    def margins(
        self, rows: Tensor, const: Tensor, below: Sequence[Bounds]
    ) -> tuple[Tensor, Tensor, dict[int, tuple[Tensor, Tensor]]]:
        """Return certificates of rows on y_{L-2}: rows . y + const >= v - s ||delta|| on the ball.

        Args:
            rows: ``[B, o, m_{L-2}]``, for margins the differences of the last layer's rows.
            const: ``[B, o]``.
            below: The bounds of the layers 0 to L - 2; the ball matters through them only.

        Returns:
            v and s, ``[B, o]``, and for every layer k the rows ``[B, o, m_k]`` on y_k, before its lines, with their
            constants ``[B, o]``: A_k y_k + c_k is at most the row's value anywhere in the ball.
        """
        kept: dict[int, tuple[Tensor, Tensor]] = {}
        v, s = self._carry(rows, const, len(below) - 1, below, kept)
        return v, s, kept

    def lines(self, k: int, below: Sequence[Bounds]) -> Lines:
        """Return the lines of layer k on its bounds (kept, as long as the bounds are the same tensors)."""
        held = self._lines.get(k)
        if held is None or held[0][0] is not below[k][0] or held[0][1] is not below[k][1]:
            held = (below[k], self.chain.layers[k].relax(*below[k]))
            self._lines[k] = held
        return held[1]

    def _magnitude(self, k: int, below: Sequence[Bounds]) -> Tensor:
        """Return |W_k| |y_{k-1}| + |b_k|, from the bounds before."""
        layer, lines = self.chain.layers[k], self.lines(k - 1, below)
        size = torch.maximum(*(part.abs() for part in below[k - 1]))
        steepest = torch.maximum(lines.lower_slope.abs(), lines.upper_slope.abs())
        offset = torch.maximum(lines.lower_offset.abs(), lines.upper_offset.abs())
        found = layer.magnitude((steepest * size + offset).double()) + layer.bias.abs()
        return found.to(size.dtype)

    def _one_sided(self, k: int, signs: Tensor, at: Tensor, eps: Tensor, below: Sequence[Bounds]) -> Tensor:
        """Return lower bounds of the values of some rows, times signs."""
        layer, dtype = self.chain.layers[k], self.z[k].dtype
        rows = signs[..., None] * layer.weight(dtype)[at]
        v, s = self._carry(rows, signs * layer.bias[at].to(dtype), k - 1, below, None)
        return v - eps * s

    def _carry(
        self,
        rows: Tensor,
        const: Tensor,
        k: int,
        below: Sequence[Bounds],
        kept: dict[int, tuple[Tensor, Tensor]] | None,
    ) -> Bounds:
        """Return (v, s) of rows on y_k."""
        for i in range(k, -1, -1):
            if kept is not None:
                kept[i] = (rows, const)
            layer = self.chain.layers[i]
            if not layer.is_linear:
                rows, const = through_lines(rows, const, self.lines(i, below))
            if i > 0:
                const = const + rows @ layer.bias.to(rows.dtype)
                rows = layer.backward(rows)
        v = const + (rows @ self.z[0][..., None])[..., 0]
        return v, self._slope(rows)

    def _slope(self, rows: Tensor) -> Tensor:
        """Return the dual norm of A W_0 for rows A on z_0."""
        if self.gram is not None:
            return ((rows @ self.gram) * rows).sum(-1).clamp(min=0.0).sqrt()
        moved = self.chain.layers[0].backward(rows)
        return moved.norm(dim=-1) if self.norm == "l2" else moved.abs().sum(-1)

    def _bounds_by_patches(self, eps: Tensor, below: Sequence[Bounds]) -> Bounds:
        patches, layer = self.patches, self.chain.layers[1]
        if patches is None:
            raise ValueError("expected two convolutions")
        lines, z = self.lines(0, below), self.z[0]
        W = patches.second.weight.to(z.dtype).flatten(1)
        b = layer.bias.to(z.dtype).reshape(len(W), -1)
        lo, up, low, high = (
            patches.gather(part)
            for part in (
                lines.lower_slope,
                lines.upper_slope,
                lines.lower_slope * z + lines.lower_offset,
                lines.upper_slope * z + lines.upper_offset,
            )
        )

        def side(W: Tensor, b: Tensor) -> Tensor:
            positive, negative = W.clamp(min=0.0), W.clamp(max=0.0)
            v = (low @ positive.mT + high @ negative.mT).mT + b  # [B, c, P]
            rows = patches.to_input(positive * lo[:, :, None] + negative * up[:, :, None])
            s = rows.norm(dim=-1) if self.norm == "l2" else rows.abs().sum(-1)
            return (v - eps[:, :, None] * s.mT).flatten(1)

        return side(W, b), -side(-W, -b)


def through_lines(rows: Tensor, const: Tensor, lines: Lines) -> tuple[Tensor, Tensor]:
    """Return rows and constants on z, at most as large as rows on phi(z) on the lines' interval.

    Args:
        rows: ``[B, r, m]``.
        const: ``[B, r]``.
        lines: With tensors ``[B, m]``.
    """
    offset = rows.clamp(max=0.0) @ lines.upper_offset[..., None]
    if bool((lines.lower_offset != 0.0).any()):  # no relu has one; NaN counts
        offset = offset + rows.clamp(min=0.0) @ lines.lower_offset[..., None]
    below = rows * torch.where(rows > 0.0, lines.lower_slope[:, None], lines.upper_slope[:, None])
    return below, const + offset[..., 0]


def _gram(chain: Chain, dtype: torch.dtype) -> Tensor | None:
    """Return W_0 W_0^T where that is smaller than W_0."""
    first = chain.layers[0]
    if first.window is not None or first.rows > first.columns:
        return None
    W = first.weight(dtype)
    return W @ W.mT


def _row_norms(chain: Chain, dtype: torch.dtype, norm: Norm) -> Tensor:
    """Return the dual norms of the rows of W_0; of a convolution only inside the image."""
    first = chain.layers[0]
    if first.window is None:
        W = first.weight(dtype)
        return W.norm(dim=1) if norm == "l2" else W.abs().sum(1)
    inside = (first.window.positions >= 0).to(dtype)
    sizes = first.window.weight.to(dtype).abs()
    sizes = sizes.square() if norm == "l2" else sizes
    sums = (sizes.sum(1).flatten(1) @ inside.mT).flatten()
    return sums.sqrt() if norm == "l2" else sums
