r"""A plan in plain floating point: every register for given multipliers, and the derivative of a function of the last.

Nothing here is proved: rounding errors are ignored. What comes out chooses multipliers and says what a proof will give
up to about 1e-9 relative.

`evaluate` is made of differentiable torch operations. `Trial.derivatives` computes the same derivatives by hand at a
fraction of the cost (see `brackets`), and keeps only the inverses of the brackets' matrices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from certify.bounds.covariance.brackets import Bracketing
from certify.bounds.covariance.cotangents import Cotangent, add
from certify.bounds.covariance.moves import Saved, Slope, full
from certify.bounds.covariance.prepare import Frame, prepare
from certify.bounds.covariance.registers import is_free, rows
from certify.bounds.covariance.steps import Multipliers, Plan, Sides, sources

REPAIR = 1.15

Choose: TypeAlias = Callable[[int, tuple[Tensor, ...]], Tensor]
Also: TypeAlias = Callable[[int, Slope], "Cotangent | None"]


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass. ``registers`` may be dropped (None) where nothing reads them again.

    ``feasible`` is False when a multiplier is not; the pass then ends at its step.
    """

    registers: list[Tensor | None]
    multipliers: dict[int, Tensor]
    saved: list[Saved | None]
    feasible: bool

    @property
    def output(self) -> Tensor:
        """The last register."""
        last = self.registers[-1]
        if not self.feasible or last is None:
            raise ValueError("expected a feasible pass, got one that ended early; ask `feasible` first")
        return full(last)


class Trial:
    """A plan with the constants of its steps prepared, in float64 or, to search faster, float32.

    Registers that depend on no multiplier are computed once. With ``fuse``, products and the strides behind them are
    taken together, which needs less memory; the register of the product is then the one it read.
    """

    def __init__(self, plan: Plan, dtype: torch.dtype = torch.float64, *, fuse: bool = True) -> None:
        self.plan = plan
        self.dtype = dtype
        self.sources = tuple(sources(step) for step in plan.steps)
        self.free = tuple(is_free(step, plan.norm) for step in plan.steps)
        self.frame = Frame(plan, dtype)
        self.moves = prepare(self.frame, fuse=fuse)
        self.last_reader = self._last_readers()
        self._fix()

    @property
    def device(self) -> torch.device:
        """Where the plan's matrices are."""
        return self.frame.device

    def weights_of(self, sides: Sides) -> Tensor:
        """Return the frequency weights of a torus, in the trial's precision and place."""
        return self.frame.weights_of(sides)

    def cast(self, tensor: Tensor) -> Tensor:
        """Return a real or complex tensor in the trial's precision."""
        return self.frame.cast(tensor)

    def rows(self, position: int) -> int:
        """Return the number of rows of a register."""
        return rows(self.plan, position)

    def _last_readers(self) -> list[int]:
        last = list(range(len(self.plan.steps)))
        for position, read in enumerate(self.sources):
            for source in read:
                last[source] = position
        last[-1] = len(last)
        return last

    def _fix(self) -> None:
        """Compute what depends on no multiplier, and keep what is read by what does."""
        made: dict[int, Tensor] = {}
        for position, (move, read) in enumerate(zip(self.moves, self.sources, strict=True)):
            if not self.free[position] and all(source in made for source in read):
                result = move.forward([made[source] for source in read], None)
                if result is not None:
                    made[position] = result[0]
        needed = {s for position, read in enumerate(self.sources) if position not in made for s in read}
        needed.add(len(self.moves) - 1)
        self._fixed = {position: register for position, register in made.items() if position in needed}
        self._idle = frozenset(made) - needed

    def run(self, choose: Choose, *, keep: bool = False, repairs: int = 0, lean: bool = False) -> Pass:
        """Return one forward pass.

        Args:
            choose: The multiplier of a step, given its position and the registers it reads; asked for free steps only.
            keep: Whether to keep all registers, not only those that are read again.
            lean: Whether to save nothing for `derivatives` and `barrier`.
            repairs: How often to enlarge a multiplier that is not feasible, by a factor of `REPAIR` each time.
        """
        made = Pass([None] * len(self.moves), {}, [None] * len(self.moves), True)
        for position in range(len(self.moves)):
            if not self._advance(position, made, choose, keep=keep, repairs=repairs):
                return dataclasses.replace(made, feasible=False)
            if lean:
                made.saved[position] = None
        return made

    def _advance(self, position: int, made: Pass, choose: Choose, *, keep: bool, repairs: int) -> bool:
        if position in self._fixed:
            made.registers[position] = self._fixed[position]
            return True
        if position in self._idle and not keep:
            return True
        read = tuple(register for s in self.sources[position] if (register := made.registers[s]) is not None)
        multiplier = choose(position, read) if self.free[position] else None
        result = self.moves[position].forward(read, multiplier)
        for _ in range(repairs if multiplier is not None else 0):
            if result is not None or multiplier is None:
                break
            multiplier = multiplier * REPAIR
            result = self.moves[position].forward(read, multiplier)
        if result is None:
            return False
        made.registers[position], made.saved[position] = result
        if multiplier is not None:
            made.multipliers[position] = multiplier
        for source in () if keep else self.sources[position]:
            if self.last_reader[source] == position:
                made.registers[source] = None
        return True

    def barrier(self, made: Pass) -> float:
        """Return the sum of the barriers of all brackets (see `brackets`) of a feasible pass."""
        total = 0.0
        for position, multiplier in made.multipliers.items():
            move, saved = self.moves[position], made.saved[position]
            if isinstance(move, Bracketing) and saved is not None:
                total += move.barrier(saved, multiplier)
        return total

    def derivatives(
        self, made: Pass, cotangent: Cotangent, *, barrier: float = 0.0, also: Also | None = None
    ) -> dict[int, Slope]:
        """Return the derivative of f for every multiplier of a pass, given that for the last register.

        Args:
            made: The pass.
            cotangent: The derivative for the last register.
            barrier: What f holds of the sum of all barriers besides, as a factor.
            also: Where multipliers were themselves chosen as functions of a register: given the position and the
                derivative for its multiplier, what that adds to the derivative for the (one) register it reads.
        """
        pending: dict[int, Cotangent] = {len(self.moves) - 1: cotangent}
        slopes: dict[int, Slope] = {}
        for position in range(len(self.moves) - 1, -1, -1):
            at, saved = pending.pop(position, None), made.saved[position]
            if at is None or saved is None:
                continue
            multiplier, move = made.multipliers.get(position), self.moves[position]
            reached, slope = move.backward(saved, at, multiplier)
            more: list[Cotangent | None] = []
            if barrier and slope is not None and multiplier is not None and isinstance(move, Bracketing):
                wall, own = move.barrier_slopes(saved, multiplier)
                more, slope = [wall.scaled(barrier)], slope._replace(total=slope.total + barrier * own)
            if slope is not None:
                slopes[position] = slope
                more = [*more, also(position, slope) if also else None]
            for source, one in zip(self.sources[position], reached, strict=True):
                for part in (one, *more):
                    if part is not None:
                        pending[source] = add(pending.get(source), part)
        return slopes


def evaluate(plan: Plan, multipliers: Multipliers) -> list[Tensor]:
    """Return every register of a plan for given multipliers; differentiable with respect to them.

    Registers that come after a multiplier that is not feasible are full of NaN.

    Args:
        plan: The plan.
        multipliers: By position of the step, as documented there.

    Returns:
        One tensor per step, ``[F, n, n]``.

    Example:
        >>> from certify.bounds.covariance.steps import Activate, Linear, Plan, Start
        >>> one = torch.eye(1, dtype=torch.float64)
        >>> keep = torch.tensor([], dtype=torch.int64)
        >>> relu = Activate(1, (), torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
        >>> plan = Plan((Start((), 1), Linear(0, (), keep, 3 * one[None]), relu))
        >>> float(evaluate(plan, {2: torch.tensor([18.0], dtype=torch.float64)})[-1])
        9.0
    """
    trial = Trial(plan, fuse=False)
    made = trial.run(lambda position, _: multipliers[position].to(trial.device, trial.dtype), keep=True)
    return [_shown(trial, position, register) for position, register in enumerate(made.registers)]


def _shown(trial: Trial, position: int, register: Tensor | None) -> Tensor:
    count, n, spatial = trial.plan.frequencies(position), trial.rows(position), bool(trial.plan.steps[position].sides)
    dtype = torch.complex128 if spatial else torch.float64
    if register is None:
        return torch.full((count, n, n), torch.nan, dtype=dtype, device=trial.device)
    return full(register).to(dtype).expand(count, n, n)
