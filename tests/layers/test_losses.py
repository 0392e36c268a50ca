"""Training losses and penalties against their statements, small closed forms and finite differences."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify.layers import losses, noise, penalties
from certify.layers.pairs import certified_radii, pair_distances

RADII = (0.1, 0.5, 1.0, 2.0)


def batch(seed: int, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(200, classes, generator=random, dtype=torch.float64)
    labels = torch.randint(classes, (200,), generator=random)
    weight = torch.randn(classes, 3, generator=random, dtype=torch.float64)
    return logits, labels, pair_distances(weight)


def each(loss: object, logits: Tensor, labels: Tensor, **details: object) -> Tensor:
    rows = [loss(row.unsqueeze(0), label.unsqueeze(0), **details) for row, label in zip(logits, labels, strict=True)]
    return torch.stack(rows)


@pytest.mark.parametrize("temperature", [0.05, 0.25, 1.0, 4.0])
def test_an_example_that_is_not_certified_costs_at_least_ln_2(temperature: float) -> None:
    for radius in RADII:
        logits, labels, constants = batch(0)
        least = temperature * math.log(2.0) * (1.0 - 1e-12)
        pairwise = each(
            losses.pairwise_cross_entropy,
            logits,
            labels,
            radius=radius,
            pair_constants=constants,
            temperature=temperature,
        )
        assert bool((pairwise[certified_radii(logits, constants, labels) <= radius] >= least).all())
        whole = torch.full((5, 5), math.sqrt(2.0) * 0.7, dtype=torch.float64)
        margin = each(
            losses.margin_cross_entropy, logits, labels, radius=radius, lipschitz=0.7, temperature=temperature
        )
        assert bool((margin[certified_radii(logits, whole, labels) <= radius] >= least).all())


def test_gradients_of_losses_against_finite_differences() -> None:
    logits, labels, constants = batch(3)
    wanted = (logits[:4].requires_grad_(), (constants + torch.ones(5, 5)).requires_grad_())

    def pairwise(logits: Tensor, constants: Tensor) -> Tensor:
        return losses.pairwise_cross_entropy(logits, labels[:4], radius=0.5, pair_constants=constants, temperature=0.25)

    def hinge(logits: Tensor, constants: Tensor) -> Tensor:
        return losses.certificate_hinge(logits, labels[:4], radius=2.0, pair_constants=constants)

    def margin(logits: Tensor, constants: Tensor) -> Tensor:
        return losses.margin_cross_entropy(logits, labels[:4], radius=0.5, lipschitz=constants[0, 0])

    assert all(torch.autograd.gradcheck(loss, wanted) for loss in (pairwise, hinge, margin))


def test_the_hinge_is_zero_exactly_where_all_are_certified() -> None:
    logits, labels, constants = batch(1)
    radii = certified_radii(logits, constants, labels)
    for radius in RADII:
        expected = (radius - radii).clamp(min=0.0).mean()
        found = losses.certificate_hinge(logits, labels, radius=radius, pair_constants=constants)
        assert found.item() == pytest.approx(expected.item(), rel=1e-12)
        certified = radii >= radius
        if bool(certified.any()):
            alone = losses.certificate_hinge(
                logits[certified], labels[certified], radius=radius, pair_constants=constants
            )
            assert alone.item() == 0.0


def test_the_extra_logit_wins_exactly_where_there_is_no_certificate() -> None:
    logits, _, constants = batch(2)
    for radius in RADII:
        more = losses.with_abstention(logits, radius=radius, pair_constants=constants)
        abstains = more[:, -1] >= more[:, :-1].amax(1)
        assert abstains.tolist() == (certified_radii(logits, constants) <= radius).tolist()


def quadrature(K: int, order: int = 24) -> tuple[Tensor, Tensor]:
    """Return nodes ``[order^K, K]`` and weights of Gauss-Hermite quadrature for N(0, I)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    grid = torch.tensor(list(itertools.product(nodes, repeat=K)), dtype=torch.float64)
    mass = torch.tensor([math.prod(c) for c in itertools.product(weights / weights.sum(), repeat=K)]).double()
    return grid, mass


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0])
def test_activation_decay_bounds_what_noise_on_the_last_weight_adds(sigma: float) -> None:
    grid, mass = quadrature(3)
    for seed in range(10):
        random = torch.Generator().manual_seed(seed)
        W, a = (torch.randn(*shape, generator=random, dtype=torch.float64) for shape in ((3, 4), (1, 4)))
        label = torch.tensor([seed % 3])
        for bias in (False, True):
            spread = sigma * math.sqrt(float(a.square().sum()) + bias)  # of each logit, independent
            noisy = a @ W.T + spread * grid
            smoothed = (mass * F.cross_entropy(noisy, label.expand(len(grid)), reduction="none")).sum()
            plain = F.cross_entropy(a @ W.T, label)
            assert plain <= smoothed * (1.0 + 1e-9)
            assert smoothed <= (plain + penalties.activation_decay(a, sigma=sigma, bias=bias)) * (1.0 + 1e-9)


def test_the_gradient_of_the_gram_penalty_is_that_of_the_formula() -> None:
    layer = nn.Linear(4, 6, bias=False).double()
    with torch.no_grad():
        layer.weight.mul_(3.0)
    penalties.gram_penalty(layer, steps=3).backward()
    W = layer.weight.detach()
    U, S, V = torch.linalg.svd(W, full_matrices=False)
    bound = float((S**16).sum() ** (1 / 16))
    assert bound > 1.0
    assert torch.allclose(layer.weight.grad, U @ torch.diag(S**15) @ V / bound**16, rtol=1e-6)


def test_the_gram_penalty_adds_up_and_leaves_small_and_zero_weights_alone() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, (1, 2), bias=False), nn.Linear(3, 2), nn.Linear(2, 2)).double()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[[[1.0, -1.0]]]]))  # a spectral null at frequency 0
        network[1].weight.zero_()
        network[2].weight.copy_(torch.diag(torch.tensor([0.5, 0.25])))
    found = penalties.gram_penalty(network, steps=6)
    found.backward()
    assert found.item() == pytest.approx(math.log(2.0), rel=0.02)
    assert all(bool(torch.isfinite(part.weight.grad).all()) for part in network)
    assert float(network[1].weight.grad.abs().max()) == float(network[2].weight.grad.abs().max()) == 0.0
    assert penalties.gram_penalty(nn.ReLU()).item() == 0.0


@pytest.fixture
def smooth_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).double()


def test_the_jacobian_penalty_is_unbiased(smooth_network: nn.Module) -> None:
    x = torch.randn(6, 3, dtype=torch.float64)
    exact = sum(torch.autograd.functional.jacobian(smooth_network, row).square().sum() for row in x) / len(x)
    random = torch.Generator().manual_seed(0)
    found = penalties.jacobian_penalty(smooth_network, x, directions=4000, generator=random)
    assert found.item() == pytest.approx(float(exact), rel=0.02)


def test_the_input_gradient_is_that_of_finite_differences_and_within_its_bound(smooth_network: nn.Module) -> None:
    x, labels = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    gradients = penalties.input_gradients(smooth_network, x, labels).detach()
    for i, j in itertools.product(range(4), range(3)):
        step = torch.zeros_like(x)
        step[i, j] = 1e-6
        ends = [F.cross_entropy(smooth_network(x + s * step), labels, reduction="sum").item() for s in (1.0, -1.0)]
        assert gradients[i, j].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-8)
    jacobians = [torch.linalg.matrix_norm(torch.autograd.functional.jacobian(smooth_network, row), ord=2) for row in x]
    for gradient, norm in zip(gradients, jacobians, strict=True):
        assert gradient.norm().item() <= math.sqrt(2.0) * norm.item() * (1.0 + 1e-12)


@pytest.mark.parametrize("penalty", [penalties.input_gradient_penalty, penalties.curvature_penalty])
def test_penalties_can_be_trained_through(penalty: object, smooth_network: nn.Module) -> None:
    x, labels = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    names = [name for name, _ in smooth_network.named_parameters()]

    def run(*values: Tensor) -> Tensor:
        parameters = dict(zip(names, values, strict=True))
        return penalty(lambda z: torch.func.functional_call(smooth_network, parameters, (z,)), x, labels)

    assert torch.autograd.gradcheck(run, tuple(smooth_network.parameters()))


def test_the_curvature_penalty_of_a_parabola_is_its_curvature() -> None:
    def halves(x: Tensor) -> Tensor:  # with two classes of these logits the loss is ln(1 + exp(-x^2))
        return torch.cat([x.square(), torch.zeros_like(x)], dim=1)

    x, label, step = torch.tensor([[0.3]], dtype=torch.float64), torch.tensor([0]), 1e-4
    found = penalties.curvature_penalty(halves, x, label, step=step)
    second = torch.autograd.functional.hessian(lambda z: F.cross_entropy(halves(z), label), x).flatten()
    assert found.item() == pytest.approx(second.item() ** 2, rel=1e-2)


def test_consistency_is_cross_entropy_where_all_copies_agree() -> None:
    x, labels = torch.zeros(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    fixed = torch.randn(1, 3, generator=torch.Generator().manual_seed(0))
    found = noise.consistency_loss(lambda z: fixed.expand(len(z), 3), x, labels, sigma=0.5, entropy_weight=0.0)
    assert found.item() == pytest.approx(F.cross_entropy(fixed.expand(6, 3), labels).item(), rel=1e-6)


def test_consistency_is_the_formula_and_needs_two_copies() -> None:
    torch.manual_seed(0)
    network, x, labels = nn.Linear(3, 4), torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0])
    random = (torch.Generator().manual_seed(1) for _ in range(2))
    found = noise.consistency_loss(network, x, labels, sigma=0.3, copies=3, generator=next(random))
    again = next(random)
    logits = [network(noise.with_noise(x, 0.3, generator=again)) for _ in range(3)]
    p = torch.stack([row.softmax(1) for row in logits])
    mean = p.mean(0)
    disagreement = (mean * (mean / p).log()).sum(-1).mean()
    fit = torch.stack([F.cross_entropy(row, labels) for row in logits]).mean()
    expected = fit + 10.0 * disagreement - 0.5 * (mean * mean.log()).sum(-1).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    with pytest.raises(ValueError, match="at least 2 noisy copies"):
        noise.consistency_loss(network, x, labels, sigma=0.3, copies=1)
