r"""The proof of a trial: one evaluation in float64 with every rounding error carried upward.

Given the radius, and the relative multipliers and scales that the search found, the recursion is walked once more with
the proved steps of `certify.bounds.covariance`: every stored matrix M dominates dz dz^T / ||x - x*||^2 on the ball.
Whatever the multipliers are, what comes out holds; a step whose matrix K is not proved positive definite is tried again
with larger ones, and otherwise the recursion gives up and linear relaxation stands alone.

*Functionals.* Linear relaxation proves margin >= A . y_k + c on the ball, with stored rows A, at every layer k (at the
last hidden one these are the differences of the last weights). With A . (y_k - y*_k) >= -s ||x - x*|| from the
recursion, margin >= v - s ||x - x*|| with v = A . y*_k + c, where h_k, the computed y_k, errs by h_error:

    v = fl(A . h_k + c) - |A| . h_error - gamma_{m+2} (|A| . |h_k| + |c|)         rounded down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.local.ascent_proof import ProvedAscent
from certify.bounds.local.centres import Centres
from certify.bounds.local.layers import Chain
from certify.bounds.local.lines import Bounds
from certify.bounds.local.lines_proof import Margins, ProvedRelaxation
from certify.bounds.local.push_proof import Front
from certify.bounds.local.starts import Relative
from certify.bounds.local.trial import LINES, Trial
from certify.results import Norm
from certify.rounding import div_down


@dataclass(frozen=True)
class Certificate:
    """One margin: at least v - s ||x - x*|| where ||x - x*|| <= ``ball``, proved.

    ``layer`` is that of the functional, or `LINES`, or `EVERYWHERE`.
    """

    v: float
    s: float
    layer: int
    ball: float

    @property
    def radius(self) -> float:
        """The radius this margin certifies, rounded down, 0 where nothing is proved."""
        if not (0.0 < self.v < math.inf and 0.0 <= self.s < math.inf and self.ball > 0.0):
            return 0.0
        return min(self.ball, div_down(self.v, self.s)) if self.s > 0.0 else self.ball

    @property
    def ratio(self) -> float:
        """The ratio v / s, 0 where v is not positive; rounded to nearest."""
        if not self.v > 0.0 or math.isnan(self.s):
            return 0.0
        return self.v / self.s if self.s > 0.0 else math.inf


def prove_trial(
    chain: Chain,
    front: Front | None,
    centres: Centres,
    chosen: int,
    eps: float,
    trial: Trial,
    norm: Norm = "l2",
    places: Sequence[int] | None = None,
) -> list[Certificate]:
    """Return a proved certificate for every class but the chosen one, in order.

    Args:
        chain: The network.
        front: The first layer, for trials of the recursion; in linf with the stretch of the trial.
        centres: One centre, with its errors.
        chosen: The class.
        eps: The radius.
        trial: What was found there, of a batch of one.
        norm: Of the ball.
        places: Which margins the trial is about, in its order; by default all.
    """
    if norm == "linf" and (front is None or front.stretch is None):
        front = None  # the recursion of l2 balls says nothing here
    ascent = ProvedAscent(chain, front, ProvedRelaxation(chain, centres, norm), eps)
    going = trial.relative is not None and front is not None
    for k in range(len(chain.layers) - 1):
        going = ascent.climb(k, trial) if going else ascent.climb_by_lines(k)
    margins = ascent.lines.margins(torch.tensor([chosen]), ascent.below)
    found = [
        Certificate(float(v), float(s), LINES, eps) for v, s in zip(margins.lower[0], margins.slope[0], strict=True)
    ]
    for t, j in enumerate(range(len(found)) if places is None else places):
        found[j] = _better(ascent, trial, t, margins, j, found[j])
    return found


def proved_stretch(relative: Relative | None) -> Tensor | None:
    """Return roots h of the diagonal of P_0 with sum 1 / h^2 <= 1, ``[n]``; None for ones, in l2.

    Then d^T P_0^-1 d = sum d_j^2 / h_j^2 <= ||d||_inf^2. The sum of n floats and its n quotients err by less than 1e-9.
    """
    if relative is None or relative.stretch is None:
        return None
    h = relative.stretch[0].double()
    return h * ((1.0 / h.square()).sum().sqrt() * (1.0 + 1e-8))


def prove_bounds(chain: Chain, front: Front, centres: Centres, eps: float, trial: Trial) -> list[Bounds]:
    """Return proved bounds of the pre-activations of all hidden layers on an l2 ball, with a trial's multipliers."""
    ascent, going = ProvedAscent(chain, front, ProvedRelaxation(chain, centres), eps), True
    for k in range(len(chain.layers) - 1):
        going = ascent.climb(k, trial) if going else ascent.climb_by_lines(k)
    return ascent.below


def _better(ascent: ProvedAscent, trial: Trial, t: int, margins: Margins, j: int, lines: Certificate) -> Certificate:
    """Return the certificate of margin j that the trial names for its margin t, where it is proved and better."""
    if trial.relative is None or not 0 <= (k := int(trial.method[0, t])) < len(ascent.stages):
        return lines
    rows, const = margins.kept[k]
    relative, scale = trial.relative.functionals[k][0, t], float(trial.functional_scales[k][0, t])
    s = ascent.move(k, rows[0, j], relative.double(), scale)
    found = Certificate(ascent.value(k, rows[0, j], float(const[0, j])), s, k, ascent.eps)
    return max(lines, found, key=lambda one: one.ratio)
