"""The closed forms of the last layer against Hessians by automatic differentiation."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from certify.curvature import last_layer_curvature, mean_largest


def batch(seed: int, count: int = 6, features: int = 4, classes: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    a, W = (torch.randn(rows, features, generator=random, dtype=torch.float64) for rows in (count, classes))
    labels = torch.randint(classes, (count,), generator=random)
    return a, 2.0 * W, a @ (2.0 * W).T, labels


def hessian(a: Tensor, W: Tensor, label: Tensor) -> Tensor:
    """Return the Hessian of the mean loss in the entries of W, row by row."""

    def loss(weight: Tensor) -> Tensor:
        return F.cross_entropy(a @ weight.reshape(W.shape).T, label)

    return torch.autograd.functional.hessian(loss, W.reshape(-1))


@pytest.mark.parametrize("seed", range(4))
def test_each_example_has_the_curvature_of_its_hessian(seed: int) -> None:
    a, W, z, labels = batch(seed)
    found = last_layer_curvature(a, z, labels)
    for i in range(len(a)):
        H = hessian(a[i : i + 1], W, labels[i : i + 1])
        assert found.largest[i].item() == pytest.approx(torch.linalg.eigvalsh(H)[-1].item(), rel=1e-9)
        assert found.trace[i].item() == pytest.approx(torch.trace(H).item(), rel=1e-9)
        weight = W.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(a[i : i + 1] @ weight.T, labels[i : i + 1]), weight)
        assert found.gradient[i].item() == pytest.approx(gradient.norm().item(), rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_bounds_of_the_text_hold(seed: int) -> None:
    a, _, z, labels = batch(seed, count=50, classes=7)
    found, p = last_layer_curvature(a, z, labels), z.softmax(1)
    slack = 1.0 + 1e-12
    for limit in (torch.full((50,), 0.5).double(), p.amax(1), 1.0 - p.square().sum(1)):
        assert bool((found.largest <= found.squares * limit * slack).all())
    assert bool((found.gradient <= math.sqrt(2.0) * found.squares.sqrt() * slack).all())


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_hessian(seed: int) -> None:
    a, W, z, labels = batch(seed, count=20)
    H, found = hessian(a, W, labels), last_layer_curvature(a, z, labels)
    ritz = mean_largest(a, z)
    truth = torch.linalg.eigvalsh(H)[-1].item()
    assert ritz.value == pytest.approx(truth, rel=1e-8)
    assert ritz.residual < 1e-6
    assert truth <= found.largest.mean().item() * (1.0 + 1e-12)
    assert found.trace.mean().item() == pytest.approx(torch.trace(H).item(), rel=1e-9)


def test_what_noise_on_the_weight_adds_is_reported_for_the_batch() -> None:
    a, _, z, labels = batch(0)
    found = last_layer_curvature(a, z, labels, sigma=0.2)
    assert found.decay_bound == pytest.approx(0.02 * a.square().sum(1).mean().item(), rel=1e-12)


def test_saturated_logits_have_no_curvature_and_no_nan() -> None:
    found = last_layer_curvature(torch.ones(2, 3), torch.tensor([[1e4, 0.0], [-1e4, 1e4]]), torch.tensor([0, 1]))
    assert found.largest.tolist() == found.trace.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("shapes", [((3, 2), (2, 4), (3,)), ((3,), (3, 4), (3,)), ((0, 2), (0, 4), (0,))])
def test_shapes_that_do_not_fit(shapes: tuple[tuple[int, ...], ...]) -> None:
    a, z, labels = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"expected activations \[N, features\]"):
        last_layer_curvature(a, z, labels.long())


def test_where_one_class_has_all_but_nothing_of_the_probability_the_digits_are_kept() -> None:
    """For two classes with q = p_1 p_2 everything is known: 2 q ||a||^2, and sqrt 2 (1 - p_y) ||a||."""
    a, margin = torch.tensor([[3e8, 4e8]], dtype=torch.float64), 37.0
    z = torch.tensor([[margin, 0.0]], dtype=torch.float64)
    found, other = last_layer_curvature(a, z, torch.tensor([0])), 1.0 / (1.0 + math.exp(margin))
    exact = 2.0 * other * (1.0 - other) * 25e16
    assert found.largest.item() == pytest.approx(exact, rel=1e-12)
    assert found.trace.item() == pytest.approx(exact, rel=1e-12)
    assert found.gradient.item() == pytest.approx(math.sqrt(2.0) * other * 5e8, rel=1e-12)
    assert mean_largest(a, z).value == pytest.approx(exact, rel=1e-12)
