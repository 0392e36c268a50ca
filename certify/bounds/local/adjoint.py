r"""Better multipliers from one backward pass of vectors, without automatic differentiation.

For a functional c behind the last activation, u = B c + w with w = K^-1 (M B c)_U. Going back through a layer with
weights W, v = W^T u is the functional on the layer's output, and

    w = K^-1 (M B v)_U,      u = B v + w,      d phi / d D_j = C_j^2 v_j^2 - w_j^2        (envelope theorem),

so |w_j| = C_j |v_j| is stationarity, and since phi is the elimination of a linear matrix inequality, convex in
1 / (C^2 D) jointly over the layers, stationary means optimal.

The layers below the last one serve all classes, and the least of their ratios counts. It is smoothed: class i gets the
weight lambda_i, falling with its ratio, and stationarity of sum lambda_i log phi_i reads
sum lambda_i (C_j^2 v_ij^2 - w_ij^2) / phi_i = 0. The update multiplies D_j by a power of

    sqrt(sum_i lambda_i w_ij^2 / phi_i) / (C_j sqrt(sum_i lambda_i v_ij^2 / phi_i)),

clipped. All rows move at once, and too small a D_j costs much more than too large a one: the power at which D_j falls
is lowered from pass to pass. It is not always a descent, so the caller keeps the best it has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from certify.bounds.local.recursion import Step, inner

FALLS, RISE = (0.6, 0.6, 0.4, 0.3), 0.7  # powers of ratios below 1, by the number of passes before; above 1
LEAST, MOST = 0.2, 5.0
SHARPNESS = 20.0  # of the weights of classes


def growth(ratio: Tensor, age: Tensor) -> Tensor:
    """Return the factor of D for |w| / (C |v|), in batches with ``age`` passes before; 1 where it is not a number."""
    fall = torch.tensor(FALLS, dtype=ratio.dtype)[age.clamp(max=len(FALLS) - 1)]
    power = torch.where(ratio > 1.0, RISE, fall.reshape(-1, *[1] * (ratio.dim() - 1)))
    return torch.nan_to_num(ratio.clamp(LEAST, MOST).pow(power), nan=1.0)


def focus(ratio: Tensor) -> Tensor:
    """Return the weights lambda of functionals with these ratios v / s: ``[B, o]``, 1 for the least."""
    least = ratio.amin(1, keepdim=True).clamp_min(torch.finfo(ratio.dtype).tiny)
    return torch.nan_to_num((least / ratio).pow(SHARPNESS), nan=0.0)


def sweep(
    steps: Sequence[Step], backs: Sequence[Callable[[Tensor], Tensor]], u: Tensor, emphasis: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Return, for every step, the ratio whose power updates D, ``[B, p]`` (1 for stable rows), and u of the first.

    Args:
        steps: The activations of the layers before the last hidden one.
        backs: Behind each of them, the map from u ``[B, o, r]`` to W^T u ``[B, o, p]``.
        u: The functionals' vectors ``[B, o, r]`` at the last hidden layer (`functionals`).
        emphasis: lambda / phi of each, ``[B, o]``.
    """
    found: list[Tensor] = []
    root = torch.nan_to_num(emphasis, nan=0.0, posinf=0.0).sqrt()[..., None]
    for step, back in zip(reversed(steps), reversed(backs), strict=True):
        v = back(u)
        scaled = step.mid[:, None] * v
        w = inner(step, scaled)
        index = step.rows.index[:, None].expand(-1, v.shape[1], -1)
        reach = step.half * (v.gather(2, index) * root).norm(dim=1)
        ratio = torch.where(step.rows.mask & (reach > 0), (w * root).norm(dim=1) / reach, 1.0)
        found.append(step.mid.new_ones(step.mid.shape).scatter(1, step.rows.index, ratio))
        u = scaled.scatter_add(2, index, w)
    return found[::-1], u
