r"""Multipliers of their own for every pixel of an image: tighter than one per channel, at the cost of dense matrices.

On a torus all pixels of a channel share one multiplier, as its symbol needs. Compiled without images the same network
is a plan of plain rows whose multipliers are free at every pixel, by the recursion of LipSDP-Neuron itself. The shared
ones, copied to all pixels, are a start that already gives no more than the torus did: for slopes [a, b] with
a <= 0 <= b and the same multipliers the dense recursion on the true, zero-padded matrices stays below the true pixels'
part of that on the torus.

Proof. With M on the torus, R the rows of the true pixels and D the same on all pixels, for v supported there

    v^T P v = v^T C D C v + sup over u of (2 u^T B v - u^T M^-1 u + u^T D^-1 u)

(M > 0; else a limit), and the same holds densely with R M R^T >= the dense M instead of M. The supremum over the torus
is at least that over the u for which u^T M^-1 u is least given R u, which is (R u)^T (R M R^T)^-1 R u, and what u adds
outside, u^T D^-1 u, is not negative. So R P R^T >= the dense P; steps between activations preserve order. []

Nothing depends on this proof: it says why the start is good. The multipliers are proved like any others.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from certify.bounds.covariance.starts import multiplier
from certify.bounds.covariance.steps import Activate, Mark, Multipliers, Plan
from certify.bounds.covariance.trial import Trial

MOST_POSITIONS = 3500  # entries of the widest activation
REPAIRS = 40
ELSEWHERE = 0.25  # the shape of the closed form where there is nothing to copy


def per_position(plan: Plan, multipliers: Multipliers, dense: Plan) -> Multipliers | None:
    """Return feasible multipliers of a plan of plain rows that repeat those of a plan with images.

    Args:
        plan: A plan of a network on tori.
        multipliers: Feasible ones.
        dense: The plan of the same network without images.

    Returns:
        The multipliers, enlarged where they are not feasible; None where even that does not help.
    """
    channels = {mark.value: found for mark in plan.marks if (found := _diagonal(plan, multipliers, mark)) is not None}
    copied = _copied(channels, dense)
    trial = Trial(dense)

    def choose(position: int, read: tuple[Tensor, ...]) -> Tensor:
        closed = multiplier(trial, position, read, ELSEWHERE)
        given = copied.get(position)
        return closed if given is None else torch.where(given > 0.0, given, closed)

    made = trial.run(choose, repairs=REPAIRS, lean=True)
    return made.multipliers if made.feasible else None


def _diagonal(plan: Plan, multipliers: Multipliers, mark: Mark) -> Tensor | None:
    """Return the multipliers of the rows of a mark behind an activation, zero where there are none."""
    step = plan.steps[mark.register]
    if not isinstance(step, Activate):
        return None
    unstable = step.unstable
    found = torch.zeros(len(unstable), dtype=torch.float64)
    if bool(unstable.any()):
        found[unstable] = multipliers[mark.register].to("cpu", torch.float64)
    return found[mark.first : mark.last]


def _copied(channels: Mapping[str, Tensor], dense: Plan) -> dict[int, Tensor]:
    """Return, for the activations of the dense plan, the multipliers of their channels, zero where there are none."""
    found: dict[int, Tensor] = {}
    for mark in dense.marks:
        step, shared = dense.steps[mark.register], channels.get(mark.value)
        count = mark.last - mark.first
        if not isinstance(step, Activate) or shared is None or not len(shared) or count % len(shared):
            continue
        rows = found.setdefault(mark.register, torch.zeros(len(step.lower), dtype=torch.float64))
        rows[mark.first : mark.last] = shared.repeat_interleave(count // len(shared))
    return {position: rows[_unstable(dense, position)] for position, rows in found.items()}


def _unstable(dense: Plan, position: int) -> Tensor:
    step = dense.steps[position]
    return step.unstable if isinstance(step, Activate) else torch.zeros(0, dtype=torch.bool)
