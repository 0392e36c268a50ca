r"""Proved steps of the local recursion, with as few large products as possible; the primitives are in `factors_proof`.

From a stored M >= dz dz^T / s^2 and secant slopes in [B - C, B + C], rows W of the next layer need a stored

    M'  >=  V M V^T + (V M_:U) K^-1 (V M_:U)^T + W C D C W^T,     V = W B,     K = D - M_UU > 0,                (1)

the recursion's (1) between W and W^T. Only the rows that are wanted are multiplied out.

*A first layer in factors*, M = J J^T with J = W_1 diag(h): all three terms are sums of squares, so the next layer gets
a factor. With A = V J,

- *input form*: G = I - J_U^T D^-1 J_U > 0 and the first two terms are A G^-1 A^T. G is stored as G' <= G: its rounding,
  at most (gamma_{q+8} + theta) |J|^T D^-1 |J| entry by entry, is taken off the diagonal by row sums;
- *row form*: A A^T + (A J_U^T) K^-1 (A J_U^T)^T, so that the large M is only read on U.

*Rows that do not bend.* Rows of the second layer whose slope is one number c_j need no row of a matrix of their own:
what the third layer's rows W_3 get through them is W_3 c z = (W_3 c W_2) y, functionals on the first layer's outputs.
These stand beside the bent rows as further rows, which the second activation leaves alone (slope 1).

theta collects the relative errors of the weights; functionals G* differ from the stored G by at most ``error`` |G|_+,
|G|_+ >= |G| being that of the absolute values they were made of (G itself for rows of weights). An entry of A errs by
at most (gamma_{m+8} + theta + error) |G|_+ B |J|, so its row by that times sum_i |G|_+ B_i ||J_i||.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from certify.bounds.covariance.domination import SLACK, add_to_diagonal, finite, rounding_terms, symmetrise
from certify.bounds.covariance.elimination import Slopes, slack_lower
from certify.bounds.covariance.rounded import linear_upper
from certify.bounds.local.ellipsoids import Factored
from certify.bounds.local.factors_proof import Factor, Root, root_of, spread_factor
from certify.bounds.local.layers import Layer
from certify.bounds.local.patches import Patches
from certify.bounds.local.recursion import prefers_inputs
from certify.bounds.magnitudes import l2_upper, nextafter_up, row_l2_upper
from certify.rounding import SMALLEST, U64, add_up, gamma_up, mul_up

LEAST_FACTORED = 512  # rows of a first layer from which on it is treated in factors


@dataclass(frozen=True, eq=False)
class Front:
    """A first layer: M = J J^T, J = W_1 diag(stretch) (None: ones); ``patches`` are of the first two layers.

    Large ones are kept ``in_factors``: then M is only made between rows that are asked for.
    """

    layer: Layer
    stretch: Tensor | None = None
    patches: Patches | None = None

    @property
    def in_factors(self) -> bool:
        """Whether M is not to be made as a whole."""
        return self.layer.rows >= LEAST_FACTORED

    @cached_property
    def matrix(self) -> Tensor:
        """A stored M ``[1, m, m]`` that dominates W_1 P_0 W_1^T."""
        ones = torch.ones(self.layer.columns, dtype=torch.float64)
        P = torch.diag(ones if self.stretch is None else nextafter_up(self.stretch * self.stretch))
        error = nextafter_up(self.layer.matrix.abs() * self.layer.error) if self.layer.error else None
        return linear_upper(P[None], self.layer.matrix[None], error)

    def diagonal(self, rows: Tensor) -> Tensor:
        """Return at least M_jj of some rows."""
        if self.in_factors:
            return nextafter_up(self.row_norms[rows].square())
        return self.matrix[0].diagonal()[rows]

    def block(self, rows: Tensor) -> Tensor:
        """Return a stored matrix ``[1, q, q]`` that dominates M between some rows."""
        if not self.in_factors:
            return self.matrix[:, rows[:, None], rows]
        J = self.layer.matrix[rows]
        J = J if self.stretch is None else J * self.stretch
        stray = SLACK * self.theta * row_l2_upper(J) + SMALLEST * J.shape[1]
        return Factor(J, stray, J.shape[1]).gram_upper(self.layer.order(rows))

    @property
    def factored(self) -> Factored:
        """The same as a float ellipsoid."""
        stretch = None if self.stretch is None else self.stretch[None]
        return Factored(self.layer, torch.float64, stretch, None, self.patches)

    @cached_property
    def row_norms(self) -> Tensor:
        """At least ||J_i||_2 for the real rows, ``[m]``."""
        if self.stretch is None:
            return self.layer.row_norms("l2")
        norms = row_l2_upper(self.layer.matrix * self.stretch)
        return SLACK * (1.0 + self.layer.error) * norms + SMALLEST

    @property
    def theta(self) -> float:
        """The relative error of an entry of J, with the rounding of the product by ``stretch``."""
        return add_up(self.layer.error, 4.0 * U64)


@dataclass(frozen=True, eq=False)
class Before:
    """The layer that is left: M ``[1, p, p]`` and slopes ``[p]`` of its rows, D on those of more than one slope."""

    matrix: Tensor
    lower: Tensor
    upper: Tensor
    D: Tensor

    @property
    def rows(self) -> Tensor:
        """U."""
        return (self.lower < self.upper).nonzero().flatten()


def push_upper(before: Before, W: Tensor, theta: float) -> Tensor | None:
    """Return a stored M' ``[1, r, r]`` of rows behind the layer that is left; None where K > 0 is not proved.

    Args:
        before: The layer that is left.
        W: The rows, on those of ``before``, ``[r, p]``.
        theta: Their relative error.
    """
    slopes, rows = Slopes.between(before.lower, before.upper), before.rows
    V = (W * slopes.centre)[None]
    errors = nextafter_up((V.abs() + SMALLEST) * add_up(theta, 2.0 * U64))
    moved = linear_upper(before.matrix, V, errors)
    if not len(rows):
        return finite(moved)
    if not bool((before.D > 0.0).all()) or (root := root_of(slack_lower(before.matrix, rows, before.D))) is None:
        return None
    N = V[0] @ before.matrix[0, :, rows]
    coefficient = SLACK * add_up(gamma_up(W.shape[1] + 8), theta)
    reach = row_l2_upper(V[0].abs() @ before.matrix[0, :, rows].abs())
    spread = spread_upper(slopes.radius[rows], before.D)
    kept = spread_factor(W[:, rows], spread, theta * row_l2_upper(W[:, rows] * spread))
    rest = root.solve(N, reach * coefficient + W.shape[1] * SMALLEST)
    found = moved + kept.beside(rest).gram_upper()
    return finite(add_to_diagonal(found, rounding_terms(found)))


def spread_upper(radius: Tensor, D: Tensor) -> Tensor:
    """Return at least C D^(1/2)."""
    return nextafter_up(radius * nextafter_up(D.sqrt()))


@dataclass(frozen=True, eq=False)
class Passed:
    """An activation behind a first layer in factors: B on all its rows, U, C D^(1/2) on U, and the root of G or K."""

    front: Front
    centre: Tensor
    rows: Tensor
    spread: Tensor
    root: Root | None
    inputs: bool

    def rows_behind(self, layer: Layer, chosen: Tensor) -> Factor:
        """Return a factor of rows of the next layer."""
        reach = layer.magnitude(self.centre.abs() * self.front.row_norms)[chosen]
        if self.front.patches is None:
            G = layer.matrix[chosen]
            A = self.front.factored.image((G * self.centre)[None])[0]
        else:
            kernels, places = self.front.patches.entries(chosen)
            every = torch.cat([self.centre, torch.zeros(1, dtype=torch.float64)])
            G = kernels.new_zeros(len(chosen), len(every)).scatter_(1, places, kernels)[:, :-1]
            A = self.front.factored.patch_image(kernels * every[places], chosen)[0]
        return self._factor(G[:, self.rows], A, G[:, self.rows], reach, layer.error)

    def functionals_behind(self, layer: Layer, T: Tensor, theta: float) -> Factor:
        """Return a factor of functionals T ``[r, m]`` on the next layer's rows, of which an entry errs by theta |T|."""
        G, absolute = layer.backward(T), layer.backward_magnitude(T.abs())
        error = SLACK * add_up(gamma_up(layer.terms + 8), theta, layer.error)
        reach = absolute @ (self.centre.abs() * self.front.row_norms) + len(self.centre) * SMALLEST
        A = self.front.factored.image((G * self.centre)[None])[0]
        return self._factor(G[:, self.rows], A, absolute[:, self.rows], SLACK * reach, error)

    def _factor(self, G: Tensor, A: Tensor, absolute: Tensor, reach: Tensor, error: float) -> Factor:
        """Return the factor of functionals G ``[r, q]`` on U with A = G B J ``[r, d]``."""
        front = self.front
        gamma = SLACK * add_up(gamma_up(front.layer.rows + 8), front.theta, error)
        stray = SLACK * reach * gamma + front.layer.rows * SMALLEST
        if self.root is None:
            return Factor(A, stray)
        kept = spread_factor(G, self.spread, error * row_l2_upper(absolute * self.spread))
        if self.inputs:
            return kept.beside(self.root.solve(A, stray))
        N = front.factored.crossing(A[None], self.rows[None])[0]
        size = l2_upper(front.row_norms[self.rows])
        gamma = SLACK * add_up(gamma_up(front.layer.columns + 8), front.theta)
        strays = SLACK * size * (stray + (row_l2_upper(A) + stray) * gamma) + front.layer.columns * SMALLEST
        return kept.beside(Factor(A, stray, A.shape[1])).beside(self.root.solve(N, strays))


def pass_first(front: Front, lower: Tensor, upper: Tensor, D: Tensor) -> Passed | None:
    """Return the activation of a first layer in factors; None where K > 0 is not proved.

    Args:
        front: The layer.
        lower: The least slopes ``[m]``; equal to the largest off U.
        upper: The largest slopes.
        D: On U.
    """
    slopes, rows = Slopes.between(lower, upper), (lower < upper).nonzero().flatten()
    if not len(rows):
        return Passed(front, slopes.centre, rows, D, None, inputs=True)
    if not bool((D > 0.0).all()):
        return None
    inputs = prefers_inputs(len(rows), front.layer.columns)
    root = root_of(_input_slack(front, rows, D) if inputs else _row_slack(front, rows, D))
    spread = spread_upper(slopes.radius[rows], D)
    return None if root is None else Passed(front, slopes.centre, rows, spread, root, inputs)


def _row_slack(front: Front, rows: Tensor, D: Tensor) -> Tensor:
    """Return a stored K <= D - M_UU, ``[1, q, q]``."""
    return slack_lower(front.block(rows), torch.arange(len(rows)), D)


def _input_slack(front: Front, rows: Tensor, D: Tensor) -> Tensor:
    """Return a stored G' <= I - J_U^T D^-1 J_U, ``[1, d, d]``."""
    g = torch.zeros(front.layer.rows, dtype=torch.float64).index_copy(0, rows, 1.0 / D)
    G = -symmetrise(front.factored.weighted(g[None]))
    h = torch.ones(front.layer.columns, dtype=torch.float64) if front.stretch is None else front.stretch
    sums = front.layer.backward_magnitude((g * front.layer.magnitude(h))[None])[0] * h
    gamma = add_up(gamma_up(len(rows) + 8), mul_up(2.0, front.theta), mul_up(front.theta, front.theta))
    G = add_to_diagonal(G, torch.ones_like(h), towards=-torch.inf)
    return add_to_diagonal(G, -(SLACK * SLACK * gamma * sums + len(g) * SMALLEST), towards=-torch.inf)
