"""From ATen operators to the vocabulary: one entry per operator, and nothing is resolved by name at run time.

A translation takes a `Site` (one traced call: its arguments by schema name, the shapes around it, and the graph being
built) and returns the name of the value it produced, or a tuple of names for operators with several results. Families
of operators that mean the same thing share a function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

from torch import Tensor

from certify.errors import NoRuleError
from certify.graph.graph import Operation

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """A traced tensor: the name of its value, and its shape with batch multiples as ``-k``."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class Constant:
    """A traced tensor that does not depend on the input: a weight, a buffer, or computed from these."""

    name: str
    tensor: Tensor


Traced: TypeAlias = "Value | Constant"
Result: TypeAlias = "str | tuple[str, ...]"


@dataclass
class Builder:
    """The graph under construction."""

    operations: list[Operation] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def add(self, operation: Operation) -> str:
        """Append an operation and return its value's name."""
        self.operations.append(operation)
        return operation.name

    def tensor(self, constant: Constant) -> str:
        """Register a constant's tensor and return its name in the file; tied tensors get one name."""
        for name, known in self.tensors.items():
            same_place = known.data_ptr() == constant.tensor.data_ptr() and known.stride() == constant.tensor.stride()
            if same_place and known.shape == constant.tensor.shape and known.numel() > 0:
                return name
        self.tensors[constant.name] = constant.tensor
        return constant.name


@dataclass(frozen=True)
class Site:
    """One traced call: ``arguments`` by schema name, ``shapes`` of its result(s), and where it stands."""

    builder: Builder
    name: str
    operator: str
    module: str
    arguments: Mapping[str, Any]
    shapes: tuple[Shape, ...]

    @property
    def where(self) -> str:
        """The call as an error message names it."""
        return f"{self.operator} at {self.module}" if self.module else self.operator

    def refuse(self, reason: str) -> NoRuleError:
        """Return the error for a call that cannot be translated."""
        return NoRuleError(f"{self.where}: {reason}")

    def emit(
        self,
        kind: str,
        inputs: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
        weights: Mapping[str, Constant | None] | None = None,
        *,
        suffix: str = "",
    ) -> str:
        """Append one operation of this call and return its value's name."""
        present = {role: constant for role, constant in (weights or {}).items() if constant is not None}
        return self.builder.add(
            Operation(
                name=self.name + suffix,
                kind=kind,
                inputs=tuple(inputs),
                weights={role: self.builder.tensor(constant) for role, constant in present.items()},
                attributes=dict(attributes or {}),
                module=self.module,
            )
        )

    def value(self, argument: str) -> Value:
        """Return an argument that must depend on the input."""
        traced = self.arguments[argument]
        if not isinstance(traced, Value):
            raise self.refuse(f"expected {argument} to be an activation, got a constant")
        return traced

    def weight(self, argument: str) -> Constant | None:
        """Return an argument that must be a stored weight, or None when absent."""
        traced = self.arguments[argument]
        if traced is not None and not isinstance(traced, Constant):
            raise self.refuse(f"expected {argument} to be a stored weight, got an activation")
        return traced

    def operand(self, argument: str) -> str:
        """Return the value name of any operand: activations as they are, constants and scalars as `constant`."""
        return self.named(self.arguments[argument], f"_{argument}")

    def named(self, traced: object, suffix: str) -> str:
        """Return the value name of an activation, constant tensor or scalar."""
        if isinstance(traced, Value):
            return traced.name
        if isinstance(traced, Constant):
            return self.emit("constant", (), {"value": None}, {"value": traced}, suffix=suffix)
        if isinstance(traced, int | float) and not isinstance(traced, bool) and math.isfinite(traced):
            return self.emit("constant", (), {"value": float(traced)}, suffix=suffix)
        raise self.refuse(f"expected a tensor or a finite number, got {traced!r}")

    def dim(self, argument: str = "dim", of: str = "self") -> int:
        """Return a dimension argument, counted from 0."""
        rank = len(self.value(of).shape)
        return int(self.arguments[argument]) % rank


Translation: TypeAlias = Callable[[Site], Result]


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


def _pad(mode: str | None) -> Translation:
    def translate(site: Site) -> Result:
        given = [int(size) for size in site.arguments.get("pad", site.arguments.get("padding"))]
        pairs = [[given[i], given[i + 1]] for i in range(0, len(given), 2)][::-1]
        chosen = site.arguments["mode"] if mode is None else mode
        value = site.arguments.get("value") or 0.0
        attributes = {"padding": pairs, "mode": chosen, "value": float(value)}
        return site.emit("pad", [site.value("self").name], attributes)

    return translate


def _reshape(site: Site) -> Result:
    return site.emit("reshape", [site.value("self").name], {"shape": list(site.shapes[0])})


def _expand(site: Site) -> Result:
    return site.emit("expand", [site.operand("self")], {"shape": list(site.shapes[0])})


def _permuted(site: Site, order: Sequence[int]) -> Result:
    return site.emit("permute", [site.value("self").name], {"dims": list(order)})


def _permute(site: Site) -> Result:
    rank = len(site.value("self").shape)
    return _permuted(site, [int(dim) % rank for dim in site.arguments["dims"]])


def _transpose(site: Site) -> Result:
    rank = len(site.value("self").shape)
    order = list(range(rank))
    a, b = (int(site.arguments[name]) % rank for name in ("dim0", "dim1"))
    order[a], order[b] = order[b], order[a]
    return _permuted(site, order)


def _reverse_last_two(site: Site) -> Result:
    order = list(range(len(site.value("self").shape)))
    order[-2:] = order[:-3:-1]
    return _permuted(site, order)


def _move_dims(site: Site) -> Result:
    rank = len(site.value("self").shape)
    source, destination = ([int(dim) % rank for dim in site.arguments[name]] for name in ("source", "destination"))
    order = [dim for dim in range(rank) if dim not in source]
    for target, origin in sorted(zip(destination, source, strict=True)):
        order.insert(target, origin)
    return _permuted(site, order)


def _sliced(site: Site, dim: int, start: int, stop: int, *, step: int = 1, suffix: str = "") -> str:
    x = site.value("self")
    size = x.shape[dim]
    if (start, stop, step) == (0, size, 1):
        return x.name
    if size < 0:
        raise site.refuse("takes a part of the batch")
    attributes = {"dim": dim, "start": start, "stop": stop, "step": step}
    return site.emit("slice", [x.name], attributes, suffix=suffix)


def _slice(site: Site) -> Result:
    dim = site.dim()
    size = site.value("self").shape[dim]
    start, stop, step = (site.arguments[name] for name in ("start", "end", "step"))
    if size < 0:
        if start in (None, 0) and stop in (None, 2**63 - 1) and step == 1:
            return site.value("self").name
        raise site.refuse("takes a part of the batch")
    first, last, _ = slice(start, stop, step).indices(size)
    return _sliced(site, dim, first, max(first, last), step=int(step))


def _narrow(site: Site) -> Result:
    start = int(site.arguments["start"])
    return _sliced(site, site.dim(), start, start + int(site.arguments["length"]))


def _select(site: Site) -> Result:
    dim = site.dim()
    size = site.value("self").shape[dim]
    if size < 0:
        raise site.refuse("takes a part of the batch")
    index = int(site.arguments["index"]) % size
    part = _sliced(site, dim, index, index + 1, suffix="_slice")
    return site.emit("reshape", [part], {"shape": list(site.shapes[0])})


def _split(site: Site) -> Result:
    """Every operator that cuts a dimension into consecutive parts: their sizes are those of the results."""
    dim = site.dim()
    names, start = [], 0
    for position, shape in enumerate(site.shapes):
        names.append(_sliced(site, dim, start, start + shape[dim], suffix=f"_{position}"))
        start += shape[dim]
    return tuple(names)


def _unbind(site: Site) -> Result:
    dim, names = site.dim(), []
    for position, shape in enumerate(site.shapes):
        part = _sliced(site, dim, position, position + 1, suffix=f"_slice_{position}")
        names.append(site.emit("reshape", [part], {"shape": list(shape)}, suffix=f"_{position}"))
    return tuple(names)


def _concat(site: Site) -> Result:
    parts = [site.named(part, f"_{i}") for i, part in enumerate(site.arguments["tensors"])]
    return site.emit("concat", parts, {"dim": int(site.arguments["dim"]) % len(site.shapes[0])})


def _stack(site: Site) -> Result:
    dim = int(site.arguments["dim"]) % len(site.shapes[0])
    shape = list(site.shapes[0])
    shape[dim] = 1
    parts = []
    for i, part in enumerate(site.arguments["tensors"]):
        name = site.named(part, f"_part_{i}")
        parts.append(site.emit("reshape", [name], {"shape": shape}, suffix=f"_unsqueeze_{i}"))
    return site.emit("concat", parts, {"dim": dim})


def _flip(site: Site) -> Result:
    rank = len(site.value("self").shape)
    return site.emit("flip", [site.value("self").name], {"dims": [int(d) % rank for d in site.arguments["dims"]]})


def _roll(site: Site) -> Result:
    rank = len(site.value("self").shape)
    dims = [int(d) % rank for d in site.arguments["dims"]]
    if not dims:
        raise site.refuse("rolls over the batch; name the dimensions")
    attributes = {"shifts": [int(s) for s in site.arguments["shifts"]], "dims": dims}
    return site.emit("roll", [site.value("self").name], attributes)


def _pixel_shuffle(site: Site) -> Result:
    n, c, h, w = site.value("self").shape
    r = int(site.arguments["upscale_factor"])
    return _shuffled(site, [n, c // r**2, r, r, h, w], [0, 1, 4, 2, 5, 3])


def _pixel_unshuffle(site: Site) -> Result:
    n, c, h, w = site.value("self").shape
    r = int(site.arguments["downscale_factor"])
    return _shuffled(site, [n, c, h // r, r, w // r, r], [0, 1, 3, 5, 2, 4])


def _channel_shuffle(site: Site) -> Result:
    n, c, *spatial = site.value("self").shape
    groups = int(site.arguments["groups"])
    return _shuffled(site, [n, groups, c // groups, *spatial], [0, 2, 1, *range(3, 3 + len(spatial))])


def _shuffled(site: Site, split: Sequence[int], order: Sequence[int]) -> Result:
    apart = site.emit("reshape", [site.value("self").name], {"shape": list(split)}, suffix="_split")
    moved = site.emit("permute", [apart], {"dims": list(order)}, suffix="_permute")
    return site.emit("reshape", [moved], {"shape": list(site.shapes[0])})


def _upsample_nearest(site: Site) -> Result:
    before, after = site.value("input" if "input" in site.arguments else "self").shape[2:], site.shapes[0][2:]
    if any(b % a for a, b in zip(before, after, strict=True)):
        raise site.refuse("nearest upsampling by a factor that is not an integer has no rule")
    scale = [b // a for a, b in zip(before, after, strict=True)]
    name = site.value("input" if "input" in site.arguments else "self").name
    return site.emit("upsample_nearest", [name], {"scale": scale})


def _identity(site: Site) -> Result:
    if site.arguments.get("train", False):
        raise site.refuse("is random in training mode")
    argument = "self" if "self" in site.arguments else "input"
    return site.value(argument).name


def _family(prefix: str, names: str, translation: Translation) -> dict[str, Translation]:
    return {f"aten.{prefix}{name}": translation for name in names.split()}


_INPLACE_UNARY = ("relu", "selu", "silu", "mish", "tanh", "sigmoid", "hardswish", "hardsigmoid", "abs", "sin")

TRANSLATIONS: Mapping[str, Translation] = MappingProxyType(
    {
        **{f"aten.{kind}.default": _unary(kind) for kind in _INPLACE_UNARY},
        **{f"aten.{kind}_.default": _unary(kind) for kind in _INPLACE_UNARY},
        **_family("", "log_sigmoid.default", _unary("logsigmoid")),
        **_family("leaky_relu", ".default _.default", _leaky_relu),
        **_family("rrelu", ".default _.default", _random_leaky_relu),
        **_family("prelu", ".default", _prelu),
        **_family("elu", ".default _.default", _elu),
        **_family("celu", ".default _.default", _celu),
        **_family("gelu", ".default _.default", _gelu),
        **_family("softplus", ".default", _softplus),
        **_family("softshrink", ".default", _softshrink),
        **_family("hardtanh", ".default _.default", _clamp("min_val", "max_val")),
        **_family("relu6", ".default _.default", _relu6),
        **_family("clamp", ".default _.default", _clamp("min", "max")),
        **_family("clip", ".default _.default", _clamp("min", "max")),
        **_family("clamp_min", ".default _.default", _clamp("min", None)),
        **_family("clamp_max", ".default _.default", _clamp(None, "max")),
        **_family("softmax", ".int", _along("softmax")),
        **_family("log_softmax", ".int", _along("log_softmax")),
        **_family("scaled_dot_product_attention", ".default", _attention),
        **_family("linear", ".default", _linear),
        **_family("", "matmul.default mm.default bmm.default", _matmul),
        **_family("baddbmm", ".default", _scaled_add_matmul),
        **_family("conv", "1d.default 2d.default 3d.default 1d.padding 2d.padding 3d.padding", _conv),
        **_family("conv_transpose", "1d.default 2d.input 3d.input", _conv_transpose),
        **_family("batch_norm", ".default", _batch_norm),
        **_family("instance_norm", ".default", _instance_norm),
        **_family("layer_norm", ".default", _layer_norm),
        **_family("rms_norm", ".default", _rms_norm),
        **_family("group_norm", ".default", _group_norm),
        **{f"aten.max_pool{rank}d.default": _max_pool(rank) for rank in (1, 2, 3)},
        **{f"aten.avg_pool{rank}d.default": _avg_pool(rank) for rank in (1, 2, 3)},
        **{f"aten.adaptive_max_pool{r}d.default": _adaptive_pool("adaptive_max_pool", r) for r in (1, 2, 3)},
        **{f"aten.adaptive_avg_pool{r}d.default": _adaptive_pool("adaptive_avg_pool", r) for r in (1, 2, 3)},
        **_family("mean", ".dim", _reduce("mean")),
        **_family("sum", ".dim_IntList", _reduce("sum")),
        **_family("amax", ".default", _reduce("amax")),
        **_family("amin", ".default", _reduce("amin")),
        **_family("max", ".dim", _reduce_with_indices("amax")),
        **_family("min", ".dim", _reduce_with_indices("amin")),
        **_family("", "max.other maximum.default", _binary("maximum")),
        **_family("", "min.other minimum.default", _binary("minimum")),
        **_family("sort", ".default .stable", _sort),
        **_family("pad", ".default", _pad(None)),
        **_family("constant_pad_nd", ".default", _pad("constant")),
        **_family("reflection_pad", "1d.default 2d.default 3d.default", _pad("reflect")),
        **_family("replication_pad", "1d.default 2d.default 3d.default", _pad("replicate")),
        **_family("", "view.default reshape.default _unsafe_view.default view_as.default reshape_as.default", _reshape),
        **_family("", "flatten.using_ints unflatten.int unsqueeze.default", _reshape),
        **_family("squeeze", ".default .dim .dims", _reshape),
        **_family("expand", ".default", _expand),
        **_family("expand_as", ".default", _expand),
        **_family("permute", ".default", _permute),
        **_family("", "transpose.int swapaxes.default swapdims.default", _transpose),
        **_family("", "t.default mT.default numpy_T.default", _reverse_last_two),
        **_family("", "movedim.intlist movedim.int", _move_dims),
        **_family("slice", ".Tensor", _slice),
        **_family("narrow", ".default", _narrow),
        **_family("select", ".int", _select),
        **_family("split", ".Tensor .sizes", _split),
        **_family("", "split_with_sizes.default chunk.default tensor_split.sections tensor_split.indices", _split),
        **_family("unbind", ".int", _unbind),
        **_family("", "cat.default concat.default", _concat),
        **_family("stack", ".default", _stack),
        **_family("flip", ".default", _flip),
        **_family("roll", ".default", _roll),
        **_family("pixel_shuffle", ".default", _pixel_shuffle),
        **_family("pixel_unshuffle", ".default", _pixel_unshuffle),
        **_family("channel_shuffle", ".default", _channel_shuffle),
        **_family("upsample_nearest", "1d.default 2d.default 3d.default 1d.vec 2d.vec 3d.vec", _upsample_nearest),
        **_family("add", ".Tensor .Scalar _.Tensor _.Scalar", _binary("add")),
        **_family("sub", ".Tensor .Scalar _.Tensor _.Scalar", _binary("sub")),
        **_family("mul", ".Tensor .Scalar _.Tensor _.Scalar", _binary("mul")),
        **_family("div", ".Tensor .Scalar _.Tensor _.Scalar", _binary("div")),
        **_family("rsub", ".Tensor .Scalar", _reversed_sub),
        **_family("neg", ".default", _negate),
        **_family("dropout", ".default _.default", _identity),
        **_family("feature_dropout", ".default _.default", _identity),
        **_family("alpha_dropout", ".default _.default", _identity),
        **_family("", "contiguous.default clone.default detach.default alias.default", _identity),
        **_family("lift_fresh_copy", ".default", _identity),
        **_family("to", ".dtype .device .dtype_layout", _identity),  # another dtype is refused while tracing
        **_family("_to_copy", ".default", _identity),
    }
)

ALIASES = frozenset(
    name
    for name, translation in TRANSLATIONS.items()
    if translation
    in (
        *(_reshape, _expand, _permute, _transpose, _reverse_last_two, _move_dims, _slice, _narrow, _select),
        *(_split, _unbind, _identity),
    )
)
"""Operators whose result may share memory with their input: an in-place write to either is seen by the other."""
