"""Known answers: values in closed form, published ones, and ones computed by other programs (Lanczos to 1e-12, SVD)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from certify.norms import convolution, enclose, enclose_conv

F64 = torch.float64
ROUNDED = 1e-9  # the reference values below are printed with about this relative accuracy


def seeded(*shape, dtype=torch.float32):
    torch.manual_seed(0)
    return torch.randn(*shape, dtype=dtype)


def holds(found, value, width):
    """The bracket meets the printed value and is as narrow as stated."""
    assert found.lower <= value * (1 + ROUNDED)
    assert value * (1 - ROUNDED) <= found.upper
    assert found.upper - found.lower <= width * found.upper, found


@pytest.mark.parametrize(
    "build,value",
    [
        (lambda: seeded(500, 400, dtype=F64), 41.95174440966366),
        (lambda: seeded(1024, 1024) / 32, 2.0063027876552235),
        (lambda: gaussian(256, 256), 1.97164201081682),
        (lambda: gaussian(1024, 1024), 1.99540835293165),
    ],
    ids=["500x400", "1024x1024", "256x256", "1024x1024 numpy"],
)
def test_dense(build, value):
    holds(enclose(build()), value, 2e-10)


def gaussian(m, n):
    entries = np.random.default_rng(0).standard_normal((m, n)).astype(np.float32)
    return torch.tensor(entries / np.float32(np.sqrt(n)))


def test_start_orthogonal_to_the_answer_does_not_matter():
    v = torch.tensor([1.0, -1.0, 0.0, 0.0], dtype=F64) / math.sqrt(2)
    holds(enclose(torch.eye(4, dtype=F64) + 9 * torch.outer(v, v)), 10.0, 1e-13)


@pytest.mark.parametrize(
    "shape,n,circular,zero,zero_width",
    [
        ((64, 64, 3, 3), 32, 48.7052000676, 48.6410394052, 1.3e-3),
        ((32, 16, 3, 3), 32, 28.2561203057, 28.1897046919, 2e-3),
        ((16, 32, 5, 5), 16, 48.8250782809, 48.0145216199, 1e-9),
        ((64, 64, 3, 3), 7, None, 46.5563632658, 1e-9),
    ],
)
def test_convolutions(shape, n, circular, zero, zero_width):
    kernel = seeded(*shape)
    holds(enclose_conv(kernel, (n, n), padding=shape[-1] // 2), zero, zero_width)
    if circular is not None:
        found = enclose_conv(kernel, (n, n), padding=shape[-1] // 2, padding_mode="circular")
        assert found.method == "circular symbol, exact grid"
        holds(found, circular, 1e-11)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape,n,circular,zero,excess",
    [
        ((256, 256, 3, 3), 14, 96.6943479713, 95.9918142373, (6e-3, 2.5e-3)),
        ((512, 512, 3, 3), 7, 135.7605064657, 131.9877162971, (3e-2, 2e-2)),
    ],
)
def test_large_convolutions(shape, n, circular, zero, excess):
    kernel = seeded(*shape)
    holds(enclose_conv(kernel, (n, n), padding=1, padding_mode="circular"), circular, 1e-9)
    for most, over in zip((convolution.MOST_BANDED_OPERATIONS, convolution.THOROUGH_OPERATIONS), excess, strict=True):
        found = enclose_conv(kernel, (n, n), padding=1, most_operations=most)
        assert found.lower <= zero <= found.upper <= zero * (1 + over)


PADDED = [(1, 47.8725200514, 1e-8), (4, 48.1164880784, 2e-2)]


@pytest.mark.parametrize("padding,value,width", PADDED)
def test_padding_is_the_one_given(padding, value, width):
    found = enclose_conv(seeded(16, 32, 5, 5), (16, 16), padding=padding)
    holds(found, value, width)


@pytest.mark.parametrize(
    "shape,n,stride,value",
    [
        ((4, 3, 3, 3), 8, 2, 9.0798756116),
        ((8, 4, 3, 3), 6, 2, 9.9193306451),
        ((4, 4, 4, 4), 8, 2, 11.1859160056),
        ((4, 4, 7, 7), 12, 2, 20.0941929401),
        ((4, 4, 3, 3), 9, 3, 7.6703554625),
    ],
)
def test_strided_circular(shape, n, stride, value):
    k = shape[-1]
    pairs = [((k - 1) // 2, k // 2)] * 2
    found = enclose_conv(seeded(*shape, dtype=F64), (n, n), stride=stride, padding=pairs, padding_mode="circular")
    assert found.method == "polyphase circular symbol, exact grid"
    holds(found, value, 1e-11)


@pytest.mark.parametrize("n", [3, 5, 7])
def test_second_difference_in_two_dimensions(n):
    taps = torch.tensor([1.0, -2.0, 1.0])
    truth = (2 + 2 * math.cos(math.pi / (n + 1))) ** 2
    holds(enclose_conv(torch.outer(taps, taps)[None, None], (n, n), padding=1), truth, 1e-12)


@pytest.mark.parametrize("n", [3, 5, 7])
def test_half_moved_grid_is_exact_for_the_second_difference(n, monkeypatch):
    monkeypatch.setattr(convolution, "MOST_DENSE_SIDE", 0)
    taps = torch.tensor([[[1.0, -2.0, 1.0]]])
    found = enclose_conv(taps, (n,), padding=1)
    truth = 2 + 2 * math.cos(math.pi / (n + 1))
    assert truth * (1 - 1e-15) <= found.upper <= truth * (1 + 1e-12)
    assert "twisted" in found.method


def test_difference_of_any_size():
    found = enclose_conv(torch.tensor([[[1.0, -1.0]]]), None)
    assert found.lower <= 2.0 <= found.upper <= 2.0 * 1.0013


@pytest.mark.parametrize("shape,value", [((16, 32, 5, 5), 49.44507094943), ((64, 64, 3, 3), 48.74408998997)])
def test_any_size(shape, value):
    found = enclose_conv(seeded(*shape), None, padding=1)
    assert found.lower <= value <= found.upper <= found.lower * 1.0025


def test_patch_embedding_is_one_matrix():
    kernel = seeded(8, 3, 4, 4)
    truth = float(torch.linalg.svdvals(kernel.double().flatten(1))[0])
    for size in ((32, 32), None):
        holds(enclose_conv(kernel, size, stride=4), truth, 1e-11)
