"""Each error term alone: with it the exact result is dominated, without it it is not.

Where one term has room for another, the other is first shown to be zero in the case at hand, and set to zero.
"""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from certify.bounds.covariance import aliasing, definite, domination, elimination, proof, rounded
from certify.bounds.covariance.aliasing import flatten_upper, fold_upper
from certify.bounds.covariance.definite import is_at_least
from certify.bounds.covariance.elimination import activate_upper, assemble, complement_upper, mask_upper
from certify.bounds.covariance.rounded import linear_upper, quadratic_upper
from tests.bounds.covariance.exact_matrices import (
    C128,
    F64,
    activated,
    diagonal,
    dominates,
    exact,
    is_psd,
    positive,
    rational,
)


def generator_of(seed):
    return torch.Generator().manual_seed(seed)


def without(monkeypatch, module, function, *names):
    """Set some terms of a function that returns a named tuple to zero."""
    whole = getattr(module, function)

    def fewer(*arguments, **options):
        terms = whole(*arguments, **options)
        zero = {name: 0.0 * getattr(terms, name) for name in names}
        return terms._replace(**zero)

    monkeypatch.setattr(module, function, fewer)


# --- linear maps ---


def linear_failures(is_complex=False, exponent=0):
    failures = 0
    for seed in range(20):
        g = generator_of(seed)
        P = positive(6, 6, g, is_complex)
        G = torch.randn(2, 6, generator=g, dtype=F64) * 2.0**exponent
        G = torch.complex(G, torch.randn(2, 6, generator=g, dtype=F64)) if is_complex else G
        A = exact(G)
        failures += not dominates(linear_upper(P[None], G[None])[0], A * exact(P) * A.transpose())
    return failures


@pytest.mark.parametrize("is_complex", [False, True])
def test_rounding_of_products(monkeypatch, is_complex):
    without(monkeypatch, rounded, "linear_terms", "underflow")  # there is none, and it raises each diagonal by a step
    assert linear_failures(is_complex) == 0
    without(monkeypatch, rounded, "linear_terms", "rounding")
    assert linear_failures(is_complex) > 5


def test_roundings_grow_with_the_length_of_a_row(monkeypatch):
    """One large product, and many that a running sum from it loses."""
    P, G = torch.ones(1, 1, dtype=F64).expand(400, 400).tril().triu() * 0.9 * 2.0**-54, torch.ones(1, 400, dtype=F64)
    P = P.clone()
    P[0, 0] = 1.0
    truth = exact(G) * exact(P) * exact(G.mT)
    assert dominates(linear_upper(P[None], G[None])[0], truth)
    gamma = rounded.gamma_up
    monkeypatch.setattr(rounded, "gamma_up", lambda n: gamma(1))
    assert not dominates(linear_upper(P[None], G[None])[0], truth)


def test_rounding_beside_kept_rows(monkeypatch):
    """Only the blocks between kept and new rows err: the new ones are doubled, which is exact."""

    def failures():
        count = 0
        for seed in range(20):
            g = generator_of(seed)
            P, G = positive(3, 3, g), torch.randn(1, 3, generator=g, dtype=F64)
            M = linear_upper(P[None], G[None], keep=torch.arange(3))[0]
            M[3, 3] *= 2.0
            A = exact(torch.cat([torch.eye(3, dtype=F64), G]))
            count += not dominates(M, A * exact(P) * A.transpose())
        return count

    without(monkeypatch, rounded, "linear_terms", "underflow")
    assert failures() == 0
    whole = rounded.linear_terms

    def unkept(*arguments, **options):
        terms = whole(*arguments, **options)
        terms.rounding[:, :3] = 0.0
        return terms

    monkeypatch.setattr(rounded, "linear_terms", unkept)
    assert failures() > 5


def test_underflow_of_products(monkeypatch):
    P, G = torch.full((1, 1, 1), 2.0**-40, dtype=F64), torch.full((1, 1, 1), 2.0**-530, dtype=F64)
    truth = exact(G[0]) * exact(P[0]) * exact(G[0])
    assert dominates(linear_upper(P, G)[0], truth)
    without(monkeypatch, rounded, "linear_terms", "underflow")
    assert not dominates(linear_upper(P, G)[0], truth)


@pytest.mark.parametrize("kept", [0, 2])
def test_uncertainty_of_the_matrix(monkeypatch, kept):
    P, G = torch.eye(2, dtype=F64), torch.tensor([[1.0, 0.0]], dtype=F64)
    error, keep = torch.tensor([[0.125, 0.25]], dtype=F64), torch.arange(kept)
    eye = torch.eye(2, dtype=F64)[keep]
    truths = [exact(torch.cat([eye, G + sign * error])) for sign in (1.0, -1.0)]

    def right():
        M = linear_upper(P[None], G[None], error, keep)[0]
        return all(dominates(M, A * exact(P) * A.transpose()) for A in truths)

    assert right()
    without(monkeypatch, rounded, "linear_terms", "uncertainty")
    assert not right()


def test_symmetrisation_and_exact_hermitian_matrices(monkeypatch):
    g = generator_of(0)
    P, G = positive(5, 5, g, True), torch.randn(5, 5, generator=g, dtype=C128)
    M = linear_upper(P[None], G[None])[0]
    assert torch.equal(M, M.mH)
    monkeypatch.setattr(rounded, "symmetrise", lambda Y: Y)
    M = linear_upper(P[None], G[None])[0]
    assert not torch.equal(M, M.mH)


def test_rounding_of_the_symmetrisation_is_counted():
    # T and Y exact, entries (j, k) and (k, j) one rounding apart: only the mean is rounded
    for order, terms in ((3, 1), (21, 10)):
        assert order == 2 * domination.inner_order(torch.zeros(1, dtype=F64), terms) + 1


# --- activations ---


def activation_case(seed, n=4, is_complex=False):
    g = generator_of(seed)
    M = positive(n, n, g, is_complex)
    lower = -torch.randint(0, 8, (n,), generator=g).double() / 8
    upper = torch.randint(1, 8, (n,), generator=g).double() / 8
    D = torch.full((n,), math.ceil(1.1 * float(torch.linalg.eigvalsh(M)[-1])), dtype=F64)
    return M, lower, upper, D


def activation_failures(is_complex=False):
    failures = 0
    for seed in range(20):
        M, lower, upper, D = activation_case(seed, is_complex=is_complex)
        slopes = elimination.Slopes.between(lower, upper)
        P = activate_upper(M[None], lower, upper, D)
        truth = activated(M, slopes.centre, slopes.radius, list(range(4)), D)
        failures += P is None or not dominates(P[0], truth)
    return failures


@pytest.mark.parametrize("is_complex", [False, True])
def test_all_terms_of_an_activation(monkeypatch, is_complex):
    def exact_slack(M, rows, D):  # few bits: the subtraction is exact
        return torch.diag(D).to(M.dtype) - M

    monkeypatch.setattr(elimination, "slack_lower", exact_slack)
    monkeypatch.setattr(elimination, "nextafter_up", lambda x: x)  # slopes of few bits
    without(monkeypatch, elimination, "complement_terms", "underflow")
    without(monkeypatch, elimination, "assembly_terms", "underflow")
    assert activation_failures(is_complex) == 0
    without(monkeypatch, elimination, "complement_terms", "product", "residual", "residual_squared")
    without(monkeypatch, elimination, "assembly_terms", "rounding")
    assert activation_failures(is_complex) > 0


def test_rounding_of_the_assembly(monkeypatch):
    """No row has a range of slopes: nothing else is rounded."""
    M, slope = positive(3, 3, generator_of(0)), torch.tensor([0.1, 0.7, -1.3], dtype=F64)
    cases = [(M, slope), (M, slope.flip(0)), (positive(3, 1, generator_of(1)), slope)]

    def right():
        return all(
            dominates(activate_upper(M[None], b, b, b[:0])[0], diagonal(b.tolist()) * exact(M) * diagonal(b.tolist()))
            for M, b in cases
        )

    without(monkeypatch, elimination, "assembly_terms", "underflow")
    assert right()
    without(monkeypatch, elimination, "assembly_terms", "rounding")
    assert not right()


def test_underflow_of_the_assembly(monkeypatch):
    M, b = torch.full((1, 1, 1), 2.0**-1000, dtype=F64), torch.full((1,), 2.0**-50, dtype=F64)
    truth = diagonal([Fraction(2) ** -1100])
    assert dominates(activate_upper(M, b, b, b[:0])[0], truth)
    without(monkeypatch, elimination, "assembly_terms", "underflow")
    assert not dominates(activate_upper(M, b, b, b[:0])[0], truth)


def complement_is_right(M, D):
    """Whether sym(S) + diag(e) dominates the exact M K^-1 M, K = D - M, all rows having ranges of slopes."""
    n = len(M)
    found = complement_upper(M[None], torch.arange(n), D)
    stored = exact((found.matrix[0] + found.matrix[0].mH) / 2) + exact(torch.diag(found.diagonal[0]))
    truth = exact(M) * (exact(torch.diag(D)) - exact(M)).inv() * exact(M)
    return is_psd(stored - truth)


def perfect_solutions():
    """K = I / 4 exactly and M' = 2 M, so that X = 8 M is exact: only the product S = M'^T X is rounded."""
    for seed in range(20):
        X = torch.randint(-(2**20), 2**20, (4, 4), generator=generator_of(seed)).double() / 2**24
        yield X @ X.mT


def test_rounding_of_the_complement(monkeypatch):
    monkeypatch.setattr(elimination, "slack_lower", lambda M, rows, D: torch.eye(4, dtype=F64)[None] / 4.0)

    def failures():
        count = 0
        for M in perfect_solutions():
            found = complement_upper(M[None], torch.arange(4), torch.ones(4, dtype=F64))
            stored = exact((found.matrix[0] + found.matrix[0].mT) / 2) + exact(torch.diag(found.diagonal[0]))
            count += not is_psd(stored - 4 * exact(M) * exact(M))
        return count

    without(monkeypatch, elimination, "residual_terms", "rounding")  # the residual is exactly zero here
    assert failures() == 0
    without(monkeypatch, elimination, "complement_terms", "product")
    assert failures() > 5


def test_residual_of_a_poor_solution(monkeypatch):
    solve = torch.cholesky_solve
    monkeypatch.setattr(torch, "cholesky_solve", lambda B, L: solve(B, L) * (1.0 - 1e-7))
    cases = [(M, D) for M, _, _, D in (activation_case(seed) for seed in range(10))]
    assert all(complement_is_right(M, D) for M, D in cases)
    without(monkeypatch, elimination, "complement_terms", "residual")
    assert not any(complement_is_right(M, D) for M, D in cases)


def test_square_of_the_residual_without_any_solution(monkeypatch):
    monkeypatch.setattr(torch, "cholesky_solve", lambda B, L: torch.zeros_like(B))
    cases = [(M, D) for M, _, _, D in (activation_case(seed) for seed in range(10))]
    assert all(complement_is_right(M, D) for M, D in cases)
    without(monkeypatch, elimination, "complement_terms", "residual_squared")
    assert not any(complement_is_right(M, D) for M, D in cases)


def test_kappa_divides_the_square_of_the_residual(monkeypatch):
    """One row, no solution: the bound is m^2 / kappa with kappa just below K, and fails for any larger kappa."""
    monkeypatch.setattr(torch, "cholesky_solve", lambda B, L: torch.zeros_like(B))
    M, D = torch.tensor([[0.5]], dtype=F64), torch.tensor([1.0], dtype=F64)  # K = 1/2 up to a step
    monkeypatch.setattr(elimination, "relative_lower", lambda K: 0.499)  # proved by hand
    assert complement_is_right(M, D)
    monkeypatch.setattr(elimination, "relative_lower", lambda K: 2 * 0.499)
    assert not complement_is_right(M, D)


def residual_failures():
    failures = 0
    for seed in range(30):
        g = generator_of(seed)
        q = 5
        K = positive(q, q, g) / 2.0**4
        M = torch.randn(q, 2, generator=g, dtype=F64)
        X = torch.linalg.solve(K, M)
        terms = elimination.residual_terms(K[None], M[None], X[None], torch.ones(1, 2, dtype=F64))
        norms = domination.total(terms)[0].tolist()
        R = exact(M) - exact(K) * exact(X)
        failures += any(sum(R[i, k] ** 2 for i in range(q)) > rational(norms[k]) ** 2 for k in range(2))
    return failures


@pytest.mark.parametrize("name", ["rounding", "computed"])
def test_norm_of_the_residual(monkeypatch, name):
    assert residual_failures() == 0
    if name == "computed":
        monkeypatch.setattr(elimination, "gamma_up", lambda n: 1e-18)  # which leaves room for it
    without(monkeypatch, elimination, "residual_terms", name)
    assert residual_failures() > 0


def test_multipliers_times_squares_of_radii_are_rounded_up(monkeypatch):
    g = generator_of(0)
    radius, D = torch.rand(50, generator=g, dtype=F64), torch.rand(50, generator=g, dtype=F64)

    def right():
        stored = elimination.diagonal_terms(radius, D, torch.arange(50), 50).tolist()
        exact_terms = [Fraction(c) ** 2 * Fraction(d) for c, d in zip(radius.tolist(), D.tolist(), strict=True)]
        return all(Fraction(a) >= b for a, b in zip(stored, exact_terms, strict=True))

    assert right()
    monkeypatch.setattr(elimination, "nextafter_up", lambda x: x)
    assert not right()


def test_radii_are_rounded_up(monkeypatch):
    g = generator_of(1)
    ends = [torch.randn(2, 1, generator=g, dtype=F64).sort(0).values for _ in range(200)]

    def right():
        for lower, upper in ends:
            slopes = elimination.Slopes.between(lower, upper)
            b, c = Fraction(float(slopes.centre)), Fraction(float(slopes.radius))
            if not b - c <= Fraction(float(lower)) <= Fraction(float(upper)) <= b + c:
                return False
        return True

    assert right()
    monkeypatch.setattr(elimination, "nextafter_up", lambda x: x)
    assert not right()


def test_slack_matrices_are_rounded_down(monkeypatch):
    def right(full):
        for seed in range(20):
            g = generator_of(seed)
            M = positive(3, 3, g) / 3.0
            M = (M + M.mT) / 2.0
            D = torch.rand(3, generator=g, dtype=F64) * 7.0
            D = torch.diag(D) + positive(3, 3, g) / 7.0 if full else D
            D = (D + D.mT) / 2.0 if full else D
            K = elimination.slack_lower(M[None], torch.arange(3), D)[0]
            if not is_psd(exact(D if full else torch.diag(D)) - exact(M) - exact(K)):
                return False
        return True

    assert right(full=True)
    assert right(full=False)
    monkeypatch.setattr(elimination, "rounding_terms", lambda K: torch.zeros(K.shape[:2], dtype=F64))
    assert not right(full=True)

    def to_nearest(M, terms, towards=math.inf):
        M.diagonal(dim1=1, dim2=2).add_(terms)
        return M

    monkeypatch.setattr(elimination, "add_to_diagonal", to_nearest)
    assert not right(full=False)


def test_block_of_a_mask_is_rounded_up(monkeypatch):
    """M = 0, so that the result is D / 4 in the block, added to what the assembly left there."""
    M = torch.zeros(1, 2, 2, dtype=F64)
    D = torch.tensor([[1.0, 0.3], [0.3, 1.1]], dtype=F64)
    real = elimination.assemble
    tail = torch.tensor([[0.1, 0.7], [0.7, 4.9]], dtype=F64)
    monkeypatch.setattr(elimination, "assemble", lambda *given: real(*given) + tail)

    def right():
        stored = mask_upper(M, torch.arange(2), D)[0]
        return dominates(stored, exact(tail) + exact(D) / 4)

    assert right()
    monkeypatch.setattr(elimination, "_rounded_block", lambda block, rows, n: torch.zeros(1, n, dtype=F64))
    assert not right()


def test_result_of_an_assembly_carries_the_complement():
    M, S = torch.ones(1, 1, 1, dtype=F64), torch.zeros(1, 1, 1, dtype=F64)
    lacking = elimination.Complement(S, torch.full((1, 1), 2.0, dtype=F64), torch.zeros(1, 1, dtype=F64))
    assert float(assemble(M, lacking, torch.full((1,), 3.0, dtype=F64))) >= 9.0 * (1.0 + 2.0)


# --- positive definite ---


def test_factorisation_error(monkeypatch):
    """H = [0 0 v; 0 J v; v v 1/2] as in a rank-one half J: K = t I - H loses the many squares of v from a half."""
    n = 160
    H = torch.zeros(n, n, dtype=F64)
    H[:, -1] = 2.0**-27 * (0.8 + 0.19 * torch.rand(n, generator=generator_of(0), dtype=F64))
    H[n // 2, n // 2] = H[n // 2, -1] = H[-1, -1] = 0.5
    H[-1] = H[:, -1]
    t = float(torch.linalg.eigvalsh(H)[-1]) + 2.0**-50
    wrong = []
    while len(wrong) < 12:
        t = math.nextafter(t, 0.0)
        K = t * torch.eye(n, dtype=F64) - H  # exact: 1/2 <= t <= 1 (1 + 2^-20)
        wrong += [K] if not is_psd(exact(K)) else []
    assert not any(is_at_least(K[None], 0.0) for K in wrong)
    without(monkeypatch, definite, "shift_terms", "subtraction")  # of zero: exact
    assert not any(is_at_least(K[None], 0.0) for K in wrong)
    without(monkeypatch, definite, "shift_terms", "factorisation")
    assert any(is_at_least(K[None], 0.0) for K in wrong)


def test_subtraction_from_the_diagonal(monkeypatch):
    """Exactly factorised 2 x 2 matrices whose diagonal rounds up when kappa is subtracted."""
    kappa = 0.99 * 2.0**-55
    cases = []
    for k in range(1, 200):
        s, t = 0.5 + k * 2.0**-12, 61.0 / 64.0
        K = torch.tensor([[s * s, s * t], [s * t, t * t + 2.0**-53]], dtype=F64)
        if not is_psd(exact(K) - diagonal([kappa] * 2)):
            cases.append(K)
    without(monkeypatch, definite, "shift_terms", "factorisation")
    assert not any(is_at_least(K[None], kappa) for K in cases)
    without(monkeypatch, definite, "shift_terms", "subtraction")
    assert any(is_at_least(K[None], kappa) for K in cases)


def test_kappa_is_not_doubled():
    K = torch.tensor([[0.5, 0.5 - 1.5 * 2.0**-12], [0.5 - 1.5 * 2.0**-12, 0.5]], dtype=F64)
    kappa = definite.relative_lower(K[None])
    assert kappa == 2.0**-12
    assert is_psd(exact(K) - diagonal([kappa] * 2))
    assert not is_psd(exact(K) - diagonal([2 * kappa] * 2))


def test_scales_must_be_powers_of_two(monkeypatch):
    K = torch.tensor([[0.3, 0.1], [0.1, 0.7]], dtype=F64)[None]
    scaled, inverse = definite.equilibrate(K)
    back = exact(torch.diag(1.0 / inverse[0]))
    assert back * exact(scaled[0]) * back == exact(K[0])
    assert bool(((scaled.diagonal(dim1=1, dim2=2) >= 0.25) & (scaled.diagonal(dim1=1, dim2=2) < 1.0)).all())
    frexp = torch.frexp
    monkeypatch.setattr(torch, "frexp", lambda x: torch.return_types.frexp((frexp(x)[0] * 0.9, frexp(x)[1])))
    assert definite.equilibrate(K) is None


# --- grids of frequencies ---


def fold_failures():
    failures = 0
    for seed in range(20):
        P = torch.stack([positive(2, 1, generator_of(10 * seed + k), True) for k in range(4)]) / 3.0
        P = (P + P.mH) / 2.0
        M = fold_upper(P, (6,), (3,))
        # v = 0: w = 0, 2, 4 = -2; v = 1: w = 1, 3, 5 = -1
        for v, parts in enumerate(((P[0], P[2], P[2].conj()), (P[1], P[3], P[1].conj()))):
            failures += not dominates(M[v], (exact(parts[0]) + exact(parts[1]) + exact(parts[2])) / 3)
    return failures


def test_rounding_of_a_stride(monkeypatch):
    assert fold_failures() == 0
    monkeypatch.setattr(aliasing, "mean_terms", lambda absolute, count: torch.zeros(absolute.shape[:2], dtype=F64))
    assert fold_failures() > 5


def flatten_case():
    """One channel, A = 1: one large block, and many that a running sum from it loses."""
    side = 254
    P = torch.full((side // 2 + 1, 1, 1), 0.9 * 2.0**-54, dtype=C128)
    P[0] = 1.0
    weights = [1] + [2] * (side // 2 - 1) + [1]
    truth = sum(weight * Fraction(float(p.real)) for weight, p in zip(weights, P.flatten(), strict=True)) / side
    return P, torch.ones_like(P), side, diagonal([truth])


def test_rounding_of_the_sum_over_frequencies(monkeypatch):
    P, A, side, truth = flatten_case()
    monkeypatch.setattr(aliasing, "CHUNK_NUMBERS", 1)  # a running sum
    assert dominates(flatten_upper(P, A, None, (side,))[0], truth)
    terms = aliasing.linear_terms

    def uncounted(*arguments, roundings):
        return terms(*arguments, roundings=roundings - len(P))

    monkeypatch.setattr(aliasing, "linear_terms", uncounted)
    assert not dominates(flatten_upper(P, A, None, (side,))[0], truth)


def test_uncertainty_of_a_symbol(monkeypatch):
    P, A = torch.ones(2, 1, 1, dtype=C128), torch.ones(2, 1, 1, dtype=C128)
    error = torch.full((1, 1), 0.5, dtype=F64)
    truth = diagonal([Fraction(9, 4)])  # |1 + 1/2|^2 at all three frequencies
    assert dominates(flatten_upper(P, A, error, (3,))[0], truth)
    without(monkeypatch, aliasing, "linear_terms", "uncertainty")
    assert not dominates(flatten_upper(P, A, error, (3,))[0], truth)


def test_both_halves_of_the_spectrum_count():
    assert aliasing.multiplicities((4, 5)).tolist() == [1.0, 2.0, 2.0] * 4
    assert aliasing.multiplicities((3, 4)).tolist() == [1.0, 2.0, 1.0] * 3
    assert float(aliasing.multiplicities((7, 9, 12)).sum()) == 7 * 9 * 12


# --- scalars ---


def test_quadratic_forms(monkeypatch):
    def right():
        for seed in range(20):
            g = generator_of(seed)
            P = positive(4, 4, g)
            w = torch.randn(2, 4, generator=g, dtype=F64)
            row = exact(w[:1]) - exact(w[1:])
            upper = float(quadratic_upper(P[None], w[:1] - w[1:], w[:1].abs() + w[1:].abs()))
            if rational(upper) < (row * exact(P) * row.transpose())[0, 0]:
                return False
        return True

    assert right()
    monkeypatch.setattr(rounded, "nextafter_up", lambda x: x)  # which leaves room for it
    monkeypatch.setattr(rounded, "TINY", 0.0)
    assert right()
    monkeypatch.setattr(rounded, "gamma_up", lambda n: 0.0)
    assert not right()


def test_pairs(monkeypatch):
    def right():
        for seed in range(40):
            M = positive(2, 1, generator_of(seed)) / 3.0
            M = (M + M.mT) / 2.0 + torch.tensor([[0.0, 0.0], [0.0, 2.0**-40]])
            pair = float(proof.Proved(M[None], {}).pair_uppers()[0, 1])
            E = exact(M)
            if rational(pair) ** 2 < E[0, 0] + E[1, 1] - 2 * E[0, 1]:
                return False
        return True

    assert right()
    monkeypatch.setattr(proof, "gamma_up", lambda n: 0.0)
    assert not right()


def test_shares_are_divided_by_a_sum_rounded_up(monkeypatch):
    def right():
        for seed in range(50):
            q = torch.rand(7, generator=generator_of(seed), dtype=F64)
            if sum(1 / Fraction(entry) for entry in proof.reciprocals_upper(q, 3).tolist()) * 3 > 1:
                return False
        return True

    assert right()
    monkeypatch.setattr(proof, "gamma_up", lambda n: 0.0)
    monkeypatch.setattr(proof, "mul_up", lambda *factors: math.prod(factors))
    monkeypatch.setattr(proof, "nextafter_up", lambda x: x)
    assert not right()
