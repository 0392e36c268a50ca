"""Small random networks, at least one for every kind of the vocabulary: cases as data for the tests of `bounds`."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from certify.graph import Graph, Operation


class Build:
    """Collects operations; each call adds one and returns its name."""

    def __init__(self, *shape: int, seed: int = 0) -> None:
        self.shape = shape
        self.operations = [Operation(name="x", kind="input")]
        self.tensors: dict[str, Tensor] = {}
        self.random = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.random, dtype=torch.float64)

    def positive(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.random, dtype=torch.float64) + 0.3

    def add(self, kind: str, *inputs: str, **details: object) -> str:
        name = f"v{len(self.operations)}"
        weights = {}
        for role, tensor in details.items():
            if isinstance(tensor, Tensor):
                weights[role] = f"{name}.{role}"
                self.tensors[weights[role]] = tensor
        attributes = {key: value for key, value in details.items() if not isinstance(value, Tensor)}
        operation = Operation(
            name=name, kind=kind, inputs=inputs or (self.operations[-1].name,), weights=weights, attributes=attributes
        )
        self.operations.append(operation)
        return name

    def linear(self, inputs: int, outputs: int, *at: str, scale: float = 1.0) -> str:
        weight = scale * self.normal(outputs, inputs) / inputs**0.5
        return self.add("linear", *at, weight=weight, bias=self.normal(outputs))

    def conv(self, weight: Tensor, *at: str, **changes: object) -> str:
        spatial = weight.dim() - 2
        details = {
            "stride": [1] * spatial,
            "padding": [[1, 1]] * spatial,
            "dilation": [1] * spatial,
            "groups": 1,
            "padding_mode": "zeros",
        }
        return self.add("conv", *at, weight=weight, bias=self.normal(weight.shape[0]), **{**details, **changes})

    def constant(self, value: float | Tensor) -> str:
        name = f"v{len(self.operations)}"
        stored = isinstance(value, Tensor)
        if stored:
            self.tensors[f"{name}.value"] = value
        weights = {"value": f"{name}.value"} if stored else {}
        attributes = {"value": None if stored else value}
        self.operations.append(Operation(name=name, kind="constant", weights=weights, attributes=attributes))
        return name

    def graph(self) -> Graph:
        return Graph(tuple(self.operations), self.operations[-1].name, self.shape, self.tensors)


Case = Callable[[int], Graph]
ACTIVATIONS: Mapping[str, Mapping[str, object]] = {
    **{kind: {} for kind in ("relu", "selu", "silu", "mish", "tanh", "sigmoid", "hardswish", "hardsigmoid")},
    **{kind: {} for kind in ("abs", "softsign", "logsigmoid", "tanhshrink", "sin")},
    "leaky_relu": {"negative_slope": -1.5},
    "elu": {"alpha": 1.7},
    "celu": {"alpha": 0.3},
    "gelu": {"approximate": "none"},
    "softplus": {"beta": 2.0, "threshold": 20.0},
    "clamp": {"min": -0.5, "max": 0.7},
    "softshrink": {"threshold": 0.4},
}


def activation(kind: str, details: Mapping[str, object]) -> Case:
    def build(seed: int) -> Graph:
        b = Build(6, seed=seed)
        b.linear(6, 8)
        b.add(kind, **details)
        b.linear(8, 4)
        return b.graph()

    return build


def one(input_shape: tuple[int, ...], kind: str, /, *, lead: bool = True, **details: object) -> Case:
    """Return a case of one operation, behind a scaling per entry so that not all entries weigh the same."""

    def build(seed: int) -> Graph:
        b = Build(*input_shape, seed=seed)
        name = b.add("mul", "x", b.constant(b.normal(*input_shape))) if lead else "x"
        made = {key: value(b) if callable(value) else value for key, value in details.items()}
        b.add(kind, name, **made)
        return b.graph()

    return build


def convolution(*weight: int, size: tuple[int, ...] = (6, 6), channels: int = 4, **changes: object) -> Case:
    def build(seed: int) -> Graph:
        b = Build(channels, *size, seed=seed)
        b.conv(b.normal(*weight), **changes)
        return b.graph()

    return build


def unequal_groups(seed: int) -> Graph:
    b = Build(4, 5, 5, seed=seed)
    weight = b.normal(4, 2, 3, 3)
    weight[:2] *= 0.1
    b.conv(weight, groups=2)
    return b.graph()


def transposed(seed: int) -> Graph:
    b = Build(4, 3, 3, seed=seed)
    details = {"stride": [2, 2], "padding": [1, 1], "output_padding": [1, 1], "dilation": [1, 1], "groups": 2}
    b.add("conv_transpose", weight=b.normal(4, 3, 3, 3), bias=b.normal(6), **details)
    return b.graph()


def batch_norm_chain(seed: int) -> Graph:
    b = Build(3, 6, 6, seed=seed)
    b.add("normalize", mean=b.normal(3, 1, 1), std=b.positive(3, 1, 1))
    b.conv(b.normal(4, 3, 3, 3))
    gamma = b.normal(4)
    gamma[0] = -2.0
    b.add("batch_norm", mean=b.normal(4), variance=b.positive(4), weight=gamma, bias=b.normal(4), eps=1e-3)
    b.add("relu")
    b.conv(b.normal(4, 2, 3, 3), groups=2, stride=[2, 2])
    b.add("batch_norm", mean=b.normal(4), variance=b.positive(4), eps=1e-5)
    b.add("reshape", shape=[-1, 36])
    b.linear(36, 5)
    b.add("batch_norm", mean=b.normal(5), variance=b.positive(5), weight=b.normal(5), bias=b.normal(5), eps=1e-5)
    return b.graph()


def batch_norm_transposed(seed: int) -> Graph:
    b = Build(4, 3, 3, seed=seed)
    b.add("normalize", mean=b.normal(4, 1, 1), std=b.positive(4, 1, 1))
    details = {"stride": [2, 2], "padding": [1, 1], "output_padding": [0, 0], "dilation": [1, 1], "groups": 2}
    b.add("conv_transpose", weight=b.normal(4, 3, 3, 3), **details)
    b.add("batch_norm", mean=b.normal(6), variance=b.positive(6), weight=b.normal(6), bias=b.normal(6), eps=1e-5)
    return b.graph()


def batch_norm_tokens(seed: int) -> Graph:
    """A batch norm whose channels are not the outputs of the linear map before it: must not be folded."""
    b = Build(3, 4, seed=seed)
    b.linear(4, 3)
    b.add("batch_norm", mean=b.normal(3), variance=torch.tensor([0.01, 1.0, 9.0], dtype=torch.float64), eps=1e-5)
    return b.graph()


def shared_layer(seed: int) -> Graph:
    b = Build(5, seed=seed)
    weight = b.normal(5, 5)
    b.add("linear", "x", weight=weight)
    first = b.operations[-1]
    b.operations.append(Operation(name="again", kind="linear", inputs=(first.name,), weights=first.weights))
    return b.graph()


def residual(seed: int) -> Graph:
    b = Build(5, seed=seed)
    b.linear(5, 7)
    b.add("relu")
    b.add("add", "x", b.linear(7, 5))
    return b.graph()


def diamond(seed: int) -> Graph:
    b = Build(5, seed=seed)
    left = b.linear(5, 4, "x")
    right = b.add("tanh", b.linear(5, 4, "x", scale=3.0))
    low = b.add("minimum", left, right)
    high = b.add("maximum", left, b.add("sub", right, low))
    b.add("concat", high, low, left, dim=1)
    b.linear(12, 3)
    return b.graph()


def broadcast(kind: str) -> Case:
    def build(seed: int) -> Graph:
        b = Build(3, 4, seed=seed)
        column = b.add("mean", "x", dims=[2], keepdim=True)
        b.add(kind, "x", column)
        return b.graph()

    return build


def constants(seed: int) -> Graph:
    b = Build(3, 4, seed=seed)
    table = b.add("expand", b.add("reshape", b.constant(b.normal(4)), shape=[1, 1, 4]), shape=[-1, 3, 4])
    computed = b.add("relu", b.constant(b.normal(3, 4)))
    scaled = b.add("mul", table, "x")
    divided = b.add("div", b.add("add", scaled, computed), b.constant(-0.7))
    moved = b.add("matmul", divided, b.constant(b.normal(4, 5)))
    b.add("matmul", b.constant(b.normal(2, 3)), moved)
    return b.graph()


def product(kind: str) -> Case:
    def build(seed: int) -> Graph:
        b = Build(3, 3, seed=seed)
        b.add(kind, "x", b.add("sigmoid", "x"))
        return b.graph()

    return build


def attention(seed: int) -> Graph:
    b = Build(3, 4, seed=seed)
    b.add("attention", "x", "x", "x", causal=False, scale=None)
    return b.graph()


SPATIAL = (2, 6, 6)
POOL = {"kernel": [3, 3], "stride": [2, 2], "padding": [1, 1], "ceil_mode": False}
AVERAGE = {**POOL, "count_include_pad": False, "divisor": None}

BOUNDED: Mapping[str, Case] = {
    **{kind: activation(kind, details) for kind, details in ACTIVATIONS.items()},
    "gelu tanh": activation("gelu", {"approximate": "tanh"}),
    "elu negative": activation("elu", {"alpha": -0.5}),
    "prelu": one((3, 5), "prelu", weight=lambda b: 2.0 * b.normal(3)),
    "input": lambda seed: Build(4, seed=seed).graph(),
    "softmax": one((3, 5), "softmax", dim=2),
    "log_softmax": one((3, 5), "log_softmax", dim=2),
    "log_softmax single": one((3, 1), "log_softmax", dim=2),
    "layer_norm": one((3, 5), "layer_norm", shape=[5], eps=0.3, weight=lambda b: b.normal(5)),
    "rms_norm": one((3, 5), "rms_norm", shape=[5], eps=0.3, weight=lambda b: b.normal(5)),
    "group_norm": one(
        (4, 3, 3), "group_norm", groups=2, eps=0.2, weight=lambda b: b.normal(4), bias=lambda b: b.normal(4)
    ),
    "instance_norm": one((4, 3, 3), "instance_norm", eps=0.2),
    "conv": convolution(5, 4, 3, 3),
    "conv strided": convolution(3, 4, 3, 3, stride=[2, 2]),
    "conv dilated": convolution(3, 4, 3, 3, dilation=[2, 2], padding=[[2, 2], [2, 2]]),
    "conv reflect": convolution(3, 4, 3, 3, padding_mode="reflect"),
    "conv replicate": convolution(3, 4, 3, 3, padding_mode="replicate"),
    "conv circular": convolution(3, 4, 3, 3, padding_mode="circular"),
    "conv uneven": convolution(3, 4, 2, 2, padding=[[0, 1], [1, 0]]),
    "conv depthwise": convolution(4, 1, 3, 3, groups=4),
    "conv 1d": convolution(3, 4, 3, size=(7,)),
    "conv 3d": convolution(2, 2, 2, 2, 2, size=(3, 3, 3), channels=2, padding=[[0, 0]] * 3),
    "conv unequal groups": unequal_groups,
    "conv_transpose": transposed,
    "batch_norm": batch_norm_chain,
    "batch_norm transposed": batch_norm_transposed,
    "batch_norm tokens": batch_norm_tokens,
    "shared": shared_layer,
    "residual": residual,
    "diamond": diamond,
    "constants": constants,
    "max_pool": one(SPATIAL, "max_pool", **POOL, dilation=[1, 1]),
    "avg_pool": one(SPATIAL, "avg_pool", **AVERAGE),
    "avg_pool ceil": one(SPATIAL, "avg_pool", **{**AVERAGE, "ceil_mode": True, "count_include_pad": True}),
    "avg_pool divisor": one(SPATIAL, "avg_pool", **{**AVERAGE, "divisor": 2}),
    "adaptive_max_pool": one(SPATIAL, "adaptive_max_pool", output=[4, 5]),
    "adaptive_avg_pool": one(SPATIAL, "adaptive_avg_pool", output=[4, 5]),
    "mean": one(SPATIAL, "mean", lead=False, dims=[2, 3], keepdim=False),
    "sum": one(SPATIAL, "sum", lead=False, dims=[1, 3], keepdim=True),
    "amax": one(SPATIAL, "amax", dims=[2], keepdim=False),
    "amin": one(SPATIAL, "amin", dims=[1], keepdim=True),
    "max_min": one((4, 3), "max_min", dim=1),
    "sort": one((4, 3), "sort", dim=2, descending=True),
    "pad constant": one(SPATIAL, "pad", padding=[[1, 2], [-1, 0]], mode="constant", value=3.0),
    "pad reflect": one(SPATIAL, "pad", lead=False, padding=[[3, 3], [2, 1]], mode="reflect", value=0.0),
    "pad replicate": one(SPATIAL, "pad", lead=False, padding=[[2, 3], [0, 1]], mode="replicate", value=0.0),
    "pad circular": one(SPATIAL, "pad", lead=False, padding=[[2, 3], [1, 1]], mode="circular", value=0.0),
    "reshape": one(SPATIAL, "reshape", shape=[-1, 72]),
    "permute": one(SPATIAL, "permute", dims=[0, 3, 1, 2]),
    "expand": one((1, 4), "expand", lead=False, shape=[-1, 3, 4]),
    "slice": one(SPATIAL, "slice", dim=2, start=1, stop=5, step=2),
    "flip": one(SPATIAL, "flip", dims=[2, 3]),
    "roll": one(SPATIAL, "roll", shifts=[1, -2], dims=[2, 3]),
    "upsample_nearest": one(SPATIAL, "upsample_nearest", lead=False, scale=[2, 3]),
    "add broadcast": broadcast("add"),
    "sub broadcast": broadcast("sub"),
    "maximum broadcast": broadcast("maximum"),
    "minimum broadcast": broadcast("minimum"),
}

UNBOUNDED: Mapping[str, Case] = {
    "attention": attention,
    "matmul": product("matmul"),
    "mul": product("mul"),
    "div": product("div"),
    "celu": activation("celu", {"alpha": -1.0}),
    "softplus": activation("softplus", {"beta": 1.0, "threshold": 1.0}),
    "layer_norm": one((3, 5), "layer_norm", shape=[5], eps=0.0),
    "rms_norm": one((3, 5), "rms_norm", shape=[5], eps=None),
    "normalize": one((3, 5), "normalize", mean=lambda b: b.normal(5), std=torch.zeros(5, dtype=torch.float64)),
}
