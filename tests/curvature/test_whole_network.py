"""Estimates of the whole network's curvature against dense Hessians of small networks."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify.curvature import (
    MeanEstimate,
    gradient_norms,
    hessian_of,
    hutch_plus_plus,
    hutchinson,
    jacobian_norms,
    largest_eigenvalues,
    smoothed_loss_gap,
)
from certify.errors import InputError


def network() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double().eval()
    return module, torch.randn(260, 3).double(), torch.randint(3, (260,))


def dense_hessian(module: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    names = [name for name, _ in module.named_parameters()]
    values = [value.detach() for value in module.parameters()]
    sizes = [value.numel() for value in values]

    def loss(flat: Tensor) -> Tensor:
        parts = [part.reshape(like.shape) for part, like in zip(flat.split(sizes), values, strict=True)]
        return F.cross_entropy(torch.func.functional_call(module, dict(zip(names, parts, strict=True)), (x,)), labels)

    return torch.autograd.functional.hessian(loss, torch.cat([value.reshape(-1) for value in values]))


def test_products_are_those_of_the_hessian_of_the_mean_over_all_rows() -> None:
    module, x, labels = network()
    H, products = dense_hessian(module, x, labels), hessian_of(module, x, labels)
    assert products.size == len(H)
    v = torch.randn(len(H), dtype=torch.float64)
    assert torch.allclose(products(v), H @ v, rtol=1e-9, atol=1e-12)


def test_the_ends_of_the_spectrum_and_the_trace() -> None:
    module, x, labels = network()
    H, products = dense_hessian(module, x, labels), hessian_of(module, x, labels)
    values = torch.linalg.eigvalsh(H)
    largest, steepest = largest_eigenvalues(products, products.size)
    assert largest.value == pytest.approx(values[-1].item(), rel=1e-8)
    assert steepest.value == pytest.approx(values[values.abs().argmax()].item(), rel=1e-8)
    together = hutchinson(products, products.size, samples=60, columns_at_once=25)
    for estimate in (together, hutch_plus_plus(products, products.size, columns_at_once=4)):
        assert abs(estimate.value - torch.trace(H).item()) <= 5.0 * estimate.standard_error


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("steps", [1, 3, 8, 40])
def test_a_ritz_value_is_never_above_the_largest_eigenvalue_and_its_residual_reaches_one(steps: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    A = torch.randn(12, 12, generator=random, dtype=torch.float64)
    H = A + A.mT
    values = torch.linalg.eigvalsh(H)
    for found in largest_eigenvalues(lambda v: H @ v, 12, steps=steps, seed=seed):
        assert found.value <= values[-1].item() + 1e-12 * values.abs().max().item()
        assert float((values - found.value).abs().min()) <= found.residual + 1e-12 * values.abs().max().item()


@pytest.mark.parametrize("H", [torch.zeros(5, 5), torch.eye(5), torch.ones(5, 5), -torch.eye(5)])
def test_spaces_that_are_used_up_early(H: Tensor) -> None:
    exact = torch.linalg.eigvalsh(H.double())
    largest, steepest = largest_eigenvalues(lambda v: H.double() @ v, 5)
    assert largest.value == pytest.approx(exact[-1].item(), abs=1e-12)
    assert steepest.value == pytest.approx(exact[exact.abs().argmax()].item(), abs=1e-12)


def test_hutchinson_has_the_variance_of_the_formula() -> None:
    A = torch.randn(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    H, count = A + A.mT, 20_000
    found = hutchinson(lambda v: H @ v, 8, samples=count, columns_at_once=5000)
    variance = 2.0 * (H.square().sum() - H.diagonal().square().sum()).item()
    assert found.standard_error == pytest.approx(math.sqrt(variance / count), rel=0.05)
    assert abs(found.value - torch.trace(H).item()) <= 4.0 * found.standard_error


@pytest.mark.parametrize("estimate", [hutchinson, hutch_plus_plus])
def test_how_many_columns_run_side_by_side_changes_no_vector(estimate: Callable[..., MeanEstimate]) -> None:
    A = torch.randint(-3, 4, (6, 6), generator=torch.Generator().manual_seed(0)).double()
    H, widths = A + A.mT, set()

    def product(V: Tensor) -> Tensor:
        widths.add(V.shape[1])
        return H @ V

    alone = estimate(product, 6, samples=9, columns_at_once=1)
    assert widths == {1}
    together = estimate(product, 6, samples=9, columns_at_once=2)
    assert widths == {1, 2}
    assert together.samples == pytest.approx(alone.samples, rel=1e-12)
    assert together.known == pytest.approx(alone.known, rel=1e-12)


def test_hutch_plus_plus_is_exact_where_a_third_of_the_samples_spans_the_space() -> None:
    A = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    H = A @ A.mT
    found = hutch_plus_plus(lambda v: H @ v, 20, samples=12)
    assert found.value == pytest.approx(torch.trace(H).item(), rel=1e-10)
    assert hutch_plus_plus(lambda v: H[:2, :2] @ v, 2, samples=99).value == pytest.approx(
        torch.trace(H[:2, :2]).item(), rel=1e-10
    )


def test_the_gap_of_a_small_sigma_is_that_of_the_trace_and_the_weights_are_put_back() -> None:
    module, x, labels = network()
    before = [value.detach().clone() for value in module.parameters()]
    trace = torch.trace(dense_hessian(module, x, labels)).item()
    gap = smoothed_loss_gap(module, x, labels, sigma=1e-3, pairs=400)
    assert abs(gap.value - 0.5e-6 * trace) <= 4.0 * gap.standard_error
    assert gap.standard_error < 0.1 * abs(gap.value)
    assert all(bool((now == then).all()) for now, then in zip(module.parameters(), before, strict=True))


def test_the_gap_of_a_linear_network_is_within_the_bound_of_its_activations() -> None:
    torch.manual_seed(0)
    layer, x, labels = nn.Linear(4, 3, bias=False).double().eval(), torch.randn(9, 4).double(), torch.arange(9) % 3
    for sigma in (0.1, 0.5, 1.0):
        gap = smoothed_loss_gap(layer, x, labels, sigma=sigma, pairs=500)
        bound = 0.5 * sigma**2 * x.square().sum(1).mean().item()
        assert -4.0 * gap.standard_error <= gap.value <= bound + 4.0 * gap.standard_error


def test_measured_slopes() -> None:
    module, x, labels = network()
    spectral, frobenius = jacobian_norms(module, x[:5])
    gradients = gradient_norms(module, x[:5], labels[:5])
    for i in range(5):
        J = torch.autograd.functional.jacobian(module, x[i])
        assert spectral[i].item() == pytest.approx(torch.linalg.matrix_norm(J, ord=2).item(), rel=1e-9)
        assert frobenius[i].item() == pytest.approx(J.norm().item(), rel=1e-9)
        p = module(x[i]).softmax(0).detach()
        p[labels[i]] -= 1.0
        assert gradients[i].item() == pytest.approx((J.mT @ p).norm().item(), rel=1e-9)
        assert gradients[i].item() <= math.sqrt(2.0) * spectral[i].item() * (1.0 + 1e-12)


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x, labels = network()
    with pytest.raises(InputError, match="evaluation mode"):
        hessian_of(module.train(), x, labels)
    with pytest.raises(InputError, match="parameters"):
        hessian_of(nn.ReLU().eval(), x, labels)
    with pytest.raises(ValueError, match="positive size"):
        largest_eigenvalues(lambda v: v, 0)
    with pytest.raises(ValueError, match="finite products"):
        largest_eigenvalues(lambda v: v * math.nan, 3)
    with pytest.raises(ValueError, match="at least 1 sample"):
        hutchinson(lambda v: v, 3, samples=0)
    with pytest.raises(ValueError, match="at least 3 samples"):
        hutch_plus_plus(lambda v: v, 3, samples=2)
    with pytest.raises(ValueError, match="positive sigma"):
        smoothed_loss_gap(module.eval(), x, labels, sigma=0.0)
    monkeypatch.setitem(sys.modules, "curvlinops", None)
    with pytest.raises(InputError, match=r"pip install \"certify-nn\[curvature\]\""):
        hessian_of(module, x, labels)
