r"""One functional behind an activation, with slopes chosen by its signs.

For a row c on y = phi(z) the size of c.(y - y0) needs the slopes of both sides, but a margin only needs a lower bound.
Where phi is convex and c_j >= 0, c_j (y_j - y0_j) >= c_j g_j dz_j with g_j a (sub)derivative at the centre; the same
where phi is concave and c_j <= 0. Those rows take the single slope g_j, the others keep the secant slopes [a_j, b_j].
With t = B c, g = (M t)_U, K = D - M_UU > 0, for all dz with dz dz^T <= s^2 M,

    c.(y - y0)  >=  - s sqrt(phi),      phi = t^T M t + g^T K^-1 g + sum_U C_j^2 c_j^2 D_j.

Proof. The single slopes bound the left side from below by c^T T dz, with T diagonal in the chosen slopes; apply the
recursion's (1) to these and take v = c. []

Every functional has its own multipliers; d phi / d D_j = C_j^2 c_j^2 - w_j^2 with w = K^-1 g.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.local.recursion import (
    HEADROOM,
    KEPT,
    Slopes,
    cholesky_raised,
    largest_eigenvalue,
    relative_start,
    sizes,
)
from certify.bounds.local.rows import choose_rows, pick_square


@dataclass(frozen=True, eq=False)
class Signs:
    """The slopes [low, high] of a tangent at the centre, and where the activation is convex or concave; ``[B, p]``."""

    low: Tensor
    high: Tensor
    convex: Tensor
    concave: Tensor


@dataclass(frozen=True, eq=False)
class Functionals:
    """phi ``[B, o]``, the maximisers ``w`` and stationary vectors ``u = B c + w`` ``[B, o, p]``, and what D was."""

    phi: Tensor
    u: Tensor
    ratio: Tensor
    scale: Tensor


def signed_slopes(rows: Tensor, slopes: Slopes, signs: Signs) -> Slopes:
    """Return the slopes ``[B, o, p]`` for the functionals ``rows`` ``[B, o, p]``."""
    single = (signs.convex[:, None] & (rows >= 0)) | (signs.concave[:, None] & (rows <= 0))
    lower = torch.where(single, signs.low[:, None], slopes.lower[:, None])
    return Slopes(lower, torch.where(single, signs.high[:, None], slopes.upper[:, None]))


def functional_moves(M: Tensor, rows: Tensor, slopes: Slopes, e: Tensor) -> Functionals:
    """Return phi of every functional.

    Args:
        M: ``[B, p, p]``, the ellipsoid of the pre-activations.
        rows: c, ``[B, o, p]``.
        slopes: For each functional, ``[B, o, p]``.
        e: Relative multipliers ``[B, o, p]``.
    """
    flags = slopes.upper > slopes.lower
    union = choose_rows(flags.any(1))
    index = union.index[:, None, :].expand(-1, rows.shape[1], -1)
    chosen = flags.gather(2, index) & union.mask[:, None]
    block = pick_square(M, union.index)
    mid, half = slopes.mid, slopes.half
    half_u, c_u = half.gather(2, index) * chosen, rows.gather(2, index)
    tiny = torch.finfo(M.dtype).tiny
    size = torch.where(chosen, sizes(block.diagonal(dim1=1, dim2=2)[:, None] * chosen), 1.0)
    root = size.sqrt()
    scale = HEADROOM * largest_eigenvalue(lambda x: ((x / root) @ block) * chosen / root, chosen.to(M.dtype))
    scale = scale.clamp_min(tiny)
    start = torch.where(chosen, relative_start(mid.gather(2, index), half_u, size) * e.gather(2, index), 1.0)
    masked = block[:, None] * (chosen[..., :, None] & chosen[..., None, :])

    def build(raised: Tensor) -> Tensor:
        return torch.diag_embed((KEPT * scale * raised)[..., None] * start) - masked

    factor, raised = cholesky_raised(build, scale)
    scale = scale * raised
    D = scale[..., None] * start
    t = mid * rows
    Mt = t @ M
    g = Mt.gather(2, index) * chosen
    w = torch.cholesky_solve(g[..., None], factor)[..., 0] * chosen
    phi = (t * Mt).sum(2) + (g * w).sum(2) + (half_u.square() * c_u.square() * D).sum(2)
    reach = half_u * c_u.abs()
    found = torch.where(chosen & (reach > 0), w.abs() / reach.clamp_min(tiny), 1.0)
    ratio = torch.ones_like(e).scatter(2, index, torch.where(chosen, found, 1.0))
    return Functionals(phi, t.scatter_add(2, index, w), ratio, scale)
