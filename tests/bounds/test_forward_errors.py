"""The floating-point error of the forward pass: never below what is observed, in any order of summation."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from certify.bounds.errors import Pass, deployed_errors, measured_errors
from certify.bounds.facts import collect_facts
from certify.bounds.gains import combine_rules, gain_uppers
from certify.graph import Graph, run, run_all
from certify.results import Unbounded
from certify.rounding import U32, U64
from tests.bounds.small_networks import ACTIVATIONS, BOUNDED, Build, one

LIBRARY = (
    "selu",
    "silu",
    "mish",
    "tanh",
    "sigmoid",
    "logsigmoid",
    "tanhshrink",
    "sin",
    "elu",
    "celu",
    "gelu",
    "softplus",
)
FLOAT64_ONLY = frozenset(
    {*LIBRARY, "gelu tanh", "elu negative", "softmax", "log_softmax", "log_softmax single", "diamond"}
)
VAGUE_IN_FLOAT32 = frozenset({"layer_norm", "rms_norm", "group_norm", "instance_norm"})


def forward(graph: Graph, x: Tensor) -> Pass:
    facts = collect_facts(graph)
    return Pass(facts, combine_rules(facts), run_all(facts.graph, x.unsqueeze(0)))


def measured(graph: Graph, x: Tensor, *, rounded_input: bool = False) -> float | Unbounded:
    return measured_errors(forward(graph, x), rounded_input=rounded_input)[graph.output]


def deployed(graph: Graph, x: Tensor, radius: float, arithmetic: str) -> float | Unbounded:
    here = forward(graph, x)
    gains = gain_uppers(here.facts, here.rules)
    errors = measured_errors(here, rounded_input=False)
    return deployed_errors(here, errors, lambda name: gains[name] * radius, arithmetic)[graph.output]


def number(found: float | Unbounded) -> float:
    assert not isinstance(found, Unbounded), found
    return found


def in_ball(x: Tensor, radius: float, random: torch.Generator) -> Tensor:
    step = torch.randn(x.shape, generator=random, dtype=torch.float64)
    return (x + 0.999 * radius * step / step.norm()).float().double()  # a float32 point, so that reading it is exact


@pytest.mark.parametrize("radius", [0.0, 0.5])
@pytest.mark.parametrize("name", sorted(set(BOUNDED) - FLOAT64_ONLY))
def test_a_float32_program_stays_within_its_error_in_the_whole_ball(name: str, radius: float) -> None:
    random = torch.Generator().manual_seed(11)
    graph = BOUNDED[name](1)
    x = torch.randn(*graph.input_shape, generator=random, dtype=torch.float64).float().double()
    error = deployed(graph, x, radius, "float32")
    if name in VAGUE_IN_FLOAT32 and isinstance(error, Unbounded):
        return
    for _ in range(4):
        there = in_ball(x, radius, random).unsqueeze(0)
        program = run(graph.to(torch.float32), there.float()).double()
        difference = float((program - run(graph.to(torch.float64), there)).norm())
        assert difference <= number(error) + number(measured(graph, there[0]))


@pytest.mark.parametrize("name", sorted(FLOAT64_ONLY - {"log_softmax single"}))
def test_a_network_with_library_functions_is_refused_in_float32(name: str) -> None:
    graph = BOUNDED[name](0)
    found = deployed(graph, torch.ones(graph.input_shape, dtype=torch.float64), 0.1, "float32")
    assert isinstance(found, Unbounded)
    assert "float64 only" in found.reason
    assert not isinstance(
        deployed(graph, torch.ones(graph.input_shape, dtype=torch.float64), 0.1, "float64"), Unbounded
    )


Layer = tuple[Tensor, Tensor]


def exact_chain(layers: list[Layer], values: list[Fraction]) -> list[Fraction]:
    """Return a chain of linear maps with relu between them in rational arithmetic."""
    for position, (weight, bias) in enumerate(layers):
        if position:
            values = [max(v, Fraction(0)) for v in values]
        values = [
            sum((Fraction(w) * v for w, v in zip(row, values, strict=True)), Fraction(b))
            for row, b in zip(weight.tolist(), bias.tolist(), strict=True)
        ]
    return values


def sequential(products: np.ndarray, bias: np.ndarray) -> np.ndarray:
    total = bias.copy()
    for column in products.T:
        total = total + column
    return total


def chunked(products: np.ndarray, bias: np.ndarray) -> np.ndarray:
    zero = np.zeros_like(bias)
    return sequential(np.stack([sequential(part, zero) for part in np.array_split(products, 3, axis=1)], 1), bias)


def summation_orders(random: np.random.Generator) -> Iterator[Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    yield sequential
    yield lambda products, bias: sequential(products[:, ::-1], bias)
    yield chunked
    for _ in range(3):
        yield lambda products, bias: sequential(products[:, random.permutation(products.shape[1])], bias)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_every_order_of_summation_stays_within_the_error(dtype: type, scale: float) -> None:
    for seed in range(3):
        b, sizes = Build(12, seed=seed), (12, 20, 16, 5)
        layers = []
        for position, (inputs, outputs) in enumerate(pairwise(sizes)):
            if position:
                b.add("relu")
            weight = (scale * b.normal(outputs, inputs)).float().double()
            layers.append((weight, (100 * b.normal(outputs)).float().double()))
            b.add("linear", weight=weight, bias=layers[-1][1])
        x = b.normal(12).float().double()
        truth = exact_chain(layers, [Fraction(v) for v in x.tolist()])
        error = number(deployed(b.graph(), x, 0.0, "float32" if dtype is np.float32 else "float64"))
        for add in summation_orders(np.random.default_rng(seed)):
            h = x.numpy().astype(dtype)
            for position, (weight, bias) in enumerate(layers):
                h = np.maximum(h, 0) if position else h
                h = add(weight.numpy().astype(dtype) * h, bias.numpy().astype(dtype))
            distance = sum((Fraction(float(v)) - t) ** 2 for v, t in zip(h, truth, strict=True))
            assert 0 < distance <= Fraction(error) ** 2


@pytest.mark.parametrize("seed", range(3))
def test_the_measured_run_stays_within_its_error_of_rational_arithmetic(seed: int) -> None:
    b = Build(9, seed=seed)
    layers = [(b.normal(14, 9), b.normal(14)), (b.normal(4, 14), b.normal(4))]
    b.add("linear", weight=layers[0][0], bias=layers[0][1])
    b.add("relu")
    b.add("linear", weight=layers[1][0], bias=layers[1][1])
    stored = torch.randint(0, 256, (9,), generator=b.random)
    x = stored.double() / 255.0
    computed = run(b.graph(), x.unsqueeze(0))[0].tolist()
    on_rounded = exact_chain(layers, [Fraction(v) for v in x.tolist()])
    values = [Fraction(int(k), 255) for k in stored]
    for error, truth in (
        (measured(b.graph(), x), on_rounded),
        (measured(b.graph(), x, rounded_input=True), exact_chain(layers, values)),
    ):
        distance = sum((Fraction(c) - t) ** 2 for c, t in zip(computed, truth, strict=True))
        assert distance <= Fraction(number(error)) ** 2


# One network per error term. Each returns (observed error, bound without the term); the term must be what saves us.


def scalar_linear(b: Build, weight: float, bias: float = 0.0) -> None:
    b.add(
        "linear", weight=torch.tensor([[weight]], dtype=torch.float64), bias=torch.tensor([bias], dtype=torch.float64)
    )


def observed32(graph: Graph, x: float) -> float:
    point = torch.tensor([[x]], dtype=torch.float64)
    exact = run(graph.to(torch.float64), point)
    return float((run(graph.to(torch.float32), point.float()).double() - exact).norm())


def test_term_rounding_of_eight_bit_inputs() -> None:
    b = Build(1)
    b.add("relu")
    x = torch.tensor([1.0 / 255.0], dtype=torch.float64)
    truth = abs(Fraction(float(x)) - Fraction(1, 255))
    assert measured(b.graph(), x) == 0.0
    assert 0 < truth <= Fraction(number(measured(b.graph(), x, rounded_input=True)))


def test_term_rounding_of_inputs_on_arrival() -> None:
    b = Build(1)
    b.add("relu")
    x, graph = torch.tensor([0.1], dtype=torch.float64), b.graph()
    assert 0 < observed32(graph, 0.1) <= number(deployed(graph, x, 0.0, "float32"))


def test_term_products_and_bias_of_an_inner_product() -> None:
    b = Build(1)
    scalar_linear(b, 1.0, 2.0**26)
    scalar_linear(b, 1.0, -(2.0**26))
    x, graph = torch.tensor([0.6], dtype=torch.float64), b.graph()
    without_bias = 12 * U32 * 0.6 * 4
    assert without_bias < observed32(graph, 0.6) <= number(deployed(graph, x, 0.0, "float32"))


def test_term_amplification_by_later_layers() -> None:
    b = Build(1)
    scalar_linear(b, 1.0, 2.0**20)
    scalar_linear(b, 1.0, -(2.0**20))
    scalar_linear(b, 2.0**10)
    x, graph = torch.tensor([0.6], dtype=torch.float64), b.graph()
    unamplified = 3 * 8 * U32 * 2.0**21
    assert unamplified < observed32(graph, 0.6) <= number(deployed(graph, x, 0.0, "float32"))


def test_term_cancellation_inside_an_inner_product() -> None:
    b = Build(1)
    big = 2.0**55
    b.add("concat", b.constant(torch.tensor([[big]]).double()), "x", b.constant(torch.tensor([[-big]]).double()), dim=1)
    b.add("linear", weight=torch.ones(1, 3, dtype=torch.float64))
    x = torch.tensor([0.6], dtype=torch.float64)
    computed = sequential(np.array([[big, 0.6, -big]]), np.zeros(1))[0]
    of_the_output = 8 * U64 * 0.6
    observed = abs(Fraction(float(computed)) - Fraction(0.6))
    assert of_the_output < observed <= Fraction(number(deployed(b.graph(), x, 0.0, "float64")))
    assert observed <= Fraction(number(measured(b.graph(), x)))


def test_term_drift_inside_the_ball() -> None:
    entries, step = 64, 1.02 * U32  # each addition of a step to 1 rounds up by nearly one unit
    b = Build(entries)
    b.add("linear", weight=torch.ones(1, entries, dtype=torch.float64))
    there = np.array([[1.0] + [step] * (entries - 1)], dtype=np.float32)
    computed = sequential(there, np.zeros(1, dtype=np.float32))[0]
    observed = abs(Fraction(float(computed)) - sum(Fraction(float(v)) for v in there[0]))
    zero, radius = torch.zeros(entries, dtype=torch.float64), 1.0001
    arrival = math.sqrt(entries) * U32 * radius
    assert arrival < observed <= Fraction(number(deployed(b.graph(), zero, radius, "float32")))


@pytest.mark.parametrize("size, arithmetic", [(1e-30, "float32"), (1e-170, "float64")])
def test_term_underflow(size: float, arithmetic: str) -> None:
    b = Build(1)
    weight = float(np.float32(size)) if arithmetic == "float32" else size
    scalar_linear(b, weight)
    x = torch.tensor([weight], dtype=torch.float64)
    truth = Fraction(weight) ** 2  # the program returns 0
    relative = Fraction(10 * U32) * truth
    assert relative < truth <= Fraction(number(deployed(b.graph(), x, 0.0, arithmetic)))


def test_term_addition_of_branches() -> None:
    b, big = Build(1), 2.0**55
    b.add("sub", b.add("add", "x", b.constant(big)), b.constant(big))
    x, graph = torch.tensor([0.6], dtype=torch.float64), b.graph()
    assert 0.6 <= abs(float(run(graph, x[None])) - 0.6) <= number(measured(graph, x))


def test_term_addition_inside_the_ball() -> None:
    b, step, count = Build(1), float(np.float32(1.02 * U32)), 64
    last = "x"
    for _ in range(count):
        last = b.add("add", last, b.constant(step))
    computed = run(b.graph().to(torch.float32), torch.ones(1, 1))
    observed = abs(Fraction(float(computed)) - 1 - count * Fraction(step))
    arrival, of_the_constants = U32 * 1.0001, count * 8 * U32 * step
    zero = torch.zeros(1, dtype=torch.float64)
    assert arrival + of_the_constants < observed <= Fraction(number(deployed(b.graph(), zero, 1.0001, "float32")))


def test_term_cancellation_inside_batch_norm() -> None:
    b, mean = Build(1), 2.0**40 + 0.125
    variance = torch.tensor([9.0 / 1024.0**2], dtype=torch.float64)  # the scale is exactly 1024 / 3
    b.add("batch_norm", mean=torch.tensor([mean], dtype=torch.float64), variance=variance, eps=0.0)
    x, graph = 2.0**40 + 0.0625, b.graph()
    point = torch.tensor([x], dtype=torch.float64)
    exact = Fraction(-1, 16) * Fraction(1024, 3)
    observed = abs(Fraction(float(run(graph, point[None]))) - exact)
    after_cancellation = 16 * U64 * 0.0625 * 1024 / 3
    assert after_cancellation < observed <= Fraction(number(measured(graph, point)))


@pytest.mark.parametrize("kind, details", [("clamp", {"min": None, "max": 0.1}), ("pad", {"value": 0.1})])
def test_term_scalars_rounded_to_the_format(kind: str, details: dict[str, object]) -> None:
    b = Build(1)
    b.add(kind, **({**details, "mode": "constant", "padding": [[0, 1]]} if kind == "pad" else details))
    graph, point = b.graph(), torch.tensor([8.0], dtype=torch.float64)
    arrival = number(deployed(_relu_network(), point, 0.0, "float32"))
    observed = observed32(graph, 8.0)
    assert 0 < observed <= number(deployed(graph, point, 0.0, "float32"))
    assert number(deployed(graph, point, 0.0, "float32")) > arrival


def test_term_constants_rounded_to_the_format() -> None:
    b = Build(1)
    b.add("maximum", "x", b.constant(torch.tensor([0.1], dtype=torch.float64)))
    zero = torch.zeros(1, dtype=torch.float64)
    observed = abs(Fraction(0.1) - Fraction(float(np.float32(0.1))))
    assert 0 < observed <= Fraction(number(deployed(b.graph(), zero, 0.0, "float32")))


def _relu_network() -> Graph:
    b = Build(1)
    b.add("relu")
    return b.graph()


def test_term_jump_of_softplus() -> None:
    graph = activationless("softplus", beta=1.0, threshold=20.0)
    x = torch.tensor([20.0000001], dtype=torch.float64)
    truth = mpmath.log1p(mpmath.exp(mpmath.mpf(float(x))))
    observed = abs(float(mpmath.mpf(float(run(graph, x[None]))) - truth))
    assert 100 * U64 * 20 < observed <= number(measured(graph, x))


def activationless(kind: str, **details: object) -> Graph:
    b = Build(1)
    b.add(kind, **details)
    return b.graph()


mp = mpmath.MPContext()
mp.dps = 40
TRUTH: dict[str, Callable[[mpmath.mpf], mpmath.mpf]] = {
    "selu": lambda x: (
        mp.mpf("1.0507009873554804934193349852946")
        * (x if x > 0 else mp.mpf("1.6732632423543772848170429916717") * mp.expm1(x))
    ),
    "silu": lambda x: x / (1 + mp.exp(-x)),
    "mish": lambda x: x * mp.tanh(mp.log1p(mp.exp(x))),
    "tanh": mp.tanh,
    "sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
    "logsigmoid": lambda x: -mp.log1p(mp.exp(-x)),
    "tanhshrink": lambda x: x - mp.tanh(x),
    "sin": mp.sin,
    "elu": lambda x: x if x > 0 else mp.mpf(1.7) * mp.expm1(x),
    "celu": lambda x: x if x > 0 else mp.mpf(0.3) * mp.expm1(x / mp.mpf(0.3)),
    "gelu": lambda x: x / 2 * mp.erfc(-x / mp.sqrt(2)),
    "softplus": lambda x: mp.log1p(mp.exp(2 * x)) / 2,
}


def awkward_numbers() -> Tensor:
    random = torch.Generator().manual_seed(5)
    sizes = torch.logspace(-300, 2.8, 150, dtype=torch.float64)
    near = 30 * torch.rand(300, generator=random, dtype=torch.float64)
    return torch.cat([sizes, -sizes, near, -near, torch.tensor([0.0, 5e-324, -5e-324], dtype=torch.float64)])


@pytest.mark.parametrize("kind", LIBRARY)
def test_library_functions_are_as_accurate_as_assumed(kind: str) -> None:
    details, points = ACTIVATIONS[kind], awkward_numbers()
    graph = one((len(points),), kind, lead=False, **details)(0)
    together = run(graph, points.unsqueeze(0))[0].tolist()
    single = activationless(kind, **details)
    for position, (x, value) in enumerate(zip(points.tolist(), together, strict=True)):
        truth = TRUTH[kind](mp.mpf(x))
        error = abs(mp.mpf(value) - truth)
        allowed = 10 * U64 * (abs(x) + abs(value)) + 16 * 2.0**-1074
        allowed += math.exp(-20.0) / 2.0 if kind == "softplus" else 0.0
        assert error <= allowed, (x, value)
        if position % 10 == 0:
            alone = torch.tensor([x], dtype=torch.float64)
            assert abs(mp.mpf(float(run(single, alone[None]))) - truth) <= number(measured(single, alone))


@pytest.mark.parametrize("kind", ["softmax", "log_softmax"])
@pytest.mark.parametrize("spread", [0.1, 5.0, 200.0])
def test_softmax_stays_within_its_error(kind: str, spread: float) -> None:
    graph = one((3, 40), kind, lead=False, dim=2)(0)
    x = spread * Build(1, seed=9).normal(3, 40)
    total = mp.mpf(0)
    for row, values in zip(run(graph, x[None])[0].tolist(), x.tolist(), strict=True):
        exact = [mp.exp(mp.mpf(v)) for v in values]
        whole = mp.fsum(exact)
        truth = [e / whole if kind == "softmax" else mp.log(e / whole) for e in exact]
        total += mp.fsum((mp.mpf(v) - t) ** 2 for v, t in zip(row, truth, strict=True))
    assert 0 < mp.sqrt(total) <= number(measured(graph, x))


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_layer_norm_stays_within_its_error(offset: float) -> None:
    graph = one((2, 50), "layer_norm", lead=False, shape=[50], eps=1e-3)(0)
    x = 0.1 * Build(1, seed=4).normal(2, 50) + offset
    total = mp.mpf(0)
    for row, values in zip(run(graph, x[None])[0].tolist(), x.tolist(), strict=True):
        mean = mp.fsum(map(mp.mpf, values)) / 50
        variance = mp.fsum((mp.mpf(v) - mean) ** 2 for v in values) / 50
        scale = mp.sqrt(variance + mp.mpf(1e-3))
        total += mp.fsum((mp.mpf(r) - (mp.mpf(v) - mean) / scale) ** 2 for r, v in zip(row, values, strict=True))
    assert 0 < mp.sqrt(total) <= number(measured(graph, x))


def test_an_operation_without_an_error_rule_is_typed() -> None:
    found = deployed(one((3, 4), "softmax", dim=1)(0), torch.ones(3, 4, dtype=torch.float64), 0.0, "float32")
    assert isinstance(found, Unbounded)
    assert "float64 only" in found.reason


def test_weights_beyond_float32_are_refused_there() -> None:
    b = Build(1)
    scalar_linear(b, 1e-50)
    found = deployed(b.graph(), torch.tensor([1.0], dtype=torch.float64), 0.0, "float32")
    assert isinstance(found, Unbounded)
    assert "range of float32" in found.reason


def test_scalars_beyond_float32_are_refused_there() -> None:
    b = Build(1)
    b.add("div", "x", b.constant(1e-50))
    found = deployed(b.graph(), torch.tensor([1e-30], dtype=torch.float64), 0.0, "float32")
    assert isinstance(found, Unbounded)
    assert "value = 1e-50" in found.reason


def test_activations_beyond_float32_are_refused_there() -> None:
    b = Build(1)
    scalar_linear(b, 2.0**100)
    scalar_linear(b, 2.0**100)
    scalar_linear(b, 2.0**-100)
    found = deployed(b.graph(), torch.tensor([1.0], dtype=torch.float64), 0.0, "float32")
    assert isinstance(found, Unbounded)
    assert not isinstance(deployed(b.graph(), torch.tensor([1.0], dtype=torch.float64), 0.0, "float64"), Unbounded)


def test_the_error_of_a_deep_network_does_not_explode() -> None:
    b = Build(64)
    for _ in range(20):
        weight = torch.linalg.qr(b.normal(64, 64)).Q
        b.add("linear", weight=weight)
        b.add("relu")
    x = b.normal(64)
    assert number(measured(b.graph(), x)) < 1e-10
    assert number(deployed(b.graph(), x, 1.0, "float32")) < 0.1
