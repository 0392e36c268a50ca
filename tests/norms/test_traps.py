"""What other code gets wrong, one counter-example each: the bracket must hold the truth, not the usual answer."""

from __future__ import annotations

import math

import pytest
import torch

from certify.norms import (
    batch_norm_upper,
    convolution,
    enclose,
    enclose_conv,
    max_pool_upper,
    upsample_nearest_upper,
)
from tests.norms.exact_norms import impulses

F64 = torch.float64


def truth_of(kernel, size, **geometry):
    """SVD of the matrix by impulses."""
    return float(torch.linalg.svdvals(impulses(kernel, size, **geometry))[0])


def holds(found, truth):
    assert found.lower <= truth * (1 + 1e-12)
    assert truth * (1 - 1e-12) <= found.upper


@pytest.fixture(params=["matrix", "symbol"])
def proof(request, monkeypatch):
    """Both ways to prove a bound of a convolution."""
    if request.param == "symbol":
        monkeypatch.setattr(convolution, "MOST_DENSE_SIDE", 0)
    return request.param


def test_circular_grid_of_the_image_is_no_bound_for_zero_padding(proof):
    found = enclose_conv(torch.tensor([[[-1.0, 2.0, -1.0]]]), (5,), padding=1)
    holds(found, 2 + math.sqrt(3))
    assert found.upper > 3.7


@pytest.mark.parametrize("seed", range(60))
def test_circular_grid_of_the_image_is_no_bound_for_random_kernels(seed, monkeypatch):
    monkeypatch.setattr(convolution, "MOST_DENSE_SIDE", 0)
    torch.manual_seed(seed)
    kernel = torch.randn(1, 1, 3, 3)
    assert truth_of(kernel, (5, 5), padding=1) <= enclose_conv(kernel, (5, 5), padding=1).upper


def test_groups_take_the_maximum(proof):
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(8, 8, 3, padding=1, groups=4)
    kernel = layer.weight.detach() * 0.3
    found = enclose_conv(kernel, (16, 16), padding=1, groups=4)
    assert found.lower <= 0.391562
    assert 0.391560 <= found.upper <= 0.4003
    any_size = enclose_conv(kernel, None, padding=1, groups=4)
    assert any_size.lower <= 0.400298
    assert 0.400296 <= any_size.upper <= 0.4003 * 1.0025


def test_reshaped_kernel_is_not_the_operator(proof):
    ones = torch.ones(1, 1, 3, 3)
    found = enclose_conv(ones, (8, 8), padding=1)
    holds(found, 8.290859369381589)
    assert float(torch.linalg.svdvals(ones.flatten(1))[0]) == pytest.approx(3.0)
    assert 9.0 <= enclose_conv(ones, None, padding=1).upper <= 9.0 * 1.0025


def test_small_weights_are_not_pushed_towards_zero():
    assert enclose(torch.tensor([[1e-5]])).lower == pytest.approx(1e-5, rel=1e-6)
    assert enclose(torch.tensor([[1e-5]])).upper >= float(torch.tensor(1e-5))


@pytest.mark.parametrize("seed", range(5))
def test_upper_is_not_below_the_norm_in_float32(seed):
    torch.manual_seed(seed)
    A = torch.randn(64, 48)
    assert enclose(A).upper >= float(torch.linalg.svdvals(A.double())[0]) * (1 - 1e-15)


@pytest.mark.parametrize("taps,truth", [([0.0, 0.0, 0.0], 0.0), ([1.0, -1.0], 2.0), ([1.0, 0.0, 1.0], 2.0)])
def test_zero_blocks_are_no_division_by_zero(taps, truth):
    kernel = torch.tensor([[taps]])
    found = enclose_conv(kernel, (8,), padding=[(0, len(taps) - 1)], padding_mode="circular")
    assert found.lower <= truth <= found.upper <= truth * (1 + 1e-12)


@pytest.mark.parametrize("scale", [1e-25, 1e30])
def test_squares_neither_underflow_nor_overflow_in_float32(scale):
    found = enclose(torch.full((4, 4), scale))
    assert found.lower <= 4 * float(torch.tensor(scale)) <= found.upper <= 4.1 * scale


def test_kernel_larger_than_a_circular_image_is_wrapped():
    torch.manual_seed(0)
    kernel = torch.randn(3, 3, 5, 5, dtype=F64)
    geometry = {"padding": 2, "padding_mode": "circular"}
    found = enclose_conv(kernel, (3, 3), **geometry)
    holds(found, truth_of(kernel, (3, 3), **geometry))
    cut = torch.fft.fft2(kernel, s=(3, 3)).permute(2, 3, 0, 1)
    assert found.lower > float(torch.linalg.svdvals(cut).max()) * 1.01


def test_unstrided_norm_divided_by_the_stride_is_no_bound():
    torch.manual_seed(0)
    kernel = torch.randn(4, 3, 3, 3, dtype=F64)
    found = enclose_conv(kernel, (8, 8), stride=2, padding=1, padding_mode="circular")
    assert found.lower > 10.9639 / 2
    holds(found, truth_of(kernel, (8, 8), stride=2, padding=1, padding_mode="circular"))


def test_even_circular_kernel_with_larger_output(proof):
    torch.manual_seed(0)
    kernel = torch.randn(3, 3, 2, 2, dtype=F64)
    found = enclose_conv(kernel, (7, 7), padding=1, padding_mode="circular")
    holds(found, truth_of(kernel, (7, 7), padding=1, padding_mode="circular"))
    assert found.upper >= 10.079974


def test_reflecting_padding_is_neither_zero_nor_circular(proof):
    box = torch.full((1, 1, 3, 3), 1.0, dtype=F64) / 9.0
    found = enclose_conv(box, (6, 6), padding=1, padding_mode="reflect")
    holds(found, truth_of(box, (6, 6), padding=1, padding_mode="reflect"))
    assert found.upper >= 1.0767128


@pytest.mark.parametrize("mode,value", [("reflect", 11.962190), ("replicate", 12.031447)])
def test_copying_paddings_exceed_the_supremum_of_the_symbol(mode, value, proof):
    torch.manual_seed(0)
    kernel = torch.randn(3, 3, 3, 3, dtype=F64)
    found = enclose_conv(kernel, (6, 6), padding=1, padding_mode=mode)
    holds(found, truth_of(kernel, (6, 6), padding=1, padding_mode=mode))
    assert found.upper >= value * (1 - 1e-7) if proof == "matrix" else True
    assert enclose_conv(kernel, None, padding=1, padding_mode=mode).upper >= found.lower


def test_overlapping_max_pool_is_not_one_lipschitz():
    assert max_pool_upper((3, 3), (2, 2), (1, 1), norm="l2") >= 2.0


def test_batch_norm_gain_has_the_root_the_epsilon_and_the_magnitude():
    gain = batch_norm_upper(torch.tensor([-2.0]), torch.tensor([4.0]), 0.0)
    assert 1.0 <= gain <= 1.0 + 1e-15


def test_upsampling_stretches():
    assert upsample_nearest_upper((2, 2), norm="l2") == 2.0
