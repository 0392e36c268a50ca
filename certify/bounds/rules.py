r"""How each operation turns differences of its inputs into a difference of its output, in l2 and in linf.

A rule answers with a function of proved bounds ||dv_i|| <= b_i of its inputs' differences: a bound of ||dv|| of its
output, monotone and homogeneous in the b_i, every step rounded up. The same functions carry Lipschitz constants
(`certify.bounds.gains`) and floating-point errors (`certify.bounds.errors`).

Rules and their reasons (n: number of entries read together, c: copies of each entry made by broadcasting or `expand`):

- *linear maps*: the enclosed norms. A module that is used twice is two operations and counts twice.
- *activations*: max(|a|, |b|) of the slope range (`slopes`).
- *batch_norm, normalize*: the largest scale; folded into the linear map beside them when that is smaller (`folds`).
- *layer_norm, group_norm, instance_norm, rms_norm*: max|weight| / sqrt(eps) in l2, attained at inputs without variance;
  in linf sqrt(n) times that, since ||J||_inf <= sqrt(n) ||J||_2 for a matrix with n columns.
- *softmax*: J = diag(p) - p p^T is symmetric with row sums of absolute values 2 p_i (1 - p_i) <= 1/2, so its l2 and
  linf norms are at most 1/2.
- *log_softmax*: J = I - 1 p^T. In linf: row sums 2 (1 - p_i) <= 2. In l2: for v = (s/n) 1 + t with t orthogonal to 1
  and q = p - 1/n, a = ||q||: ||J^T v||^2 = a^2 s^2 + ||t||^2 - 2 s q.t <= (a |s| + ||t||)^2
  <= (a^2 n + 1) (s^2/n + ||t||^2) = n ||p||^2 ||v||^2 <= n ||v||^2. So sqrt(n); 0 for n = 1.
- *mean*: 1/sqrt(n) in l2 (Cauchy-Schwarz), 1 in linf. *sum*: sqrt(n); n. *amax, amin*: 1, because
  |max a - max b| <= max |a_i - b_i| in each group, and the groups are disjoint.
- *maximum, minimum*: |max(a, b) - max(a', b')| <= max(|a - a'|, |b - b'|) entrywise: sqrt(ga^2 + gb^2); max(ga, gb).
- *max_min, sort*: sorting two lists never increases the l2 or linf distance between them: 1.
- *concat*: sqrt(sum g^2); max. *add, sub*: the sum. *expand* and broadcasting: sqrt(c); 1.
- *mul, div by a constant*: its largest (smallest) absolute value.
- *attention*: where normalisations bound its inputs over all inputs (`tokens`), the inequality of `attention`; in
  linf times sqrt(n), n the entries of the largest of them, since ||.||_inf <= ||.||_2 <= sqrt(n) ||.||_inf.
- *other attention, products and quotients of two activations*: no bound over all inputs exists; a typed answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import TypeAlias

from torch import Tensor

from certify.bounds.attention import Limits, attention_gains, attention_scale_upper, combine_attention
from certify.bounds.facts import Facts
from certify.bounds.folds import divides_by_positive
from certify.bounds.magnitudes import largest_absolute, root_upper
from certify.bounds.slopes import ACTIVATIONS, slope_range
from certify.bounds.walk import Table, no_bound
from certify.graph import Operation
from certify.norms import (
    adaptive_max_pool_upper,
    batch_norm_upper,
    enclose_adaptive_avg_pool,
    enclose_avg_pool,
    max_pool_upper,
    normalization_upper,
    pad_upper,
    reciprocal_upper,
    upsample_nearest_upper,
)
from certify.results import Bracket, Unbounded
from certify.rounding import add_up, div_up, mul_up, sqrt_up

Combine: TypeAlias = Callable[..., float]
NORMALISATIONS = frozenset({"layer_norm", "rms_norm", "group_norm", "instance_norm"})
SAME_ENTRIES = frozenset({"reshape", "permute", "slice", "flip", "roll", "amax", "amin", "max_min", "sort"})
ATTENTION = "attention has no global Lipschitz constant: its slope grows with the square of its inputs"


def _scaled(
    operation: Operation, factor: float, *, reason: str = "its gain is not a finite number"
) -> Combine | Unbounded:
    """Return "factor times the input's bound", or the reason when the factor is not finite."""
    if not 0.0 <= factor < math.inf:
        return no_bound(operation, reason)
    return lambda amount: mul_up(factor, amount)


def _entries(facts: Facts, name: str) -> int:
    return max(1, math.prod(facts.shapes[name]))


def _last(facts: Facts, operation: Operation, entries: Sequence[object]) -> tuple[int, ...]:
    """Return the sizes of as many last dimensions of the input as there are entries."""
    shape = facts.shape(operation)
    return shape[len(shape) - len(entries) :]


def copies_upper(facts: Facts, operation: Operation, position: int = 0) -> float:
    """Return how much broadcasting an input to the output's shape enlarges its norm."""
    copies = _entries(facts, operation.name) / _entries(facts, operation.inputs[position])
    return root_upper(copies) if facts.norm == "l2" and copies > 1.0 else 1.0


def _by_norm(facts: Facts, l2: float, linf: float) -> float:
    return l2 if facts.norm == "l2" else linf


def _one(_: Facts, operation: Operation) -> Combine | Unbounded:
    return _scaled(operation, 1.0)


def _start(_facts: Facts, _operation: Operation) -> Combine:
    return lambda: 1.0


def _fixed(_facts: Facts, _operation: Operation) -> Combine:
    return lambda: 0.0


def _linear_map(facts: Facts, operation: Operation) -> Combine | Unbounded:
    return _scaled(operation, facts.maps[operation.name].bracket(facts.norm).upper)


def _activation(facts: Facts, operation: Operation) -> Combine | Unbounded:
    slopes = slope_range(facts.graph, operation)
    if isinstance(slopes, Unbounded):
        return slopes
    return _scaled(operation, max(abs(slope) for slope in slopes))


def _batch_norm(facts: Facts, operation: Operation) -> Combine | Unbounded:
    if not divides_by_positive(facts.graph, operation):
        return no_bound(operation, "batch norm divides by the root of a variance + eps that is not surely positive")
    variance, eps = facts.graph.required_weight(operation, "variance"), operation.number("eps")
    return _scaled(operation, batch_norm_upper(facts.graph.weight(operation, "weight"), variance, eps))


def _normalize(facts: Facts, operation: Operation) -> Combine | Unbounded:
    std = facts.graph.required_weight(operation, "std")
    if not float(std.abs().min()) > 0.0:
        return no_bound(operation, "the input is divided by a standard deviation of 0")
    return _scaled(operation, mul_up(reciprocal_upper(std), copies_upper(facts, operation)))


def _normalisation(facts: Facts, operation: Operation) -> Combine | Unbounded:
    eps = operation.optional_number("eps")
    if eps is None:
        return no_bound(operation, "rms_norm without eps uses the machine epsilon, a different function in each dtype")
    if not eps > 0.0:
        return no_bound(operation, f"{operation.kind} with eps = 0 jumps where its input has no variance")
    gain = normalization_upper(facts.graph.weight(operation, "weight"), eps)
    return _scaled(operation, mul_up(gain, _by_norm(facts, 1.0, root_upper(normalised_entries(facts, operation)))))


def normalised_entries(facts: Facts, operation: Operation) -> int:
    """Return how many entries a normalisation reads together."""
    if operation.kind in ("layer_norm", "rms_norm"):
        return math.prod(operation.integers("shape"))
    _, channels, *spatial = facts.shape(operation)
    groups = operation.integer("groups") if operation.kind == "group_norm" else channels
    return channels // groups * math.prod(spatial)


def _softmax(_: Facts, operation: Operation) -> Combine | Unbounded:
    return _scaled(operation, 0.5)


def _log_softmax(facts: Facts, operation: Operation) -> Combine | Unbounded:
    entries = facts.shape(operation)[operation.integer("dim")]
    return _scaled(operation, _by_norm(facts, root_upper(entries), 2.0) if entries > 1 else 0.0)


def _max_pool(facts: Facts, operation: Operation) -> Combine | Unbounded:
    windows = (operation.integers("kernel"), operation.integers("stride"), operation.integers("dilation"))
    return _scaled(operation, max_pool_upper(*windows, norm=facts.norm))


def _adaptive_max_pool(facts: Facts, operation: Operation) -> Combine | Unbounded:
    output = operation.integers("output")
    return _scaled(operation, adaptive_max_pool_upper(_last(facts, operation, output), output, norm=facts.norm))


def avg_pool_bracket(facts: Facts, operation: Operation) -> Bracket:
    """Return the norm of an average pool, enclosed."""
    divisor = operation.attributes["divisor"]
    kernel = operation.integers("kernel")
    return enclose_avg_pool(
        _last(facts, operation, kernel),
        kernel,
        operation.integers("stride"),
        operation.integers("padding"),
        ceil_mode=operation.flag("ceil_mode"),
        count_include_pad=operation.flag("count_include_pad"),
        divisor=None if divisor is None else int(divisor),
        norm=facts.norm,
    )


def adaptive_avg_pool_bracket(facts: Facts, operation: Operation) -> Bracket:
    """Return the norm of an adaptive average pool, enclosed."""
    output = operation.integers("output")
    return enclose_adaptive_avg_pool(_last(facts, operation, output), output, norm=facts.norm)


def _avg_pool(facts: Facts, operation: Operation) -> Combine | Unbounded:
    return _scaled(operation, avg_pool_bracket(facts, operation).upper)


def _adaptive_avg_pool(facts: Facts, operation: Operation) -> Combine | Unbounded:
    return _scaled(operation, adaptive_avg_pool_bracket(facts, operation).upper)


def group_size(facts: Facts, operation: Operation) -> int:
    """Return how many entries a reduction reads for one entry of its output."""
    return _entries(facts, operation.inputs[0]) // _entries(facts, operation.name)


def _mean(facts: Facts, operation: Operation) -> Combine | Unbounded:
    return _scaled(operation, _by_norm(facts, sqrt_up(div_up(1.0, float(group_size(facts, operation)))), 1.0))


def _sum(facts: Facts, operation: Operation) -> Combine | Unbounded:
    entries = float(group_size(facts, operation))
    return _scaled(operation, _by_norm(facts, sqrt_up(entries), entries))


def _expand(facts: Facts, operation: Operation) -> Combine | Unbounded:
    return _scaled(operation, copies_upper(facts, operation))


def _pad(facts: Facts, operation: Operation) -> Combine | Unbounded:
    pairs = operation.pairs("padding")
    size = _last(facts, operation, pairs)
    return _scaled(operation, pad_upper(size, pairs, operation.text("mode"), norm=facts.norm))


def _upsample_nearest(facts: Facts, operation: Operation) -> Combine | Unbounded:
    return _scaled(operation, upsample_nearest_upper(operation.integers("scale"), norm=facts.norm))


def _root_of_squares(*amounts: float) -> float:
    return sqrt_up(add_up(*(mul_up(amount, amount) for amount in amounts))) if len(amounts) > 1 else amounts[0]


def _largest(*amounts: float) -> float:
    return max(amounts)


def _concat(facts: Facts, _: Operation) -> Combine:
    return _root_of_squares if facts.norm == "l2" else _largest


def _copies(facts: Facts, operation: Operation) -> tuple[float, ...]:
    return tuple(copies_upper(facts, operation, position) for position in range(len(operation.inputs)))


def _sum_of_branches(facts: Facts, operation: Operation) -> Combine:
    copies = _copies(facts, operation)
    return lambda *amounts: add_up(*(mul_up(*pair) for pair in zip(copies, amounts, strict=True)))


def _extreme_of_two(facts: Facts, operation: Operation) -> Combine:
    copies, join = _copies(facts, operation), _concat(facts, operation)
    return lambda *amounts: join(*(mul_up(*pair) for pair in zip(copies, amounts, strict=True)))


def _one_side(facts: Facts, operation: Operation, position: int, factor: float) -> Combine | Unbounded:
    """Return the rule of a product of which only input ``position`` varies."""
    size = mul_up(factor, copies_upper(facts, operation, position))
    if not size < math.inf:
        return no_bound(operation, "its constant factor is too large")
    return lambda *amounts: mul_up(size, amounts[position])


def _mul(facts: Facts, operation: Operation) -> Combine | Unbounded:
    for position in (1, 0):
        if facts.is_constant(operation, position):
            factor = largest_absolute(facts.constants[operation.inputs[position]])
            return _one_side(facts, operation, 1 - position, factor)
    return no_bound(operation, "a product of two activations has no bound over all inputs: its slope grows with them")


def _div(facts: Facts, operation: Operation) -> Combine | Unbounded:
    if not facts.is_constant(operation, 1):
        return no_bound(operation, "a quotient by an activation has no bound: its slope grows where that is near 0")
    smallest = _smallest_absolute(facts.constants[operation.inputs[1]])
    if not smallest > 0.0:
        return no_bound(operation, "the constant divisor has an entry 0")
    return _one_side(facts, operation, 0, div_up(1.0, smallest))


def _smallest_absolute(x: Tensor) -> float:
    return float(x.abs().min())


def _matmul(facts: Facts, operation: Operation) -> Combine | Unbounded:
    found = facts.maps.get(operation.name)
    if found is None:
        return no_bound(
            operation, "a matrix product of two activations has no bound over all inputs: its slope grows with them"
        )
    position = 0 if facts.is_constant(operation, 1) and facts.constants[operation.inputs[1]].dim() == 2 else 1
    factor = found.bracket(facts.norm).upper
    return lambda *amounts: mul_up(factor, amounts[position])


def _attention(facts: Facts, operation: Operation) -> Combine | Unbounded:
    query, key, value = (facts.shape(operation, position) for position in range(3))
    fixed_mask = all(name in facts.independent for name in operation.inputs[3:])
    limits = [facts.token_limit(name) for name in operation.inputs[:3]]
    if not (fixed_mask and query[:-2] == key[:-2] == value[:-2] and all(map(math.isfinite, limits))):
        return no_bound(operation, ATTENTION)
    scale = attention_scale_upper(operation, query[-1])
    gains = attention_gains(scale, Limits(limits[0], limits[1], limits[2], float(query[-2])))
    if not all(map(math.isfinite, gains)):
        return no_bound(operation, ATTENTION)
    in_norm = _by_norm(facts, 1.0, root_upper(max(map(math.prod, (query, key, value)))))
    return lambda *movements: mul_up(in_norm, combine_attention(gains, movements))


RULES: Table[Facts, Combine] = MappingProxyType(
    {
        "input": _start,
        "constant": _fixed,
        **dict.fromkeys(("linear", "conv", "conv_transpose"), _linear_map),
        **dict.fromkeys(ACTIVATIONS, _activation),
        **dict.fromkeys(NORMALISATIONS, _normalisation),
        **dict.fromkeys(SAME_ENTRIES, _one),
        "batch_norm": _batch_norm,
        "normalize": _normalize,
        "softmax": _softmax,
        "log_softmax": _log_softmax,
        "attention": _attention,
        "matmul": _matmul,
        "max_pool": _max_pool,
        "avg_pool": _avg_pool,
        "adaptive_max_pool": _adaptive_max_pool,
        "adaptive_avg_pool": _adaptive_avg_pool,
        "mean": _mean,
        "sum": _sum,
        "maximum": _extreme_of_two,
        "minimum": _extreme_of_two,
        "pad": _pad,
        "expand": _expand,
        "concat": _concat,
        "upsample_nearest": _upsample_nearest,
        "add": _sum_of_branches,
        "sub": _sum_of_branches,
        "mul": _mul,
        "div": _div,
    }
)
