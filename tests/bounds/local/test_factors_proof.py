"""Proved Grams and roots against rational arithmetic, where one rounding decides; and against what strays."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from certify.bounds.local.factors_proof import Factor, root_of, spread_factor


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fractions(vector: Tensor) -> list[Fraction]:
    return [Fraction(entry) for entry in vector.flatten().tolist()]


def form(M: Tensor, x: list[Fraction]) -> Fraction:
    """x^T M x."""
    rows = [fractions(row) for row in M]
    return sum(a * sum(m * b for m, b in zip(row, x, strict=True)) for a, row in zip(x, rows, strict=True))


def test_the_rounding_of_a_gram_is_covered_where_the_gram_is_singular():
    """Rows a and b of one column: the exact form vanishes at (b, -a), and rounded products would make it negative."""
    for seed in range(40):
        F = random(2, 1, seed=seed)
        a, b = fractions(F)
        found = Factor(F, torch.zeros(2, dtype=torch.float64)).gram_upper()[0]
        assert form(found, [b, -a]) >= 0
        assert form(found, [b, -a]) < Fraction(1, 10**12)


def test_sums_of_factors_and_orders_of_rows_give_the_same_gram():
    S, R = random(30, 6, seed=1), random(30, 5, seed=2)
    S[S.abs() < 1.0] = 0.0
    zero = torch.zeros(30, dtype=torch.float64)
    joined = spread_factor(S, torch.ones(6, dtype=torch.float64), zero).beside(Factor(R, zero))
    assert joined.sparse == 6
    for order in (None, torch.randperm(30, generator=torch.Generator().manual_seed(3))):
        torch.testing.assert_close(joined.gram_upper(order)[0], S @ S.mT + R @ R.mT, rtol=1e-8, atol=1e-8)
    halves = joined.choose(torch.arange(10)).above(joined.choose(torch.arange(10, 30)))
    torch.testing.assert_close(halves.gram_upper(), joined.gram_upper(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("power", [-30, -36, -38])
def test_a_root_of_a_nearly_singular_matrix_is_above_the_exact_inverse(power):
    """K = [[1, c], [c, 1]] with 1 - c = 2^power: one rounding of its factor moves the inverse by 2^-53 / 2^power."""
    c = 1.0 - 2.0**power
    K = torch.tensor([[[1.0, c], [c, 1.0]]], dtype=torch.float64)
    for seed in range(20):
        scaled = K * (float(random(1, seed=seed).abs()) + 0.5)
        N = torch.tensor([[1.0, -1.0]], dtype=torch.float64) + 0.1 * random(1, 2, seed=seed)
        found = Fraction(float(root_of(scaled).solve(N, torch.zeros(1, dtype=torch.float64)).gram_upper()))
        (p, q), a, b = fractions(N), *fractions(scaled[0, 0])
        exact = (a * p * p - 2 * b * p * q + a * q * q) / (a * a - b * b)
        assert exact <= found <= exact * (1 + Fraction(1, 50))


def test_the_strays_of_rows_are_covered_up_to_their_length():
    N, stray = random(6, 4, seed=5), random(6, seed=6).abs() * 1e-3
    K = torch.diag(torch.tensor([1.0, 2.0, 1e-3, 4.0], dtype=torch.float64))[None]
    for seed in range(20):
        E = random(6, 4, seed=seed + 10)
        moved = N + E / E.norm(dim=1, keepdim=True) * stray[:, None] * (1 - 1e-9)
        for factor, exact in (
            (Factor(N, stray), moved @ moved.mT),
            (root_of(K).solve(N, stray), moved @ torch.linalg.solve(K[0], moved.mT)),
        ):
            assert float(torch.linalg.eigvalsh(factor.gram_upper()[0] - exact)[0]) > 0.0
            assert bool((factor.diagonal_upper() >= exact.diagonal() * (1 - 1e-14)).all())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_a_number_has_no_root_and_no_finite_gram(value):
    K = torch.eye(2, dtype=torch.float64)[None].clone()
    K[0, 0, 0] = value
    assert root_of(K) is None
    F = torch.tensor([[value, 1.0], [0.0, 1.0]], dtype=torch.float64)
    assert not bool(torch.isfinite(Factor(F, torch.zeros(2, dtype=torch.float64)).gram_upper()).all())
