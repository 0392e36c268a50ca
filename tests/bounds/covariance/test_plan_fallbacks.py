"""Operations and situations without an exact step: each has a fallback that is said in words and stays above Jacobians.

Every kind of the vocabulary is compiled, in l2 and linf, evaluated at random multipliers, proved, and compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from certify.bounds.covariance import limits
from certify.bounds.covariance.memory import register_bytes, register_rows
from certify.bounds.covariance.plan import compile_plan
from certify.bounds.covariance.proof import prove
from certify.bounds.covariance.steps import Bounded, Flatten, Join, Linear, Plan, Pool, Start
from certify.bounds.facts import collect_facts
from certify.bounds.floor import jacobian
from certify.bounds.gains import combine_rules, gain_uppers
from certify.graph import Graph
from certify.results import Unbounded
from tests.bounds.covariance.plain_evaluation import random_choice, registers
from tests.bounds.small_networks import BOUNDED, UNBOUNDED, Build


def plan_of(graph: Graph, norm: str = "l2") -> Plan | Unbounded:
    facts = collect_facts(graph)
    return compile_plan(facts, graph.output, norm, gain_uppers(facts, combine_rules(facts)))


def check_above_jacobians(graph: Graph, plan: Plan, seed: int = 0) -> float:
    """Prove the plan at random multipliers; return the bound."""
    made, used = registers(plan, random_choice(torch.Generator().manual_seed(seed)))
    assert tuple(P.shape[1] for P in made) == register_rows(plan)
    sizes = [P.numel() * P.element_size() for P in made]
    assert sizes == [register_bytes(plan, position) for position in range(len(made))]
    proved = prove(plan, used)
    exact = graph.to(torch.float64)
    random = torch.Generator().manual_seed(seed)
    points = torch.randn(6, *graph.input_shape, generator=random, dtype=torch.float64)
    matrices = [jacobian(exact, point) for point in points]
    if plan.norm == "l2":
        upper = proved.upper()
        assert max(float(torch.linalg.matrix_norm(J, 2)) for J in matrices) <= upper * (1 + 1e-12)
        return upper
    rows = torch.stack([J.abs().sum(1) for J in matrices]).amax(0)
    if plan.steps[-1].sides:
        assert float(rows.max()) <= proved.upper()
    else:
        assert bool((rows <= proved.row_uppers() * (1 + 1e-12)).all())
    return proved.upper()


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", BOUNDED)
def test_every_kind_of_operation(name, norm):
    graph = BOUNDED[name](3)
    plan = plan_of(graph, norm)
    assert isinstance(plan, Plan)
    assert any(isinstance(step, Bounded) for step in plan.steps) == any("gain" in words for words in plan.fallbacks)
    check_above_jacobians(graph, plan)


@pytest.mark.parametrize("name", UNBOUNDED)
def test_what_has_no_bound_is_unbounded_for_its_own_reason(name):
    graph = UNBOUNDED[name](0)
    facts = collect_facts(graph)
    gains = gain_uppers(facts, combine_rules(facts))
    found = plan_of(graph)
    assert isinstance(found, Unbounded)
    assert found == gains[graph.output]


def image(kind: str, channels: int = 2, /, **details: object) -> Callable[[], Graph]:
    """An operation on images between two convolutions and a classifier."""

    def build() -> Graph:
        b = Build(1, 6, 5)
        b.conv(b.normal(2, 1, 3, 3))
        b.add("relu")
        b.add(kind, **details)
        b.conv(b.normal(2, channels, 3, 3))
        b.add("relu")
        b.add("mean", dims=[2, 3], keepdim=False)
        b.linear(2, 3)
        return b.graph()

    return build


AVERAGE = {"kernel": [2, 2], "stride": [2, 2], "ceil_mode": False, "divisor": None, "count_include_pad": True}
TRANSPOSED = {"stride": [2, 2], "padding": [0, 0], "output_padding": [0, 0], "dilation": [1, 1], "groups": 1}
PLAIN_TRANSPOSED = {**TRANSPOSED, "stride": [1, 1], "padding": [1, 0]}
GROUPED_TRANSPOSED = {**PLAIN_TRANSPOSED, "dilation": [3, 1], "output_padding": [2, 0], "groups": 2}
WITH_GAIN = {
    "conv_transpose": image("conv_transpose", weight=torch.ones(2, 2, 2, 2).double(), **TRANSPOSED),
    "upsample_nearest": image("upsample_nearest", scale=[2, 1]),
    "adaptive_max_pool": image("adaptive_max_pool", output=[4, 3]),
    "adaptive_avg_pool": image("adaptive_avg_pool", output=[4, 3]),
    "avg_pool of true pixels": image("avg_pool", padding=[1, 1], **{**AVERAGE, "count_include_pad": False}),
    "avg_pool clipped": image("avg_pool", padding=[0, 0], **{**AVERAGE, "ceil_mode": True}),
    "pad reflect": image("pad", padding=[[1, 1], [0, 1]], mode="reflect", value=0.0),
    "flip": image("flip", dims=[2]),
    "roll": image("roll", shifts=[1], dims=[3]),
    "max_min": image("max_min", dim=1),
    "sort": image("sort", dim=1, descending=False),
    "amax": image("amax", 1, dims=[1], keepdim=True),
    "group_norm": image("group_norm", groups=2, eps=0.1),
    "layer_norm": image("layer_norm", shape=[6, 5], eps=0.1),
    "softmax": image("softmax", dim=1),
    "transposed image": image("permute", dims=[0, 1, 3, 2]),
    "channels to pixels": image("reshape", 1, shape=[-1, 1, 12, 5]),
}
EXACT = {
    "conv_transpose stride 1": image("conv_transpose", 4, weight=torch.randn(2, 4, 3, 2).double(), **PLAIN_TRANSPOSED),
    "conv_transpose groups": image("conv_transpose", weight=torch.randn(2, 1, 2, 3).double(), **GROUPED_TRANSPOSED),
    "avg_pool": image("avg_pool", padding=[1, 1], **AVERAGE),
    "avg_pool divisor": image("avg_pool", padding=[1, 1], **{**AVERAGE, "ceil_mode": True, "divisor": 3}),
    "adaptive_avg_pool": image("adaptive_avg_pool", output=[3, 5]),
    "pad": image("pad", 4, padding=[[1, 1], [2, -1], [0, 1]], mode="constant", value=7.0),
    "slice": image("slice", dim=3, start=1, stop=5, step=2),
    "slice channels": image("slice", 1, dim=1, start=0, stop=2, step=2),
    "flip channels": image("flip", dims=[1]),
    "roll channels": image("roll", shifts=[1], dims=[1]),
    "expand": image("expand", shape=[-1, 2, 6, 5]),
    "max_pool": image("max_pool", kernel=[2, 3], stride=[2, 1], padding=[1, 1], dilation=[1, 1], ceil_mode=True),
    "prelu": image("prelu", weight=torch.tensor([0.3, -0.2]).double()),
}


@pytest.mark.parametrize("name", WITH_GAIN)
def test_operations_on_images_that_keep_only_their_gain(name):
    graph = WITH_GAIN[name]()
    plan = plan_of(graph)
    assert [type(step) for step in plan.steps].count(Bounded) == 1
    assert any("gain" in words for words in plan.fallbacks)
    check_above_jacobians(graph, plan)


@pytest.mark.parametrize("name", EXACT)
def test_operations_on_images_that_are_exact(name):
    graph = EXACT[name]()
    plan = plan_of(graph)
    assert not any(isinstance(step, Bounded) for step in plan.steps)
    assert plan.fallbacks == ()
    check_above_jacobians(graph, plan)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_convolutions_that_pad_with_copies_keep_only_their_gain(mode):
    b = Build(1, 6, 5)
    b.conv(b.normal(2, 1, 3, 3), padding_mode=mode)
    b.add("relu")
    b.conv(b.normal(2, 2, 3, 3))
    plan = plan_of(b.graph())
    assert [type(step) for step in plan.steps].count(Bounded) == 1
    check_above_jacobians(b.graph(), plan)


def residual(*, inner: int = 2) -> Graph:
    b = Build(2, 5, 5)
    start = b.add("relu", b.conv(b.normal(2, 2, 3, 3)))
    b.conv(b.normal(inner, 2, 3, 3), start)
    b.add("relu")
    b.add("add", start, b.conv(b.normal(2, inner, 3, 3)))
    b.add("relu")
    b.add("reshape", shape=[-1, 50])
    b.linear(50, 3)
    return b.graph()


def test_a_residual_block_is_one_register():
    plan = plan_of(residual())
    assert plan.fallbacks == ()
    check_above_jacobians(residual(), plan)


def test_a_register_that_would_be_too_large_is_split(monkeypatch):
    together = check_above_jacobians(residual(), plan_of(residual()))
    monkeypatch.setattr(limits, "MOST_JOINT_BYTES", 16 * 21 * 3**2)
    plan = plan_of(residual())
    assert [type(step) for step in plan.steps].count(Join) == 1
    assert any("too large" in words for words in plan.fallbacks)
    assert check_above_jacobians(residual(), plan) > together


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_plan_that_would_be_too_large_starts_behind_the_input(norm):
    graph = residual()
    facts = collect_facts(graph)
    gains = gain_uppers(facts, combine_rules(facts))
    starts = set()
    for kilobytes in (100, 30, 15, 5, 1):
        plan = compile_plan(facts, graph.output, norm, gains, most_bytes=1e3 * kilobytes)
        if isinstance(plan, Unbounded):
            assert kilobytes == 1
            continue
        starts.add(type(plan.steps[0]))
        assert isinstance(plan.steps[0], Bounded) == any("want of memory" in words for words in plan.fallbacks)
        check_above_jacobians(graph, plan)
    assert starts == {Start, Bounded}
    assert isinstance(compile_plan(facts, graph.output, norm, gains, most_bytes=0.0), Unbounded)


def test_too_many_rows_keep_only_their_gain(monkeypatch):
    b = Build(2, 5, 5)
    b.conv(b.normal(2, 2, 3, 3))
    b.add("reshape", shape=[-1, 50])
    b.add("relu")
    b.linear(50, 3)
    assert not any(isinstance(step, Bounded) for step in plan_of(b.graph()).steps)
    monkeypatch.setattr(limits, "MOST_ROWS", 49)
    plan = plan_of(b.graph())
    (bounded,) = (step for step in plan.steps if isinstance(step, Bounded))
    assert bounded.source is None
    check_above_jacobians(b.graph(), plan)
    found = compile_plan(collect_facts(b.graph()), "v2", "l2", dict.fromkeys(b.graph().by_name, 1.0))
    assert isinstance(found, Unbounded)
    assert "too many" in found.reason


def test_an_image_with_too_many_pixels_to_flatten_keeps_its_gain(monkeypatch):
    b = Build(1, 6, 5)
    b.conv(b.normal(2, 1, 3, 3))
    b.add("reshape", shape=[-1, 60])
    b.linear(60, 3)
    monkeypatch.setattr(limits, "MOST_PHASES", 28 * 30)
    assert not plan_of(b.graph()).fallbacks
    monkeypatch.setattr(limits, "MOST_PHASES", 28 * 30 - 1)
    found = plan_of(b.graph())
    assert isinstance(found, Unbounded)
    b.add("relu")
    plan = plan_of(b.graph())
    assert isinstance(plan.steps[-1], Bounded)
    check_above_jacobians(b.graph(), plan)


def test_gains_from_the_input_are_multiplied_by_the_root_of_its_size_in_linf(monkeypatch):
    b = Build(8)
    b.linear(8, 9)
    b.add("relu")
    b.linear(9, 2)
    monkeypatch.setattr(limits, "MOST_ROWS", 3)
    two, sup = plan_of(b.graph(), "l2"), plan_of(b.graph(), "linf")
    assert two.steps[0].gain * math.sqrt(8.0) <= sup.steps[0].gain <= two.steps[0].gain * 2.83
    check_above_jacobians(b.graph(), sup)


def test_branches_on_different_pixels_are_added_by_their_gain():
    """A stride of 2 and a window of 3 both turn five pixels into three."""
    b = Build(1, 5)
    left = b.conv(b.normal(1, 1, 1), "x", padding=[[0, 0]], stride=[2])
    right = b.conv(b.normal(1, 1, 3), "x", padding=[[0, 0]])
    b.add("add", b.add("relu", left), b.add("relu", right))
    b.conv(b.normal(1, 1, 3))
    plan = plan_of(b.graph())
    assert isinstance(plan.steps[-2], Bounded)
    check_above_jacobians(b.graph(), plan)


def test_branches_on_different_pixels_are_exact_once_they_are_flattened():
    b = Build(1, 5)
    left = b.add("reshape", b.conv(b.normal(1, 1, 1), "x", padding=[[0, 0]], stride=[2]), shape=[-1, 3])
    right = b.add("reshape", b.conv(b.normal(1, 1, 3), "x", padding=[[0, 0]]), shape=[-1, 3])
    b.add("add", left, right)
    plan = plan_of(b.graph())
    assert not any(isinstance(step, Bounded | Join) for step in plan.steps)
    upper = check_above_jacobians(b.graph(), plan)
    assert upper <= 1.000001 * float(torch.linalg.matrix_norm(jacobian(b.graph(), torch.zeros(1, 5).double()), 2))


@pytest.mark.parametrize(("taps", "side"), [(1, 8), (5, 10)])
def test_images_that_begin_families_stand_on_one_torus_when_they_are_added(taps, side):
    """Both upsampled images have eight pixels; a window of five behind their sum needs a torus of ten."""
    b = Build(1, 4)
    left = b.add("upsample_nearest", b.add("relu", b.conv(b.normal(1, 1, 3))), scale=[2])
    right = b.add("upsample_nearest", b.add("tanh", b.conv(b.normal(1, 1, 3), "x")), scale=[2])
    b.add("add", left, right)
    b.add("relu")
    b.conv(b.normal(1, 1, taps), padding=[[taps // 2, taps // 2]])
    plan = plan_of(b.graph())
    assert [type(step) for step in plan.steps].count(Join) == 1
    assert {step.sides for step in plan.steps if isinstance(step, Bounded)} == {(side,)}
    check_above_jacobians(b.graph(), plan)


def test_a_max_pool_beside_a_strided_convolution_is_joined():
    b = Build(1, 6, 7)
    start = b.add("relu", b.conv(b.normal(2, 1, 3, 3)))
    pooled = b.add("max_pool", start, kernel=[2, 3], stride=[2, 2], padding=[1, 1], dilation=[1, 1], ceil_mode=False)
    strided = b.conv(b.normal(2, 2, 4, 3), start, stride=[2, 2], padding=[[2, 2], [1, 1]])
    b.add("concat", b.add("tanh", strided), pooled, dim=1)
    b.conv(b.normal(2, 4, 3, 3))
    b.add("reshape", shape=[-1, 2 * 4 * 4])
    b.linear(32, 3)
    plan = plan_of(b.graph())
    assert [type(step) for step in plan.steps].count(Join) == 1
    assert not any(isinstance(step, Bounded) for step in plan.steps)
    check_above_jacobians(b.graph(), plan)


def test_tori_are_small_behind_max_pools():
    """Thirty pixels, pooled to fifteen, seven and three: one family would need tori of 32, 16, 8 and 4."""
    b = Build(1, 30)
    for _ in range(3):
        b.add("relu", b.conv(b.normal(1, 1, 3)))
        b.add("max_pool", kernel=[2], stride=[2], padding=[0], dilation=[1], ceil_mode=False)
    plan = plan_of(b.graph())
    assert [step.sides for step in plan.steps if isinstance(step, Start | Pool)] == [(31,), (16,), (8,), (3,)]
    check_above_jacobians(b.graph(), plan)


def test_a_skip_around_a_resampling_is_joined():
    """As in a U-Net: down by two, up by two, beside what was there before."""
    b = Build(1, 6, 4)
    start = b.add("relu", b.conv(b.normal(2, 1, 3, 3)))
    b.conv(b.normal(3, 2, 3, 3), start, stride=[2, 2])
    b.add("relu")
    b.add("concat", start, b.add("upsample_nearest", scale=[2, 2]), dim=1)
    b.conv(b.normal(1, 5, 5, 5), padding=[[2, 2], [2, 2]])
    plan = plan_of(b.graph())
    assert [type(step) for step in plan.steps].count(Join) == 1
    assert plan.steps[-1].sides == (8, 6)
    check_above_jacobians(b.graph(), plan)


def test_rows_of_the_same_image_on_other_pixels_are_told_apart():
    """The even pixels and the first three, as rows: three rows each, of the same register."""
    b = Build(1, 6)
    start = b.add("relu", b.conv(b.normal(1, 1, 3)))
    even = b.add("reshape", b.add("slice", start, dim=2, start=0, stop=6, step=2), shape=[-1, 3])
    first = b.add("reshape", b.add("slice", start, dim=2, start=0, stop=3, step=1), shape=[-1, 3])
    b.add("sub", even, first)
    plan = plan_of(b.graph())
    upper = check_above_jacobians(b.graph(), plan)
    assert upper > 0.0
    made, _ = registers(plan, random_choice(torch.Generator().manual_seed(1)))
    assert float(made[-1][0, 0, 0]) < 1e-9 < float(made[-1][0, 1, 1])


def test_a_value_that_never_varies_has_gain_zero():
    b = Build(3)
    b.add("sub", "x", "x")
    b.add("relu", b.constant(b.normal(1, 3)))
    graph = b.graph()
    plan = plan_of(graph)
    assert [type(step) for step in plan.steps] == [Bounded]
    assert plan.steps[0].gain == 0.0


@pytest.mark.parametrize("factor", [1e-200, 1e-320])
def test_scalings_that_may_underflow_keep_their_gain(factor):
    b = Build(2, 4)
    b.add(
        "batch_norm",
        mean=b.normal(2),
        variance=torch.full((2,), 1e300, dtype=torch.float64),
        weight=torch.full((2,), factor, dtype=torch.float64),
        eps=0.0,
    )
    b.conv(b.normal(1, 2, 3))
    plan = plan_of(b.graph())
    assert any(isinstance(step, Bounded) for step in plan.steps)


def jacobian_square(graph: Graph) -> torch.Tensor:
    J = jacobian(graph, torch.zeros(*graph.input_shape, dtype=torch.float64))
    return J @ J.mT


def output_of(plan: Plan) -> torch.Tensor:
    return registers(plan, random_choice(torch.Generator().manual_seed(0)))[0][-1][0]


def wide_views(b: Build, slope: float) -> tuple[str, str, str]:
    """A narrow image behind an activation, and two wide convolutions of it that are read late."""
    start = b.add("leaky_relu", b.conv(b.normal(2, 1, 3), padding=[[0, 0]]), negative_slope=slope)
    return start, *(b.conv(b.normal(4, 2, 3), start, padding=[[0, 0]]) for _ in range(2))


def test_wide_views_go_along_as_the_narrow_rows_they_are_made_of():
    b = Build(1, 8)
    start, second, third = wide_views(b, 1.0)
    first = b.add("leaky_relu", b.conv(b.normal(2, 2, 3), start, padding=[[0, 0]]), negative_slope=1.0)
    inner = b.add("leaky_relu", b.conv(b.normal(4, 2, 1), first, padding=[[0, 0]]), negative_slope=1.0)
    b.add("reshape", b.add("concat", b.add("add", inner, second), third, dim=1), shape=[-1, 32])
    plan = plan_of(b.graph())
    assert plan.fallbacks == ()
    assert max(register_rows(plan)[:-1]) == 6  # two of the start, four of the branch; not four, four and four
    exact = jacobian_square(b.graph())  # without padding and with slopes 1, nothing is lost
    assert float((output_of(plan) - exact).abs().max()) <= 1e-12 * float(exact.abs().max())
    linf = plan_of(b.graph(), "linf")
    check_above_jacobians(b.graph(), linf)


def test_wide_views_stay_in_place_when_registers_are_joined():
    b = Build(1, 8)
    start, second, third = wide_views(b, 0.8)
    first = b.add("tanh", b.conv(b.normal(2, 2, 3), start, padding=[[0, 0]]))
    sorted_input = b.add("sort", b.conv(b.normal(2, 1, 5), "x", padding=[[0, 0]]), dim=1, descending=False)
    inner = b.conv(b.normal(4, 2, 1), b.add("add", first, sorted_input), padding=[[0, 0]])
    b.add("reshape", b.add("concat", b.add("sub", inner, second), third, dim=1), shape=[-1, 32])
    graph = b.graph()
    plan = plan_of(graph)
    assert [type(step) for step in plan.steps].count(Join) == 1
    random = torch.Generator().manual_seed(0)
    for point in torch.randn(5, 1, 8, generator=random, dtype=torch.float64):
        J = jacobian(graph, point)
        gaps = torch.linalg.eigvalsh(output_of(plan) - J @ J.mT)
        assert float(gaps.min()) >= -1e-9 * float(gaps.max())


def test_a_channel_shuffle_moves_rows():
    b = Build(6, 4, 4)
    b.conv(b.normal(6, 2, 3, 3), groups=3, padding=[[0, 0], [0, 0]])
    b.add("reshape", shape=[-1, 3, 2, 2, 2])
    b.add("permute", dims=[0, 2, 1, 3, 4])
    b.add("reshape", shape=[-1, 6, 2, 2])
    b.conv(b.normal(4, 3, 2, 1), groups=2, padding=[[0, 0], [0, 0]])
    b.add("reshape", shape=[-1, 8])
    plan = plan_of(b.graph())
    assert [type(step).__name__ for step in plan.steps] == ["Start", "Flatten"]
    exact = jacobian_square(b.graph())
    assert float((output_of(plan) - exact).abs().max()) <= 1e-12 * float(exact.abs().max())


@pytest.mark.parametrize("shape", [(2, 5), (4,)])
@pytest.mark.parametrize("kind", ["x + c", "c + x", "x - c", "c - x", "x + x", "x - x", "c - x - x"])
def test_sums_with_constants_and_with_oneself(shape, kind):
    b = Build(*shape)
    if len(shape) == 2:
        held = b.conv(b.normal(2, 2, 3), padding=[[0, 0]])
        size = (1, 2, 3)
    else:
        held, size = b.linear(4, 3), (1, 3)
    constant = b.constant(b.normal(*size))
    made = {
        "x + c": lambda: b.add("add", held, constant),
        "c + x": lambda: b.add("add", constant, held),
        "x - c": lambda: b.add("sub", held, constant),
        "c - x": lambda: b.add("sub", constant, held),
        "x + x": lambda: b.add("add", held, held),
        "x - x": lambda: b.add("sub", held, held),
        "c - x - x": lambda: b.add("sub", b.add("sub", constant, held), held),
    }[kind]()
    b.add("reshape", b.add("concat", made, held, dim=1), shape=[-1, 2 * math.prod(size)])
    plan = plan_of(b.graph())
    exact = jacobian_square(b.graph())
    assert float((output_of(plan) - exact).abs().max()) <= 1e-12 * float(exact.abs().max())


def test_branches_with_too_many_rows_together_are_activated_apart(monkeypatch):
    b = Build(3)
    left, right = (b.add(kind, b.linear(3, 5, "x")) for kind in ("relu", "tanh"))
    b.add("sub", b.linear(5, 2, left), b.linear(5, 2, right))
    assert [type(step).__name__ for step in plan_of(b.graph()).steps].count("Activate") == 1
    monkeypatch.setattr(limits, "MOST_ROWS", 7)
    plan = plan_of(b.graph())
    assert [type(step).__name__ for step in plan.steps].count("Activate") == 2
    check_above_jacobians(b.graph(), plan)


def test_values_with_several_readers_go_along():
    """Densely connected layers: every value is read by all that follow."""
    b = Build(2, 6, 5)
    held = b.add("relu", b.conv(b.normal(2, 2, 3, 3)))
    for width in (2, 4, 6):
        held = b.add("concat", held, b.add("relu", b.conv(b.normal(2, width, 3, 3), held)), dim=1)
    b.add("reshape", b.add("avg_pool", held, padding=[0, 0], **AVERAGE), shape=[-1, 48])
    b.linear(48, 3)
    plan = plan_of(b.graph())
    assert plan.fallbacks == ()
    assert not any(isinstance(step, Join) for step in plan.steps)
    check_above_jacobians(b.graph(), plan)


def test_parallel_branches_are_activated_together():
    b = Build(2, 6, 5)
    branches = [b.add("tanh", b.conv(b.normal(2, 2, k, k), "x", padding=[[k // 2, k // 2]] * 2)) for k in (1, 3, 5)]
    b.add("concat", *branches, dim=1)
    b.conv(b.normal(1, 6, 3, 3))
    plan = plan_of(b.graph())
    assert [type(step).__name__ for step in plan.steps] == ["Start", "Linear", "Activate", "Linear"]
    check_above_jacobians(b.graph(), plan)


def test_a_normalisation_per_pixel_is_a_range_of_slopes_per_channel():
    b = Build(2, 4, 4)
    b.add("normalize", mean=b.normal(2, 4, 4), std=b.positive(2, 4, 4))
    b.conv(b.normal(2, 2, 3, 3))
    plan = plan_of(b.graph())
    assert [type(step).__name__ for step in plan.steps] == ["Start", "Activate", "Linear"]
    assert float(plan.steps[1].lower.max()) == 0.0
    check_above_jacobians(b.graph(), plan)


def test_a_normalisation_per_channel_is_part_of_the_convolution():
    b = Build(2, 4, 4)
    b.add("normalize", mean=b.normal(2, 1, 1), std=b.positive(2, 1, 1))
    b.conv(b.normal(2, 2, 3, 3))
    b.add("batch_norm", mean=b.normal(2), variance=b.positive(2), weight=b.normal(2), eps=0.1)
    plan = plan_of(b.graph())
    assert [type(step).__name__ for step in plan.steps] == ["Start", "Linear"]
    check_above_jacobians(b.graph(), plan)


@pytest.mark.parametrize("sizes", [(6,), (5, 4), (3, 4, 3)])
@pytest.mark.parametrize("head", ["mean", "sum", "adaptive", "irregular", "one window", "flat"])
def test_what_ends_images(sizes, head):
    dims = len(sizes)
    b = Build(2, *sizes)
    b.add("relu", b.conv(b.normal(3, 2, *[3] * dims)))
    windows = {"stride": [1] * dims, "ceil_mode": False, "divisor": None if dims == 1 else 5, "count_include_pad": True}
    outputs = [2] * dims if head == "irregular" else [1] * dims
    if head in ("mean", "sum"):
        b.add(head, dims=list(range(2, 2 + dims)), keepdim=head == "sum")
    elif head in ("adaptive", "irregular"):
        b.add("adaptive_avg_pool", output=outputs)
    elif head == "one window":
        b.add("avg_pool", kernel=list(sizes), padding=[0] * dims, **windows)
    entries = 3 * {"irregular": 2**dims, "flat": math.prod(sizes)}.get(head, 1)
    b.add("reshape", shape=[-1, entries])
    b.linear(entries, 2)
    plan = plan_of(b.graph())
    assert [type(step) for step in plan.steps].count(Flatten) == 1
    assert plan.fallbacks == ()
    check_above_jacobians(b.graph(), plan)


def test_a_convolution_over_the_whole_image_is_a_dense_layer():
    b = Build(2, 3, 4)
    b.conv(b.normal(3, 2, 3, 3))
    b.add("relu")
    b.conv(b.normal(4, 3, 2, 4), padding=[[1, 0], [1, 1]], dilation=[3, 1], stride=[1, 3])
    b.add("relu")
    b.conv(b.normal(5, 4, 1, 1), padding=[[0, 0], [0, 0]])
    b.add("reshape", shape=[-1, 5])
    graph = b.graph()
    plan = plan_of(graph)
    assert [type(step).__name__ for step in plan.steps].count("Flatten") == 1
    assert plan.fallbacks == ()
    check_above_jacobians(graph, plan)


def test_grouped_convolutions_of_one_window():
    b = Build(4, 3, 3)
    b.conv(b.normal(6, 2, 3, 3), padding=[[0, 0], [0, 0]], groups=2)
    b.add("reshape", shape=[-1, 6])
    graph = b.graph()
    plan = plan_of(graph)
    upper = check_above_jacobians(graph, plan)
    assert upper <= 1.000001 * float(torch.linalg.matrix_norm(jacobian(graph, torch.zeros(4, 3, 3).double()), 2))


def test_marks_name_rows_of_their_registers():
    plan = plan_of(residual())
    rows = register_rows(plan)
    assert all(0 <= mark.first < mark.last <= rows[mark.register] for mark in plan.marks)
    names = [mark.value for mark in plan.marks]
    assert plan.marks[-1].value == names[-1] == residual().output
    assert plan.marks[-1].register == len(plan.steps) - 1
    activations = [op.name for op in residual() if op.kind == "relu"]
    assert set(activations) <= set(names)


def test_linear_steps_keep_the_rows_that_go_along_exactly():
    plan = plan_of(residual())
    assert any(isinstance(step, Linear) and len(step.keep) for step in plan.steps)
