"""The Gram bound with carried error: never below the exact norm, and each term of the error is needed."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.norms import enclose, gram_bound, gram_conv, gram_proof, gram_upper, gram_upper_conv
from certify.norms.gram_proof import largest_upper
from certify.norms.symbol import Grid, Symbol
from tests.norms.exact_norms import ExactNorm, impulses

F64 = torch.float64


def generator_of(seed):
    return torch.Generator().manual_seed(seed)


def family(seed):
    """A small matrix: Gaussian, whole numbers, equal singular values, graded, rank one, sparse, or far from scale 1."""
    generator = generator_of(seed)
    m, n = torch.randint(1, 8, (2,), generator=generator).tolist()
    A = torch.randn(m, n, generator=generator, dtype=F64)
    return {
        0: lambda: A,
        1: lambda: torch.round(3 * A),
        2: lambda: torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=F64))[0],
        3: lambda: A * 10.0 ** -torch.arange(n, dtype=F64),
        4: lambda: A[:, :1] @ A[:1],
        5: lambda: A * (torch.rand(m, n, generator=generator) < 0.3),
        6: lambda: A * 2.0 ** int(torch.randint(-1060, 1000, (1,), generator=generator)),
    }[seed % 7]()


def violations(seeds):
    found = []
    for seed in seeds:
        A = family(seed)
        exact = ExactNorm(A)
        bounds = {steps: gram_upper(A, steps) for steps in (0, 1, 2, 3, 5, 9, 14)}
        if not exact.at_most(min(bounds.values())):  # then all are, or else one by one
            found += [(seed, steps) for steps, bound in bounds.items() if not exact.at_most(bound)]
    return found


def test_never_below_the_exact_norm():
    assert violations(range(105)) == []


@pytest.mark.slow
def test_never_below_the_exact_norm_of_many_matrices():
    assert violations(range(1000, 15000)) == []


@pytest.mark.parametrize("seed", range(60))
def test_convolutions_are_never_below_the_exact_norm(seed):
    generator = generator_of(seed)
    co, ci, k, n = torch.randint(1, 4, (4,), generator=generator).tolist()
    kernel = torch.randn(2 * co, ci, k, generator=generator, dtype=F64)
    geometry = [
        {"padding": k // 2},
        {"padding": 1, "stride": 2},
        {"padding": 1, "dilation": 2},
        {"padding": [((k - 1) // 2, k // 2)], "padding_mode": "circular"},
        {"padding": 1, "groups": 2},
        {"padding": 1, "padding_mode": "replicate"},
    ][seed % 6]
    if "groups" in geometry:
        kernel = kernel * torch.tensor([1.0, 0.3], dtype=F64).repeat_interleave(co)[:, None, None]
    size = (n + 2 * k,)
    exact = ExactNorm(impulses(kernel, size, **geometry))
    for steps in (0, 2, 6, 12):
        assert exact.at_most(gram_upper_conv(kernel, size, steps=steps, **geometry))
    assert exact.at_most(gram_upper_conv(kernel, None, steps=6, **geometry))


def test_carried_error_is_small():
    generator = generator_of(0)
    A = torch.randn(256, 256, generator=generator, dtype=F64)
    truth = enclose(A)
    assert truth.lower <= gram_upper(A, 14) <= truth.upper * (1 + 1e-7)
    for steps in (2, 6):
        assert gram_upper(A, steps) <= float(gram_bound(A, steps)) * (1 + 1e-10)


def test_more_steps_never_loosen():
    A = torch.randn(30, 20, generator=generator_of(1), dtype=F64)
    values = [gram_upper(A, steps) for steps in (*range(20), 40, 60, 200)]
    assert values == sorted(values, reverse=True)
    assert all(math.isfinite(value) for value in values)


def absorbing_column(seed, rows=4000):
    """One large entry and many whose squares a running sum loses: the norm of the column is its exact length."""
    column = torch.rand(rows, 1, generator=generator_of(seed), dtype=F64) * 2.0**-26
    column[0] = 1.0
    return column


def understated(steps):
    """How many bounds of columns lie below their exact length."""
    columns = [absorbing_column(seed) for seed in range(10)]
    exact = [sum(Fraction(entry) ** 2 for entry in column[:, 0].tolist()) for column in columns]
    bounds = [gram_upper(column, steps) for column in columns]
    return sum(Fraction(bound) ** 2 < square for bound, square in zip(bounds, exact, strict=True))


@pytest.mark.parametrize("steps", [0, 1, 2, 6])
def test_product_error_is_carried(steps):
    assert understated(steps) == 0


@pytest.mark.parametrize("term,steps", [("product", 1), ("carried", 2), ("carried", 6)])
def test_each_error_term_is_needed(term, steps, monkeypatch):
    terms = gram_proof.error_terms
    zero = torch.zeros(1, dtype=F64)
    monkeypatch.setattr(gram_proof, "error_terms", lambda X, error: terms(X, error)._replace(**{term: zero}))
    assert understated(steps) > 0


def test_rounding_of_the_roots_and_norms_is_needed(monkeypatch):
    monkeypatch.setattr(gram_proof, "_over", lambda value, roundings: value)
    assert understated(0) > 0


def complex_column(seed, rows=4000):
    """The same with an imaginary half."""
    return torch.complex(absorbing_column(seed, rows), 0.7 * absorbing_column(seed + 100, rows))[None]


def understated_complex():
    """As `understated`, for complex columns."""
    found = 0
    for seed in range(5):
        column = complex_column(seed)
        parts = torch.view_as_real(column).flatten().tolist()
        found += Fraction(largest_upper(column, 2)) ** 2 < sum(Fraction(part) ** 2 for part in parts)
    return found


def test_complex_product_error_is_carried_and_needed(monkeypatch):
    assert understated_complex() == 0
    terms = gram_proof.error_terms
    zero = torch.zeros(1, dtype=F64)
    monkeypatch.setattr(gram_proof, "error_terms", lambda X, error: terms(X, error)._replace(product=zero))
    assert understated_complex() > 0


def test_symbol_error_is_needed():
    kernel = (0.2 + 0.2 * torch.rand(1, 1, 1, 1500, generator=generator_of(0), dtype=F64)) * 2.0**-53
    kernel[..., 0] = 1.0
    symbol, truth = Symbol(kernel, (1,)), sum(map(Fraction, kernel.flatten().tolist()))
    (part,) = symbol.parts(Grid((1,)))
    upper = largest_upper(symbol.matrices(Grid((1,)), part), 6)
    assert Fraction(upper) < truth <= Fraction(upper) + Fraction(symbol.error)


def test_the_torus_must_hold_the_padding(monkeypatch):
    kernel, exact = torch.tensor([[[-1.0, 2.0, -1.0]]]), 2 + math.sqrt(3)
    assert gram_upper_conv(kernel, (5,), padding=1, steps=20) >= exact
    monkeypatch.setattr(gram_conv, "least_side", lambda axis: axis.known_size)
    assert gram_upper_conv(kernel, (5,), padding=1, steps=20) < 3.62 < exact


def test_blocks_of_unequal_scale_do_not_disturb_each_other():
    A = torch.randn(4, 5, 3, generator=generator_of(2), dtype=F64)
    scales = torch.tensor([1.0, 0.0, 2.0**-500, 2.0**-1000], dtype=F64)
    assert largest_upper(A * scales[:, None, None], 8) == largest_upper(A[:1], 8)


def test_complex_and_real_agree():
    A = torch.randn(6, 4, generator=generator_of(3), dtype=F64)
    assert largest_upper(A.to(torch.complex128)[None], 5) == pytest.approx(gram_upper(A, 5), rel=1e-11)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**20), st.integers(-900, 900), st.integers(0, 9))
def test_scaling_by_a_power_of_two_is_exact(seed, k, steps):
    A = family(7 * seed)
    assert gram_upper(A * 2.0**k, steps) == math.ldexp(gram_upper(A, steps), k)


@pytest.mark.parametrize("A", [torch.zeros(3, 2), torch.zeros(0, 4), torch.zeros(4, 0)])
def test_nothing_has_norm_zero(A):
    assert gram_upper(A) == 0.0


@pytest.mark.parametrize(
    "bad", [torch.tensor([[math.nan]]), torch.tensor([[math.inf]]), torch.zeros(3), torch.ones(2, 2, dtype=torch.int64)]
)
def test_what_is_no_finite_matrix_is_refused(bad):
    with pytest.raises(ValueError, match="expected"):
        gram_upper(bad)


def test_negative_steps_are_refused():
    for refuse in (gram_upper, gram_bound):
        with pytest.raises(ValueError, match="steps"):
            refuse(torch.ones(2, 2), -1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_stored_numbers_are_taken_as_they_are(dtype):
    A = torch.randn(4, 6, generator=generator_of(4)).to(dtype)
    assert gram_upper(A, 6) == gram_upper(A.to(F64), 6)
