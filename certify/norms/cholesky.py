r"""Verified upper bounds of spectral norms: a Cholesky factorisation that runs through is a proof.

Let A be ``[m, n]`` and H the float Gram matrix, ||H - A^* A||_2 <= error. To prove ||A|| <= s, factorise the float
matrix

    M = -H off the diagonal,   M_jj = fl(fl(s2 - H_jj) - c),   s2 = s^2 rounded down.

If the factorisation succeeds with every M_jj > 0, then M = R^* R + E with |E| <= gamma_k |R^*| |R|, and because the
columns of R satisfy sum_i |R_ij|^2 <= M_jj / (1 - gamma_k),

    lambda_min(M) >= - gamma_k / (1 - gamma_k) tr(M) - underflow.

Now s2 I - A^* A >= M + (c - error - 3 u t) I with t >= sum_j (s2 - H_jj) >= tr(M): the two subtractions of a diagonal
entry err by at most u (s2 - H_jj) each, and all these terms are positive. So s2 I - A^* A >= 0 as soon as c is at
least the sum of the `ShiftTerms`. A float norm, however accurate, gives no such proof: it falls below the exact norm
about every second time.

The order is n + 6 for real matrices: n + 1 in the textbook proof, one more for a division by a reciprocal, three for
the diagonal, one spare. For complex ones it is 4 (n + 6), since their products are real sums of twice the length,
with a factor sqrt(2).

Soundness: IEEE float64 with round-to-nearest in any order of summation, fused or not. It fails for emulated float64
products, for products of the 3M kind, and for factorisations by inverted blocks; none of these is what LAPACK does.

Reference: S. M. Rump, Verification of positive definiteness, BIT 46 (2006), Theorem 2.3 and Lemma 2.4;
N. Higham, Accuracy and Stability of Numerical Algorithms (2nd ed.), Theorem 10.3 and Section 3.6 (complex arithmetic).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from certify.norms.scaling import UNDERFLOW
from certify.norms.vectors import STEPS, largest_eigenvalues, start_vector
from certify.rounding import add_up, div_up, down, gamma_up, mul_down, mul_up, sqrt_up

LADDER = (1.05, 1.5, 3.0, 10.0, 100.0, 1e4, 1e6, 1e8)
MOST_ROUNDS = 64
DIRECT_SIDE = 192  # up to this side LAPACK's eigenvectors cost less than Lanczos steps,
SMALL_SIDE = 64  # and up to this one the eigenvalues of a whole batch
PANELS, LEAST_PANEL = 4, 384  # of a Gram matrix, whose upper triangle need not be multiplied out
SKETCH_STEPS, CLOSER_STEPS, CLOSER = 8, 16, 3  # of all matrices of a batch; then of its largest few
SAMPLED = 16  # matrices of a large batch give the first guess; what fails at it is looked at again
CACHED_NUMBERS = 2**17  # of the matrices that are factorised in one call: larger batches leave the cache
POLISH_STEPS = 8  # in double precision, after an iteration in single precision
SINGLE = {torch.float64: torch.float32, torch.complex128: torch.complex64}


@dataclass(frozen=True, eq=False)
class Grams:
    """Float Gram matrices ``[B, n, n]`` of A_b: the lower triangles of H_b with ||H_b - A_b^* A_b||_2 <= ``error``."""

    matrices: Tensor
    error: float

    def pick(self, chosen: Tensor) -> Grams:
        """Return the chosen ones only, numbered in rising order; all of them are not copied."""
        return self if len(chosen) == len(self.matrices) else Grams(self.matrices[chosen], self.error)


class ShiftTerms(NamedTuple):
    """What the diagonal must give way, so that a factorisation is a proof. Each term covers one source of error."""

    gram: float
    factorisation: float
    underflow: float


@dataclass(frozen=True, eq=False)
class Proof:
    """``upper`` is proved for every matrix; ``vector`` estimates the top right singular vector of number ``index``."""

    upper: float
    index: int
    vector: Tensor


def gram(A: Tensor) -> Grams:
    r"""Return the float Gram matrices of a batch, with their error.

    |fl(A^* A) - A^* A| <= gamma_m |A|^T |A| entrywise, and the spectral norm of this non-negative symmetric matrix is
    at most its largest row sum, || |A|^T (|A| 1) ||_inf: two products with vectors, whose own rounding is added.

    Args:
        A: ``[B, m, n]``, float64 or complex128, entries of magnitude below 2^400.
    """
    rows, columns = A.shape[1:]
    order = 4 * (rows + 2) if A.is_complex() else rows + 1
    magnitude = A.abs()
    sums = torch.einsum("bmn,bm->bn", magnitude, magnitude.sum(2))
    largest = float(sums.max())
    largest = mul_up(largest, add_up(1.0, gamma_up(rows + columns + 8)))
    error = add_up(mul_up(gamma_up(order), largest), mul_up(2.0 * rows, columns, UNDERFLOW))
    return Grams(_products(A), error)


def _products(A: Tensor) -> Tensor:
    """Return fl(A^* A): the lower triangle by panels of columns, the upper one copied from it."""
    n = A.shape[2]
    width = max(LEAST_PANEL, math.ceil(n / PANELS))
    if n <= width:
        return A.mH @ A
    H = A.new_empty(A.shape[0], n, n)
    for first in range(0, n, width):
        last = min(first + width, n)
        H[:, first:, first:last] = A[:, :, first:].mH @ A[:, :, first:last]
        H[:, first:last, last:] = H[:, last:, first:last].mH
    return H


def shift_terms(grams: Grams, s2: float) -> ShiftTerms:
    """Return the terms of the shift c that make a successful factorisation a proof of ||A||^2 <= s2."""
    n = grams.matrices.shape[-1]
    order = 4 * (n + 6) if grams.matrices.is_complex() else n + 6
    gamma = gamma_up(order)
    growth = div_up(gamma, down(1.0 - gamma)) if gamma < 0.5 else math.inf
    diagonals = grams.matrices.diagonal(dim1=1, dim2=2).real
    least_trace = mul_down(float(diagonals.sum(1).min()), down(1.0 - gamma_up(n)))
    trace = max(0.0, add_up(mul_up(float(n), s2), -least_trace))
    underflow = mul_up(4.0 * n, add_up(2.0 * n, trace), UNDERFLOW)
    return ShiftTerms(grams.error, mul_up(growth, trace), underflow)


def proved_at_most(grams: Grams, s: float) -> Tensor:
    """Return for each matrix whether ||A_b|| <= s is proved: ``[B]``, false also where merely the proof fails.

    Example:
        >>> A = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
        >>> [bool(proved_at_most(gram(A), s)) for s in (1.9, 2.0, 2.1)]
        [False, False, True]
    """
    s2 = mul_down(s, s)
    shift = add_up(*shift_terms(grams, s2))
    if not (s > 0.0 and shift < s2 < math.inf):
        return torch.zeros(grams.matrices.shape[0], dtype=torch.bool)
    few = max(1, CACHED_NUMBERS // grams.matrices[0].numel())
    parts = (grams.matrices[first : first + few] for first in range(0, len(grams.matrices), few))
    return torch.cat([_factorises(H, s2, shift) for H in parts])


def _factorises(H: Tensor, s2: float, shift: float) -> Tensor:
    """Return for each of a few matrices whether the diagonal of M is positive and its factorisation succeeds."""
    diagonal = (s2 - H.diagonal(dim1=1, dim2=2).real) - shift
    shifted = -H
    shifted.diagonal(dim1=1, dim2=2).copy_(diagonal)
    factor, info = torch.linalg.cholesky_ex(shifted)
    finite = torch.isfinite(factor.diagonal(dim1=1, dim2=2).real).all(1)
    proved: Tensor = (info == 0) & finite & (diagonal > 0.0).all(1)
    return proved


def prove_upper(grams: Grams, known: float = 0.0, give_up: float = math.inf) -> Proof:
    """Return a proved common bound of all ||A_b||, at least ``known``, just above the largest of them.

    The largest norm is estimated, the proof attempted a little above, and what fails is estimated again: the bound
    rises until nothing fails. The first attempt is at ``known`` itself, a bound already needed elsewhere.

    Args:
        grams: The matrices.
        known: A bound that the result need not be below.
        give_up: A bound above which the result is of no use: nothing is attempted there.

    Returns:
        The bound (infinite when no attempt succeeded) and the candidate vector; its index is -1 where ``known``
        sufficed.
    """
    nothing = Proof(known, -1, grams.matrices.new_zeros(0))
    left = torch.arange(grams.matrices.shape[0])
    if known > 0.0:
        left = left[~proved_at_most(grams, known)]
    if not len(left):
        return nothing
    best = _largest(grams, left, None)
    rung = 0
    for _ in range(MOST_ROUNDS):
        slack = mul_up(LADDER[rung], add_up(*shift_terms(grams, best.value)))
        attempt = max(known, sqrt_up(add_up(best.value, slack)))
        if attempt > give_up:
            break
        left = left[~proved_at_most(grams.pick(left), attempt)]
        if not len(left):
            return Proof(attempt, best.index, best.vector)
        again = _largest(grams, left, best)
        # an estimate that was too low by more than the slack explains the failure; otherwise the slack was too small
        rung += again.value <= best.value + slack
        best = max(best, again, key=lambda estimate: estimate.value)
        if rung == len(LADDER):
            break
    return Proof(math.inf, best.index, best.vector)


@dataclass(frozen=True, eq=False)
class Estimate:
    """An estimate of the largest eigenvalue of a batch, the matrix that has it, and its vector."""

    value: float
    index: int
    vector: Tensor


def _largest(grams: Grams, among: Tensor, before: Estimate | None) -> Estimate:
    """Estimate the largest eigenvalue of the chosen matrices, going on from the estimate ``before`` of the same one."""
    among = among[:: max(1, len(among) // SAMPLED) if before is None else 1]
    matrices = grams.pick(among).matrices
    place, start = _place_of_largest(matrices.to(SINGLE[matrices.dtype]))
    index = int(among[place])
    if before is not None and before.index == index:
        value, vector = _again(matrices[place], before.vector)
    else:
        value, vector = _top_of_one(matrices[place], start)
    return Estimate(max(value, 0.0), index, vector)


def _place_of_largest(H: Tensor) -> tuple[int, Tensor]:
    """Return which matrix of a batch seems to have the largest eigenvalue, and a vector of it that comes near.

    Few steps are taken for all of them, more for the best.
    """
    vectors = start_vector(*H.shape[:2], dtype=H.dtype)
    if len(H) == 1 or H.shape[1] <= SMALL_SIDE:
        place = int(torch.linalg.eigvalsh(H)[:, -1].argmax()) if len(H) > 1 else 0
        return place, vectors[place]
    values, vectors = largest_eigenvalues(H, vectors, SKETCH_STEPS)
    best = values.topk(min(CLOSER, len(values))).indices
    values, vectors = largest_eigenvalues(H[best], vectors[best], CLOSER_STEPS)
    place = int(values.argmax())
    return int(best[place]), vectors[place]


def _top_of_one(H: Tensor, start: Tensor) -> tuple[float, Tensor]:
    """Estimate the largest eigenvalue of one matrix: in single precision as far as that goes, then in double."""
    if H.shape[0] <= DIRECT_SIDE:
        values, vectors = torch.linalg.eigh(H)
        return float(values[-1]), vectors[:, -1]
    rough = largest_eigenvalues(H.to(start.dtype)[None], start[None], STEPS, tolerance=1e-5)[1]
    values, vectors = largest_eigenvalues(H[None], rough.to(H.dtype), POLISH_STEPS)
    return float(values[0]), vectors[0]


def _again(H: Tensor, start: Tensor) -> tuple[float, Tensor]:
    values, vectors = largest_eigenvalues(H[None], start[None], STEPS, tolerance=1e-8)
    return float(values[0]), vectors[0]
