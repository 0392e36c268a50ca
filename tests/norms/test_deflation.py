"""Convolutions in a torus less its largest waves: never below the truth, near it, every error carried."""

import dataclasses
import functools
import math

import pytest
import torch

from certify.norms import convolution, deflation, enclose_conv
from certify.norms.deflation import Forms, combination, find_modes, is_proved, krylov, near_limits, prove_forms, sketch
from certify.norms.embedding import embed
from certify.norms.geometry import describe
from certify.norms.products import adjoint, apply
from certify.norms.scaling import scale
from certify.norms.torus import least_torus, torus_upper
from certify.norms.vectors import norm_upper

F64 = torch.float64
CASES = {
    "same": ((4, 4, 3, 3), (7, 7), {"padding": 1}),
    "wide": ((3, 8, 3, 3), (8, 6), {"padding": 1}),
    "tall": ((9, 3, 3, 3), (6, 8), {"padding": 1}),
    "valid": ((4, 6, 3, 3), (8, 8), {"padding": 0}),
    "full": ((4, 4, 3, 3), (6, 6), {"padding": 2}),
    "strided": ((6, 3, 3, 3), (9, 9), {"padding": 1, "stride": 2}),
    "strided wide": ((3, 6, 5, 5), (11, 9), {"padding": 2, "stride": 2}),
    "dilated": ((5, 5, 3, 3), (8, 8), {"padding": 2, "dilation": 2}),
    "one-sided": ((4, 5, 4, 3), (8, 8), {"padding": [(3, 1), (0, 5)]}),
    "transposed": ((5, 4, 3, 3), (6, 6), {"padding": 1, "stride": 2, "transposed": True}),
    "1-D": ((4, 4, 5), (20,), {"padding": 2}),
    "3-D": ((2, 3, 2, 3, 2), (4, 5, 4), {"padding": 1}),
    "flat": ((4, 4, 3, 1), (9, 4), {"padding": (1, 0)}),
}


def case(name, seed=0):
    shape, size, geometry = CASES[name]
    torch.manual_seed(seed)
    kernel = torch.randn(shape, dtype=F64)
    return kernel, describe(scale(kernel).values, size, **geometry), size, geometry


@functools.cache
def near(name, seed):
    return near_limits(case(name, seed)[1])


def forms_of(conv, s0, steps=1, depth=0.05):
    symbol, grid = least_torus(conv)
    torus = embed(conv, symbol, grid)
    H = symbol.grams(grid, torus.whole)
    modes = find_modes(torus, sketch(H.matrices), s0**2 * (1.0 - depth))
    return prove_forms(torus, modes, krylov(torus, modes.columns, steps), H, s0)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_never_below_the_truth_nor_above_the_torus_by_much(name, seed):
    kernel, conv, size, geometry = case(name, seed)
    found = near(name, seed)
    if found is None:
        pytest.skip("the proof is refused")
    exponent = scale(kernel).exponent
    truth = enclose_conv(kernel, size, **geometry)
    assert truth.lower <= math.ldexp(found[1].upper, exponent)
    assert math.ldexp(found[0], exponent) <= truth.upper
    assert found[1].upper <= torus_upper(conv)[0].upper * 1.05


def test_most_cases_are_proved():
    proved = [near(name, seed) is not None for name in CASES for seed in range(3)]
    assert sum(proved) >= 0.7 * len(proved)


@pytest.mark.parametrize("name", ["same", "strided", "transposed", "dilated"])
def test_the_embedding_is_the_convolution(name):
    _, conv, _, _ = case(name)
    torus = embed(conv, *least_torus(conv))
    x = torch.randn(1, *torus.inside.shape, dtype=F64) * torus.inside
    y = torch.randn(1, *torus.kept.shape, dtype=F64) * torus.kept
    there, back = torus.forward(x), torus.backward(y)
    assert abs(float((there * y).sum() - (x * back).sum())) <= 2 * torus.step_error * norm_upper(x) * norm_upper(y)
    again = torus.arrays(torus.coefficients(x))
    assert norm_upper(again - x) <= 2 * torus.transform_error * norm_upper(x)
    sizes = [int(mask.sum()) for mask in (torus.inside, torus.kept)]
    image = torch.randn(conv.kernel.shape[0], conv.kernel.shape[2], *(axis.known_size for axis in conv.axes)).double()
    assert sorted(sizes) == sorted([image.numel(), apply(conv, conv.kernel, image).numel()])
    assert adjoint(conv, conv.kernel, apply(conv, conv.kernel, image)).shape == image.shape


@pytest.mark.parametrize("name", ["same", "valid", "strided", "transposed"])
def test_more_steps_come_near_and_never_below(name):
    kernel, conv, size, geometry = case(name)
    truth = enclose_conv(kernel, size, **geometry)
    exponent = scale(kernel).exponent
    low, high = math.ldexp(truth.lower, -exponent), math.ldexp(truth.upper, -exponent)
    forms = forms_of(conv, low * (1 - 1e-6), steps=8)
    assert forms is not None
    for short in (1e-6, 1e-8, 1e-10):
        s = low * (1 - short)
        assert not is_proved(dataclasses.replace(forms, s0=0.0), s, combination(forms, s))
    assert is_proved(forms, high * 1.002, combination(forms, high * 1.002))


@pytest.fixture(scope="module")
def forms() -> tuple[Forms, float]:
    kernel, conv, size, geometry = case("same")
    s = math.ldexp(enclose_conv(kernel, size, **geometry).upper, -scale(kernel).exponent) * 1.01
    return forms_of(conv, s * 0.995, steps=4), s


@pytest.mark.parametrize("place", range(4))
def test_each_error_of_the_forms_counts(forms, place):
    found, s = forms
    C = combination(found, s)
    assert is_proved(found, s, C)
    errors = tuple(1.0 if j == place else error for j, error in enumerate(found.errors))
    assert not is_proved(dataclasses.replace(found, errors=errors), s, C)


def test_what_the_solutions_miss_counts(forms):
    found, s = forms
    C = combination(found, s)
    assert not is_proved(dataclasses.replace(found, spill=1.0), s, C)


def test_nothing_is_proved_below_s0_or_with_nan(forms):
    found, s = forms
    C = combination(found, s)
    assert not is_proved(found, found.s0 * (1 - 1e-12), C)
    assert not is_proved(found, s, C * math.nan)
    assert not is_proved(found, math.nan, C)


def test_a_wave_that_is_not_taken_apart_refuses_the_proof(monkeypatch):
    _, conv, _, _ = case("same")
    s0 = near_limits(conv)[0]
    monkeypatch.setattr(deflation, "MOST_MODES", 1)
    assert forms_of(conv, s0) is None


def test_the_shift_of_the_factorisation_covers_a_stored_error():
    _, conv, _, _ = case("same")
    symbol, grid = least_torus(conv)
    torus = embed(conv, symbol, grid)
    H = symbol.grams(grid, torus.whole)
    s0 = 1.05 * torus_upper(conv)[0].upper
    modes = find_modes(torus, sketch(H.matrices), 0.8 * s0**2)
    wrong = dataclasses.replace(H, matrices=H.matrices.clone(), error=0.5 * s0**2)
    space = krylov(torus, modes.columns, 1)
    assert prove_forms(torus, modes, space, wrong, s0) is None
    assert prove_forms(torus, modes, space, H, s0) is not None


@pytest.mark.parametrize("what", ["symbol", "waves", "transform", "products"])
def test_each_error_of_the_torus_counts(what):
    _, conv, _, _ = case("same")
    symbol, grid = least_torus(conv)
    torus = embed(conv, symbol, grid)
    H = symbol.grams(grid, torus.whole)
    s0 = 1.02 * near("same", 0)[0]
    modes = find_modes(torus, sketch(H.matrices), 0.95 * s0**2)
    space = krylov(torus, modes.columns, 4)
    s = s0 * 1.03

    def proved(modes=modes):
        forms = prove_forms(torus, modes, space, dataclasses.replace(H, matrices=H.matrices.clone()), s0)
        return forms is not None and is_proved(forms, s, combination(forms, s))

    assert proved()
    if what == "waves":
        assert not proved(dataclasses.replace(modes, error=0.3 * s0))
        return
    owner, name = {
        "symbol": (symbol, "error"),
        "transform": (torus, "transform_error"),
        "products": (torus, "step_error"),
    }[what]
    owner.__dict__[name] = 0.3 * s0
    assert not proved()


def test_waves_are_taken_apart_where_enough_work_is_allowed(monkeypatch):
    monkeypatch.setattr(convolution, "LEAST_DEFLATED_CHANNELS", 4)
    monkeypatch.setattr(convolution, "MOST_DENSE_SIDE", 0)
    monkeypatch.setattr(convolution, "LEAST_BANDED_SIDE", math.inf)
    kernel, _, size, geometry = case("same")
    plain = enclose_conv(kernel, size, **geometry)
    thorough = enclose_conv(kernel, size, most_operations=convolution.THOROUGH_OPERATIONS, **geometry)
    assert (plain.method[:9], thorough.method) == ("torus 8x8", "torus 8x8 less waves")
    assert plain.lower <= thorough.upper < plain.upper
