r"""The matrix recursion around one point: how far a layer moves, as an ellipsoid.

Around a centre x0 with ||x - x0|| <= eps write dz = z(x) - z(x0). With dz dz^T <= s^2 M, s = ||x - x0||_2, and
dy = T dz, T diagonal with *secant slopes* T_jj in [a_j, b_j], B = (a + b) / 2, C = (b - a) / 2, U = {j : b_j > a_j}:
for every D > 0 on U with K = D - M_UU positive definite,

    dy dy^T  <=  s^2 P,      P = B (M + M_:U K^-1 M_U:) B + C D C,                                              (1)

and the next layer has M' = W P W^T.

Proof. Fix v, w := (T - B) v, so |w_j| <= C_j |v_j| and w = 0 off U. Then (v.dy)^2 <= s^2 (Bv + w)^T M (Bv + w), and
since sum_j D_j (C_j^2 v_j^2 - w_j^2) >= 0, the right side is at most s^2 times
sup_w [(Bv + w)^T M (Bv + w) - w^T D w] + v^T C D C v. With K > 0 the supremum is v^T B (M + M_:U K^-1 M_U:) B v. []

*Input form* of the first layer, M = J J^T with J = W_1 (P_0)^(1/2): with G = I - J_U^T D^-1 J_U, K > 0 if and only if
G > 0, and M + M_:U K^-1 M_U: = J G^-1 J^T (Woodbury), so that M' = A G^-1 A^T + W C D C W^T with A = W B J. It costs
d^3 instead of |U|^3.

The multipliers are written D_j = scale S_j (1 + B_j / C_j) e_j, with S_j = 1 except for rows that hardly move, which
get less, and scale = lmax(S^-1/2 M_UU S^-1/2): e = 1 is feasible, and e, which does not depend on units, is kept from
one radius to the next.

Everything here is plain floating point, batched over the first axis: it chooses multipliers, and proves nothing.
The two forms and the S-procedure: M. Fazlyab et al. (2019), arXiv 1906.04893 (LipSDP); Y. Xu and S. Sivaranjani (2024),
arXiv 2404.07224 (layer by layer, ECLipsE).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from certify.bounds.local.ellipsoids import Ellipsoid, Explicit, Factored, InFactors
from certify.bounds.local.rows import Rows, choose_rows, outer, pick, pick_columns

HEADROOM, RAISE, MOST_RAISES = 1.02, 1.15, 40
KEPT = 1.0 - 1e-3  # part of D that must suffice: so K >= 0.001 D, and single precision resolves it
POWER_STEPS = 12
FEW_INPUTS = 1024
LEAST_RATIO = 2.0**-20  # of B / C
SMALL_SIZE, LEAST_SIZE = 2.0**-7, 2.0**-40  # of M_jj, beside the largest and beside the usual


@dataclass(frozen=True, eq=False)
class Slopes:
    """Secant slopes of every row of a layer: ``lower <= T <= upper``, each ``[B, p]``."""

    lower: Tensor
    upper: Tensor

    @property
    def mid(self) -> Tensor:
        """B = (a + b) / 2."""
        return (self.lower + self.upper) / 2

    @property
    def half(self) -> Tensor:
        """C = (b - a) / 2."""
        return (self.upper - self.lower) / 2


@dataclass(frozen=True, eq=False)
class Step:
    """One activation with its multipliers solved for.

    ``rows`` are U; ``half`` (C) and ``D`` stand for them, ``mid`` (B) for all rows; ``scale`` contains ``raised``, what
    D was multiplied by for the factorisation to exist; ``factor`` is the Cholesky factor of K, or of G when ``J`` (the
    rows J_U of the input form) is given.
    """

    ellipsoid: Ellipsoid
    rows: Rows
    mid: Tensor
    half: Tensor
    D: Tensor
    scale: Tensor
    raised: Tensor
    factor: Tensor
    J: Tensor | None


def relative_start(mid: Tensor, half: Tensor, size: Tensor) -> Tensor:
    """Return (1 + B / C) size, finite also where C is very small."""
    return size * (1.0 + (mid.abs() / half.clamp_min(torch.finfo(half.dtype).tiny)).clamp(LEAST_RATIO, 2.0**40))


def sizes(diagonal: Tensor) -> Tensor:
    """Return 1, and less for rows that hardly move beside the others, from M_jj ``[..., q]``."""
    if not diagonal.shape[-1]:
        return diagonal
    usual = (SMALL_SIZE * diagonal.amax(-1, keepdim=True)).clamp_min(torch.finfo(diagonal.dtype).tiny)
    return (diagonal / usual).clamp(LEAST_SIZE, 1.0).sqrt()


def largest_eigenvalue(apply: Callable[[Tensor], Tensor], like: Tensor, steps: int = POWER_STEPS) -> Tensor:
    """Return estimates ``[...]`` of the largest eigenvalue of positive semidefinite matrices, by power steps.

    Args:
        apply: Vectors ``[..., q]`` to their images.
        like: A tensor ``[..., q]`` of the shape and dtype of the vectors; its zeros stay zero.
        steps: How many.
    """
    count = like.shape[-1]
    x = like * torch.cos(torch.arange(count, dtype=like.dtype, device=like.device) * 2.399963).add(1.3)
    value = x.new_zeros(x.shape[:-1])
    for _ in range(steps):
        x = apply(x)
        value = x.norm(dim=-1)
        x = x / value.clamp_min(torch.finfo(x.dtype).tiny)[..., None]
    return value


def cholesky_raised(build: Callable[[Tensor], Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Cholesky factors of build(raised), and the factors ``raised`` that D took to make them exist.

    Where a matrix is not positive definite D grows by 15 % and is tried again; what still fails is NaN.
    """
    raised = torch.ones_like(like)
    for _ in range(MOST_RAISES):
        factor, info = torch.linalg.cholesky_ex(build(raised))
        if not bool(info.any()):
            return factor, raised
        raised = torch.where(info != 0, raised * RAISE, raised)
    return factor.masked_fill((info != 0)[..., None, None], torch.nan), raised


def solve(ellipsoid: Ellipsoid, slopes: Slopes, e: Tensor, inputs: bool | None = None) -> Step:
    """Return the step of a layer.

    Args:
        ellipsoid: M.
        slopes: ``[B, p]``.
        e: Relative multipliers ``[B, p]``.
        inputs: Whether to use the input form (of a `Factored` ellipsoid); by default, where it is cheaper.
    """
    rows = choose_rows(slopes.upper > slopes.lower)
    mid, half = pick(slopes.mid, rows.index), pick(slopes.half, rows.index)
    moved = torch.where(rows.mask, pick(ellipsoid.diagonal().expand(len(e), -1), rows.index), 0.0)
    size = torch.where(rows.mask, sizes(moved), 1.0)
    start = torch.where(rows.mask, relative_start(mid, half, size) * pick(e, rows.index), 1.0)
    if inputs is None:
        inputs = isinstance(ellipsoid, Factored) and prefers_inputs(rows.index.shape[1], ellipsoid.layer.columns)
    if inputs and isinstance(ellipsoid, Factored):
        J = ellipsoid.rows(rows.index) * rows.mask[:, :, None]
        product = ellipsoid.weighted(torch.zeros_like(slopes.lower).scatter(1, rows.index, rows.mask / start))
        factor, scale, raised = _factor_inputs(J, product, size)
        return Step(ellipsoid, rows, slopes.mid, half, scale[:, None] * start, scale, raised, factor, J)
    block = ellipsoid.square(rows.index)
    if not bool(rows.mask.all()):
        block = block * (rows.mask[:, :, None] & rows.mask[:, None, :])
    factor, scale, raised = _factor_rows(block, start, size)
    return Step(ellipsoid, rows, slopes.mid, half, scale[:, None] * start, scale, raised, factor, None)


def prefers_inputs(unstable: int, inputs: int) -> bool:
    """Tell whether the input form of a first layer costs less than the one by its unstable rows; measured."""
    return unstable > (0.5 if inputs <= FEW_INPUTS else 0.7) * inputs


def _factor_rows(block: Tensor, start: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the factor of K = D - M_UU, the scale of D, and what it was raised by."""
    tiny = torch.finfo(block.dtype).tiny
    root = size.sqrt()
    scale = HEADROOM * largest_eigenvalue(
        lambda x: (block @ (x / root)[..., None])[..., 0] / root, torch.ones_like(root)
    )
    scale = scale.clamp_min(tiny)

    def build(raised: Tensor) -> Tensor:
        return torch.diag_embed((KEPT * scale * raised)[:, None] * start) - block

    factor, raised = cholesky_raised(build, scale)
    return factor, scale * raised, raised


def _factor_inputs(J: Tensor, product: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same for G = I - product / scale, given J_U and the product J_U^T start^-1 J_U."""
    S = J / size.sqrt()[..., None]
    scale = HEADROOM * largest_eigenvalue(lambda x: (S @ (S.mT @ x[..., None]))[..., 0], J.new_ones(J.shape[:2]))
    scale = scale.clamp_min(torch.finfo(J.dtype).tiny)

    def build(raised: Tensor) -> Tensor:
        shrunk = product / -(KEPT * scale * raised)[:, None, None]
        shrunk.diagonal(dim1=1, dim2=2).add_(1.0)
        return shrunk

    factor, raised = cholesky_raised(build, scale)
    return factor, scale * raised, raised


def push(step: Step, weight: Tensor) -> Tensor:
    """Return M' = W P W^T ``[B, r, r]`` behind the activation, for rows W ``[B, r, p]`` of the next layer's matrix."""
    if not isinstance(step.ellipsoid, Explicit):
        return outer(*halves(step, weight))
    index, scaled = step.rows.index, weight * step.mid[:, None, :]
    N = scaled @ step.ellipsoid.M
    spread = pick_columns(weight, index) * spread_of(step)[:, None, :]
    return outer(spread, _divided(step, pick_columns(N, index))).baddbmm_(N, scaled.mT)


def halves(step: Step, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return S and R with S S^T + R R^T = W P W^T, for an ellipsoid in factors."""
    spread = pick_columns(weight, step.rows.index) * spread_of(step)[:, None, :]
    return joined(step, spread, factors_of(step).image(weight * step.mid[:, None, :]))


def joined(step: Step, spread: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
    """Return S and R from W C D^(1/2) on U and A = W B F, where M = F F^T; S are factors as sparse as W and A."""
    if step.J is not None:
        return spread, torch.linalg.solve_triangular(step.factor, A.mT, upper=False).mT
    return torch.cat([spread, A], 2), _divided(step, factors_of(step).crossing(A, step.rows.index))


def factors_of(step: Step) -> InFactors:
    """Return the ellipsoid of a step, which has to be one in factors."""
    if isinstance(step.ellipsoid, Explicit):
        raise TypeError("expected an ellipsoid in factors, got an explicit one")
    return cast(InFactors, step.ellipsoid)


def spread_of(step: Step) -> Tensor:
    """Return the diagonal of C D^(1/2) on U ``[B, q]``."""
    return step.half * step.D.sqrt() * step.rows.mask


def _divided(step: Step, N: Tensor) -> Tensor:
    """Return Z with Z Z^T = N K^-1 N^T, for the columns U of N."""
    Z = torch.linalg.solve_triangular(step.factor, (N * step.rows.mask[:, None, :]).mT, upper=False)
    half: Tensor = Z.mT
    return half


def inner(step: Step, x: Tensor) -> Tensor:
    """Return w = K^-1 (M x)_U ``[B, o, q]`` for vectors x ``[B, o, p]``: where the proof's suprema are attained."""
    if step.J is not None and isinstance(step.ellipsoid, Factored):
        y = torch.cholesky_solve(step.ellipsoid.image(x).mT, step.factor)
        return (step.J @ y).mT / step.D[:, None]
    right = step.ellipsoid.couple(x, step.rows.index) * step.rows.mask[:, None]
    return torch.cholesky_solve(right.mT, step.factor).mT
