r"""One step of a plan in plain floating point, forward, and backward for the derivative of a scalar.

Forward, a move turns the registers it reads into the register of its step. Backward, it turns the derivative G of a
scalar f with respect to its own register (`cotangents`) into those with respect to what it read and to its multiplier.
A product P' = W P W^H gives W^H G W; activations are in `brackets`.

*Diagonal registers* are kept as vectors, ``[1, n]`` instead of ``[1, n, n]``, and registers that are equal at all
frequencies with a first axis of 1, until something needs more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from certify.bounds.covariance.cotangents import Cotangent, Factors, Whole
from certify.bounds.covariance.spectrum import largest, mean, take

Saved: TypeAlias = tuple[Tensor, ...]
Made: TypeAlias = tuple[Tensor, Saved]


class Slope(NamedTuple):
    """The derivative for a multiplier, and that part of it which is positive: the rest is what pulls the other way."""

    total: Tensor
    held: Tensor


Derivatives: TypeAlias = tuple[tuple[Cotangent | None, ...], Slope | None]


class Move(Protocol):
    """A step with its constants at hand."""

    def forward(self, sources: Sequence[Tensor], multiplier: Tensor | None) -> Made | None:
        """Return the register and what `backward` needs, or None where the multiplier is not feasible."""

    def backward(self, saved: Saved, cotangent: Cotangent, multiplier: Tensor | None) -> Derivatives:
        """Return the cotangents of the sources (None is zero) and the derivative for the multiplier."""


def full(register: Tensor) -> Tensor:
    """Return a register as matrices where it may be kept as the vector of its diagonal."""
    return torch.diag_embed(register) if register.ndim == 2 else register


@dataclass(frozen=True, eq=False)
class Starting:
    """P = I, or diag(1/q) with q scaled down to a sum of at most 1 / pixels."""

    rows: int
    pixels: int
    weights: Tensor

    def forward(self, _sources: Sequence[Tensor], multiplier: Tensor | None) -> Made | None:
        """Return the start for q, or for no multiplier the identity."""
        if multiplier is None:
            return self.weights.new_ones(1, self.rows), ()
        if not bool((multiplier > 0).all()):
            return None
        excess = (self.pixels * multiplier.sum()).clamp(min=1)
        return (excess / multiplier)[None], ()

    def backward(self, _saved: Saved, cotangent: Cotangent, multiplier: Tensor | None) -> Derivatives:
        """Return the slope -mean(G_jj) / q_j^2."""
        if multiplier is None:
            return (), None
        total = -mean(cotangent.diagonal(), self.weights) / multiplier**2
        return (), Slope(total, torch.zeros_like(total))


@dataclass(frozen=True, eq=False)
class Linking:
    """P' = W P W^H with W = [rows ``keep`` of I; G]; ``used`` are the columns of G that are not all zero."""

    matrix: Tensor
    keep: Tensor
    used: Tensor | None
    rows: int

    def forward(self, sources: Sequence[Tensor], _multiplier: Tensor | None) -> Made | None:
        """Return W P W^H."""
        (P,) = sources
        G = self.matrix
        if P.ndim == 2:
            return self._of_diagonal(P), ()
        P = P.to(G.dtype)
        of_used = P if self.used is None else P[:, self.used]
        Z = G @ (of_used if self.used is None else of_used[:, :, self.used])
        M = Z @ G.mH
        if not len(self.keep):
            return M, ()
        cross = Z[:, :, self.keep] if self.used is None else G @ of_used[:, :, self.keep]
        return blocks(P[:, self.keep[:, None], self.keep], cross, M), ()

    def at(self, index: Tensor) -> Linking:
        """Return the same product at some of the frequencies."""
        matrix = self.matrix if self.matrix.shape[0] == 1 else self.matrix[index]
        return Linking(matrix, self.keep, self.used, self.rows)

    def _of_diagonal(self, P: Tensor) -> Tensor:
        G = self.matrix
        Z = G * (P if self.used is None else P[:, self.used])[:, None]
        M = Z @ G.mH
        if not len(self.keep):
            return M
        whole = Z if self.used is None else Z.new_zeros(*Z.shape[:2], self.rows).index_copy(2, self.used, Z)
        return blocks(torch.diag_embed(P[:, self.keep]), whole[:, :, self.keep], M)

    def backward(self, _saved: Saved, cotangent: Cotangent, _multiplier: Tensor | None) -> Derivatives:
        """Return W^H V."""
        return (cotangent.pulled(self._pull)[0],), None

    def _pull(self, V: Tensor) -> Tensor:
        kept = len(self.keep)
        below = self.matrix.mH @ V[:, kept:].to(self.matrix.dtype)
        if self.used is not None:
            whole = below.new_zeros(below.shape[0], self.rows, below.shape[2])
            below = whole.index_copy(1, self.used, below)
        if not kept:
            return below
        above = V[:, :kept].to(below.dtype).expand(len(below), -1, -1)
        return below.index_add(1, self.keep, above)


def blocks(first: Tensor, cross: Tensor, second: Tensor) -> Tensor:
    """Return [[first, cross^H], [cross, second]]."""
    count = max(first.shape[0], second.shape[0])
    first, cross, second = (part.to(second.dtype).expand(count, -1, -1) for part in (first, cross, second))
    return torch.cat((torch.cat((first, cross.mH), 2), torch.cat((cross, second), 2)), 1)


@dataclass(frozen=True, eq=False)
class Folding:
    """The mean of the aliased blocks."""

    index: Tensor
    conjugate: Tensor
    back_index: Tensor
    back_conjugate: Tensor

    def forward(self, sources: Sequence[Tensor], _multiplier: Tensor | None) -> Made | None:
        """Return the mean of the aliased blocks."""
        (P,) = sources
        if P.shape[0] == 1:
            return P, ()
        total = take(P, self.index[0], self.conjugate[0])
        for index, conjugate in zip(self.index[1:], self.conjugate[1:], strict=True):
            total = total + take(P, index, conjugate)
        return total / len(self.index), ()

    def backward(self, _saved: Saved, cotangent: Cotangent, _multiplier: Tensor | None) -> Derivatives:
        """Return, at every fine frequency, the block it was folded onto."""
        if isinstance(cotangent, Whole):
            return (Whole(take(cotangent.matrix, self.back_index, self.back_conjugate)),), None
        V = take(cotangent.vectors, self.back_index, self.back_conjugate)
        return (Factors(V, cotangent.weights),), None


@dataclass(frozen=True, eq=False)
class Passing:
    """The register that is read, unchanged: its step is taken together with the next one."""

    def forward(self, sources: Sequence[Tensor], _multiplier: Tensor | None) -> Made | None:
        """Return the register."""
        return sources[0], ()

    def backward(self, _saved: Saved, cotangent: Cotangent, _multiplier: Tensor | None) -> Derivatives:
        """Return the derivative."""
        return (cotangent,), None


@dataclass(frozen=True, eq=False)
class LinkingFolding:
    """A product and the stride behind it, one alias after the other: the fine W P W^H is never held as a whole."""

    linking: Linking
    folding: Folding

    def forward(self, sources: Sequence[Tensor], multiplier: Tensor | None) -> Made | None:
        """Return the mean over the aliases of W P W^H."""
        (P,) = sources
        if P.ndim == 2 or P.shape[0] == 1:
            made = self.linking.forward(sources, multiplier)
            return None if made is None else self.folding.forward((made[0],), None)
        total = torch.zeros((), dtype=P.dtype, device=P.device)
        for index, conjugate in zip(self.folding.index, self.folding.conjugate, strict=True):
            M = self.linking.at(index).forward((P[index],), multiplier)
            if M is not None:
                total = total + torch.where(conjugate[:, None, None], M[0].conj(), M[0])
        return total / len(self.folding.index), ()

    def backward(self, saved: Saved, cotangent: Cotangent, multiplier: Tensor | None) -> Derivatives:
        """Return W^H G W with the G of the coarse frequency."""
        (fine,), _ = self.folding.backward(saved, cotangent, multiplier)
        return ((None,), None) if fine is None else self.linking.backward(saved, fine, multiplier)


@dataclass(frozen=True, eq=False)
class Flattening:
    """P' = mean over frequencies, times their number over N, of A P A^H; that is (1/N) sum over all frequencies."""

    matrix: Tensor
    weights: Tensor

    def forward(self, sources: Sequence[Tensor], _multiplier: Tensor | None) -> Made | None:
        """Return (1/N) sum over all frequencies of A P A^H."""
        (P,) = sources
        A = self.matrix
        Z = A * P[:, None] if P.ndim == 2 else A @ P.to(A.dtype)
        left, right = _rows(Z * self.weights[:, None, None]), _rows(A)
        return (left @ right.mT)[None], ()

    def backward(self, _saved: Saved, cotangent: Cotangent, _multiplier: Tensor | None) -> Derivatives:
        """Return A^H V."""
        return (cotangent.pulled(lambda V: self.matrix.mH @ V.to(self.matrix.dtype))[0],), None


def _rows(A: Tensor) -> Tensor:
    """Return ``[F, m, n]`` complex as ``[m, F n 2]`` real, so that one real product sums over all frequencies."""
    return torch.view_as_real(A.transpose(0, 1).resolve_conj().contiguous()).reshape(A.shape[1], -1)


@dataclass(frozen=True, eq=False)
class Bounding:
    """P' = gain^2 lmax(P) I, or gain^2 I without a source."""

    gain: float
    rows: int
    weights: Tensor
    source_weights: Tensor | None

    def forward(self, sources: Sequence[Tensor], _multiplier: Tensor | None) -> Made | None:
        """Return the diagonal gain^2 lmax(P)."""
        ones = self.weights.new_ones(1, self.rows)
        if not sources:
            return self.gain**2 * ones, ()
        P = full(sources[0])
        _, position, vector = largest(P.detach())
        value = (vector.conj() @ P[position] @ vector).real
        return self.gain**2 * value * ones, (vector[None, :, None], torch.tensor(position))

    def backward(self, saved: Saved, cotangent: Cotangent, _multiplier: Tensor | None) -> Derivatives:
        """Return the derivative of lmax through its eigenvector."""
        if not saved or self.source_weights is None:
            return (), None
        vector, position = saved
        slope = self.gain**2 * mean(cotangent.diagonal(), self.weights).sum()
        V = vector.new_zeros(len(self.source_weights), *vector.shape[1:])
        V[position] = vector[0]
        return (Factors(V, slope[None] / self.source_weights[position]),), None


@dataclass(frozen=True, eq=False)
class Joining:
    """blockdiag((1 + t) P_v, (1 + 1/t) P_w), with matrices of ``dtype``."""

    weights: Tensor
    dtype: torch.dtype

    def forward(self, sources: Sequence[Tensor], multiplier: Tensor | None) -> Made | None:
        """Return the block-diagonal matrix."""
        if multiplier is None or not bool((multiplier > 0).all()):
            return None
        first, second = (full(source).to(self.dtype) for source in sources)
        zero = first.new_zeros(1, second.shape[1], first.shape[1])
        return blocks((1 + multiplier) * first, zero, (1 + 1 / multiplier) * second), (first, second)

    def backward(self, saved: Saved, cotangent: Cotangent, multiplier: Tensor | None) -> Derivatives:
        """Return the two parts and the slope of t."""
        if multiplier is None:
            return (None, None), None
        (first, second), t, rows = saved, multiplier, saved[0].shape[1]
        above, below = cotangent.part(0, rows), cotangent.part(rows, rows + second.shape[1])
        held = self._trace(above, first)
        slope = Slope(held - self._trace(below, second) / t**2, held)
        return (above.scaled(1 + t), below.scaled(1 + 1 / t)), slope

    def _trace(self, G: Cotangent, P: Tensor) -> Tensor:
        """Return the mean over frequencies of tr(G P), ``[1]``."""
        if isinstance(G, Whole):
            traces = (G.matrix.conj() * P).real.sum((1, 2))
        else:
            traces = (G.vectors.conj() * (P.to(G.vectors.dtype) @ G.vectors)).real.sum(1) @ G.weights
        return mean(traces[:, None], self.weights)
