"""Local Lipschitz constants: above exact difference quotients and Jacobians, at most what others reach."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from certify.bounds.facts import collect_structure
from certify.bounds.local.chain import Chain, chain_of
from certify.bounds.local.constants import interval_jacobian, local_constants, slopes_on_ball
from certify.graph import Graph, trace
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


def chain(graph: Graph) -> Chain:
    found = chain_of(collect_structure(graph), graph.output)
    assert isinstance(found, Chain), found
    return found


def centre(graph: Graph) -> torch.Tensor:
    return torch.randn(graph.input_shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def jacobian(made: Chain, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.functional.jacobian(lambda p: made.run(p[None])[0], x).flatten(1)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)])
def test_no_two_points_of_the_ball_differ_by_more(name, norm):
    graph = CASES[name](4)
    made, x = chain(graph), centre(graph)
    ball = 0.3
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
        ("linf", 1 / 255, 1.476294, 1.275871),
        pytest.param("linf", 4 / 255, 1.941665, 1.334675, marks=pytest.mark.slow),
    ],
)
def test_published_figures(norm, ball, reached, floor):
    """Reached by the recursion elsewhere (auto_LiRPA 0.7.1 in linf: 1.554 and 4.328); the floor was sampled."""
    made, x = published()
    found = local_constants(made, x, ball, norm).upper
    assert floor <= found <= reached
