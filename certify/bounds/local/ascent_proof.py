r"""The walk up a chain on a ball around one centre, proved: bounds, slopes and ellipsoids of every layer.

*Bounds* of a layer are those of proved linear relaxation, intersected with z* -+ eps sqrt(M_jj), z* within the errors
of the centre. *Slopes* are centred, for a centre anywhere within its errors. Rows whose slope is surely 0 are dropped;
behind a first layer in factors also those whose slope is surely one number (`push_proof`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.local.centres import GROWN
from certify.bounds.local.factors_proof import Factor
from certify.bounds.local.functional_proof import functional_upper
from certify.bounds.local.functionals import Signs, signed_slopes
from certify.bounds.local.layers import Chain
from certify.bounds.local.lines import Bounds
from certify.bounds.local.lines_proof import ProvedRelaxation
from certify.bounds.local.push_proof import Before, Front, Passed, pass_first, push_upper
from certify.bounds.local.recursion import Slopes, relative_start, sizes
from certify.bounds.local.starts import Relative
from certify.bounds.local.trial import Trial
from certify.bounds.magnitudes import nextafter_up
from certify.rounding import SMALLEST, U64, add_up, gamma_up

MORE, MOST_ATTEMPTS = 1.02, 8  # multipliers that fail a proof are raised


@dataclass(frozen=True, eq=False)
class Moved:
    """What is proved of how far rows ``alive`` of a layer move: M_jj, and M ``[1, p, p]`` itself or a factor of it.

    Of a first layer in factors, only M_jj.
    """

    alive: Tensor
    diagonal: Tensor
    matrix: Tensor | None = None
    factor: Factor | None = None

    def choose(self, inside: Tensor) -> Moved:
        """Return some of the rows."""
        matrix = None if self.matrix is None else self.matrix[:, inside[:, None], inside]
        factor = None if self.factor is None else self.factor.choose(inside)
        return Moved(self.alive[inside], self.diagonal[inside], matrix, factor)


@dataclass(frozen=True, eq=False)
class Stage:
    """One hidden layer on the ball: how the rows that are kept move, and slopes and signs on them."""

    moved: Moved
    slopes: Slopes
    signs: Signs

    @property
    def alive(self) -> Tensor:
        """The rows that are kept."""
        return self.moved.alive


class ProvedAscent:
    """The walk up the chain, proved: bounds, and stages as far as the recursion went."""

    def __init__(self, chain: Chain, front: Front | None, lines: ProvedRelaxation, eps: float) -> None:
        self.chain, self.front, self.lines, self.eps = chain, front, lines, eps
        self.below: list[Bounds] = []
        self.stages: list[Stage] = []
        self.passed: Passed | None = None

    def climb_by_lines(self, k: int) -> bool:
        """Add layer k by linear relaxation alone."""
        self.below.append(self.lines.bounds(k, torch.tensor([self.eps], dtype=torch.float64), self.below))
        return False

    def climb(self, k: int, trial: Trial) -> bool:
        """Add layer k; return whether the recursion can go on."""
        self.climb_by_lines(k)
        moved = self._moved(k, trial)
        if moved is None or not bool(torch.isfinite(moved.diagonal).all()):
            return False
        lower, upper = self.below[k] = self._refine(k, moved) if k else self.below[0]
        kept = self._alive(k, lower, upper)
        moved = moved.choose(torch.isin(moved.alive, kept).nonzero().flatten())
        a, b = self._centred(k, lower, upper)
        low, high = self._ends(k)
        tangent, curved = self.chain.layers[k].local_slopes(low, high), self.chain.layers[k].curvature(lower, upper)
        signs = Signs(*(part[:, moved.alive] for part in (*tangent, *curved)))
        self.stages.append(Stage(moved, Slopes(a[:, moved.alive], b[:, moved.alive]), signs))
        return True

    def _moved(self, k: int, trial: Trial) -> Moved | None:
        """Return how the rows of layer k that matter move; of a second layer in factors, those that may bend."""
        lower, upper = self.below[k]
        alive, hidden = self._alive(k, lower, upper), len(self.chain.layers) - 1
        if self.front is None:
            return None
        if k == 0:
            whole = not self.front.in_factors or hidden == 1
            return Moved(alive, self.front.diagonal(alive), self.front.block(alive) if whole else None)
        if k > 1 or not self.front.in_factors:
            matrix = self._push(k, alive, trial)
            return None if matrix is None else Moved(alive, matrix[0].diagonal(), matrix)
        self.passed = self._pass_first(self.front, trial)
        if self.passed is None:
            return None
        a, b = self._centred(k, lower, upper)
        rows = alive if hidden == 2 else (a != b)[0].nonzero().flatten()
        factor = self.passed.rows_behind(self.chain.layers[1], rows)
        matrix = factor.gram_upper() if hidden == 2 else None
        return Moved(rows, factor.diagonal_upper(), matrix, None if hidden == 2 else factor)

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

    def _multipliers(self, k: int, trial: Trial) -> Tensor:
        """Return D of layer k on the rows with more than one slope."""
        stage = self.stages[k]
        rows = (stage.slopes.lower < stage.slopes.upper)[0]
        start = relative_start(stage.slopes.mid[0, rows], stage.slopes.half[0, rows], sizes(stage.moved.diagonal[rows]))
        return float(trial.scales[k][0]) * start * _one(trial.relative, k)[stage.alive][rows]

    def _pass_first(self, front: Front, trial: Trial) -> Passed | None:
        """Return the first activation in factors, or None where no multipliers pass the proof."""
        stage, D = self.stages[0], self._multipliers(0, trial)
        zeros = torch.zeros(self.chain.layers[0].rows, dtype=torch.float64)
        lower, upper = (zeros.index_copy(0, stage.alive, part[0]) for part in (stage.slopes.lower, stage.slopes.upper))
        for _ in range(MOST_ATTEMPTS):
            if (passed := pass_first(front, lower, upper, D)) is not None:
                return passed
            D = D * MORE
        return None

    def _push(self, k: int, alive: Tensor, trial: Trial) -> Tensor | None:
        """Return M of the rows ``alive`` of layer k, or None where no multipliers pass the proof."""
        stage, D, layer = self.stages[k - 1], self._multipliers(k - 1, trial), self.chain.layers[k]
        W, matrix, beside = layer.matrix[alive][:, stage.alive], stage.moved.matrix, 0
        if stage.moved.factor is not None:
            matrix = self._with_functionals(stage.moved.factor, layer.matrix[alive], stage.alive)
            beside = matrix.shape[1] - len(stage.alive)
            W = torch.cat([W, torch.eye(len(alive), beside, dtype=torch.float64)], 1)
        if matrix is None:
            raise ValueError(f"expected the matrix of layer {k - 1}")
        ones = torch.ones(beside, dtype=torch.float64)
        lower, upper = (torch.cat([part[0], ones]) for part in (stage.slopes.lower, stage.slopes.upper))
        for _ in range(MOST_ATTEMPTS):
            if (M := push_upper(Before(matrix, lower, upper, D), W, layer.error)) is not None:
                return M
            D = D * MORE
        return None

    def _with_functionals(self, factor: Factor, W: Tensor, kept: Tensor) -> Tensor:
        """Return M of the rows kept of the second layer, and of what the others, of one slope, give to rows W."""
        layer = self.chain.layers[1]
        order = layer.order(kept)
        a, b = self._centred(1, *self.below[1])
        T = torch.where(a == b, W * a, torch.nan).index_fill(1, kept, 0.0)
        if self.passed is None or not bool((T != 0.0).any()):
            return factor.gram_upper(order)
        theta = add_up(self.chain.layers[2].error, 2.0 * U64)
        both = factor.above(self.passed.functionals_behind(layer, T, theta))
        behind = torch.arange(len(kept), len(kept) + len(W))
        return both.gram_upper(None if order is None else torch.cat([order, behind]))

    def _refine(self, k: int, moved: Moved) -> Bounds:
        """Return the bounds intersected with those of the ellipsoid."""
        low, high = self._ends(k)
        reach, alive = nextafter_up(nextafter_up(moved.diagonal.sqrt()) * self.eps), moved.alive
        lower, upper = (part.clone() for part in self.below[k])
        lower[0, alive] = torch.maximum(lower[0, alive], -nextafter_up(reach - low[0, alive]))
        upper[0, alive] = torch.minimum(upper[0, alive], nextafter_up(high[0, alive] + reach))
        return lower, upper

    def move(self, k: int, row: Tensor, relative: Tensor, scale: float) -> float:
        """Return s with row . (y_k - y*_k) >= -s ||x - x*||; infinity where nothing is proved."""
        stage = self.stages[k]
        c = row[stage.alive]
        slopes = signed_slopes(c[None, None], stage.slopes, stage.signs)
        if stage.moved.matrix is None:
            return math.inf
        lower, upper = slopes.lower[0, 0], slopes.upper[0, 0]
        return functional_upper(stage.moved.matrix, c, lower, upper, relative[stage.alive], scale)

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
