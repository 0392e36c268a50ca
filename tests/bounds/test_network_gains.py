"""Gains of whole networks: never below a difference quotient or a Jacobian norm, in l2 and linf."""

import math

import pytest
import torch
from torch import Tensor

from certify.bounds import unbounded_near_examples, unbounded_operations
from certify.bounds.ball import ball_gains
from certify.bounds.errors import Pass, measured_errors
from certify.bounds.facts import collect_facts
from certify.bounds.floor import jacobian, jacobian_norm
from certify.bounds.gains import combine_rules, gain_uppers
from certify.bounds.roundings import ROUNDINGS
from certify.bounds.rules import RULES
from certify.bounds.walk import ask, walk
from certify.graph import KINDS, Graph, Operation, run, run_all
from certify.results import Norm, Unbounded
from tests.bounds.small_networks import BOUNDED, UNBOUNDED, Build, batch_norm_tokens, one

NORMS: tuple[Norm, ...] = ("l2", "linf")
SVD_ROUNDING = 1.0 - 1e-12  # float64 singular values and quotients may lie above the exact ones by this much


def gain(graph: Graph, norm: Norm) -> float | Unbounded:
    facts = collect_facts(graph).into(norm)
    return gain_uppers(facts, combine_rules(facts))[graph.output]


def bounded_gain(graph: Graph, norm: Norm) -> float:
    found = gain(graph, norm)
    assert not isinstance(found, Unbounded), found
    return found


def size(x: Tensor, norm: Norm) -> float:
    return float(torch.linalg.vector_norm(x, 2 if norm == "l2" else math.inf))


def slope_at(graph: Graph, x: Tensor, norm: Norm) -> float:
    return jacobian_norm(jacobian(graph, x), norm)


def steepest(graph: Graph, norm: Norm, random: torch.Generator) -> float:
    """Return the largest Jacobian norm found by sampling at several scales and climbing from the best point."""
    points = [
        scale * torch.randn(*graph.input_shape, generator=random, dtype=torch.float64)
        for scale in (1e-3, 0.3, 1.0, 8.0)
    ]
    slopes = [slope_at(graph, x, norm) for x in points]
    best, x = max(slopes), points[slopes.index(max(slopes))]
    for _ in range(12):
        there = x + 0.3 * torch.randn(x.shape, generator=random, dtype=torch.float64)
        slope = slope_at(graph, there, norm)
        if slope > best:
            best, x = slope, there
    return best


def largest_quotient(graph: Graph, norm: Norm, random: torch.Generator) -> float:
    x = torch.randn(40, *graph.input_shape, generator=random, dtype=torch.float64)
    step = torch.randn(x.shape, generator=random, dtype=torch.float64)
    if norm == "linf":
        step = step.sign()
    scales = torch.logspace(-4, 1, 40, dtype=torch.float64).reshape(-1, *[1] * (x.dim() - 1))
    far = x + scales * step
    outputs, others = run(graph, x), run(graph, far)
    return max(
        (size(a - b, norm) - 1e-14 * size(a, norm)) / size(p - q, norm)
        for a, b, p, q in zip(outputs, others, x, far, strict=True)
    )


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", BOUNDED)
def test_no_slope_and_no_quotient_exceeds_the_gain(name: str, norm: Norm, seed: int) -> None:
    random = torch.Generator().manual_seed(7)
    graph = BOUNDED[name](seed)
    upper = bounded_gain(graph, norm)
    assert steepest(graph, norm, random) * SVD_ROUNDING <= upper
    assert largest_quotient(graph, norm, random) * SVD_ROUNDING <= upper


MOVING = ("mean", "sum", "expand", "upsample_nearest", "pad reflect", "pad circular", "input")
CONVOLUTIONS = ("conv", "conv strided", "conv dilated", "conv uneven", "conv depthwise", "conv 1d", "conv 3d")
GROUPED = ("conv unequal groups", "conv_transpose")


@pytest.mark.parametrize("name", [*MOVING, *CONVOLUTIONS, *GROUPED])
@pytest.mark.parametrize("norm", NORMS)
def test_gain_of_one_linear_operation_is_attained(name: str, norm: Norm) -> None:
    graph = BOUNDED[name](0)
    truth = slope_at(graph, torch.randn(*graph.input_shape, dtype=torch.float64), norm)
    assert bounded_gain(graph, norm) <= truth * (1 + 1e-9)


@pytest.mark.parametrize("name", UNBOUNDED)
@pytest.mark.parametrize("norm", NORMS)
def test_without_a_bound_the_answer_is_typed_and_names_the_operation(name: str, norm: Norm) -> None:
    graph = UNBOUNDED[name](0)
    found = gain(graph, norm)
    assert isinstance(found, Unbounded)
    assert found.module in {operation.name for operation in graph}
    assert len(found.reason.split()) > 4


@pytest.mark.parametrize("norm", NORMS)
def test_the_quick_list_of_unbounded_operations_agrees_with_the_walk(norm: Norm) -> None:
    for case in (*BOUNDED.values(), *UNBOUNDED.values()):
        graph = case(0)
        found = gain(graph, norm)
        reasons = unbounded_operations(graph, norm)
        assert bool(reasons) == isinstance(found, Unbounded)
        if isinstance(found, Unbounded):
            assert reasons[0] == f"{found.reason} (at {found.module})"


@pytest.mark.parametrize("name", sorted(UNBOUNDED))
def test_the_quick_list_near_examples_agrees_with_the_walk_on_a_ball(name: str) -> None:
    graph = UNBOUNDED[name](0)
    facts = collect_facts(graph).into("l2")
    rules = combine_rules(facts)
    x = torch.rand(1, *graph.input_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    at = Pass(facts, rules, run_all(facts.graph, x))
    gains = ball_gains(at, measured_errors(at, rounded_input=False), 1e-6, gain_uppers(facts, rules))
    assert bool(unbounded_near_examples(graph)) == isinstance(gains[graph.output], Unbounded)


def test_every_kind_of_the_vocabulary_has_a_rule_and_a_case() -> None:
    assert set(RULES) == set(KINDS)
    tried = {op.kind for case in (*BOUNDED.values(), *UNBOUNDED.values()) for op in case(0)}
    assert tried == set(KINDS)


def test_every_kind_but_input_has_a_rounding_rule() -> None:
    assert set(KINDS) - set(ROUNDINGS) == {"input"}


def test_a_kind_without_a_rule_is_unbounded_and_stops_what_follows() -> None:
    graph = BOUNDED["residual"](0)
    table = {kind: rule for kind, rule in RULES.items() if kind != "relu"}
    answers = walk(graph, lambda op, known: ask(table, collect_facts(graph), op) if op.kind == "relu" else 1.0)
    assert answers[graph.output] == Unbounded("there is no rule for relu", "v2")


def test_the_first_reason_reaches_the_output_with_its_module() -> None:
    b = Build(2, 4)
    b.operations.append(
        Operation(
            name="a",
            kind="attention",
            inputs=("x", "x", "x"),
            attributes={"causal": False, "scale": None},
            module="blocks.0.attn",
        )
    )
    b.add("mul", "a", "a")
    found = gain(b.graph(), "l2")
    assert isinstance(found, Unbounded)
    assert found.module == "blocks.0.attn"
    assert "no global Lipschitz constant" in found.reason


def test_a_layer_used_twice_counts_twice() -> None:
    b = Build(1)
    b.add("linear", weight=torch.tensor([[3.0]], dtype=torch.float64))
    b.operations.append(Operation(name="y", kind="linear", inputs=("v1",), weights={"weight": "v1.weight"}))
    assert 9.0 <= bounded_gain(b.graph(), "l2") < 9.0 * (1 + 1e-9)


def test_an_unused_branch_without_a_bound_does_not_matter() -> None:
    b = Build(3)
    b.add("mul", "x", "x")
    b.linear(3, 2, "x")
    assert not isinstance(gain(b.graph(), "l2"), Unbounded)


def test_operations_on_constants_alone_need_no_rule() -> None:
    b = Build(3)
    computed = b.add("relu", b.constant(b.normal(3)))
    b.add("add", "x", b.add("mul", computed, computed))
    assert bounded_gain(b.graph(), "l2") == 1.0


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "kind, details, slope",
    [
        ("leaky_relu", {"negative_slope": -1.5}, 1.5),
        ("prelu", {"weight": torch.tensor([0.1, -3.0], dtype=torch.float64)}, 3.0),
        ("elu", {"alpha": 2.0}, 2.0),
        ("hardswish", {}, 1.5),
        ("abs", {}, 1.0),
        ("sigmoid", {}, 0.25),
    ],
)
def test_an_activation_alone_has_its_largest_slope(
    kind: str, details: dict[str, object], slope: float, norm: Norm
) -> None:
    assert bounded_gain(one((2,), kind, lead=False, **details)(0), norm) == slope


def test_a_fold_is_at_most_the_product_and_its_rows_are_listed() -> None:
    graph = BOUNDED["batch_norm"](3)
    facts = collect_facts(graph)
    rules = combine_rules(facts)
    assert [fold.names for fold in facts.folds] == [("v1", "v2", "v3"), ("v5", "v6"), ("v8", "v9")]
    assert [fold.source for fold in facts.folds] == ["x", "v4", "v7"]
    gains = gain_uppers(facts, rules)
    for fold in facts.folds:
        product = math.prod(rules[name](1.0) for name in fold.names)
        assert gains[fold.value] <= product * gains[fold.source] * (1 + 1e-12)
    first = facts.folds[0]
    assert gains["v3"] == first.upper("l2") < 0.9 * math.prod(rules[name](1.0) for name in first.names)


def test_a_batch_norm_over_other_channels_is_not_folded() -> None:
    assert collect_facts(batch_norm_tokens(0)).folds == ()


def test_a_normalisation_before_a_convolution_is_folded_per_channel() -> None:
    b = Build(2, 4, 4)
    b.add("normalize", mean=b.normal(2, 1, 1), std=torch.tensor([0.01, 1.0]).double().reshape(2, 1, 1))
    weight = b.normal(3, 2, 3, 3)
    weight[:, 0] *= 0.01
    b.conv(weight)
    (fold,) = collect_facts(b.graph()).folds
    assert (fold.source, fold.value) == ("x", "v2")
    truth = slope_at(b.graph(), b.normal(2, 4, 4), "l2")
    assert truth * SVD_ROUNDING <= bounded_gain(b.graph(), "l2") <= truth * (1 + 1e-9)


@pytest.mark.parametrize("std, weight", [(2.0**-210, 1.0), (2.0**210, 1.0), (1.0, 2.0**-500), (1.0, 2.0**450)])
def test_nothing_is_folded_where_a_product_could_underflow(std: float, weight: float) -> None:
    b = Build(2)
    b.add("normalize", mean=b.normal(2), std=torch.tensor([std, 0.5 * std], dtype=torch.float64))
    b.add("linear", weight=weight * torch.ones(2, 2).double())
    assert collect_facts(b.graph()).folds == ()


def test_a_dead_channel_of_a_batch_norm_is_folded_safely() -> None:
    b = Build(3)
    weight = b.normal(2, 3)
    b.add("linear", weight=weight)
    gamma = torch.tensor([0.0, 1.0], dtype=torch.float64)
    b.add("batch_norm", mean=b.normal(2), variance=torch.ones(2, dtype=torch.float64), weight=gamma, eps=1e-5)
    truth = float(weight[1].norm()) / math.sqrt(1 + 1e-5)
    assert truth <= bounded_gain(b.graph(), "l2") <= truth * (1 + 1e-9)


@pytest.mark.parametrize("exponent", [-900, -300, 300])
def test_scaling_by_a_power_of_two_scales_the_bound(exponent: int) -> None:
    b = Build(5)
    weight = b.normal(4, 5)
    b.add("linear", weight=weight * 2.0**exponent)
    truth = float(torch.linalg.svdvals(weight)[0])
    found = bounded_gain(b.graph(), "l2") * 2.0**-exponent
    assert truth * SVD_ROUNDING <= found <= truth * (1 + 1e-9)


def test_overflowing_products_are_unbounded() -> None:
    b = Build(2)
    for _ in range(3):
        b.add("linear", weight=torch.eye(2, dtype=torch.float64) * 1e200)
    found = gain(b.graph(), "l2")
    assert isinstance(found, Unbounded)
    assert "overflow" in found.reason


def test_zero_weights_have_gain_zero() -> None:
    b = Build(3)
    b.add("linear", weight=torch.zeros(2, 3, dtype=torch.float64))
    assert bounded_gain(b.graph(), "l2") == 0.0


@pytest.mark.parametrize("name", ["log_softmax", "softmax"])
def test_softmax_bounds_are_approached(name: str) -> None:
    graph = one((1, 4), name, lead=False, dim=2)(0)
    point = torch.tensor([[60.0, 0.0, 0.0, 0.0]]) if name == "log_softmax" else torch.tensor([[60.0, 60.0, 0.0, 0.0]])
    for norm in NORMS:
        truth = slope_at(graph, point, norm)
        assert truth * SVD_ROUNDING <= bounded_gain(graph, norm) <= truth * (1 + 1e-9)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("constant_first", [False, True])
def test_a_product_with_a_constant_matrix_has_its_norm(norm: Norm, constant_first: bool) -> None:
    b = Build(2, 2)
    matrix = torch.tensor([[1.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    constant = b.constant(matrix)
    b.add("matmul", *((constant, "x") if constant_first else ("x", constant)))
    truth = slope_at(b.graph(), b.normal(2, 2), norm)
    assert truth * SVD_ROUNDING <= bounded_gain(b.graph(), norm) <= truth * (1 + 1e-9)
