"""Random small networks of layers as data: their graph, their layers as explicit matrices, random admissible Jacobians.

Matrices are written down tap by tap, on the true image (what leaves it is zero) or on a torus (what leaves it comes
back). Values are ordered channel first, then pixels.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.graph import Graph
from tests.bounds.small_networks import Build

SLOPES = {"relu": (0.0, 1.0), "gelu": (-0.1289042, 1.1289042), "sigmoid": (0.0, 0.25), "abs": (-1.0, 1.0)}
Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Conv:
    """A convolution, or an average pool written as one (``average``)."""

    weight: Tensor  # [co, ci / groups, *taps]
    stride: Sizes
    padding: tuple[tuple[int, int], ...]
    dilation: Sizes
    groups: int = 1
    average: bool = False

    def leaves(self, sizes: Sizes) -> bool:
        """Whether a position outside an image of these sizes is read."""
        axes = zip(
            self.padding, self.stride, self.outputs(sizes), self.dilation, self.weight.shape[2:], sizes, strict=True
        )
        return any(before > 0 or s * (m - 1) + d * (k - 1) - before >= n for (before, _), s, m, d, k, n in axes)

    def keeps_zeros(self, sizes: Sizes) -> bool:
        """Whether zeros outside an image of these sizes become zeros outside the output."""
        axes = zip(self.padding, self.stride, self.outputs(sizes), self.weight.shape[2:], sizes, strict=True)
        return all(k == 1 and (n - 1 + before) // s < m for (before, _), s, m, k, n in axes)

    def outputs(self, sizes: Sizes) -> Sizes:
        spans = zip(sizes, self.padding, self.weight.shape[2:], self.dilation, self.stride, strict=True)
        return tuple((n + b + a - d * (k - 1) - 1) // s + 1 for n, (b, a), k, d, s in spans)


@dataclass(frozen=True)
class Act:
    kind: str
    slope: float = 0.0  # of leaky_relu, the least slope

    @property
    def range(self) -> tuple[float, float]:
        return (self.slope, 1.0) if self.kind == "leaky_relu" else SLOPES[self.kind]


@dataclass(frozen=True)
class Max:
    kernel: Sizes
    stride: Sizes
    dilation: Sizes

    @property
    def overlap(self) -> int:
        return math.prod(
            max(sum((x - d * a) % s == 0 for a in range(k)) for x in range(s * d * k))
            for k, s, d in zip(self.kernel, self.stride, self.dilation, strict=True)
        )

    def outputs(self, sizes: Sizes) -> Sizes:
        spans = zip(sizes, self.kernel, self.stride, self.dilation, strict=True)
        return tuple((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in spans)


@dataclass(frozen=True)
class Res:
    branch: tuple[Conv | Act, ...]
    skip: Conv | None


Layer = Conv | Act | Max | Res


@dataclass(frozen=True)
class Network:
    channels: int
    sizes: Sizes
    layers: tuple[Layer, ...]
    head: Tensor | None  # dense weight [K, channels * pixels]; None: ends as an image
    mean: bool = False  # the head reads channel means

    def graph(self) -> Graph:
        b = Build(self.channels, *self.sizes)
        name = "x"
        for layer in self.layers:
            name = add_layer(b, name, layer)
        if self.head is not None:
            dims = list(range(2, 2 + len(self.sizes)))
            flat = {"shape": [-1, self.head.shape[1]]}
            name = b.add("mean", name, dims=dims, keepdim=False) if self.mean else b.add("reshape", name, **flat)
            b.add("linear", name, weight=self.head)
        return b.graph()


def add_layer(b: Build, name: str, layer: Layer) -> str:
    if isinstance(layer, Act):
        details = {"gelu": {"approximate": "none"}, "leaky_relu": {"negative_slope": layer.slope}}
        return b.add(layer.kind, name, **details.get(layer.kind, {}))
    if isinstance(layer, Max):
        attributes = {word: list(getattr(layer, word)) for word in ("kernel", "stride", "dilation")}
        return b.add("max_pool", name, **attributes, padding=[0] * len(layer.kernel), ceil_mode=False)
    if isinstance(layer, Res):
        end = name
        for part in layer.branch:
            end = add_layer(b, end, part)
        skip = name if layer.skip is None else add_layer(b, name, layer.skip)
        return b.add("add", end, skip)
    window = {"kernel": list(layer.weight.shape[2:]), "stride": list(layer.stride)}
    if layer.average:
        pads = [before for before, _ in layer.padding]
        details = {"padding": pads, "ceil_mode": False, "count_include_pad": True, "divisor": None}
        return b.add("avg_pool", name, **window, **details)
    pairs = [list(pair) for pair in layer.padding]
    changes = {"stride": list(layer.stride), "padding": pairs, "dilation": list(layer.dilation)}
    return b.conv(layer.weight, name, groups=layer.groups, **changes)


def full_kernel(conv: Conv) -> Tensor:
    """[co, ci, *taps], zeros between groups."""
    co, own, *taps = conv.weight.shape
    full = torch.zeros(co, own * conv.groups, *taps, dtype=torch.float64)
    for o in range(co):
        first = (o // (co // conv.groups)) * own
        full[o, first : first + own] = conv.weight[o]
    return full


def conv_matrix(conv: Conv, sizes: Sizes, torus: bool) -> Tensor:
    """The convolution as a matrix, on an image of these sizes or on a torus of these sides."""
    outputs = tuple(n // s for n, s in zip(sizes, conv.stride, strict=True)) if torus else conv.outputs(sizes)
    kernel = full_kernel(conv)
    co, ci, *taps = kernel.shape
    matrix = torch.zeros(co, math.prod(outputs), ci, math.prod(sizes), dtype=torch.float64)
    for j, out in enumerate(itertools.product(*map(range, outputs))):
        for tap in itertools.product(*map(range, taps)):
            axes = zip(out, tap, conv.stride, conv.dilation, conv.padding, strict=True)
            read = [s * y + d * a - before for y, a, s, d, (before, _) in axes]
            if torus:
                read = [x % n for x, n in zip(read, sizes, strict=True)]
            if all(0 <= x < n for x, n in zip(read, sizes, strict=True)):
                place = sum(x * math.prod(sizes[i + 1 :]) for i, x in enumerate(read))
                matrix[:, j, :, place] += kernel[(slice(None), slice(None), *tap)]
    return matrix.reshape(co * len(matrix[0]), -1)


def identity_matrix(count: int) -> Tensor:
    return torch.eye(count, dtype=torch.float64)


def head_matrix(network: Network, sizes: Sizes, grid: Sizes) -> Tensor:
    """The dense head on a grid that holds the image of these sizes at its origin."""
    weight = network.head
    pixels = math.prod(sizes)
    if network.mean:
        weight = (weight[:, :, None] / pixels).expand(-1, -1, pixels)
    weight = weight.reshape(weight.shape[0], -1, *sizes)
    placed = torch.zeros(*weight.shape[:2], *grid, dtype=torch.float64)
    placed[(slice(None), slice(None), *map(slice, sizes))] = weight
    return placed.flatten(1)


def random_jacobian(network: Network, slopes: list[Tensor], random: torch.Generator) -> Tensor:
    """The product of the layers' matrices with slopes u in [0, 1] mapped into each range, and random max choices.

    ``slopes`` are consumed in order and made when missing, so that a caller may differentiate or change them.
    """
    sizes, J, position = network.sizes, identity_matrix(network.channels * math.prod(network.sizes)), iter(range(10**6))

    def through(layer: Layer, J: Tensor, sizes: Sizes) -> tuple[Tensor, Sizes]:
        if isinstance(layer, Conv):
            return conv_matrix(layer, sizes, False) @ J, layer.outputs(sizes)
        if isinstance(layer, Act):
            place = next(position)
            if place == len(slopes):
                slopes.append(torch.rand(J.shape[0], generator=random, dtype=torch.float64).round(decimals=1))
            least, most = layer.range
            return (least + (most - least) * slopes[place])[:, None] * J, sizes
        if isinstance(layer, Max):
            return max_choice(layer, sizes, J.shape[0] // math.prod(sizes), random) @ J, layer.outputs(sizes)
        branch, inner = J, sizes
        for part in layer.branch:
            branch, inner = through(part, branch, inner)
        skip = J if layer.skip is None else conv_matrix(layer.skip, sizes, False) @ J
        return branch + skip, inner

    for layer in network.layers:
        J, sizes = through(layer, J, sizes)
    return J if network.head is None else head_matrix(network, sizes, sizes) @ J


def max_choice(layer: Max, sizes: Sizes, channels: int, random: torch.Generator) -> Tensor:
    """One pixel of every window, at random, the same matrix entry by entry as a max pool's derivative."""
    outputs = layer.outputs(sizes)
    matrix = torch.zeros(channels, math.prod(outputs), channels, math.prod(sizes), dtype=torch.float64)
    favourite = torch.rand(channels, *sizes, generator=random)
    for c in range(channels):
        for j, out in enumerate(itertools.product(*map(range, outputs))):
            taps = itertools.product(*map(range, layer.kernel))
            windows = [
                tuple(s * y + d * a for y, a, s, d in zip(out, tap, layer.stride, layer.dilation, strict=True))
                for tap in taps
            ]
            best = max(windows, key=lambda at, c=c: float(favourite[(c, *at)]))
            matrix[c, j, c, sum(x * math.prod(sizes[i + 1 :]) for i, x in enumerate(best))] = 1.0
    return matrix.reshape(channels * len(matrix[0]), -1)


def ascended_norm(network: Network, seed: int, steps: int = 4) -> float:
    """The largest norm of an admissible Jacobian found by moving every slope to the end its derivative points to."""
    random = torch.Generator().manual_seed(seed)
    slopes: list[Tensor] = []
    best = float(torch.linalg.matrix_norm(random_jacobian(network, slopes, random), 2))
    for _ in range(steps if slopes else 0):
        free = [slope.clone().requires_grad_() for slope in slopes]
        norm = torch.linalg.svdvals(random_jacobian(network, free, torch.Generator().manual_seed(seed)))[0]
        gradients = torch.autograd.grad(norm, free)
        slopes = [(gradient > 0).double() for gradient in gradients]
        found = torch.linalg.matrix_norm(random_jacobian(network, slopes, torch.Generator().manual_seed(seed)), 2)
        best = max(best, float(found))
    return best


class MisfitError(Exception):
    """No convolution of the sizes asked for was found."""


class Maker:
    """Draws a network from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = torch.Generator().manual_seed(seed)

    def pick(self, *choices: object) -> object:
        return choices[int(torch.randint(len(choices), (1,), generator=self.random))]

    def number(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=self.random))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.random, dtype=torch.float64)

    def act(self) -> Act:
        kind = self.pick("relu", "relu", "gelu", "sigmoid", "abs", "leaky_relu")
        return Act(kind, self.pick(0.3, 0.8, 1.0, -0.4)) if kind == "leaky_relu" else Act(kind)

    def conv(self, ci: int, sizes: Sizes, *, stride: Sizes | None = None, outputs: Sizes | None = None) -> Conv:
        """A random convolution that fits; with ``outputs``, one of exactly these output sizes."""
        for _ in range(1000):
            groups = self.pick(1, 1, ci)
            co = groups * self.number(1, max(1, 3 // groups))
            taps = tuple(self.number(1, 5 if len(sizes) == 1 else 3) for _ in sizes)
            padding = tuple((self.number(0, 2), self.number(0, 2)) for _ in sizes)
            steps = stride or tuple(self.pick(1, 1, 2, 3) for _ in sizes)
            dilation = tuple(self.pick(1, 1, 2) for _ in sizes)
            conv = Conv(self.normal(co, ci // groups, *taps), steps, padding, dilation, groups)
            found = conv.outputs(sizes)
            if min(found) >= 1 and (outputs is None or found == outputs) and 1 < math.prod(found) <= 60:
                return conv
        raise MisfitError

    def average(self, channels: int, sizes: Sizes) -> Conv | None:
        taps = tuple(self.number(2, 3) for _ in sizes)
        pads = tuple(self.number(0, 1) for _ in sizes)
        weight = torch.full((channels, 1, *taps), 1.0 / math.prod(taps), dtype=torch.float64)
        stride = tuple(self.number(1, 2) for _ in sizes)
        made = Conv(weight, stride, tuple((p, p) for p in pads), (1,) * len(sizes), channels, average=True)
        return made if is_image(made.outputs(sizes)) else None

    def maximum(self, sizes: Sizes) -> Max | None:
        draws = [(self.number(1, 3), self.number(1, 3), self.pick(1, 1, 2, 3)) for _ in sizes]
        made = Max(*(tuple(column) for column in zip(*draws, strict=True)))
        return made if is_image(made.outputs(sizes)) else None

    def residual(self, channels: int, sizes: Sizes) -> Res:
        identity = bool(self.number(0, 1))
        stride = (1,) * len(sizes) if identity else tuple(self.number(1, 2) for _ in sizes)
        first = self.conv(channels, sizes, stride=stride)
        inner = first.outputs(sizes)
        outputs = sizes if identity else inner
        middle, parts = first.weight.shape[0], [first, self.act()]
        if self.number(0, 3) == 0 and not identity:
            extra = self.conv(middle, inner, stride=(1,) * len(sizes), outputs=inner)
            middle, parts = extra.weight.shape[0], [*parts, extra, self.act()]
        last = self.conv(middle, inner, stride=(1,) * len(sizes), outputs=outputs)
        target = channels if identity else self.number(1, 3)
        last = Conv(self.normal(target, middle, *last.weight.shape[2:]), last.stride, last.padding, last.dilation)
        skip = None if identity else self.shortcut(channels, target, sizes, stride, inner)
        return Res((*parts, last), skip)

    def shortcut(self, channels: int, target: int, sizes: Sizes, stride: Sizes, outputs: Sizes) -> Conv:
        spans = zip(sizes, outputs, stride, strict=True)
        pads = tuple(tuple(sorted((0, max(0, s * (m - 1) + 1 - n)))) for n, m, s in spans)
        crops = tuple((n - 1) // s + 1 > m for n, m, s in zip(sizes, outputs, stride, strict=True))
        taps = tuple(
            n - s * (m - 1) if crop else 1 for n, m, s, crop in zip(sizes, outputs, stride, crops, strict=True)
        )
        made = Conv(self.normal(target, channels, *taps), stride, pads, (1,) * len(sizes))
        if made.outputs(sizes) != outputs:
            raise ValueError(f"expected a shortcut to {outputs}, got {made.outputs(sizes)}")
        return made

    def network(self) -> Network:
        while True:
            try:
                return self.attempt()
            except MisfitError:
                continue

    def attempt(self) -> Network:
        dims = self.pick(1, 1, 2)
        sizes = tuple(self.number(4, 7 if dims == 1 else 5) for _ in range(dims))
        channels = self.number(1, 3)
        layers, now, width = [], sizes, channels
        for _ in range(self.number(1, 3)):
            for layer in self.stage(width, now):
                layers.append(layer)
                if isinstance(layer, Res):
                    width, now = layer.branch[-1].weight.shape[0], residual_outputs(layer, now)
                elif not isinstance(layer, Act):
                    width = width if isinstance(layer, Max) else layer.weight.shape[0]
                    now = layer.outputs(now)
        mean = bool(self.number(0, 4) == 0) and math.prod(now) > 1
        inputs = width if mean else width * math.prod(now)
        head = None if self.number(0, 5) == 0 and math.prod(now) > 1 else self.normal(self.number(1, 3), inputs)
        return Network(channels, sizes, tuple(layers), head, mean)

    def stage(self, width: int, sizes: Sizes) -> list[Layer]:
        kind = self.pick(
            "conv", "conv", "conv act", "conv act", "conv act", "res act", "res", "average", "max", "act max"
        )
        if kind in ("average", "max", "act max"):
            window = self.average(width, sizes) if kind == "average" else self.maximum(sizes)
            if window is not None:
                return [self.act(), window] if kind == "act max" else [window]
            kind = "conv act"
        first = self.residual(width, sizes) if kind.startswith("res") else self.conv(width, sizes)
        return [first, self.act()] if kind.endswith("act") else [first]


def is_image(sizes: Sizes) -> bool:
    return min(sizes) >= 1 and math.prod(sizes) > 1


def outputs_of(layer: Layer, sizes: Sizes) -> Sizes:
    if isinstance(layer, Act):
        return sizes
    return residual_outputs(layer, sizes) if isinstance(layer, Res) else layer.outputs(sizes)


def residual_outputs(layer: Res, sizes: Sizes) -> Sizes:
    for part in layer.branch:
        sizes = part.outputs(sizes) if isinstance(part, Conv) else sizes
    return sizes
