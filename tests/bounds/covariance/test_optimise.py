"""The choice of multipliers: closed forms against their formulas, and how tight the search gets on known networks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from certify.bounds.covariance.optimise import optimise
from certify.bounds.covariance.starts import SHAPES, start
from certify.bounds.covariance.trial import Trial, evaluate
from tests.bounds.covariance.hand_plans import PLANS, dense_chain


def gaussian_network(*sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(o, i, generator=generator, dtype=torch.float64) / math.sqrt(i) for i, o in itertools.pairwise(sizes)
    ]


def scaled_network(layers: int, width: int) -> list[torch.Tensor]:
    """Layers of random norms: the networks on which ECLipsE was published, drawn anew."""
    random = np.random.RandomState(7 * width + 13 * layers)
    sizes = [4, *[width] * (layers - 1), 1]
    drawn = []
    for i, o in itertools.pairwise(sizes):
        norm = random.uniform(0.4, 1.8)
        weight = random.randn(o, i)
        drawn.append(torch.from_numpy(weight * norm / np.linalg.norm(weight, 2)))
    return drawn


NETWORKS = {
    "A": lambda: gaussian_network(10, 50, 50, 50, 10),
    "B": lambda: gaussian_network(784, 128, 128, 128, 10),
    "E5": lambda: scaled_network(5, 40),
    "E20": lambda: scaled_network(20, 80),
}


def product(weights: list[torch.Tensor]) -> float:
    return math.prod(float(torch.linalg.matrix_norm(weight, 2)) for weight in weights)


def norm(plan, multipliers) -> float:
    return float(torch.linalg.eigvalsh(evaluate(plan, multipliers)[-1]).max()) ** 0.5


@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_closed_form_is_that_of_eclipse_fast(name):
    weights = NETWORKS[name]()
    plan = dense_chain(weights)
    P = torch.eye(weights[0].shape[1], dtype=torch.float64)
    for weight in weights[:-1]:
        M = weight @ P @ weight.mT
        top = torch.linalg.eigvalsh(M)[-1]
        P = top**2 * torch.linalg.inv(2 * top * torch.eye(len(M), dtype=torch.float64) - M)
    expected = float(torch.linalg.eigvalsh(weights[-1] @ P @ weights[-1].mT)[-1]) ** 0.5
    assert norm(plan, start(Trial(plan), 0.0).multipliers) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("lower, upper", [(0, 1), (-1, 1), (0.2, 1), (-0.13, 1.13), (0, 0.25), (-0.5, 0.3), (0.9, 1)])
@pytest.mark.parametrize("name", ["A", "E5"])
def test_the_product_form_never_exceeds_the_product(name, lower, upper):
    weights = NETWORKS[name]()
    plan = dense_chain(weights, lower, upper)
    limit = product(weights) * max(abs(lower), abs(upper)) ** (len(weights) - 1)
    assert norm(plan, start(Trial(plan), "product").multipliers) <= limit * (1 + 1e-5)


@pytest.mark.parametrize("objective", ["norm", "pairs", (0, 1), 2])
def test_the_search_never_ends_above_the_closed_forms(objective):
    plan = PLANS["spatial mask"]()

    def bound(multipliers) -> float:
        M = evaluate(plan, multipliers)[-1][0]
        squares = M.diagonal()[:, None] + M.diagonal() - 2 * M
        values = {
            "norm": torch.linalg.eigvalsh(M).max(),
            "pairs": squares[np.triu_indices(3, 1)].log().mean().exp(),
            (0, 1): squares[0, 1],
            2: M[2, 2],
        }
        return float(values[objective])

    fast, default = (bound(optimise(plan, effort, objective)) for effort in ("fast", "default"))
    forms = [bound(start(Trial(plan), shape).multipliers) for shape in SHAPES]
    assert fast == min(forms)
    assert default < 0.98 * fast


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_can_be_searched(name):
    plan = PLANS[name]()
    fast, default = (norm(plan, optimise(plan, effort)) for effort in ("fast", "default"))
    assert default <= fast


TIGHT = {"A": (16.0824, 4.06), "B": (6.0255, 2.20), "E5": (0.10757, 0.0241), "E20": (0.24591, 0.00166)}


@pytest.mark.parametrize("name", TIGHT)
def test_known_networks_are_searched_to_near_the_optimum(name):
    weights = NETWORKS[name]()
    assert product(weights) == pytest.approx(TIGHT[name][0], rel=1e-4), "another network than the published one"
    assert norm(dense_chain(weights), optimise(dense_chain(weights))) <= TIGHT[name][1]


def test_the_same_plan_gives_the_same_multipliers():
    plan = PLANS["spatial join"]()
    first, second = optimise(plan), optimise(plan)
    assert all(torch.equal(first[position], second[position]) for position in first)


def test_a_plan_without_free_steps_needs_no_multipliers():
    plan = dense_chain([torch.eye(2), torch.ones(1, 2)], 0.5, 0.5)
    assert optimise(plan) == {}
