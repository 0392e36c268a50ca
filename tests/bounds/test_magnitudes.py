"""Norms of tensors, rounded up: never below rational arithmetic, at any scale."""

import math
from fractions import Fraction

import pytest
import torch

from certify.bounds.magnitudes import l2_upper, row_l1_upper, row_l2_upper

SCALES = (1.0, 3e-160, 1e-300, 2.0**-1060, 1e150, 1e300)


def matrix(scale: float, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    spread = torch.randn(7, 23, generator=random, dtype=torch.float64) * 10.0 ** torch.randint(
        -9, 1, (7, 23), generator=random
    )
    return spread * scale


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("seed", range(3))
def test_rows_are_never_below_their_exact_norms(scale: float, seed: int) -> None:
    m = matrix(scale, seed)
    for row, l1, l2 in zip(m.tolist(), row_l1_upper(m).tolist(), row_l2_upper(m).tolist(), strict=True):
        exact_square = sum(Fraction(v) ** 2 for v in row)
        assert sum(abs(Fraction(v)) for v in row) <= Fraction(l1)
        assert exact_square <= Fraction(l2) ** 2
        if scale > 1e-300:
            assert Fraction(l2) ** 2 <= exact_square * Fraction(1 + 1e-13)


@pytest.mark.parametrize("scale", SCALES)
def test_all_entries_together_are_never_below_their_exact_norm(scale: float) -> None:
    m = matrix(scale, 9)
    assert sum(Fraction(v) ** 2 for v in m.flatten().tolist()) <= Fraction(l2_upper(m)) ** 2


def test_zero_is_zero_and_what_is_not_finite_stays_so() -> None:
    assert l2_upper(torch.zeros(3, dtype=torch.float64)) == 0.0
    assert l2_upper(torch.zeros(0, dtype=torch.float64)) == 0.0
    assert l2_upper(torch.tensor([1.0, math.inf], dtype=torch.float64)) == math.inf
    assert math.isnan(l2_upper(torch.tensor([1.0, math.nan], dtype=torch.float64)))
