r"""Activations and crops, whose multiplier D brackets a matrix M, forward and backward; max-pooling, which bounds it.

With T = K^{-1} M_U: B and A = B + E_U T,

    P = B (M + M_:U K^{-1} M_U:) B + C D C,  K = D - M_UU:
    df = tr( A G A^H dM ),     df/dD_j = mean over frequencies of C_j^2 G_jj - (T G T^H)_jj,

because d(K^{-1}) = -K^{-1} (dD - dM_UU) K^{-1}. Nothing but the inverse of K needs to be kept. (For f = c^T P c this is
the envelope theorem: T c = w is the maximiser of the S-procedure, and w_j^2 = C_j^2 c_j^2 is stationarity.)

*Barriers.* At a good choice some K are nearly singular, and f has a kink there. -log det(D^{-1/2} K D^{-1/2}), averaged
over frequencies, is smooth, scale-free and infinite where K is singular; its derivatives are K^{-1} for M and
D^{-1} - K^{-1} for D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.covariance.cotangents import Cotangent, Product, Whole
from certify.bounds.covariance.moves import Derivatives, Made, Saved, Slope, blocks, full
from certify.bounds.covariance.spectrum import mean


def _times(multiplier: Tensor, matrices: Tensor) -> Tensor:
    """Return D A for D a vector (its diagonal) or a symmetric matrix."""
    if multiplier.ndim == 1:
        return multiplier[:, None] * matrices
    return multiplier.to(matrices.dtype) @ matrices


def _embed(multiplier: Tensor, dtype: torch.dtype) -> Tensor:
    return (torch.diag(multiplier) if multiplier.ndim == 1 else multiplier).to(dtype)


@dataclass(frozen=True, eq=False)
class Bracketing:
    """P = B (M + M_:U (D - M_UU)^{-1} M_U:) B + C D C, with D a vector or, behind a crop, a matrix.

    The rows outside U are exact. In blocks, with K = D - M_UU and R = K^{-1} M_US,

        P_UU = B (D K^{-1} D - D) B + C D C,    P_US = B D R B,    P_SS = B (M_SS + M_SU R) B.

    ``unstable`` and ``exact`` are the rows of U and the others, or None where U is every row; ``order`` puts the rows
    [exact, unstable] back in place. ``dtype`` is that of the register's matrices, where M is kept as a real diagonal.
    """

    middle: Tensor
    half: Tensor
    unstable: Tensor | None
    exact: Tensor | None
    order: Tensor | None
    weights: Tensor
    dtype: torch.dtype

    def forward(self, sources: Sequence[Tensor], multiplier: Tensor | None) -> Made | None:
        """Return the bracket; without a multiplier B M B."""
        M = full(sources[0]).to(self.dtype)
        if multiplier is None:
            return self.middle[:, None] * M * self.middle, ()
        if self.unstable is None or self.exact is None:
            return self._of_all(M, multiplier)
        return self._of_some(M, multiplier, self.unstable, self.exact)

    def _of_all(self, M: Tensor, D: Tensor) -> Made | None:
        inverted = _inverse(D, M)
        if inverted is None:
            return None
        return self._unstable_block(inverted[0], D, self.middle), inverted

    def _unstable_block(self, inverse: Tensor, D: Tensor, B: Tensor) -> Tensor:
        if D.ndim == 1:
            scale = B * D
            return scale[:, None] * inverse * scale + torch.diag(D * (self.half**2 - B**2))
        middle, half = torch.outer(B, B), torch.outer(self.half, self.half)
        return middle * _times(D, _times(D, inverse).mH) + D * (half - middle)

    def _of_some(self, M: Tensor, D: Tensor, U: Tensor, S: Tensor) -> Made | None:
        inverted = _inverse(D, M[:, U[:, None], U])
        if inverted is None:
            return None
        inverse = inverted[0]
        across = M[:, U[:, None], S]
        R = inverse @ across
        B_U, B_S = self.middle[U], self.middle[S]
        exact = B_S[:, None] * (M[:, S[:, None], S] + across.mH @ R) * B_S
        P = blocks(exact, B_U[:, None] * _times(D, R) * B_S, self._unstable_block(inverse, D, B_U))
        return (P if self.order is None else P[:, self.order][:, :, self.order]), (*inverted, across)

    def backward(self, saved: Saved, cotangent: Cotangent, multiplier: Tensor | None) -> Derivatives:
        """Return (B + E_U T) V and, for D, what stands in the module's docstring."""
        if multiplier is None:
            return (cotangent.pulled(lambda V: self.middle[:, None] * V)[0],), None
        source, product = cotangent.pulled(lambda V: self._pull(saved, V, multiplier))
        slope = self._diagonal_slope if multiplier.ndim == 1 else self._matrix_slope
        return (source,), slope(cotangent, source, product)

    def _pull(self, saved: Saved, V: Tensor, D: Tensor) -> Tensor:
        """Return A V; with K = D - M_UU, its rows in U are K^{-1} (D B V_U + M_US B V_S)."""
        scaled = self.middle[:, None] * V
        U = self.unstable
        reached = _times(D, scaled if U is None else scaled[:, U])
        if len(saved) == 3:
            reached = reached + saved[2] @ scaled[:, self.exact]
        reached = saved[0] @ reached
        if U is None:
            return reached
        base = scaled.expand(max(len(scaled), len(reached)), -1, -1).to(reached.dtype)
        return base.index_copy(1, U, reached)

    def _diagonal_slope(self, G: Cotangent, source: Cotangent, product: Product) -> Slope:
        """Return the diagonal of C G C - T G T^H, where T = A - B: T G T^H = A G A^H - A G B - B G A^H + B G B."""
        at, reached, crossed = (mean(one.diagonal(), self.weights) for one in (G, source, product))
        of_all = reached - 2 * crossed * self.middle + self.middle**2 * at
        if self.unstable is not None:
            at, of_all = at[self.unstable], of_all[self.unstable]
        held = self.half**2 * at
        return Slope(held - of_all, held)

    def _matrix_slope(self, G: Cotangent, source: Cotangent, product: Product) -> Slope:
        rows = torch.arange(len(self.middle), device=self.middle.device) if self.unstable is None else self.unstable
        at, reached = (mean(one.whole()[:, rows[:, None], rows].real, self.weights) for one in (G, source))
        crossed = mean(product.block(rows).real, self.weights) * self.middle[rows]
        held = torch.outer(self.half, self.half) * at
        unheld = reached - crossed - crossed.mT + torch.outer(self.middle[rows], self.middle[rows]) * at
        return Slope(held - unheld, held)

    def barrier(self, saved: Saved, D: Tensor) -> float:
        """Return -log det(D^{-1/2} K D^{-1/2}), averaged over frequencies."""
        entries = D if D.ndim == 1 else torch.linalg.cholesky(D).diagonal() ** 2
        return float(entries.log().sum() - mean(saved[1], self.weights))

    def barrier_slopes(self, saved: Saved, D: Tensor) -> tuple[Whole, Tensor]:
        """Return the derivatives of the barrier for M and for D."""
        inverse = saved[0]
        if D.ndim == 1:
            slope = 1 / D - mean(inverse.diagonal(dim1=1, dim2=2).real, self.weights)
        else:
            slope = torch.cholesky_inverse(torch.linalg.cholesky(D)) - mean(inverse.real, self.weights)
        return Whole(self._placed(inverse)), slope

    def _placed(self, block: Tensor) -> Tensor:
        """Return the block of the rows U inside zeros."""
        if self.unstable is None:
            return block
        n, U = len(self.middle), self.unstable
        rows = block.new_zeros(len(block), n, len(U)).index_copy(1, U, block)
        return block.new_zeros(len(block), n, n).index_copy(2, U, rows)


def _inverse(D: Tensor, M: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return (D - M)^{-1} and log det(D - M) for a batch of M, or None where D - M is not positive definite."""
    factor, failed = torch.linalg.cholesky_ex(_embed(D, M.dtype) - M)
    if bool(failed.any()):
        return None
    return torch.cholesky_inverse(factor), 2 * factor.diagonal(dim1=1, dim2=2).real.log().sum(1)


@dataclass(frozen=True, eq=False)
class Pooling:
    """P' = overlap slope^2 diag(delta), feasible where diag(delta) - M > 0."""

    factor: float
    weights: Tensor

    def forward(self, sources: Sequence[Tensor], multiplier: Tensor | None) -> Made | None:
        """Return the diagonal of the pooled matrix."""
        M = full(sources[0])
        if multiplier is None or bool(torch.linalg.cholesky_ex(_embed(multiplier, M.dtype) - M)[1].any()):
            return None
        return self.factor * multiplier[None], ()

    def backward(self, _saved: Saved, cotangent: Cotangent, _multiplier: Tensor | None) -> Derivatives:
        """Return the slope of delta; M itself plays no part beyond feasibility."""
        total = self.factor * mean(cotangent.diagonal(), self.weights)
        return (None,), Slope(total, total)
