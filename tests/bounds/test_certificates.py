"""Certificates: known radii from below, ties, absorbed constants, poisoned numbers, and searches for a flip."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from certify.bounds import analyse, certify_example, certify_examples
from certify.bounds.certificates import Pair, _movement_upper
from certify.errors import InputError
from certify.examples import Example
from certify.graph import Graph, Operation, run
from certify.results import LipschitzExample, LipschitzSettings, Norm, dump_json
from certify.rounding import div_down, sub_down
from tests.bounds.small_networks import Build

EXACT = LipschitzSettings()
ARITHMETICS = ("exact", "float64", "float32")


def settings(norm: Norm = "l2", arithmetic: str = "exact") -> LipschitzSettings:
    return LipschitzSettings(norm=norm, arithmetic=arithmetic)


def example(*values: float, label: int = 0) -> Example:
    return Example(0, "first", label, np.array(values, dtype=np.float64))


def certify(graph: Graph, point: Example, options: LipschitzSettings = EXACT) -> LipschitzExample:
    return certify_example(analyse(graph, options), point, options)


def affine(weight: Tensor, bias: Tensor | None = None) -> Graph:
    b = Build(weight.shape[1])
    b.add("linear", weight=weight, **({} if bias is None else {"bias": bias}))
    return b.graph()


def double(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_radius_of_two_affine_classes_is_the_distance_to_the_boundary_from_below() -> None:
    row = certify(affine(double([3.0, 1.0], [0.0, -3.0]), torch.tensor([1.0, 0.0]).double()), example(2.0, 1.0))
    exact = 11.0 / 5.0  # margin 8 - (-3), distance of the rows 5
    assert exact * (1 - 1e-12) <= row.radius < exact
    assert (row.predicted, row.correct, row.clean_predicted) == (0, True, 0)
    assert row.gain_upper is not None
    assert 5.0 <= row.gain_upper <= 5.0 * (1 + 1e-12)


def test_radius_in_linf_divides_by_the_l1_distance_of_the_rows() -> None:
    row = certify(affine(double([3.0, 1.0], [0.0, -3.0])), example(2.0, 1.0), settings("linf"))
    exact = 10.0 / 7.0
    assert exact * (1 - 1e-12) <= row.radius < exact


def test_the_linf_bound_of_a_sum_is_the_number_of_terms() -> None:
    upper = analyse(affine(torch.stack([torch.ones(9), torch.zeros(9)]).double()), settings("linf")).network.upper
    assert 9.0 <= upper < 9.0 * (1 + 1e-9)


def test_the_linf_bound_is_also_one_through_l2() -> None:
    b, width = Build(16), 16
    for _ in range(4):
        b.add("linear", weight=torch.linalg.qr(b.normal(width, width)).Q)
        b.add("relu")
    b.linear(width, 2)
    analysis = analyse(b.graph(), settings("linf"))
    assert analysis.network.upper <= math.sqrt(width) * analysis.gains_l2[analysis.facts.graph.output] * (1 + 1e-12)
    steps = torch.sign(b.normal(500, width))
    x = b.normal(500, width)
    moved = (run(b.graph(), x + 0.1 * steps) - run(b.graph(), x)).abs().max() / 0.1
    assert float(moved) <= analysis.network.upper


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_movement_inside_a_ball_covers_its_corners(norm: Norm) -> None:
    weight = double([3.0, 1.0], [0.0, -3.0])
    analysis = analyse(affine(weight), settings(norm))
    corners = double([1.0, 1.0], [1.0, -1.0], [1.0, 0.0], [0.0, 1.0])
    ball = corners if norm == "linf" else corners / corners.norm(dim=1, keepdim=True)
    for name, matrix in (("x", torch.eye(2).double()), ("v1", weight)):
        farthest = float((0.7 * ball @ matrix.T).norm(dim=1).max())
        assert farthest <= _movement_upper(analysis, name, 0.7) * (1 + 1e-15)


def ridge(width: float, distance: float) -> Graph:
    """Logit 0 is a constant 0 outside a ridge; logit 1 is -1 there and rises to 1 on top of it."""
    b = Build(2)
    unit = double([0.6, 0.8])
    b.add(
        "linear",
        weight=unit.expand(3, 2).contiguous(),
        bias=torch.tensor([width - distance, -distance, -width - distance], dtype=torch.float64),
    )
    b.add("relu")
    top = 2.0 / width
    b.add("linear", weight=double([0.0] * 3, [top, -2 * top, top]), bias=torch.tensor([0.0, -1.0]).double())
    return b.graph()


def test_a_hidden_ridge_never_gets_more_than_its_distance() -> None:
    row = certify(ridge(0.001, 0.5), example(0.0, 0.0))
    assert 0.0 < row.radius <= 0.5 - 0.0005


@pytest.mark.parametrize("count", [2, 10])
def test_equal_logits_get_radius_zero(count: int) -> None:
    row = certify(affine(torch.zeros(count, 3).double(), torch.full((count,), 2.0).double()), example(1.0, 2.0, 3.0))
    assert (row.radius, row.predicted, row.correct) == (0.0, None, False)
    assert "margin" in str(row.reason)


def test_a_tie_at_the_top_gets_radius_zero() -> None:
    row = certify(affine(double([1.0], [1.0], [0.0])), example(5.0))
    assert row.radius == 0.0


def test_a_small_weight_is_not_mistaken_for_smaller() -> None:
    row = certify(affine(double([1e-5], [0.0])), example(1.0))
    assert 1 - 1e-9 <= row.radius < 1.0


def test_a_constant_network_gets_the_largest_float_and_strict_json() -> None:
    row = certify(affine(torch.zeros(2, 3).double(), torch.tensor([1.0, 0.0]).double()), example(1.0, 2.0, 3.0))
    assert row.radius == np.finfo(np.float64).max
    assert json.loads(dump_json(row))["gain_upper"] == 0.0


def absorbing(size: float) -> Graph:
    b = Build(1)
    b.add("linear", weight=double([1.0]), bias=torch.tensor([size]).double())
    b.add("linear", weight=double([1.0], [0.0]), bias=torch.tensor([-size, 0.0]).double())
    return b.graph()


def test_a_constant_absorbed_in_float32_is_refused_there_only() -> None:
    graph, point = absorbing(2.0**26), Example(0, "a", 0, np.array([0.6], dtype=np.float32))
    truth = float(np.float32(0.6))
    assert float(run(graph.to(torch.float32), torch.tensor([[0.6]]))[0, 0]) == 0.0
    for arithmetic, lower in (("exact", 0.999), ("float64", 0.999), ("float32", 0.0)):
        row = certify(graph, point, settings(arithmetic=arithmetic))
        assert truth * lower <= row.radius <= truth
    assert row.radius == 0.0


def test_the_radius_is_derived_from_the_recorded_numbers() -> None:
    random = np.random.default_rng(0)
    b = Build(6, seed=2)
    b.linear(6, 9)
    b.add("relu")
    b.linear(9, 4)
    for norm in ("l2", "linf"):
        for arithmetic in ARITHMETICS:
            options = settings(norm, arithmetic)
            analysis = analyse(b.graph(), options)
            points = [Example(k, str(k), 0, random.standard_normal(6).astype(np.float32)) for k in range(5)]
            for row in certify_examples(analysis, points, options):
                rest = sub_down(row.margin_lower, row.error_upper)
                assert row.radius == max(0.0, div_down(rest, row.gain_upper))
                assert row.norm == norm
                assert row.correct == (row.predicted == 0)


@pytest.mark.parametrize("ending", ["softmax", "log_softmax"])
def test_a_final_softmax_changes_nothing_in_exact_arithmetic(ending: str) -> None:
    b = Build(6, seed=2)
    b.linear(6, 4)
    plain = b.graph()
    b.add(ending, dim=1)
    point = example(*[0.3, -1.0, 2.0, 0.1, 0.0, 0.7])
    assert certify(b.graph(), point).radius == certify(plain, point).radius > 0.0
    deployed = certify(b.graph(), point, settings(arithmetic="float64"))  # decided by the probabilities, as it runs
    assert 0.0 < deployed.radius < certify(plain, point).radius
    assert deployed.gain_upper != certify(plain, point).gain_upper


def test_class_pairs_beat_the_factor_root_two() -> None:
    b = Build(6, seed=2)
    b.linear(6, 9)
    b.add("tanh")
    b.linear(9, 5)
    analysis = analyse(b.graph(), EXACT)
    row = certify_example(analysis, example(*[1.0] * 6), EXACT)
    assert row.gain_upper < math.sqrt(2.0) * analysis.network.upper


def test_a_network_without_a_bound_gives_a_reason_and_no_numbers() -> None:
    b = Build(4)
    b.add("mul", "x", "x")
    b.linear(4, 3)
    row = certify(b.graph(), example(1.0, 2.0, 3.0, 4.0), LipschitzSettings(method="product"))
    assert (row.radius, row.predicted, row.margin_lower, row.gain_upper, row.error_upper) == (0.0, None) + (None,) * 3
    assert "v1" in str(row.reason)
    network = analyse(b.graph(), EXACT).network
    assert network.upper is None
    assert "product of two activations" in str(network.reason)


def test_a_single_output_is_no_classification() -> None:
    row = certify(affine(double([1.0, 2.0])), example(1.0, 2.0))
    assert row.radius == 0.0
    assert "single output" in str(row.reason)


def test_a_layer_norm_is_bounded_and_called_vacuous() -> None:
    b = Build(4)
    for _ in range(3):
        b.add("layer_norm", shape=[4], eps=1e-5)
    network = analyse(b.graph(), EXACT).network
    assert network.upper is not None
    squared = Fraction(network.upper) ** 2 * Fraction(1e-5) ** 3  # over the square of the exact bound, eps^(-3/2)
    assert 1 <= squared <= 1 + Fraction(1, 10**9)
    assert "vacuous" in str(network.reason)


POISON = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("place", ["v1.weight", "v1.bias", "v2.mean", "v2.variance", "v2.weight", "v2.bias"])
def test_a_poisoned_tensor_is_refused_by_name(poison: float, place: str) -> None:
    b = Build(3)
    b.linear(3, 2)
    b.add("batch_norm", mean=b.normal(2), variance=b.positive(2), weight=b.normal(2), bias=b.normal(2), eps=1e-5)
    b.tensors[place] = b.tensors[place].clone()
    b.tensors[place].view(-1)[0] = poison
    with pytest.raises(InputError, match=place):
        analyse(b.graph(), EXACT)


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_poisoned_input_is_refused_by_name(poison: float, dtype: type) -> None:
    point = Example(3, "picture-3", 0, np.array([0.1, poison], dtype=dtype))
    with pytest.raises(InputError, match="picture-3"):
        certify(affine(double([1.0, 0.0], [0.0, 1.0])), point)


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("field", ["margin_lower", "gain_upper", "error_upper"])
def test_a_poisoned_number_certifies_nothing(poison: float, field: str) -> None:
    numbers = {"margin_lower": 1.0, "gain_upper": 2.0, "error_upper": 0.1}
    assert Pair(**numbers).radius > 0.4
    assert Pair(**{**numbers, field: poison}).radius == 0.0


@pytest.mark.parametrize("scale", [1e200, 1e308])
def test_overflowing_logits_certify_nothing(scale: float) -> None:
    b = Build(1)
    b.add("linear", weight=double([scale]))
    b.add("linear", weight=double([scale], [0.0]))
    row = certify(b.graph(), example(3.0))
    assert (row.radius, row.predicted) == (0.0, None)
    dump_json(row)


@pytest.mark.parametrize("values", [(-0.0, 0.0), (5e-324, -5e-324), (0.0, 1e-310)])
def test_subnormals_and_negative_zeros_stay_correct(values: tuple[float, float]) -> None:
    graph = affine(double([1.0, 0.0], [0.0, 1.0]))
    row = certify(graph, example(*values))
    exact = abs(values[0] - values[1]) / math.sqrt(2.0)
    assert row.radius <= exact


def test_the_shape_of_an_example_is_checked() -> None:
    with pytest.raises(InputError, match="shape"):
        certify(affine(double([1.0, 0.0], [0.0, 1.0])), example(1.0, 2.0, 3.0))


def test_an_analysis_in_another_norm_is_refused() -> None:
    analysis = analyse(affine(double([1.0, 0.0], [0.0, 1.0])), EXACT)
    with pytest.raises(ValueError, match="linf"):
        certify_example(analysis, example(1.0, 2.0), settings("linf"))


def test_an_output_without_classes_is_refused() -> None:
    b = Build(2, 3)
    b.add("relu")
    with pytest.raises(InputError, match="classes"):
        analyse(b.graph(), EXACT)


def nearest_boundary(weight: Tensor, bias: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor, Fraction | float]:
    """Return the direction, of norm 1, to the nearest class boundary of a linear classifier."""
    logits = weight @ x + bias
    chosen = int(logits.argmax())
    best: tuple[float, Tensor] = (math.inf, x)
    for other in range(len(bias)):
        gap = weight[other] - weight[chosen]
        direction = gap / gap.norm() if norm == "l2" else gap.sign()
        steepness = float(gap @ direction)
        if other != chosen and steepness > 0:
            best = min(best, (float(logits[chosen] - logits[other]) / steepness, direction), key=lambda pair: pair[0])
    return best[1], best[0]


def predicts(weight: Tensor, bias: Tensor, x: list[Fraction]) -> set[int]:
    """Return the classes with the largest logit, in rational arithmetic."""
    rows = zip(weight.tolist(), bias.tolist(), strict=True)
    logits = [sum((Fraction(w) * v for w, v in zip(row, x, strict=True)), Fraction(b)) for row, b in rows]
    return {k for k, logit in enumerate(logits) if logit == max(logits)}


@pytest.mark.parametrize("trials", [40, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_no_rounded_point_inside_the_radius_of_a_linear_classifier_flips(norm: Norm, trials: int) -> None:
    random = torch.Generator().manual_seed(0)
    tightest = 0.0
    for trial in range(trials):
        weight = torch.randn(3, 8, generator=random).double() * 10.0 ** (trial % 5 - 2)
        bias, x = torch.randn(3, generator=random).double(), torch.randn(8, generator=random).double()
        row = certify(affine(weight, bias), Example(0, "x", 0, x.numpy()), settings(norm))
        direction, distance = nearest_boundary(weight, bias, x, norm)
        assert row.radius <= distance * (1 + 1e-12)
        tightest = max(tightest, row.radius / distance)
        for _ in range(10):
            step = row.radius * (1 - 1e-6) * direction
            noise = 1e-12 * torch.randn(8, generator=random, dtype=torch.float64) * row.radius
            moved = [Fraction(v) for v in (x + step + noise).tolist()]
            assert predicts(weight, bias, moved) == {row.predicted}
    assert tightest > 1 - 1e-9


@pytest.mark.parametrize("arithmetic", ["float64", "float32"])
def test_no_rounded_point_inside_the_radius_flips_the_deployed_program(arithmetic: str) -> None:
    random = torch.Generator().manual_seed(1)
    dtype = torch.float64 if arithmetic == "float64" else torch.float32
    for seed in range(10):
        b = Build(8, seed=seed)
        weight, bias = b.normal(3, 8).float().double(), (1000.0 * b.normal(3)).float().double()
        x = b.normal(8).float().double()
        graph = affine(weight, bias)
        row = certify(graph, Example(0, "x", 0, x.float().numpy()), settings(arithmetic=arithmetic))
        direction, _ = nearest_boundary(weight, bias, x, "l2")
        points = x + row.radius * (1 - 1e-6) * direction + 1e-6 * torch.randn(200, 8, generator=random).double()
        inside = points[(points.to(dtype).double() - x).norm(dim=1) < row.radius]
        outputs = run(graph.to(dtype), inside.to(dtype))
        assert row.radius == 0.0 or len(inside) > 0
        assert set(outputs.argmax(1).tolist()) <= {row.clean_predicted}


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_gradient_steps_never_flip_a_certified_prediction(norm: Norm) -> None:
    for seed in range(6):
        b = Build(6, seed=seed)
        b.linear(6, 10)
        b.add("relu")
        b.add("add", "v2", b.linear(10, 10, "v2"))
        b.linear(10, 4)
        graph, x = b.graph(), b.normal(6)
        row = certify(graph, Example(0, "x", 0, x.numpy()), settings(norm))
        if row.predicted is None:
            continue
        for other in set(range(4)) - {row.predicted}:
            step = torch.zeros_like(x)
            for _ in range(20):
                point = (x + step).requires_grad_()
                logits = run(graph, point.unsqueeze(0))[0]
                (gradient,) = torch.autograd.grad(logits[other] - logits[row.predicted], point)
                step = step + 0.3 * row.radius * gradient / gradient.norm()
                size = step.norm() if norm == "l2" else step.abs().max()
                step = step * min(1.0, 0.999999 * row.radius / float(size))
            assert int(run(graph, (x + step).unsqueeze(0)).argmax()) == row.predicted


def test_eight_bit_inputs_charge_their_own_rounding() -> None:
    graph = Graph((Operation(name="x", kind="input"), Operation(name="y", kind="relu", inputs=("x",))), "y", (2,), {})
    stored = Example(0, "pixels", 0, np.array([200, 50], dtype=np.uint8))
    exact = Example(0, "floats", 0, stored.values())
    assert certify(graph, exact).error_upper == 0.0
    assert certify(graph, stored).error_upper > 0.0
    assert certify(graph, stored).radius < certify(graph, exact).radius < 150 / 255 / math.sqrt(2)
