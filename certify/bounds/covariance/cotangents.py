r"""The derivative G = df/dP of a scalar with respect to a register, as it travels backward through a plan.

One Hermitian G per frequency, in the convention

    df = mean over all frequencies (both halves of the spectrum) of  Re tr( G(w) dP(w) ).

Every step maps it to A G A^H with some A, given as the function V -> A V. What is minimised may depend on few rows of
the last register; there G has a rank of at most the number of classes and is kept as factors, V diag(s) V^H, so that a
step costs r / n of a product of matrices. Otherwise it is kept whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

Pull: TypeAlias = Callable[[Tensor], Tensor]  # V [F, n, r] -> A V [F, m, r]


@dataclass(frozen=True, eq=False)
class Product:
    """A G for square A: ``left`` times ``right``, or ``left`` itself."""

    left: Tensor
    right: Tensor | None

    def diagonal(self) -> Tensor:
        """Return the real part of the diagonal: ``[F, n]``."""
        if self.right is None:
            return self.left.diagonal(dim1=1, dim2=2).real
        return (self.left * self.right.mT).sum(2).real

    def block(self, rows: Tensor) -> Tensor:
        """Return the rows and columns ``rows``."""
        if self.right is None:
            return self.left[:, rows[:, None], rows]
        return self.left[:, rows] @ self.right[:, :, rows]


@dataclass(frozen=True, eq=False)
class Factors:
    """G = V diag(s) V^H: ``vectors`` V ``[F or 1, n, r]``, ``weights`` s ``[r]`` real."""

    vectors: Tensor
    weights: Tensor

    def pulled(self, pull: Pull) -> tuple[Factors, Product]:
        """Return A G A^H and A G."""
        reached = pull(self.vectors)
        return Factors(reached, self.weights), Product(reached * self.weights, self.vectors.mH)

    def diagonal(self) -> Tensor:
        """Return diag(G): ``[F, n]``."""
        return self.vectors.abs().square() @ self.weights

    def part(self, first: int, last: int) -> Factors:
        """Return the diagonal block of the rows ``first`` to ``last - 1``."""
        return Factors(self.vectors[:, first:last], self.weights)

    def scaled(self, factor: Tensor | float) -> Factors:
        """Return G times a real number."""
        return Factors(self.vectors, self.weights * factor)

    def whole(self) -> Tensor:
        """Return G: ``[F, n, n]``."""
        return (self.vectors * self.weights) @ self.vectors.mH


@dataclass(frozen=True, eq=False)
class Whole:
    """G itself: ``matrix`` ``[F or 1, n, n]``, Hermitian."""

    matrix: Tensor

    def pulled(self, pull: Pull) -> tuple[Whole, Product]:
        """Return A G A^H and A G."""
        reached = pull(self.matrix)
        return Whole(pull(reached.mH)), Product(reached, None)

    def diagonal(self) -> Tensor:
        """Return diag(G): ``[F, n]``."""
        return self.matrix.diagonal(dim1=1, dim2=2).real

    def part(self, first: int, last: int) -> Whole:
        """Return the diagonal block of the rows ``first`` to ``last - 1``."""
        return Whole(self.matrix[:, first:last, first:last])

    def scaled(self, factor: Tensor | float) -> Whole:
        """Return G times a real number."""
        return Whole(self.matrix * factor)

    def whole(self) -> Tensor:
        """Return G: ``[F, n, n]``."""
        return self.matrix


Cotangent: TypeAlias = Factors | Whole


def add(first: Cotangent | None, second: Cotangent) -> Cotangent:
    """Return the sum, as factors while their number is below twice the number of rows."""
    if first is None:
        return second
    if isinstance(first, Factors) and isinstance(second, Factors):
        rows, rank = first.vectors.shape[1], len(first.weights) + len(second.weights)
        if rank < 2 * rows:
            count = max(len(first.vectors), len(second.vectors))
            vectors = [one.vectors.expand(count, -1, -1) for one in (first, second)]
            return Factors(torch.cat(vectors, 2), torch.cat((first.weights, second.weights)))
    return Whole(first.whole() + second.whole())
