r"""Coordinates for the search: the multiplier of each kind of step as a smooth function of free real numbers x.

Variables are logarithms. The multipliers of an activation follow the matrix M that they bracket,

    D = D_0 exp(x) s(M),   s(M) = mean over frequencies of u^H M u, divided by its value at the start,

with u the leading eigenvectors at the start: where the registers before it grow, D grows along and stays feasible. The
derivative of s has rank one, so that derivatives keep their low rank (see `cotangents`). At x = 0 all are the start.

    crop          D = s(M) R T T^T R^T,  R R^T = D_0, T lower triangular with exp of its part of x on the diagonal
    join          t = t_0 exp(x)
    linf          q = q_0 exp(x) / (pixels sum of q_0 exp(x))
    max-pooling   delta = l F,  F = delta_0 exp(x),  l a smooth upper bound of lmax(F^{-1/2} M F^{-1/2}) (`objectives`)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from certify.bounds.covariance.cotangents import Cotangent, Factors
from certify.bounds.covariance.moves import Slope, full
from certify.bounds.covariance.objectives import soft_norm
from certify.bounds.covariance.spectrum import EXACT, largest, leading, mean
from certify.bounds.covariance.steps import Activate, Join, Mask, Pool, Start
from certify.bounds.covariance.trial import Pass, Trial

GENTLE, FARTHEST = 0.2, 2.0  # of the steps to balance: all layers take theirs at once


class Variable(Protocol):
    """The multiplier of one step as a function of x ``[size]``; it remembers what the last call read."""

    size: int

    def multiplier(self, x: Tensor, read: tuple[Tensor, ...], /) -> Tensor:
        """Return the multiplier at x for the registers that the step reads."""

    def slope(self, slope: Tensor) -> tuple[Tensor, Cotangent | None]:
        """Return df/dx and what f gains through the register read, given df/d(multiplier)."""

    def balance(self, slope: Slope) -> Tensor:
        """Return the step in x to where both parts of the slope would balance, if they only scaled with D."""


class _Probe:
    """s(M), and its derivative."""

    def __init__(self, M: Tensor, weights: Tensor) -> None:
        self.weights = weights
        self.vectors = leading(M)
        self.scale = 1.0
        self.scale = self.of(M)

    def of(self, M: Tensor) -> float:
        quotients = (self.vectors.conj() * (M @ self.vectors)).sum((1, 2)).real
        self.value = max(float(mean(quotients, self.weights)), torch.finfo(quotients.dtype).tiny) / self.scale
        return self.value

    def cotangent(self, total: Tensor) -> Factors:
        """Return the derivative given ``total`` = df/d(log s), ``[1]``."""
        return Factors(self.vectors, total / (self.value * self.scale))


class _OfActivation:
    def __init__(self, trial: Trial, step: Activate, first: Tensor, read: tuple[Tensor, ...]) -> None:
        self.size, self.first = len(first), first
        self.rows = None if bool(step.unstable.all()) else step.unstable.nonzero().flatten()
        M = full(read[0])
        self.all_rows = M.shape[-1]
        self.probe = _Probe(self._part(M), trial.weights_of(step.sides))

    def _part(self, M: Tensor) -> Tensor:
        return M if self.rows is None else M[:, self.rows[:, None], self.rows]

    def multiplier(self, x: Tensor, read: tuple[Tensor, ...]) -> Tensor:
        self.D = self.first * x.exp() * self.probe.of(self._part(full(read[0])))
        return self.D

    def slope(self, slope: Tensor) -> tuple[Tensor, Cotangent | None]:
        of_x = slope * self.D
        return of_x, self._whole(self.probe.cotangent(of_x.sum()[None]))

    def balance(self, slope: Slope) -> Tensor:
        held = slope.held.clamp(min=1e-300)
        return 0.5 * ((slope.held - slope.total) / held).clamp(min=1e-6).log()

    def _whole(self, part: Factors) -> Factors:
        if self.rows is None:
            return part
        V = part.vectors
        return Factors(V.new_zeros(len(V), self.all_rows, 1).index_copy(1, self.rows, V), part.weights)


class _OfCrop(_OfActivation):
    def __init__(self, trial: Trial, step: Mask, first: Tensor, read: tuple[Tensor, ...]) -> None:
        n = len(first)
        self.size, self.rows, self.n = n * (n + 1) // 2, step.rows, n
        M = full(read[0])
        self.all_rows = M.shape[-1]
        self.probe = _Probe(self._part(M), trial.weights_of(step.sides))
        self.root = torch.linalg.cholesky(first)
        self.places = torch.tril_indices(n, n, device=first.device)
        self.on_diagonal = self.places[0] == self.places[1]

    def multiplier(self, x: Tensor, read: tuple[Tensor, ...]) -> Tensor:
        self.entries = torch.where(self.on_diagonal, x.exp(), x)
        T = x.new_zeros(self.n, self.n)
        T[self.places[0], self.places[1]] = self.entries
        self.factor = self.root @ T
        self.D = self.factor @ self.factor.mT * self.probe.of(self._part(full(read[0])))
        return self.D

    def slope(self, slope: Tensor) -> tuple[Tensor, Cotangent | None]:
        of_T = 2 * self.probe.value * (self.root.mT @ slope @ self.factor)
        of_x = of_T[self.places[0], self.places[1]]
        of_x = torch.where(self.on_diagonal, of_x * self.entries, of_x)
        return of_x, self._whole(self.probe.cotangent((slope * self.D).sum()[None]))

    def balance(self, slope: Slope) -> Tensor:
        return torch.zeros(self.size, dtype=slope.total.dtype, device=slope.total.device)


class _OfJoin:
    def __init__(self, _trial: Trial, _step: Join, first: Tensor, _read: tuple[Tensor, ...]) -> None:
        self.size, self.first = 1, first

    def multiplier(self, x: Tensor, _read: tuple[Tensor, ...]) -> Tensor:
        self.t = self.first * x.exp()
        return self.t

    def slope(self, slope: Tensor) -> tuple[Tensor, Cotangent | None]:
        return slope * self.t, None

    def balance(self, slope: Slope) -> Tensor:
        return torch.zeros(self.size, dtype=slope.total.dtype, device=slope.total.device)


class _OfStart:
    def __init__(self, _trial: Trial, step: Start, first: Tensor, _read: tuple[Tensor, ...]) -> None:
        self.size, self.first, self.pixels = len(first), first, step.pixels

    def multiplier(self, x: Tensor, _read: tuple[Tensor, ...]) -> Tensor:
        q = self.first * x.exp()
        self.q = q / (self.pixels * q.sum())
        return self.q

    def slope(self, slope: Tensor) -> tuple[Tensor, Cotangent | None]:
        return self.q * (slope - self.pixels * (slope @ self.q)), None

    def balance(self, slope: Slope) -> Tensor:
        return 0.5 * (-slope.total).clamp(min=1e-300).log()


class _OfPool:
    mu = 1e-2

    def __init__(self, trial: Trial, step: Pool, first: Tensor, _read: tuple[Tensor, ...]) -> None:
        self.size, self.first = len(first), first
        self.weights = trial.weights_of(trial.plan.steps[step.source].sides)

    def multiplier(self, x: Tensor, read: tuple[Tensor, ...]) -> Tensor:
        M, self.shape = full(read[0]), self.first * x.exp()
        root = self.shape.rsqrt()
        scaled = root[:, None] * M * root
        weights = self.weights if len(M) > 1 else self.weights.new_ones(1)
        value, cotangent = self._largest(scaled, weights)
        self.vectors, self.delta = root[:, None] * cotangent.vectors, self.shape * math.exp(value)
        turned = (cotangent.vectors.conj() * (scaled @ cotangent.vectors)).real
        self.own = mean(turned @ cotangent.weights, weights)
        self.weights_of_vectors = cotangent.weights
        return self.delta

    def _largest(self, scaled: Tensor, weights: Tensor) -> tuple[float, Factors]:
        """Return log l and its derivative: smooth where all eigenvalues can be had, else by the leading one."""
        if scaled.shape[0] * scaled.shape[1] ** 3 <= EXACT:
            return soft_norm(scaled, weights, self.mu)
        value, position, vector = largest(scaled)
        V = vector.new_zeros(*scaled.shape[:2], 1)
        V[position, :, 0] = vector
        return math.log(max(value, 1e-200)), Factors(V, 1 / (value * weights[position])[None])

    def slope(self, slope: Tensor) -> tuple[Tensor, Cotangent | None]:
        total = slope @ self.delta
        return slope * self.delta - total * self.own, Factors(self.vectors, total * self.weights_of_vectors)

    def balance(self, slope: Slope) -> Tensor:
        return torch.zeros(self.size, dtype=slope.total.dtype, device=slope.total.device)


_KINDS: Mapping[type, Callable[[Trial, Any, Tensor, tuple[Tensor, ...]], Variable]] = MappingProxyType(
    {Activate: _OfActivation, Mask: _OfCrop, Join: _OfJoin, Start: _OfStart, Pool: _OfPool}
)


class Coordinates:
    """All multipliers of a trial as functions of one vector, zero at a given choice of them."""

    def __init__(self, trial: Trial, multipliers: Mapping[int, Tensor]) -> None:
        self.trial = trial
        self.variables: dict[int, Variable] = {}
        made = trial.run(lambda position, read: self._open(position, multipliers[position], read))
        if not made.feasible:
            raise ValueError("expected feasible multipliers to start from; take those of `closed_forms`")
        self.sizes = [variable.size for variable in self.variables.values()]
        self._opened: Pass | None = made

    def _open(self, position: int, multiplier: Tensor, read: tuple[Tensor, ...]) -> Tensor:
        step = self.trial.plan.steps[position]
        first = multiplier.to(self.trial.device, self.trial.dtype)
        variable = self.variables[position] = _KINDS[type(step)](self.trial, step, first, read)
        return variable.multiplier(first.new_zeros(variable.size), read)

    def sharpen(self, mu: float) -> None:
        """Set the smoothness of the coordinates that have one."""
        for variable in self.variables.values():
            if isinstance(variable, _OfPool):
                variable.mu, self._opened = mu, None

    def zero(self) -> Tensor:
        """Return the vector of the choice given at first."""
        return torch.zeros(sum(self.sizes), dtype=self.trial.dtype, device=self.trial.device)

    def run(self, x: Tensor) -> Pass:
        """Return the forward pass at x; the one at zero, which opened the coordinates, is taken once for nothing."""
        opened, self._opened = self._opened, None
        if opened is not None and not bool(x.any()):
            return opened
        parts = dict(zip(self.variables, torch.split(x, self.sizes), strict=True))
        return self.trial.run(lambda position, read: self.variables[position].multiplier(parts[position], read))

    def gradient(self, made: Pass, cotangent: Cotangent, barrier: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return df/dx for the last pass that was run, and part of the step to where all slopes would balance.

        Args:
            made: The pass.
            cotangent: That derivative.
            barrier: What f holds of the sum of all barriers besides, as a factor.
        """
        slopes: dict[int, Tensor] = {}
        steps: dict[int, Tensor] = {}

        def also(position: int, slope: Slope) -> Cotangent | None:
            variable = self.variables[position]
            slopes[position], more = variable.slope(slope.total)
            steps[position] = variable.balance(slope)
            return more

        self.trial.derivatives(made, cotangent, barrier=barrier, also=also)
        none = {position: self.zero().new_zeros(v.size) for position, v in self.variables.items()}
        slope, step = (
            torch.cat([(none | parts)[position] for position in self.variables]) for parts in (slopes, steps)
        )
        return slope, GENTLE * step.clamp(-FARTHEST, FARTHEST)
