r"""How much one operation rounds: the local error of every kind, in any order of summation, fused or not.

A rule answers with a `Rounding`: the l2 norm of (computed minus exact output), both on the *same* input, is at most

    gamma_steps(u) * size + absolute,        gamma_n(u) = n u / (1 - n u),

for every input within ``drift`` of the float64 activations h at hand. Symbols: u = 2^-53 or 2^-24, eta the smallest
subnormal of the format, m the number of terms of an inner product (bias included), n the number of output entries.

- *inner products* (linear, conv, matmul by a constant): componentwise gamma_m (|W| |h| + |b|) (Higham, Accuracy and
  Stability of Numerical Algorithms, Lemma 3.1) plus eta m for underflow; an input that is off by d adds at most
  || |W| ||_2 d to the size. Two more steps cover weights and bias rounded to the format.
- *averages and sums*: inner products with their non-negative matrix.
- *batch_norm, normalize*: fewer than 12 roundings of |d| (|h| + |c|) + |b|, with scale d, mean c and shift b: not of
  the folded bias, since h - c cancels.
- *add, sub, mul, div by a constant*: one rounding, and one of each operand.
- *what only selects, moves or compares* rounds nothing; constants (clamp, pad) are rounded to the format once.
- *library functions* (exp, erf, tanh, ...), float64 only: 10 u (|h| + |f(h)|) per entry, which allows the library 4
  units in the last place. This is the one assumption about a library here; the tests compare it with 40-digit values.
- *softplus* runs as the identity above its threshold: a jump of at most exp(-threshold) / beta per entry. A threshold
  above 700 lets exp(beta x) overflow, at other inputs of the ball too, and has no rule.
- *softmax* over k entries: with a_i = max z - z_i, exp(fl(-a_i)) is off by a relative (a_i + 8) u, and
  sum p_i a_i <= ln k because p_i = exp(-a_i) / S with S >= 1. Numerators, sum and quotient together are off by
  2 sum_i p_i (a_i + 8) u + (k + 2) u <= (k + 2 ln k + 18) u in l1, less than gamma_{4k+64}. log_softmax: the same
  inside the logarithm, and a few u per |output|, because a_i <= |output_i|.
- *attention* over n keys of width d, float64 only: the scores s q.k + mask are off by gamma_{d+4} (|s| Q K + |mask|),
  which turns the softmax by at most twice that in l1; the exponentials, also when they are rescaled block by block to a
  running maximum (their exponents still sum to a_i), the sum and the quotient by gamma_{20n+64} in l1, as above; the
  products with values of norm at most V by gamma_{n+2} V. Infinite entries of a mask are exact.
- *products of two values*: one rounding; inner products of them, gamma_m times the product of the norms.
- *layer_norm and its kin* over d entries, with G = max|weight|: the centred input is off by 2 gamma_{2d+8} ||h||,
  divided by sqrt(eps) at least; the variance by gamma_{4d+32} mean(h^2) in every usual algorithm (two passes, Welford,
  moments), which turns the output, at most sqrt(d) G per group, by half the relative error of variance + eps.

A kind without a rule here has a typed reason, and so has a size beyond the range of the format.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

from certify.bounds.attention import attention_scale_upper
from certify.bounds.facts import Facts
from certify.bounds.magnitudes import l2_upper, largest_absolute, root_upper, row_l2_upper
from certify.bounds.rules import NORMALISATIONS, Combine, group_size, normalised_entries
from certify.bounds.walk import no_bound
from certify.graph import Operation
from certify.graph.run import run_operation
from certify.results import Unbounded
from certify.rounding import add_up, div_up, gamma_up, mul_up, up


@dataclass(frozen=True)
class Format:
    """A floating-point format: unit roundoff, smallest subnormal, and a size that is safely below overflow."""

    name: str
    unit: float
    tiny: float
    largest: float


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "float64": Format("float64", 2.0**-53, 2.0**-1074, 2.0**1000),
        "float32": Format("float32", 2.0**-24, 2.0**-149, 2.0**120),
    }
)


@dataclass(frozen=True)
class Rounding:
    """The error of one operation: at most ``gamma_steps * size + absolute``."""

    steps: float = 0.0
    size: float = 0.0
    absolute: float = 0.0


EXACT = Rounding()
MOST_SOFTPLUS_THRESHOLD = 700.0  # below, exp(beta x) stays finite wherever the threshold lets it be taken
LEAST_CELU_ALPHA = 2.0**-1000


@dataclass(frozen=True)
class Evaluation:
    """One operation on one example: what a rule may ask.

    ``inputs`` and ``output`` are float64 activations; ``drift`` bounds, per input, how far the inputs of the program in
    question may be from them; ``combine`` is the operation's gain rule in l2.
    """

    facts: Facts
    operation: Operation
    inputs: tuple[Tensor, ...]
    output: Tensor
    drift: tuple[float, ...]
    combine: Combine
    format: Format

    @property
    def entries(self) -> int:
        """The number of entries of the output."""
        return max(1, self.output.numel())

    def reach(self, position: int = 0) -> float:
        """Return at least the l2 norm of any input value the program may meet."""
        return add_up(l2_upper(self.inputs[position]), self.drift[position])

    def reaches(self) -> tuple[float, ...]:
        """Return `reach` of every input."""
        return tuple(self.reach(position) for position in range(len(self.inputs)))

    def underflow(self, count: float) -> float:
        """Return at least the norm of ``count`` underflows in every output entry."""
        return mul_up(self.format.tiny, count, float(self.entries))

    def weight(self, role: str) -> Tensor | None:
        """Return a weight of the operation, in float64."""
        return self.facts.graph.weight(self.operation, role)


LocalRule: TypeAlias = Callable[[Evaluation], Rounding | Unbounded]


def _exact(_: Evaluation) -> Rounding:
    return EXACT


def _enlarged(x: Tensor, steps: float) -> float:
    """Return at least the l2 norm of a non-negative array that was computed with ``steps`` roundings."""
    return mul_up(l2_upper(x), add_up(1.0, mul_up(2.0, gamma_up(steps + 2.0))))


def _absolute_run(at: Evaluation) -> Tensor:
    """Return the operation on absolute inputs with absolute weights: |W| |h| + |b|."""
    return run_operation(at.facts.absolute, at.operation, [value.abs() for value in at.inputs], 1)


def _inner_products(at: Evaluation) -> Rounding:
    terms = _fan_in(at) + 1.0
    found = at.facts.maps.get(at.operation.name)
    if found is None:  # a product of two values: its gain rule bounds it by the norm of one for each unit of the other
        return Rounding(terms + 4.0, at.combine(at.reach(0), 0.0), at.underflow(4.0 * terms))
    drift = max(at.drift)  # of a matmul only one operand varies
    size = add_up(_enlarged(_absolute_run(at), terms), mul_up(found.abs_upper, drift))
    return Rounding(terms + 4.0, size, at.underflow(4.0 * terms))


def _fan_in(at: Evaluation) -> float:
    if at.operation.kind == "matmul":
        return float(at.inputs[0].shape[-1])
    weight = at.facts.graph.required_weight(at.operation, "weight")
    if at.operation.kind == "conv_transpose":
        return float(weight[:, 0].numel() // at.operation.integer("groups"))
    return float(weight[0].numel())


def _averages(at: Evaluation) -> Rounding:
    terms = _WINDOWS[at.operation.kind](at)
    size = add_up(_enlarged(_absolute_run(at), terms), at.combine(at.drift[0]))
    return Rounding(terms + 4.0, size, at.underflow(4.0 * terms))


def _adaptive_window(at: Evaluation) -> float:
    outputs = at.operation.integers("output")
    sizes = at.inputs[0].shape[at.inputs[0].dim() - len(outputs) :]
    return float(math.prod(-(-size // out) + 1 for size, out in zip(sizes, outputs, strict=True)))


_WINDOWS: Mapping[str, Callable[[Evaluation], float]] = MappingProxyType(
    {
        "avg_pool": lambda at: float(math.prod(at.operation.integers("kernel"))),
        "adaptive_avg_pool": _adaptive_window,
        "mean": lambda at: float(group_size(at.facts, at.operation)),
        "sum": lambda at: float(group_size(at.facts, at.operation)),
    }
)


def _affine(at: Evaluation, scale: Tensor, mean: Tensor, shift: Tensor | None) -> Rounding:
    """Return the rounding of scale (h - mean) + shift, with tensors that broadcast against h."""
    sizes = scale.abs() * (at.inputs[0].abs() + mean.abs())
    sizes = sizes if shift is None else sizes + shift.abs()
    size = add_up(_enlarged(sizes, 12.0), at.combine(at.drift[0]))
    return Rounding(14.0, size, mul_up(at.underflow(16.0), add_up(1.0, at.reach(), largest_absolute(mean))))


def _batch_norm(at: Evaluation) -> Rounding:
    columns = (-1, *[1] * (at.inputs[0].dim() - 2))
    mean, variance = (at.facts.graph.required_weight(at.operation, role) for role in ("mean", "variance"))
    weight, bias = at.weight("weight"), at.weight("bias")
    scale = (variance + at.operation.number("eps")).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = None if bias is None else bias.reshape(columns)
    return _affine(at, scale.reshape(columns), mean.reshape(columns), shift)


def _normalize(at: Evaluation) -> Rounding:
    mean, std = (at.facts.graph.required_weight(at.operation, role) for role in ("mean", "std"))
    return _affine(at, 1.0 / std, mean, None)


def _arithmetic(at: Evaluation) -> Rounding:
    return Rounding(4.0, at.combine(*at.reaches()), at.underflow(4.0))


def _constant(at: Evaluation) -> Rounding:
    return EXACT if at.format.name == "float64" else Rounding(1.0, l2_upper(at.output), at.underflow(1.0))


def _rounded_bounds(at: Evaluation) -> Rounding:
    """Return the rounding of the scalars a clamp or a pad compares with or inserts."""
    names = ("min", "max") if at.operation.kind == "clamp" else ("value",)
    scalars = [abs(value) for value in map(at.operation.optional_number, names) if value is not None]
    if at.format.name == "float64" or not scalars:
        return EXACT
    return Rounding(1.0, mul_up(max(scalars), root_upper(at.entries)), at.underflow(1.0))


def _few(steps: float, offset: str | float = 0.0) -> LocalRule:
    """Return the rule "``steps`` roundings of numbers of at most |h| + offset (a number or an attribute)"."""

    def rule(at: Evaluation) -> Rounding:
        shift = abs(at.operation.number(offset)) if isinstance(offset, str) else offset
        slope = max(1.0, at.combine(1.0))
        size = mul_up(slope, add_up(at.reach(), mul_up(shift, root_upper(at.entries))))
        return Rounding(steps, size, mul_up(at.underflow(steps), add_up(1.0, at.reach())))

    return rule


def _float64_only(rule: LocalRule) -> LocalRule:
    def refuse_float32(at: Evaluation) -> Rounding | Unbounded:
        if at.format.name != "float64":
            kind = at.operation.kind
            return no_bound(at.operation, f"the error of the library function {kind} is bounded in float64 only")
        return rule(at)

    return refuse_float32


def _library(at: Evaluation) -> Rounding:
    size = add_up(at.reach(), l2_upper(at.output), at.combine(at.drift[0]))
    return Rounding(10.0, size, at.underflow(16.0))


def _softplus(at: Evaluation) -> Rounding | Unbounded:
    threshold = at.operation.number("threshold")
    if not threshold <= MOST_SOFTPLUS_THRESHOLD:
        return no_bound(at.operation, "softplus with a threshold above 700 overflows in exp")
    smooth = _library(at)
    jump = div_up(up(up(math.exp(-threshold))), at.operation.number("beta"))
    return Rounding(smooth.steps, smooth.size, add_up(smooth.absolute, mul_up(jump, root_upper(at.entries))))


def _celu(at: Evaluation) -> Rounding | Unbounded:
    if not at.operation.number("alpha") > LEAST_CELU_ALPHA:
        return no_bound(at.operation, "celu multiplies by 1 / alpha, which overflows for an alpha that is almost 0")
    return _library(at)


def _softmax(at: Evaluation) -> Rounding:
    entries = at.inputs[0].shape[at.operation.integer("dim")]
    rows = at.entries / max(1, entries)
    return Rounding(4.0 * entries + 64.0, root_upper(rows), at.underflow(16.0))


def _log_softmax(at: Evaluation) -> Rounding:
    entries = at.inputs[0].shape[at.operation.integer("dim")]
    size = add_up(l2_upper(at.output), at.combine(at.drift[0]), root_upper(at.entries))
    return Rounding(4.0 * entries + 64.0, size, at.underflow(16.0))


def _attention(at: Evaluation) -> Rounding | Unbounded:
    query, key = at.inputs[:2]
    sizes = [_row_reach(at, position) for position in range(3)]
    mask = 0.0
    if len(at.inputs) > 3:
        finite = at.inputs[3][torch.isfinite(at.inputs[3])]
        mask = add_up(largest_absolute(finite), at.drift[3])
    spread = add_up(mul_up(attention_scale_upper(at.operation, query.shape[-1]), sizes[0], sizes[1]), mask)
    keys, rows = float(key.shape[-2]), query.numel() / query.shape[-1]
    size = mul_up(root_upper(rows), sizes[2], add_up(1.0, mul_up(2.0, spread)))
    steps = 24.0 * keys + 4.0 * query.shape[-1] + 200.0
    return Rounding(steps, size, mul_up(at.underflow(16.0 * keys), add_up(1.0, sizes[2])))


def _row_reach(at: Evaluation, position: int) -> float:
    """Return at least the l2 norm of each row (last dimension) of an input the program may meet."""
    x = at.inputs[position]
    return add_up(float(row_l2_upper(x.reshape(-1, x.shape[-1])).max()), at.drift[position])


def _normalisation(at: Evaluation) -> Rounding | Unbounded:
    entries = float(normalised_entries(at.facts, at.operation))
    eps, reach = at.operation.number("eps"), at.reach()
    mean_square = div_up(mul_up(reach, reach), entries)
    turn = mul_up(gamma_up(4.0 * entries + 32.0, at.format.unit), div_up(add_up(mean_square, eps), eps))
    if not turn < 0.1:
        return no_bound(at.operation, f"the floating-point error of {at.operation.kind} is too large to bound here")
    weight, bias = at.weight("weight"), at.weight("bias")
    largest = 1.0 if weight is None else largest_absolute(weight)
    output = add_up(mul_up(largest, root_upper(at.entries)), _spread_of_bias(at, bias))
    centred = mul_up(2.0, div_up(mul_up(largest, reach), _root_lower(eps)))
    return Rounding(2.0 * entries + 24.0, add_up(centred, output), mul_up(turn, output) + at.underflow(16.0))


def _spread_of_bias(at: Evaluation, bias: Tensor | None) -> float:
    return 0.0 if bias is None else mul_up(largest_absolute(bias), root_upper(at.entries))


def _root_lower(value: float) -> float:
    return math.nextafter(math.sqrt(value), 0.0)


_MOVING = ("reshape", "permute", "expand", "slice", "flip", "roll", "concat", "upsample_nearest")
_COMPARING = ("relu", "abs", "max_pool", "adaptive_max_pool", "amax", "amin", "maximum", "minimum", "max_min", "sort")
_LIBRARY = ("selu", "silu", "mish", "tanh", "sigmoid", "logsigmoid", "tanhshrink", "sin", "elu", "gelu")

ROUNDINGS: Mapping[str, LocalRule] = MappingProxyType(
    {
        **dict.fromkeys((*_MOVING, *_COMPARING), _exact),
        **dict.fromkeys(("linear", "conv", "conv_transpose", "matmul"), _inner_products),
        **dict.fromkeys(_WINDOWS, _averages),
        **dict.fromkeys(("add", "sub", "mul", "div"), _arithmetic),
        **dict.fromkeys(("clamp", "pad"), _rounded_bounds),
        **dict.fromkeys(_LIBRARY, _float64_only(_library)),
        **dict.fromkeys(NORMALISATIONS, _normalisation),
        "constant": _constant,
        "batch_norm": _batch_norm,
        "normalize": _normalize,
        "leaky_relu": _few(4.0),
        "prelu": _few(4.0),
        "softsign": _few(6.0),
        "hardswish": _few(16.0),
        "hardsigmoid": _few(8.0, 3.0),
        "softshrink": _few(4.0, "threshold"),
        "celu": _float64_only(_celu),
        "softplus": _float64_only(_softplus),
        "attention": _float64_only(_attention),
        "softmax": _float64_only(_softmax),
        "log_softmax": _float64_only(_log_softmax),
    }
)


def as_tensor(value: Tensor | float) -> Tensor:
    """Return a value of a run as a float64 tensor (a scalar constant is a number)."""
    return torch.as_tensor(value, dtype=torch.float64)


def rounding_upper(rounding: Rounding, form: Format) -> float:
    """Return at least the error of a `Rounding`; infinity when its size leaves the range of the format."""
    if not rounding.size < form.largest:
        return math.inf
    return add_up(mul_up(gamma_up(rounding.steps, form.unit), rounding.size), rounding.absolute)
