r"""How far the difference of two logits can move: one Lipschitz constant per pair of classes.

With logits z = W h + b and a body h of gain G, the difference z_y - z_j = (w_y - w_j).h + b_y - b_j has gain

    L_yj = G ||w_y - w_j||_2   (l2),        L_yj = G ||w_y - w_j||_1   (linf),

by Cauchy-Schwarz (Hoelder); in linf also sqrt(d) G_2 ||w_y - w_j||_2, with d inputs and the l2 gain G_2. For any
network with gain L, |d_y - d_j| <= sqrt 2 ||d||_2 and |d_y - d_j| <= 2 ||d||_inf give sqrt 2 L and 2 L. The smaller
one is used; the factor sqrt 2 is that of Tsuzuku, Sato and Sugiyama (2018), arXiv 1802.04034, Proposition 1.

Which value decides: softmax and log_softmax keep the order of their inputs, strictly and in exact arithmetic, so there
a network that ends in one is decided by the value before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor

from certify.bounds.facts import Facts
from certify.bounds.gains import Gains
from certify.bounds.magnitudes import root_upper, row_l1_upper, row_l2_upper
from certify.results import Unbounded
from certify.rounding import U64, mul_up, sqrt_up

ORDER_KEEPING = frozenset({"softmax", "log_softmax"})


def deciding_value(facts: Facts, arithmetic: str) -> str:
    """Return the name of the value whose largest entry is the predicted class."""
    operation = facts.graph.by_name[facts.graph.output]
    if arithmetic == "exact" and operation.kind in ORDER_KEEPING and operation.integer("dim") == 1:
        return operation.inputs[0]
    return operation.name


def pair_gains_upper(facts: Facts, gains: Gains, gains_l2: Gains, value: str, chosen: int) -> list[float]:
    """Return, per class j, at least the Lipschitz constant of logit ``chosen`` minus logit j.

    Args:
        facts: The network and the norm.
        gains: The gain of every value in that norm; that of ``value`` must be a number.
        gains_l2: The gain of every value in l2.
        value: The logits, of shape ``[1, classes]``.
        chosen: The predicted class.
    """
    total, classes = gains[value], facts.shapes[value][1]
    if isinstance(total, Unbounded):
        raise ValueError(f"expected a bounded value, got {value!r}: {total}")
    found = [[mul_up(sqrt_up(2.0) if facts.norm == "l2" else 2.0, total)] * classes]
    operation = facts.graph.by_name[value]
    if operation.kind == "linear":
        weight, body = facts.graph.required_weight(operation, "weight"), operation.inputs[0]
        differences = weight - weight[chosen]  # each entry rounded once: off by at most u of itself
        found.append(_row_gains(row_l2_upper(differences), gains_l2[body], _input_root(facts)))
        if facts.norm == "linf":
            found.append(_row_gains(row_l1_upper(differences), gains[body], 1.0))
    return [_smallest_finite(candidates) for candidates in zip(*found, strict=True)]


def _input_root(facts: Facts) -> float:
    """Return at least the l2 norm of an input of norm 1."""
    return 1.0 if facts.norm == "l2" else root_upper(math.prod(facts.graph.input_shape))


def _row_gains(norms: Tensor, body: float | Unbounded, factor: float) -> list[float]:
    if isinstance(body, Unbounded):
        return [math.inf] * len(norms)
    return [mul_up(body, norm, 1.0 + 4.0 * U64, factor) for norm in norms.tolist()]


def _smallest_finite(values: Iterable[float]) -> float:
    return min((value for value in values if math.isfinite(value)), default=math.inf)
