"""Metamorphic checks: what must hold between two brackets, where no truth is at hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.norms import enclose, enclose_conv, enclose_conv_l1, enclose_conv_linf, enclose_l1, enclose_linf
from certify.norms.cholesky import gram
from certify.norms.correlations import correlate
from certify.norms.geometry import describe
from certify.norms.symbol import Grid, Symbol, polyphase, unravel
from tests.norms.exact_norms import impulses

F64 = torch.float64
ENCLOSURES = {"l2": enclose, "l1": enclose_l1, "linf": enclose_linf}
everyday = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def matrices(draw, most=8):
    m, n, seed = draw(st.integers(1, most)), draw(st.integers(1, most)), draw(st.integers(0, 2**20))
    kind = draw(st.sampled_from(["gaussian", "integers", "sparse"]))
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(m, n, generator=generator, dtype=F64)
    if kind == "integers":
        A = torch.round(A * 2.0)
    return A * (torch.rand(m, n, generator=generator) < 0.5) if kind == "sparse" else A


def meet(a, b):
    return max(a.lower, b.lower) <= min(a.upper, b.upper)


@everyday
@given(matrices(), st.integers(-900, 900), st.sampled_from(sorted(ENCLOSURES)))
def test_scaling_by_a_power_of_two_is_exact(A, k, norm):
    plain, scaled = ENCLOSURES[norm](A), ENCLOSURES[norm](A * 2.0**k)
    assert (scaled.lower, scaled.upper) == (math.ldexp(plain.lower, k), math.ldexp(plain.upper, k))


@everyday
@given(matrices())
def test_transpose(A):
    assert meet(enclose(A), enclose(A.mT))
    assert meet(enclose_l1(A), enclose_linf(A.mT))


@everyday
@given(matrices(), st.integers(0, 2**20))
def test_permutation_and_signs(A, seed):
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.randperm(side, generator=generator) for side in A.shape)
    signs = torch.where(torch.rand(A.shape[0], 1, generator=generator) < 0.5, -1.0, 1.0)
    assert meet(enclose(A), enclose((signs * A)[rows][:, columns]))


@everyday
@given(matrices(), matrices())
def test_block_diagonal_has_the_larger_norm(A, B):
    whole, first, second = enclose(torch.block_diag(A, B)), enclose(A), enclose(B)
    assert whole.lower <= max(first.upper, second.upper)
    assert max(first.lower, second.lower) <= whole.upper


@everyday
@given(matrices(), st.integers(1, 8), st.integers(1, 8))
def test_submatrix_has_no_larger_norm(A, m, n):
    for enclosure in ENCLOSURES.values():
        assert enclosure(A[:m, :n]).lower <= enclosure(A).upper


@everyday
@given(matrices(), st.integers(1, 8), st.integers(0, 2**20))
def test_product_has_no_larger_norm_than_the_norms(A, columns, seed):
    B = torch.round(4 * torch.randn(A.shape[1], columns, generator=torch.Generator().manual_seed(seed), dtype=F64))
    assert enclose(torch.round(A) @ B).lower <= enclose(torch.round(A)).upper * enclose(B).upper * (1 + 2.0**-52)


@everyday
@given(matrices())
def test_interpolation_between_l1_and_linf(A):
    assert enclose(A).lower <= math.sqrt(enclose_l1(A).upper) * math.sqrt(enclose_linf(A).upper) * (1 + 2.0**-50)


@st.composite
def convolutions(draw):
    """A kernel, a size and a geometry that fit together; one or two dimensions."""
    dims = draw(st.integers(1, 2))
    taps = [draw(st.integers(1, 4)) for _ in range(dims)]
    groups = draw(st.integers(1, 2))
    channels = [groups * draw(st.integers(1, 2)), draw(st.integers(1, 2))]
    stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    mode = draw(st.sampled_from(["zeros", "zeros", "circular", "reflect", "replicate"]))
    sizes = [draw(st.integers(2, 6)) for _ in range(dims)]
    most = min(sizes) - 1
    pairs = [(draw(st.integers(0, most)), draw(st.integers(0, most))) for _ in range(dims)]
    kernel = torch.randn(*channels, *taps, generator=torch.Generator().manual_seed(draw(st.integers(0, 2**20)))).half()
    reach = dilation * (max(taps) - 1) + 1
    geometry = {"stride": stride, "dilation": dilation, "groups": groups, "padding": pairs, "padding_mode": mode}
    fits = all(n + sum(pair) >= reach for n, pair in zip(sizes, pairs, strict=True))
    return (kernel, tuple(sizes), geometry) if fits else (kernel, (reach,) * dims, {**geometry, "padding": 0})


@settings(max_examples=150, deadline=None, derandomize=True)
@given(convolutions())
def test_convolutions_of_any_geometry_meet_the_svd_of_their_matrix(case):
    kernel, size, geometry = case
    A = impulses(kernel, size, **geometry)
    truth = float(torch.linalg.svdvals(A)[0])
    found = enclose_conv(kernel, size, **geometry)
    assert found.lower <= truth * (1 + 1e-12) + 1e-300
    assert truth * (1 - 1e-12) <= found.upper
    assert truth * (1 - 1e-12) <= enclose_conv(kernel, None, **geometry).upper
    for enclosure, dim in ((enclose_conv_linf, 1), (enclose_conv_l1, 0)):
        largest = float(A.abs().sum(dim).max())
        sums = enclosure(kernel, size, **geometry)
        assert sums.lower <= largest * (1 + 1e-12)
        assert largest * (1 - 1e-12) <= sums.upper


@everyday
@given(convolutions(), st.integers(-200, 200))
def test_convolutions_scale_exactly(case, k):
    kernel, size, geometry = case
    plain = enclose_conv(kernel.double(), size, **geometry)
    scaled = enclose_conv(kernel.double() * 2.0**k, size, **geometry)
    assert (scaled.lower, scaled.upper) == (math.ldexp(plain.lower, k), math.ldexp(plain.upper, k))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_zero_padded_norms_grow_with_the_image_towards_the_supremum(n):
    kernel = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(n))
    small, large = (enclose_conv(kernel, (side, side), padding=1) for side in (n, n + 1))
    assert small.lower <= large.upper
    assert large.lower <= enclose_conv(kernel, None, padding=1).upper


@pytest.mark.parametrize("sides", [(5, 6), (4, 5), (1, 7), (3, 1), (3, 4, 5)])
@pytest.mark.parametrize("halved", [False, True])
def test_neighbours_of_a_frequency_hold_it(sides, halved):
    grid = Grid(sides, halved)
    for place in range(grid.size):
        found = set(grid.neighbours(grid.turns(torch.tensor([place]))).tolist())
        assert {place, int(grid.negatives[place])} & found
        assert found <= set(grid.distinct.tolist())


def frequencies(grid, places):
    """The chosen frequencies of a grid as integers, in half steps."""
    index = torch.stack(unravel(places, grid.counts), 1)
    return {tuple(2 * f + grid.halved for f in row) for row in index.tolist()}


@pytest.mark.parametrize("sides", [(5, 6), (4, 5), (1, 7), (3, 1), (1,), (2, 2), (8, 8), (3, 4, 5), (2, 4, 6)])
@pytest.mark.parametrize("halved", [False, True])
def test_distinct_frequencies_and_their_negatives_are_the_grid(sides, halved):
    grid = Grid(sides, halved)
    kept = frequencies(grid, grid.distinct)
    negatives = {tuple(-f % (2 * side) for f, side in zip(row, sides, strict=True)) for row in kept}
    assert kept | negatives == set(itertools.product(*(range(int(halved), 2 * side, 2) for side in sides)))


@pytest.mark.parametrize("near", [False, True])
def test_the_parts_of_a_grid_hold_each_distinct_frequency_of_each_group_once(near, monkeypatch):
    monkeypatch.setattr("certify.norms.symbol.BLOCK_NUMBERS", 64)
    grid = Grid((5, 6))
    first = grid.neighbours((0.2, 0.5)) if near else None
    parts = Symbol(torch.ones(3, 2, 2, 3, 3, dtype=F64), (1, 1)).parts(grid, first)
    found = [(group, place) for part in parts for group in range(3)[part.groups] for place in part.places.tolist()]
    assert sorted(found) == sorted(itertools.product(range(3), grid.distinct.tolist()))


@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("shape", [(3, 2, 3, 3), (2, 4, 2, 5), (2, 2, 1, 1), (2, 2, 5)])
def test_correlations_give_the_same_gram_matrices(shape, halved):
    kernel = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    symbol, grid = Symbol(kernel, (1,) * (len(shape) - 2)), Grid((6, 5)[: len(shape) - 2], halved)
    for part in symbol.parts(grid):
        direct, correlated = gram(symbol.matrices(grid, part)), correlate(kernel)
        there = correlated.grams(part.groups, symbol._phases(grid, part.places, correlated.shifts))
        difference = torch.linalg.matrix_norm(direct.matrices - there.matrices, ord=2).max()
        assert float(difference) <= direct.error + there.error + 3.0 * symbol.error * 60.0


@pytest.mark.parametrize("strides,dilations", [((2,), (1,)), ((3,), (2,)), ((2, 3), (1, 2))])
def test_polyphase_kernel_holds_every_weight_once(strides, dilations):
    kernel = torch.randn(2, 3, 2, *[4] * len(strides), generator=torch.Generator().manual_seed(0), dtype=F64)
    split = polyphase(kernel, strides, dilations)
    assert sorted(split[split != 0].tolist()) == sorted(kernel.flatten().tolist())


BAD = {
    "groups": {"groups": 3},
    "no groups": {"groups": 0},
    "stride": {"stride": 0},
    "strides": {"stride": (1, 1)},
    "dilation": {"dilation": 0},
    "negative padding": {"padding": -1},
    "paddings": {"padding": (1, 1)},
    "mode": {"padding_mode": "mirror"},
    "reflect too far": {"padding_mode": "reflect", "padding": 5},
    "turn too far": {"padding_mode": "circular", "padding": 6},
    "transposed mode": {"padding_mode": "circular", "transposed": True},
    "output padding": {"output_padding": 1},
    "large output padding": {"output_padding": 2, "transposed": True, "stride": 2},
    "no output": {"dilation": 9},
}


@pytest.mark.parametrize("name", BAD)
def test_arguments_that_do_not_fit_are_refused(name):
    with pytest.raises(ValueError, match="expected"):
        describe(torch.ones(4, 2, 3), (5,), **BAD[name])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradient_modes_change_nothing(mode):
    outside = enclose_conv(torch.ones(2, 3, 3, requires_grad=True), (5,), padding=1)
    with mode():
        assert enclose_conv(torch.ones(2, 3, 3, requires_grad=True), (5,), padding=1) == outside
        assert enclose_conv(torch.ones(3, 2, 3), (5,), padding=1).upper > 0.0


@pytest.mark.parametrize("shape", [(3,), (3, 3), (1, 1, 2, 2, 2, 2)])
def test_kernels_of_other_dimensions_are_refused(shape):
    with pytest.raises(ValueError, match="kernel"):
        enclose_conv(torch.ones(shape), (5,))


@pytest.mark.parametrize("enclosure", [enclose_conv, enclose_conv_l1, enclose_conv_linf])
@pytest.mark.parametrize("size", [(5,), None])
def test_zero_and_empty_kernels_have_norm_zero(enclosure, size):
    for shape in ((2, 2, 3), (0, 2, 3), (2, 0, 3)):
        found = enclosure(torch.zeros(shape), size, padding=1)
        assert (found.lower, found.upper) == (0.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("enclosure", [enclose_conv, enclose_conv_l1, enclose_conv_linf])
def test_kernels_that_are_not_finite_are_refused(enclosure, bad):
    with pytest.raises(ValueError, match="finite"):
        enclosure(torch.tensor([[[1.0, bad]]]), (5,))


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e300])
def test_extreme_kernels_keep_their_bracket(scale):
    kernel = torch.tensor([[[1.0, -2.0, 1.0]]], dtype=F64) * scale
    truth = float(torch.linalg.svdvals(impulses(kernel / scale, (5,), padding=1))[0])
    found = enclose_conv(kernel, (5,), padding=1)
    assert found.lower / scale <= truth * (1 + 1e-3)
    assert truth * (1 - 1e-3) <= found.upper / scale
