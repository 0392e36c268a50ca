r"""Linear maps of the rows of a register, kept until a step needs them, with the rounding error of their entries.

A value that depends linearly on a register is not computed: it is written down as a map. Two linear operations in a row
are the product of their maps, a sum of branches the sum of theirs, exactly as the network computes them; only what is
not linear becomes a step of the plan.

*Rows* picks rows (-1: zero). *Entries* is a matrix per frequency, ``[F or 1, m, n]``, real when the register is dense
and complex when it is spatial; entry by entry ``|values - exact| <= error`` at every frequency, ``error`` ``[m, n]``.

Rounding. An inner product of k real terms errs by gamma_k sum |a||b|, one of k complex terms by gamma_{4k+8} sum |a||b|
in modulus, in any order (Higham, Accuracy and Stability of Numerical Algorithms, Lemma 3.1 and Section 3.6); a
computed non-negative error matrix is enlarged by `enlarge`, which covers its own rounding and underflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from certify.rounding import U64, gamma_up

UNDERFLOW = 2.0**-1000


@dataclass(frozen=True, eq=False)
class Rows:
    """Row i of the value is row ``index[i]`` of the register, or zero where that is -1."""

    index: Tensor


@dataclass(frozen=True, eq=False)
class Entries:
    """The value is ``values`` times the register; ``error`` None: exactly."""

    values: Tensor
    error: Tensor | None = None


Map: TypeAlias = Rows | Entries


def row_count(view: Map) -> int:
    """Return the number of rows of the value."""
    return len(view.index) if isinstance(view, Rows) else view.values.shape[1]


def picked(view: Map) -> list[int] | None:
    """Return the rows of the register a value consists of, when it is some of them, each at most once."""
    if not isinstance(view, Rows):
        return None
    rows: list[int] = view.index.tolist()
    return rows if len(set(rows)) == len(rows) and min(rows, default=0) >= 0 else None


def as_entries(view: Map, width: int, dtype: torch.dtype) -> Entries:
    """Return a map of a register of ``width`` rows as a matrix."""
    if isinstance(view, Entries):
        return view
    values = torch.zeros(1, len(view.index), width, dtype=dtype)
    found = (view.index >= 0).nonzero()[:, 0]
    values[0, found, view.index[found]] = 1.0
    return Entries(values)


def take(view: Map, index: Tensor) -> Map:
    """Return the rows ``index`` of a value; -1 gives a row of zeros."""
    missing = index < 0
    places = index.clamp(min=0)
    if isinstance(view, Rows):
        return Rows(view.index[places].masked_fill(missing, -1))
    values = view.values[:, places].masked_fill(missing[:, None], 0.0)
    error = None if view.error is None else view.error[places].masked_fill(missing[:, None], 0.0)
    return Entries(values, error)


def stack(views: Sequence[Map], width: int, dtype: torch.dtype) -> Map:
    """Return the rows of several values of one register, one below the other."""
    if all(isinstance(view, Rows) for view in views):
        return Rows(torch.cat([view.index for view in views if isinstance(view, Rows)]))
    parts = [as_entries(view, width, dtype) for view in views]
    most = max(part.values.shape[0] for part in parts)
    values = torch.cat([part.values.expand(most, -1, -1) for part in parts], 1)
    return Entries(values, _joined_errors(parts))


def _joined_errors(parts: Sequence[Entries]) -> Tensor | None:
    if all(part.error is None for part in parts):
        return None
    return torch.cat([error_of(part) for part in parts])


def error_of(part: Entries) -> Tensor:
    """Return the error matrix, zeros when the map is exact."""
    return torch.zeros(part.values.shape[1:], dtype=torch.float64) if part.error is None else part.error


def sizes(values: Tensor) -> Tensor:
    """Return at least the modulus of every entry at any frequency, up to rounding that `enlarge` covers: ``[m, n]``."""
    return values.abs().amax(0)


def enlarge(error: Tensor, terms: int) -> Tensor:
    """Return at least the exact value of a sum of ``terms`` products of non-negative numbers that was computed."""
    return error * (1.0 + 4.0 * gamma_up(terms + 16)) + UNDERFLOW


def add(first: Map, second: Map, width: int, dtype: torch.dtype, sign: float = 1.0) -> Map:
    """Return the sum of two values of one register, or with ``sign`` -1 their difference."""
    a, b = as_entries(first, width, dtype), as_entries(second, width, dtype)
    values = a.values + sign * b.values
    return Entries(values, enlarge(error_of(a) + error_of(b) + 2.0 * U64 * sizes(values), 4))


def scale(view: Map, factors: Tensor, relative: float, width: int, dtype: torch.dtype) -> Map:
    """Return a value with row i multiplied by ``factors[i]``, which is known up to a relative error."""
    part = as_entries(view, width, dtype)
    values = part.values * factors[:, None]
    error = (relative + 4.0 * U64) * sizes(values) + (1.0 + relative) * factors.abs()[:, None] * error_of(part)
    return Entries(values, enlarge(error, 4))


def compose(matrix: Tensor, error: Tensor | None, view: Map, width: int) -> Map:
    """Return ``matrix`` ``[F or 1, k, m]``, up to ``error`` ``[k, m]``, times a value of m rows."""
    rows = picked(view)
    if rows is not None:
        values = matrix.new_zeros(*matrix.shape[:2], width)
        values[:, :, rows] = matrix
        if error is None:
            return Entries(values)
        spread = error.new_zeros(error.shape[0], width)
        spread[:, rows] = error
        return Entries(values, spread)
    part = as_entries(view, width, matrix.dtype)
    product = matrix @ part.values
    terms = 4 * matrix.shape[2] + 8
    large, own = sizes(matrix), error_of(Entries(matrix, error))
    total = (gamma_up(terms) * large + own) @ sizes(part.values) + (large + own) @ error_of(part)
    return Entries(product, enlarge(total, terms))
