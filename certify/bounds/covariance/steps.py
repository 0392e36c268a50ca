r"""The covariance recursion of one network, written down as a plan: a short program on symmetric matrices.

Two runs of a network differ by d at its input and by dv at a value v. Every register of a plan holds a matrix P with

    dv dv^T  <=  s^2 P        for every pair of inputs,                                                     (I)

where v stacks the values that are still to be read, A <= B means that B - A is positive semidefinite, and s is
||d||_2 (or ||d||_inf). Then ||dv||_2 <= s sqrt(lmax(P)) and |c.dv| <= s sqrt(c^T P c).

*Dense*: ``sides == ()``; one real matrix, ``[1, n, n]`` float64, whose rows are the entries of v.

*Spatial*: the values are images on a torus of the given sides, true pixels at its origin, everything else held in by
slopes that contain 0. P is block-circulant and stored as its symbol: one Hermitian block per frequency, rows =
channels, ``[F, n, n]`` complex128, the frequencies w = 2 pi m / N of the half spectrum in the order of
`torch.fft.rfftn` (all of each axis but the last, 0 ... N // 2 of the last; F is their number). The other half is
P(-w) = conj P(w).

Each step writes one register, the one of its own position in the plan, and reads earlier ones. Two programs run plans:
`trial` in plain floating point, differentiable, to choose the free multipliers; `proof` once, with every rounding error
carried upward. Any multipliers that pass the proof give a bound, so nothing about their choice needs to be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from certify.results import Norm

Sides: TypeAlias = tuple[int, ...]
Multipliers: TypeAlias = Mapping[int, Tensor]  # by position of the step


def frequency_counts(sides: Sides) -> tuple[int, ...]:
    """Return how many frequencies are kept per axis: all, and half of the last.

    Example:
        >>> frequency_counts((4, 5)), frequency_counts(())
        ((4, 3), ())
    """
    return (*sides[:-1], sides[-1] // 2 + 1) if sides else ()


@dataclass(frozen=True, eq=False)
class Start:
    """The input: P = I in l2, P = diag(1/q) in linf with q > 0 and ``pixels`` times the sum of q at most 1.

    Multiplier in linf: q ``[n]``, one per row; ``pixels`` is 1 when dense, else the number of true pixels.
    """

    sides: Sides
    rows: int
    pixels: int = 1


@dataclass(frozen=True, eq=False)
class Linear:
    """v' = [v_keep; G v]: the rows ``keep`` unchanged and first, then the rows of G.

    ``matrix`` is ``[F or 1, m, n]`` (complex when spatial); entry by entry ``|matrix - exact| <= error`` at every
    frequency, ``error`` being ``[m, n]`` or None when it is exact. A first axis of 1 stands for the same matrix at
    every frequency.
    """

    source: int
    sides: Sides
    keep: Tensor
    matrix: Tensor
    error: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Fold:
    """Every ``strides[d]``-th pixel per axis: the mean of the aliased blocks, on the torus ``sides``."""

    source: int
    sides: Sides
    strides: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Activate:
    """Row j passes through a function with secant slopes in [lower_j, upper_j]; equal ends are exactly that slope.

    Multiplier: D ``[number of rows with lower < upper]``, positive, in the order of the rows.
    """

    source: int
    sides: Sides
    lower: Tensor
    upper: Tensor

    @property
    def unstable(self) -> Tensor:
        """Whether each row has a range of slopes: bool ``[n]``."""
        return self.lower < self.upper


@dataclass(frozen=True, eq=False)
class Mask:
    """The rows ``rows`` are cropped to the true pixels (slope 0 outside, 1 inside, the same for all of them).

    Multiplier: a real symmetric positive definite D ``[len(rows), len(rows)]``, in place of a diagonal.
    """

    source: int
    sides: Sides
    rows: Tensor


@dataclass(frozen=True, eq=False)
class Pool:
    """Max-pooling of all rows, each read at most ``overlap`` times, behind functions with slopes of at most ``slope``.

    P' = overlap slope^2 diag(delta) on the torus ``sides``, for any delta with diag(delta) - M >= 0 at every frequency.
    Multiplier: delta ``[n]``.
    """

    source: int
    sides: Sides
    overlap: int
    slope: float = 1.0


@dataclass(frozen=True, eq=False)
class Flatten:
    """From the torus to rows of a dense register: v' = A v summed over true pixels.

    ``matrix`` is A(w) = sum_x W[:, :, x] exp(+i w.x), ``[F, m, n]``, with ``error`` as in `Linear`; then
    P' = (1 / prod N) sum over all frequencies of A P A^H, real. ``keep`` is not possible here.
    """

    source: int
    source_sides: Sides
    matrix: Tensor
    error: Tensor | None = None
    sides: Sides = ()


@dataclass(frozen=True, eq=False)
class Bounded:
    """A map of which only its Lipschitz constant is known: P' = gain^2 lmax(P) I with ``rows`` rows on ``sides``.

    ``gain`` is rounded up. With ``source`` None, a value known by its own gain from the input: P' = gain^2 I (in linf
    too, when ``gain`` bounds ||dv||_2 by ||d||_inf).
    """

    source: int | None
    sides: Sides
    rows: int
    gain: float


@dataclass(frozen=True, eq=False)
class Join:
    """[v; w] of two registers of unknown correlation: blockdiag((1 + t) P_v, (1 + 1/t) P_w). Multiplier: t ``[1]``."""

    first: int
    second: int
    sides: Sides


Step: TypeAlias = Start | Linear | Fold | Activate | Mask | Pool | Flatten | Bounded | Join


def sources(step: Step) -> tuple[int, ...]:
    """Return the registers that a step reads."""
    if isinstance(step, Join):
        return (step.first, step.second)
    source = None if isinstance(step, Start) else step.source
    return () if source is None else (source,)


@dataclass(frozen=True)
class Mark:
    """Where a value of the network stands when it is complete: rows ``first`` to ``last - 1`` of a register."""

    value: str
    register: int
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class Plan:
    """The steps of one network; the last register is the output (dense: rows are the classes).

    ``marks`` say where values of the network stand, to tell how the bound grows from layer to layer; ``fallbacks`` say
    in words where a correlation was given up and why.
    """

    steps: tuple[Step, ...]
    norm: Norm = "l2"
    marks: tuple[Mark, ...] = ()
    fallbacks: tuple[str, ...] = ()

    def frequencies(self, register: int) -> int:
        """Return the number of stored matrices of a register: 1 when dense."""
        return math.prod(frequency_counts(self.steps[register].sides))
