r"""Attention near one input: the inequality of `attention` with the spread of keys and values that is really there.

Let q, k, v be the queries, keys and values at hand, p their softmax, and let q', k', v' be within r_q, r_k, r_v of them
in Frobenius norm. Write Q, K for the largest norms of a query or key plus r_q, r_k.

*Weights.* Scores move by at most d = |s| (Q r_k + K r_q), so p'_ij <= e^(2d) p_ij: numerator and sum both by e^d.

*Spread.* For a unit vector u and any weights p' <= e^(2d) p the standard deviation of u.v' under p'_i is at most that
of u.v plus that of u.(v' - v), and a variance is at most the mean square around any point, so

    sqrt(lmax Cov'_i v')  <=  S_i := e^d sqrt(lmax Cov_i v) + r_v,         likewise T_i for the keys.

*Gains*, from the derivative written down in `attention`, over all points of that set (it is convex):

    queries:  |s| max_i S_i T_i
    keys:     |s| sqrt( max_j sum_i e^(2d) p_ij S_i^2 (||q_i|| + r_q)^2 )
    values:   sqrt( e^(2d) max_j sum_i p_ij )      and never more than sqrt(number of queries).

For the keys: the part of df_i is at most |s| S_i ||q'_i|| sqrt(sum_j p'_ij ||dk_j||^2); square, sum over i, and take
the largest weight of a ||dk_j||^2. []

Rounding. The float softmax differs from the exact one of the stored q, k by a factor of at most e^(2 g) with
g = gamma_{d+16} |s| Q K and then gamma_{20n+160} (`roundings`), both inside ``ratio`` below. A float covariance C of n
terms differs from the exact one by at most gamma_{2n+32} (tr C + 2 max|v|^2) in norm, since each entry sums n products
of centred entries, and lmax C <= ||C C||_F^(1/2) for a positive semidefinite matrix.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from certify.bounds.attention import attention_scale_upper
from certify.bounds.magnitudes import row_l2_upper
from certify.graph import Operation
from certify.rounding import add_up, gamma_up, mul_up, sqrt_up, up

MOST_TURN = 20.0  # beyond, e^(2d) says less than the rule over the whole domain


def attention_gains_nearby(
    operation: Operation, inputs: tuple[Tensor, ...], reaches: tuple[float, ...]
) -> tuple[float, float, float]:
    """Return how much the output moves per movement of queries, keys and values, for inputs within reach of these.

    Args:
        operation: The attention.
        inputs: Queries, keys and values ``[..., tokens, width]`` with equal leading sizes, and the mask, if any.
        reaches: How far each may be from them, in l2.

    Returns:
        The three gains, infinite where nothing finite is proved.
    """
    query, key, value = inputs[:3]
    scale = attention_scale_upper(operation, query.shape[-1])
    lengths = [_row_norms(x) + reach for x, reach in zip(inputs[:2], reaches, strict=False)]
    longest = [up(float(length.max())) for length in lengths]
    moved = mul_up(scale, add_up(mul_up(longest[0], reaches[1]), mul_up(longest[1], reaches[0])))
    rounded = mul_up(gamma_up(2.0 * query.shape[-1] + 16.0), scale, longest[0], longest[1])
    turn = mul_up(2.0, add_up(moved, rounded))
    if not turn < MOST_TURN:
        return math.inf, math.inf, math.inf
    weights = _softmax(operation, inputs)
    ratio = mul_up(up(up(math.exp(turn))), add_up(1.0, gamma_up(20.0 * key.shape[-2] + query.shape[-2] + 160.0)))
    spreads = [_spread_upper(weights, x, ratio, reach) for x, reach in ((value, reaches[2]), (key, reaches[1]))]
    slack = add_up(1.0, gamma_up(query.shape[-2] + 32.0))
    most = mul_up(scale, up(float((spreads[0] * spreads[1]).max())), slack)
    squares = (spreads[0] * lengths[0]).square()
    weighted = float((weights.mT @ squares[..., None]).max())
    columns = min(float(query.shape[-2]), mul_up(ratio, slack, float(weights.sum(-2).max())))
    return most, mul_up(scale, sqrt_up(mul_up(ratio, slack, weighted))), sqrt_up(columns)


def _softmax(operation: Operation, inputs: tuple[Tensor, ...]) -> Tensor:
    query, key = inputs[:2]
    keys = key.shape[-2]
    eye = torch.eye(keys, dtype=query.dtype).expand(*key.shape[:-2], keys, keys)
    mask = inputs[3] if len(inputs) > 3 else None
    causal, scale = operation.flag("causal"), operation.optional_number("scale")
    weights: Tensor = F.scaled_dot_product_attention(query, key, eye, mask, is_causal=causal, scale=scale)
    return weights + 2.0**-1000  # what underflows there is below this


def _row_norms(x: Tensor) -> Tensor:
    return row_l2_upper(x.reshape(-1, x.shape[-1])).reshape(x.shape[:-1])


def _spread_upper(weights: Tensor, x: Tensor, ratio: float, reach: float) -> Tensor:
    """Return, per query, at least the largest standard deviation of the rows of x' in a direction: S_i or T_i."""
    count = 2.0 * x.shape[-2] + 32.0
    means = weights @ x
    centred = x[..., None, :, :] - means[..., None, :]
    covariances = (weights[..., None] * centred).mT @ centred
    error = gamma_up(2.0 * count) * (
        covariances.diagonal(dim1=-2, dim2=-1).sum(-1) + 2.0 * float(_row_norms(x).max()) ** 2
    )
    squared = torch.linalg.matrix_norm(covariances @ covariances) * (1.0 + 4.0 * gamma_up(count + x.shape[-1] ** 2))
    deviation: Tensor = (ratio * (squared.sqrt() + error)).sqrt()
    return (deviation + reach) * (1.0 + 2.0**-50)
