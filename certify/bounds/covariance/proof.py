r"""Running a plan once with every rounding error carried upward: whatever the multipliers, what comes out is a bound.

Every register holds a stored matrix P with dv dv^T <= s^2 P exactly (see `steps`); each step keeps that, by the proofs
in `rounded`, `elimination`, `aliasing` and here. Multipliers are candidates from anywhere: where one is not feasible it
is enlarged a little, by fixed factors, and where that does not help there is no bound.

*Start, linf.* q is divided by a sum rounded up and rounded down, so that the pixels times its sum are at most 1; 1 / q
is rounded up. *Pool*: diag(delta) - M is proved positive definite. *Join*: 1 + t and 1 + 1 / t are rounded up; the
product a P of a matrix and a number errs by u |a P| entry by entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from certify.bounds.covariance.aliasing import chunks, flatten_upper, fold_upper, part_of
from certify.bounds.covariance.definite import is_positive, root_lmax_upper
from certify.bounds.covariance.domination import SLACK, add_to_diagonal, finite, rounding_terms
from certify.bounds.covariance.elimination import activate_upper, mask_upper, slack_lower
from certify.bounds.covariance.registers import products_in_strides
from certify.bounds.covariance.rounded import linear_upper
from certify.bounds.covariance.steps import (
    Activate,
    Bounded,
    Flatten,
    Fold,
    Join,
    Linear,
    Mark,
    Mask,
    Multipliers,
    Plan,
    Pool,
    Start,
    sources,
)
from certify.bounds.magnitudes import nextafter_up
from certify.rounding import add_up, div_up, gamma_up, mul_up

ENLARGED = (0.0, *(10.0**-k for k in range(9, 3, -1)))  # relative, tried in this order


@dataclass(frozen=True, eq=False)
class Proved:
    """The proved output register, and how the bound grew.

    ``output`` is ``[F, K, K]`` with dv dv^T <= s^2 ``output``; ``growth`` holds, for each mark of the plan by its
    value, at least the constant sqrt(lmax) of the rows that it names; it is empty where it was not asked for.
    """

    output: Tensor
    growth: Mapping[str, float]

    def upper(self) -> float:
        """Return the proved constant C of ||dv||_2 <= C s."""
        return root_lmax_upper(self.output)

    def row_uppers(self) -> Tensor:
        """Return the proved constants C_i ``[K]`` of |dv_i| <= C_i s.

        Raises:
            ValueError: If the output is spatial.
        """
        return nextafter_up(self._dense().diagonal().clamp_min(0.0).sqrt())

    def pair_uppers(self) -> Tensor:
        """Return the proved constants C_ij ``[K, K]`` of |dv_i - dv_j| <= C_ij s, with a zero diagonal.

        (e_i - e_j)^T M (e_i - e_j) = M_ii + M_jj - 2 M_ij, with three roundings.

        Raises:
            ValueError: If the output is spatial.
        """
        M = self._dense()
        ends = M.diagonal()[:, None] + M.diagonal()
        error = SLACK * gamma_up(4) * (ends.abs() + 2.0 * M.abs())
        squared = nextafter_up(ends - 2.0 * M + nextafter_up(error)).clamp_min(0.0)
        return nextafter_up(squared.sqrt()).fill_diagonal_(0.0)

    def _dense(self) -> Tensor:
        if self.output.is_complex() or len(self.output) != 1:
            raise ValueError(f"expected an output of rows, got one on a torus, of {len(self.output)} frequencies")
        return self.output[0]


def prove(plan: Plan, multipliers: Multipliers, *, with_growth: bool = True) -> Proved | None:
    """Run a plan with proved rounding.

    Args:
        plan: Any plan.
        multipliers: By position of the step, of the shapes that the steps name; any numbers.
        with_growth: Whether to bound the marked rows too, which takes about a fifth of the time.

    Returns:
        The proved output, or None where the multipliers are not feasible or a number is not finite.

    Raises:
        ValueError: If a multiplier is missing or has another shape.

    Example:
        >>> weight = torch.tensor([[[3.0], [4.0]]], dtype=torch.float64)
        >>> steps = (Start((), 1), Linear(0, (), torch.tensor([], dtype=torch.int64), weight))
        >>> 5.0 <= prove(Plan(steps), {}).upper() <= 5.0 * (1 + 1e-13)
        True
    """
    marks = plan.marks if with_growth else ()
    passed = products_in_strides(plan) - {mark.register for mark in marks}
    reads = [_reads(plan, position, passed) for position in range(len(plan.steps))]
    last_reader = {source: position for position, read in enumerate(reads) for source in read}
    registers: dict[int, Tensor] = {}
    growth: dict[str, float] = {}
    with torch.no_grad():
        for position, step in enumerate(plan.steps):
            if position in passed:
                continue
            register = RULES[type(step)](Site(plan, position, registers, multipliers), step)
            if register is None or finite(register) is None:
                return None
            registers[position] = register
            growth |= {m.value: _marked_upper(register, m) for m in marks if m.register == position}
            for source in reads[position]:
                if last_reader[source] == position:
                    registers.pop(source, None)
    return Proved(registers[len(plan.steps) - 1], growth)


def _reads(plan: Plan, position: int, passed: frozenset[int]) -> tuple[int, ...]:
    """Return the registers that a step reads; behind a product that is not held by itself, those that it reads."""
    if position in passed:
        return ()
    return tuple(r for s in sources(plan.steps[position]) for r in (sources(plan.steps[s]) if s in passed else (s,)))


def _marked_upper(register: Tensor, mark: Mark) -> float:
    rows = slice(mark.first, mark.last)
    return root_lmax_upper(register[:, rows, rows])


@dataclass(frozen=True, eq=False)
class Site:
    """Where a step is run: what it may read."""

    plan: Plan
    position: int
    registers: Mapping[int, Tensor]
    multipliers: Multipliers

    def multiplier(self, *shape: int) -> Tensor:
        """Return the multiplier of this step in float64."""
        found = self.multipliers.get(self.position)
        if found is None and 0 in shape:
            return torch.zeros(shape, dtype=torch.float64)
        if found is None or tuple(found.shape) != shape:
            got = "none" if found is None else f"{tuple(found.shape)}"
            raise ValueError(f"expected a multiplier of shape {shape} for step {self.position}, got {got}")
        return found.detach().to("cpu", torch.float64)

    def scalar_matrix(self, diagonal: Tensor) -> Tensor:
        """Return the register of this step that is the same diagonal ``[n]`` at every frequency."""
        frequencies = self.plan.frequencies(self.position)
        dtype = torch.complex128 if self.plan.steps[self.position].sides else torch.float64
        return torch.diag(diagonal).to(dtype).repeat(frequencies, 1, 1)


def _start(site: Site, step: Start) -> Tensor | None:
    ones = torch.ones(step.rows, dtype=torch.float64)
    if site.plan.norm == "l2":
        return site.scalar_matrix(ones)
    q = site.multiplier(step.rows)
    if not bool((q > 0.0).all() & torch.isfinite(q).all()):
        return None
    return site.scalar_matrix(reciprocals_upper(q, step.pixels))


def reciprocals_upper(q: Tensor, pixels: int) -> Tensor:
    """Return at least 1 / q' for some q' <= q / (pixels * sum q), so that pixels times the sum of q' is at most 1.

    Example:
        >>> reciprocals_upper(torch.tensor([1.0, 3.0], dtype=torch.float64), 1).round().tolist()
        [4.0, 1.0]
    """
    summed = mul_up(float(q.sum()), add_up(1.0, mul_up(2.0, gamma_up(len(q) + 2))), float(pixels))
    shares = torch.nextafter(q / summed, torch.zeros_like(q))
    return nextafter_up(1.0 / shares)


def _linear(site: Site, step: Linear) -> Tensor | None:
    P = site.registers[step.source]
    rows = len(step.keep) + step.matrix.shape[1]
    M = P.new_empty(len(P), rows, rows)
    for chunk in chunks(len(P), max(P[0].numel(), rows * rows)):
        M[chunk] = _product(P, step, chunk)
    return M


def _product(P: Tensor, step: Linear, where: slice | Tensor) -> Tensor:
    error = None if step.error is None else part_of(step.error, where)
    return linear_upper(P[where], part_of(step.matrix, where).to(P.dtype), error, step.keep)


def _fold(site: Site, step: Fold) -> Tensor | None:
    source = site.plan.steps[step.source]
    if step.source in site.registers or not isinstance(source, Linear):
        return fold_upper(site.registers[step.source], source.sides, step.strides)
    P = site.registers[source.source]
    return fold_upper(P, source.sides, step.strides, lambda places: _product(P, source, places))


def _activate(site: Site, step: Activate) -> Tensor | None:
    D = site.multiplier(int(step.unstable.sum()))
    return _enlarging(site.registers[step.source], D, lambda M, D: activate_upper(M, step.lower, step.upper, D))


def _mask(site: Site, step: Mask) -> Tensor | None:
    D = site.multiplier(len(step.rows), len(step.rows))
    return _enlarging(site.registers[step.source], D, lambda M, D: mask_upper(M, step.rows, D))


def _enlarging(M: Tensor, D: Tensor, rule: Callable[[Tensor, Tensor], Tensor | None]) -> Tensor | None:
    """Return what the rule makes of all matrices with the first of D (1 + x) that serves them all, x of `ENLARGED`."""
    for more in ENLARGED:
        P = _in_chunks(M, D * (1.0 + more), rule)
        if P is not None:
            return P
    return None


def _in_chunks(M: Tensor, D: Tensor, rule: Callable[[Tensor, Tensor], Tensor | None]) -> Tensor | None:
    P = torch.empty_like(M)
    for chunk in chunks(len(M), M[0].numel()):
        found = rule(M[chunk], D)
        if found is None:
            return None
        P[chunk] = found
    return P


def _pool(site: Site, step: Pool) -> Tensor | None:
    M = site.registers[step.source]
    delta = site.multiplier(M.shape[1])
    for more in ENLARGED:
        enlarged = delta * (1.0 + more)
        if is_diagonal_above(M, enlarged):
            factor = mul_up(float(step.overlap), step.slope, step.slope)
            return site.scalar_matrix(nextafter_up(factor * enlarged))
    return None


def is_diagonal_above(M: Tensor, delta: Tensor) -> bool:
    """Return whether diag(delta) - M > 0 is proved for all matrices.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> is_diagonal_above(one[None, None], 1.01 * one), is_diagonal_above(one[None, None], one)
        (True, False)
    """
    rows = torch.arange(M.shape[1])
    return all(is_positive(slack_lower(M[chunk], rows, delta)) for chunk in chunks(len(M), M[0].numel()))


def _flatten(site: Site, step: Flatten) -> Tensor | None:
    return flatten_upper(site.registers[step.source], step.matrix, step.error, step.source_sides)


def _bounded(site: Site, step: Bounded) -> Tensor | None:
    root = 1.0 if step.source is None else root_lmax_upper(site.registers[step.source])
    value = mul_up(step.gain, step.gain, root, root)
    return site.scalar_matrix(torch.full((step.rows,), value, dtype=torch.float64))


def _join(site: Site, step: Join) -> Tensor | None:
    t = float(site.multiplier(1))
    if not 0.0 < t < math.inf:
        return None
    first, second = site.registers[step.first], site.registers[step.second]
    split = first.shape[1]
    M = first.new_zeros(len(first), split + second.shape[1], split + second.shape[1])
    factors = join_factors(t)
    M[:, :split, :split] = scaled_upper(first, factors[0])
    M[:, split:, split:] = scaled_upper(second, factors[1])
    return M


def join_factors(t: float) -> tuple[float, float]:
    """Return at least 1 + t and 1 + 1 / t.

    Example:
        >>> join_factors(1.0)[0] >= 2.0 <= join_factors(1.0)[1]
        True
    """
    return add_up(1.0, t), add_up(1.0, div_up(1.0, t))


def scaled_upper(P: Tensor, factor: float) -> Tensor:
    """Return a stored matrix >= ``factor`` P."""
    M = torch.empty_like(P)
    for chunk in chunks(len(P), P[0].numel()):
        product = P[chunk] * factor
        M[chunk] = add_to_diagonal(product, rounding_terms(product))
    return M


Rule: TypeAlias = Callable[[Site, Any], Tensor | None]
RULES: Mapping[type, Rule] = {
    Start: _start,
    Linear: _linear,
    Fold: _fold,
    Activate: _activate,
    Mask: _mask,
    Pool: _pool,
    Flatten: _flatten,
    Bounded: _bounded,
    Join: _join,
}
