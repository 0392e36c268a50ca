"""Selections: the positions of a run are among them, and the best ones are the best of all."""

import itertools

import pytest
import torch
from torch import Tensor

from certify.bounds.selections import SELECTIONS, best_positions, select
from certify.graph import Graph, Operation, run
from tests.bounds.small_networks import Build

WINDOW = {"kernel": [2, 3], "stride": [2, 1], "padding": [1, 1], "ceil_mode": True, "dilation": [1, 1]}
CASES = {
    "max_pool": ((2, 5, 6), "max_pool", WINDOW),
    "adaptive_max_pool": ((2, 5, 6), "adaptive_max_pool", {"output": [2, 4]}),
    "adaptive_max_pool 1d": ((3, 7), "adaptive_max_pool", {"output": [3]}),
    "amax": ((2, 3, 4), "amax", {"dims": [2], "keepdim": False}),
    "amax of two": ((2, 3, 4), "amax", {"dims": [1, 3], "keepdim": True}),
    "amin": ((2, 3, 4), "amin", {"dims": [1], "keepdim": True}),
    "sort": ((3, 4), "sort", {"dim": 2, "descending": False}),
    "sort descending": ((4, 3), "sort", {"dim": 1, "descending": True}),
    "max_min": ((4, 3), "max_min", {"dim": 1}),
}


def network(name: str) -> tuple[Graph, Operation, Tensor]:
    shape, kind, details = CASES[name]
    b = Build(*shape, seed=1)
    operation = b.add(kind, "x", **details)
    graph = b.graph()
    return graph, graph.by_name[operation], torch.randn(3, *shape, generator=b.random, dtype=torch.float64)


@pytest.mark.parametrize("name", CASES)
def test_weights_that_ask_for_what_the_operation_returns_get_it(name: str) -> None:
    """Largest entries for equal weights, smallest for negative ones; an order for weights in that order."""
    graph, operation, x = network(name)
    returned = run(graph, x)
    outward = {"amin": -torch.ones(()), "sort": returned, "max_min": returned}.get(operation.kind, torch.ones(()))
    assert torch.equal(select(x, best_positions(operation, x, outward)), returned)


@pytest.mark.parametrize("name", CASES)
def test_no_other_input_selects_better(name: str) -> None:
    graph, operation, x = network(name)
    random = torch.Generator().manual_seed(2)
    outward = torch.randn(run(graph, x).shape, generator=random, dtype=torch.float64)
    best = (outward * select(x, best_positions(operation, x, outward))).flatten(1).sum(1)
    numbers = torch.arange(x[0].numel()).reshape(1, *x.shape[1:])
    for _ in range(300):
        other = torch.randn(x.shape, generator=random, dtype=torch.float64)
        reached = best_positions(operation, other, torch.randn(outward.shape, generator=random, dtype=torch.float64))
        assert bool((select(numbers.expand_as(x), reached) == reached).all())
        assert bool((best >= (outward * select(x, reached)).flatten(1).sum(1) - 1e-12).all())


@pytest.mark.parametrize("descending", [False, True])
def test_a_sort_gets_the_best_of_all_orders(descending: bool) -> None:
    operation = Operation(name="y", kind="sort", inputs=("x",), attributes={"dim": 1, "descending": descending})
    x, outward = torch.tensor([[3.0, -1.0, 7.0, 0.5]]), torch.tensor([[-2.0, 0.0, 1.0, 5.0]])
    best = float((outward * select(x, best_positions(operation, x, outward))).sum())
    orders = itertools.permutations(x[0].tolist())
    assert best == max(sum(w * v for w, v in zip(outward[0].tolist(), order, strict=True)) for order in orders)


def test_every_selecting_kind_has_a_case() -> None:
    assert {kind for _, kind, _ in CASES.values()} == set(SELECTIONS)
