"""`enclose_conv` and its l1 and linf companions against the exact norm of the matrix built by impulses.

Kernels are float16 numbers, so that the sums of weights which reflecting paddings make are exact in float64.
"""

from __future__ import annotations

import math

import pytest
import torch

from certify.norms import conv_gram, convolution, enclose_conv, enclose_conv_l1, enclose_conv_linf, torus
from tests.norms.exact_norms import ExactNorm, impulses

# name: kernel shape, input size, geometry
CASES = {
    "1-D same": ((2, 3, 3), (5,), {"padding": 1}),
    "1-D valid": ((2, 3, 3), (6,), {}),
    "1-D even kernel": ((2, 2, 4), (5,), {"padding": 2}),
    "1-D one-sided padding": ((2, 2, 3), (5,), {"padding": [(2, 0)]}),
    "1-D asymmetric": ((2, 2, 4), (5,), {"padding": [(1, 2)]}),
    "1-D dilated": ((2, 2, 3), (6,), {"padding": 2, "dilation": 2}),
    "1-D strided": ((3, 2, 3), (8,), {"padding": 1, "stride": 2}),
    "1-D stride above kernel": ((2, 2, 2), (9,), {"stride": 4}),
    "1-D stride, dilation": ((2, 2, 3), (9,), {"padding": 3, "stride": 2, "dilation": 3}),
    "1-D kernel above image": ((2, 2, 7), (3,), {"padding": 3}),
    "1-D padding above kernel": ((2, 2, 2), (4,), {"padding": 4}),
    "1-D huge padding, strided": ((2, 2, 2), (4,), {"padding": 7, "stride": 3}),
    "1-D depthwise": ((4, 1, 3), (5,), {"padding": 1, "groups": 4}),
    "1-D groups": ((4, 2, 3), (5,), {"padding": 1, "groups": 2}),
    "1-D transposed": ((2, 3, 3), (4,), {"transposed": True}),
    "1-D transposed strided": ((2, 2, 4), (4,), {"transposed": True, "stride": 2, "padding": 1}),
    "1-D output padding": ((2, 2, 3), (4,), {"transposed": True, "stride": 2, "padding": 1, "output_padding": 1}),
    "1-D output padding by dilation": (
        (2, 2, 3),
        (4,),
        {"transposed": True, "stride": 2, "dilation": 4, "padding": 2, "output_padding": 3},
    ),
    "1-D transposed groups": ((4, 1, 3), (4,), {"transposed": True, "groups": 2, "stride": 2}),
    "1-D circular": ((2, 3, 3), (5,), {"padding": 1, "padding_mode": "circular"}),
    "1-D circular smaller": ((2, 2, 4), (6,), {"padding": [(1, 0)], "padding_mode": "circular"}),
    "1-D circular larger": ((2, 2, 2), (5,), {"padding": 1, "padding_mode": "circular"}),
    "1-D circular kernel above image": ((2, 2, 5), (3,), {"padding": 2, "padding_mode": "circular"}),
    "1-D circular strided": ((2, 2, 3), (8,), {"padding": 1, "stride": 2, "padding_mode": "circular"}),
    "1-D circular strided, odd": ((2, 2, 3), (7,), {"padding": 1, "stride": 2, "padding_mode": "circular"}),
    "1-D circular dilated": ((2, 2, 3), (7,), {"padding": 2, "dilation": 2, "padding_mode": "circular"}),
    "1-D reflect": ((2, 2, 3), (5,), {"padding": 1, "padding_mode": "reflect"}),
    "1-D reflect asymmetric": ((2, 2, 4), (5,), {"padding": [(3, 1)], "padding_mode": "reflect"}),
    "1-D replicate": ((2, 2, 5), (4,), {"padding": 2, "padding_mode": "replicate"}),
    "1-D replicate strided": ((2, 2, 5), (6,), {"padding": 4, "stride": 2, "padding_mode": "replicate"}),
    "1-D one element": ((1, 1, 1), (1,), {}),
    "2-D same": ((2, 2, 3, 3), (3, 4), {"padding": 1}),
    "2-D valid": ((2, 2, 2, 3), (4, 4), {}),
    "2-D wide": ((1, 5, 3, 3), (3, 3), {"padding": 1}),
    "2-D tall": ((6, 1, 3, 3), (4, 4), {"padding": 1}),
    "2-D strided": ((3, 2, 3, 3), (4, 5), {"padding": 1, "stride": 2}),
    "2-D two strides": ((2, 2, 2, 3), (4, 5), {"padding": (1, 0), "stride": (1, 2)}),
    "2-D dilated": ((2, 1, 2, 2), (4, 5), {"padding": 1, "dilation": (2, 1)}),
    "1-D cut patches": ((2, 2, 4), (2,), {"padding": 1, "stride": 4}),
    "1-D dilated patches": ((2, 2, 2), (9,), {"dilation": 2, "stride": 3}),
    "2-D patches": ((3, 2, 2, 2), (4, 4), {"stride": 2}),
    "2-D depthwise": ((3, 1, 3, 3), (3, 3), {"padding": 1, "groups": 3}),
    "2-D groups": ((4, 1, 2, 2), (4, 4), {"padding": 1, "groups": 2}),
    "2-D transposed": ((2, 2, 3, 3), (3, 3), {"transposed": True, "padding": 1}),
    "2-D transposed strided": ((2, 1, 2, 2), (3, 3), {"transposed": True, "stride": 2}),
    "2-D circular": ((2, 2, 3, 3), (3, 4), {"padding": 1, "padding_mode": "circular"}),
    "2-D circular strided": ((2, 1, 3, 3), (4, 6), {"padding": 1, "stride": 2, "padding_mode": "circular"}),
    "2-D circular even": ((1, 2, 2, 2), (4, 4), {"padding": 1, "padding_mode": "circular"}),
    "2-D reflect": ((2, 1, 3, 3), (4, 4), {"padding": 1, "padding_mode": "reflect"}),
    "2-D replicate": ((2, 1, 3, 3), (3, 3), {"padding": 1, "padding_mode": "replicate"}),
    "2-D 1x1": ((3, 4, 1, 1), (2, 2), {}),
    "3-D same": ((1, 2, 3, 3, 3), (2, 2, 3), {"padding": 1}),
    "3-D strided": ((2, 1, 2, 2, 2), (2, 4, 3), {"padding": (0, 1, 1), "stride": (1, 2, 1)}),
    "3-D circular": ((1, 2, 3, 3, 3), (2, 2, 3), {"padding": 1, "padding_mode": "circular"}),
    "3-D transposed": ((1, 2, 2, 2, 2), (2, 2, 2), {"transposed": True}),
    "3-D replicate": ((1, 1, 3, 3, 3), (2, 2, 2), {"padding": 1, "padding_mode": "replicate"}),
}
SEEDS = range(2)
EVERYDAY = 6  # of each kind: more than 300 convolutions
MANY = 40  # of each kind and route in the slow run: more than 10,000

NO_MATRIX = {(convolution, "MOST_DENSE_SIDE"): 0}
# which proofs are left: all; a band in block columns of about two rows first; none by a matrix; of these a torus less
# its waves first; none by a matrix or a grid of known size; none but the unfolded kernel
ROUTES = {
    "all": {},
    "band": {
        (convolution, "LEAST_BANDED_SIDE"): 0,
        (convolution, "_is_small"): lambda conv: False,
        (conv_gram, "GOOD_BLOCK"): 2,
    },
    "symbols": NO_MATRIX,
    "waves": {
        **NO_MATRIX,
        (convolution, "LEAST_DEFLATED_CHANNELS"): 1,
        (convolution, "THOROUGH_OPERATIONS"): 0.0,
    },
    "size-free": {
        **NO_MATRIX,
        (torus, "DENSITIES"): (8,),
        (torus, "operations"): lambda symbol, grid: _only_size_free(grid),
    },
    "unfolded": {**NO_MATRIX, (torus, "operations"): lambda symbol, grid: math.inf},
}


def _only_size_free(grid):
    return 0.0 if all(side == 1 or side % 8 == 0 for side in grid.sides) else math.inf


def kernel_of(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.randn(shape, generator=generator).half()
    if seed % 2:  # groups and channels of very unequal size
        kernel = kernel * torch.logspace(0, -2, shape[0]).half().reshape(-1, *[1] * (len(shape) - 1))
    return kernel


@pytest.fixture(
    scope="module", params=[(name, seed) for name in CASES for seed in SEEDS], ids=lambda p: f"{p[0]}-{p[1]}"
)
def case(request):
    name, seed = request.param
    shape, size, geometry = CASES[name]
    kernel = kernel_of(shape, seed)
    matrix = impulses(kernel, size, **geometry)
    return kernel, size, geometry, matrix, ExactNorm(matrix)


def check(name, seeds):
    """Hold brackets of one kind against the exact norm; both ends, no tolerance."""
    shape, size, geometry = CASES[name]
    for seed in seeds:
        kernel = kernel_of(shape, seed)
        exact = ExactNorm(impulses(kernel, size, **geometry))
        found = enclose_conv(kernel, size, **geometry)
        assert exact.at_most(found.upper), (seed, found)
        assert exact.at_least(found.lower), (seed, found)


def leave(route, monkeypatch):
    for (module, name), value in ROUTES[route].items():
        monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", CASES)
def test_bracket_holds_the_exact_norm(name, route, monkeypatch):
    leave(route, monkeypatch)
    check(name, range(EVERYDAY if route == "all" else len(SEEDS)))


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", CASES)
def test_bracket_holds_the_exact_norm_of_many(name, route, monkeypatch):
    leave(route, monkeypatch)
    check(name, range(100, 100 + MANY))


def test_bracket_of_small_maps_is_tight(case):
    kernel, size, geometry, *_ = case
    found = enclose_conv(kernel, size, **geometry)
    assert found.upper <= found.lower * (1 + 1e-11), found


def test_bound_of_every_size_holds_for_this_one(case):
    kernel, _, geometry, _, exact = case
    found = enclose_conv(kernel, None, **geometry)
    assert exact.at_most(found.upper), found


def test_row_and_column_sums_hold_the_exact_ones(case):
    kernel, size, geometry, matrix, _ = case
    for enclosure, dim in ((enclose_conv_linf, 1), (enclose_conv_l1, 0)):
        truth = max(math.fsum(line) for line in (matrix.abs() if dim else matrix.abs().T).tolist())
        found = enclosure(kernel, size, **geometry)
        assert found.lower <= truth <= found.upper, found  # fsum rounds once: exact here, the sums have few bits
        if geometry.get("padding_mode", "zeros") == "zeros":
            assert found.upper <= found.lower * (1 + 1e-12)
        assert truth <= enclosure(kernel, None, **geometry).upper


REACHED = {
    ("1-D same", "all"): "dense Cholesky",
    ("1-D same", "band"): "banded Cholesky",
    ("2-D groups", "band"): "banded Cholesky",
    ("3-D replicate", "band"): "banded Cholesky",
    ("1-D same", "symbols"): "torus 6",
    ("1-D strided", "symbols"): "polyphase torus",
    ("2-D transposed", "waves"): "less waves",
    ("2-D patches", "all"): "one matrix per patch",
    ("1-D cut patches", "all"): "dense Cholesky",
    ("1-D same", "size-free"): "size-free grid 16 (S)",
    ("1-D same", "unfolded"): "unfolded kernel",
    ("2-D circular", "symbols"): "circular symbol, exact grid",
    ("1-D circular smaller", "symbols"): "circular symbol, torus",
    ("1-D circular larger", "symbols"): "circular symbol, 2 x rows",
    ("1-D reflect", "symbols"): "x padding",
}


@pytest.mark.parametrize("name,route", REACHED)
def test_each_proof_is_reached(name, route, monkeypatch):
    leave(route, monkeypatch)
    shape, size, geometry = CASES[name]
    methods = (enclose_conv(kernel_of(shape, seed), size, **geometry).method for seed in range(20))
    assert any(REACHED[name, route] in method for method in methods)
