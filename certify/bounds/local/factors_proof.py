r"""Proved Grams and roots: what a stored matrix in factors says of the real one.

*Factor*: stored rows F and numbers stray speak of a real matrix M* when

    M*  <=  (F + E)(F + E)^T        for some E with rows ||E_j||_2 <= stray_j.                                      (1)

Factors of two summands stand beside each other: rows [F, F'], strays added. Then, with t = 2^-30,

    M*  <=  (1 + t) F F^T + (1 + 1/t) E E^T,        |E E^T| <= stray stray^T <= diag(stray_j sum_k stray_k),

the stored Gram fl(F F^T) errs by gamma_k |F| |F|^T, in any order of summation, and |F| |F|^T <= n n^T <= diag(r n_j^2)
for row norms n_j of r rows. M*_jj <= (||F_j|| + stray_j)^2.

*Root.* Let K >= K' be stored with T K' T, T powers of two, having its diagonal in (0, 1]. If Cholesky's factorisation
of fl(T K' T - c I) runs through, L L^T differs from T K' T - c I by at most the shift of `definite`. So with c that
shift, L L^T <= T K' T, and L L^T >= (kappa - 2 c) I where T K' T >= kappa I is proved. For rows N* with
||N*_j - N_j|| <= stray_j, Z any matrix and R = T N^T - L Z,

    N* K^-1 N*^T  <=  Y^T Y,      Y = L^-1 T N*^T = Z + L^-1 (R + T (N* - N)^T):

the columns of Z are a factor, with strays (||R_j|| + max(T) stray_j) / sqrt(kappa - 2 c). The computed R errs by at
most gamma_{q+2} (||T N^T_j|| + || |L| || ||Z_j||), || |L| || <= sqrt(||L||_1 ||L||_inf). []
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.covariance.definite import equilibrate, relative_lower, shift_terms
from certify.bounds.covariance.domination import SLACK, TINY, add_to_diagonal, row_scales, symmetrise
from certify.bounds.local.rows import gram_in_order
from certify.bounds.magnitudes import nextafter_up, row_l2_upper
from certify.rounding import add_up, div_up, down, gamma_up, mul_up, sqrt_down, sqrt_up, sub_down

SPLIT = 2.0**-30  # t: what the first term of a split gives to the second


@dataclass(frozen=True, eq=False)
class Factor:
    """Rows F ``[r, k]``, of which the first ``sparse`` columns may be mostly 0, and their strays ``[r]``: see (1)."""

    rows: Tensor
    stray: Tensor
    sparse: int = 0

    def beside(self, other: Factor) -> Factor:
        """Return the factor of the sum of two matrices."""
        rows = torch.cat([self.rows, other.rows], 1)
        sparse = self.sparse + (other.sparse if self.sparse == self.rows.shape[1] else 0)
        return Factor(rows, nextafter_up(self.stray + other.stray), sparse)

    def above(self, other: Factor) -> Factor:
        """Return the factor of the joint matrix of two sets of rows, made in the same way."""
        sparse = min(self.sparse, other.sparse)
        return Factor(torch.cat([self.rows, other.rows]), torch.cat([self.stray, other.stray]), sparse)

    def choose(self, index: Tensor) -> Factor:
        """Return some of the rows."""
        return Factor(self.rows[index], self.stray[index], self.sparse)

    def diagonal_upper(self) -> Tensor:
        """Return at least M*_jj ``[r]``."""
        root = nextafter_up(row_l2_upper(self.rows) + self.stray)
        return nextafter_up(root * root)

    def gram_upper(self, order: Tensor | None = None) -> Tensor:
        """Return a stored matrix ``[1, r, r]`` >= M*.

        Args:
            order: The rows in an order in which neighbours share most of their sparse columns; by default as they are.

        Example:
            >>> factor = Factor(torch.tensor([[3.0, 4.0]], dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
            >>> 25.0 <= float(factor.gram_upper()) <= 25.0000001
            True
        """
        count, columns = self.rows.shape
        norms = row_scales(row_l2_upper(self.rows)[None])
        gram = gram_in_order(self.rows[:, : self.sparse], self.rows[:, self.sparse :], order)
        found = symmetrise(gram[None]) * (1.0 + SPLIT)
        rounding = gamma_up(columns + 8) * count * norms.square()
        strayed = (SLACK * (1.0 + 1.0 / SPLIT)) * self.stray * self.stray.sum()
        return add_to_diagonal(found, SLACK * (rounding + strayed[None] + count * columns * TINY))


@dataclass(frozen=True, eq=False)
class Root:
    """L ``[q, q]`` and T ``[q]`` of the module's second part; ``least`` is kappa - 2 c."""

    factor: Tensor
    scales: Tensor
    least: float

    def solve(self, N: Tensor, stray: Tensor) -> Factor:
        """Return a factor of N* K^-1 N*^T.

        Args:
            N: ``[r, q]``.
            stray: At least the l2 distance of every real row N*_j from that of N, ``[r]``.
        """
        scaled = N.mT * self.scales[:, None]
        Z = torch.linalg.solve_triangular(self.factor, scaled, upper=False)
        R = torch.addmm(scaled, self.factor, Z, alpha=-1.0)
        rounding = row_l2_upper(scaled.mT) + self._size() * row_l2_upper(Z.mT)
        underflow = TINY * len(scaled) * (self._size() + 2.0 + row_l2_upper(Z.mT))
        far = row_l2_upper(R.mT) + SLACK * (gamma_up(len(scaled) + 4) * rounding + underflow)
        far = far + stray * float(self.scales.max()) if len(self.scales) else far
        return Factor(Z.mT.contiguous(), SLACK * far * div_up(1.0, sqrt_down(self.least)))

    def _size(self) -> float:
        """Return at least || |L| ||_2."""
        sizes = self.factor.abs()
        most = mul_up(float(sizes.sum(0).max()), float(sizes.sum(1).max())) if sizes.numel() else 0.0
        return mul_up(sqrt_up(most), SLACK)


def root_of(K: Tensor) -> Root | None:
    """Return a proved root of a stored matrix ``[1, q, q]``, or None where it is not proved positive definite.

    Example:
        >>> K, N = torch.full((1, 1, 1), 2.0, dtype=torch.float64), torch.full((1, 1), 4.0, dtype=torch.float64)
        >>> root = root_of(K)
        >>> 8.0 <= float(root.solve(N, torch.zeros(1, dtype=torch.float64)).gram_upper()) <= 8.00000001
        True
    """
    if (equilibrated := equilibrate(K)) is None:
        return None
    K, scales = equilibrated
    shift = add_up(*shift_terms(K))
    shifted = K[0].clone()
    shifted.diagonal().sub_(shift)
    factor, info = torch.linalg.cholesky_ex(shifted)
    least = sub_down(relative_lower(K), mul_up(2.0, shift))
    if not least > 0.0 or int(info) or not bool(torch.isfinite(factor).all() & (factor.diagonal() > 0.0).all()):
        return None
    return Root(factor, scales[0], down(least))


def spread_factor(rows: Tensor, spread: Tensor, error: Tensor) -> Factor:
    """Return a factor of G* diag(spread)^2 G*^T for rows G* near stored ones; all its columns are called sparse.

    Args:
        rows: G, ``[r, q]``.
        spread: ``[q]``, not negative.
        error: At least the l2 norms of the rows of (G* - G) diag(spread), ``[r]``.
    """
    F = rows * spread
    rounding = gamma_up(2) * row_l2_upper(F) + TINY * len(spread)
    return Factor(F, SLACK * (error + rounding), len(spread))
