"""Choices of rows per batch element: index tensors, filled up where a batch element has fewer; products by panels."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

PANELS, LEAST_PANELLED = 4, 384  # of a product of a matrix with its own transpose
PANEL, MOST_PANELS = 96, 16  # rows of a panel of a sparse matrix, at least


@dataclass(frozen=True, eq=False)
class Rows:
    """A choice of rows per batch element: ``index`` ``[B, q]``, and ``mask``, false where an index only fills up."""

    index: Tensor
    mask: Tensor


def choose_rows(flags: Tensor) -> Rows:
    """Return the rows flagged, filled up to the largest count of the batch."""
    if flags.shape[0] == 1:
        index = flags[0].nonzero().T
        return Rows(index, torch.ones_like(index, dtype=torch.bool))
    count = int(flags.sum(1).max())
    index = torch.argsort(~flags, dim=1, stable=True)[:, :count]
    return Rows(index, flags.gather(1, index))


def pick(vector: Tensor, index: Tensor) -> Tensor:
    """Return the entries ``[B, q]`` of ``[B, p]``."""
    return vector.gather(1, index)


def pick_columns(matrix: Tensor, index: Tensor) -> Tensor:
    """Return the columns ``[B, r, q]`` of ``[B, r, p]``."""
    if matrix.shape[0] == 1:
        return matrix[0].index_select(1, index[0])[None]
    return matrix.gather(2, index[:, None, :].expand(-1, matrix.shape[1], -1))


def pick_rows(matrix: Tensor, index: Tensor) -> Tensor:
    """Return the rows ``[B, q, n]`` of ``[B, p, n]``, or of ``[1, p, n]`` shared by the batch."""
    if index.shape[0] == 1:
        return matrix[0].index_select(0, index[0])[None]
    if matrix.shape[0] == 1:
        return matrix[0][index]
    return matrix.gather(1, index[:, :, None].expand(-1, -1, matrix.shape[2]))


def pick_square(matrix: Tensor, index: Tensor) -> Tensor:
    """Return the blocks ``[B, q, q]`` of ``[B, p, p]``."""
    return pick_columns(pick_rows(matrix, index), index)


def outer(*factors: Tensor) -> Tensor:
    """Return the sum of F F^T over factors F ``[B, r, any]``; large ones by panels, of which only half is computed."""
    F = torch.cat(factors, 2)
    r = F.shape[1]
    if r < LEAST_PANELLED:
        return F @ F.mT
    found = F.new_empty(len(F), r, r)
    for first in range(0, r, -(-r // PANELS)):
        last = min(first + -(-r // PANELS), r)
        found[:, first:last, :last] = F[:, first:last] @ F[:, :last].mT
        found[:, :first, first:last] = found[:, first:last, :first].mT
    return found


def gram_in_order(S: Tensor, R: Tensor, order: Tensor | None) -> Tensor:
    """Return S S^T + R R^T for ``[r, any]`` matrices; S may be mostly 0, and best cut in this order of its rows."""
    if order is None:
        return outer(S[None], R[None])[0]
    back, F = torch.argsort(order), R.index_select(0, order)
    found = outer(F[None])[0]
    add_gram(found, S.index_select(0, order))
    return found.index_select(0, back).index_select(1, back)


def add_gram(found: Tensor, S: Tensor) -> None:
    """Add S S^T to a symmetric matrix, by panels of neighbouring rows and the columns both panels reach.

    Where neighbours share most of their columns, most pairs of panels share few or none.

    Example:
        >>> S = torch.eye(4).repeat_interleave(100, 0)
        >>> found = torch.zeros(400, 400)
        >>> add_gram(found, S)
        >>> torch.equal(found, S @ S.mT)
        True
    """
    count = max(1, min(MOST_PANELS, len(S) // PANEL))
    panels = list(itertools.pairwise([len(S) * k // count for k in range(count + 1)]))
    reached = [(S[first:last] != 0.0).any(0) for first, last in panels]
    for (i, (top, bottom)), (j, (left, right)) in itertools.combinations_with_replacement(enumerate(panels), 2):
        shared = (reached[i] & reached[j]).nonzero().flatten()
        if len(shared):
            block = S[top:bottom].index_select(1, shared) @ S[left:right].index_select(1, shared).mT
            found[top:bottom, left:right] += block
            if i < j:
                found[left:right, top:bottom] += block.mT
