r"""The Lipschitz constant of a network on a ball around one example.

For any two points of the ball, dy = T dz with secant slopes T_jj in the range [a_j, b_j] that the activation takes on
the bounds l <= z <= u of its layer there (local slopes, not centred ones: both ends move). With these the network is a
plan of `certify.bounds.covariance` and everything there applies: multipliers are searched in floating point, and one
proved evaluation gives

    ||z(x) - z(x')||_2 <= L ||x - x'||_2,    ||z(x) - z(x')||_inf <= L ||x - x'||_inf    (each row with its own P_0)

for all x, x' of the ball. The bounds are those of linear relaxation, in l2 intersected with the ellipsoids of the
recursion around the centre (the plan: `plans`). In linf the *interval Jacobian*
competes: rows start as those of the last matrix, c +- r with r = 0, and going down a layer

    c <- c B W,        r <- (|c| C + r (|B| + C)) |W| + rounding,

so |row of any product W T W T ... W| <= |c| + r entry by entry, and its l1 norm bounds the row's constant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.bounds.covariance.effort import work
from certify.bounds.covariance.elimination import Slopes
from certify.bounds.covariance.optimise import optimise, polish
from certify.bounds.covariance.proof import Proved, prove
from certify.bounds.covariance.starts import closed_forms
from certify.bounds.covariance.steps import Linear, Multipliers, Plan
from certify.bounds.local.centres import GROWN, centres_of
from certify.bounds.local.certify import LocalNetwork
from certify.bounds.local.layers import Chain
from certify.bounds.local.lines import Bounds
from certify.bounds.local.lines_proof import ProvedRelaxation
from certify.bounds.local.plans import SlopesOnBall, plan_on_ball
from certify.bounds.magnitudes import nextafter_up, row_l1_upper
from certify.results import Effort, Norm
from certify.rounding import SMALLEST, gamma_up

MOST_ROWS = 2**12  # of a hidden layer, for the recursion
LITTLE_WORK = 1e8  # of a plan whose search to the end costs little: floating-point operations of one pass
ROWS = {"fast": 0, "default": 3, "max": 1000}  # searched alone in linf, from the largest on


@dataclass(frozen=True, eq=False)
class LocalConstants:
    """Proved constants on the ball of radius ``ball``: of all outputs together, of each, of differences of two.

    ``rows`` are ``[K]``, ``pairs`` ``[K, K]``: |dz_i - dz_j| <= pairs_ij ||dx||.
    """

    ball: float
    upper: float
    rows: Tensor
    pairs: Tensor
    method: str


def local_constants(
    chain: Chain, x: Tensor, ball: float, norm: Norm = "l2", effort: Effort = "default", *, everywhere: float = math.inf
) -> LocalConstants:
    """Return the constants of a network on a ball around one input.

    Args:
        chain: The network.
        x: The input, float64 ``[*input_shape]``; all inputs within ``ball`` of it count.
        ball: The radius, in the norm.
        norm: Of inputs and outputs.
        effort: "fast": closed forms; "default" and "max" search multipliers.
        everywhere: A constant over all inputs, if known.

    Example:
        >>> from certify.bounds.local.activations import IDENTITY
        >>> from certify.bounds.local.layers import Layer, Segment
        >>> W, zeros = torch.tensor([[3.0, -4.0], [0.0, 1.0]], dtype=torch.float64), torch.zeros(2).double()
        >>> layer = Layer(2, zeros, zeros, 0.0, (Segment(0, 2, IDENTITY, "y"),), dense=W)
        >>> 7.0 <= local_constants(Chain((layer,), (2,)), zeros, 0.1, "linf").upper < 7.0000001
        True
    """
    slopes = slopes_on_ball(chain, x, ball, norm)
    found = _Found(chain.outputs, norm, everywhere)
    if norm == "linf":
        found.offer_rows(interval_jacobian(chain, slopes), "interval Jacobian")
    if max((len(one.alive) for one in slopes), default=0) <= MOST_ROWS:
        plan = plan_on_ball(chain, slopes, norm)
        for multipliers in _tried(plan, norm, effort):
            found.offer(prove(plan, multipliers, with_growth=False))
        for _ in range(ROWS[effort] if norm == "linf" else 0):  # the largest row counts
            row = int(found.rows.argmax())
            if row in found.searched:
                break
            found.offer(prove(plan, optimise(plan, effort, row), with_growth=False))
            found.searched.add(row)
    return LocalConstants(ball, found.upper, found.rows, found.pairs, found.method)


def slopes_on_ball(chain: Chain, x: Tensor, ball: float, norm: Norm) -> list[SlopesOnBall]:
    """Return the slope ranges of all hidden layers between any two points of the ball."""
    found = []
    for layer, bounds in zip(chain.layers, _bounds(chain, x, ball, norm), strict=False):
        a, b = (part[0] for part in layer.local_slopes(*bounds))
        alive = ((a != 0.0) | (b != 0.0)).nonzero().flatten()
        found.append(SlopesOnBall(alive, a[alive], b[alive]))
    return found


def _bounds(chain: Chain, x: Tensor, ball: float, norm: Norm) -> list[Bounds]:
    """Return proved bounds of all hidden layers on the ball."""
    centres, network = centres_of(chain, x[None], rounded_input=False), LocalNetwork(chain, norm)
    if norm == "l2" and network.settings.trials:
        return network.bounds(centres, ball)
    lines = ProvedRelaxation(chain, centres, norm)
    below: list[Bounds] = []
    for k in range(len(chain.layers) - 1):
        below.append(lines.bounds(k, torch.tensor([ball], dtype=torch.float64), below))
    return below


def _tried(plan: Plan, norm: Norm, effort: Effort) -> list[Multipliers]:
    """Return multipliers worth proving: for the norm, in linf also for every row."""
    if effort == "fast":
        return list(closed_forms(plan))
    if norm == "l2":
        return [optimise(plan, "max" if work(plan) <= LITTLE_WORK else effort)]
    best = optimise(plan, effort)
    outputs = plan.steps[-1]
    count = outputs.matrix.shape[1] if isinstance(outputs, Linear) else 0
    return [best, *polish(plan, best, range(count)).values()]


class _Found:
    """The least proved constants so far."""

    def __init__(self, outputs: int, norm: Norm, everywhere: float) -> None:
        self.norm, self.method = norm, "global"
        self.rows = torch.full((outputs,), everywhere, dtype=torch.float64)
        self.pairs = torch.full((outputs, outputs), math.inf, dtype=torch.float64).fill_diagonal_(0.0)
        self.whole = everywhere
        self.searched: set[int] = set()

    def offer(self, proved: Proved | None) -> None:
        """Take in a proof of the plan."""
        if proved is None:
            return
        self.pairs = torch.minimum(self.pairs, proved.pair_uppers())
        self.offer_rows(proved.row_uppers(), "local recursion")
        if self.norm == "l2" and proved.upper() < self.whole:
            self.whole, self.method = proved.upper(), "local recursion"

    def offer_rows(self, rows: Tensor, method: str) -> None:
        """Take in constants of the rows."""
        before = self.upper
        self.rows = torch.minimum(self.rows, rows)
        if self.norm == "linf" and self.upper < before:
            self.method = method

    @property
    def upper(self) -> float:
        """The constant of all outputs: in linf the largest of a row."""
        return self.whole if self.norm == "l2" else min(self.whole, float(self.rows.max()))


def interval_jacobian(chain: Chain, slopes: Sequence[SlopesOnBall]) -> Tensor:
    """Return at least the l1 norm of every output's row of W T W T ... W for all slopes T in their ranges ``[K]``."""
    last = chain.layers[-1]
    c, r = last.matrix, last.matrix.abs() * last.error
    for layer, one in zip(reversed(chain.layers[:-1]), reversed(slopes), strict=True):
        ranges = Slopes.between(one.lower, one.upper)
        c, r = c[:, one.alive], r[:, one.alive]
        size = ranges.centre.abs() + ranges.radius
        W, scaled = layer.matrix[one.alive], c * ranges.centre
        lost = (gamma_up(len(one.alive) + 8.0) + layer.error) * (c.abs() * size + r * size)
        r = GROWN * ((c.abs() * ranges.radius + r * size + lost + SMALLEST) @ W.abs() + SMALLEST * len(W))
        c = scaled @ W
    return row_l1_upper(nextafter_up(c.abs() + r))
