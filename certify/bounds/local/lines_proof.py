r"""Linear relaxation with every rounding error counted: proved bounds of every layer, proved margins.

Same method as `lines`, in float64. *Statement.* Let x* be the real centre, y_k(x) the activations of the real network.
For every x with ||x - x*|| <= eps: `bounds` gives l <= z_k(x) <= u, and `margins` gives numbers with

    z_chosen(x) - z_j(x)  >=  v_j - s_j ||x - x*||.

*Proof.* Along the way back the stored rows A, constants c and losses E >= 0 keep the invariant

    g(x)  >=  A . y_k(x) + c - E        for all x of the ball, in real numbers,

for the functional g that was asked for. u = 2^-53; a row has m entries; Z bounds |z_k| and Y bounds |y_k| on the ball
(Z = max(|l|, |u|); Y from the two lines). Four steps, each adding to E at least what it loses:

1. *Lines.* As real functions the float lines are valid on [l, u] (`activations`), so A.y >= A'.z + A^+.lo' + A^-.up'
   with A'_j = A_j lo_j or A_j up_j. Stored is fl(A'_j), one product: u |A'_j| Z_j. The offsets are an inner product
   added to c: gamma_{m+2} (A^+.|lo'| + |A^-|.|up'|) + u |c|.
2. *Layer.* A.z = A W* . y + A.b*. Stored is fl(A W): entry j is off by at most (gamma_n + theta) (|A| |W|)_j, n terms,
   theta the relative error of W itself; times Y_j, summed: (gamma_n + theta) |A| . (|W| Y), a vector per layer. The
   bias: gamma_{m+2} |A|.|b| + |A|.theta_b + u |c|.
3. *Centre.* A.z_0(x*) is fl(A.z_0) up to gamma_{m+2} |A|.|z_0| and |A|.e_0, e_0 the error of z_0 (`centres`).
4. *Ball.* A.(z_0(x) - z_0(x*)) >= -||A W_0*||* ||x - x*||, and ||A W_0*||* <= ||fl(A W_0)||* + (gamma_n + theta) |A|.r
   with r_i at least the dual norm of row i of W_0*, since || |A| |W_0| ||* <= sum_i |A_i| ||row i||*.

Margins start as the exact rows e_chosen - e_j on the last layer; bounds of layer k as +-W_k, which lose theta |W_k| Y
and theta_b against +-W*_k. In the end v is c + fl(A.z_0) - E rounded down, s rounded up. []

Losses are sums of products of non-negative floats with fewer than 2^30 roundings: a factor 1 + 2^-20 covers their own
computation. What underflows in a product is below 2^-1074 and meets factors of at most 1, Y or Z: `_underflow`.
By patches (a convolution on the first, convolutional layer) steps 1 to 4 are one: with a_j the larger slope of neuron j
in size, o_j the larger offset, the losses are |W| applied to vectors: gamma (a |z_0| + o) + a e_0 + theta Y, and for
the norm (gamma + theta_0) |W| (a r).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from certify.bounds.local.centres import GROWN, Centres, centres_of
from certify.bounds.local.layers import Chain, Layer
from certify.bounds.local.lines import MOST_ENTRIES, Bounds, through_lines
from certify.bounds.local.patches import Patches, patches_of
from certify.bounds.local.piecewise import Lines
from certify.bounds.local.sides import bounds_by_sides
from certify.bounds.magnitudes import nextafter_up, row_l1_upper, row_l2_upper
from certify.results import Norm
from certify.rounding import SMALLEST, U64, gamma_up


@dataclass(frozen=True, eq=False)
class Rows:
    """Functionals of one layer's outputs: g >= rows . y + const - loss on the ball; ``[B, r, m]``, twice ``[B, r]``."""

    rows: Tensor
    const: Tensor
    loss: Tensor


@dataclass(frozen=True, eq=False)
class Margins:
    """Proved margins: z_chosen - z_other >= lower - slope ||x - x*|| on the ball, for every class in ``others``.

    All ``[B, classes - 1]``. ``kept[k]``, for every layer k, are rows ``[B, o, m_k]`` and constants ``[B, o]`` with
    z_chosen - z_other >= rows . y_k + const on the ball, proved as well (y_k the real activations at the same x).
    """

    lower: Tensor
    slope: Tensor
    others: Tensor
    kept: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Step:
    """What carrying rows back over one layer needs: its lines, and the losses per unit of |row|."""

    lines: Lines
    Z: Tensor  # [B, m]
    offsets: Tensor  # [B, m], the larger offset in size


class ProvedRelaxation:
    """Linear relaxation around a batch of centres, proved; asked in the order of `lines.Relaxation`.

    Args:
        chain: The network.
        centres: Its float64 pre-activations at the centres, with their errors.
        norm: Of the ball.

    Example:
        A network without activations: z = 3 x_0 - 4 x_1 moves by at most 5 eps.

        >>> from certify.bounds.local.activations import IDENTITY
        >>> from certify.bounds.local.layers import Segment
        >>> W = torch.tensor([[3.0, -4.0]], dtype=torch.float64)
        >>> layer = Layer(2, torch.zeros(1), torch.zeros(1), 0.0, (Segment(0, 1, IDENTITY, "y"),), dense=W)
        >>> chain = Chain((layer,), (2,))
        >>> centres = centres_of(chain, torch.tensor([[1.0, 0.5]], dtype=torch.float64), rounded_input=False)
        >>> proved = ProvedRelaxation(chain, centres)
        >>> l, u = proved.bounds(0, torch.tensor([0.1], dtype=torch.float64), [])
        >>> 0.49999 < float(l) <= 0.5 and 1.5 <= float(u) < 1.50001
        True
    """

    def __init__(self, chain: Chain, centres: Centres, norm: Norm = "l2") -> None:
        self.chain, self.centres, self.norm = chain, centres, norm
        self.row_norms = chain.layers[0].row_norms(norm)
        windows = [layer.window for layer in chain.layers[:2]]
        self.patches = patches_of(*windows) if len(windows) == 2 else None
        self._steps: dict[int, tuple[Bounds, _Step]] = {}

    def bounds(self, k: int, eps: Tensor, below: Sequence[Bounds]) -> Bounds:
        """Return proved l <= z_k <= u on the balls of radius eps, float64 ``[B]``; each ``[B, m_k]``.

        Rows that are only carried through are bounded by |W| Y + |b| alone.

        Args:
            k: The layer.
            eps: The radii.
            below: Proved bounds of the layers before, on balls at least as large.
        """
        if k == 0:
            moved = nextafter_up(eps[:, None] * self.row_norms) + self.centres.z_error[0]
            return _widen(self.centres.z[0], nextafter_up(moved))
        if k == 1 and self.patches is not None:
            return self._bounds_by_patches(self.patches, eps, below)
        layer, widest = self.chain.layers[k], max(one.rows for one in self.chain.layers[:k]) * 2 * len(eps)
        lost, Y = self._start_loss(k, below), self.reach(k - 1, below)
        crude = GROWN * ((1.0 + layer.error) * layer.magnitude(Y) + layer.bias.abs() + layer.bias_error)
        crude = nextafter_up(crude + _underflow(layer, Y))
        low, high = -crude, crude.clone()

        def lower(signs: Tensor, rows: Tensor) -> Tensor:
            return self._one_sided(k, signs, rows, lost[:, rows], eps, below)

        for at in torch.split(layer.bent, MOST_ENTRIES // widest + 1):
            if layer.is_relu:
                low[:, at], high[:, at] = bounds_by_sides(self.centres.z[k], at, crude, lower)
            else:
                ones = torch.ones_like(self.centres.z[k][:, at])
                low[:, at], high[:, at] = lower(ones, at), -lower(-ones, at)
        return low, high

    def margins(self, chosen: Tensor, below: Sequence[Bounds]) -> Margins:
        """Return proved margins of the chosen class ``[B]`` over every other one.

        Args:
            chosen: The classes.
            below: Proved bounds of the layers 0 to L - 2; the ball matters through them only.
        """
        last, classes = len(self.chain.layers) - 1, self.chain.outputs
        others = torch.tensor([[j for j in range(classes) if j != c] for c in chosen.tolist()])
        units = torch.eye(classes, dtype=torch.float64)
        zeros = torch.zeros(others.shape, dtype=torch.float64)
        kept: dict[int, tuple[Tensor, Tensor]] = {}
        v, s = self._carry(Rows(units[chosen][:, None] - units[others], zeros, zeros), last, below, kept)
        return Margins(v, s, others, kept)

    def reach(self, k: int, below: Sequence[Bounds]) -> Tensor:
        """Return Y, at least |y_k| on the ball, by its two lines; ``[B, m_k]``."""
        step = self._step(k, below)
        slopes = torch.maximum(step.lines.lower_slope.abs(), step.lines.upper_slope.abs())
        return GROWN * (slopes * step.Z + step.offsets) + SMALLEST

    def _step(self, k: int, below: Sequence[Bounds]) -> _Step:
        held = self._steps.get(k)
        if held is None or held[0][0] is not below[k][0] or held[0][1] is not below[k][1]:
            lines, (lower, upper) = self.chain.layers[k].relax(*below[k]), below[k]
            offsets = torch.maximum(lines.lower_offset.abs(), lines.upper_offset.abs())
            held = (below[k], _Step(lines, torch.maximum(lower.abs(), upper.abs()), offsets))
            self._steps[k] = held
        return held[1]

    def _start_loss(self, k: int, below: Sequence[Bounds]) -> Tensor:
        """Return what rows of W_k lose against those of the real W*_k; ``[B, m_k]``."""
        layer = self.chain.layers[k]
        return GROWN * (layer.error * layer.magnitude(self.reach(k - 1, below)) + layer.bias_error)

    def _one_sided(
        self, k: int, signs: Tensor, at: Tensor, lost: Tensor, eps: Tensor, below: Sequence[Bounds]
    ) -> Tensor:
        """Return lower bounds of the values of some rows, times signs 1 and -1."""
        layer = self.chain.layers[k]
        start = Rows(signs[..., None] * layer.matrix[at], signs * layer.bias[at], lost)
        return _lower(*self._carry(start, k - 1, below, {}), eps)

    def _carry(
        self, start: Rows, k: int, below: Sequence[Bounds], kept: dict[int, tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Return (v, s) of functionals of y_k."""
        now = start
        for i in range(k, -1, -1):
            kept[i] = (now.rows, _sub_down(now.const, now.loss))
            layer = self.chain.layers[i]
            if not layer.is_linear:
                now = _through_lines(now, self._step(i, below))
            if i > 0:
                now = _through_layer(now, layer, self.reach(i - 1, below))
        return self._at_centre(now), self._slope(now.rows)

    def _at_centre(self, now: Rows) -> Tensor:
        """Return at most c - E + A.z_0(x*) (step 3)."""
        z, e = self.centres.z[0], self.centres.z_error[0]
        gamma = gamma_up(z.shape[1] + 4.0)
        v = now.const + (now.rows @ z[..., None])[..., 0]
        lost = _against(now.rows, gamma * z.abs() + e) + _addition(v, now.const)
        return _sub_down(v, GROWN * (now.loss + lost) + z.shape[1] * SMALLEST)

    def _slope(self, rows: Tensor) -> Tensor:
        """Return at least ||A W_0*||* (step 4)."""
        first = self.chain.layers[0]
        norms = _norms_upper(first.backward(rows), self.norm)
        rounded = (gamma_up(first.terms + 4.0) + first.error) * (rows.abs() @ self.row_norms)
        return nextafter_up(norms + (GROWN * rounded + 4.0 * first.rows * first.columns * SMALLEST))

    def _bounds_by_patches(self, patches: Patches, eps: Tensor, below: Sequence[Bounds]) -> Bounds:
        """Return the bounds of the second layer (the module's last paragraph)."""
        first, layer = self.chain.layers[:2]
        step, z, e = self._step(0, below), self.centres.z[0], self.centres.z_error[0]
        steepest = torch.maximum(step.lines.lower_slope.abs(), step.lines.upper_slope.abs())
        gamma = gamma_up(layer.terms + 8.0)
        sizes = gamma * (steepest * z.abs() + step.offsets) + steepest * e + layer.error * self.reach(0, below)
        lost = layer.magnitude(sizes + 4.0 * SMALLEST) + gamma * layer.bias.abs() + layer.bias_error
        lost = GROWN * lost + 4.0 * _underflow(layer, z)
        per_row = gamma_up(patches.transfer.shape[0] + 8.0) + first.error
        rounded = GROWN * per_row * layer.magnitude(steepest * self.row_norms)
        rounded = rounded + 4.0 * first.rows * first.columns * SMALLEST

        def side(sign: float) -> Tensor:
            v, s = self._patch_rows(patches, step.lines, sign)
            return _lower(_sub_down(v, lost), nextafter_up(s + rounded), eps)

        return side(1.0), -side(-1.0)

    def _patch_rows(self, patches: Patches, lines: Lines, sign: float) -> tuple[Tensor, Tensor]:
        """Return the computed v and the norms of the stored rows of +-W_1, each ``[B, m_1]``."""
        W, z = sign * patches.second.weight.flatten(1), self.centres.z[0]
        positive, negative = W.clamp(min=0.0), W.clamp(max=0.0)
        low = patches.gather(lines.lower_slope * z + lines.lower_offset)
        high = patches.gather(lines.upper_slope * z + lines.upper_offset)
        b = sign * self.chain.layers[1].bias.reshape(len(W), -1)
        v = (low @ positive.mT + high @ negative.mT).mT + b
        lo, up = patches.gather(lines.lower_slope), patches.gather(lines.upper_slope)
        rows = patches.to_input(positive * lo[:, :, None] + negative * up[:, :, None])
        return v.flatten(1), _norms_upper(rows, self.norm).mT.flatten(1)


def prove_margins(
    chain: Chain, x: Tensor, chosen: Tensor, eps: Tensor, norm: Norm = "l2", *, rounded_input: bool = False
) -> Margins:
    """Return the margins of plain linear relaxation on balls around a batch of inputs, proved.

    The certified radius of an example is min(eps, the least lower / slope), where every lower is positive.

    Args:
        chain: The network.
        x: Inputs, float64 ``[B, *input_shape]``.
        chosen: The classes whose margins are wanted ``[B]``.
        eps: The radii, float64 ``[B]``.
        norm: Of the balls.
        rounded_input: Whether the real centres are only the nearest to these floats (8-bit pixels divided by 255).
    """
    found = ProvedRelaxation(chain, centres_of(chain, x, rounded_input=rounded_input), norm)
    below: list[Bounds] = []
    for k in range(len(chain.layers) - 1):
        below.append(found.bounds(k, eps, below))
    return found.margins(chosen, below)


def _through_lines(now: Rows, step: _Step) -> Rows:
    """Step 1."""
    rows, const = through_lines(now.rows, now.const, step.lines)
    gamma = gamma_up(rows.shape[2] + 4.0)
    lost = _against(now.rows, gamma * step.offsets) + _against(rows, U64 * step.Z) + _addition(const, now.const)
    underflow = SMALLEST * (step.Z.sum(1, keepdim=True) + 4.0 * rows.shape[2])
    return Rows(rows, const, GROWN * (now.loss + lost) + underflow)


def _through_layer(now: Rows, layer: Layer, Y: Tensor) -> Rows:
    """Step 2."""
    rows = layer.backward(now.rows)
    const = now.const + now.rows @ layer.bias
    weights = (gamma_up(layer.terms + 4.0) + layer.error) * layer.magnitude(Y)
    biases = gamma_up(layer.rows + 4.0) * layer.bias.abs() + layer.bias_error
    lost = _against(now.rows, weights + biases) + _addition(const, now.const)
    return Rows(rows, const, GROWN * (now.loss + lost) + _underflow(layer, Y))


def _against(rows: Tensor, sizes: Tensor) -> Tensor:
    """Return |A| . sizes for rows ``[B, r, m]`` and sizes ``[B, m]``, products that underflowed included."""
    return (rows.abs() @ (sizes + SMALLEST)[..., None])[..., 0]


def _addition(after: Tensor, before: Tensor) -> Tensor:
    """Return what one or two additions to a constant round."""
    return 2.0 * U64 * (after.abs() + before.abs())


def _underflow(layer: Layer, Y: Tensor) -> Tensor:
    """Return at least what underflows in the products of one layer, times what it meets; ``[B, 1]``."""
    return 4.0 * SMALLEST * layer.rows * (Y.abs().sum(1, keepdim=True) + layer.columns + 1.0)


def _norms_upper(rows: Tensor, norm: Norm) -> Tensor:
    """Return at least the dual norms of the rows of ``[..., n]``."""
    measure = row_l2_upper if norm == "l2" else row_l1_upper
    return measure(rows.reshape(-1, rows.shape[-1])).reshape(rows.shape[:-1])


def _lower(v: Tensor, s: Tensor, eps: Tensor) -> Tensor:
    """Return at most v - s eps."""
    return _sub_down(v, nextafter_up(eps[:, None] * s))


def _widen(z: Tensor, by: Tensor) -> Bounds:
    return _sub_down(z, by), nextafter_up(z + by)


def _sub_down(a: Tensor, b: Tensor) -> Tensor:
    return torch.nextafter(a - b, torch.full_like(a, -math.inf))
