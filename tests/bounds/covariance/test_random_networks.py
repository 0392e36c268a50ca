"""Random small networks: the compiled plan against the recursion on explicit matrices, and against Jacobians.

For every network and random feasible multipliers: the plan's bound equals that of the recursion on explicit torus
matrices, is at least that of the recursion on the zero-padded image with the same multipliers, and is at least every
admissible Jacobian norm (ascended) and every difference quotient of the network itself.
"""

from __future__ import annotations

import pytest
import torch

from certify.bounds.covariance.plan import compile_plan
from certify.bounds.covariance.proof import prove
from certify.bounds.covariance.steps import Plan, Pool
from certify.bounds.facts import collect_structure
from certify.graph import Graph, run
from tests.bounds.covariance.dense_recursion import Recursion
from tests.bounds.covariance.layered_networks import Maker, Network, ascended_norm
from tests.bounds.covariance.plain_evaluation import largest, random_choice, registers

FLOAT_NOISE = 1 + 1e-9  # all values compared are computed in plain float64


def plan_of(graph: Graph) -> Plan:
    facts = collect_structure(graph)
    plan = compile_plan(facts, graph.output, "l2", dict.fromkeys(facts.shapes, 1.0))
    assert isinstance(plan, Plan)
    assert not plan.fallbacks
    return plan


def steepest_quotient(graph: Graph, seed: int, pairs: int = 24) -> float:
    random = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(pairs, *graph.input_shape, generator=random, dtype=torch.float64)
    step = torch.randn(pairs, *graph.input_shape, generator=random, dtype=torch.float64)
    step *= (10.0 ** torch.linspace(-5, 1, pairs, dtype=torch.float64)).reshape(-1, *[1] * len(graph.input_shape))
    moved = (run(graph, x + step) - run(graph, x)).flatten(1).norm(dim=1)
    return float((moved / step.flatten(1).norm(dim=1)).max())


def check(seed: int) -> None:
    network: Network = Maker(seed).network()
    graph = network.graph()
    plan = plan_of(graph)
    made, used = registers(plan, random_choice(torch.Generator().manual_seed(seed)))
    bound = largest(made[-1])
    pooled = (step.sides for step in plan.steps if isinstance(step, Pool))
    torus = largest(Recursion(network, iter(used.values()), plan.steps[0].sides, pooled).output())
    assert abs(torus - bound) <= 1e-9 * bound, seed
    image = largest(Recursion(network, iter(used.values()), None).output())
    assert image <= bound * FLOAT_NOISE, seed
    assert ascended_norm(network, seed) ** 2 <= bound * FLOAT_NOISE, seed
    assert steepest_quotient(graph, seed) ** 2 <= bound * (1 + 1e-6), seed  # steps of 1e-5 cancel digits
    if seed % 10 == 0:
        proved = prove(plan, used)
        assert proved is not None
        assert bound**0.5 <= proved.upper() * FLOAT_NOISE
        assert proved.upper() <= bound**0.5 * (1 + 1e-6)


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_plans_of_random_networks(first):
    for seed in range(first, first + 50):
        check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 11_000, 500))
def test_plans_of_ten_thousand_random_networks(first):
    for seed in range(first, first + 500):
        check(seed)


def test_random_networks_have_every_kind_of_step_and_layer():
    found: dict[str, int] = {}
    for seed in range(100):
        for step in plan_of(Maker(seed).network().graph()).steps:
            found[type(step).__name__] = found.get(type(step).__name__, 0) + 1
    least = {"Start": 100, "Linear": 100, "Fold": 30, "Activate": 100, "Mask": 10, "Pool": 10, "Flatten": 50}
    assert all(found[name] >= count for name, count in least.items())
