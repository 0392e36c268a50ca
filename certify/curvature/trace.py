r"""The trace of a symmetric operator from products with random vectors: an estimate with its standard error.

*Hutchinson*: for v with independent entries +-1, E v . H v = tr H, with variance 2 (||H||_F^2 - sum_i H_ii^2).
*Hutch++* (R. Meyer, C. Musco, C. Musco, D. Woodruff, arXiv 2010.09649): the trace on the space Q spanned by H S is
computed exactly, and the rest is estimated outside of it, tr((I - Q Q^T) H (I - Q Q^T)): unbiased too, and better where
few eigenvalues carry most of the trace. It keeps a third of its vectors in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from statistics import mean, variance

import torch
from torch import Tensor


@dataclass(frozen=True)
class MeanEstimate:
    """An unbiased estimate: ``known`` plus the mean of independent ``samples``, with its standard error."""

    value: float
    standard_error: float
    known: float
    samples: tuple[float, ...]


def mean_estimate(values: Tensor, known: float = 0.0) -> MeanEstimate:
    """Return known + mean of ``values`` ``[m]`` with its standard error; the error of a single value is infinite.

    Mean and variance are exact sums of these floats, rounded once, so that whoever has the samples finds the same.

    Raises:
        ValueError: If a value is not finite.

    Example:
        >>> mean_estimate(torch.tensor([1.0, 3.0], dtype=torch.float64))
        MeanEstimate(value=2.0, standard_error=1.0, known=0.0, samples=(1.0, 3.0))
    """
    samples: list[float] = values.double().tolist()
    if not all(map(math.isfinite, (known, *samples))):
        raise ValueError("expected finite samples, got NaN or infinity; check the loss on this batch")
    exact = [Fraction(sample) for sample in samples]
    error = math.sqrt(variance(exact) / len(exact)) if len(exact) > 1 else math.inf
    return MeanEstimate(float(Fraction(known) + mean(exact)), error, known, tuple(samples))


def hutchinson(
    product: Callable[[Tensor], Tensor], size: int, *, samples: int = 32, seed: int = 0, columns_at_once: int = 1
) -> MeanEstimate:
    """Return an estimate of tr H from ``samples`` products.

    Args:
        product: H V of a matrix ``[size, k]``.
        size: Dimension of the space.
        samples: How many products.
        seed: Of the vectors.
        columns_at_once: The largest k.

    Raises:
        ValueError: If there is no sample.

    Example:
        >>> H = torch.diag(torch.tensor([3.0, 1.0, -4.0], dtype=torch.float64))
        >>> hutchinson(lambda v: H @ v, 3).value  # a diagonal has no variance
        0.0
    """
    if samples < 1:
        raise ValueError(f"expected at least 1 sample, got {samples}")
    random, values = torch.Generator().manual_seed(seed), []
    for first in range(0, samples, columns_at_once):
        V = _signs(size, min(columns_at_once, samples - first), random)
        values.append((V * product(V)).sum(0))
    return mean_estimate(torch.cat(values))


def hutch_plus_plus(
    product: Callable[[Tensor], Tensor], size: int, *, samples: int = 33, seed: int = 0, columns_at_once: int = 1
) -> MeanEstimate:
    """Return an estimate of tr H from about ``samples`` products, a third of which find the space computed exactly.

    Args:
        product: H V of a matrix ``[size, k]``.
        size: Dimension of the space.
        samples: How many products.
        seed: Of the vectors.
        columns_at_once: The largest k.

    Raises:
        ValueError: If there are fewer than 3 samples.

    Example:
        >>> H = torch.outer(torch.arange(4.0), torch.arange(4.0)).double()  # of rank one: no error is left
        >>> found = hutch_plus_plus(lambda v: H @ v, 4, samples=6)
        >>> round(found.value, 9), found.standard_error < 1e-9
        (14.0, True)
    """
    if samples < 3:
        raise ValueError(f"expected at least 3 samples, got {samples}")
    random, each = torch.Generator().manual_seed(seed), min(samples // 3, size)
    Q, _ = torch.linalg.qr(_image(product, _signs(size, each, random), columns_at_once))
    known = float((Q * _image(product, Q, columns_at_once)).sum())
    G = _signs(size, each, random)
    outside = G - Q @ (Q.mT @ G)
    values = (outside * _image(product, outside, columns_at_once)).sum(0)
    return mean_estimate(values, known)


def _signs(size: int, columns: int, random: torch.Generator) -> Tensor:
    """Return columns of signs, drawn one after the other: the same ones however many are drawn at once."""
    return torch.randint(2, (columns, size), generator=random).double().mT * 2.0 - 1.0


def _image(product: Callable[[Tensor], Tensor], matrix: Tensor, columns_at_once: int) -> Tensor:
    return torch.cat([product(part) for part in torch.split(matrix, columns_at_once, dim=1)], dim=1)
