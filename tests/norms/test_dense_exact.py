"""`enclose` against exact integer arithmetic: truth <= upper and lower <= truth, with no tolerance.

The long run, over 100,000 matrices and convolutions:  pytest -m slow tests/norms -k "exact_norm_of_many"
"""

from __future__ import annotations

import math

import pytest
import torch

from certify.norms import dense, enclose
from tests.norms.exact_norms import ExactNorm

F64 = torch.float64


def graded(generator, m, n):
    return torch.randn(m, n, generator=generator, dtype=F64) * torch.logspace(0, -12, n, dtype=F64)


def low_rank(generator, m, n):
    return torch.randn(m, 1, generator=generator, dtype=F64) @ torch.randn(1, n, generator=generator, dtype=F64)


def nearly_orthogonal(generator, m, n):
    return torch.linalg.qr(torch.randn(max(m, n), max(m, n), generator=generator, dtype=F64))[0][:m, :n]


def small_integers(generator, m, n):
    return torch.randint(-3, 4, (m, n), generator=generator).to(F64)


def sparse(generator, m, n):
    return torch.randn(m, n, generator=generator, dtype=F64) * (torch.rand(m, n, generator=generator) < 0.3)


def spread_over_exponents(generator, m, n):
    return torch.randn(m, n, generator=generator, dtype=F64) * 2.0 ** torch.randint(
        -60, 60, (m, n), generator=generator
    )


FAMILIES = {
    "gaussian": lambda g, m, n: torch.randn(m, n, generator=g, dtype=F64),
    "float32": lambda g, m, n: torch.randn(m, n, generator=g),
    "float16": lambda g, m, n: torch.randn(m, n, generator=g).half(),
    "bfloat16": lambda g, m, n: torch.randn(m, n, generator=g).bfloat16(),
    "graded": graded,
    "low rank": low_rank,
    "orthogonal": nearly_orthogonal,
    "integers": small_integers,
    "sparse": sparse,
    "exponents": spread_over_exponents,
    "huge": lambda g, m, n: torch.randn(m, n, generator=g, dtype=F64) * 1e300,
    "tiny": lambda g, m, n: torch.randn(m, n, generator=g, dtype=F64) * 1e-300,
    "subnormal": lambda g, m, n: torch.randn(m, n, generator=g, dtype=F64) * 1e-321,
    "identity-like": lambda g, m, n: torch.eye(m, n, dtype=F64) * 3.0,
    "all ones": lambda g, m, n: torch.ones(m, n),
}


def check(A):
    found, exact = enclose(A), ExactNorm(A)
    assert exact.at_most(found.upper)
    assert exact.at_least(found.lower)
    return found


EVERYDAY = 70  # of each family: more than 1,000 matrices
MANY = 6000  # of each family: 90,000 matrices; with the 13,000 convolutions, the 100,000 of the slow run


@pytest.mark.parametrize("family", FAMILIES)
def test_bracket_holds_the_exact_norm(family):
    generator = torch.Generator().manual_seed(0)
    for _ in range(EVERYDAY):
        m, n = torch.randint(1, 9, (2,), generator=generator).tolist()
        check(FAMILIES[family](generator, m, n))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_bracket_holds_the_exact_norm_of_many(family):
    generator = torch.Generator().manual_seed(2**31)
    for _ in range(MANY):
        m, n = torch.randint(1, 13, (2,), generator=generator).tolist()
        check(FAMILIES[family](generator, m, n))


@pytest.mark.parametrize("family", ["gaussian", "graded", "orthogonal", "float32"])
@pytest.mark.parametrize("seed", range(20))
def test_cheap_bounds_hold_where_no_factorisation_is_affordable(family, seed, monkeypatch):
    monkeypatch.setattr(dense, "MOST_OPERATIONS", 0.0)
    generator = torch.Generator().manual_seed(seed)
    m, n = torch.randint(1, 9, (2,), generator=generator).tolist()
    assert check(FAMILIES[family](generator, m, n)).method in ("Frobenius", "row and column sums")


@pytest.mark.parametrize("side", [30, 48])
def test_bracket_holds_at_a_larger_side_and_is_tight(side):
    A = torch.randn(side, side, generator=torch.Generator().manual_seed(side))
    found = check(A)
    assert found.method == "dense Cholesky"
    assert found.upper <= found.lower * (1 + side**2 * 1e-15)


@pytest.mark.parametrize("side,limit", [(256, 1e-11), (512, 5e-11)])
def test_large_brackets_are_tight_and_meet_the_float_norm(side, limit):
    A = torch.randn(side, side, generator=torch.Generator().manual_seed(0), dtype=F64)
    found = enclose(A)
    estimate = float(torch.linalg.svdvals(A)[0])
    assert found.lower <= estimate * (1 + 1e-13)
    assert estimate * (1 - 1e-13) <= found.upper
    assert found.upper - found.lower <= limit * found.upper


def test_entries_lost_by_the_scaling_are_covered():
    tiny = math.nextafter(0.0, 1.0)
    check(torch.tensor([[1e300, tiny], [tiny, tiny]], dtype=F64))
    check(torch.full((3, 3), tiny, dtype=F64))


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (2, 3), (1, 1)])
def test_zero_and_empty_matrices_have_norm_zero(shape):
    found = enclose(torch.zeros(shape))
    assert (found.lower, found.upper) == (0.0, 0.0)


def test_overflowing_norm_keeps_a_finite_lower_end():
    found = enclose(torch.full((4, 4), 1.7e308, dtype=F64))
    assert found.upper == math.inf
    assert 1.7e308 <= found.lower < math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(bad):
    A = torch.ones(3, 2)
    A[1, 1] = bad
    with pytest.raises(ValueError, match="finite"):
        enclose(A)


@pytest.mark.parametrize(
    "A",
    [
        torch.ones(3),
        torch.ones(2, 2, 2),
        torch.ones(2, 2, dtype=torch.int64),
        torch.ones(2, 2, dtype=torch.complex128),
        torch.eye(3).to_sparse(),
        torch.ones(2, 2, device="meta"),
    ],
    ids=["vector", "cube", "integers", "complex", "sparse", "meta"],
)
def test_what_is_no_dense_real_matrix_is_refused(A):
    with pytest.raises(ValueError, match="expected"):
        enclose(A)


def test_parameters_with_gradients_are_accepted():
    layer = torch.nn.Linear(3, 2)
    assert enclose(layer.weight).upper > 0.0


def test_flush_to_zero_is_refused():
    from certify.errors import InputError

    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        with pytest.raises(InputError, match="gradual underflow"):
            enclose(torch.ones(2, 2))
    finally:
        torch.set_flush_denormal(False)
