r"""One proved step of the local recursion, with as few large products as possible.

From a stored M >= dz dz^T / s^2 and secant slopes in [B - C, B + C], the next layer's rows W need a stored

    M'  >=  V M V^T + (V M_:U) K^-1 (V M_:U)^T + W C D C W^T,     V = W B,     K = D - M_UU > 0,                (1)

the recursion's (1) between W and W^T. Only the rows of W that are wanted are multiplied out. The three terms are
bounded one by one; each stored sum is enlarged by its own rounding.

*Sandwich*: N* K^-1 N*^T for K >= K' > 0 stored and rows N* with ||N*_j - N_j||_2 <= stray_j. With N' = N T^-1 and K'
scaled by T alike (powers of two), K' >= kappa I, for any X and R = N'^T - K' X,

    N K'^-1 N^T = N' X + X^T R + R^T K'^-1 R        (as in `certify.bounds.covariance.elimination`),
    N* K'^-1 N*^T <= (1 + t) N K'^-1 N^T + (1 + 1/t) E K'^-1 E^T,
    |E K'^-1 E^T| <= stray stray^T max(T^-1)^2 / kappa        entry by entry.

*Input form* of the first layer, M = J J^T, J = W_1 diag(h): with G = I - J_U^T D^-1 J_U > 0 the first two terms of (1)
are A G^-1 A^T with A = V J: one sandwich. G is stored as G' <= G: its rounding, at most (gamma_{q+8} + theta)
|J|^T D^-1 |J| entry by entry, is taken off the diagonal by row sums.

*Row form* of the first layer: V M V^T = A A^T and V M_:U = A J_U^T, so that the large M is only read on U.

theta collects the relative errors of the weights. An entry of A errs by (gamma_{m+8} + theta) |W| B |J|, so its row by
at most that times sum_i |W_ji| B_i ||J_i||_2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.covariance.definite import equilibrate, relative_lower
from certify.bounds.covariance.domination import (
    SLACK,
    add_to_diagonal,
    finite,
    magnitude,
    rounding_terms,
    row_scales,
    symmetrise,
    total,
)
from certify.bounds.covariance.elimination import (
    Residual,
    Slopes,
    complement_terms,
    diagonal_terms,
    residual_terms,
    size_upper,
    slack_lower,
)
from certify.bounds.covariance.rounded import linear_upper
from certify.bounds.local.ellipsoids import Factored
from certify.bounds.local.layers import Layer
from certify.bounds.local.patches import Patches
from certify.bounds.local.recursion import prefers_inputs
from certify.bounds.magnitudes import l2_upper, nextafter_up, row_l2_upper
from certify.rounding import SMALLEST, U64, add_up, gamma_up, mul_up

SPLIT = 2.0**-30  # t: what the first term of a split gives to the second


@dataclass(frozen=True, eq=False)
class Front:
    """A first layer in factors: M = J J^T, J = W_1 diag(stretch) (None: ones); ``patches`` of the first two layers."""

    layer: Layer
    stretch: Tensor | None = None
    patches: Patches | None = None

    @property
    def factored(self) -> Factored:
        """The same as a float ellipsoid."""
        stretch = None if self.stretch is None else self.stretch[None]
        return Factored(self.layer, torch.float64, stretch, None, self.patches)

    @property
    def row_norms(self) -> Tensor:
        """At least ||J_i||_2 for the real rows, ``[m]``."""
        if self.stretch is None:
            return self.layer.row_norms("l2")
        norms = row_l2_upper(self.layer.matrix * self.stretch)
        return SLACK * (1.0 + self.layer.error) * norms + SMALLEST

    @property
    def theta(self) -> float:
        """The relative error of an entry of J, with the rounding of the product by ``stretch``."""
        return add_up(self.layer.error, 4.0 * U64)


@dataclass(frozen=True, eq=False)
class Before:
    """The layer that is left: its rows ``alive``, M ``[1, p, p]`` and slopes ``[p]`` on them, D on unstable ones."""

    alive: Tensor
    matrix: Tensor
    lower: Tensor
    upper: Tensor
    D: Tensor

    @property
    def rows(self) -> Tensor:
        """U, as indices into ``alive``."""
        return (self.lower < self.upper).nonzero().flatten()


def push_upper(before: Before, layer: Layer, chosen: Tensor, front: Front | None = None) -> Tensor | None:
    """Return a stored M' ``[1, r, r]`` of the rows ``chosen`` of the next layer; None where K > 0 is not proved.

    Args:
        before: The layer that is left.
        layer: The next layer.
        chosen: Which of its rows.
        front: The layer that is left in factors, where it is the first one and large.
    """
    slopes, rows = Slopes.between(before.lower, before.upper), before.rows
    if not bool((before.D > 0.0).all()):
        return None
    W = layer.matrix[chosen][:, before.alive]
    theta = layer.error
    spread = diagonal_terms(slopes.radius[rows], before.D, rows, len(before.lower))[rows]
    errors = None if theta == 0.0 else nextafter_up(W[:, rows].abs() * theta)
    rest = linear_upper(torch.diag(spread)[None], W[:, rows][None], errors)
    if front is None:
        parts = _explicit(before, W, slopes.centre, theta)
    else:
        parts = _factored(before, front, layer, chosen, slopes.centre)
    if parts is None:
        return None
    return finite(sum_upper([rest, *parts]))


def _explicit(before: Before, W: Tensor, centre: Tensor, theta: float) -> list[Tensor] | None:
    """Return bounds of the first two terms of (1)."""
    V, rows = (W * centre)[None], before.rows
    errors = nextafter_up((V.abs() + SMALLEST) * add_up(theta, 2.0 * U64))
    moved = linear_upper(before.matrix, V, errors)
    if not len(rows):
        return [moved]
    N = V @ before.matrix[:, :, rows]
    coefficient = SLACK * add_up(gamma_up(W.shape[1] + 8), theta)
    stray = row_l2_upper((V.abs() @ before.matrix[:, :, rows].abs())[0]) * coefficient + W.shape[1] * SMALLEST
    part = sandwich_upper(slack_lower(before.matrix, rows, before.D), N, stray)
    return None if part is None else [moved, part]


def _factored(before: Before, front: Front, layer: Layer, chosen: Tensor, centre: Tensor) -> list[Tensor] | None:
    """Return bounds of the first two terms of (1) behind a first layer in factors."""
    every = torch.zeros(front.layer.rows, dtype=torch.float64).index_copy(0, before.alive, centre)
    V = (layer.matrix[chosen] * every)[None]
    A = front.factored.image(V, chosen[None])
    theta = SLACK * add_up(front.theta, layer.error)
    reach = layer.magnitude(every.abs() * front.row_norms)[chosen]
    stray = SLACK * reach * add_up(gamma_up(front.layer.rows + 8), theta) + front.layer.rows * SMALLEST
    rows = before.rows
    if not len(rows):
        return [gram_upper(A, stray)]
    if prefers_inputs(len(rows), front.layer.columns):
        part = sandwich_upper(_input_slack(front, before), A, stray)
        return None if part is None else [part]
    U = before.alive[rows]
    N = front.factored.crossing(A)[:, :, U]
    size = l2_upper(front.row_norms[U])
    gamma = SLACK * add_up(gamma_up(front.layer.columns + 8), front.theta)
    strays = SLACK * size * (stray + (row_l2_upper(A[0]) + stray) * gamma) + front.layer.columns * SMALLEST
    part = sandwich_upper(slack_lower(before.matrix, rows, before.D), N, strays)
    return None if part is None else [gram_upper(A, stray), part]


def _input_slack(front: Front, before: Before) -> Tensor:
    """Return a stored G' <= I - J_U^T D^-1 J_U, ``[1, d, d]``."""
    g = torch.zeros(front.layer.rows, dtype=torch.float64).index_copy(0, before.alive[before.rows], 1.0 / before.D)
    G = -symmetrise(front.factored.weighted(g[None]))
    h = torch.ones(front.layer.columns, dtype=torch.float64) if front.stretch is None else front.stretch
    sums = front.layer.matrix.abs().mT @ (g * front.layer.magnitude(h)) * h
    gamma = add_up(gamma_up(len(before.rows) + 8), mul_up(2.0, front.theta), mul_up(front.theta, front.theta))
    G = add_to_diagonal(G, torch.ones_like(h), towards=-torch.inf)
    return add_to_diagonal(G, -(SLACK * SLACK * gamma * sums + len(g) * SMALLEST), towards=-torch.inf)


def gram_upper(A: Tensor, stray: Tensor) -> Tensor:
    """Return a stored matrix ``[1, r, r]`` >= A* A*^T for rows within ``stray`` of A ``[1, r, d]``.

    Example:
        >>> A = torch.tensor([[[3.0, 4.0]]], dtype=torch.float64)
        >>> 25.0 <= float(gram_upper(A, torch.zeros(1, dtype=torch.float64))) <= 25.0000001
        True
    """
    norms = row_scales(row_l2_upper(A[0])[None])
    found = symmetrise(A @ A.mT) * (1.0 + SPLIT)
    rounding = gamma_up(A.shape[2] + 8) * A.shape[1] * norms.square()
    return add_to_diagonal(found, SLACK * (rounding + _strayed(stray) + A.shape[2] * SMALLEST))


def sandwich_upper(K: Tensor, N: Tensor, stray: Tensor) -> Tensor | None:
    """Return a stored matrix ``[1, r, r]`` >= N* K*^-1 N*^T, or None where K > 0 is not proved.

    Args:
        K: At most the real K*, ``[1, q, q]``.
        N: ``[1, r, q]``.
        stray: At least the l2 distance of every real row N*_j from that of N, ``[r]``.

    Example:
        >>> K, N = torch.full((1, 1, 1), 2.0, dtype=torch.float64), torch.full((1, 1, 1), 4.0, dtype=torch.float64)
        >>> 8.0 <= float(sandwich_upper(K, N, torch.zeros(1, dtype=torch.float64))) <= 8.00000001
        True
    """
    if (equilibrated := equilibrate(K)) is None:
        return None
    K, inverse = equilibrated
    kappa, (factor, info) = relative_lower(K), torch.linalg.cholesky_ex(K)
    if not kappa > 0.0 or bool(info.any()):
        return None
    scaled = N.mT * inverse[:, :, None]
    X = torch.cholesky_solve(scaled, factor)
    absolute = magnitude(scaled), magnitude(X)
    columns = row_scales(row_l2_upper(scaled[0].mT)[None])
    residual = Residual(total(residual_terms(K, scaled, X, columns, absolute)), kappa, K.shape[1])
    size = size_upper(*absolute, columns)
    terms = [*complement_terms(*absolute, columns, size, residual), gamma_up(6) * size]
    strayed = _strayed(stray * float(inverse.max())) / kappa
    found = symmetrise(scaled.mH @ X) * (1.0 + SPLIT)
    return add_to_diagonal(found, SLACK * (total(terms) + SLACK * strayed))


def _strayed(stray: Tensor) -> Tensor:
    """Return (1 + 1/t) times a diagonal ``[1, r]`` that dominates stray stray^T: r times the squares."""
    return (SLACK * (1.0 + 1.0 / SPLIT) * len(stray)) * stray.square()[None]


def sum_upper(parts: list[Tensor]) -> Tensor:
    """Return a stored matrix ``[1, r, r]`` that dominates the sum of stored ones."""
    found = parts[0]
    for part in parts[1:]:
        found = found + part
        found = add_to_diagonal(found, rounding_terms(found))
    return found
