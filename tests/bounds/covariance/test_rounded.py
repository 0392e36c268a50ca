"""Every stored matrix dominates the exact rational result for the stored arguments, on awkward inputs above all."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from certify.bounds.covariance.definite import is_at_least, is_positive
from certify.bounds.covariance.domination import dominating
from certify.bounds.covariance.elimination import Slopes, mask_upper
from certify.bounds.covariance.rounded import (
    activate_upper,
    linear_upper,
    lmax_upper,
    positive_lower,
    quadratic_upper,
)
from tests.bounds.covariance.exact_matrices import (
    C128,
    F64,
    activated,
    diagonal,
    dominates,
    exact,
    is_psd,
    pick,
    positive,
    rational,
)


def generator_of(seed):
    return torch.Generator().manual_seed(seed)


def numbers(*shape, generator, is_complex=False):
    values = torch.randn(*shape, generator=generator, dtype=F64)
    return torch.complex(values, torch.randn(*shape, generator=generator, dtype=F64)) if is_complex else values


SCALES = (1.0, 1e-100, 1e100, 1e-160, 1e-40)


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_linear_dominates_the_exact_product(seed, is_complex):
    g = generator_of(seed)
    n, m, rank = 1 + seed % 5, 1 + seed % 4, 1 + seed % 3
    P = positive(n, rank, g, is_complex) * 2.0 ** (-70 * (seed % 3))
    G = numbers(m, n, generator=g, is_complex=is_complex) * SCALES[seed % len(SCALES)]
    if seed % 4 == 0:
        G[0] = 0.0
    keep = torch.arange(n)[seed % 2 :: 2]
    M = linear_upper(P[None], G[None], keep=keep)[0]
    assert torch.equal(M, M.mH)
    A = exact(torch.cat([torch.eye(n, dtype=P.dtype)[keep], G]))
    assert dominates(M, A * exact(P) * A.transpose())


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_linear_dominates_every_matrix_within_the_error(seed, is_complex):
    g = generator_of(1000 + seed)
    n, m = 1 + seed % 4, 1 + seed % 3
    P, G = positive(n, 2, g, is_complex), numbers(m, n, generator=g, is_complex=is_complex)
    error = torch.rand(m, n, generator=g, dtype=F64) * 10.0 ** -(seed % 12)
    keep = torch.arange(n)[:1]
    M = linear_upper(P[None], G[None], error, keep)[0]
    for _ in range(4):
        signs = torch.randint(0, 4, (m, n), generator=g)
        turned = error * torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=F64)[signs]
        strayed = torch.where(signs < 2, turned + 0j, 1j * turned) if is_complex else turned
        A = exact(torch.cat([torch.eye(n, dtype=P.dtype)[keep], G]))
        A += exact(torch.cat([torch.zeros(1, n, dtype=P.dtype), strayed]))
        assert dominates(M, A * exact(P) * A.transpose())


def test_cancellation_that_hides_the_whole_norm():
    first = torch.tensor([[[1.0], [1.0 + 2.0**-52]]], dtype=F64)
    second = 2.0**53 * torch.tensor([[[1.0, -1.0]]], dtype=F64)
    M = linear_upper(linear_upper(torch.ones(1, 1, 1, dtype=F64), first), second)
    assert lmax_upper(M) >= 4.0


def cases(seed, is_complex):
    """M, slopes and a feasible D: random and awkward ones."""
    g = generator_of(seed)
    n = 1 + seed % 5
    M = positive(n, 1 + seed % 4, g, is_complex)
    M = M * 4.0 ** ((0, 0, -250, 150, -20)[seed % 5])
    if seed % 7 == 0:
        M[:, 0], M[0] = 0.0, 0.0
    if seed % 6 == 1:  # rows of very different size
        scales = 2.0 ** -(20.0 * torch.arange(n, dtype=F64))
        M = M * torch.outer(scales, scales)
    lower = -torch.rand(n, generator=g, dtype=F64) * (seed % 3)
    upper = lower + torch.rand(n, generator=g, dtype=F64)
    stable = torch.rand(n, generator=g) < (0.3, 0.0, 1.0)[seed % 3]
    upper = torch.where(stable, lower, upper)
    rows = torch.nonzero(lower < upper).flatten()
    block = M[rows[:, None], rows]
    largest = float(torch.linalg.eigvalsh(block)[-1]) if len(rows) else 0.0
    slack = (1.0, 0.1, 1e-6, 1e-9, 1e-12)[seed % 5]
    if seed % 6 == 1:
        D = block.diagonal().real * len(rows) * (1.0 + slack)
    else:
        D = torch.full((len(rows),), largest * (1.0 + slack), dtype=F64)
    D = torch.where(D == 0.0, 4.0**-500, D)
    return M, lower, upper, rows, D


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("seed", range(70))
def test_activation_dominates_the_exact_formula(seed, is_complex):
    M, lower, upper, rows, D = cases(seed, is_complex)
    P = activate_upper(M[None], lower, upper, D)
    if P is None:
        assert seed % 5 == 4  # barely feasible: refusing is right
        return
    slopes = Slopes.between(lower, upper)
    assert torch.equal(P[0], P[0].mH)
    assert dominates(P[0], activated(M, slopes.centre, slopes.radius, rows.tolist(), D))


def test_barely_feasible_multipliers_are_usually_proved():
    found = [activate_upper(*[x if i else x[None] for i, x in enumerate(cases(5 * k + 4, False)) if i != 3])
             for k in range(20)]  # fmt: skip
    assert sum(P is not None for P in found) >= 15


@pytest.mark.parametrize("seed", range(40))
def test_activation_dominates_every_choice_of_slopes(seed):
    M, lower, upper, _, D = cases(seed, seed % 2 == 1)
    P = activate_upper(M[None], lower, upper, D)
    g = generator_of(seed)
    for _ in range(6 if P is not None else 0):
        T = torch.where(torch.rand(len(lower), generator=g) < 0.5, lower, upper)
        E = diagonal(T.tolist(), 2 if M.is_complex() else 1)
        assert dominates(P[0], E * exact(M) * E)


def test_slopes_are_contained():
    g = generator_of(0)
    for _ in range(500):
        a, b = sorted(torch.randn(2, generator=g, dtype=F64).tolist())
        slopes = Slopes.between(torch.tensor([a], dtype=F64), torch.tensor([b], dtype=F64))
        centre, radius = Fraction(float(slopes.centre)), Fraction(float(slopes.radius))
        assert centre - radius <= Fraction(a) <= Fraction(b) <= centre + radius
    same = Slopes.between(torch.tensor([0.3], dtype=F64), torch.tensor([0.3], dtype=F64))
    assert float(same.centre) == 0.3
    assert float(same.radius) == 0.0


def test_stable_rows_stay_exact_but_for_rounding():
    M = positive(3, 3, generator_of(0))
    slope = torch.tensor([1.0, 0.0, -2.0], dtype=F64)
    P = activate_upper(M[None], slope, slope, torch.zeros(0, dtype=F64))
    truth = M * torch.outer(slope, slope)
    assert torch.allclose(P[0], truth, rtol=1e-14, atol=1e-13)


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_mask_dominates_the_exact_formula(seed, is_complex):
    g = generator_of(seed)
    n = 1 + seed % 4
    M = positive(n, n, g, is_complex)
    rows = torch.arange(n)[: max(1, n - seed % 2)]
    q = len(rows)
    largest = float(torch.linalg.eigvalsh(M)[-1])
    D = positive(q, q, g) * 0.01 + largest * (1.0 + 10.0 ** -(seed % 9)) * torch.eye(q, dtype=F64)
    P = mask_upper(M[None], rows, D)
    assert P is not None
    centre = torch.ones(n, dtype=F64).index_fill(0, rows, 0.5)
    radius = torch.zeros(n, dtype=F64).index_fill(0, rows, 0.5)
    assert torch.equal(P[0], P[0].mH)
    assert dominates(P[0], activated(M, centre, radius, rows.tolist(), D))
    for keep in (0.0, 1.0):
        T = diagonal(torch.ones(n, dtype=F64).index_fill(0, rows, keep).tolist(), 2 if is_complex else 1)
        assert dominates(P[0], T * exact(M) * T)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1.0, 0.0])
def test_multipliers_that_prove_nothing(bad):
    M = positive(3, 3, generator_of(0))[None]
    lower, upper = torch.zeros(3, dtype=F64), torch.ones(3, dtype=F64)
    D = torch.full((3,), 2.0 * lmax_upper(M), dtype=F64)
    assert activate_upper(M, lower, upper, D) is not None
    D[1] = bad
    assert activate_upper(M, lower, upper, D) is None


def test_a_matrix_below_zero_needs_no_negative_multiplier():
    one = torch.ones(1, dtype=F64)
    assert activate_upper(-2.0 * one[None, None], 0.0 * one, one, -1.0 * one) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_refused(bad):
    lower, upper, D = torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64), torch.full((2,), 9.0, dtype=F64)
    M = torch.eye(2, dtype=F64)[None]
    for place in ((0, 0, 0), (0, 1, 0)):
        broken = M.clone()
        broken[place] = bad
        broken[0] = torch.maximum(broken[0], broken[0].mT)
        assert activate_upper(broken, lower, upper, D) is None
        assert lmax_upper(broken) == math.inf
        assert positive_lower(broken) == 0.0
    assert activate_upper(M, lower, torch.tensor([1.0, bad], dtype=F64), D) is None
    assert activate_upper(M, torch.tensor([1.0, math.nan], dtype=F64), upper, D[:0]) is None
    assert activate_upper(M, upper, lower, D) is None


def test_one_multiplier_serves_all_matrices_of_a_batch_or_none():
    M = torch.stack([torch.eye(2, dtype=F64), 5.0 * torch.eye(2, dtype=F64)])
    lower, upper = torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64)
    assert activate_upper(M, lower, upper, torch.full((2,), 4.0, dtype=F64)) is None
    D = torch.full((2,), 8.000000000000001, dtype=F64)
    P = activate_upper(M, lower, upper, D)
    for one, stored in zip(M, P, strict=True):
        assert dominates(stored, activated(one, 0.5 * upper, 0.5 * upper, [0, 1], D))


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_largest_eigenvalue(seed, is_complex):
    n = 1 + seed % 5
    M = positive(n, 1 + seed % 3, generator_of(seed), is_complex) * 4.0 ** ((0, -250, 240, -400)[seed % 4])
    upper = lmax_upper(torch.stack([M, M / 2.0]))
    copies = 2 if is_complex else 1
    assert is_psd(diagonal([upper] * n, copies) - exact(M))
    assert upper <= float(torch.linalg.eigvalsh(M)[-1]) * (1.0 + 1e-13)


def test_largest_eigenvalue_of_nothing_is_zero():
    assert lmax_upper(torch.zeros(2, 3, 3, dtype=C128)) == 0.0
    assert lmax_upper(torch.zeros(1, 0, 0, dtype=F64)) == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_quadratic_forms_of_rounded_differences(seed):
    g = generator_of(seed)
    n = 1 + seed % 5
    P = positive(n, 2, g)
    w = numbers(2, n, generator=g) * SCALES[seed % 2]
    c, c_abs = w[:1] - w[1:], w[:1].abs() + w[1:].abs()
    upper = float(quadratic_upper(P[None], c, c_abs))
    row = exact(w[:1]) - exact(w[1:])
    assert rational(upper) >= (row * exact(P) * row.transpose())[0, 0]
    assert upper <= float(c @ P @ c.mT) + 1e-12 * float(c_abs @ P.abs() @ c_abs.mT)


@pytest.mark.parametrize("seed", range(30))
def test_positive_lower_is_below_the_least_eigenvalue(seed):
    g = generator_of(seed)
    n, is_complex = 1 + seed % 4, seed % 2 == 1
    K = positive(n, n + 1, g, is_complex) * 4.0 ** ((0, -200, 200)[seed % 3])
    kappa = positive_lower(K[None])
    assert kappa >= 0.0
    assert is_psd(exact(K) - diagonal([kappa] * n, 2 if is_complex else 1))


def test_positive_lower_of_two_nearly_equal_rows():
    for k in range(8, 50):
        for share in (1.2, 1.5, 1.9):
            K = torch.tensor([[0.5, 0.5], [0.5, 0.5 + share * 2.0**-k]], dtype=F64)
            kappa = positive_lower(K[None])
            assert is_psd(exact(K) - diagonal([kappa] * 2))
            assert kappa > 0.0 or k > 44


@pytest.mark.parametrize("seed", range(30))
def test_semidefinite_is_not_called_positive(seed):
    K = positive(2 + seed % 3, 1 + seed % 2 if seed % 3 else 1, generator_of(seed), seed % 2 == 1)
    K = K - 2.0**-50 * torch.eye(len(K), dtype=K.dtype) * K.diagonal().real.max()
    assert not is_positive(K[None])


def test_domination():
    g = generator_of(0)
    for _ in range(20):
        E = torch.randn(4, 4, generator=g, dtype=F64)
        E = E + E.mT
        E[0] *= 1e-6
        E[:, 0] *= 1e-6
        r = dominating(E.abs()[None])[0]
        assert is_psd(exact(torch.diag(r)) - exact(E))
        assert is_psd(exact(torch.diag(r)) + exact(E))
        assert float(r[0]) <= 1e-10  # small rows keep small errors


def test_lower_triangle_and_upper_triangle_count_alike():
    K = torch.tensor([[1.0, 0.999], [0.999, 1.0]], dtype=F64)
    assert is_at_least(K[None], 0.0009)
    assert not is_at_least(K[None], 0.0010001)


def test_parts_of_the_exact_computation():
    M = torch.tensor([[4.0]], dtype=F64)
    half = torch.tensor([0.5], dtype=F64)
    # b^2 (m + m^2 / (d - m)) + c^2 d = (4 + 16 / 4) / 4 + 8 / 4
    assert activated(M, half, half, [0], torch.tensor([8.0], dtype=F64))[0, 0] == 4
    assert not is_psd(exact(torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=F64)))
    assert is_psd(exact(torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=F64)))
    assert pick(exact(torch.eye(2, dtype=F64)), [1], [0, 1])[0, 1] == 1


@pytest.mark.slow
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("first", range(1000, 5000, 500))
def test_four_thousand_more_of_each(first, is_complex):
    for seed in range(first, first + 500):
        test_linear_dominates_the_exact_product(seed, is_complex)
        test_linear_dominates_every_matrix_within_the_error(seed, is_complex)
        test_activation_dominates_the_exact_formula(seed, is_complex)
        test_mask_dominates_the_exact_formula(seed, is_complex)
        test_largest_eigenvalue(seed, is_complex)
