r"""How far the difference of two logits can move: one Lipschitz constant per pair of classes.

With logits z = W h + b and a body h of gain G, the difference z_y - z_j = (w_y - w_j).h + b_y - b_j has gain

    L_yj = G ||w_y - w_j||_2   (l2),        L_yj = G ||w_y - w_j||_1   (linf),

by Cauchy-Schwarz (Hoelder). For any network with gain L, |d_y - d_j| <= sqrt 2 ||d||_2 and |d_y - d_j| <= 2 ||d||_inf
give sqrt 2 L and 2 L. The smaller one is used; the factor sqrt 2 is that of Tsuzuku, Sato and Sugiyama (2018),
arXiv 1802.04034, Proposition 1.

Which value decides: softmax and log_softmax keep the order of their inputs, strictly and in exact arithmetic, so there
a network that ends in one is decided by the value before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from certify.bounds.facts import Facts
from certify.bounds.magnitudes import row_l1_upper, row_l2_upper
from certify.graph import Operation
from certify.results import Unbounded
from certify.rounding import U64, mul_up, sqrt_up

ORDER_KEEPING = frozenset({"softmax", "log_softmax"})


def deciding_value(facts: Facts, arithmetic: str) -> str:
    """Return the name of the value whose largest entry is the predicted class."""
    operation = facts.graph.by_name[facts.graph.output]
    if arithmetic == "exact" and operation.kind in ORDER_KEEPING and operation.integer("dim") == 1:
        return operation.inputs[0]
    return operation.name


def pair_gains_upper(facts: Facts, gains: Mapping[str, float | Unbounded], value: str, chosen: int) -> list[float]:
    """Return, per class j, at least the Lipschitz constant of logit ``chosen`` minus logit j.

    Args:
        facts: The network and the norm.
        gains: The gain of every value in that norm; that of ``value`` must be a number.
        value: The logits, of shape ``[1, classes]``.
        chosen: The predicted class.
    """
    total, classes = gains[value], facts.shapes[value][1]
    if isinstance(total, Unbounded):
        raise ValueError(f"expected a bounded value, got {value!r}: {total}")
    whole = mul_up(sqrt_up(2.0) if facts.norm == "l2" else 2.0, total)
    rows = _row_gains(facts, gains, facts.graph.by_name[value], chosen)
    return [whole] * classes if rows is None else [_smaller(whole, row) for row in rows]


def _row_gains(
    facts: Facts, gains: Mapping[str, float | Unbounded], operation: Operation, chosen: int
) -> list[float] | None:
    body = gains[operation.inputs[0]] if operation.kind == "linear" else None
    if body is None or isinstance(body, Unbounded):
        return None
    weight = facts.graph.required_weight(operation, "weight")
    differences = weight - weight[chosen]  # each entry rounded once: off by at most u of itself
    norms = row_l2_upper(differences) if facts.norm == "l2" else row_l1_upper(differences)
    return [mul_up(body, norm, 1.0 + 4.0 * U64) for norm in norms.tolist()]


def _smaller(a: float, b: float) -> float:
    return min((value for value in (a, b) if math.isfinite(value)), default=math.inf)
