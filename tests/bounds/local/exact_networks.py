"""The real function of a small graph in 60 digits, by the plain formulas, and points of a ball that press on bounds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import mpmath
import numpy as np
import torch
from torch import Tensor

from certify.bounds.local.layers import Chain
from certify.graph import Graph, Operation

MP = mpmath.mp.clone()
MP.dps = 60
real = np.vectorize(lambda value: MP.mpf(float(value)), otypes=[object])

ACTIVATIONS = {
    "relu": lambda x, a: max(x, MP.mpf(0)),
    "leaky_relu": lambda x, a: x if x > 0 else x * MP.mpf(a["negative_slope"]),
    "abs": lambda x, a: abs(x),
    "clamp": lambda x, a: min(max(x, MP.mpf(a["min"])), MP.mpf(a["max"])),
    "softshrink": lambda x, a: MP.sign(x) * max(abs(x) - MP.mpf(a["threshold"]), MP.mpf(0)),
    "tanh": lambda x, a: MP.tanh(x),
    "sigmoid": lambda x, a: 1 / (1 + MP.exp(-x)),
    "softplus": lambda x, a: MP.log1p(MP.exp(MP.mpf(a["beta"]) * x)) / MP.mpf(a["beta"]),
    "silu": lambda x, a: x / (1 + MP.exp(-x)),
    "mish": lambda x, a: x * MP.tanh(MP.log1p(MP.exp(x))),
    "gelu": lambda x, a: _gelu(x, a["approximate"]),
    "elu": lambda x, a: x if x > 0 else MP.mpf(a["alpha"]) * MP.expm1(x),
    "celu": lambda x, a: x if x > 0 else MP.mpf(a["alpha"]) * MP.expm1(x / MP.mpf(a["alpha"])),
    "selu": lambda x, a: (
        MP.mpf("1.0507009873554804934193349852946")
        * (x if x > 0 else MP.mpf("1.6732632423543772848170429916717") * MP.expm1(x))
    ),
    "softsign": lambda x, a: x / (1 + abs(x)),
    "logsigmoid": lambda x, a: -MP.log1p(MP.exp(-x)),
    "tanhshrink": lambda x, a: x - MP.tanh(x),
    "sin": lambda x, a: MP.sin(x),
    "hardsigmoid": lambda x, a: min(max(x / 6 + MP.mpf(1) / 2, MP.mpf(0)), MP.mpf(1)),
    "hardswish": lambda x, a: x * min(max(x / 6 + MP.mpf(1) / 2, MP.mpf(0)), MP.mpf(1)),
}


def _gelu(x, approximate):
    if approximate == "none":
        return x * MP.ncdf(x)
    return x / 2 * (1 + MP.tanh(MP.sqrt(2 / MP.pi) * (x + MP.mpf(0.044715) * x**3)))


def run_exactly(graph: Graph, x: np.ndarray) -> dict[str, np.ndarray]:
    """Return every value of a graph for one example (no batch dimension), from an array of 60-digit numbers."""
    values = {graph.input: x}
    for operation in graph.operations[1:]:
        inputs = [values[name] for name in operation.inputs]
        weights = {role: real(graph.tensors[name].numpy()) for role, name in operation.weights.items()}
        values[operation.name] = _one(operation, inputs, weights)
    return values


def _one(operation: Operation, inputs: list[np.ndarray], weights: dict[str, np.ndarray]) -> np.ndarray:
    kind, attributes = operation.kind, operation.attributes
    if kind in ACTIVATIONS:
        return np.vectorize(lambda t: ACTIVATIONS[kind](t, attributes), otypes=[object])(inputs[0])
    if kind == "linear":
        return weights["weight"] @ inputs[0] + weights.get("bias", 0)
    if kind == "normalize":
        return (inputs[0] - weights["mean"]) / weights["std"]
    if kind == "batch_norm":
        shape = (-1, *[1] * (inputs[0].ndim - 1))
        variance = weights["variance"] + MP.mpf(attributes["eps"])
        scale = weights["weight"] / np.vectorize(MP.sqrt, otypes=[object])(variance)
        return (inputs[0] - weights["mean"].reshape(shape)) * scale.reshape(shape) + weights["bias"].reshape(shape)
    if kind == "conv":
        return _conv(operation, inputs[0], weights)
    if kind == "max_min":
        a, b = np.split(inputs[0], 2, attributes["dim"] - 1)
        return np.concatenate([np.maximum(a, b), np.minimum(a, b)], attributes["dim"] - 1)
    if kind == "max_pool":
        return _max_pool(operation, inputs[0])
    return {"add": lambda: inputs[0] + inputs[1], "reshape": lambda: inputs[0].reshape(-1)}[kind]()


def _conv(operation: Operation, x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    x = np.pad(x, [(0, 0), *operation.pairs("padding")], constant_values=MP.mpf(0))
    (s, t), weight = operation.integers("stride"), weights["weight"]
    rows, columns = weight.shape[2:]
    height, width = (x.shape[1] - rows) // s + 1, (x.shape[2] - columns) // t + 1
    found = np.empty((len(weight), height, width), dtype=object)
    for c, i, j in itertools.product(range(len(weight)), range(height), range(width)):
        window = x[:, i * s : i * s + rows, j * t : j * t + columns]
        found[c, i, j] = (window * weight[c]).sum() + weights["bias"][c]
    return found


def _max_pool(operation: Operation, x: np.ndarray) -> np.ndarray:
    (k, _), (s, _) = operation.integers("kernel"), operation.integers("stride")
    size = (x.shape[1] - k) // s + 1
    corners = [(i * s, j * s) for i in range(size) for j in range(size)]
    found = [[x[c, i : i + k, j : j + k].max() for i, j in corners] for c in range(len(x))]
    return np.array(found, dtype=object).reshape(len(x), size, size)


def pressing_points(chain: Chain, x: Tensor, eps: float, norm: str, count: int, seed: int) -> Iterator[Tensor]:
    """Yield perturbations of size at most eps of one input: random ones, and ones that raise or lower one row."""
    random = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield _sized(torch.randn(x.shape, generator=random, dtype=torch.float64), eps, norm)
    for k, layer in enumerate(chain.layers):
        for _ in range(count):
            row = int(torch.randint(layer.rows, (1,), generator=random))
            sign = 1.0 if bool(torch.rand(1, generator=random) < 0.5) else -1.0
            yield _ascend(chain, x, eps, norm, lambda z, k=k, row=row, sign=sign: sign * z[k][0, row])


def _ascend(chain: Chain, x: Tensor, eps: float, norm: str, objective) -> Tensor:
    delta = torch.zeros_like(x)
    for step in (1.0, 0.5, 0.3, 0.2):
        point = (x + delta).requires_grad_(True)
        (gradient,) = torch.autograd.grad(objective(chain.pre_activations(point[None])), point)
        direction = gradient.sign() if norm == "linf" else gradient / gradient.norm().clamp(min=1e-30)
        delta = _sized(delta * (1.0 - step) + step * eps * direction, eps, norm)
    return delta


def _sized(delta: Tensor, eps: float, norm: str) -> Tensor:
    """Return a vector scaled so that its size is eps, never above."""
    size = float(delta.norm() if norm == "l2" else delta.abs().max())
    found = delta * (eps / size) if size > 0.0 else delta
    while size_of(found, norm) > MP.mpf(eps):
        found = found * (1.0 - 2.0**-52)
    return found


def size_of(delta: Tensor, norm: str) -> mpmath.mpf:
    entries = real(delta.numpy()).reshape(-1)
    return MP.sqrt((entries * entries).sum()) if norm == "l2" else abs(entries).max()
