"""The float recursion against materialised matrices and explicit inverses, and its derivatives against differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from certify.bounds.covariance.objectives import soft_norm
from certify.bounds.covariance.registers import move_plan
from certify.bounds.covariance.starts import SHAPES, closed_forms, start
from certify.bounds.covariance.steps import Activate, Linear, Mask, Plan, Start
from certify.bounds.covariance.trial import Trial, evaluate
from certify.bounds.covariance.variables import Coordinates
from tests.bounds.covariance.hand_plans import NONE, PLANS, dense_chain, materialise, recursion, spatial


@pytest.fixture(params=PLANS)
def plan(request) -> Plan:
    return PLANS[request.param]()


def test_registers_are_those_of_materialised_matrices(plan):
    for multipliers in closed_forms(plan):
        slack = {k: v * (1.0 if plan.steps[k].__class__ is Start else 1.3) for k, v in multipliers.items()}
        registers, dumb = evaluate(plan, slack), recursion(plan, slack)
        for step, register, matrix in zip(plan.steps, registers, dumb, strict=True):
            shown = materialise(register, step.sides)
            np.testing.assert_allclose(shown, matrix, rtol=1e-9, atol=1e-11 * np.abs(matrix).max())


def test_registers_have_the_documented_shape_and_type(plan):
    registers = evaluate(plan, next(iter(closed_forms(plan))))
    for position, (step, register) in enumerate(zip(plan.steps, registers, strict=True)):
        assert register.shape[0] == plan.frequencies(position)
        assert register.shape[1] == register.shape[2]
        assert register.dtype == (torch.complex128 if step.sides else torch.float64)


def _log_norm(plan: Plan, multipliers) -> torch.Tensor:
    last = evaluate(plan, multipliers)[-1][0]
    radius, identity = _best_radius(last.detach(), 0.1), torch.eye(len(last), dtype=torch.float64)
    return math.log(radius) - 0.1 * torch.logdet(identity - last / radius)


def _best_radius(M: torch.Tensor, mu: float) -> float:
    """The minimiser of log r - mu log det(I - M / r), as SciPy finds the zero of its derivative."""
    values = torch.linalg.eigvalsh(M).clamp(min=0).numpy()
    top = float(values[-1])
    slope = lambda s: 1 - mu * (values / (top * (1 + s) - values)).sum()  # noqa: E731
    return top * (1 + brentq(slope, 1e-9, 10 * mu * len(values), xtol=1e-14))


def _symmetric_steps(value: torch.Tensor):
    """Directions in which a multiplier may move: entries of a vector, symmetric pairs of a matrix."""
    for index in np.ndindex(*value.shape):
        step = torch.zeros_like(value)
        step[index] = 1.0
        yield (step + step.mT) / 2 if value.ndim == 2 else step


def test_derivatives_are_differences(plan):
    multipliers = {k: v * 1.2 for k, v in next(iter(closed_forms(plan))).items()}
    if 0 in multipliers:
        multipliers[0] = multipliers[0] / (1.3 * plan.steps[0].pixels * multipliers[0].sum())
    trial = Trial(plan)
    made = trial.run(lambda position, _: multipliers[position])
    value, cotangent = soft_norm(made.output, trial.weights_of(()), 0.1)
    by_hand = trial.derivatives(made, cotangent)
    assert value == pytest.approx(float(_log_norm(plan, multipliers)), abs=1e-12)
    for position, multiplier in multipliers.items():
        for direction in _symmetric_steps(multiplier):
            h = 1e-5 * float(multiplier.abs().max())
            up, down = ({**multipliers, position: multiplier + sign * h * direction} for sign in (1, -1))
            difference = float(_log_norm(plan, up) - _log_norm(plan, down)) / (2 * h)
            slope = float((by_hand[position].total * direction).sum()) if position in by_hand else 0.0
            assert slope == pytest.approx(difference, rel=1e-5, abs=1e-7 / float(multiplier.abs().max()))


def test_derivatives_by_hand_are_those_of_autograd(plan):
    multipliers = {k: (v * 1.2).requires_grad_() for k, v in next(iter(closed_forms(plan))).items()}
    if 0 in multipliers:
        multipliers[0] = (
            (multipliers[0] / (1.3 * plan.steps[0].pixels * multipliers[0].sum())).detach().requires_grad_()
        )
    _log_norm(plan, multipliers).backward()
    trial = Trial(plan)
    made = trial.run(lambda position, _: multipliers[position].detach())
    by_hand = trial.derivatives(made, soft_norm(made.output, trial.weights_of(()), 0.1)[1])
    for position, multiplier in multipliers.items():
        if position not in by_hand:
            assert multiplier.grad is None, "only what lies before a max-pooling has no derivative"
            continue
        scale, expected = float(by_hand[position].total.abs().max()), multiplier.grad
        expected = (expected + expected.mT) / 2 if expected.ndim == 2 else expected
        torch.testing.assert_close(by_hand[position].total, expected, rtol=1e-8, atol=1e-9 * scale)


@pytest.mark.parametrize("barrier", [0.0, 0.01])
def test_coordinates_follow_their_own_differences(plan, barrier):
    trial = Trial(plan)
    coordinates = Coordinates(trial, start(trial, 0.25).multipliers)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(coordinates.zero().shape, generator=generator, dtype=torch.float64) / 4

    def value(x: torch.Tensor) -> float:
        made = coordinates.run(x)
        return soft_norm(made.output, trial.weights_of(()), 0.1)[0] + barrier * trial.barrier(made)

    made = coordinates.run(x)
    cotangent = soft_norm(made.output, trial.weights_of(()), 0.1)[1]
    gradient, _ = coordinates.gradient(made, cotangent, barrier)
    for index in range(len(x)):
        h = torch.zeros_like(x)
        h[index] = 1e-5
        assert float(gradient[index]) == pytest.approx((value(x + h) - value(x - h)) / 2e-5, rel=1e-5, abs=1e-8)


def test_barriers_are_log_determinants(plan):
    trial = Trial(plan, fuse=False)
    multipliers = {k: v * (1.0 if k == 0 else 1.2) for k, v in start(trial, 0.25).multipliers.items()}
    made = trial.run(lambda position, _: multipliers[position], keep=True)
    expected = 0.0
    for position, step in enumerate(plan.steps):
        if position not in multipliers or not isinstance(step, Activate | Mask):
            continue
        M, sides = materialise(evaluate(plan, multipliers)[step.source], step.sides), step.sides
        pixels = math.prod(sides)
        rows = step.unstable.nonzero().flatten() if isinstance(step, Activate) else step.rows
        n = len(M) // pixels
        where = (np.arange(pixels)[:, None] * n + rows.numpy()).reshape(-1)
        D = multipliers[position]
        D = np.kron(np.eye(pixels), torch.diag(D).numpy() if D.ndim == 1 else D.numpy())
        share = np.linalg.solve(D, D - M[np.ix_(where, where)])
        expected -= np.linalg.slogdet(share)[1] / pixels
    assert trial.barrier(made) == pytest.approx(expected, rel=1e-9)


def test_a_multiplier_that_is_not_feasible_is_enlarged_until_it_is():
    plan = dense_chain([torch.eye(2), torch.eye(2)])
    made = Trial(plan).run(lambda position, _: torch.tensor([0.5, 0.9], dtype=torch.float64), repairs=40)
    assert made.feasible
    assert 1.0 < float(made.multipliers[2].min()) < 1.15
    assert not Trial(plan).run(lambda position, _: torch.full((2,), torch.nan), repairs=40).feasible


def test_multipliers_that_are_not_feasible_are_signalled():
    plan = dense_chain([torch.eye(2), torch.eye(2)])
    registers = evaluate(plan, {2: torch.tensor([2.0, 0.9], dtype=torch.float64)})
    assert registers[1].isfinite().all()
    assert registers[2].isnan().all()
    assert registers[3].isnan().all()


def test_without_a_range_of_slopes_the_register_is_the_exact_covariance():
    slopes = torch.tensor([1.0, 0.5], dtype=torch.float64)
    W = torch.tensor([[3.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    plan = Plan((Start((), 2), Linear(0, (), NONE, W[None]), Activate(1, (), slopes, slopes)))
    J = torch.diag(slopes) @ W
    torch.testing.assert_close(evaluate(plan, {})[-1][0], J @ J.mT, rtol=1e-14, atol=0)


def test_single_precision_agrees_to_its_digits(plan):
    multipliers = {k: v * (1.0 if k == 0 else 1.01) for k, v in next(iter(closed_forms(plan))).items()}
    exact = evaluate(plan, multipliers)[-1]
    trial = Trial(plan, torch.float32)
    made = trial.run(lambda position, _: multipliers[position].float())
    torch.testing.assert_close(made.output.double(), exact, rtol=1e-4, atol=1e-4 * float(exact.abs().max()))


def test_a_plan_moves_to_its_own_device_unchanged(plan):
    multipliers = next(iter(closed_forms(plan)))
    moved = evaluate(move_plan(plan, "cpu"), multipliers)[-1]
    assert torch.equal(moved, evaluate(plan, multipliers)[-1])


def test_the_pass_drops_registers_that_nothing_reads_again():
    trial = Trial(spatial("plain"))
    made = start(trial, 0.0)
    assert [position for position, register in enumerate(made.registers) if register is not None] == [9]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_closed_form_is_feasible(plan, shape):
    assert start(Trial(plan), shape).feasible
