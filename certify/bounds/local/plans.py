r"""A chain on a ball as a plan of the covariance recursion, with no more rows than may bend.

The recursion of `certify.bounds.covariance` works on the rows it is given. Rows of slope 0 on the whole ball are left
out. Rows of *one* slope need no multiplier, so they need not be rows at all: let a layer have rows U that may bend and
rows S of fixed slopes s, and let A be what is wanted of its outputs (at first the last matrix W_L). Then

    A y  =  A_:U y_U  +  c,        c = A_:S s z_S = (A_:S s W_S) y',

y' being the outputs before: the functionals c are carried beside z_U, through an activation that leaves them alone, and
what is wanted of y' is [W_U; A_:S s W_S]. So a layer has |U| + (rows wanted behind it) rows, and a layer without bent
rows vanishes. The optimum over multipliers is the same: they belong to U either way. The plainer plan, all living rows
of every layer, is taken where it is the cheaper one.

With |A* - A| <= E, |W* - W| <= theta |W| and n = |S|, the stored product errs, entry by entry, by at most

    ((gamma_{n+4} + theta) |A_:S| |s| + (1 + theta) E_:S |s|) |W_S|.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.covariance.steps import Activate, Linear, Plan, Start, Step
from certify.bounds.local.centres import GROWN
from certify.bounds.local.layers import Chain, Layer
from certify.bounds.magnitudes import nextafter_up
from certify.results import Norm
from certify.rounding import SMALLEST, gamma_up

NONE = torch.zeros(0, dtype=torch.int64)
LITTLE = 2.0**25  # sum of the cubes of the rows


@dataclass(frozen=True, eq=False)
class SlopesOnBall:
    """The rows of a layer whose slope is not surely 0 on the ball, and their slope ranges."""

    alive: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def bent(self) -> int:
        """How many rows may bend."""
        return int((self.lower < self.upper).sum())


def plan_on_ball(chain: Chain, slopes: Sequence[SlopesOnBall], norm: Norm) -> Plan:
    """Return the network on the ball as a plan, in the form that costs less.

    Args:
        chain: The network.
        slopes: Of every hidden layer.
        norm: Of the inputs and outputs.
    """
    rows, carried = chain.outputs, 0.0
    for one in reversed(slopes):
        rows += one.bent
        carried += float(rows) ** 3
    plain = sum(float(len(one.alive)) ** 3 for one in slopes)
    if plain <= LITTLE or plain <= carried:  # small plans gain no time, and closed forms may be worse
        return plain_plan(chain, slopes, norm)
    return carried_plan(chain, slopes, norm)


def plain_plan(chain: Chain, slopes: Sequence[SlopesOnBall], norm: Norm) -> Plan:
    """Return the plan with all rows whose slope is not surely 0."""
    steps: list[Step] = [Start((), chain.inputs)]
    columns = torch.arange(chain.inputs)
    for k, layer in enumerate(chain.layers):
        rows = slopes[k].alive if k < len(slopes) else torch.arange(layer.rows)
        matrix = layer.matrix[rows][:, columns]
        error = None if layer.error == 0.0 else nextafter_up(matrix.abs() * layer.error)
        steps.append(Linear(len(steps) - 1, (), NONE, matrix[None], error))
        if k < len(slopes) and not layer.is_linear:
            steps.append(Activate(len(steps) - 1, (), slopes[k].lower, slopes[k].upper))
        columns = rows
    return Plan(tuple(steps), norm)


def carried_plan(chain: Chain, slopes: Sequence[SlopesOnBall], norm: Norm) -> Plan:
    """Return the plan with rows that may bend, and functionals for the others."""
    last = chain.layers[-1]
    A, E = last.matrix, last.matrix.abs() * last.error
    behind: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []  # slopes, and the matrix behind them, from the end on
    for layer, one in zip(reversed(chain.layers[:-1]), reversed(slopes), strict=True):
        bends = one.lower < one.upper
        U, S, s = one.alive[bends], one.alive[~bends], one.lower[~bends]
        C, lost = _through(A[:, S] * s, E[:, S] * s.abs(), layer, S)
        if len(U):
            ones = torch.ones(len(C), dtype=torch.float64)
            eye = torch.eye(len(C), dtype=torch.float64)
            ends = torch.cat([one.lower[bends], ones]), torch.cat([one.upper[bends], ones])
            behind.append((*ends, torch.cat([A[:, U], eye], 1), torch.cat([E[:, U], 0.0 * eye], 1)))
        A, E = torch.cat([layer.matrix[U], C]), torch.cat([layer.matrix[U].abs() * layer.error, lost])
    steps: list[Step] = [Start((), chain.inputs), Linear(0, (), NONE, A[None], nextafter_up(E))]
    for lower, upper, matrix, error in reversed(behind):
        steps.append(Activate(len(steps) - 1, (), lower, upper))
        steps.append(Linear(len(steps) - 1, (), NONE, matrix[None], torch.where(error > 0.0, nextafter_up(error), 0.0)))
    return Plan(tuple(steps), norm)


def _through(A: Tensor, E: Tensor, layer: Layer, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return A W and what it errs by, for functionals A ``[r, n]`` on rows of a layer that err by E."""
    W = layer.matrix[rows]
    sizes = (gamma_up(len(rows) + 4.0) + layer.error) * A.abs() + (1.0 + layer.error) * E
    return A @ W, GROWN * (sizes @ W.abs()) + 8.0 * SMALLEST * (len(rows) + 1)
