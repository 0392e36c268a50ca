"""The coarse plan is the plan at some of its frequencies; its multipliers are taken over feasible."""

from __future__ import annotations

import math

import pytest
import torch

from certify.bounds.covariance.coarse import coarsen, factors, transfer
from certify.bounds.covariance.optimise import optimise
from certify.bounds.covariance.spectrum import half_spectrum
from certify.bounds.covariance.starts import SHAPES, start
from certify.bounds.covariance.steps import Activate, Flatten, Fold, Linear, Mask, Plan, Pool, Start
from certify.bounds.covariance.trial import Trial, evaluate
from tests.bounds.covariance.hand_plans import NONE, flatten_matrix, slopes, symbol


def deep(kind: str) -> Plan:
    """Convolutions on tori of 24 and 12, and a dense end."""
    g = torch.Generator().manual_seed(5)
    random = lambda *shape: torch.randn(shape, generator=g, dtype=torch.float64) / math.sqrt(shape[1] * 4)  # noqa: E731
    fine, coarse = (24, 24), (12, 12)
    middle = {"plain": Activate(3, coarse, **slopes(4)), "mask": Mask(3, coarse, torch.arange(4)), "pool": None}[kind]
    return Plan(
        (
            Start(fine, 2),
            Linear(0, fine, NONE, symbol(random(4, 2, 3, 3), fine, 1)),
            Activate(1, fine, **slopes(4)),
            Fold(2, coarse, (2, 2)),
            middle or Pool(3, coarse, 4),
            Linear(4, coarse, NONE, symbol(random(4, 4, 3, 3), coarse, 1)),
            Activate(5, coarse, **slopes(4)),
            Flatten(6, coarse, flatten_matrix(random(3, 4, 2, 2), coarse)),
        )
    )


@pytest.fixture(params=["plain", "mask", "pool"])
def plan(request) -> Plan:
    return deep(request.param)


def test_factors_divide_every_side(plan):
    assert factors(plan) == [2, 3, 4, 6, 12]
    assert factors(Plan((Start((), 3),))) == []


def test_coarse_matrices_are_those_of_the_same_frequencies(plan):
    coarse = coarsen(plan, 3)
    for step, fewer in zip(plan.steps, coarse.steps, strict=True):
        if not isinstance(step, Linear):
            continue
        where = {
            tuple(w): m
            for w, m in zip((half_spectrum(step.sides) / torch.tensor(step.sides)).tolist(), step.matrix, strict=True)
        }
        for w, matrix in zip(
            (half_spectrum(fewer.sides) / torch.tensor(fewer.sides)).tolist(), fewer.matrix, strict=True
        ):
            (nearest,) = [m for v, m in where.items() if all(abs(a - b) < 1e-6 for a, b in zip(v, w, strict=True))]
            assert torch.equal(nearest, matrix)


@pytest.mark.parametrize("shape", SHAPES)
def test_transferred_multipliers_are_feasible_and_near(plan, shape):
    coarse, fine = Trial(coarsen(plan, 2)), Trial(plan)
    made = transfer(coarse, start(coarse, shape).multipliers, fine)
    assert made.feasible
    there, direct = (float(torch.linalg.eigvalsh(one.output).max()) for one in (made, start(fine, shape)))
    assert there <= 1.5 * direct


def test_the_search_of_a_large_plan_passes_through_the_coarse_one(plan, monkeypatch):
    found = optimise(plan)
    monkeypatch.setattr("certify.bounds.covariance.optimise.LARGE", 0.0)
    monkeypatch.setattr("certify.bounds.covariance.optimise.factors", lambda plan: factors(plan)[:1])
    short = optimise(plan)
    best, near = (float(torch.linalg.eigvalsh(evaluate(plan, one)[-1]).max()) for one in (found, short))
    assert 0.99 * best <= near <= 1.2 * best
