"""The layers a TOML file may list: one table from type to `torch.nn` class, one from argument to what it must be.

A type is the class's name in snake case and its keys are the arguments of that class, under PyTorch's names and with
PyTorch's defaults, so there is nothing new to learn and a printed module can be copied down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from torch import nn

from certify.errors import InputError

LARGEST = 2**31

Check: TypeAlias = Callable[[object], bool]


@dataclass(frozen=True)
class Layer:
    """One type: what makes the module, and the arguments it needs and takes."""

    make: Callable[..., nn.Module]
    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()


def _size(value: object) -> bool:
    return type(value) is int and 1 <= value <= LARGEST


def _count(value: object) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _index(value: object) -> bool:
    return type(value) is int and -LARGEST <= value <= LARGEST


def _bool(value: object) -> bool:
    return type(value) is bool


def _number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _one_or_list(check: Check) -> Check:
    return lambda value: check(value) or (isinstance(value, list) and 1 <= len(value) <= 6 and all(map(check, value)))


def _choice(*choices: str) -> Check:
    return lambda value: value in choices


_PADDING = _one_or_list(_count)

ARGUMENTS: Mapping[str, tuple[str, Check]] = MappingProxyType(
    {
        **dict.fromkeys(
            ("in_features", "out_features", "in_channels", "out_channels", "num_features", "num_channels"),
            ("a positive integer", _size),
        ),
        **dict.fromkeys(("groups", "num_groups", "num_parameters"), ("a positive integer", _size)),
        **dict.fromkeys(
            ("kernel_size", "stride", "dilation", "output_size", "normalized_shape", "scale_factor"),
            ("a positive integer or a list of them", _one_or_list(_size)),
        ),
        "output_padding": ("an integer >= 0 or a list of them", _PADDING),
        "padding": (
            'an integer >= 0, a list of them, "same" or "valid"',
            lambda v: v in ("same", "valid") or _PADDING(v),
        ),
        "padding_mode": (
            '"zeros", "circular", "reflect" or "replicate"',
            _choice("zeros", "circular", "reflect", "replicate"),
        ),
        "approximate": ('"none" or "tanh"', _choice("none", "tanh")),
        **dict.fromkeys(
            ("bias", "affine", "elementwise_affine", "ceil_mode", "count_include_pad"), ("true or false", _bool)
        ),
        **dict.fromkeys(
            ("eps", "negative_slope", "alpha", "beta", "threshold", "lambd", "min_val", "max_val", "value", "p"),
            ("a finite number", _number),
        ),
        **dict.fromkeys(("start_dim", "end_dim", "dim"), ("an integer", _index)),
        "divisor_override": ("a positive integer", _size),
    }
)


def _layer(make: Callable[..., nn.Module], required: str = "", optional: str = "") -> Layer:
    return Layer(make, frozenset(required.split()), frozenset(optional.split()))


def _by_dimension(name: str, classes: tuple[Callable[..., nn.Module], ...], *arguments: str) -> dict[str, Layer]:
    return {f"{name}{dimension}d": _layer(make, *arguments) for dimension, make in enumerate(classes, start=1)}


_CONV = "stride padding dilation groups bias padding_mode"
_WINDOW = "stride padding ceil_mode"
_NO_ARGUMENTS: Mapping[str, Callable[..., nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "selu": nn.SELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "softsign": nn.Softsign,
    "logsigmoid": nn.LogSigmoid,
    "tanhshrink": nn.Tanhshrink,
}

LAYERS: Mapping[str, Layer] = MappingProxyType(
    {
        "linear": _layer(nn.Linear, "in_features out_features", "bias"),
        **_by_dimension("conv", (nn.Conv1d, nn.Conv2d, nn.Conv3d), "in_channels out_channels kernel_size", _CONV),
        **_by_dimension(
            "conv_transpose",
            (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
            "in_channels out_channels kernel_size",
            "stride padding output_padding groups bias dilation",
        ),
        **_by_dimension("batch_norm", (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), "num_features", "eps affine"),
        "layer_norm": _layer(nn.LayerNorm, "normalized_shape", "eps elementwise_affine bias"),
        "group_norm": _layer(nn.GroupNorm, "num_groups num_channels", "eps affine"),
        **{name: _layer(make) for name, make in _NO_ARGUMENTS.items()},
        "leaky_relu": _layer(nn.LeakyReLU, optional="negative_slope"),
        "prelu": _layer(nn.PReLU, optional="num_parameters"),
        "elu": _layer(nn.ELU, optional="alpha"),
        "celu": _layer(nn.CELU, optional="alpha"),
        "gelu": _layer(nn.GELU, optional="approximate"),
        "softplus": _layer(nn.Softplus, optional="beta threshold"),
        "hardtanh": _layer(nn.Hardtanh, optional="min_val max_val"),
        "softshrink": _layer(nn.Softshrink, optional="lambd"),
        "softmax": _layer(nn.Softmax, "dim"),
        "log_softmax": _layer(nn.LogSoftmax, "dim"),
        **_by_dimension("max_pool", (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), "kernel_size", f"{_WINDOW} dilation"),
        "avg_pool1d": _layer(nn.AvgPool1d, "kernel_size", f"{_WINDOW} count_include_pad"),
        "avg_pool2d": _layer(nn.AvgPool2d, "kernel_size", f"{_WINDOW} count_include_pad divisor_override"),
        "avg_pool3d": _layer(nn.AvgPool3d, "kernel_size", f"{_WINDOW} count_include_pad divisor_override"),
        **_by_dimension(
            "adaptive_avg_pool", (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), "output_size"
        ),
        **_by_dimension(
            "adaptive_max_pool", (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), "output_size"
        ),
        "flatten": _layer(nn.Flatten, optional="start_dim end_dim"),
        "dropout": _layer(nn.Dropout, optional="p"),
        **_by_dimension("dropout", (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), "", "p"),
        **_by_dimension("zero_pad", (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d), "padding"),
        **_by_dimension("circular_pad", (nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d), "padding"),
        **_by_dimension("reflection_pad", (nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d), "padding"),
        **_by_dimension("replication_pad", (nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d), "padding"),
        "upsample_nearest": _layer(nn.Upsample, "scale_factor"),
    }
)


def make_layer(kind: str, arguments: Mapping[str, Any], where: str) -> nn.Module:
    """Return the module of one listed layer.

    Args:
        kind: A key of `LAYERS`.
        arguments: Argument name to plain value; lists become tuples.
        where: The layer, for the error message.

    Raises:
        InputError: If the type is unknown, an argument is missing or unknown or no fit, or the class refuses it.

    Example:
        >>> make_layer("linear", {"in_features": 2, "out_features": 1}, "layer 0")
        Linear(in_features=2, out_features=1, bias=True)
        >>> make_layer("linear", {"in_features": 2}, "layer 0")
        Traceback (most recent call last):
        certify.errors.InputError: layer 0: linear needs ['out_features']
    """
    layer = LAYERS.get(kind)
    if layer is None:
        raise InputError(f"{where}: expected a type among {', '.join(LAYERS)}, residual; got {kind!r:.100}")
    if missing := sorted(layer.required - arguments.keys()):
        raise InputError(f"{where}: {kind} needs {missing}")
    if unknown := sorted(arguments.keys() - layer.required - layer.optional):
        raise InputError(f"{where}: {kind} takes {sorted(layer.required | layer.optional)}, got {unknown[:5]!s:.200}")
    for name, value in arguments.items():
        expected, check = ARGUMENTS[name]
        if not check(value):
            raise InputError(f"{where}: expected {name} to be {expected}, got {value!r:.100}")
    try:
        return layer.make(**{name: tuple(v) if isinstance(v, list) else v for name, v in arguments.items()})
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{where}: {kind}: {str(error).splitlines()[0]}") from error
