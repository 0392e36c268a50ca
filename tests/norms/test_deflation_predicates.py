"""Each error term of the waves' proof alone: with it nothing false is accepted, without it something is.

The terms of the shift are probed where one source of error dominates and K is not positive definite, in rational
arithmetic; those of the quadratic forms where what they stand for is known, or is as wrong as they allow.
"""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from certify.norms import deflation
from certify.norms.cholesky import Grams
from certify.norms.deflation import Forms, Modes, evaluation_error, find_modes, krylov, prove_forms, sketch, solve_all
from certify.norms.embedding import embed
from certify.norms.geometry import describe
from certify.norms.scaling import scale
from certify.norms.torus import least_torus

F64, C128 = torch.float64, torch.complex128
U = 2.0**-53
SMALLEST = 2.0**-1074


def one_frequency(error=0.0, norm=0.0):
    return SimpleNamespace(symbol=SimpleNamespace(error=error), norm=norm, weights=torch.ones(1, dtype=F64))


@pytest.fixture
def accepts(monkeypatch):
    """Whether K = s0^2 - H + u u^T is taken for positive definite, some terms of the shift left out."""

    def decide(H, s0, u=None, *, without=(), torus=None, error=0.0):
        n = len(H)
        u = torch.zeros(n, dtype=F64) if u is None else u
        modes = Modes(torch.tensor([0]), u.to(C128).reshape(1, n, 1), torch.zeros(1, n, 1), 0.0, 0.0)
        terms = deflation.shift_terms
        with monkeypatch.context() as patch:
            patch.setattr(
                deflation, "shift_terms", lambda *given: terms(*given)._replace(**dict.fromkeys(without, 0.0))
            )
            columns = torch.zeros(1, n, 1, dtype=C128)
            return solve_all(torus or one_frequency(), modes, Grams(H.to(C128)[None], error), s0, columns) is not None

    return decide


def is_definite(H, s0, u=None):
    """Whether K is positive definite, in rational arithmetic: all pivots are positive."""
    n = len(H)
    v = [Fraction(0)] * n if u is None else [Fraction(entry) for entry in u.tolist()]
    rows = [[v[i] * v[j] - Fraction(entry) for j, entry in enumerate(row)] for i, row in enumerate(H.tolist())]
    for j in range(n):
        rows[j][j] += Fraction(s0) ** 2
    for k in range(n):
        if not rows[k][k] > 0:
            return False
        for i in (i for i in range(k + 1, n) if rows[i][k]):
            factor = rows[i][k] / rows[k][k]
            rows[i][k:] = [a - factor * b for a, b in zip(rows[i][k:], rows[k][k:], strict=True)]
    return True


def arrow(diagonal, last, corner, n):
    """The matrix ``[n + 1, n + 1]`` of one number on the diagonal, one in its last row, and one where they meet."""
    H = torch.diag(torch.full((n + 1,), diagonal, dtype=F64))
    H[-1, :-1] = H[:-1, -1] = last
    H[-1, -1] = corner
    return H


def absorbing(n):
    """A matrix in whose factorisation a running difference from 1/2 loses many small squares."""
    H = arrow(0.0, 0.9 * 2.0**-27, 0.5, n)
    H[n // 2, n // 2] = H[n // 2, -1] = H[-1, n // 2] = 0.5
    return H


NOT_DEFINITE = {
    "factorisation": [(absorbing(160), 1.0 + j * 2.0**-52, None) for j in (6, 7, 8)],
    "underflow": [
        (arrow((2.0**20 - 1) * SMALLEST, 700 * SMALLEST, (2.0**21 - corner) * SMALLEST, 200), 2.0**-526.5, None)
        for corner in (40, 80)
    ],
    "lift": [
        (torch.outer(u, u), math.sqrt(2.0**-e), u)
        for u in (torch.tensor([1.3, 0.9], dtype=F64), torch.tensor([1.7, 1.9], dtype=F64))
        for e in (54, 55, 56)
    ],
    "subtraction": [
        (torch.tensor([[h, -h], [-h, h]], dtype=F64) * U, math.sqrt(1.5 * U), torch.full((2,), 1.25, dtype=F64))
        for h in (0.8, 0.9, 0.95, 0.99)
    ],
}
ROOM = {  # what else the tests leave out, since it leaves room for the term
    "factorisation": ("left_over",),
    "underflow": ("left_over", "lift", "subtraction", "factorisation"),
    "lift": ("left_over",),
    "subtraction": ("left_over", "lift", "factorisation"),
}


@pytest.mark.parametrize("term", NOT_DEFINITE)
def test_each_rounding_term_of_the_shift_is_carried_and_needed(term, accepts):
    cases = NOT_DEFINITE[term]
    assert not any(is_definite(*case) for case in cases)
    assert not any(accepts(*case, without=ROOM[term]) for case in cases)
    assert any(accepts(*case, without=(*ROOM[term], term)) for case in cases)


@pytest.mark.parametrize("term", ["gram", "symbol", "left_over"])
def test_each_stated_error_of_the_matrices_is_carried_and_needed(term, accepts):
    H, s0 = torch.eye(2, dtype=F64), 1.0005  # at worst the exact matrix is 1.002 I, for a symbol 1.001 I
    given = {"gram": {"error": 2e-3}, "symbol": {"torus": one_frequency(1e-3, 1.0)}, "left_over": {}}[term]
    s0 = 1.0 + 1e-10 if term == "left_over" else s0  # K is positive definite, but K - c_1 I is not
    assert not accepts(H, s0, **given)
    assert accepts(H, s0, **given, without=(term,))


def problem():
    """A convolution of four channels in a torus, the waves to take apart, and a basis."""
    kernel = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    conv = describe(scale(kernel).values, (7, 7), padding=1)
    symbol, grid = least_torus(conv)
    torus = embed(conv, symbol, grid)
    H = symbol.grams(grid, torus.whole)
    found = sketch(H.matrices)
    s0 = 1.01 * math.sqrt(float(found[1].max()))
    modes = find_modes(torus, found, 0.9 * s0**2)
    return torus, modes, H, s0


def forms_of(torus, modes, H, s0, space=None):
    space = krylov(torus, modes.columns, 1) if space is None else space
    forms = prove_forms(torus, modes, space, dataclasses.replace(H, matrices=H.matrices.clone()), s0)
    assert forms is not None
    return forms


def exact_products(left, right):
    """The products of the rows of two matrices, rounded once."""
    rows = [[[Fraction(entry) for entry in row] for row in side.flatten(1).tolist()] for side in (left, right)]
    return [[sum(a * b for a, b in zip(one, other, strict=True)) for other in rows[1]] for one in rows[0]]


def distance(found, exact):
    """The Frobenius distance of float numbers from rational ones."""
    pairs = zip(found.flatten().tolist(), [entry for row in exact for entry in row], strict=True)
    return math.sqrt(sum((Fraction(a) - b) ** 2 for a, b in pairs))


def test_rounding_of_the_inner_products_is_carried_and_needed(monkeypatch):
    torus, modes, H, s0 = problem()
    modes = dataclasses.replace(modes, error=0.0)
    B, W, _ = space = krylov(torus, modes.columns, 1)
    torus.__dict__["step_error"] = 0.0  # leaves the rounding of the products alone
    truths = exact_products(modes.columns, B), exact_products(B, B), exact_products(W, W)

    def holds():
        forms = forms_of(torus, modes, H, s0, space)
        found = zip((forms.inner, forms.mass, forms.image), truths, forms.errors, strict=False)
        return [distance(form, truth) <= error for form, truth, error in found]

    assert holds() == [True, True, True]
    monkeypatch.setattr(deflation, "gamma_up", lambda n: 0.0)
    assert holds() == [False, False, False]


def test_rounding_of_the_solutions_is_carried_and_needed(monkeypatch):
    torus, modes, H, s0 = problem()
    solve, seen = torch.linalg.solve_triangular, []
    residual, total = 0.0, 0.0

    def recording(L, S, *, upper):
        seen.append((L.numpy(), S.numpy(), solve(L, S, upper=upper)))
        return seen[-1][2]

    monkeypatch.setattr(torch.linalg, "solve_triangular", recording)
    S = torus.coefficients(krylov(torus, modes.columns, 1)[0])
    matrices = H.matrices.clone()
    gram, gram_error, E = solve_all(torus, modes, dataclasses.replace(H, matrices=matrices.clone()), s0, S)
    wide = [[part.astype(np.clongdouble) for part in (L, S, T.numpy())] for L, S, T in seen]
    weights = torus.weights.numpy().astype(np.longdouble)[:, None, None]
    L, S_wide, T = (np.concatenate(parts) for parts in zip(*wide, strict=True))
    residual = float(np.sqrt((weights * np.abs(S_wide - L @ T) ** 2).sum()))
    total = (weights * (T.conj().transpose(0, 2, 1) @ T)).sum(0).real
    missed = float(np.sqrt(((gram.numpy() - total) ** 2).sum()))
    assert residual <= E
    assert missed <= gram_error
    monkeypatch.setattr(deflation, "gamma_up", lambda n: 0.0)
    _, gram_error, E = solve_all(torus, modes, dataclasses.replace(H, matrices=matrices.clone()), s0, S)
    assert residual > E
    assert missed > gram_error


WRONG = 1e-5


def as_wrong_as_stated(torus, what):
    """Make what a torus holds wrong by a part of `WRONG`, and its error bound large enough to say so."""
    if what == "symbol":
        true = torus.matrices
        torus.__dict__["matrices"] = true * (1.0 + WRONG)
        torus.symbol.__dict__["error"] = WRONG * float(torch.linalg.matrix_norm(true, ord=2).max())
    else:
        torus.__dict__["waves"] = [wave * (1.0 + WRONG) for wave in torus.waves]
        torus.__dict__["transform_error"] = 2.1 * WRONG


@pytest.mark.parametrize("what", ["symbol", "transform"])
def test_a_wrong_image_is_covered_by_the_errors(what):
    torus, modes, H, s0 = problem()
    basis, image, again = krylov(torus, modes.columns, 1)
    as_wrong_as_stated(torus, what)
    wrong = basis, torus.forward(basis), torus.backward(torus.forward(basis))
    forms = forms_of(torus, modes, H, s0, wrong)
    images = image.flatten(1) @ image.flatten(1).mT
    assert 1e-7 < float((forms.image - images).norm()) <= forms.errors[2]
    left_over = deflation.LEFT_OVER * s0**2
    S = torch.cat([modes.columns, basis, wrong[2]])
    truth = problem()[0].coefficients(torch.cat([modes.columns, basis, again]))
    missed = (torus.coefficients(S) - truth) * torus.weights.sqrt()[:, None, None]
    assert 1e-7 < float(missed.abs().square().sum().sqrt()) <= math.sqrt(forms.spill * left_over)


def test_wrong_coefficients_are_covered_by_the_errors():
    torus, modes, H, s0 = problem()
    space = krylov(torus, modes.columns, 1)
    columns = torch.cat([modes.columns, space[0], space[2]])
    truth = torus.coefficients(columns)
    as_wrong_as_stated(torus, "transform")
    torus.__dict__["step_error"] = 0.0
    forms = forms_of(torus, dataclasses.replace(modes, error=0.0), H, s0, space)
    missed = (torus.coefficients(columns) - truth) * torus.weights.sqrt()[:, None, None]
    assert 1e-7 < float(missed.abs().square().sum().sqrt()) <= math.sqrt(forms.spill * deflation.LEFT_OVER * s0**2)


def test_errors_of_the_solutions_are_handed_on(monkeypatch):
    torus, modes, H, s0 = problem()
    solve = deflation.solve_all
    monkeypatch.setattr(deflation, "solve_all", lambda *given: (solve(*given)[0], 1e-3, 1e-2))
    forms = forms_of(torus, modes, H, s0)
    assert forms.errors[3] >= 1e-3
    assert forms.spill * deflation.LEFT_OVER * s0**2 >= 1e-4 * (1 - 1e-12)


def test_wrong_columns_are_covered_by_the_errors():
    torus, modes, H, s0 = problem()
    space = krylov(torus, modes.columns, 1)
    true = forms_of(torus, modes, H, s0, space)
    columns = modes.columns * (1.0 + WRONG)
    missed = WRONG * float(modes.columns.norm())
    forms = forms_of(torus, dataclasses.replace(modes, columns=columns, error=missed), H, s0, space)
    assert 1e-7 < float((forms.inner - true.inner).norm()) <= forms.errors[0]
    assert 1e-7 < missed <= math.sqrt(forms.spill * deflation.LEFT_OVER * s0**2)


def test_stored_columns_are_within_their_error_of_the_waves():
    import mpmath

    torus, modes, _, _ = problem()
    place, u = int(modes.places[0]), modes.lifts[0, :, 0]
    (turns,) = {torus.grid.turns(modes.places[:1])}
    square = mpmath.mpf(0)
    with mpmath.workprec(200):
        for c, *position in torus.inside.nonzero().tolist():
            angle = 2 * mpmath.pi * sum(mpmath.mpf(t) * j for t, j in zip(turns, position, strict=True))
            wave = mpmath.mpc(complex(u[c])) * mpmath.expj(-angle) / mpmath.sqrt(math.prod(torus.grid.sides))
            root = mpmath.sqrt(2) if float(torus.weights[place]) == 2.0 or len(modes.columns) > 1 else mpmath.mpf(1)
            for column, part in zip(modes.columns, (wave.real, wave.imag), strict=False):
                square += (mpmath.mpf(float(column[(c, *position)])) - root * part) ** 2
        assert 0 < mpmath.sqrt(square) <= modes.error


def scalar_forms(v=0.0, m=0.0, w=0.0, Q=0.0, errors=(0.0, 0.0, 0.0, 0.0), spill=0.0):
    column = torch.ones(1, 1, dtype=F64)
    return Forms(0.0, v * column, m * column, w * column, Q * torch.eye(3, dtype=F64), errors, spill)


def scalar_matrix(s, c, v=0.0, m=0.0, w=0.0, Q=0.0):
    """The number in (1), exactly, and the square of the coefficients of R."""
    s, c, v, m, w, Q = map(Fraction, (s, c, v, m, w, Q))
    x = v * c
    squares = (1 - x) ** 2 + (s * s * c) ** 2 + c**2
    return 2 * x - (s * s * c * c * m - c * c * w + x * x) + squares * Q, squares


def stated(s, c, forms):
    C = c * torch.ones(1, 1, dtype=F64)
    x = float(forms.inner) * c
    return evaluation_error(forms, s, C, torch.tensor([[1.0 - x], [-s * s * c], [c]], dtype=F64))


@pytest.mark.parametrize(
    "s,c,true,wrong,place",
    [
        (1.0, 0.01, {"v": 0.0}, {"v": -0.1}, 0),  # 2 X^T V
        (1.0, 0.01, {"v": -1e4}, {"v": -1e4 - 0.1}, 0),  # X^T V V^T X
        (1.0, 0.01, {"v": 1.0, "Q": 1e6}, {"v": 0.9, "Q": 1e6}, 0),  # R
        (1.0, 10.0, {"m": 1.0}, {"m": 1.1}, 1),
        (1.0, 10.0, {"w": 1.0}, {"w": 1.1}, 2),
        (1.0, 0.01, {"Q": 1.0}, {"Q": 1.1}, 3),
    ],
)
def test_each_error_of_a_form_is_carried_as_far_as_it_reaches(s, c, true, wrong, place):
    errors = tuple(0.2 if j == place else 0.0 for j in range(4))
    moved = abs(scalar_matrix(s, c, **true)[0] - scalar_matrix(s, c, **wrong)[0])
    assert moved <= stated(s, c, scalar_forms(**wrong, errors=errors))
    assert moved > 3 * stated(s, c, scalar_forms(**wrong))


def test_what_the_solutions_miss_is_carried():
    assert scalar_matrix(1.0, 3.0)[1] * Fraction(0.1) <= stated(1.0, 3.0, scalar_forms(spill=0.1))


USED = [(1, 1, 1, 1, 1), (1, 0, 1, 1, 0), (1, 0, 0, 0, 1)]  # of c, V^T B, B^T B, (Z B)^T (Z B), T^* T


def test_rounding_of_the_small_matrix_is_carried_and_needed(monkeypatch):
    rng = np.random.default_rng(0)
    cases = [(1.0 + rng.random(), *(rng.random(5) * used)) for used in USED for _ in range(20)]

    def missed(s, c, v, m, w, Q):
        seen = []
        with monkeypatch.context() as patch:
            patch.setattr(deflation, "proved_at_most", lambda grams, _: seen.append(grams) or torch.ones(1).bool())
            deflation.is_proved(scalar_forms(v, m, w, Q), s, torch.full((1, 1), c, dtype=F64))
        exact = scalar_matrix(s, c, v, m, w, Q)[0]
        return abs(Fraction(float(seen[0].matrices)) - exact) <= seen[0].error

    assert all(missed(*case) for case in cases)
    monkeypatch.setattr(deflation, "gamma_up", lambda n: 0.0)
    assert not any(all(missed(*case) for case in cases[first : first + 20]) for first in range(0, len(cases), 20))
