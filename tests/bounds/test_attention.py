"""Attention: gains on bounded tokens, limits behind normalisations, rules near an input, and certificates from them."""

import math

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from certify.bounds import analyse, certify_example
from certify.bounds.attention import Limits, attention_gains
from certify.bounds.ball import ball_gains
from certify.bounds.errors import Pass, measured_errors
from certify.bounds.facts import collect_facts
from certify.bounds.gains import combine_rules, gain_uppers
from certify.bounds.nearby import Nearby, rule_nearby
from certify.examples import Example
from certify.graph import Graph, Operation, run, run_all
from certify.graph.run import run_operation
from certify.results import LipschitzSettings, Unbounded
from tests.bounds.small_networks import Build

SEEDS = range(6)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def transformer(seed: int, *, normed: bool = True, scale: float = 1.0) -> Graph:
    """One block: [layer norm,] two heads of attention, residual sum, three classes."""
    b = Build(3, 4, seed=seed)
    source = b.add("layer_norm", shape=[4], eps=1e-2, weight=b.normal(4), bias=b.normal(4)) if normed else "x"
    heads = []
    for _ in range(3):
        projected = b.linear(4, 4, source, scale=scale)
        split = b.add("reshape", projected, shape=[-1, 3, 2, 2])
        heads.append(b.add("permute", split, dims=[0, 2, 1, 3]))
    attended = b.add("attention", *heads, causal=False, scale=None)
    merged = b.add("reshape", b.add("permute", attended, dims=[0, 2, 1, 3]), shape=[-1, 3, 4])
    summed = b.add("add", "x", merged)
    b.linear(12, 3, b.add("reshape", summed, shape=[-1, 12]))
    return b.graph()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("width, queries, keys", [(1, 1, 1), (2, 4, 3), (3, 2, 6)])
@pytest.mark.parametrize("size", [0.1, 1.0, 4.0])
def test_the_jacobian_of_a_head_is_never_above_its_gains(
    seed: int, width: int, queries: int, keys: int, size: float
) -> None:
    parts = [size * normal(seed + place, count, width) for place, count in enumerate((queries, keys, keys))]
    limits = Limits(*(float(part.norm(dim=1).max()) for part in parts), float(queries))
    gains = attention_gains(0.7, limits)
    jacobians = torch.autograd.functional.jacobian(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.7), tuple(parts)
    )
    for jacobian, gain, part in zip(jacobians, gains, parts, strict=True):
        matrix = jacobian.reshape(-1, part.numel())
        assert float(torch.linalg.matrix_norm(matrix, ord=2)) * (1 - 1e-12) <= gain


def test_equal_keys_attain_the_gain_of_the_values() -> None:
    """With one query direction all mass can lie on one key: the columns' root is reached by the value term."""
    gain = attention_gains(1.0, Limits(0.0, 0.0, 1.0, 4.0))
    assert 2.0 <= gain[2] < 2.0000001  # four queries, one key: every output is that value
    outputs = F.scaled_dot_product_attention(*(torch.ones(n, 1, dtype=torch.float64) for n in (4, 1, 1)))
    assert float(outputs.norm()) == 2.0


@pytest.mark.parametrize("seed", SEEDS)
def test_no_input_exceeds_the_limits_behind_a_layer_norm(seed: int) -> None:
    facts = collect_facts(transformer(seed))
    attention = next(operation for operation in facts.graph if operation.kind == "attention")
    for size in (1e-6, 1.0, 1e6):
        values = run_all(facts.graph, size * normal(seed, 200, 3, 4))
        for name in attention.inputs:
            limit = facts.token_limit(name)
            assert limit < math.inf
            assert float(values[name].norm(dim=-1).max()) <= limit


def test_values_that_grow_with_the_input_have_no_limit() -> None:
    facts = collect_facts(transformer(0, normed=False))
    assert facts.token_limit("x") == math.inf


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_network_with_normed_attention_is_bounded(seed: int, norm: str) -> None:
    graph = transformer(seed)
    upper = analyse(graph, LipschitzSettings(norm=norm, method="product")).network.upper
    assert upper is not None
    order = 2 if norm == "l2" else math.inf
    for size in (0.01, 1.0):
        x = size * normal(seed, 1, 3, 4)
        jacobian = torch.autograd.functional.jacobian(lambda z: run(graph, z)[0], x).reshape(3, -1)
        assert float(torch.linalg.matrix_norm(jacobian, ord=order)) <= upper


def test_attention_of_free_inputs_has_no_bound_over_all_inputs() -> None:
    network = analyse(transformer(0, normed=False), LipschitzSettings()).network
    assert network.upper is None
    assert "grows with the square" in str(network.reason)


NEAR = {
    "mul": lambda b: b.add("mul", "x", b.add("tanh", "x")),
    "div": lambda b: b.add("div", "x", b.add("sigmoid", "x")),
    "matmul": lambda b: b.add("matmul", "x", b.add("permute", "x", dims=[0, 2, 1])),
    "layer_norm": lambda b: b.add("layer_norm", shape=[4], eps=1e-5, weight=b.normal(4), bias=b.normal(4)),
    "rms_norm": lambda b: b.add("rms_norm", shape=[4], eps=1e-5, weight=b.normal(4)),
    "group_norm": lambda b: b.add("group_norm", groups=1, eps=1e-5),
    "instance_norm": lambda b: b.add("instance_norm", eps=1e-5),
    "attention": lambda b: b.add("attention", "x", "x", "x", causal=True, scale=1.3),
}


@pytest.mark.parametrize("reach", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("kind", NEAR)
def test_two_inputs_in_reach_are_never_further_apart_than_the_rule_says(kind: str, reach: float) -> None:
    for seed in SEEDS:
        b = Build(3, 4, seed=seed)
        NEAR[kind](b)
        graph = b.graph()
        facts, operation = collect_facts(graph), graph.operations[-1]
        values = run_all(graph, normal(seed, 1, 3, 4))
        inputs = tuple(values[name] for name in operation.inputs)
        everywhere = combine_rules(facts)[operation.name]
        rule = rule_nearby(Nearby(facts, operation, inputs, (reach,) * len(inputs), everywhere))
        if isinstance(rule, Unbounded):
            assert kind == "div"
            continue
        rest = graph.operations[-1]
        for trial in range(20):
            first, second = ([_near(x, reach, 7 * trial + side) for x in inputs] for side in (0, 3))
            if trial % 2:  # close pairs feel the derivative
                second = [a + 1e-4 * (b - a) for a, b in zip(first, second, strict=True)]
            outputs = [_apply(graph, rest, pair) for pair in (first, second)]
            moved = [float((a - b).norm()) for a, b in zip(first, second, strict=True)]
            assert float((outputs[0] - outputs[1]).norm()) * (1 - 1e-9) <= rule(*moved)


def _near(x: Tensor, reach: float, seed: int) -> Tensor:
    step = normal(seed, *x.shape)
    return x + 0.999 * reach * step / step.norm()


def _apply(graph: Graph, operation: Operation, inputs: list[Tensor]) -> Tensor:
    return run_operation(graph, operation, inputs, 1)


def exact_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> list[list[mpmath.mpf]]:
    rows = []
    for query in q.tolist():
        scores = [scale * mpmath.fdot(query, key) for key in k.tolist()]
        weights = [mpmath.exp(score - max(scores)) for score in scores]
        total = mpmath.fsum(weights)
        rows.append([mpmath.fdot(weights, column) / total for column in v.T.tolist()])
    return rows


@pytest.mark.parametrize("size", [0.1, 1.0, 10.0, 100.0])
def test_the_float64_attention_stays_within_its_error(size: float) -> None:
    b = Build(5, 3)
    b.add("attention", "x", "x", "x", causal=False, scale=0.5)
    facts = collect_facts(b.graph())
    x = size * normal(1, 5, 3)
    here = Pass(facts, combine_rules(facts), run_all(facts.graph, x[None]))
    error = measured_errors(here, rounded_input=False)[facts.graph.output]
    assert not isinstance(error, Unbounded)
    with mpmath.workdps(40):
        exact = exact_attention(x, x, x, mpmath.mpf(0.5))
        total = mpmath.fsum(
            (mpmath.mpf(entry) - other) ** 2
            for row, others in zip(here.tensor(facts.graph.output)[0].tolist(), exact, strict=True)
            for entry, other in zip(row, others, strict=True)
        )
        assert mpmath.sqrt(total) <= error
    assert error < 1e-7 * max(1.0, size**3)


def forward(graph: Graph, x: Tensor) -> Pass:
    facts = collect_facts(graph)
    return Pass(facts, combine_rules(facts), run_all(facts.graph, x))


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_gains_on_a_ball_hold_on_it(seed: int, normed: bool) -> None:
    graph = transformer(seed, normed=normed)
    x = normal(seed, 1, 3, 4)
    here = forward(graph, x)
    everywhere = gain_uppers(here.facts, here.rules)
    for radius in (1e-3, 0.1, 0.5):
        gain = ball_gains(here, measured_errors(here, rounded_input=False), radius, everywhere)[graph.output]
        assert not isinstance(gain, Unbounded)
        for trial in range(10):
            there = _near(x, radius, trial)
            jacobian = torch.autograd.functional.jacobian(lambda z: run(graph, z)[0], there).reshape(3, -1)
            assert float(torch.linalg.matrix_norm(jacobian, ord=2)) <= gain


@pytest.mark.parametrize("arithmetic", ["exact", pytest.param("float64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("normed", [True, False])
def test_certificates_on_a_ball_survive_an_ascent(normed: bool, norm: str, arithmetic: str) -> None:
    settings = LipschitzSettings(norm=norm, arithmetic=arithmetic)
    for seed in SEEDS:
        graph = transformer(seed, normed=normed, scale=0.5)
        x = normal(seed, 3, 4)
        row = certify_example(analyse(graph, settings), Example(0, "0", 0, x.numpy()), settings)
        assert row.radius > 0.0
        assert row.radius <= row.ball
        assert "ball" in row.method
        assert _ascend(graph, x, row.clean_predicted, row.radius, norm) == row.clean_predicted


def _ascend(graph: Graph, x: Tensor, chosen: int, radius: float, norm: str) -> int:
    """Return the class at the end of a gradient ascent inside the ball."""
    step = torch.zeros_like(x)
    for _ in range(30):
        step.requires_grad_(True)
        logits = run(graph, (x + step)[None])[0]
        others = torch.cat([logits[:chosen], logits[chosen + 1 :]])
        (gradient,) = torch.autograd.grad(others.max() - logits[chosen], step)
        direction = gradient.sign() if norm == "linf" else gradient / gradient.norm()
        step = (step.detach() + 0.3 * radius * direction).detach()
        size = step.abs().max() if norm == "linf" else step.norm()
        step = step * min(1.0, 0.9999 * radius / float(size))
    return int(run(graph, (x + step)[None]).argmax())


def test_not_a_number_is_never_certified_by_a_ball() -> None:
    graph = transformer(0)
    analysis = analyse(graph, LipschitzSettings())
    x = np.full((3, 4), 1e200)
    row = certify_example(analysis, Example(0, "0", 0, x), LipschitzSettings())
    assert row.radius == 0.0
    assert row.predicted is None


def test_a_boolean_mask_keeps_its_meaning_near_an_input() -> None:
    """As numbers to add, True and False would be 1 and 0: the softmax at hand would be another one."""
    b = Build(4, 3)
    mask = b.constant(torch.tensor([[True, False, False, False]] * 4))
    b.add("attention", "x", "x", "x", mask, causal=False, scale=1.0)
    graph = b.graph()
    x = normal(0, 1, 4, 3)
    here = forward(graph, x)
    gains = ball_gains(here, measured_errors(here, rounded_input=False), 1e-3, gain_uppers(here.facts, here.rules))
    gain = gains[graph.output]
    jacobian = torch.autograd.functional.jacobian(lambda z: run(graph, z), x).reshape(12, 12)
    assert float(torch.linalg.matrix_norm(jacobian, ord=2)) == pytest.approx(2.0)  # four times the first value
    assert not isinstance(gain, Unbounded)
    assert gain >= 2.0
