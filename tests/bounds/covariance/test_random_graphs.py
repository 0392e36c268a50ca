"""Random graphs of any operations, wired at random: every plan stays above the Jacobians of its network.

Activations are nearly linear, so that bounds are close to what they bound and an unsound step shows.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from certify.bounds.covariance.plan import compile_plan
from certify.bounds.covariance.proof import prove
from certify.bounds.covariance.starts import closed_forms
from certify.bounds.covariance.steps import Plan
from certify.bounds.facts import collect_facts
from certify.bounds.floor import jacobian
from certify.bounds.gains import combine_rules, gain_uppers
from certify.errors import InputError
from certify.graph import Graph, value_shapes
from tests.bounds.small_networks import Build


class Wiring:
    """Adds random operations to values drawn at random, recent ones more often, until all that is left over is read."""

    def __init__(self, seed: int) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.dims = self.number(1, 2)
        sizes = [self.number(3, 6 if self.dims == 1 else 4) for _ in range(self.dims)]
        self.b = Build(self.number(1, 3), *sizes, seed=seed)
        self.shapes = {"x": (1, *self.b.shape)}

    def number(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=self.random))

    def pick(self, choices: list) -> object:
        return choices[self.number(0, len(choices) - 1)]

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.random, dtype=torch.float64)

    def value(self) -> str:
        names = list(self.shapes)
        return names[max(self.number(0, len(names) - 1), self.number(0, len(names) - 1))]

    def add(self, kind: str, *inputs: str, **details: object) -> None:
        before = list(self.b.operations)
        name = self.b.add(kind, *inputs, **details)
        try:
            graph = Graph(tuple(self.b.operations), name, self.b.shape, self.b.tensors)
            shape = tuple(graph_shapes(graph)[name])
        except (InputError, ValueError):  # what does not fit is left out
            self.b.operations = before
            used = {tensor for operation in before for tensor in operation.weights.values()}
            self.b.tensors = {key: tensor for key, tensor in self.b.tensors.items() if key in used}
            return
        self.shapes[name] = shape

    def step(self) -> None:
        name = self.value()
        shape = self.shapes[name]
        image = len(shape) == self.dims + 2
        kinds = ["act", "act", "scale", "pair", "pair", "concat", "slice", "flip"]
        kinds += (
            ["conv"] * 5 + ["pad", "avg_pool", "max_pool", "batch_norm", "upsample", "flatten"] if image else ["linear"]
        )
        getattr(self, f"_{self.pick(kinds)}")(name, shape)

    def _act(self, name: str, _: tuple) -> None:
        self.add("leaky_relu", name, negative_slope=self.pick([1.0, 1.0, 0.99, 0.9, 0.3]))

    def _scale(self, name: str, shape: tuple) -> None:
        full = self.pick([shape, (1, shape[1], *[1] * (len(shape) - 2)), (1,) * len(shape)])
        constant = self.b.constant(self.normal(*full))
        self.add("mul", *self.pick([[name, constant], [constant, name]]))

    def _pair(self, name: str, shape: tuple) -> None:
        others = [other for other, its in self.shapes.items() if its == shape]
        self.add(self.pick(["add", "sub", "add", "maximum"]), name, self.pick(others))

    def _concat(self, name: str, shape: tuple) -> None:
        others = [o for o, its in self.shapes.items() if its[2:] == shape[2:] and len(its) == len(shape)]
        self.add("concat", name, self.pick(others), dim=1)

    def _slice(self, name: str, shape: tuple) -> None:
        dim = self.number(1, len(shape) - 1)
        start = self.number(0, shape[dim] - 1)
        stop = self.number(start + 1, shape[dim])
        self.add("slice", name, dim=dim, start=start, stop=stop, step=self.number(1, 2))

    def _flip(self, name: str, shape: tuple) -> None:
        self.add("flip", name, dims=[self.number(1, len(shape) - 1)])

    def _conv(self, name: str, shape: tuple) -> None:
        groups = self.pick([1, shape[1]])
        taps = [self.number(1, 3) for _ in range(self.dims)]
        details = {
            "stride": [self.pick([1, 1, 2]) for _ in range(self.dims)],
            "padding": [[self.number(0, 2), self.number(0, 2)] for _ in range(self.dims)],
            "dilation": [self.pick([1, 1, 2]) for _ in range(self.dims)],
            "padding_mode": self.pick(["zeros"] * 6 + ["replicate"]),
        }
        weight = self.normal(groups * self.number(1, 2), shape[1] // groups, *taps)
        self.add("conv", name, weight=weight, groups=groups, **details)

    def _pad(self, name: str, _: tuple) -> None:
        pairs = [[self.number(-1, 2), self.number(0, 2)] for _ in range(self.dims)]
        self.add("pad", name, padding=pairs, mode=self.pick(["constant", "constant", "replicate"]), value=1.0)

    def _avg_pool(self, name: str, _: tuple) -> None:
        window = {
            "kernel": [2] * self.dims,
            "stride": [self.number(1, 2)] * self.dims,
            "padding": [self.number(0, 1)] * self.dims,
        }
        self.add(
            "avg_pool",
            name,
            **window,
            ceil_mode=bool(self.number(0, 1)),
            count_include_pad=bool(self.number(0, 1)),
            divisor=None if self.dims == 1 else self.pick([None, 3]),
        )

    def _max_pool(self, name: str, _: tuple) -> None:
        window = {
            "kernel": [2] * self.dims,
            "stride": [self.number(1, 2)] * self.dims,
            "padding": [self.number(0, 1)] * self.dims,
        }
        self.add("max_pool", name, **window, dilation=[1] * self.dims, ceil_mode=False)

    def _batch_norm(self, name: str, shape: tuple) -> None:
        variance = self.normal(shape[1]).square() + 0.3
        self.add(
            "batch_norm", name, mean=self.normal(shape[1]), variance=variance, weight=self.normal(shape[1]), eps=0.1
        )

    def _upsample(self, name: str, shape: tuple) -> None:
        if math.prod(shape) <= 40:
            self.add("upsample_nearest", name, scale=[self.number(1, 2) for _ in range(self.dims)])

    def _flatten(self, name: str, shape: tuple) -> None:
        self.add("reshape", name, shape=[-1, math.prod(shape)])

    def _linear(self, name: str, shape: tuple) -> None:
        self.add("linear", name, weight=self.normal(self.number(1, 5), shape[-1]) / shape[-1] ** 0.5)

    def graph(self) -> Graph:
        for _ in range(self.number(4, 14)):
            self.step()
        name = list(self.shapes)[-1]
        rows = math.prod(self.shapes[name])
        self.add("reshape", name, shape=[-1, rows])
        return Graph(tuple(self.b.operations), list(self.shapes)[-1], self.b.shape, self.b.tensors)


def graph_shapes(graph: Graph) -> dict:
    shapes = value_shapes(graph)
    if max(math.prod(shape) for shape in shapes.values()) > 150:
        raise ValueError("too large")
    return shapes


def proved_outputs(plan: Plan) -> list[Tensor]:
    """What closed forms prove; nothing where the proof refuses all, as it does where everything cancels."""
    found = (prove(plan, multipliers) for multipliers in closed_forms(plan))
    return [proved.output[0] for proved in found if proved is not None]


def check(seed: int) -> float:
    """Hold every proved M to M - J J^T >= 0, and in linf to c^T M c >= ||c^T J||_1^2; return how close they come."""
    graph = Wiring(seed).graph()
    facts = collect_facts(graph)
    gains = gain_uppers(facts, combine_rules(facts))
    random = torch.Generator().manual_seed(seed)
    points = 3 * torch.randn(3, *graph.input_shape, generator=random, dtype=torch.float64)
    matrices = torch.stack([jacobian(facts.graph, point) for point in points])
    plan, linf = (compile_plan(facts, graph.output, norm, gains) for norm in ("l2", "linf"))
    closest = 0.0
    for M in proved_outputs(plan):
        size = float(torch.linalg.matrix_norm(M, 2))
        gaps = torch.linalg.eigvalsh(M - matrices @ matrices.mT)
        assert float(gaps.min()) >= -1e-12 * size, seed
        closest = max(closest, float(torch.linalg.matrix_norm(matrices, 2).max()) ** 2 / max(size, 1e-300))
    directions = torch.randn(50, matrices.shape[1], generator=random, dtype=torch.float64)
    directions = torch.cat([directions, torch.eye(matrices.shape[1], dtype=torch.float64)])
    for M in proved_outputs(linf):
        sums = (directions @ matrices).abs().sum(2).square().amax(0)
        assert bool((sums <= ((directions @ M) * directions).sum(1) * (1 + 1e-12)).all()), seed
    return closest


@pytest.mark.parametrize("first", range(0, 60, 30))
def test_plans_of_random_graphs(first):
    closest = [check(seed) for seed in range(first, first + 30)]
    assert sum(one > 0.8 for one in closest) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 5000, 200))
def test_plans_of_thousands_of_random_graphs(first):
    for seed in range(first, first + 200):
        check(seed)
