"""The moves of a plan: one per step, its constants in one precision and on one device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from certify.bounds.covariance.brackets import Bracketing, Pooling
from certify.bounds.covariance.moves import (
    Bounding,
    Flattening,
    Folding,
    Joining,
    Linking,
    LinkingFolding,
    Move,
    Passing,
    Starting,
)
from certify.bounds.covariance.registers import products_in_strides, rows
from certify.bounds.covariance.spectrum import aliases, folded, frequency_weights
from certify.bounds.covariance.steps import (
    Activate,
    Bounded,
    Flatten,
    Fold,
    Join,
    Linear,
    Mask,
    Plan,
    Pool,
    Sides,
    Start,
)


@dataclass(frozen=True, eq=False)
class Frame:
    """A plan and the precision it is run in: float64, or float32 to search faster."""

    plan: Plan
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        """Where the plan's matrices are."""
        tensors = (v for step in self.plan.steps for v in vars(step).values() if isinstance(v, Tensor))
        return next(tensors, torch.empty(0)).device

    def weights_of(self, sides: Sides) -> Tensor:
        """Return the frequency weights of a torus, in this precision and place."""
        return frequency_weights(sides).to(self.device, self.dtype)

    def cast(self, tensor: Tensor) -> Tensor:
        """Return a real or complex tensor in this precision."""
        if not tensor.is_complex():
            return tensor.to(self.dtype)
        return tensor.to(torch.complex64 if self.dtype == torch.float32 else torch.complex128)

    def dtype_of(self, sides: Sides) -> torch.dtype:
        """Return the dtype of the matrices of a register: complex on a torus."""
        if not sides:
            return self.dtype
        return torch.complex64 if self.dtype == torch.float32 else torch.complex128


def prepare(frame: Frame, *, fuse: bool) -> list[Move]:
    """Return the move of every step.

    Args:
        frame: The plan and the precision.
        fuse: Whether to take products and the strides behind them together, which needs less memory; the register of
            the product is then the one it read.
    """
    moves = [_PREPARE[type(step)](frame, step) for step in frame.plan.steps]
    return _fused(frame.plan, moves) if fuse else moves


def _fused(plan: Plan, moves: list[Move]) -> list[Move]:
    together = products_in_strides(plan)
    for position, (step, folding) in enumerate(zip(plan.steps, moves, strict=True)):
        linking = moves[step.source] if isinstance(step, Fold) and step.source in together else None
        if isinstance(step, Fold) and isinstance(folding, Folding) and isinstance(linking, Linking):
            moves[step.source], moves[position] = Passing(), LinkingFolding(linking, folding)
    return moves


def _start(frame: Frame, step: Start) -> Move:
    return Starting(step.rows, step.pixels, frame.weights_of(step.sides))


def _linear(frame: Frame, step: Linear) -> Move:
    used = (step.matrix != 0).any(0).any(0)
    columns = None if bool(used.all()) else used.nonzero().flatten()
    matrix = step.matrix if columns is None else step.matrix[:, :, columns]
    return Linking(frame.cast(matrix), step.keep, columns, step.matrix.shape[2])


def _fold(frame: Frame, step: Fold) -> Move:
    there, back = aliases(step.sides, step.strides), folded(step.sides, step.strides)
    return Folding(*(index.to(frame.device) for index in (*there, *back)))


def _activate(frame: Frame, step: Activate) -> Move:
    lower, upper = frame.cast(step.lower), frame.cast(step.upper)
    U = step.unstable.nonzero().flatten()
    return _bracketing(frame, (lower + upper) / 2, ((upper - lower) / 2)[U], U, step.sides)


def _mask(frame: Frame, step: Mask) -> Move:
    middle = torch.ones(rows(frame.plan, step.source), dtype=frame.dtype, device=frame.device)
    middle[step.rows] = 0.5
    return _bracketing(frame, middle, middle[step.rows], step.rows, step.sides)


def _bracketing(frame: Frame, middle: Tensor, half: Tensor, U: Tensor, sides: Sides) -> Move:
    everything = torch.arange(len(middle), device=frame.device)
    weights = frame.weights_of(sides)
    if torch.equal(U, everything):
        return Bracketing(middle, half, None, None, None, weights, frame.dtype_of(sides))
    exact = everything[~torch.isin(everything, U)]
    order = torch.cat((exact, U)).argsort()
    back = None if torch.equal(order, everything) else order
    return Bracketing(middle, half, U, exact, back, weights, frame.dtype_of(sides))


def _pool(frame: Frame, step: Pool) -> Move:
    return Pooling(step.overlap * step.slope**2, frame.weights_of(step.sides))


def _flatten(frame: Frame, step: Flatten) -> Move:
    return Flattening(frame.cast(step.matrix), frame.weights_of(step.source_sides))


def _bounded(frame: Frame, step: Bounded) -> Move:
    source = None if step.source is None else frame.weights_of(frame.plan.steps[step.source].sides)
    return Bounding(step.gain, step.rows, frame.weights_of(step.sides), source)


def _join(frame: Frame, step: Join) -> Move:
    return Joining(frame.weights_of(step.sides), frame.dtype_of(step.sides))


_PREPARE: Mapping[type, Callable[[Frame, Any], Move]] = MappingProxyType(
    {
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
)
