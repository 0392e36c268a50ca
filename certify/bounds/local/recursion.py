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

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from certify.bounds.local.layers import Layer
from certify.bounds.local.patches import Patches
from certify.bounds.local.windows import Window

HEADROOM, RAISE, MOST_RAISES = 1.02, 1.15, 40
KEPT = 1.0 - 1e-3  # part of D that must suffice: so K >= 0.001 D, and single precision resolves it
POWER_STEPS = 12
FEW_INPUTS = 1.0  # the input form is used when the unstable rows outnumber this share of the inputs
LEAST_RATIO = 2.0**-20  # of B / C
SMALL_SIZE, LEAST_SIZE = 2.0**-7, 2.0**-40  # of M_jj, beside the largest and beside the usual
PANELS, LEAST_PANELLED = 4, 384  # of a product of a matrix with its own transpose


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
class Rows:
    """A choice of rows per batch element: ``index`` ``[B, q]``, and ``mask``, false where an index only fills up."""

    index: Tensor
    mask: Tensor


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
        return (self.layer.forward(A.flatten(0, -2)) - self.layer.bias.to(A.dtype)).reshape(*A.shape[:-1], -1)

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


def choose_rows(flags: Tensor) -> Rows:
    """Return the rows flagged, filled up to the largest count of the batch."""
    if flags.shape[0] == 1:
        index = flags[0].nonzero().T
        return Rows(index, torch.ones_like(index, dtype=torch.bool))
    count = int(flags.sum(1).max())
    index = torch.argsort(~flags, dim=1, stable=True)[:, :count]
    return Rows(index, flags.gather(1, index))


def pick(vector: Tensor, index: Tensor) -> Tensor:
    """Return the entries ``[B, q]`` of ``[B, p]``."""
    return vector.gather(1, index)


def pick_columns(matrix: Tensor, index: Tensor) -> Tensor:
    """Return the columns ``[B, r, q]`` of ``[B, r, p]``."""
    if matrix.shape[0] == 1:
        return matrix[0].index_select(1, index[0])[None]
    return matrix.gather(2, index[:, None, :].expand(-1, matrix.shape[1], -1))


def pick_rows(matrix: Tensor, index: Tensor) -> Tensor:
    """Return the rows ``[B, q, n]`` of ``[B, p, n]``, or of ``[1, p, n]`` shared by the batch."""
    if index.shape[0] == 1:
        return matrix[0].index_select(0, index[0])[None]
    if matrix.shape[0] == 1:
        return matrix[0][index]
    return matrix.gather(1, index[:, :, None].expand(-1, -1, matrix.shape[2]))


def pick_square(matrix: Tensor, index: Tensor) -> Tensor:
    """Return the blocks ``[B, q, q]`` of ``[B, p, p]``."""
    return pick_columns(pick_rows(matrix, index), index)


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
    size = torch.where(rows.mask, sizes(pick(ellipsoid.diagonal().expand(len(e), -1), rows.index) * rows.mask), 1.0)
    start = torch.where(rows.mask, relative_start(mid, half, size) * pick(e, rows.index), 1.0)
    if inputs is None:
        inputs = isinstance(ellipsoid, Factored) and rows.index.shape[1] > FEW_INPUTS * ellipsoid.layer.columns
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


def push(step: Step, weight: Tensor, chosen: Tensor | None = None) -> Tensor:
    """Return M' = W P W^T ``[B, r, r]`` behind the activation.

    Args:
        step: The activation.
        weight: W, rows of the next layer's matrix ``[B, r, p]``.
        chosen: Which rows they are ``[B, r]``.
    """
    index = step.rows.index
    stretched = pick_columns(weight, index) * (step.half * step.D.sqrt() * step.rows.mask)[:, None, :]
    scaled = weight * step.mid[:, None, :]
    if isinstance(step.ellipsoid, Explicit):
        N = scaled @ step.ellipsoid.M
        Z = _divided(step, pick_columns(N, index))
        return outer(stretched, Z).baddbmm_(N, scaled.mT)
    A = step.ellipsoid.image(scaled, chosen)
    if step.J is not None:
        return outer(stretched, torch.linalg.solve_triangular(step.factor, A.mT, upper=False).mT)
    return outer(stretched, _divided(step, pick_columns(step.ellipsoid.crossing(A), index)), A)


def _divided(step: Step, N: Tensor) -> Tensor:
    """Return Z with Z Z^T = N K^-1 N^T, for the columns U of N."""
    Z = torch.linalg.solve_triangular(step.factor, (N * step.rows.mask[:, None, :]).mT, upper=False)
    half: Tensor = Z.mT
    return half


def outer(*factors: Tensor) -> Tensor:
    """Return the sum of F F^T over factors F ``[B, r, any]``; large ones by panels, of which only half is computed."""
    F = torch.cat(factors, 2)
    r = F.shape[1]
    if r < LEAST_PANELLED:
        return F @ F.mT
    found = F.new_empty(len(F), r, r)
    for first in range(0, r, -(-r // PANELS)):
        last = min(first + -(-r // PANELS), r)
        found[:, first:last, :last] = F[:, first:last] @ F[:, :last].mT
        found[:, :first, first:last] = found[:, first:last, :first].mT
    return found


def inner(step: Step, x: Tensor) -> Tensor:
    """Return w = K^-1 (M x)_U ``[B, o, q]`` for vectors x ``[B, o, p]``: where the proof's suprema are attained."""
    if step.J is not None and isinstance(step.ellipsoid, Factored):
        y = torch.cholesky_solve(step.ellipsoid.image(x).mT, step.factor)
        return (step.J @ y).mT / step.D[:, None]
    right = pick_columns(step.ellipsoid.times(x), step.rows.index) * step.rows.mask[:, None]
    return torch.cholesky_solve(right.mT, step.factor).mT
