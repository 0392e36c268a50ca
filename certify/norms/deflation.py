r"""Zero-padded convolutions nearly exactly: what a torus adds to the norm is a few waves, and those are taken apart.

Let Z = Q C P be a convolution inside a torus (`certify.norms.embedding`), H(w) = D(w)^* D(w) the blocks of C^* C, and U
a few real columns on the torus, each pair of them one wave: U U^T is block-diagonal too, with blocks U_w U_w^*, nonzero
at the few frequencies where H(w) has eigenvalues near or above those of Z^T Z.

**Theorem.** Let K(w) = s_0^2 I - H(w) + U_w U_w^* be positive definite on the grid, s >= s_0, and X any columns that
vanish outside the image. With V = P U, A = s^2 I - Z^T Z + V V^T on the image, and R = V - A X, if

    J = I - (X^T V + V^T X - X^T A X + R^T K^(-1) R)  >= 0,                                                       (1)

then ||Z|| <= s. (K^(-1) acts on the coefficients of R, frequency by frequency.)

*Proof.* On the image, A = P (s^2 I - C^* C + U U^T) P + P C^* (I - Q) C P >= P K P > 0, since dropping outputs only
lowers the norm. For x in the image, x^T (P K P)^(-1) x <= x^T K^(-1) x, the inverse of a corner being at most the
corner of the inverse. So R^T A^(-1) R <= R^T K^(-1) R, and because V = A X + R,

    V^T A^(-1) V = X^T V + V^T X - X^T A X + R^T A^(-1) R <= I     by (1).

Hence the matrix [[A, V], [V^T, I]] is positive semidefinite, and so is A - V V^T = s^2 I - Z^T Z. []

With U = 0 this is the bound of the torus; with X = A^(-1) V it loses nothing, for any U that makes K positive. Columns
X = B C are combined from a basis B (a few steps of a block Krylov space from V), and since everything in (1) is a
quadratic form in the columns of S = [V, B, Z^T Z B], the bound s and the coefficients C are chosen after the one
factorisation of K.

*Rounding.* With the float factor, K - c I = L L^* up to what c - c_1 covers (`certify.norms.cholesky`), c_1 a part
of the shift that is left over, so K >= L L^* + c_1 I. If S = L T + E for the float solution T, then for any
combination of columns g and every z,  2 Re z^* S g - z^* (L L^* + c_1 I) z <= |T g|^2 + |E g|^2 / c_1,  that is

    (S g)^* K^(-1) (S g) <= |T g|^2 + ||E||_F^2 |g|^2 / c_1.

E holds the error of the solution, at most gamma_(4 (n + 2)) ||L||_F ||T||_F, that of the coefficients of S and that of
Z^T Z B. The matrix in (1) then is a product of small matrices with errors in norm, and a Cholesky factorisation of it
proves J >= 0 (`certify.norms.cholesky`).

Reference: the base problem and finite-rank corrections are those of N. Aronszajn, Approximation methods for eigenvalues
of completely continuous symmetric operators (1951), and A. Weinstein's intermediate problems; S. M. Rump, Verification
of positive definiteness, BIT 46 (2006).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from certify.norms.cholesky import CACHED_NUMBERS, SINGLE, Grams, proved_at_most
from certify.norms.embedding import Embedding, embed
from certify.norms.geometry import Convolution
from certify.norms.products import candidate, vector_lower
from certify.norms.scaling import UNDERFLOW
from certify.norms.symbol import Peak, unravel
from certify.norms.torus import WARM_STEPS, Bound, least_torus, name_of, plane_wave
from certify.norms.vectors import largest_eigenvalues, norm_upper, start_vector
from certify.rounding import U64, add_up, div_up, down, gamma_up, mul_down, mul_up, sqrt_up

MOST_NUMBERS = 2**24  # of the symbol
MOST_MODES = 20  # frequencies that are taken apart
DEPTH = 1.5e-3  # below the square of the norm, relatively: eigenvalues above are taken apart
ROUNDS = (10, 12, 12)  # Lanczos steps; the better half goes on
FINE_STEPS, SECOND_STEPS, FINE_TOLERANCE = 60, 20, 1e-2
KRYLOV_STEPS = 1
START = 0.35  # s_0, on the way from the lower bound to the torus' one
LEFT_OVER = 1e-9  # c_1, relative to s_0^2
SEARCH_STEPS = 24


@dataclass(frozen=True, eq=False)
class Modes:
    """Waves to take apart: U_w ``[n, 1]`` of the kept frequencies ``places``, and V = P U, ``[r, n, *sides]``.

    ``error`` bounds that of V, and ``level`` is about the largest eigenvalue left.
    """

    places: Tensor
    lifts: Tensor
    columns: Tensor
    error: float
    level: float


class ShiftTerms(NamedTuple):
    """What the diagonal of K must give way, so that its factorisation is a proof: one term per source of error."""

    gram: float
    symbol: float
    lift: float
    factorisation: float
    underflow: float
    subtraction: float
    left_over: float


@dataclass(frozen=True, eq=False)
class Forms:
    """The quadratic forms of (1) in the columns [V, B, Z^T Z B], and what is needed to evaluate (1).

    ``inner`` is V^T B, ``mass`` B^T B, ``image`` (Z B)^T (Z B), ``solved`` T^* T; ``error`` bounds the error of each of
    these, in Frobenius norm, and ``spill`` is at least ||E||_F^2 / c_1.
    """

    s0: float
    inner: Tensor
    mass: Tensor
    image: Tensor
    solved: Tensor
    errors: tuple[float, float, float, float]
    spill: float


def near_limits(conv: Convolution) -> tuple[float, Bound] | None:
    """Return limits of a zero-padded convolution of one group; None if it is too large, or this gains nothing.

    Example:
        >>> from certify.norms.geometry import describe
        >>> taps = torch.tensor([[[-1.0, 2.0, -1.0]]], dtype=torch.float64)
        >>> truth = 2 + 2 * math.cos(math.pi / 10)
        >>> lower, bound = near_limits(describe(taps, (9,), padding=1))
        >>> lower <= truth <= bound.upper < 4.0
        True
    """
    symbol, grid = least_torus(conv)
    numbers = grid.size * math.prod(symbol.kernel.shape[:3])
    if symbol.kernel.shape[0] > 1 or numbers > MOST_NUMBERS or grid.size == 1:
        return None
    torus = embed(conv, symbol, grid)
    H = symbol.grams(grid, torus.whole)
    found = sketch(H.matrices)
    best = int(found[1].argmax())
    peak = Peak(0, grid.turns(found[0][best : best + 1]), found[2][best])
    lower = vector_lower(conv, candidate(conv, plane_wave(conv, peak), steps=WARM_STEPS))
    upper = deflated_upper(torus, lower, found, H) if lower > 0.0 else math.inf
    plain = math.sqrt(max(0.0, float(found[1].max())))  # about what the torus alone proves
    return (lower, Bound(upper, name_of(conv, f"torus {grid} less waves"))) if upper < plain else None


def sketch(H: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Estimate the matrices of a batch with the largest eigenvalues: their numbers, first two eigenvalues and vectors.

    All are looked at roughly, the largest well. Returned are places, values and vectors, all firsts before all seconds.
    """
    single = H.to(SINGLE[H.dtype])
    best = torch.arange(len(H))
    vectors = start_vector(*H.shape[:2], dtype=single.dtype)
    for steps in ROUNDS:
        values, vectors = largest_eigenvalues(single[best], vectors, steps)
        kept = values.topk(min(max(2 * MOST_MODES, len(best) // 2), len(best))).indices
        best, vectors = best[kept], vectors[kept]
    firsts, vectors = largest_eigenvalues(single[best], vectors, FINE_STEPS, tolerance=FINE_TOLERANCE)
    rest = single[best] - firsts[:, None, None].to(single.dtype) * (vectors[:, :, None] * vectors[:, None].conj())
    start = start_vector(*vectors.shape, dtype=single.dtype)
    seconds, others = largest_eigenvalues(rest, start, SECOND_STEPS, tolerance=FINE_TOLERANCE)
    return torch.cat([best, best]), torch.cat([firsts, seconds]), torch.cat([vectors, others]).to(H.dtype)


def deflated_upper(torus: Embedding, lower: float, found: tuple[Tensor, Tensor, Tensor], H: Grams) -> float:
    """Return a proved upper bound of ||Z||, infinity where the proof fails.

    Args:
        torus: The convolution.
        lower: An estimate of its norm that should not be above it.
        found: What `sketch` returned for H.
        H: The Gram matrices of the symbol on all kept frequencies.
    """
    modes = find_modes(torus, found, lower**2 * (1.0 - DEPTH))
    if modes is None:
        return math.inf
    s0 = lower + START * max(0.0, math.sqrt(float(found[1].max())) - lower)
    s0 = max(s0, math.sqrt(modes.level * (1.0 + DEPTH)))
    forms = prove_forms(torus, modes, krylov(torus, modes.columns, KRYLOV_STEPS), H, s0)
    return math.inf if forms is None else least_proved(forms)


def find_modes(torus: Embedding, found: tuple[Tensor, Tensor, Tensor], level: float) -> Modes | None:
    """Return the largest waves whose eigenvalues are above a level, lowered to it, or to a higher one; None if none is.

    Frequencies that are each other's negatives make one wave; where the wave is its own conjugate, u is made real.
    """
    conjugate = torus.grid.negatives
    chosen: dict[tuple[int, bool], tuple[float, Tensor]] = {}
    for number, (place, value, vector) in enumerate(zip(*found, strict=True)):
        pair = int(place), int(conjugate[place])
        key = min(pair), 2 * number >= len(found[0])
        if float(value) > level and key not in chosen:
            chosen[key] = float(value), vector if pair[0] <= pair[1] else vector.conj().resolve_conj()
    ranked = sorted(chosen.items(), key=lambda item: -item[1][0])
    if len(ranked) > MOST_MODES:
        level = ranked[MOST_MODES][1][0]
    at, lifts, arrays = [], [], []
    for (place, _), (value, vector) in ranked[:MOST_MODES]:
        other = int(conjugate[place])
        alone = place == other and float(torus.weights[place]) == 1.0
        u = vector * math.sqrt(value - level)
        if alone:
            u = (u * (u[u.abs().argmax()].conj() / u.abs().max())).real.to(u.dtype)
        for where, lift in {place: u, other: u if other == place else u.conj().resolve_conj()}.items():
            at.append(where)
            lifts.append(lift)
        arrays.extend(_columns(torus, place, u, alone=alone))
    if not arrays:
        return None
    columns = torch.stack(arrays) * torus.inside
    error = mul_up(64.0 * U64, norm_upper(torch.stack(lifts)), 2.0)
    return Modes(torch.tensor(at), torch.stack(lifts)[:, :, None], columns, error, level)


def _columns(torus: Embedding, place: int, u: Tensor, alone: bool) -> list[Tensor]:
    """Return the real columns ``[n, *sides]`` of one wave and its conjugate: u e^(-i w.j), at the transform's scale."""
    wave = u
    for rows, f in zip(torus.waves, unravel(torch.tensor(place), torus.grid.counts), strict=True):
        wave = wave[..., None] * rows[f].conj()
    root = 1.0 if alone else math.sqrt(2.0)
    return [wave.real] if alone else [root * wave.real, root * wave.imag]


def krylov(torus: Embedding, columns: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a basis B ``[R, n, *sides]`` of a block Krylov space of Z^T Z on the image, with Z B and Z^T Z B."""
    basis = _orthonormal(columns, None) * torus.inside
    image = torus.forward(basis)
    again = torus.backward(image)
    for _ in range(steps - 1):
        more = _orthonormal(again[-len(columns) :], basis) * torus.inside
        basis = torch.cat([basis, more])
        image = torch.cat([image, torus.forward(more)])
        again = torch.cat([again, torus.backward(image[-len(columns) :])])
    return basis, image, again


def _orthonormal(columns: Tensor, against: Tensor | None) -> Tensor:
    flat = columns.flatten(1)
    if against is not None:
        known = against.flatten(1)
        for _ in range(2):
            flat = flat - (flat @ known.mT) @ known
    orthonormal: Tensor = torch.linalg.qr(flat.mT)[0].mT
    return orthonormal.reshape(columns.shape).contiguous()


def prove_forms(
    torus: Embedding, modes: Modes, space: tuple[Tensor, Tensor, Tensor], H: Grams, s0: float
) -> Forms | None:
    """Return the forms of (1), or None where K is not proved positive definite at ``s0``."""
    basis, image, again = space
    size = norm_upper(basis)
    image_error = mul_up(torus.step_error, size)
    again_error = add_up(mul_up(torus.norm, image_error), mul_up(torus.step_error, norm_upper(image)))
    columns = torch.cat([modes.columns, basis, again])
    S = torus.coefficients(columns)
    S_error = add_up(mul_up(torus.transform_error, norm_upper(columns)), again_error, modes.error)
    solved = solve_all(torus, modes, H, s0, S)
    if solved is None:
        return None
    gram, gram_error, E = solved
    total = add_up(S_error, E)
    left_over = mul_down(LEFT_OVER, mul_down(s0, s0))
    V, B, W = modes.columns.flatten(1), basis.flatten(1), image.flatten(1)
    terms = gamma_up(V.shape[1] + W.shape[1] + 4)
    V_size, W_size = norm_upper(V), norm_upper(W)
    errors = (
        add_up(mul_up(terms, V_size, size), mul_up(modes.error, size)),
        mul_up(terms, size, size),
        add_up(mul_up(terms, W_size, W_size), mul_up(image_error, add_up(mul_up(2.0, W_size), image_error))),
        gram_error,
    )
    spill = div_up(mul_up(total, total), left_over)
    return Forms(s0, V @ B.mT, B @ B.mT, W @ W.mT, gram, errors, spill)


def solve_all(torus: Embedding, modes: Modes, H: Grams, s0: float, S: Tensor) -> tuple[Tensor, float, float] | None:
    """Return the sum of T^* T over the whole grid, its error, that of the solutions; None if K is not proved positive.

    The matrices of H are overwritten.
    """
    matrices = H.matrices
    n = matrices.shape[-1]
    for place, lift in zip(modes.places.tolist(), modes.lifts, strict=True):  # a place may have two
        matrices[place] -= lift @ lift.mH
    s2 = mul_down(s0, s0)
    shift = add_up(*shift_terms(torus, modes, H, s0))
    if not shift < s2:
        return None
    total, L_most, T_squares = torch.zeros(S.shape[2], S.shape[2], dtype=torch.float64), 0.0, 0.0
    few = max(1, CACHED_NUMBERS // n**2)
    for first in range(0, len(matrices), few):
        part = slice(first, first + few)
        L = _factor(matrices[part], s2, shift)
        if L is None:
            return None
        weighted = torch.linalg.solve_triangular(L, S[part], upper=False) * torus.weights[part].sqrt()[:, None, None]
        real = torch.view_as_real(weighted).permute(0, 1, 3, 2).reshape(-1, S.shape[2])
        total += real.mT @ real
        L_most = max(L_most, norm_upper(L))
        T_squares = add_up(T_squares, mul_up(norm_upper(weighted), norm_upper(weighted)))
    if not T_squares < math.inf:
        return None
    E = mul_up(1.1, gamma_up(4 * (n + 3)), L_most, sqrt_up(T_squares))
    return total, mul_up(gamma_up(2 * n * len(matrices) + len(matrices) + 8), T_squares), E


def shift_terms(torus: Embedding, modes: Modes, H: Grams, s0: float) -> ShiftTerms:
    """Return the terms of the shift that make a successful factorisation a proof of K - c_1 I >= L L^*.

    The matrices of H are the stored H - U U^*. As in `certify.norms.cholesky.shift_terms`, but with the errors of the
    symbol and of U U^*: a product of two numbers, and one subtraction per entry.
    """
    n, s2 = H.matrices.shape[-1], mul_down(s0, s0)
    diagonals = H.matrices.diagonal(dim1=1, dim2=2).real
    trace = add_up(mul_up(float(n), s2), mul_up(1.0 + 1e-9, -min(0.0, float(diagonals.sum(1).min()))))
    gamma = gamma_up(4 * (n + 6))
    return ShiftTerms(
        gram=H.error,
        symbol=mul_up(torus.symbol.error, add_up(mul_up(2.0, torus.norm), torus.symbol.error)),
        lift=mul_up(gamma_up(8), norm_upper(modes.lifts), norm_upper(modes.lifts)),
        factorisation=mul_up(2.0, div_up(gamma, down(1.0 - gamma)), trace),
        underflow=mul_up(4.0 * n, add_up(2.0 * n, trace), UNDERFLOW),
        subtraction=mul_up(4.0 * U64, add_up(s2, float(diagonals.abs().max()), norm_upper(H.matrices[modes.places]))),
        left_over=mul_up(LEFT_OVER, mul_up(s0, s0)),
    )


def _factor(H: Tensor, s2: float, shift: float) -> Tensor | None:
    """Return the factors of s2 I - H less the shift, or None where one is not proved to be positive definite."""
    block = -H
    diagonal = (s2 + block.diagonal(dim1=1, dim2=2).real) - shift
    block.diagonal(dim1=1, dim2=2).copy_(diagonal)
    L, info = torch.linalg.cholesky_ex(block)
    proved = bool((info == 0).all()) and bool((diagonal > 0.0).all())
    return L if proved and bool(torch.isfinite(L.diagonal(dim1=1, dim2=2).real).all()) else None


def least_proved(forms: Forms) -> float:
    """Return the least s found for which (1) is proved, infinity if none."""
    low, high, best = forms.s0, forms.s0 * 1.05, math.inf
    for _ in range(SEARCH_STEPS):
        middle = 0.5 * (low + high)
        if is_proved(forms, middle, combination(forms, middle)):
            best, high = sqrt_up(mul_up(middle, middle)), middle
        else:
            low = middle
        if high - low < 1e-6 * low:
            break
    return best


def combination(forms: Forms, s: float) -> Tensor:
    """Return the coefficients C ``[R, r]`` that make (1) least at s, in floats."""
    VB, r = forms.inner, len(forms.inner)
    W = torch.cat([VB, s * s * torch.eye(VB.shape[1], dtype=torch.float64), -torch.eye(VB.shape[1]).double()])
    left = W.mT @ forms.solved @ W - (s * s * forms.mass - forms.image + VB.mT @ VB)
    right = W.mT @ forms.solved[:, :r] - VB.mT
    values, vectors = torch.linalg.eigh((left + left.mT) / 2.0)
    useful = values > 1e-12 * values[-1]
    C: Tensor = vectors[:, useful] @ ((vectors[:, useful].mT @ right) / values[useful, None])
    return C


def is_proved(forms: Forms, s: float, C: Tensor) -> bool:
    """Return whether (1), and with it ||Z|| <= s, is proved for s >= s0 and the columns X = B C."""
    if not (s >= forms.s0 and bool(torch.isfinite(C).all())):
        return False
    VB, r = forms.inner, len(forms.inner)
    VX = VB @ C
    g = torch.cat([torch.eye(r, dtype=torch.float64) - VX, -(s * s) * C, C])
    small = (VX + VX.mT) - (s * s * (C.mT @ forms.mass @ C) - C.mT @ forms.image @ C + VX.mT @ VX)
    matrix = small + g.mT @ forms.solved @ g
    error = evaluation_error(forms, s, C, g)
    return error < 1.0 and bool(proved_at_most(Grams(matrix[None], error), 1.0).all())


def evaluation_error(forms: Forms, s: float, C: Tensor, g: Tensor) -> float:
    """Return at least the norm of the error of the matrix of (1), and of what E adds to it.

    ``g`` holds the coefficients of R in the columns [V, B, Z^T Z B]; X^T V and V^T V enter it, so its own error counts.
    """
    inner, mass, image, solved = forms.errors
    c, size = norm_upper(C), norm_upper(g)
    V, s2 = norm_upper(forms.inner), mul_up(s, s)
    M, images, Q = norm_upper(forms.mass), norm_upper(forms.image), norm_upper(forms.solved)
    gamma = gamma_up(8 * sum(forms.solved.shape) + 32)
    c2 = mul_up(c, c)
    x_error = add_up(mul_up(inner, c), mul_up(gamma, V, c))  # of V^T X
    g_error = add_up(x_error, mul_up(gamma, size))
    reach = add_up(size, g_error)
    total = add_up(
        mul_up(2.0, x_error),
        mul_up(c2, add_up(mul_up(s2, mass), image)),
        mul_up(x_error, add_up(mul_up(2.0, V, c), x_error)),
        mul_up(gamma, add_up(mul_up(2.0, V, c), mul_up(c2, add_up(mul_up(s2, M), images, mul_up(V, V))))),
        mul_up(reach, reach, add_up(solved, forms.spill)),
        mul_up(g_error, add_up(mul_up(2.0, size), g_error), Q),
        mul_up(gamma, size, size, Q),
        mul_up(4.0, size, UNDERFLOW),
    )
    return mul_up(1.5, total)  # the factorisation reads one triangle only
