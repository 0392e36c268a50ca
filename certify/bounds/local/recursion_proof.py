r"""The proof of a trial: one evaluation in float64 with every rounding error carried upward.

Given the radius, and the relative multipliers and scales that the search found, the recursion is walked once more with
the proved steps of `certify.bounds.covariance`: every stored matrix M dominates dz dz^T / ||x - x*||^2 on the ball.
Whatever the multipliers are, what comes out holds; a step whose matrix K is not proved positive definite is tried again
with larger ones, and otherwise the recursion gives up and linear relaxation stands alone.

*Bounds* of a layer are those of proved linear relaxation, intersected with z* -+ eps sqrt(M_jj), z* within the errors
of the centre. *Slopes* are centred, for a centre anywhere within its errors. Rows whose slope is surely 0 are dropped.

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

from certify.bounds.covariance.rounded import linear_upper
from certify.bounds.local.centres import GROWN, Centres
from certify.bounds.local.functional_proof import functional_upper
from certify.bounds.local.functionals import Signs, signed_slopes
from certify.bounds.local.layers import Chain, Layer
from certify.bounds.local.lines import Bounds
from certify.bounds.local.lines_proof import Margins, ProvedRelaxation
from certify.bounds.local.push_proof import Before, Front, push_upper
from certify.bounds.local.recursion import Slopes, relative_start, sizes
from certify.bounds.local.starts import Relative
from certify.bounds.local.trial import LINES, Trial
from certify.bounds.magnitudes import nextafter_up
from certify.results import Norm
from certify.rounding import SMALLEST, div_down, gamma_up

MORE, MOST_ATTEMPTS = 1.02, 8  # multipliers that fail a proof are raised
LEAST_FACTORED = 512  # rows of a first layer from which on it is treated in factors


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


@dataclass(frozen=True, eq=False)
class Stage:
    """One hidden layer on the ball: the rows kept, and M ``[1, p, p]``, slopes and signs on them."""

    alive: Tensor
    matrix: Tensor
    slopes: Slopes
    signs: Signs


def first_matrix(layer: Layer, stretch: Tensor | None = None) -> Tensor:
    """Return a stored M ``[1, m, m]`` that dominates W_1 P_0 W_1^T.

    Args:
        layer: The first layer.
        stretch: Roots of the diagonal of P_0, ``[n]``; None for ones.
    """
    ones = torch.ones(layer.columns, dtype=torch.float64)
    P = torch.diag(ones if stretch is None else nextafter_up(stretch * stretch))
    return linear_upper(P[None], layer.matrix[None], weight_errors(layer))


def weight_errors(layer: Layer) -> Tensor | None:
    """Return how far the entries of a layer's matrix may be off, None where it is exact."""
    return None if layer.error == 0.0 else nextafter_up(layer.matrix.abs() * layer.error)


def prove_trial(
    chain: Chain,
    first: Tensor | None,
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
        first: `first_matrix`, for trials of the recursion.
        centres: One centre, with its errors.
        chosen: The class.
        eps: The radius.
        trial: What was found there, of a batch of one.
        norm: Of the ball.
        places: Which margins the trial is about, in its order; by default all.
    """
    stretch = proved_stretch(trial.relative)
    if norm == "linf" and stretch is None:
        first = None  # the recursion of l2 balls says nothing here
    ascent = _Ascent(chain, first, ProvedRelaxation(chain, centres, norm), eps, stretch)
    going = trial.relative is not None and first is not None
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


def prove_bounds(chain: Chain, first: Tensor, centres: Centres, eps: float, trial: Trial) -> list[Bounds]:
    """Return proved bounds of the pre-activations of all hidden layers on an l2 ball, with a trial's multipliers."""
    ascent, going = _Ascent(chain, first, ProvedRelaxation(chain, centres), eps, None), True
    for k in range(len(chain.layers) - 1):
        going = ascent.climb(k, trial) if going else ascent.climb_by_lines(k)
    return ascent.below


def _better(ascent: _Ascent, trial: Trial, t: int, margins: Margins, j: int, lines: Certificate) -> Certificate:
    """Return the certificate of margin j that the trial names for its margin t, where it is proved and better."""
    if trial.relative is None or not 0 <= (k := int(trial.method[0, t])) < len(ascent.stages):
        return lines
    rows, const = margins.kept[k]
    relative, scale = trial.relative.functionals[k][0, t], float(trial.functional_scales[k][0, t])
    s = ascent.move(k, rows[0, j], relative.double(), scale)
    found = Certificate(ascent.value(k, rows[0, j], float(const[0, j])), s, k, ascent.eps)
    return max(lines, found, key=lambda one: one.ratio)


class _Ascent:
    """The walk up the chain, proved: bounds, and stages as far as the recursion went."""

    def __init__(
        self, chain: Chain, first: Tensor | None, lines: ProvedRelaxation, eps: float, stretch: Tensor | None
    ) -> None:
        self.chain, self.first, self.lines, self.eps = chain, first, lines, eps
        self.front = Front(chain.layers[0], stretch, lines.patches)
        self.below: list[Bounds] = []
        self.stages: list[Stage] = []

    def climb_by_lines(self, k: int) -> bool:
        """Add layer k by linear relaxation alone."""
        self.below.append(self.lines.bounds(k, torch.tensor([self.eps], dtype=torch.float64), self.below))
        return False

    def climb(self, k: int, trial: Trial) -> bool:
        """Add layer k; return whether the recursion can go on."""
        self.climb_by_lines(k)
        lower, upper = self.below[k]
        alive = self._alive(k, lower, upper)
        if k == 0:
            matrix = None if self.first is None else self.first[:, alive[:, None], alive]
        else:
            matrix = self._push(k, alive, _one(trial.relative, k - 1), float(trial.scales[k - 1][0]))
        if matrix is None or not bool(torch.isfinite(matrix).all()):
            return False
        lower, upper = self._refine(k, lower, upper, alive, matrix)
        self.below[k] = (lower, upper)
        kept = self._alive(k, lower, upper)
        inside = torch.isin(alive, kept).nonzero().flatten()
        a, b = self._centred(k, lower, upper)
        low, high = self._ends(k)
        tangent, curved = self.chain.layers[k].local_slopes(low, high), self.chain.layers[k].curvature(lower, upper)
        signs = Signs(*(part[:, kept] for part in (*tangent, *curved)))
        matrix = matrix[:, inside[:, None], inside]
        self.stages.append(Stage(kept, matrix, Slopes(a[:, kept], b[:, kept]), signs))
        return True

    def _ends(self, k: int) -> Bounds:
        """Return the least and the largest the centre's row can be."""
        z, error = self.lines.centres.z[k], self.lines.centres.z_error[k]
        return -nextafter_up(error - z), nextafter_up(z + error)

    def _centred(self, k: int, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self._ends(k)
        lower, upper = torch.minimum(lower, low), torch.maximum(upper, high)
        return self.chain.layers[k].centred_slopes(low, high, lower, upper)

    def _alive(self, k: int, lower: Tensor, upper: Tensor) -> Tensor:
        """Return the rows whose slope is not surely 0."""
        a, b = self._centred(k, lower, upper)
        return ((a != 0.0) | (b != 0.0))[0].nonzero().flatten()

    def _push(self, k: int, alive: Tensor, relative: Tensor, scale: float) -> Tensor | None:
        """Return M of the rows ``alive`` of layer k, or None where no multipliers pass the proof."""
        stage = self.stages[k - 1]
        lower, upper = stage.slopes.lower[0], stage.slopes.upper[0]
        rows = lower < upper
        size = sizes(stage.matrix[0].diagonal()[rows])
        start = relative_start(stage.slopes.mid[0, rows], stage.slopes.half[0, rows], size)
        D = scale * start * relative[stage.alive][rows]
        front = self.front if k == 1 and self.chain.layers[0].rows >= LEAST_FACTORED else None
        for _ in range(MOST_ATTEMPTS):
            before = Before(stage.alive, stage.matrix, lower, upper, D)
            if (M := push_upper(before, self.chain.layers[k], alive, front)) is not None:
                return M
            D = D * MORE
        return None

    def _refine(self, k: int, lower: Tensor, upper: Tensor, alive: Tensor, matrix: Tensor) -> Bounds:
        """Return the bounds intersected with those of the ellipsoid."""
        low, high = self._ends(k)
        reach = nextafter_up(nextafter_up(matrix[0].diagonal().sqrt()) * self.eps)
        lower, upper = lower.clone(), upper.clone()
        lower[0, alive] = torch.maximum(lower[0, alive], -nextafter_up(reach - low[0, alive]))
        upper[0, alive] = torch.minimum(upper[0, alive], nextafter_up(high[0, alive] + reach))
        return lower, upper

    def move(self, k: int, row: Tensor, relative: Tensor, scale: float) -> float:
        """Return s with row . (y_k - y*_k) >= -s ||x - x*||; infinity where nothing is proved."""
        stage = self.stages[k]
        c = row[stage.alive]
        slopes = signed_slopes(c[None, None], stage.slopes, stage.signs)
        return functional_upper(stage.matrix, c, slopes.lower[0, 0], slopes.upper[0, 0], relative[stage.alive], scale)

    def value(self, k: int, row: Tensor, const: float) -> float:
        """Return at most row . y*_k + const."""
        h, error = self.lines.centres.h[k][0], self.lines.centres.h_error[k][0]
        v = float((row * h).sum()) + const
        sizes = float((row.abs() * h.abs()).sum()) + abs(const)
        lost = float((row.abs() * (error + SMALLEST)).sum()) + gamma_up(len(h) + 4) * sizes + len(h) * SMALLEST
        return math.nextafter(v - GROWN * lost, -math.inf)


def _one(relative: Relative | None, k: int) -> Tensor:
    if relative is None:
        raise ValueError("expected a trial of the recursion, got one of linear relaxation")
    return relative.layers[k][0].double()
