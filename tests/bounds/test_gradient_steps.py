"""Residual blocks x - V^T act(W x + b): bounded as one, against the Jacobians of all slopes that were tried."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from certify.bounds.analysis import analyse
from certify.bounds.facts import collect_facts
from certify.bounds.gradient_steps import GradientStep, best_scales, rest_upper
from certify.bounds.linear_part import linear_part
from certify.graph import Graph, Operation
from certify.results import LipschitzSettings, Unbounded
from tests.bounds.small_networks import Build

SVD_ROUNDING = 1.0 - 1e-13  # a computed singular value may lie this much above the exact one
ONES = {"dilation": [1, 1], "groups": 1}
STEP_SIZES = (0.3, 1.0, 2.5)  # of the largest for which the block is 1-Lipschitz


def dense_block(seed: int, size: float = 1.0, kind: str = "relu", sign: str = "sub", **details: object) -> Graph:
    b = Build(4, seed=seed)
    W = b.normal(3, 4)
    branch = _branch(b, W, size / float(torch.linalg.matrix_norm(W, ord=2)) ** 2, kind, details)
    flipped = b.tensors[f"{branch}.weight"]
    b.tensors[f"{branch}.weight"] = flipped if sign == "sub" else -flipped
    b.add(sign, *(("x", branch) if seed % 2 else (branch, "x")))
    return b.graph()


def _branch(b: Build, W: Tensor, size: float, kind: str, details: dict[str, object]) -> str:
    b.add("linear", "x", weight=W, bias=b.normal(3))
    b.add(kind, **details)
    return b.add("linear", weight=(2.0 * size * W.mT).float().double(), bias=b.normal(W.shape[1]))


def transposed_block(weight: tuple[int, ...], size: tuple[int, ...], **geometry: object) -> Callable[..., Graph]:
    """Return blocks of a convolution and the transposed one: ``padding`` and ``output_padding`` are per dimension."""

    def build(seed: int, step: float = 1.0) -> Graph:
        groups = int(geometry.get("groups", 1))
        b = Build(weight[1] * groups, *size, seed=seed)
        W = b.normal(*weight)
        details = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1, **geometry}
        out = details.pop("output_padding", [0, 0])
        pairs = [[amount, amount] for amount in details["padding"]]
        b.conv(W, **{**details, "padding": pairs})
        b.add("relu")
        scales = 2.0 * step / _row_sums(W)
        back = b.add("conv_transpose", weight=scales * W, output_padding=out, **details)
        b.add("sub", "x", back)
        return b.graph()

    return build


def flipped_block(mode: str, first: list[list[int]], second: list[list[int]], kernel: int = 3) -> Callable[..., Graph]:
    """Return blocks of a convolution and the one by the flipped kernel with its channels swapped."""

    def build(seed: int, step: float = 1.0) -> Graph:
        b = Build(2, 5, 4, seed=seed)
        W = b.normal(3, 2, kernel, kernel)
        b.conv(W, padding=first, padding_mode=mode)
        b.add("relu")
        V = (2.0 * step / _row_sums(W)) * W
        back = b.conv(V.transpose(0, 1).flip(2, 3), padding=second, padding_mode=mode)
        b.add("sub", "x", back)
        return b.graph()

    return build


def _row_sums(W: Tensor) -> Tensor:
    """Return T per channel with W W^T <= T: sums of |W| over rows times the largest over columns."""
    return (W.abs().sum((1, 2, 3)) * W.abs().sum((0, 2, 3)).max()).reshape(-1, 1, 1, 1)


CONVOLUTIONS: dict[str, Callable[..., Graph]] = {
    "zeros": transposed_block((3, 2, 3, 3), (5, 4)),
    "no padding": transposed_block((3, 2, 3, 2), (5, 4), padding=[0, 0]),
    "stride": transposed_block((3, 2, 3, 3), (6, 5), stride=[2, 2], output_padding=[1, 0]),
    "groups": transposed_block((4, 1, 3, 3), (4, 4), groups=2),
    "dilation": transposed_block((3, 2, 2, 2), (5, 5), dilation=[2, 2]),
    "kernel larger than the image": transposed_block((2, 2, 5, 5), (2, 3), padding=[2, 2]),
    "flipped, zeros": flipped_block("zeros", [[1, 1], [1, 1]], [[1, 1], [1, 1]]),
    "flipped, zeros, shifted": flipped_block("zeros", [[2, 0], [0, 2]], [[0, 2], [2, 0]]),
    "flipped, zeros, another size between": flipped_block("zeros", [[2, 2], [1, 2]], [[0, 0], [1, 0]]),
    "flipped, circular": flipped_block("circular", [[1, 1], [1, 1]], [[1, 1], [1, 1]]),
    "flipped, circular, even": flipped_block("circular", [[1, 0], [0, 1]], [[0, 1], [1, 0]], kernel=2),
}
NO_ADJOINTS: dict[str, Callable[..., Graph]] = {
    "wrong way round": flipped_block("zeros", [[2, 0], [1, 1]], [[2, 0], [1, 1]]),
    "circular, another size between": flipped_block("circular", [[2, 2], [1, 1]], [[0, 0], [1, 1]]),
    "other padding": transposed_block((3, 2, 3, 3), (5, 5), stride=[2, 2], dilation=[1, 1], groups=1),
}


def the_step(graph: Graph) -> GradientStep:
    (step,) = collect_facts(graph).steps
    return step


def jacobians(graph: Graph, trials: int, seed: int = 0) -> Iterator[Tensor]:
    """Yield J(T) of a network for the two ends of every slope, for all-equal ones, and for random ones."""
    part = linear_part(graph)
    basis = torch.eye(int(torch.tensor(graph.input_shape).prod()), dtype=torch.float64)
    random = torch.Generator().manual_seed(seed)
    for trial in range(trials):
        choices = {}
        for name, (low, high) in part.ends.items():
            share = torch.rand(low.shape, generator=random, dtype=torch.float64).round(decimals=trial % 3)
            share = {0: torch.zeros_like(share), 1: torch.ones_like(share)}.get(trial, share)
            choices[name] = (low + share * (high - low)).expand(len(basis), *low.shape)
        rows = part.values(basis.reshape(-1, *graph.input_shape), choices)[graph.output]
        yield rows.reshape(len(basis), -1)


def largest_norm(graph: Graph, trials: int = 40) -> float:
    return max(float(torch.linalg.matrix_norm(J, ord=2)) for J in jacobians(graph, trials))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("size", STEP_SIZES)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_no_choice_of_slopes_is_steeper_than_a_convolutional_step(case: str, size: float, seed: int) -> None:
    graph = CONVOLUTIONS[case](seed, size)
    assert largest_norm(graph) * SVD_ROUNDING <= the_step(graph).upper("l2")


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_step_within_the_row_sums_is_1_lipschitz(case: str) -> None:
    facts = collect_facts(CONVOLUTIONS[case](0))
    assert 1.0 <= facts.steps[0].upper("l2") <= 1.0 + 1e-12


@pytest.mark.parametrize("case", NO_ADJOINTS)
def test_what_is_no_adjoint_gets_no_bound_that_its_slopes_break(case: str) -> None:
    for size in STEP_SIZES:
        graph = NO_ADJOINTS[case](1, size) if case != "other padding" else _with_other_padding(size)
        for step in collect_facts(graph).steps:
            assert largest_norm(graph) * SVD_ROUNDING <= step.upper("l2")
        assert all(step.upper("l2") > 1.5 for step in collect_facts(graph).steps)


def _with_other_padding(size: float) -> Graph:
    """Return a block whose transposed convolution leads back to the size of x one pixel off."""
    b = Build(2, 5, 5)
    W = b.normal(3, 2, 3, 3)
    b.conv(W, padding=[[2, 0], [2, 0]])
    b.add("relu")
    V = (2.0 * size / _row_sums(W)) * W
    back = b.add("conv_transpose", weight=V, stride=[1, 1], padding=[1, 1], output_padding=[0, 0], **ONES)
    b.add("sub", "x", back)
    return b.graph()


SLOPES: dict[str, dict[str, object]] = {
    **{kind: {} for kind in ("relu", "tanh", "sigmoid", "abs", "hardswish", "silu")},
    "leaky_relu": {"negative_slope": -0.5},
    "prelu": {"weight": torch.tensor([-0.4, 0.2, 1.7], dtype=torch.float64)},
}


@pytest.mark.parametrize("size", STEP_SIZES)
@pytest.mark.parametrize("kind", SLOPES)
def test_every_activation_counts_with_its_slopes(kind: str, size: float) -> None:
    for seed in range(3):
        graph = dense_block(seed, size, kind, **SLOPES[kind])
        assert largest_norm(graph) * SVD_ROUNDING <= the_step(graph).upper("l2")


@pytest.mark.parametrize("sign", ["add", "sub"])
def test_all_corners_of_a_dense_block(sign: str) -> None:
    for seed in range(5):
        graph = dense_block(seed, 1.3, sign=sign)
        part, eye = linear_part(graph), torch.eye(4, dtype=torch.float64)
        corners = itertools.product((0.0, 1.0), repeat=3)
        found = [
            part.values(eye, {"v2": torch.tensor(corner).double().expand(4, 3)})[graph.output] for corner in corners
        ]
        steepest = max(float(torch.linalg.matrix_norm(J, ord=2)) for J in found)
        upper = the_step(graph).upper("l2")
        assert steepest * SVD_ROUNDING <= upper <= 1.6 * (1 + 1e-6)
        assert upper <= steepest * (1 + 1e-6)  # attained with all units active


@pytest.mark.parametrize("share, constant", [(0.9, 1.4691358), (0.99, 1.0406081), (1.0, 1.0)])
def test_a_norm_that_was_estimated_too_small_shows(share: float, constant: float) -> None:
    upper = the_step(dense_block(0, 1.0 / share**2)).upper("l2")
    assert constant * (1 - 1e-7) <= upper <= constant * (1 + 1e-6)


def test_each_part_of_the_bound_counts_with_the_slopes_it_has() -> None:
    step = GradientStep("y", "x", (), (), (-2.0, 0.5), square=3.0, rest=0.25)
    assert 7.5 <= step.upper("l2") <= 7.5 * (1 + 1e-15)  # 1 + 2 * 3, and 2 / 4
    back = GradientStep("y", "x", (), (), (0.0, 2.0), square=3.0, rest=0.25)
    assert 5.5 <= back.upper("l2") <= 5.5 * (1 + 1e-15)  # 2 * 3 - 1, and 2 / 4
    assert step.upper("linf") == math.inf


def test_an_ascent_is_no_descent() -> None:
    b = Build(4)
    W = b.normal(3, 4)
    branch = _branch(b, W, 0.1, "relu", {})
    b.add("add", "x", branch)
    assert collect_facts(b.graph()).steps == ()


@pytest.mark.parametrize("broken", ["another source", "two activations"])
def test_other_residuals_are_left_alone(broken: str) -> None:
    b = Build(4)
    W = b.normal(3, 4)
    start = b.add("abs", "x") if broken == "another source" else "x"
    b.add("linear", start, weight=W)
    b.add("relu")
    if broken == "two activations":
        b.add("tanh")
    branch = b.add("linear", weight=0.1 * W.mT)
    b.add("sub", "x", branch)
    assert collect_facts(b.graph()).steps == ()


@pytest.mark.parametrize("weight", [2.0**-210, 2.0**210, 0.0])
def test_extreme_weights_are_safe(weight: float) -> None:
    b = Build(2)
    W = torch.tensor([[weight, 0.0], [0.0, 1.0]], dtype=torch.float64)
    b.add("linear", "x", weight=W)
    b.add("relu")
    branch = b.add("linear", weight=W.mT.clone())
    b.add("sub", "x", branch)
    for step in collect_facts(b.graph()).steps:
        assert largest_norm(b.graph()) * SVD_ROUNDING <= step.upper("l2")
    assert len(collect_facts(b.graph()).steps) == (weight == 0.0)


def test_a_row_that_does_nothing_has_scale_0_and_its_rest_counts() -> None:
    W = torch.tensor([[0.0, 0.0], [1.0, 2.0]], dtype=torch.float64)
    V = torch.tensor([[3.0, 0.0], [0.5, 1.0]], dtype=torch.float64)
    scales = best_scales(V, W)
    assert scales.tolist() == [0.0, 0.5]
    rest = rest_upper(V, scales.reshape(-1, 1), W)
    assert bool((rest >= (V - scales.reshape(-1, 1) * W).abs()).all())
    assert float(rest[0, 0]) >= 3.0


def test_the_rest_covers_the_rounding_of_its_own_computation() -> None:
    random = torch.Generator().manual_seed(0)
    W = torch.randn(60, 5, generator=random, dtype=torch.float64)
    s = torch.rand(60, 1, generator=random, dtype=torch.float64)
    V = (s * W).float().double() if bool(s.sum() > 0) else W
    for V_stored in (V, s * W):
        rest = rest_upper(V_stored, s, W)
        for i, j in itertools.product(range(60), range(5)):
            exact = abs(Fraction(float(V_stored[i, j])) - Fraction(float(s[i])) * Fraction(float(W[i, j])))
            assert exact <= Fraction(float(rest[i, j]))


def test_the_row_of_the_report_and_the_gain_of_the_network() -> None:
    found = analyse(dense_block(0), LipschitzSettings(method="product"))
    assert 1.0 <= found.network.upper <= 1.0 + 1e-6
    assert [row.upper for row in found.layers if row.kind == "gradient_step"] == [found.network.upper]
    linf = analyse(dense_block(0), LipschitzSettings(method="product", norm="linf"))
    assert not any(row.kind == "gradient_step" for row in linf.layers)


def test_a_search_is_left_out_in_l2_alone_where_the_blocks_have_a_constant() -> None:
    """In linf the product knows the blocks by their l2 constant only; the recursion proves a bound well below it."""
    b = Build(16)
    W = b.normal(3, 16)
    branch = _branch(b, W, 1.0 / float(torch.linalg.matrix_norm(W, ord=2)) ** 2, "relu", {})
    b.linear(16, 3, b.add("sub", "x", branch))
    graph = b.graph()
    assert isinstance(analyse(graph, LipschitzSettings()).covariance, Unbounded)
    product, found = (analyse(graph, LipschitzSettings(method=m, norm="linf")).network for m in ("product", "auto"))
    assert found.method == "covariance"
    assert found.upper <= 0.9 * product.upper


@pytest.mark.parametrize("seed", range(3))
def test_what_is_searched_never_takes_the_place_of_a_better_product(seed: int) -> None:
    graph = dense_block(seed)  # where four inputs make the product the better one in linf
    product, found = (analyse(graph, LipschitzSettings(method=m, norm="linf")).network for m in ("product", "auto"))
    assert found.upper <= product.upper


def test_a_difference_of_a_value_and_itself_is_no_block() -> None:
    ops = (Operation(name="x", kind="input"), Operation(name="y", kind="sub", inputs=("x", "x")))
    assert collect_facts(Graph(ops, "y", (3,), {})).steps == ()


def test_an_explicit_circular_pad_is_part_of_the_convolution() -> None:
    b = Build(2, 4, 4)
    W = b.normal(3, 2, 3, 3)
    pad = {"padding": [[1, 1], [1, 1]], "mode": "circular", "value": 0.0}
    none = {"padding": [[0, 0], [0, 0]]}
    b.add("pad", "x", **pad)
    b.conv(W, **none)
    b.add("relu")
    b.add("pad", **pad)
    back = b.conv(((2.0 / _row_sums(W)) * W).transpose(0, 1).flip(2, 3), **none)
    b.add("sub", "x", back)
    assert 1.0 <= the_step(b.graph()).upper("l2") <= 1.0 + 1e-12
