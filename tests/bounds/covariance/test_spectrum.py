"""Largest eigenvalues of batches, by every route; frequencies of a torus against a full transform."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from certify.bounds.covariance import spectrum
from certify.bounds.covariance.spectrum import (
    aliases,
    folded,
    frequency_weights,
    half_spectrum,
    largest,
    largest_value,
    leading,
    mean,
    take,
)


def positive(count: int, n: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count + n)
    A = torch.randn(count, n, n, generator=generator, dtype=dtype)
    return A @ A.mH


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("count, n", [(1, 1), (1, 7), (2, 5), (40, 6)])
def test_the_largest_eigenvalue_is_found(count, n, dtype):
    M = positive(count, n, dtype)
    exact = float(torch.linalg.eigvalsh(M).max())
    value, position, vector = largest(M)
    assert value == pytest.approx(exact, rel=1e-10)
    torch.testing.assert_close(M[position] @ vector, value * vector, rtol=1e-7, atol=1e-7 * exact)
    assert largest_value(M) == pytest.approx(exact, rel=1e-10)


def test_where_decomposing_is_dear_the_value_is_near_and_not_above(monkeypatch):
    monkeypatch.setattr(spectrum, "EXACT", 0.0)
    M = positive(20, 8, torch.complex128)
    exact = float(torch.linalg.eigvalsh(M).max())
    assert 0.99 * exact <= largest(M)[0] <= exact * (1 + 1e-12)


def test_a_batch_that_is_not_finite_has_no_largest_eigenvalue():
    assert math.isnan(largest_value(torch.tensor([[[1.0, math.nan], [math.nan, 1.0]]])))


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_leading_vectors_are_unit_vectors_at_every_scale(scale):
    M = torch.cat((positive(3, 4, torch.float64), torch.zeros(1, 4, 4, dtype=torch.float64)))
    norms = torch.linalg.vector_norm(leading(scale * M), dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


@pytest.mark.parametrize("sides", [(4,), (5,), (4, 6), (3, 5), (2, 3, 4)])
def test_means_over_the_half_spectrum_are_means_over_all_of_it(sides):
    image = np.random.RandomState(0).randn(*sides)
    whole, half = np.abs(np.fft.fftn(image)) ** 2, np.abs(np.fft.rfftn(image)) ** 2
    values = torch.from_numpy(half.reshape(-1, 1))
    assert float(mean(values, frequency_weights(sides))) == pytest.approx(whole.mean(), rel=1e-12)


@pytest.mark.parametrize("sides, strides", [((4,), (2,)), ((3,), (3,)), ((2, 3), (2, 2)), ((5, 2), (1, 3))])
def test_a_stride_folds_the_spectrum_of_an_image(sides, strides):
    fine = tuple(side * stride for side, stride in zip(sides, strides, strict=True))
    image = np.random.RandomState(1).randn(*fine)
    every = image[tuple(slice(None, None, stride) for stride in strides)]
    transform = torch.from_numpy(np.fft.rfftn(image).reshape(-1, 1, 1))
    index, conjugate = aliases(sides, strides)
    total = sum(take(transform, i, c) for i, c in zip(index, conjugate, strict=True)) / math.prod(strides)
    np.testing.assert_allclose(total.flatten().numpy(), np.fft.rfftn(every).flatten(), atol=1e-12)
    back, turned = folded(sides, strides)
    for (m, b), t in zip(zip(half_spectrum(fine), back, strict=True), turned, strict=True):
        coarse = half_spectrum(sides)[b]
        assert torch.equal((-coarse if t else coarse) % torch.tensor(sides), m % torch.tensor(sides))
