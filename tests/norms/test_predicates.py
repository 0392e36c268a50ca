"""Each error term alone: just below the exact norm nothing may be proved, and without the term something is.

Random matrices do not notice a missing term (their float errors nearly always have room), so the acceptance tests are
probed at the six floats below the exact norm, on inputs where one source of error dominates.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import pytest
import torch

from certify.norms import banded, cholesky, conv_gram, conv_sums, correlations, row_sums, symbol, torus, vectors
from certify.norms.cholesky import Grams, gram, proved_at_most
from certify.norms.geometry import describe
from tests.norms.exact_norms import ExactNorm

F64 = torch.float64
STEPS_BELOW = 6


def floats_below(exact):
    s = exact.float_below()
    for _ in range(STEPS_BELOW):
        yield s
        s = math.nextafter(s, 0.0)


def accepted(grams, exact):
    """How many of the floats below the exact norm the predicate takes for upper bounds."""
    return sum(bool(proved_at_most(grams, s).any()) for s in floats_below(exact))


def without_term(monkeypatch, name):
    terms = cholesky.shift_terms
    monkeypatch.setattr(cholesky, "shift_terms", lambda grams, s2: terms(grams, s2)._replace(**{name: 0.0}))


def absorbing_columns(seed, rows=400):
    """Columns whose squares lose bits in a running sum: one large entry, many small ones."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.rand(rows, 2, generator=generator, dtype=F64) * 2.0**-26
    A[0] = 1.0 + torch.rand(2, generator=generator, dtype=F64)
    return A[None]


@functools.cache
def absorbing_gram(seed, n=160):
    """An exact Gram matrix in whose factorisation a running difference from 1/2 loses many small squares."""
    generator = torch.Generator().manual_seed(seed)
    H = torch.zeros(n, n, dtype=F64)
    H[:, -1] = 2.0**-27 * (0.8 + 0.19 * torch.rand(n, generator=generator, dtype=F64))
    H[n // 2, n // 2] = H[n // 2, -1] = H[-1, -1] = 0.5
    H[-1] = H[:, -1]
    return Grams(H[None], 0.0), ExactNorm.of_gram(H)


class WholeBand:
    """A given Gram matrix as a band as wide as itself, in block columns of a few columns."""

    def __init__(self, grams, step):
        self.matrix, self.error = grams.matrices, grams.error
        self.groups, self.side, self.width = 1, self.matrix.shape[1], self.matrix.shape[1]
        starts = range(0, self.side, step)
        self.columns = tuple(conv_gram.Columns(j, min(j + step, self.side), self.side, ()) for j in starts)

    def lower(self, columns):
        return self.matrix[:, columns.first :, columns.first : columns.stop].clone()


def accepted_in_band(grams, exact, step=5):
    return sum(banded.is_proved_at_most(WholeBand(grams, step), s) for s in floats_below(exact))


def without_banded_term(monkeypatch, name):
    terms = banded.shift_terms
    monkeypatch.setattr(banded, "shift_terms", lambda band, s2: terms(band, s2)._replace(**{name: 0.0}))


def test_banded_factorisation_error_is_carried_and_needed(monkeypatch):
    grams, exact = absorbing_gram(0, n=80)
    assert accepted_in_band(grams, exact, step=1) == 0
    without_banded_term(monkeypatch, "factorisation")
    assert accepted_in_band(grams, exact, step=1) > 0


def test_gram_error_of_a_band_is_carried_and_needed(monkeypatch):
    found = [absorbing_columns(seed) for seed in range(20)]
    assert sum(accepted_in_band(gram(A), ExactNorm(A[0])) for A in found) == 0
    without_banded_term(monkeypatch, "gram")
    assert sum(accepted_in_band(gram(A), ExactNorm(A[0])) for A in found) > 0


def test_square_in_a_band_is_rounded_down(monkeypatch):
    assert sum(accepted_in_band(*slightly_coupled(seed)) for seed in range(100)) == 0
    product = banded.mul_down
    monkeypatch.setattr(banded, "mul_down", lambda a, b: a * b if a == b else product(a, b))
    without_banded_term(monkeypatch, "factorisation")  # which leaves room for this one
    assert sum(accepted_in_band(*slightly_coupled(seed)) for seed in range(100)) > 0


@pytest.mark.parametrize("entry", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [(0, 0), (7, 7), (7, 1)])
def test_numbers_that_are_not_finite_prove_nothing_in_a_band(entry, place):
    H = torch.eye(8, dtype=F64)
    assert banded.is_proved_at_most(WholeBand(Grams(H[None], 0.0), 5), 2.0)
    H[place] = entry
    assert not banded.is_proved_at_most(WholeBand(Grams(H[None], 0.0), 5), 2.0)


def underflowing_columns(seed, rows=100):
    """Columns whose squares are below half the smallest float, all but one: their Gram entry loses them."""
    generator = torch.Generator().manual_seed(seed)
    A = (0.6 + 0.1 * torch.rand(1, rows, 1, generator=generator, dtype=F64)) * 2.0**-537
    A[0, 0, 0] = 2.0**-535
    return A


@pytest.mark.parametrize("seed", range(30))
def test_nothing_below_the_norm_is_proved_for_random_matrices(seed):
    generator = torch.Generator().manual_seed(seed)
    m, n = torch.randint(1, 10, (2,), generator=generator).tolist()
    A = torch.randn(1, m, n, generator=generator, dtype=F64)
    assert accepted(gram(A), ExactNorm(A[0])) == 0


@pytest.mark.parametrize("seed", range(20))
def test_gram_error_is_carried(seed):
    A = absorbing_columns(seed)
    assert accepted(gram(A), ExactNorm(A[0])) == 0


def test_gram_error_is_needed(monkeypatch):
    without_term(monkeypatch, "gram")
    found = [absorbing_columns(seed) for seed in range(20)]
    assert sum(accepted(gram(A), ExactNorm(A[0])) for A in found) > 0


@pytest.mark.parametrize("seed", range(3))
def test_factorisation_error_is_carried(seed):
    assert accepted(*absorbing_gram(seed)) == 0


def test_factorisation_error_is_needed(monkeypatch):
    without_term(monkeypatch, "factorisation")
    assert sum(accepted(*absorbing_gram(seed)) for seed in range(3)) > 0


@pytest.mark.parametrize("seed", range(20))
def test_underflow_is_carried(seed):
    A = underflowing_columns(seed)
    assert accepted(gram(A), ExactNorm(A[0])) == 0


def test_underflow_is_needed(monkeypatch):
    monkeypatch.setattr(cholesky, "UNDERFLOW", 0.0)
    found = [underflowing_columns(seed) for seed in range(20)]
    assert sum(accepted(gram(A), ExactNorm(A[0])) for A in found) > 0


def slightly_coupled(seed):
    """Exact Gram matrices [[h, d], [d, h]] of norm h + d: the square of s rounds to beyond it."""
    generator = torch.Generator().manual_seed(seed)
    h = 1.0 + float(torch.rand(1, generator=generator, dtype=F64))
    d = 2.0**-52 * (0.5 + 0.5 * float(torch.rand(1, generator=generator, dtype=F64)))
    H = torch.tensor([[h, d], [d, h]], dtype=F64)
    return Grams(H[None], 0.0), ExactNorm.of_gram(H)


@pytest.mark.parametrize("seed", range(100))
def test_square_is_rounded_down(seed):
    assert accepted(*slightly_coupled(seed)) == 0


def test_rounding_the_square_down_is_needed(monkeypatch):
    product = cholesky.mul_down
    monkeypatch.setattr(cholesky, "mul_down", lambda a, b: a * b if a == b else product(a, b))
    assert sum(accepted(*slightly_coupled(seed)) for seed in range(100)) > 0


@pytest.mark.parametrize("entry", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [(0, 0), (1, 1), (1, 0)])
def test_numbers_that_are_not_finite_prove_nothing(entry, place):
    H = torch.eye(2, dtype=F64)
    H[place] = entry
    assert not bool(proved_at_most(Grams(H[None], 0.0), 4.0))


@pytest.mark.parametrize("s", [math.nan, math.inf, 0.0, -4.0, 1e200])
def test_only_finite_positive_numbers_are_proved(s):
    assert not bool(proved_at_most(Grams(torch.eye(2, dtype=F64)[None], 0.0), s))
    assert not bool(proved_at_most(Grams(torch.eye(2, dtype=F64)[None], math.nan), 4.0))
    assert not bool(proved_at_most(Grams(torch.eye(2, dtype=F64)[None], math.inf), 4.0))


def growing_row(seed, n=4000):
    """A vector whose sum of squares, in floats, is rounded up by many of its additions to one."""
    generator = torch.Generator().manual_seed(seed)
    row = torch.sqrt((1.2 + 0.6 * torch.rand(n, generator=generator, dtype=F64)) * 2.0**-53)
    row[0] = 1.0
    return row


def shrinking_row(seed, n=4000):
    """The same with squares that a running sum loses."""
    return growing_row(seed, n) * torch.where(torch.arange(n) == 0, 1.0, 0.7)


def exact_square(row):
    return sum(Fraction(entry) ** 2 for entry in row.tolist())


def in_sequence(values):
    """The sum of squares from the first entry to the last: as allowed as any other order."""
    total = 0.0
    for entry in values.tolist():
        total += entry * entry
    return total, values.numel()


def test_norms_of_vectors_hold_for_any_order_of_summation(monkeypatch):
    growing, shrinking = growing_row(0), shrinking_row(0)
    for order in (vectors._sum_of_squares, in_sequence):
        monkeypatch.setattr(vectors, "_sum_of_squares", order)
        for row in (growing, shrinking):
            assert Fraction(vectors.norm_lower(row)) ** 2 <= exact_square(row)
            assert exact_square(row) <= Fraction(vectors.norm_upper(row)) ** 2
    monkeypatch.setattr(vectors, "gamma_up", lambda n: 0.0)
    assert not Fraction(vectors.norm_lower(growing)) ** 2 <= exact_square(growing)
    assert not exact_square(shrinking) <= Fraction(vectors.norm_upper(shrinking)) ** 2


def cancelling_products(seed):
    """A row and a vector of ones whose product is rounding error."""
    row = torch.randn(1, 6, generator=torch.Generator().manual_seed(seed), dtype=F64)
    row[0, 5] = -float(row[0, :5].sum())
    return row, torch.ones(6, dtype=F64)


def overstated_products():
    """How many lower bounds exceed the exact ||A v|| / ||v|| of their vector."""
    count = 0
    for seed in range(50):
        A, v = cancelling_products(seed)
        exact = sum(Fraction(entry) for entry in A[0].tolist()) ** 2 / 6
        count += Fraction(vectors.product_lower(A @ v, A.abs() @ v, v, 6)) ** 2 > exact
    return count


def test_product_error_is_carried_and_needed(monkeypatch):
    assert overstated_products() == 0
    gamma = vectors.gamma_up
    monkeypatch.setattr(vectors, "gamma_up", lambda n: 0.0 if n == 8 else gamma(n))
    assert overstated_products() > 0


def long_kernel(seed, taps=1500):
    """One channel whose taps add up, in floats, to less than their sum: that is its norm, at frequency 0."""
    generator = torch.Generator().manual_seed(seed)
    kernel = (0.2 + 0.2 * torch.rand(1, 1, 1, taps, generator=generator, dtype=F64)) * 2.0**-53
    kernel[..., 0] = 1.0
    return kernel


def understated_kernels(bound):
    """How many bounds lie below the exact sum of the taps."""
    kernels = [long_kernel(seed) for seed in range(5)]
    return sum(Fraction(bound(kernel)) < sum(map(Fraction, kernel.flatten().tolist())) for kernel in kernels)


def symbol_bound(kernel):
    return symbol.grid_limits(symbol.Symbol(kernel, (1,)), symbol.Grid((1,))).upper


def test_symbol_error_is_carried_and_needed(monkeypatch):
    assert understated_kernels(symbol_bound) == 0
    monkeypatch.setattr(symbol.Symbol, "error", 0.0)
    assert understated_kernels(symbol_bound) > 0


def row_sum_bound(kernel):
    return row_sums.enclose_linf(kernel.reshape(1, -1)).upper


def conv_sum_bound(kernel):
    return conv_sums.row_sum_limits(describe(kernel[0], None))[1]


@pytest.mark.parametrize("bound,module", [(row_sum_bound, row_sums), (conv_sum_bound, row_sums)])
def test_summation_error_is_carried_and_needed(bound, module, monkeypatch):
    assert understated_kernels(bound) == 0
    monkeypatch.setattr(module, "gamma_up", lambda n: 0.0)
    assert understated_kernels(bound) > 0


def absorbing_convolution(seed, outs=400):
    """A 1x1 convolution from one channel: its Gram matrix is one running sum of squares."""
    return describe(absorbing_columns(seed, outs)[0, :, :1, None], (1,))


def test_convolution_gram_error_is_carried_and_needed(monkeypatch):
    convolutions = [absorbing_convolution(seed) for seed in range(20)]
    exact = [ExactNorm(conv.kernel.reshape(-1, 1)) for conv in convolutions]
    pairs = list(zip(convolutions, exact, strict=True))
    assert sum(accepted(conv_gram.convolution_gram(conv), truth) for conv, truth in pairs) == 0
    monkeypatch.setattr(conv_gram, "gamma_up", lambda n: 0.0)
    assert sum(accepted(conv_gram.convolution_gram(conv), truth) for conv, truth in pairs) > 0


def correlated(seed, outs=400):
    """The symbol's Gram matrix, by correlations, of a 1x1 convolution from two channels."""
    kernel = absorbing_columns(seed, outs)[..., None]
    found = correlations.correlate(kernel)
    return found.grams(slice(0, 1), torch.ones(1, 0, dtype=torch.complex128)), ExactNorm(kernel[0, :, :, 0])


def test_correlation_error_is_carried_and_needed(monkeypatch):
    assert sum(accepted(*correlated(seed)) for seed in range(20)) == 0
    monkeypatch.setattr(correlations, "gamma_up", lambda n: 0.0)
    monkeypatch.setattr(correlations, "SPREAD", 0.0)
    assert sum(accepted(*correlated(seed)) for seed in range(20)) > 0


def test_roots_of_unity_are_correctly_rounded():
    import mpmath

    with mpmath.workprec(300):
        for order in (1, 2, 3, 7, 64, 100, 454):
            for j, root in enumerate(symbol.unit_roots(order).tolist()):
                angle = 2 * mpmath.pi * j / order
                error = abs(mpmath.mpc(root) - mpmath.expj(angle))
                assert error <= mpmath.mpf(2) ** -53, (order, j)


@pytest.mark.parametrize("taps,side", [(2, 3), (3, 7), (3, 32), (7, 32), (5, 5), (31, 31)])
def test_cosine_is_rounded_down(taps, side):
    import mpmath

    with mpmath.workprec(300):
        truth = mpmath.cos(mpmath.pi * (taps - 1) / (2 * side))
        assert 0.0 < torus.cosine_lower(taps, side) <= truth <= torus.cosine_lower(taps, side) * (1 + 2.0**-50)
