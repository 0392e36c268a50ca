r"""The ellipsoid of a second layer, in factors: rows that stay on one line are never multiplied out.

Behind a first layer in factors, M_0 = F_0 F_0^T, the recursion's P is a sum of squares: with g = V W_1, rows V on the
second layer's values,

    V M_1 V^T = S S^T + R R^T,      S S^T = g_U C D C g_U^T,      R R^T = g B (M_0 + M_0:U K^-1 M_0U:) B g^T

(`halves`, where g B M_0 B g^T may belong to S S^T), and M_1 = F F^T with the rows of F = [S, R] at V = I. The recursion
needs M_1 only between rows that may bend, and in products with a few functionals: so F is made for those rows alone,
and everything else goes back through the layer.

S is sparse where the second layer is a convolution: its rows reach only the entries of their windows (`add_gram`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from certify.bounds.local.ellipsoids import Factored
from certify.bounds.local.layers import Layer
from certify.bounds.local.recursion import Step, halves, joined, spread_of
from certify.bounds.local.rows import gram_in_order, outer, pick_rows


@dataclass(frozen=True, eq=False)
class Behind:
    """M_1 = F F^T of a layer behind ``step``; ``S`` and ``R`` are F at ``rows`` ``[B, w]`` of it."""

    step: Step
    layer: Layer
    rows: Tensor
    S: Tensor
    R: Tensor

    @cached_property
    def moved(self) -> Tensor:
        """M_jj of ``rows``, ``[B, w]``."""
        return self.S.square().sum(2) + self.R.square().sum(2)

    @cached_property
    def _place(self) -> Tensor:
        """Where a row of the layer stands among ``rows``, 0 for those that are not; ``[B, p]``."""
        numbers = torch.arange(self.rows.shape[1]).expand_as(self.rows)
        return torch.zeros(len(self.rows), self.layer.rows, dtype=torch.long).scatter(1, self.rows, numbers)

    def diagonal(self) -> Tensor:
        """Return M_jj, 0 off ``rows``."""
        return self.moved.new_zeros(len(self.rows), self.layer.rows).scatter(1, self.rows, self.moved)

    def square(self, index: Tensor) -> Tensor:
        """Return M_UU for U among ``rows``."""
        if len(index) > 1:
            return outer(*self._at(index))
        S, R = self._at(index)
        return gram_in_order(S[0], R[0], self.layer.order(index[0]))[None]

    def image(self, V: Tensor) -> Tensor:
        """Return V F ``[B, o, k]`` for rows V ``[B, o, p]``."""
        return torch.cat(halves(self.step, self.layer.backward(V)), 2)

    def crossing(self, A: Tensor, index: Tensor) -> Tensor:
        """Return A (F_U)^T for U among ``rows``."""
        S, R = self._at(index)
        return A[..., : S.shape[2]] @ S.mT + A[..., S.shape[2] :] @ R.mT

    def couple(self, x: Tensor, index: Tensor) -> Tensor:
        """Return (x M)_:U for U among ``rows``."""
        return self.crossing(self.image(x), index)

    def _at(self, index: Tensor) -> tuple[Tensor, Tensor]:
        at = self._place.gather(1, index)
        return pick_rows(self.S, at), pick_rows(self.R, at)


def behind(step: Step, layer: Layer, rows: Tensor) -> Behind:
    """Return the ellipsoid of a layer behind a step with an ellipsoid in factors, with F at some rows ``[B, w]``."""
    first = step.ellipsoid
    if isinstance(first, Factored) and first.patches is not None and len(rows) == 1:
        return Behind(step, layer, rows, *_by_patches(step, first, rows[0]))
    return Behind(step, layer, rows, *halves(step, pick_rows(layer.weight(step.mid.dtype)[None], rows)))


def _by_patches(step: Step, first: Factored, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return S and R of rows of a convolution, from the entries of their windows alone."""
    if first.patches is None:
        raise ValueError("expected two convolutions in a row")
    kernels, places = first.patches.entries(rows)
    kernels, count, unstable = kernels.to(step.mid.dtype), step.mid.shape[1], step.rows.index[0]
    mid = torch.cat([step.mid[0], step.mid.new_zeros(1)])
    spread = step.mid.new_zeros(count + 1).scatter(0, unstable, spread_of(step)[0])
    column = torch.full((count + 1,), len(unstable)).scatter(0, unstable, torch.arange(len(unstable)))
    S = kernels.new_zeros(len(rows), len(unstable) + 1).scatter_(1, column[places], kernels * spread[places])
    return joined(step, S[None, :, :-1], first.patch_image(kernels * mid[places], rows))
