"""Frequencies of a torus: means over the whole spectrum from its stored half, aliases of a stride, largest eigenvalues.

The stored half is that of `torch.fft.rfftn`; the rest is P(-w) = conj P(w).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from certify.bounds.covariance.steps import Sides, frequency_counts

EXACT = 2.0e8  # n^3 over all frequencies up to which eigenvalues are computed outright
POWER_STEPS = 12
FINALISTS = 3


def frequency_weights(sides: Sides) -> Tensor:
    """Return the share of the whole spectrum that each stored frequency stands for: ``[F]``, their sum is 1.

    Example:
        >>> frequency_weights((4,)).tolist(), frequency_weights(()).tolist()
        ([0.25, 0.5, 0.25], [1.0])
    """
    if not sides:
        return torch.ones(1, dtype=torch.float64)
    last = torch.arange(sides[-1] // 2 + 1)
    alone = (last == 0) | (2 * last == sides[-1])
    counts = torch.where(alone, 1.0, 2.0).to(torch.float64)
    return counts.expand(frequency_counts(sides)).reshape(-1) / math.prod(sides)


def mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over all frequencies of real values ``[F or 1, ...]``."""
    return values[0] if values.shape[0] == 1 else torch.tensordot(weights, values, dims=1)


def stored(index: Tensor, sides: Sides) -> tuple[Tensor, Tensor]:
    """Return where the block of a frequency is stored, and whether as its conjugate.

    Args:
        index: Multi-indices m of the whole spectrum, ``[..., dimensions]``, taken modulo the sides.
        sides: The torus.

    Example:
        >>> stored(torch.tensor([[3], [1]]), (4,))
        (tensor([1, 1]), tensor([ True, False]))
    """
    size = torch.tensor(sides)
    index = index % size
    conjugate = index[..., -1] > sides[-1] // 2
    index = torch.where(conjugate[..., None], -index % size, index)
    flat = torch.zeros_like(index[..., 0])
    for axis, count in enumerate(frequency_counts(sides)):
        flat = flat * count + index[..., axis]
    return flat, conjugate


def half_spectrum(sides: Sides) -> Tensor:
    """Return the multi-indices of the stored frequencies, in their order: ``[F, dimensions]``."""
    axes = [torch.arange(count) for count in frequency_counts(sides)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, len(sides))


def aliases(sides: Sides, strides: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return, per stored frequency of the torus ``sides``, the fine frequencies that a stride folds onto it.

    The fine torus has sides ``sides * strides``; v is the alias of v + (sides) k, 0 <= k < strides.

    Returns:
        Their positions in the fine half spectrum, ``[aliases, F]``, and whether each is read as its conjugate.
    """
    fine = tuple(side * stride for side, stride in zip(sides, strides, strict=True))
    shifts = torch.cartesian_prod(*(torch.arange(stride) for stride in strides)).reshape(-1, len(sides))
    index = half_spectrum(sides)[None] + (shifts * torch.tensor(sides))[:, None]
    return stored(index, fine)


def folded(sides: Sides, strides: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return, per stored frequency of the fine torus, the stored coarse frequency it is folded onto.

    Args:
        sides: The coarse torus.
        strides: The fine torus has sides ``sides * strides``.
    """
    fine = tuple(side * stride for side, stride in zip(sides, strides, strict=True))
    return stored(half_spectrum(fine), sides)


def take(values: Tensor, index: Tensor, conjugate: Tensor) -> Tensor:
    """Return the blocks at ``index``, conjugated where asked; blocks that are equal at all frequencies stay one."""
    if values.shape[0] == 1:
        return values
    taken = values[index]
    if not values.is_complex() or not bool(conjugate.any()):
        return taken
    return torch.where(conjugate.reshape(-1, *[1] * (values.ndim - 1)), taken.conj(), taken)


def largest(matrices: Tensor, finalists: int = FINALISTS) -> tuple[float, int, Tensor]:
    """Estimate the largest eigenvalue of a batch of positive semidefinite matrices, from below.

    Small batches are decomposed outright. In larger ones power steps rank the matrices, and the foremost ones are
    decomposed, or, where even that is dear, iterated further.

    Returns:
        The value, the position in the batch, and a unit eigenvector.

    Example:
        >>> value, position, vector = largest(torch.diag_embed(torch.tensor([[1.0, 2.0], [5.0, 3.0]])))
        >>> value, position, vector.abs().tolist()
        (5.0, 1, [1.0, 0.0])
    """
    count, n = matrices.shape[0], matrices.shape[-1]
    if count * n**3 <= EXACT and count <= finalists:
        return _outright(matrices, torch.arange(count))
    vector, value = _power(matrices, POWER_STEPS)
    best = value.topk(min(finalists, count)).indices
    if len(best) * n**3 <= EXACT:
        return _outright(matrices, best)
    vector, value = _power(matrices[best], 5 * POWER_STEPS)
    first = int(value.argmax())
    return float(value[first]), int(best[first]), vector[first]


def leading(matrices: Tensor) -> Tensor:
    """Estimate a leading unit eigenvector of each positive semidefinite matrix of a batch: ``[F, n, 1]``."""
    return _power(matrices, POWER_STEPS)[0][..., None]


def largest_value(matrices: Tensor, finalists: int = FINALISTS) -> float:
    """Return the value of `largest` alone, or NaN where an entry is not finite."""
    count, n = matrices.shape[0], matrices.shape[-1]
    if not bool(matrices.isfinite().all()):
        return math.nan
    if count * n**3 <= EXACT and count <= finalists:
        return float(torch.linalg.eigvalsh(matrices).max())
    return largest(matrices, finalists)[0]


def _outright(matrices: Tensor, positions: Tensor) -> tuple[float, int, Tensor]:
    values, vectors = torch.linalg.eigh(matrices[positions])
    first = int(values[:, -1].argmax())
    return float(values[first, -1]), int(positions[first]), vectors[first, :, -1]


def _unit(vectors: Tensor) -> Tensor:
    """Return ``[F, n, 1]`` scaled to unit norm; a zero vector is replaced by the first basis vector."""
    vectors = vectors / vectors.abs().amax(1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    first = torch.zeros_like(vectors)
    first[:, 0] = 1
    return torch.where(norms > 0, vectors / norms.clamp(min=0.5), first)


def _power(matrices: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return unit vectors ``[F, n]`` after power steps from the rows of largest norm, and their Rayleigh quotients."""
    rows = torch.linalg.vector_norm(matrices, dim=-1)
    start = torch.take_along_dim(matrices, rows.argmax(-1)[:, None, None], dim=1).squeeze(1).conj()
    vector = _unit(start[..., None])
    for _ in range(steps):
        vector = _unit(matrices @ vector)
    value = (vector.conj() * (matrices @ vector)).sum((1, 2)).real
    return vector.squeeze(-1), value
