r"""Steps between grids of frequencies, with every rounding error carried upward: strides, and from a torus to rows.

A register on a torus of sides N_d holds one Hermitian block P(w) per frequency w = 2 pi m / N of the half spectrum in
the order of `torch.fft.rfftn`; it stands for the block-circulant matrix whose other blocks are P(w) = conj P(-w). Where
both w and -w are stored, rounding may keep them from being conjugate; nothing below needs that, as dv dv^T <= s^2 P is
meant for Hermitian matrices, for which a real left side may be compared with Re P.

*Stride* s_d per axis (`fold_upper`): sampling every s_d-th pixel leaves on the torus N_d / s_d the mean of the blocks
that are aliased, M(v) = (1 / S) sum_k P(v + 2 pi k / s), S = prod s_d. A mean of S stored numbers errs by at most
gamma_S times the mean of their magnitudes.

*Rows* (`flatten_upper`): v' = sum over true pixels x of W_x v_x has the covariance (1 / N) sum over all frequencies of
A P A^*, A(w) = sum_x W_x e^(i w.x). Conjugate terms are taken together, 2 Re(A P A^*), and real parts of all, as the
rows are real. The sum of F stored terms adds F roundings to those of each (see `rounded`), the two last steps two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from certify.bounds.covariance.domination import (
    SLACK,
    add_to_diagonal,
    dominating,
    inner_order,
    magnitude,
    symmetrise,
    total,
)
from certify.bounds.covariance.rounded import NOTHING, linear_terms
from certify.bounds.covariance.spectrum import aliases, frequency_weights
from certify.bounds.covariance.steps import Sides
from certify.rounding import gamma_up

CHUNK_NUMBERS = 2**20  # of one matrix batch worked on at once; about ten such batches are alive together


def chunks(frequencies: int, numbers: int) -> Iterator[slice]:
    """Yield slices of the frequencies, of matrices of so many numbers each."""
    step = max(1, CHUNK_NUMBERS // max(1, numbers))
    for first in range(0, frequencies, step):
        yield slice(first, min(first + step, frequencies))


def part_of(tensor: Tensor, chunk: slice | Tensor) -> Tensor:
    """Return the matrices of a chunk, or at some positions, of a tensor that may be the same for every frequency."""
    return tensor if tensor.ndim == 2 or len(tensor) == 1 else tensor[chunk]


def fold_upper(
    P: Tensor, sides: Sides, strides: tuple[int, ...], product: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Return a stored M >= the mean of the aliased blocks of P, or of a product that is made of P block by block.

    Args:
        P: ``[F, n, n]`` on the torus of the given sides.
        sides: N_d, multiples of the strides.
        strides: s_d.
        product: Given positions in F, the blocks to take instead of those of P: they are never held all at once.

    Returns:
        ``[F', n, n]`` on the torus of sides N_d / s_d.

    Example:
        >>> P = torch.ones(3, 1, 1, dtype=torch.complex128) * torch.tensor([8.0, 4.0, 0.0])[:, None, None]
        >>> fold_upper(P, (4,), (2,)).real.flatten().round().tolist()
        [4.0, 4.0]
    """
    coarse = tuple(side // stride for side, stride in zip(sides, strides, strict=True))
    places, mirrored = aliases(coarse, strides)
    blocks = product or P.__getitem__
    n = blocks(places[0, :1]).shape[1]
    M = P.new_empty(places.shape[1], n, n)
    for chunk in chunks(len(M), n * n * 2):
        M[chunk] = _mean_upper(blocks, places[:, chunk], mirrored[:, chunk])
    return M


def _mean_upper(blocks: Callable[[Tensor], Tensor], places: Tensor, mirrored: Tensor) -> Tensor:
    """Return a stored matrix >= the mean over the first axis of blocks, the mirrored ones conjugated."""
    first = blocks(places[0])
    mean, absolute = torch.zeros_like(first), torch.zeros_like(first.real)
    for number, (place, mirror) in enumerate(zip(places, mirrored, strict=True)):
        block = blocks(place) if number else first
        absolute += magnitude(block)
        mean += torch.where(mirror[:, None, None], block.conj(), block)
    count = float(len(places))
    torch.view_as_real(mean).div_(count)
    return add_to_diagonal(mean, mean_terms(absolute / count, len(places)))


def mean_terms(absolute: Tensor, count: int) -> Tensor:
    """Return the diagonal that dominates the rounding of a mean of so many blocks, given the mean of the magnitudes."""
    return SLACK * gamma_up(count) * dominating(absolute) + dominating(torch.zeros_like(absolute[:1]))


def multiplicities(sides: Sides) -> Tensor:
    """Return how often each stored block counts in a sum over all frequencies: 2 where its mirror is not stored.

    Example:
        >>> multiplicities((4,)).tolist(), multiplicities((5,)).tolist()
        ([1.0, 2.0, 1.0], [1.0, 2.0, 2.0])
    """
    return (frequency_weights(sides) * math.prod(sides)).round()


def flatten_upper(P: Tensor, A: Tensor, error: Tensor | None, sides: Sides) -> Tensor:
    """Return a stored M >= the real part of (1 / N) sum over all frequencies of A P A^*.

    Args:
        P: ``[F, n, n]`` on the torus of the given sides.
        A: ``[F or 1, m, n]``, complex.
        error: ``[m, n]`` at least the modulus of what A lacks of the exact one, or None.
        sides: N_d, N = prod N_d.

    Returns:
        ``[1, m, m]`` float64.

    Example:
        >>> P, A = (torch.ones(3, 1, 1, dtype=torch.complex128) for _ in range(2))
        >>> float(flatten_upper(P, A, None, (4,))) >= 1.0  # one pixel, read once
        True
    """
    weights, pixels, rows = multiplicities(sides), float(math.prod(sides)), A.shape[1]
    summed, lacking = torch.zeros(rows, rows, dtype=torch.float64), torch.zeros(rows, dtype=torch.float64)
    roundings = 2 * inner_order(P, A.shape[2]) + len(P) + 2
    for chunk in chunks(len(P), max(P[0].numel(), A[0].numel(), rows * rows)):
        G, weight = part_of(A, chunk), weights[chunk]
        summed += ((G @ P[chunk] @ G.mH).real * weight[:, None, None]).sum(0)
        uncertain = None if error is None else part_of(error, chunk)
        terms = linear_terms(P[chunk], G, uncertain, NOTHING, roundings=roundings)
        lacking += (total(terms) * weight[:, None]).sum(0)
    return add_to_diagonal(symmetrise(summed[None]) / pixels, SLACK * lacking / pixels)
