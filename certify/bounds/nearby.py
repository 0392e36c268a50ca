r"""How operations turn differences into differences *near one input*, where a rule over all inputs says too much.

Let h be the float64 activations of one example. A rule here holds for any two inputs of its operation that both lie
within ``reach`` (l2, one per input value) of h. That set is convex, so the norm of the derivative on it is enough:

- *layer_norm, rms_norm, group_norm, instance_norm* of a group of d entries: with c the centred group (itself for
  rms_norm) and s = sqrt(||c||^2 / d + eps) the derivative diag(weight) (1/s) (Pi - c c^T / (d s^2)), Pi a projection
  with Pi c = c, has norm at most max|weight| / s, because the eigenvalue on c is eps / s^2 <= 1. And
  ||c|| >= ||c(h)|| - reach, since centring is a projection.
- *attention*: the inequality of `attention` with the norms at h plus reach, or that of `attention_nearby`, the smaller
  of each gain.
- *a product of two values*: ||a b - a' b'|| <= max|b| ||a - a'|| + max|a'| ||b - b'||; for a matrix product the
  Frobenius norms of the single matrices stand for the largest entries.
- *a quotient*: ||a/b - a'/b'|| <= ||a - a'|| / m + max|a| ||b - b'|| / m^2, with m <= |b|, |b'| entrywise.

Every other kind keeps its rule over all inputs (`rules`). So nothing here is needed for a network of convolutions and
activations; with attention, gates or normalisations at hand it is the difference between a bound and none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from certify.bounds.attention import Limits, attention_gains, attention_scale_upper, combine_attention
from certify.bounds.attention_nearby import attention_gains_nearby
from certify.bounds.facts import Facts
from certify.bounds.magnitudes import l2_upper, largest_absolute, row_l2_upper
from certify.bounds.rules import NORMALISATIONS, Combine, copies_upper, normalised_entries
from certify.bounds.walk import no_bound
from certify.graph import Operation
from certify.results import Unbounded
from certify.rounding import add_up, div_down, div_up, down, gamma_up, mul_down, mul_up, sqrt_down, sub_down, up


@dataclass(frozen=True)
class Nearby:
    """One operation around one example: its float64 inputs, how far they may move, and its rule over all inputs.

    A mask of an attention stands among the inputs as it is stored, boolean or float.
    """

    facts: Facts
    operation: Operation
    inputs: tuple[Tensor, ...]
    reaches: tuple[float, ...]
    everywhere: Combine | Unbounded


def rule_nearby(at: Nearby) -> Combine | Unbounded:
    """Return how the operation combines bounds of its inputs' differences, for inputs within reach of these.

    Example:
        >>> from certify.bounds.facts import collect_facts
        >>> from certify.graph import Graph
        >>> ops = (Operation(name="x", kind="input"), Operation(name="y", kind="mul", inputs=("x", "x")))
        >>> facts = collect_facts(Graph(ops, "y", (1,), {}))
        >>> here = torch.tensor([[3.0]], dtype=torch.float64)
        >>> rule = rule_nearby(Nearby(facts, ops[1], (here, here), (0.5, 0.5), Unbounded("grows")))
        >>> 7.0 <= rule(1.0, 1.0) < 7.0001
        True
    """
    rule = _RULES.get(at.operation.kind)
    if rule is None or not all(map(math.isfinite, at.reaches)):
        return at.everywhere
    return rule(at)


def _normalisation(at: Nearby) -> Combine | Unbounded:
    if isinstance(at.everywhere, Unbounded):
        return at.everywhere
    x, entries = at.inputs[0], normalised_entries(at.facts, at.operation)
    groups = x.reshape(-1, entries)  # trailing dimensions, or channels beside each other with all their pixels
    means = torch.zeros_like(groups[:, :1]) if at.operation.kind == "rms_norm" else groups.mean(1, keepdim=True)
    centred = torch.linalg.vector_norm(groups - means, dim=1)
    # the float mean, difference and norm are off by less than gamma_{2d+16} times the norm of the group
    error = mul_up(gamma_up(2.0 * entries + 16.0), l2_upper(groups))
    least = sub_down(sub_down(float(centred.min()), error), at.reaches[0])
    square = mul_down(max(0.0, least), max(0.0, least))
    spread = sub_down(div_down(square, float(entries)), -at.operation.number("eps"))
    weight = at.facts.graph.weight(at.operation, "weight")
    largest = 1.0 if weight is None else largest_absolute(weight)
    gain = min(div_up(largest, sqrt_down(spread)), at.everywhere(1.0)) if spread > 0.0 else at.everywhere(1.0)
    return lambda amount: mul_up(gain, amount)


def _attention(at: Nearby) -> Combine | Unbounded:
    query, key, value = at.inputs[:3]
    if not query.shape[:-2] == key.shape[:-2] == value.shape[:-2]:
        return at.everywhere
    sizes = [add_up(_largest_row(x), reach) for x, reach in zip(at.inputs[:3], at.reaches[:3], strict=True)]
    limits = Limits(sizes[0], sizes[1], sizes[2], float(query.shape[-2]))
    by_size = attention_gains(attention_scale_upper(at.operation, query.shape[-1]), limits)
    by_spread = attention_gains_nearby(at.operation, at.inputs, at.reaches)
    gains = (min(by_size[0], by_spread[0]), min(by_size[1], by_spread[1]), min(by_size[2], by_spread[2]))
    if not all(map(math.isfinite, gains)):
        return at.everywhere
    return lambda *movements: combine_attention(gains, movements)


def _largest_row(x: Tensor) -> float:
    return float(row_l2_upper(x.reshape(-1, x.shape[-1])).max())


def _mul(at: Nearby) -> Combine | Unbounded:
    return at.everywhere if not isinstance(at.everywhere, Unbounded) else _product(at, largest_absolute)


def _matmul(at: Nearby) -> Combine | Unbounded:
    return at.everywhere if not isinstance(at.everywhere, Unbounded) else _product(at, _largest_matrix)


def _largest_matrix(x: Tensor) -> float:
    return float(row_l2_upper(x.reshape(-1, x.shape[-2] * x.shape[-1])).max()) if x.dim() >= 2 else l2_upper(x)


def _product(at: Nearby, size: Callable[[Tensor], float]) -> Combine:
    first, second = (add_up(size(x), reach) for x, reach in zip(at.inputs, at.reaches, strict=True))
    copies = [copies_upper(at.facts, at.operation, position) for position in (0, 1)]
    if at.operation.kind == "matmul":
        copies = [_matrix_copies(at, position) for position in (0, 1)]
    return lambda a, b: add_up(mul_up(second, copies[0], a), mul_up(first, copies[1], b))


def _matrix_copies(at: Nearby, position: int) -> float:
    """Return the root of how often broadcasting repeats each matrix of one factor."""
    own, both = at.inputs[position], at.facts.shapes[at.operation.name]
    batches = math.prod(both[:-2]) if min(x.dim() for x in at.inputs) >= 2 else math.prod(both)
    return up(math.sqrt(max(1.0, batches / max(1, math.prod(own.shape[:-2])))))


def _div(at: Nearby) -> Combine | Unbounded:
    if not isinstance(at.everywhere, Unbounded):
        return at.everywhere
    top, bottom = at.inputs
    least = sub_down(float(bottom.abs().min()), at.reaches[1])
    if not least > 0.0:
        return no_bound(at.operation, "the divisor may be 0 inside this ball")
    most = add_up(largest_absolute(top), at.reaches[0])
    copies = [copies_upper(at.facts, at.operation, position) for position in (0, 1)]
    slope = div_up(most, down(least * least))
    return lambda a, b: add_up(mul_up(div_up(1.0, least), copies[0], a), mul_up(slope, copies[1], b))


_RULES: Mapping[str, Callable[[Nearby], Combine | Unbounded]] = MappingProxyType(
    {
        **dict.fromkeys(NORMALISATIONS, _normalisation),
        "attention": _attention,
        "mul": _mul,
        "matmul": _matmul,
        "div": _div,
    }
)
