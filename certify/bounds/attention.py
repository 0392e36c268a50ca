r"""Scaled dot-product attention where its queries, keys and values are bounded.

For one head with queries q_i, keys k_j, values v_j, p_i = softmax over j of (s q_i.k_j + mask_ij), the output is
f_i = sum_j p_ij v_j. On the convex set ||q_i|| <= Q, ||k_j|| <= K, ||v_j|| <= V (l2 norms of single tokens) let C be at
least every column sum of p; C = n, the number of queries, always holds. Then for any two inputs in the set

    ||df||_F  <=  sqrt(C) ||dv||_F  +  |s| V K ||dq||_F  +  |s| V Q sqrt(C) ||dk||_F.

Proof. Along the segment between the two inputs, which stays in the set,

    df_i = sum_j p_ij dv_j + s sum_j p_ij (v_j - m_i) (k_j - h_i)^T dq_i + s sum_j p_ij (v_j - m_i) (q_i.dk_j),

m_i and h_i being the means of v and k under p_i: the derivative of p_ij is p_ij (ds_ij - sum_l p_il ds_il), and sums
against v_j - m_i drop constants. First term: the matrix p has row sums 1 and column sums at most C, so
||p||_2 <= sqrt(1 C). Second: the cross-covariance of v and k under p_i has norm at most sqrt(lmax Cov v)
sqrt(lmax Cov k) <= V K. Third: by Cauchy-Schwarz against a unit vector, at most sqrt(lmax Cov v)
sqrt(sum_j p_ij (q_i.dk_j)^2) <= V Q sqrt(sum_j p_ij ||dk_j||^2), and the sum over i of the squares brings in C. []

A mask that does not depend on the input changes p alone. Heads act on their own tokens, so with the largest limits of
all heads the three Frobenius norms of all heads together obey the same inequality (Minkowski).

Without such limits no constant exists: Kim, Papamakarios and Mnih (2021), arXiv 2006.04710, Theorem 3.1. The order
sqrt(n) V K |s| is that of Castin, Ablin and Peyre (2024), arXiv 2312.14820, Section 3.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from certify.graph import Operation
from certify.rounding import add_up, div_up, mul_up, sqrt_down, sqrt_up


class Limits(NamedTuple):
    """At least the l2 norms of all single queries, keys and values, and of every column sum of the softmax."""

    query: float
    key: float
    value: float
    columns: float


def attention_scale_upper(operation: Operation, width: int) -> float:
    """Return at least |s|: the operation's scale, or 1 / sqrt(width) of its queries.

    Example:
        >>> op = Operation(name="a", kind="attention", inputs=("x",) * 3, attributes={"causal": False, "scale": None})
        >>> 0.5 <= attention_scale_upper(op, 4) < 0.5001
        True
    """
    scale = operation.optional_number("scale")
    return abs(scale) if scale is not None else div_up(1.0, sqrt_down(float(width)))


def attention_gains(scale: float, limits: Limits) -> tuple[float, float, float]:
    """Return at least how much the output moves per movement of queries, keys and values, in that order.

    Args:
        scale: At least |s|.
        limits: Proved limits of the domain.

    Example:
        >>> [round(gain, 9) for gain in attention_gains(0.5, Limits(1.0, 2.0, 3.0, 4.0))]
        [3.0, 3.0, 2.0]
    """
    root = sqrt_up(limits.columns)
    query = mul_up(scale, limits.value, limits.key)
    key = mul_up(scale, limits.value, limits.query, root)
    return query, key, root


def combine_attention(gains: tuple[float, float, float], movements: tuple[float, ...]) -> float:
    """Return at least how far the output moves when queries, keys and values (and a fixed mask) move that far."""
    if any(movement > 0.0 for movement in movements[3:]) or not all(map(math.isfinite, movements)):
        return math.inf
    return add_up(*(mul_up(gain, movement) for gain, movement in zip(gains, movements[:3], strict=True)))
