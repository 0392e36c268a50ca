"""Local Lipschitz constants: above exact difference quotients and Jacobians, at most what others reach."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from certify.bounds.covariance.optimise import optimise
from certify.bounds.covariance.proof import prove
from certify.bounds.local.chain import Chain
from certify.bounds.local.constants import interval_jacobian, local_constants, slopes_on_ball
from certify.bounds.local.plans import carried_plan, plain_plan, plan_on_ball
from certify.graph import Graph, trace
from tests.bounds.local.chains import chain
from tests.bounds.local.exact_networks import MP, pressing_points, real, run_exactly, size_of
from tests.bounds.small_networks import Build


def dense(kind: str, seed: int, **details: object) -> Graph:
    b = Build(5, seed=seed)
    for inputs, outputs in ((5, 9), (9, 8)):
        b.linear(inputs, outputs, scale=1.5)
        b.add(kind, **details)
    b.linear(8, 3)
    return b.graph()


def convolutional(seed: int) -> Graph:
    b = Build(2, 4, 4, seed=seed)
    b.add("normalize", mean=b.normal(2, 1, 1), std=b.positive(2, 1, 1))
    b.conv(b.normal(3, 2, 3, 3) / 3)
    b.add("relu")
    b.conv(b.normal(3, 3, 2, 2) / 3, stride=[2, 1], padding=[[1, 0], [0, 1]])
    b.add("relu")
    b.add("reshape", shape=[-1, 24])
    b.linear(24, 3)
    return b.graph()


CASES = {
    "relu": lambda seed: dense("relu", seed),
    "tanh": lambda seed: dense("tanh", seed),
    "abs": lambda seed: dense("abs", seed),
    "convolutional": convolutional,
}
QUICK, LONG = ("relu", "convolutional"), ("abs", "tanh")


def centre(graph: Graph) -> torch.Tensor:
    return torch.randn(graph.input_shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def jacobian(made: Chain, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.functional.jacobian(lambda p: made.run(p[None])[0], x).flatten(1)


def assert_nothing_differs_by_more(graph: Graph, made: Chain, x: torch.Tensor, ball: float, norm: str) -> None:
    found = local_constants(made, x, ball, norm)
    assert math.isfinite(found.upper)
    points = list(pressing_points(made, x, ball, norm, 1, 4))
    logits = [run_exactly(graph, real(x.numpy()) + real(d.numpy()))[graph.output] for d in points]
    rows, pairs = real(found.rows.numpy()), real(found.pairs.numpy())
    for i in range(len(points)):
        for j in range(i):
            moved, dz = size_of(points[i] - points[j], norm), logits[i] - logits[j]
            moved = moved * (1 + MP.mpf(2) ** -50)  # the difference of two stored points was rounded
            whole = MP.sqrt((dz * dz).sum()) if norm == "l2" else abs(dz).max()
            assert whole <= MP.mpf(found.upper) * moved
            assert (abs(dz) <= rows * moved).all()
            assert (abs(dz[:, None] - dz[None]) <= pairs * moved).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)])
def test_no_two_points_of_the_ball_differ_by_more(name, norm):
    graph = CASES[name](4)
    assert_nothing_differs_by_more(graph, chain(graph), centre(graph), 0.3, norm)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_on_a_ball_without_kinks_it_is_the_norm_of_the_jacobian(norm):
    graph = dense("relu", 6)
    made, x = chain(graph), centre(graph)
    J = jacobian(made, x)
    exact = float(torch.linalg.matrix_norm(J, 2) if norm == "l2" else J.abs().sum(1).max())
    found = local_constants(made, x, 1e-6, norm).upper
    assert exact * (1.0 - 1e-12) <= found <= exact * (1.0 + 1e-6)


def test_it_grows_with_the_ball_and_never_above_what_holds_everywhere():
    graph = dense("relu", 9)
    made, x = chain(graph), centre(graph)
    uppers = [local_constants(made, x, ball, effort="fast", everywhere=5.0).upper for ball in (0.01, 0.1, 1.0, 100.0)]
    assert max(uppers) <= 5.0
    assert uppers[0] < uppers[2]
    assert local_constants(made, x, 100.0, effort="fast", everywhere=0.5).method == "global"


def test_searching_beats_the_closed_form():
    graph = dense("relu", 8)
    made, x = chain(graph), centre(graph)
    for norm in ("l2", "linf"):
        fast, searched = (local_constants(made, x, 0.4, norm, effort) for effort in ("fast", "default"))
        assert searched.upper < 0.995 * fast.upper
        assert bool((searched.rows <= fast.rows * (1 + 1e-9)).all()) or norm == "l2"


def test_the_interval_jacobian_holds_every_jacobian_of_the_ball():
    graph = convolutional(2)
    made, x = chain(graph), centre(graph)
    rows = interval_jacobian(made, slopes_on_ball(made, x, 0.5, "linf"))
    for delta in pressing_points(made, x, 0.5, "linf", 5, 2):
        assert bool((jacobian(made, x + delta).abs().sum(1) <= rows).all())


@pytest.mark.parametrize("norm", ["l2", pytest.param("linf", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["relu", "convolutional"])
def test_functionals_stand_for_rows_that_do_not_bend(name, norm, monkeypatch):
    """The same optimum with fewer rows; and with no rows at all where nothing bends."""
    graph = CASES[name](4)
    made, x = chain(graph), centre(graph)
    for ball, least in ((0.2, 1), (1e-7, 0)):
        slopes = slopes_on_ball(made, x, ball, norm)
        assert sum(one.bent for one in slopes) >= least
        found = [plan(made, slopes, norm) for plan in (plain_plan, carried_plan)]
        uppers = []
        for plan in found:
            proved = prove(plan, optimise(plan, "max" if norm == "l2" else "default"), with_growth=False)
            uppers.append(proved.upper() if norm == "l2" else float(proved.row_uppers().max()))
        assert uppers[1] == pytest.approx(uppers[0], rel=1e-9 if norm == "l2" and not least else 1e-3)
    monkeypatch.setattr("certify.bounds.local.plans.LITTLE", 0.0)
    assert len(plan_on_ball(made, slopes, norm).steps) == 2
    J = jacobian(made, x)
    exact = float(torch.linalg.matrix_norm(J, 2) if norm == "l2" else J.abs().sum(1).max())
    assert exact * (1.0 - 1e-12) <= local_constants(made, x, 1e-7, norm).upper <= exact * (1.0 + 1e-6)
    assert_nothing_differs_by_more(graph, made, x, 0.3, norm)


def published() -> tuple[Chain, torch.Tensor]:
    """The example of the comparison: seed 0, 192-100-200-10."""
    torch.manual_seed(0)
    sizes = (192, 100, 200, 10)
    first, second, third = (torch.nn.Linear(*pair) for pair in itertools.pairwise(sizes))
    relu = torch.nn.ReLU
    module = torch.nn.Sequential(torch.nn.Flatten(), first, relu(), second, relu(), third)
    x = torch.randn(1, 3, 8, 8)
    return chain(trace(module.eval(), (3, 8, 8))), x[0].double()


@pytest.mark.parametrize(
    ("norm", "ball", "reached", "floor"),
    [
        ("l2", 1 / 255, 0.153580, 0.15),
        ("l2", 0.217355, 0.202953, 0.15),
        pytest.param("linf", 1 / 255, 1.476294, 1.275871, marks=pytest.mark.slow),
        pytest.param("linf", 4 / 255, 1.941665, 1.334675, marks=pytest.mark.slow),
    ],
)
def test_published_figures(norm, ball, reached, floor):
    """Reached by the recursion elsewhere (auto_LiRPA 0.7.1 in linf: 1.554 and 4.328); the floor was sampled."""
    made, x = published()
    found = local_constants(made, x, ball, norm).upper
    assert floor <= found <= reached
