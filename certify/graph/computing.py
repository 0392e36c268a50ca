"""From ATen operators that compute to the vocabulary: layers, activations, pools, reductions, arithmetic.

One entry per operator; families of operators that mean the same thing share a function. Nothing is resolved by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from certify.graph.site import Constant, Result, Site, Translation, Value, family


def _unary(kind: str, **renamed: str) -> Translation:
    """An operator of one activation; ``renamed`` maps attribute to schema argument."""

    def translate(site: Site) -> Result:
        attributes = {attribute: site.arguments[argument] for attribute, argument in renamed.items()}
        return site.emit(kind, [site.value("self").name], attributes)

    return translate


def _binary(kind: str) -> Translation:
    def translate(site: Site) -> Result:
        if site.arguments.get("alpha", 1) != 1 or site.arguments.get("rounding_mode") is not None:
            raise site.refuse("alpha other than 1 and rounding have no rule; write the multiplication out")
        return site.emit(kind, [site.operand("self"), site.operand("other")])

    return translate


def _reversed_sub(site: Site) -> Result:
    return site.emit("sub", [site.operand("other"), site.operand("self")])


def _negate(site: Site) -> Result:
    return site.emit("mul", [site.value("self").name, site.named(-1.0, "_minus")])


def _spatial(value: Any, rank: int) -> list[int]:  # noqa: ANN401 - a traced argument
    entries = list(value) if isinstance(value, list | tuple) else [value]
    return [int(entry) for entry in (entries * rank if len(entries) == 1 else entries)]


def _conv(site: Site) -> Result:
    weight = site.weight("weight")
    if weight is None:
        raise site.refuse("expected a weight")
    rank = weight.tensor.dim() - 2
    x = site.value("input")
    if len(x.shape) != rank + 2:
        raise site.refuse(f"expected a batch of inputs with {rank + 2} dimensions, got {len(x.shape)}")
    dilation = _spatial(site.arguments["dilation"], rank)
    attributes = {
        "stride": _spatial(site.arguments["stride"], rank),
        "padding": _conv_padding(site, weight.tensor, dilation),
        "dilation": dilation,
        "groups": int(site.arguments["groups"]),
        "padding_mode": "zeros",
    }
    return site.emit("conv", [x.name], attributes, {"weight": weight, "bias": site.weight("bias")})


def _conv_padding(site: Site, weight: Tensor, dilation: list[int]) -> list[list[int]]:
    padding, rank = site.arguments["padding"], weight.dim() - 2
    if padding == "valid":
        return [[0, 0]] * rank
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        return [[total // 2, total - total // 2] for total in totals]
    return [[size, size] for size in _spatial(padding, rank)]


def _conv_transpose(site: Site) -> Result:
    weight = site.weight("weight")
    if weight is None:
        raise site.refuse("expected a weight")
    rank = weight.tensor.dim() - 2
    names = ("stride", "padding", "output_padding", "dilation")
    attributes: dict[str, Any] = {name: _spatial(site.arguments[name], rank) for name in names}
    attributes["groups"] = int(site.arguments["groups"])
    weights = {"weight": weight, "bias": site.weight("bias")}
    return site.emit("conv_transpose", [site.value("input").name], attributes, weights)


def _linear(site: Site) -> Result:
    weights = {"weight": site.weight("weight"), "bias": site.weight("bias")}
    return site.emit("linear", [site.value("input").name], {}, weights)


def _matmul(site: Site) -> Result:
    left, right = site.arguments["self"], site.arguments.get("other", site.arguments.get("mat2"))
    if isinstance(left, Value) and isinstance(right, Constant) and right.tensor.dim() == 2:
        stored = Constant(f"{right.name}.T", right.tensor.T.contiguous())
        return site.emit("linear", [left.name], {}, {"weight": stored})
    for side in (left, right):
        rank = len(side.shape) if isinstance(side, Value) else side.tensor.dim()
        if rank < 2:
            raise site.refuse("a product with a vector has no rule; use nn.Linear")
    return site.emit("matmul", [site.named(left, "_left"), site.named(right, "_right")])


def _scaled_add_matmul(site: Site) -> Result:
    if site.arguments["beta"] != 1 or site.arguments["alpha"] != 1:
        raise site.refuse("alpha and beta other than 1 have no rule")
    product = site.emit("matmul", [site.value("batch1").name, site.value("batch2").name], suffix="_product")
    return site.emit("add", [site.operand("self"), product])


def _batch_norm(site: Site) -> Result:
    if site.arguments.get("training", False) or site.arguments.get("use_input_stats", False):
        raise site.refuse("normalises with the statistics of the batch; train with running statistics")
    names = {"mean": "running_mean", "variance": "running_var", "weight": "weight", "bias": "bias"}
    weights = {role: site.weight(argument) for role, argument in names.items()}
    return site.emit("batch_norm", [site.value("input").name], {"eps": float(site.arguments["eps"])}, weights)


def _instance_norm(site: Site) -> Result:
    if not site.arguments["use_input_stats"]:
        return _batch_norm(site)
    weights = {"weight": site.weight("weight"), "bias": site.weight("bias")}
    return site.emit("instance_norm", [site.value("input").name], {"eps": float(site.arguments["eps"])}, weights)


def _layer_norm(site: Site) -> Result:
    attributes = {"shape": list(site.arguments["normalized_shape"]), "eps": float(site.arguments["eps"])}
    weights = {"weight": site.weight("weight"), "bias": site.weight("bias")}
    return site.emit("layer_norm", [site.value("input").name], attributes, weights)


def _rms_norm(site: Site) -> Result:
    eps = site.arguments["eps"]
    attributes = {"shape": list(site.arguments["normalized_shape"]), "eps": None if eps is None else float(eps)}
    return site.emit("rms_norm", [site.value("input").name], attributes, {"weight": site.weight("weight")})


def _group_norm(site: Site) -> Result:
    attributes = {"groups": int(site.arguments["num_groups"]), "eps": float(site.arguments["eps"])}
    weights = {"weight": site.weight("weight"), "bias": site.weight("bias")}
    return site.emit("group_norm", [site.value("input").name], attributes, weights)


def _prelu(site: Site) -> Result:
    return site.emit("prelu", [site.value("self").name], {}, {"weight": site.weight("weight")})


def _elu(site: Site) -> Result:
    if site.arguments["scale"] != 1 or site.arguments["input_scale"] != 1:
        raise site.refuse("scaled ELU other than SELU has no rule")
    return site.emit("elu", [site.value("self").name], {"alpha": float(site.arguments["alpha"])})


def _celu(site: Site) -> Result:
    return site.emit("celu", [site.value("self").name], {"alpha": float(site.arguments["alpha"])})


def _softplus(site: Site) -> Result:
    attributes = {name: float(site.arguments[name]) for name in ("beta", "threshold")}
    return site.emit("softplus", [site.value("self").name], attributes)


def _leaky_relu(site: Site) -> Result:
    attributes = {"negative_slope": float(site.arguments["negative_slope"])}
    return site.emit("leaky_relu", [site.value("self").name], attributes)


def _random_leaky_relu(site: Site) -> Result:
    if site.arguments["training"]:
        raise site.refuse("is random in training mode")
    slope = (float(site.arguments["lower"]) + float(site.arguments["upper"])) / 2
    return site.emit("leaky_relu", [site.value("self").name], {"negative_slope": slope})


def _clamp(least: str | None, most: str | None) -> Translation:
    def translate(site: Site) -> Result:
        ends = {
            "min": None if least is None else site.arguments[least],
            "max": None if most is None else site.arguments[most],
        }
        finite = {name: None if end is None or math.isinf(end) else float(end) for name, end in ends.items()}
        return site.emit("clamp", [site.value("self").name], finite)

    return translate


def _relu6(site: Site) -> Result:
    return site.emit("clamp", [site.value("self").name], {"min": 0.0, "max": 6.0})


def _gelu(site: Site) -> Result:
    return site.emit("gelu", [site.value("self").name], {"approximate": site.arguments["approximate"]})


def _softshrink(site: Site) -> Result:
    return site.emit("softshrink", [site.value("self").name], {"threshold": float(site.arguments["lambd"])})


def _along(kind: str) -> Translation:
    def translate(site: Site) -> Result:
        _refuse_other_dtype(site)
        return site.emit(kind, [site.value("self").name], {"dim": site.dim()})

    return translate


def _refuse_other_dtype(site: Site) -> None:
    if site.arguments.get("dtype") is not None:
        raise site.refuse("changes the dtype, which has no rule; drop the dtype argument")


def _attention(site: Site) -> Result:
    if site.arguments["dropout_p"] != 0 or site.arguments["enable_gqa"]:
        raise site.refuse("dropout and grouped queries inside attention have no rule")
    inputs = [site.operand(name) for name in ("query", "key", "value")]
    if site.arguments["attn_mask"] is not None:
        inputs.append(site.operand("attn_mask"))
    scale = site.arguments["scale"]
    attributes = {"causal": bool(site.arguments["is_causal"]), "scale": None if scale is None else float(scale)}
    return site.emit("attention", inputs, attributes)


def _window(site: Site, rank: int) -> dict[str, Any]:
    kernel = _spatial(site.arguments["kernel_size"], rank)
    stride = site.arguments["stride"]
    return {
        "kernel": kernel,
        "stride": _spatial(stride, rank) if stride not in (None, [], ()) else kernel,
        "padding": _spatial(site.arguments["padding"], rank),
        "ceil_mode": bool(site.arguments["ceil_mode"]),
    }


def _max_pool(rank: int) -> Translation:
    def translate(site: Site) -> Result:
        attributes = {**_window(site, rank), "dilation": _spatial(site.arguments["dilation"], rank)}
        return site.emit("max_pool", [site.value("self").name], attributes)

    return translate


def _avg_pool(rank: int) -> Translation:
    def translate(site: Site) -> Result:
        attributes = {
            **_window(site, rank),
            "count_include_pad": bool(site.arguments["count_include_pad"]),
            "divisor": site.arguments.get("divisor_override"),
        }
        return site.emit("avg_pool", [site.value("self").name], attributes)

    return translate


def _adaptive_pool(kind: str, rank: int) -> Translation:
    def translate(site: Site) -> Result:
        output = _spatial(site.arguments["output_size"], rank)
        name = site.emit(kind, [site.value("self").name], {"output": output})
        return (name,) if kind == "adaptive_max_pool" else name

    return translate


def _dims(site: Site) -> list[int]:
    rank = len(site.value("self").shape)
    given = site.arguments["dim"]
    if given is None or (isinstance(given, list | tuple) and not given):
        raise site.refuse("reduces over the batch; name the dimensions")
    return sorted({int(dim) % rank for dim in (given if isinstance(given, list | tuple) else [given])})


def _reduce(kind: str) -> Translation:
    def translate(site: Site) -> Result:
        _refuse_other_dtype(site)
        attributes = {"dims": _dims(site), "keepdim": bool(site.arguments["keepdim"])}
        return site.emit(kind, [site.value("self").name], attributes)

    return translate


def _reduce_with_indices(kind: str) -> Translation:
    reduce = _reduce(kind)
    return lambda site: (str(reduce(site)),)


def _sort(site: Site) -> Result:
    attributes = {"dim": site.dim(), "descending": bool(site.arguments["descending"])}
    return (site.emit("sort", [site.value("self").name], attributes),)


_INPLACE_UNARY = ("relu", "selu", "silu", "mish", "tanh", "sigmoid", "hardswish", "hardsigmoid", "abs", "sin")

COMPUTING: Mapping[str, Translation] = MappingProxyType(
    {
        **{f"aten.{kind}.default": _unary(kind) for kind in _INPLACE_UNARY},
        **{f"aten.{kind}_.default": _unary(kind) for kind in _INPLACE_UNARY},
        **family("", "log_sigmoid.default", _unary("logsigmoid")),
        **family("leaky_relu", ".default _.default", _leaky_relu),
        **family("rrelu", ".default _.default", _random_leaky_relu),
        **family("prelu", ".default", _prelu),
        **family("elu", ".default _.default", _elu),
        **family("celu", ".default _.default", _celu),
        **family("gelu", ".default _.default", _gelu),
        **family("softplus", ".default", _softplus),
        **family("softshrink", ".default", _softshrink),
        **family("hardtanh", ".default _.default", _clamp("min_val", "max_val")),
        **family("relu6", ".default _.default", _relu6),
        **family("clamp", ".default _.default", _clamp("min", "max")),
        **family("clip", ".default _.default", _clamp("min", "max")),
        **family("clamp_min", ".default _.default", _clamp("min", None)),
        **family("clamp_max", ".default _.default", _clamp(None, "max")),
        **family("softmax", ".int", _along("softmax")),
        **family("log_softmax", ".int", _along("log_softmax")),
        **family("scaled_dot_product_attention", ".default", _attention),
        **family("linear", ".default", _linear),
        **family("", "matmul.default mm.default bmm.default", _matmul),
        **family("baddbmm", ".default", _scaled_add_matmul),
        **family("conv", "1d.default 2d.default 3d.default 1d.padding 2d.padding 3d.padding", _conv),
        **family("conv_transpose", "1d.default 2d.input 3d.input", _conv_transpose),
        **family("batch_norm", ".default", _batch_norm),
        **family("instance_norm", ".default", _instance_norm),
        **family("layer_norm", ".default", _layer_norm),
        **family("rms_norm", ".default", _rms_norm),
        **family("group_norm", ".default", _group_norm),
        **{f"aten.max_pool{rank}d.default": _max_pool(rank) for rank in (1, 2, 3)},
        **{f"aten.avg_pool{rank}d.default": _avg_pool(rank) for rank in (1, 2, 3)},
        **{f"aten.adaptive_max_pool{r}d.default": _adaptive_pool("adaptive_max_pool", r) for r in (1, 2, 3)},
        **{f"aten.adaptive_avg_pool{r}d.default": _adaptive_pool("adaptive_avg_pool", r) for r in (1, 2, 3)},
        **family("mean", ".dim", _reduce("mean")),
        **family("sum", ".dim_IntList", _reduce("sum")),
        **family("amax", ".default", _reduce("amax")),
        **family("amin", ".default", _reduce("amin")),
        **family("max", ".dim", _reduce_with_indices("amax")),
        **family("min", ".dim", _reduce_with_indices("amin")),
        **family("", "max.other maximum.default", _binary("maximum")),
        **family("", "min.other minimum.default", _binary("minimum")),
        **family("sort", ".default .stable", _sort),
        **family("add", ".Tensor .Scalar _.Tensor _.Scalar", _binary("add")),
        **family("sub", ".Tensor .Scalar _.Tensor _.Scalar", _binary("sub")),
        **family("mul", ".Tensor .Scalar _.Tensor _.Scalar", _binary("mul")),
        **family("div", ".Tensor .Scalar _.Tensor _.Scalar", _binary("div")),
        **family("rsub", ".Tensor .Scalar", _reversed_sub),
        **family("neg", ".default", _negate),
    }
)
"""ATen operator to translation."""
