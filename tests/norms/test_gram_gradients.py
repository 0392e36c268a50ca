"""The Gram iteration as a training-time bound: gradients, batches, devices, and what breaks other code."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, vmap

from certify.norms import (
    GramEstimate,
    gram_bound,
    gram_bound_conv,
    gram_estimate,
    gram_upper_conv,
    kernel_product_bound,
)
from certify.norms.gram import MOST_STEPS, times_power_of_two

F64 = torch.float64
TAPS = {
    "circular": {"padding": 1, "padding_mode": "circular"},
    "zeros": {"padding": 1},
    "strided": {"padding": 1, "stride": 2},
    "groups": {"padding": 1, "groups": 2},
    "reflect": {"padding": 1, "padding_mode": "reflect"},
}


def random(*shape, dtype=F64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def closed_form(G, steps):
    U, sigma, Vh = torch.linalg.svd(G, full_matrices=False)
    s = 2 ** (steps + 1)
    bound = sigma[0] * ((sigma / sigma[0]) ** s).sum() ** (1 / s)
    return U @ torch.diag((sigma / bound) ** (s - 1)) @ Vh


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (1, 3), (3, 1)])
@pytest.mark.parametrize("steps", [0, 1, 2, 5, 12, 40])
def test_gradient_is_the_closed_form(shape, steps):
    G = random(*shape).requires_grad_()
    gram_bound(G, steps).backward()
    assert torch.allclose(G.grad, closed_form(G.detach(), steps), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("steps", [0, 1, 3, 6])
def test_gradient_is_the_finite_difference(steps):
    G = random(2, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda weight: gram_bound(weight, steps), (G,))
    assert torch.autograd.gradcheck(lambda weight: gram_estimate(weight, steps).upper_estimate, (G,))
    assert torch.autograd.gradcheck(lambda weight: gram_estimate(weight, steps).lower_estimate, (G,))


@pytest.mark.parametrize("name", TAPS)
def test_gradient_of_convolutions_is_the_finite_difference(name):
    kernel = random(4, 4 if name != "groups" else 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda K: gram_bound_conv(K, (6,), steps=3, **TAPS[name]), (kernel,))
    assert torch.autograd.gradcheck(lambda K: gram_bound_conv(K, None, steps=3, **TAPS[name]), (kernel,))


def test_gradient_of_kernel_products_is_the_finite_difference():
    assert torch.autograd.gradcheck(lambda K: kernel_product_bound(K, 2), (random(3, 2, 3, 2).requires_grad_(),))


def test_second_derivatives_exist():
    assert torch.autograd.gradgradcheck(lambda weight: gram_bound(weight, 2), (random(3, 2).requires_grad_(),))


@pytest.mark.parametrize("steps", [1, 6, 100])
def test_zero_blocks_have_value_and_gradient_zero(steps):
    weight = random(3, 4, 4)
    weight[1] = 0.0
    weight.requires_grad_()
    bounds = gram_bound(weight, steps)
    bounds.sum().backward()
    assert (bounds > 0).tolist() == [True, False, True]
    assert bounds[1].item() == 0.0
    assert bool(torch.isfinite(weight.grad).all())
    assert not bool(weight.grad[1].any())
    ends = gram_estimate(weight.detach(), steps)
    assert float(ends.lower_estimate[1]) == float(ends.upper_estimate[1]) == 0.0


@pytest.mark.parametrize("taps,truth", [([0.0, 0.0, 0.0], 0.0), ([1.0, -1.0], 2.0), ([1.0, 0.0, 1.0], 2.0)])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_kernels_with_a_spectral_null(taps, truth, dtype):
    kernel = torch.tensor([[taps]], dtype=dtype, requires_grad=True)
    geometry = {"padding": [(0, len(taps) - 1)], "padding_mode": "circular"}
    bound = gram_bound_conv(kernel, (8,), **geometry)
    bound.backward()
    assert bound.item() == pytest.approx(truth, rel=1e-6)
    assert bool(torch.isfinite(kernel.grad).all())
    assert truth <= gram_upper_conv(kernel, (8,), **geometry) <= truth * (1 + 1e-12)


@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-25, 1e30, 5e37])
def test_any_scale_in_float32(scale):
    A = torch.full((4, 4), scale, requires_grad=True)
    bound = gram_bound(A, 6)
    bound.backward()
    assert bound.item() == pytest.approx(4 * float(A.detach()[0, 0]), rel=1e-5)
    if scale > 1e-30:  # the gradient passes through numbers of the scale of the weight
        assert A.grad.flatten().tolist() == pytest.approx([0.25] * 16, rel=1e-5)
    kernel = A.detach()[:, :, None].requires_grad_()
    assert gram_bound_conv(kernel, (3,)).item() == pytest.approx(bound.item(), rel=1e-5)
    assert kernel_product_bound(kernel).item() == pytest.approx(bound.item(), rel=1e-5)


@pytest.mark.parametrize("steps", [MOST_STEPS, 130, 200, 10**6])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_many_steps_stay_finite(steps, dtype):
    G = random(8, 5, dtype=dtype).requires_grad_()
    bound = gram_bound(G, steps)
    bound.backward()
    truth = float(torch.linalg.svdvals(G.detach().to(F64))[0])
    assert bound.item() == pytest.approx(truth, rel=1e-5)
    assert float(torch.linalg.vector_norm(G.grad)) == pytest.approx(1.0, rel=1e-3)


def test_float32_values_fall_below_the_truth_and_are_not_called_upper():
    below = 0
    for seed in range(40):
        G = random(64, 48, dtype=torch.float32, seed=seed)
        truth = float(torch.linalg.svdvals(G.to(F64))[0])
        below += float(gram_bound(G, 10)) < truth * (1 - 1e-9)
    assert below > 4
    assert not {"upper", "lower"} & set(GramEstimate.__dataclass_fields__)


def test_steps_are_taken_one_by_one():
    G = random(50, 40)
    values = [float(gram_bound(G, steps)) for steps in range(8)]
    assert all(b < a for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("shape", [(3, 2, 5, 4), (7, 4, 5), (0, 3, 2), (2, 0, 3)])
def test_batches(shape):
    weight = random(*shape)
    found = gram_bound(weight, 4)
    assert found.shape == shape[:-2]
    if weight.numel():
        single = [float(gram_bound(matrix, 4)) for matrix in weight.reshape(-1, *shape[-2:])]
        assert found.flatten().tolist() == pytest.approx(single, rel=1e-14)
    else:
        assert not bool(found.any())


def test_function_transforms():
    weight = random(3, 5, 4)
    assert torch.allclose(vmap(gram_bound)(weight), gram_bound(weight))
    gradients = vmap(grad(lambda matrix: gram_bound(matrix, 3)))(weight)
    for matrix, gradient in zip(weight, gradients, strict=True):
        assert torch.allclose(gradient, closed_form(matrix, 3))
    kernels = random(2, 3, 2, 3)
    many = vmap(lambda kernel: gram_bound_conv(kernel, (5,), padding=1))(kernels)
    assert torch.allclose(many, torch.stack([gram_bound_conv(kernel, (5,), padding=1) for kernel in kernels]))


def test_inference_mode_and_autocast_change_nothing():
    weight, kernel = random(6, 4, dtype=torch.float32), random(3, 2, 3, dtype=torch.float32)
    geometry = {"padding": 2, "dilation": 2}
    with torch.inference_mode():
        inside = float(gram_bound_conv(kernel, (11,), **geometry))
    assert float(gram_bound_conv(kernel.clone().requires_grad_(), (11,), **geometry).detach()) == inside
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(gram_bound(weight)) == float(gram_bound(weight.clone()))
        cast = [gram_bound(weight), gram_bound_conv(kernel, (11,), **geometry), kernel_product_bound(kernel)]
    plain = [gram_bound(weight), gram_bound_conv(kernel, (11,), **geometry), kernel_product_bound(kernel)]
    assert [float(value) for value in cast] == [float(value) for value in plain]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    weight = random(6, 4).to(dtype).requires_grad_()
    bound = gram_bound(weight)
    bound.backward()
    assert bound.dtype == torch.float32
    assert float(bound.detach()) == float(gram_bound(weight.detach().float()))
    assert weight.grad.dtype == dtype


def test_training_step_lowers_the_norm():
    weight = random(8, 8).requires_grad_()
    optimiser = torch.optim.SGD([weight], lr=0.5)
    before = float(torch.linalg.matrix_norm(weight.detach(), 2))
    for _ in range(10):
        optimiser.zero_grad()
        gram_bound(weight, 4).backward()
        optimiser.step()
    assert float(torch.linalg.matrix_norm(weight.detach(), 2)) < 0.6 * before


def test_nan_is_never_hidden():
    weight = random(2, 3, 3)
    weight[1, 0, 0] = math.nan
    assert gram_bound(weight).isnan().tolist() == [False, True]
    assert bool(gram_bound_conv(weight, (4,)).isnan())
    with pytest.raises(ValueError, match="finite"):
        gram_estimate(weight)


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.ones(2, 2, dtype=torch.int64)])
def test_what_is_no_matrix_of_floats_is_refused(bad):
    with pytest.raises(ValueError, match="expected"):
        gram_bound(bad)
    with pytest.raises(ValueError, match="expected"):
        gram_bound_conv(bad, None)


@pytest.mark.parametrize("steps", [0, 4])
def test_kernel_products_refuse_other_numbers_of_steps(steps):
    with pytest.raises(ValueError, match="1 to 3"):
        kernel_product_bound(random(2, 2, 3), steps)


def test_kernel_products_refuse_copying_paddings():
    with pytest.raises(ValueError, match="padding"):
        kernel_product_bound(random(2, 2, 3), padding=1, padding_mode="reflect")


@pytest.mark.parametrize("dtype,least,most", [(torch.float32, -149, 127), (F64, -1074, 1023)])
def test_powers_of_two_are_exact(dtype, least, most):
    powers = torch.arange(least, most + 1).to(dtype)
    found = times_power_of_two(torch.ones_like(powers), powers)
    assert found.tolist() == [math.ldexp(1.0, int(power)) for power in powers.tolist()]


everyday = settings(max_examples=60, deadline=None, derandomize=True)


@everyday
@given(st.integers(0, 2**20), st.integers(-500, 500), st.integers(0, 9))
def test_scaling_by_a_power_of_two_is_exact(seed, k, steps):
    m, n = torch.randint(1, 8, (2,), generator=torch.Generator().manual_seed(seed)).tolist()
    for dtype, power in ((F64, k), (torch.float32, k // 6)):
        A = random(m, n, dtype=dtype, seed=seed)
        B = A * 2.0**power
        assert float(gram_bound(B, steps)) == math.ldexp(float(gram_bound(A, steps)), power)
        plain, scaled = gram_estimate(A, steps), gram_estimate(B, steps)
        assert float(scaled.lower_estimate) == math.ldexp(float(plain.lower_estimate), power)
        assert float(scaled.upper_estimate) == math.ldexp(float(plain.upper_estimate), power)
        kernel = A[:, :, None] * torch.tensor([1.0, -0.5], dtype=dtype)
        bound = float(gram_bound_conv(kernel, (5,), padding=1, steps=steps))
        assert float(gram_bound_conv(kernel * 2.0**power, (5,), padding=1, steps=steps)) == math.ldexp(bound, power)


@everyday
@given(st.integers(0, 2**20), st.integers(0, 9))
def test_lower_and_upper_are_ordered_and_hold_up_to_rounding(seed, steps):
    m, n = torch.randint(1, 8, (2,), generator=torch.Generator().manual_seed(seed)).tolist()
    A = random(m, n, seed=seed)
    found, truth = gram_estimate(A, steps), float(torch.linalg.svdvals(A)[0])
    assert float(found.lower_estimate) <= truth * (1 + 1e-12)
    assert truth * (1 - 1e-12) <= float(found.upper_estimate) <= float(gram_bound(A, steps)) * (1 + 1e-14)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: torch.cuda.is_available() is false")
@pytest.mark.parametrize("dtype,relative", [(torch.float32, 1e-5), (F64, 1e-12)])
def test_same_numbers_on_cuda(dtype, relative):
    weight, kernel = random(3, 20, 10, dtype=dtype), random(4, 3, 3, 3, dtype=dtype)
    for geometry in ({"padding": 1}, {"padding": 1, "stride": 2}, {"padding": 1, "padding_mode": "circular"}):
        here = gram_bound_conv(kernel, (8, 8), **geometry)
        there = gram_bound_conv(kernel.cuda(), (8, 8), **geometry)
        assert float(there) == pytest.approx(float(here), rel=relative)
    assert gram_bound(weight.cuda()).tolist() == pytest.approx(gram_bound(weight).tolist(), rel=relative)
    assert float(kernel_product_bound(kernel.cuda())) == pytest.approx(
        float(kernel_product_bound(kernel)), rel=relative
    )
    powers = torch.arange(-120, 120).to(dtype)
    assert torch.equal(times_power_of_two(torch.ones_like(powers).cuda(), powers.cuda()).cpu(), torch.exp2(powers))
