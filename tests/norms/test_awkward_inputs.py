"""Inputs that break norm estimators, through every proof: against exact arithmetic, and without loss of tightness."""

from __future__ import annotations

import math

import pytest
import torch

from certify.norms import enclose, enclose_conv
from tests.norms.exact_norms import ExactNorm, impulses
from tests.norms.test_convolution_exact import ROUTES, leave

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def rotation(n):
    return torch.linalg.qr(randn(n, n))[0]


def rank_one():
    outer = [randn(3).reshape(3, 1, 1), randn(2, seed=1).reshape(1, 2, 1), randn(3, seed=2).reshape(1, 1, 3)]
    return (outer[0] * outer[1] * outer[2]).half()


def unequal_groups():
    return randn(4, 2, 3).half() * torch.tensor([1e-3, 1e-3, 1.0, 1.0]).half().reshape(4, 1, 1)


ZEROS, TURN = {"padding": 1}, {"padding": 1, "padding_mode": "circular"}
# name: kernel, input size, geometry
CONVOLUTIONS = {
    "one tap in one channel": (lambda: torch.tensor([[[0.0, 3.0, 0.0]]]), (5,), ZEROS),
    "one weight of many": (lambda: torch.zeros(3, 2, 3).index_fill(2, torch.tensor([2]), 0.5), (5,), ZEROS),
    "spectral null": (lambda: torch.tensor([[[1.0, -1.0]]]), (6,), {"padding": [(0, 1)]}),
    "spectral null, circular": (
        lambda: torch.tensor([[[1.0, -1.0]]]),
        (6,),
        {"padding": [(0, 1)], "padding_mode": "circular"},
    ),
    "spectral null at zero": (lambda: torch.tensor([[[1.0, -2.0, 1.0]]]), (7,), ZEROS),
    "orthogonal channels": (lambda: rotation(3)[:, :, None], (4,), {}),
    "orthogonal channels, shifted": (lambda: torch.cat([torch.zeros(3, 3, 2), rotation(3)[:, :, None]], 2), (5,), TURN),
    "rank one": (rank_one, (5,), ZEROS),
    "rank one, circular": (rank_one, (5,), TURN),
    "1e-30": (lambda: randn(2, 2, 3).float() * 1e-30, (5,), ZEROS),
    "1e30": (lambda: randn(2, 2, 3).float() * 1e30, (5,), ZEROS),
    "1e30, circular": (lambda: randn(2, 2, 3).float() * 1e30, (5,), TURN),
    "float32 subnormals": (lambda: randn(2, 2, 3).float() * 1e-42, (5,), ZEROS),
    "float64 subnormals": (lambda: randn(2, 2, 3) * 1e-321, (5,), ZEROS),
    "60 orders apart": (lambda: randn(2, 2, 3) * torch.tensor([1e-30, 1.0, 1e30], dtype=F64), (5,), ZEROS),
    "one input channel": (lambda: randn(5, 1, 3).half(), (4,), ZEROS),
    "one output channel": (lambda: randn(1, 5, 3).half(), (4,), ZEROS),
    "one pixel": (lambda: randn(2, 3, 3).half(), (1,), ZEROS),
    "one output": (lambda: randn(2, 3, 4).half(), (4,), {}),
    "one output row": (lambda: randn(2, 1, 3, 3).half(), (3, 5), {"padding": (0, 1)}),
    "unequal groups": (unequal_groups, (4,), {**ZEROS, "groups": 2}),
    "a group of zeros": (lambda: torch.cat([torch.zeros(2, 2, 3), torch.ones(2, 2, 3)]), (4,), {**ZEROS, "groups": 2}),
    "kernel above image": (lambda: randn(2, 2, 9).half(), (3,), {"padding": 4}),
    "kernel above image, circular": (lambda: randn(2, 2, 7).half(), (3,), {"padding": 3, "padding_mode": "circular"}),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_hold_the_exact_norm(name, route, monkeypatch):
    leave(route, monkeypatch)
    build, size, geometry = CONVOLUTIONS[name]
    kernel = build()
    exact = ExactNorm(impulses(kernel, size, **geometry))
    found = enclose_conv(kernel, size, **geometry)
    assert exact.at_most(found.upper), found
    assert exact.at_least(found.lower), found


@pytest.mark.parametrize("name", [name for name in CONVOLUTIONS if name != "float64 subnormals"])
def test_convolutions_keep_their_tightness(name):
    build, size, geometry = CONVOLUTIONS[name]
    found = enclose_conv(build(), size, **geometry)
    assert 0.0 < found.upper <= found.lower * (1 + 1e-11), found


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("size", [(5,), None])
def test_one_bad_weight_is_refused(bad, size):
    kernel = randn(2, 2, 3)
    kernel[1, 0, 2] = bad
    with pytest.raises(ValueError, match="finite"):
        enclose_conv(kernel, size, padding=1)


MATRICES = {
    "one row": lambda: randn(1, 9),
    "one column": lambda: randn(9, 1),
    "one entry": lambda: torch.tensor([[-3.0]]),
    "one entry of many": lambda: torch.zeros(7, 5).index_put((torch.tensor(6), torch.tensor(0)), torch.tensor(2.0)),
    "orthogonal": lambda: rotation(8),
    "orthogonal columns": lambda: rotation(8)[:, :3],
    "rank one": lambda: (randn(7, 1) @ randn(1, 5, seed=1)).half(),
    "1e-30": lambda: randn(5, 4).float() * 1e-30,
    "1e30": lambda: randn(5, 4).float() * 1e30,
    "float32 subnormals": lambda: randn(5, 4).float() * 1e-42,
    "300 orders apart": lambda: randn(5, 3) * torch.tensor([1e-150, 1.0, 1e150], dtype=F64),
    "equal columns": lambda: torch.ones(6, 4) / 3.0,
    "almost equal singular values": lambda: torch.eye(6, dtype=F64) + 1e-15 * randn(6, 6),
}


@pytest.mark.parametrize("name", MATRICES)
def test_matrices_hold_the_exact_norm_and_stay_tight(name):
    A = MATRICES[name]()
    exact, found = ExactNorm(A), enclose(A)
    assert exact.at_most(found.upper), found
    assert exact.at_least(found.lower), found
    assert 0.0 < found.upper <= found.lower * (1 + 1e-12), found
