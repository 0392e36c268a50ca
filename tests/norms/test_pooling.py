"""Pools, paddings and upsampling against their matrices by impulses, and pairs that attain the bounds."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn import functional

from certify.norms import (
    adaptive_max_pool_upper,
    enclose_adaptive_avg_pool,
    enclose_avg_pool,
    max_pool_upper,
    pad_upper,
    upsample_nearest_upper,
)

F64 = torch.float64
NORMS = ("l1", "l2", "linf")


def matrix(function, size):
    basis = torch.eye(math.prod(size), dtype=F64).reshape(-1, 1, *size)
    return function(basis).flatten(1).T


def true_norm(A, norm):
    if norm == "l2":
        return float(torch.linalg.svdvals(A)[0])
    return max(math.fsum(line) for line in (A.abs() if norm == "linf" else A.abs().T).tolist())


def holds(found, truth):
    assert found.lower <= truth * (1 + 1e-13)
    assert truth * (1 - 1e-13) <= found.upper <= found.lower * (1 + 1e-11)


def windows():
    for k, s, p, n, ceil, include in itertools.product(
        (1, 2, 3, 5), (1, 2, 3), (0, 1, 2), (5, 6, 9), (False, True), (False, True)
    ):
        if 2 * p <= k <= n + 2 * p:
            yield k, s, p, n, ceil, include


@pytest.mark.parametrize("norm", NORMS)
def test_average_pools_in_one_dimension(norm):
    for k, s, p, n, ceil, include in windows():
        A = matrix(lambda x: functional.avg_pool1d(x, k, s, p, ceil, include), (n,))  # noqa: B023
        found = enclose_avg_pool(
            (n,), (k,), (s,), (p,), ceil_mode=ceil, count_include_pad=include, divisor=None, norm=norm
        )
        holds(found, true_norm(A, norm))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("divisor", [None, 1, 7])
@pytest.mark.parametrize("ceil,include", list(itertools.product((False, True), repeat=2)))
def test_average_pools_in_two_dimensions(ceil, include, divisor, norm):
    A = matrix(lambda x: functional.avg_pool2d(x, (3, 2), (2, 1), (1, 0), ceil, include, divisor), (6, 5))
    found = enclose_avg_pool(
        (6, 5), (3, 2), (2, 1), (1, 0), ceil_mode=ceil, count_include_pad=include, divisor=divisor, norm=norm
    )
    holds(found, true_norm(A, norm))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size,outputs", [((7, 7), (3, 3)), ((5, 5), (7, 7)), ((6, 4), (1, 1)), ((8, 3), (4, 2))])
def test_adaptive_average_pools(size, outputs, norm):
    A = matrix(lambda x: functional.adaptive_avg_pool2d(x, outputs), size)
    holds(enclose_adaptive_avg_pool(size, outputs, norm=norm), true_norm(A, norm))


@pytest.mark.parametrize(
    "size,kernel,stride,value", [((8, 8), 2, 2, 0.5), ((9, 9), 3, 2, 0.513115), ((7, 7), 7, 7, 1 / 7)]
)
def test_average_pools_of_known_norm(size, kernel, stride, value):
    found = enclose_avg_pool(
        size, (kernel,) * 2, (stride,) * 2, (0, 0), ceil_mode=False, count_include_pad=True, divisor=None, norm="l2"
    )
    assert found.upper == pytest.approx(value, rel=2e-6)


@pytest.mark.parametrize("size,outputs,value", [((7, 7), (3, 3), 0.490468), ((5, 5), (7, 7), 1.629550)])
def test_adaptive_average_pools_of_known_norm(size, outputs, value):
    assert enclose_adaptive_avg_pool(size, outputs, norm="l2").upper == pytest.approx(value, rel=2e-6)


@pytest.mark.parametrize("k,s,d", list(itertools.product((1, 2, 3, 5), (1, 2, 3, 4), (1, 2, 3))))
def test_max_pool_bound_is_the_largest_number_of_windows_and_attained(k, s, d):
    n = 40
    upper = {norm: max_pool_upper((k,), (s,), (d,), norm=norm) for norm in NORMS}
    x = torch.zeros(1, 1, n, dtype=F64)
    ratios = []
    for place in range(n):
        moved = x.clone()
        moved[0, 0, place] = 1.0
        change = functional.max_pool1d(moved, k, s, 0, d) - functional.max_pool1d(x, k, s, 0, d)
        ratios.append(float(change.norm()))
    assert max(ratios) <= upper["l2"]
    assert max(ratios) >= upper["l2"] * (1 - 1e-12)
    assert upper["l1"] == round(upper["l2"] ** 2)
    assert upper["linf"] == 1.0


@pytest.mark.parametrize("size,outputs", [((7, 7), (3, 3)), ((6, 6), (3, 3)), ((5, 4), (4, 3)), ((3, 3), (5, 5))])
def test_adaptive_max_pool_holds_for_difference_quotients(size, outputs):
    upper = adaptive_max_pool_upper(size, outputs, norm="l2")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 1, *size, generator=generator, dtype=F64)
    step = torch.zeros_like(x)
    step.flatten(1)[torch.arange(200), torch.randint(0, math.prod(size), (200,), generator=generator)] = 10.0
    change = functional.adaptive_max_pool2d(x + step, outputs) - functional.adaptive_max_pool2d(x, outputs)
    assert float(change.flatten(1).norm(dim=1).max() / 10.0) <= upper * (1 + 1e-15)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    "size,pairs", [((5,), [(2, 2)]), ((6,), [(2, 1)]), ((4, 5), [(1, 1), (3, 0)]), ((3, 3), [(2, 2)] * 2)]
)
def test_paddings(size, pairs, mode, norm):
    flat = [width for pair in reversed(pairs) for width in pair]
    A = matrix(lambda x: functional.pad(x, flat, mode=mode), size)
    upper = pad_upper(size, pairs, mode, norm=norm)
    truth = true_norm(A, norm)
    assert truth * (1 - 1e-15) <= upper <= truth * (1 + 1e-14)


def test_cropping_padding_does_not_stretch():
    assert pad_upper((5,), [(-2, -1)], "constant", norm="l2") == 1.0


@pytest.mark.parametrize(
    "mode,pair", [("reflect", (5, 0)), ("circular", (6, 0)), ("mirror", (1, 1)), ("constant", (-5, 0))]
)
def test_paddings_that_do_not_fit_are_refused(mode, pair):
    with pytest.raises(ValueError, match="padding"):
        pad_upper((5,), [pair], mode, norm="l2")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [(2,), (3,), (2, 3), (1, 1)])
def test_nearest_upsampling(scale, norm):
    size = (3,) * len(scale)
    A = matrix(lambda x: functional.interpolate(x, scale_factor=scale, mode="nearest"), size)
    upper = upsample_nearest_upper(scale, norm=norm)
    truth = true_norm(A, norm)
    assert truth * (1 - 1e-15) <= upper <= truth * (1 + 1e-14)


@pytest.mark.parametrize(
    "kernel,stride,padding,divisor",
    [(0, 1, 0, None), (2, 0, 0, None), (2, 1, 2, None), (2, 1, -1, None), (2, 1, 0, 0), (9, 1, 0, None)],
)
def test_average_pools_that_do_not_fit_are_refused(kernel, stride, padding, divisor):
    with pytest.raises(ValueError, match="expected"):
        enclose_avg_pool(
            (5,), (kernel,), (stride,), (padding,), ceil_mode=False, count_include_pad=True, divisor=divisor, norm="l2"
        )


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
@pytest.mark.parametrize("n,outputs", [(3, 7), (7, 3), (5, 5), (4, 30), (1, 6), (6, 1)])
def test_equal_windows_of_adaptive_pooling_are_counted(n, outputs, norm):
    windows = [(i * n // outputs, -(-(i + 1) * n // outputs)) for i in range(outputs)]
    matrix = torch.zeros(outputs, n, dtype=torch.float64)
    for row, (low, high) in zip(matrix, windows, strict=True):
        row[low:high] = 1.0 / (high - low)
    truth = float(torch.linalg.matrix_norm(matrix, {"l1": 1, "l2": 2, "linf": math.inf}[norm]))
    found = enclose_adaptive_avg_pool((n,), (outputs,), norm=norm)
    assert found.lower <= truth * (1 + 1e-13)
    assert truth * (1 - 1e-13) <= found.upper <= truth * (1 + 1e-12)


def test_many_outputs_take_no_matrix_of_as_many_rows():
    found = enclose_adaptive_avg_pool((50,), (200_000,), norm="l2")
    assert found.lower <= 4000**0.5 <= found.upper * (1 + 1e-15)
    assert found.upper <= 4000**0.5 * (1 + 1e-9)
