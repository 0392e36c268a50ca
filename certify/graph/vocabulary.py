"""The closed vocabulary of operations: the model format of `certify`.

A model is a list of operations (`certify.graph.Graph`), each of one *kind* listed in `KINDS`. A kind fixes how many
input values it takes, which weight roles it has, and which attributes, so that a graph read from a file is checked
completely before anything runs. An operation outside the vocabulary is refused by name.

Words and layouts:

- A *value* is the output of one operation and has its name. All values carry a batch dimension somewhere; `conv`,
  pools, `batch_norm`, `group_norm`, `instance_norm` and `prelu` have layout ``[N, C, *spatial]``, `linear` acts on the
  last dimension, everything else names its dimensions. Dimensions are counted from 0 (never negative), batch included.
- In a *shape* attribute the entry ``-k`` (k >= 1) stands for k times the batch size: ``[-1, 784]`` is one row of 784
  per example, ``[5, -2, 4]`` has two rows per example in its middle dimension.
- *Spatial lists* (stride, padding, ...) have one entry per spatial dimension, in the order of the tensor's dimensions.
- ``padding`` of `conv`, and of `pad`, is a list of ``[before, after]`` pairs, one per spatial dimension (for `pad`: for
  the last ``len(padding)`` dimensions, in the order of the tensor's dimensions; negative entries crop).

Weight roles hold names of tensors in the file. Kinds and what they compute (x, y: input values; w: weights):

=================== ================================================================================================
input               the batch of inputs
constant            the tensor of role ``value``, or the scalar attribute ``value``
linear              x W^T + b, weight ``[out, in]``
conv                cross-correlation, weight ``[out, in/groups, *kernel]``, any of 1 to 3 spatial dimensions
conv_transpose      transposed convolution, weight ``[in, out/groups, *kernel]``
batch_norm          (x - mean) / sqrt(variance + eps) * weight + bias per channel (evaluation mode)
normalize           (x - mean) / std, tensors that broadcast against one input
layer_norm          normalisation over the last dimensions ``shape``; rms_norm: without the mean
group_norm          normalisation over channel groups; instance_norm: per channel, with the input's own statistics
relu ... softshrink the activations, elementwise; names as in ``torch.nn.functional``; clamp covers hardtanh and relu6
softmax             along ``dim``; log_softmax likewise
attention           scaled dot-product attention of (query, key, value[, mask])
matmul              product of two activations
max_pool, avg_pool  windows; adaptive_max_pool, adaptive_avg_pool: ``output`` size per spatial dimension
mean, sum           over ``dims``; amax, amin likewise
maximum, minimum    elementwise, of two values
max_min             MaxMin: with a, b the two halves of x along ``dim``: concat(max(a, b), min(a, b))
sort                along ``dim`` (GroupSort is reshape, sort, reshape)
pad                 mode constant (``value``), reflect, replicate or circular
reshape, permute, expand, slice, flip, roll, concat, upsample_nearest (integer factor per spatial dimension)
add, sub, mul, div  of two values that broadcast; mul and div by a `constant` are linear
=================== ================================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from certify.errors import InputError

Check: TypeAlias = Callable[[object], bool]


def _is_int(value: object) -> bool:
    return type(value) is int and abs(value) < 2**53


def _is_count(value: object) -> bool:
    return _is_int(value) and value >= 0  # type: ignore[operator]


def _is_positive(value: object) -> bool:
    return _is_int(value) and value >= 1  # type: ignore[operator]


def _is_bool(value: object) -> bool:
    return type(value) is bool


def _is_float(value: object) -> bool:
    return _is_int(value) or (type(value) is float and math.isfinite(value))


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(check(entry) for entry in value)


def _one_of(*choices: str) -> Check:
    return lambda value: isinstance(value, str) and value in choices


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_int(entry) for entry in value)


_INTS, _COUNTS, _POSITIVES, _PAIRS = (_list_of(check) for check in (_is_int, _is_count, _is_positive, _is_pair))


@dataclass(frozen=True)
class Kind:
    """What an operation of this kind must look like: arity, weight roles, attributes with their checks.

    ``inputs`` is the allowed range of the number of input values. Every attribute must be present.
    """

    inputs: tuple[int, int] = (1, 1)
    required_weights: frozenset[str] = frozenset()
    optional_weights: frozenset[str] = frozenset()
    attributes: Mapping[str, Check] = field(default_factory=dict)


def _kind(inputs: tuple[int, int] = (1, 1), weights: str = "", optional: str = "", **attributes: Check) -> Kind:
    return Kind(inputs, frozenset(weights.split()), frozenset(optional.split()), MappingProxyType(attributes))


def _window(**attributes: Check) -> Kind:
    shared = {"kernel": _POSITIVES, "stride": _POSITIVES, "padding": _COUNTS, "ceil_mode": _is_bool}
    return Kind(attributes=MappingProxyType({**shared, **attributes}))


_SIMPLE = (
    *("relu", "selu", "silu", "mish", "tanh", "sigmoid", "hardswish", "hardsigmoid"),
    *("abs", "softsign", "logsigmoid", "tanhshrink", "sin"),
)

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "input": _kind((0, 0)),
        "constant": _kind((0, 0), optional="value", value=_optional(_is_float)),
        "linear": _kind(weights="weight", optional="bias"),
        "conv": _kind(
            weights="weight",
            optional="bias",
            stride=_POSITIVES,
            padding=_PAIRS,
            dilation=_POSITIVES,
            groups=_is_positive,
            padding_mode=_one_of("zeros", "circular", "reflect", "replicate"),
        ),
        "conv_transpose": _kind(
            weights="weight",
            optional="bias",
            stride=_POSITIVES,
            padding=_COUNTS,
            output_padding=_COUNTS,
            dilation=_POSITIVES,
            groups=_is_positive,
        ),
        "batch_norm": _kind(weights="mean variance", optional="weight bias", eps=_is_float),
        "normalize": _kind(weights="mean std"),
        "layer_norm": _kind(optional="weight bias", shape=_POSITIVES, eps=_is_float),
        "rms_norm": _kind(optional="weight", shape=_POSITIVES, eps=_optional(_is_float)),
        "group_norm": _kind(optional="weight bias", groups=_is_positive, eps=_is_float),
        "instance_norm": _kind(optional="weight bias", eps=_is_float),
        **{name: _kind() for name in _SIMPLE},
        "leaky_relu": _kind(negative_slope=_is_float),
        "prelu": _kind(weights="weight"),
        "elu": _kind(alpha=_is_float),
        "celu": _kind(alpha=_is_float),
        "gelu": _kind(approximate=_one_of("none", "tanh")),
        "softplus": _kind(beta=_is_float, threshold=_is_float),
        "clamp": _kind(min=_optional(_is_float), max=_optional(_is_float)),
        "softshrink": _kind(threshold=_is_float),
        "softmax": _kind(dim=_is_count),
        "log_softmax": _kind(dim=_is_count),
        "attention": _kind((3, 4), causal=_is_bool, scale=_optional(_is_float)),
        "matmul": _kind((2, 2)),
        "max_pool": _window(dilation=_POSITIVES),
        "avg_pool": _window(count_include_pad=_is_bool, divisor=_optional(_is_positive)),
        "adaptive_max_pool": _kind(output=_POSITIVES),
        "adaptive_avg_pool": _kind(output=_POSITIVES),
        "mean": _kind(dims=_COUNTS, keepdim=_is_bool),
        "sum": _kind(dims=_COUNTS, keepdim=_is_bool),
        "amax": _kind(dims=_COUNTS, keepdim=_is_bool),
        "amin": _kind(dims=_COUNTS, keepdim=_is_bool),
        "maximum": _kind((2, 2)),
        "minimum": _kind((2, 2)),
        "max_min": _kind(dim=_is_count),
        "sort": _kind(dim=_is_count, descending=_is_bool),
        "pad": _kind(padding=_PAIRS, mode=_one_of("constant", "reflect", "replicate", "circular"), value=_is_float),
        "reshape": _kind(shape=_INTS),
        "permute": _kind(dims=_COUNTS),
        "expand": _kind(shape=_INTS),
        "slice": _kind(dim=_is_count, start=_is_count, stop=_is_count, step=_is_positive),
        "flip": _kind(dims=_COUNTS),
        "roll": _kind(shifts=_INTS, dims=_COUNTS),
        "concat": _kind((1, 10_000), dim=_is_count),
        "upsample_nearest": _kind(scale=_POSITIVES),
        "add": _kind((2, 2)),
        "sub": _kind((2, 2)),
        "mul": _kind((2, 2)),
        "div": _kind((2, 2)),
    }
)


def check_operation(
    kind: str, inputs: int, weights: Mapping[str, str], attributes: Mapping[str, object], where: str
) -> None:
    """Refuse an operation that does not fit its kind.

    Args:
        kind: Name of the kind.
        inputs: Number of input values.
        weights: Weight role to tensor name.
        attributes: Attribute name to plain value.
        where: The operation and its module, for the error message.

    Raises:
        InputError: If the kind is unknown, or arity, roles or attributes do not fit it.
    """
    spec = KINDS.get(kind)
    if spec is None:
        raise InputError(f"{where}: expected an operation of the vocabulary, got {kind!r}")
    least, most = spec.inputs
    if not least <= inputs <= most:
        raise InputError(f"{where}: {kind} takes {least} to {most} inputs, got {inputs}")
    roles = frozenset(weights)
    if not spec.required_weights <= roles <= spec.required_weights | spec.optional_weights:
        raise InputError(
            f"{where}: {kind} takes weights {sorted(spec.required_weights)} and optionally"
            f" {sorted(spec.optional_weights)}, got {sorted(roles)}"
        )
    if attributes.keys() != spec.attributes.keys():
        raise InputError(f"{where}: {kind} takes attributes {sorted(spec.attributes)}, got {sorted(attributes)}")
    for name, check in spec.attributes.items():
        if not check(attributes[name]):
            raise InputError(f"{where}: {kind} has no attribute {name} = {attributes[name]!r}")
