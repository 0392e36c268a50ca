"""The dumb second computation of the covariance recursion: exact rational matrices (python-flint).

A complex matrix A + iB stands for the real one [[A, -B], [B, A]]: sums, products, adjoints and the Loewner order agree.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from flint import fmpq, fmpq_mat, fmpz_mat
from torch import Tensor

F64, C128 = torch.float64, torch.complex128


def rational(value: float | Fraction) -> fmpq:
    exact = Fraction(value)
    return fmpq(exact.numerator, exact.denominator)


def exact(A: Tensor) -> fmpq_mat:
    """The stored numbers of a matrix, embedded in the reals when complex."""
    if A.is_complex():
        A = torch.cat([torch.cat([A.real, -A.imag], 1), torch.cat([A.imag, A.real], 1)])
    return fmpq_mat(A.shape[0], A.shape[1], [rational(entry) for entry in A.flatten().tolist()])


def diagonal(values, copies: int = 1) -> fmpq_mat:
    entries = list(values) * copies
    D = fmpq_mat(len(entries), len(entries))
    for j, entry in enumerate(entries):
        D[j, j] = rational(entry)
    return D


def is_psd(A: fmpq_mat) -> bool:
    """Whether a symmetric matrix is positive semidefinite: det(x I + A) has no negative coefficient."""
    n = A.nrows()
    denominator = math.lcm(*(int(entry.q) for entry in A.entries())) if n else 1
    integers = fmpz_mat(n, n, [int(-entry.p) * (denominator // int(entry.q)) for entry in A.entries()])
    return all(coefficient >= 0 for coefficient in integers.charpoly().coeffs())  # of -A: det(x I + A)


def dominates(stored: Tensor, truth: fmpq_mat) -> bool:
    """Whether a stored Hermitian matrix is at least an exact one."""
    return bool(torch.isfinite(torch.view_as_real(stored) if stored.is_complex() else stored).all()) and is_psd(
        exact(stored) - truth
    )


def pick(A: fmpq_mat, rows, columns) -> fmpq_mat:
    return fmpq_mat(len(rows), len(columns), [A[i, j] for i in rows for j in columns])


def embedded_rows(rows, n: int, is_complex: bool) -> list[int]:
    rows = list(rows)
    return rows + [n + row for row in rows] if is_complex else rows


def activated(M: Tensor, centre: Tensor, radius: Tensor, rows: list[int], D: Tensor) -> fmpq_mat:
    """Formula (1) exactly: B (M + M_:U (D - M_UU)^-1 M_U:) B + C D C, for D a diagonal or a full matrix."""
    n, copies = M.shape[0], 2 if M.is_complex() else 1
    E, U = exact(M), embedded_rows(rows, M.shape[0], M.is_complex())
    B = diagonal(centre.tolist(), copies)
    full = exact(torch.diag(D) if D.ndim == 1 else D)
    q = len(rows)
    doubled = fmpq_mat(copies * q, copies * q)
    for c in range(copies):
        for i in range(q):
            for j in range(q):
                doubled[c * q + i, c * q + j] = full[i, j]
    everything = list(range(copies * n))
    total = E
    if q:
        K = doubled - pick(E, U, U)
        total = E + pick(E, everything, U) * K.inv() * pick(E, U, everything)
    P = B * total * B
    C = [rational(entry) for entry in radius.tolist()]
    for i, a in enumerate(U):
        for j, b in enumerate(U):
            P[a, b] += C[rows[i % q]] * doubled[i, j] * C[rows[j % q]]
    return P


def positive(n: int, rank: int, generator: torch.Generator, is_complex: bool = False) -> Tensor:
    """A stored Hermitian matrix that is exactly positive semidefinite: X X^* for X of few bits."""
    X = torch.randint(-99, 100, (n, rank), generator=generator).to(F64)
    if is_complex:
        X = torch.complex(X, torch.randint(-99, 100, (n, rank), generator=generator).to(F64))
    return X @ X.mH / 2.0**12
