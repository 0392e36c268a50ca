"""Gains of normalisations against rational arithmetic and sampled Jacobians."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch.nn import functional

from certify.norms import batch_norm_scales, batch_norm_upper, normalization_upper, reciprocal_upper

F64 = torch.float64


def draws(seed, count=50):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(count, generator=generator)
    variance = torch.rand(count, generator=generator) * 10.0 ** torch.randint(-8, 4, (count,), generator=generator)
    return weight, variance


@pytest.mark.parametrize("eps", [1e-5, 1e-3, 0.0, 1e-12])
@pytest.mark.parametrize("seed", range(5))
def test_batch_norm_scales_are_rounded_up(seed, eps):
    weight, variance = draws(seed)
    nearest, upper = batch_norm_scales(weight, variance, eps)
    for w, v, near, above in zip(weight.tolist(), variance.tolist(), nearest.tolist(), upper.tolist(), strict=True):
        square = Fraction(w) ** 2 / (Fraction(v) + Fraction(eps))
        assert square <= Fraction(above) ** 2
        assert above <= abs(near) * (1 + 1e-15)
        assert math.copysign(1.0, near) == math.copysign(1.0, w)
    assert batch_norm_upper(weight, variance, eps) == float(upper.max())


def test_batch_norm_without_weight_counts_ones():
    assert 2.0 <= batch_norm_upper(None, torch.tensor([0.25, 1.0]), 0.0) <= 2.0 + 1e-14


def test_batch_norm_of_zero_weight_is_zero():
    assert batch_norm_upper(torch.zeros(2), torch.ones(2), 1e-5) == 0.0


@pytest.mark.parametrize(
    "weight,variance,eps",
    [
        (torch.ones(1), torch.tensor([0.0]), 0.0),
        (torch.ones(1), torch.tensor([-1.0]), 2.0),
        (torch.ones(1), torch.tensor([math.nan]), 1e-5),
        (torch.tensor([math.inf]), torch.ones(1), 1e-5),
        (torch.ones(1), torch.ones(1), math.nan),
        (torch.ones(1), torch.ones(1), -1e-5),
        (torch.ones(2), torch.ones(3), 1e-5),
    ],
)
def test_batch_norm_refuses_what_has_no_gain(weight, variance, eps):
    with pytest.raises(ValueError, match="expected"):
        batch_norm_upper(weight, variance, eps)
    with pytest.raises(ValueError, match="expected"):
        batch_norm_scales(weight, variance, eps)


@pytest.mark.parametrize("eps", [1e-5, 1e-2])
def test_layer_norm_gain_holds_and_is_attained_at_constant_inputs(eps):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, generator=generator, dtype=F64)
    upper = normalization_upper(weight, eps)
    for scale in (0.0, 1e-4, 1e-2, 1.0, 100.0):
        x = scale * torch.randn(6, generator=generator, dtype=F64)
        jacobian = torch.autograd.functional.jacobian(lambda v: functional.layer_norm(v, (6,), weight, None, eps), x)
        assert float(torch.linalg.svdvals(jacobian)[0]) <= upper
    ones = torch.autograd.functional.jacobian(
        lambda v: functional.rms_norm(v, (6,), weight, eps), torch.zeros(6, dtype=F64)
    )
    assert float(torch.linalg.svdvals(ones)[0]) >= upper * (1 - 1e-12)


@pytest.mark.parametrize("eps", [1e-5, 1e-12, 0.1, 3.0])
def test_normalization_gain_is_rounded_up(eps):
    weight = torch.tensor([0.1, -3.7])
    assert Fraction(float(weight[1])) ** 2 <= Fraction(normalization_upper(weight, eps)) ** 2 * Fraction(eps)


def test_normalization_without_epsilon_has_no_gain():
    assert normalization_upper(None, 0.0) == math.inf
    with pytest.raises(ValueError, match="eps"):
        normalization_upper(None, -1.0)
    with pytest.raises(ValueError, match="eps"):
        normalization_upper(None, math.nan)


@pytest.mark.parametrize("std", [[0.229, 0.224, 0.225], [-0.5], [3.0, 1e-300]])
def test_reciprocal_is_rounded_up(std):
    values = torch.tensor(std, dtype=F64)
    assert all(Fraction(reciprocal_upper(values)) * abs(Fraction(entry)) >= 1 for entry in values.tolist())


@pytest.mark.parametrize("std", [[0.0], [1.0, math.nan], [math.inf]])
def test_reciprocal_refuses_what_it_cannot_divide_by(std):
    with pytest.raises(ValueError, match="expected"):
        reciprocal_upper(torch.tensor(std))
