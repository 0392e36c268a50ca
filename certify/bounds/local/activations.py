r"""The activations of a chain: values, slope ranges, lines, for rows of one kind at a time.

For rows z with bounds l <= z <= u (all tensors ``[..., rows]``, float64 for proofs, float32 for searches):

- `local_slopes`: [a, b] holds (f(s) - f(t)) / (s - t) for *any two* points of [l, u]: for local Lipschitz constants.
- `centred_slopes`: [a, b] holds that quotient when one of the points is the *centre*, a point known to lie in
  [low, high]: enough for certificates at the centre. Never wider than the local slopes.
- `relax`: a line below and a line above f on [l, u].
- `curvature`: where f is surely convex, or concave, on [l, u]. There the slope range of a tangent at the centre is
  `local_slopes(activation, low, high)`.

All are rounded outward in float64. The relu, whose rows are the most, has its own formulas; piecewise linear kinds are
treated by their knots (`piecewise`), the others through the range of their derivative (`smooth`). With l < 0 < u:

    centred:  c > 0: [c / (c - l), 1];   c <= 0: [0, u / (u - c)],        (monotone in c: its ends bound them)
    lines:    below: slope 1 if u > -l, else 0, through 0;   above: the chord, u (z - l) / (u - l).

For the upper line the float w next to u / (u - l) is *defined* as the slope; w z + o is above relu at both ends, hence
between them, when o >= max(-w l, (1 - w) u).

The linear relaxation of a relu: H. Zhang et al. (2018), arXiv 1811.00866 (CROWN).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from certify.bounds.local import piecewise, smooth
from certify.bounds.local.piecewise import Lines, Pieces
from certify.bounds.local.smooth import Smooth
from certify.graph.run import KERNELS


@dataclass(frozen=True, eq=False)
class Activation:
    """An activation: a kind of the vocabulary (or ``identity``), its attributes, and the slopes of `prelu` per row."""

    kind: str
    attributes: Mapping[str, object] = field(default_factory=dict)
    slopes: Tensor | None = None

    @cached_property
    def form(self) -> Pieces | Smooth:
        """The activation by its knots, or by its derivative."""
        found = piecewise.pieces_of(self.kind, self.attributes, self.slopes)
        return smooth.smooth_of(self.kind, self.attributes) if found is None else found


SELECTING = frozenset({"identity", "relu", "abs", "clamp"})  # kinds that return an input, its opposite or a constant
IDENTITY = Activation("identity")
RELU = Activation("relu")


def evaluate(activation: Activation, z: Tensor) -> Tensor:
    """Return the activation of rows z ``[..., rows]``, in their dtype.

    Example:
        >>> evaluate(RELU, torch.tensor([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """
    if activation.kind == IDENTITY.kind:
        return z
    if activation.slopes is not None:
        return torch.where(z > 0.0, z, z * activation.slopes.to(z.dtype))
    value: Tensor = KERNELS[activation.kind](z, **activation.attributes)
    return value


def evaluation_error(activation: Activation, z: Tensor, h: Tensor) -> Tensor:
    """Return at least what float64 h = `evaluate` (z) is off by, on the same z, entry by entry.

    Piecewise linear kinds: fewer than four roundings of numbers up to |z| + |h| + the knots. Others: what `smooth`
    takes a computed value to be off by; softplus also jumps, by at most exp(-threshold) / beta.
    """
    if activation.kind in SELECTING:
        return torch.zeros_like(h)
    form = activation.form
    if isinstance(form, Pieces):
        return 4.0 * torch.finfo(h.dtype).eps * (form.size(z) + h.abs())
    jump = 0.0
    if activation.kind == "softplus":
        beta, threshold = (float(str(activation.attributes[name])) for name in ("beta", "threshold"))
        jump = 1.01 * math.exp(-threshold) / beta
    return smooth.value_slack(form, z) + jump


def local_slopes(activation: Activation, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Return the range [a, b] of the slopes between any two points of [lower, upper].

    Example:
        >>> a, b = local_slopes(RELU, torch.tensor([-1.0, 0.5]), torch.tensor([2.0, 2.0]))
        >>> a.tolist(), b.tolist()
        ([0.0, 1.0], [1.0, 1.0])
    """
    form = activation.form
    return piecewise.local(form, lower, upper) if isinstance(form, Pieces) else smooth.local(form, lower, upper)


def centred_slopes(
    activation: Activation, low: Tensor, high: Tensor, lower: Tensor, upper: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the range [a, b] of the slopes between the centre, in [low, high], and any point of [lower, upper].

    Args:
        activation: The activation.
        low: At most the centre.
        high: At least the centre; equal to ``low`` where it is known exactly.
        lower: At most ``low``.
        upper: At least ``high``.

    Example:
        >>> z, lower, upper = torch.tensor([3.0, -1.0]), torch.tensor([-1.0, -2.0]), torch.tensor([7.0, 1.0])
        >>> a, b = centred_slopes(RELU, z, z, lower, upper)
        >>> [round(x, 5) for x in (*a.tolist(), *b.tolist())]
        [0.75, 0.0, 1.0, 0.5]
    """
    if activation.kind == RELU.kind:
        return _relu_centred(low, high, lower, upper)
    if activation.kind == IDENTITY.kind:
        return torch.ones_like(lower), torch.ones_like(lower)
    form = activation.form
    if isinstance(form, Pieces):
        return piecewise.centred(form, low, high, lower, upper)
    return smooth.centred(form, low, high, lower, upper)


def relax(activation: Activation, lower: Tensor, upper: Tensor) -> Lines:
    """Return a line below and one above the activation on [lower, upper].

    Example:
        >>> found = relax(RELU, torch.tensor([-1.0]), torch.tensor([3.0]))
        >>> float(found.lower_slope), float(found.upper_slope), 0.75 <= float(found.upper_offset) < 0.751
        (1.0, 0.75, True)
    """
    if activation.kind == RELU.kind:
        return _relu_lines(lower, upper)
    if activation.kind == IDENTITY.kind:
        one, zero = torch.ones_like(lower), torch.zeros_like(lower)
        return Lines(one, zero, one, zero)
    form = activation.form
    return piecewise.lines(form, lower, upper) if isinstance(form, Pieces) else smooth.lines(form, lower, upper)


def curvature(activation: Activation, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the activation is surely convex on [lower, upper], and where it is surely concave (booleans)."""
    form = activation.form
    return piecewise.curvature(form, lower, upper) if isinstance(form, Pieces) else smooth.curvature(form, lower, upper)


def _relu_centred(low: Tensor, high: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Return the secant slopes of relu; three roundings each, moved by eight units in the last place."""
    ulps = 4.0 * torch.finfo(lower.dtype).eps
    tiny = torch.finfo(lower.dtype).tiny
    a = (low / (low - lower).clamp(min=tiny)).clamp(max=1.0) * (1.0 - ulps)
    b = ((upper / (upper - high).clamp(min=tiny)) * (1.0 + ulps)).clamp(max=1.0)
    unstable = (lower < 0.0) & (upper > 0.0)
    on = (lower >= 0.0).to(lower.dtype)
    a = torch.where(unstable, torch.where(low > 0.0, a, 0.0), on)
    return a, torch.where(unstable, torch.where(high > 0.0, 1.0, b), on)


def _relu_lines(lower: Tensor, upper: Tensor) -> Lines:
    on, off = lower >= 0.0, upper <= 0.0
    between = ~(on | off)
    w = torch.where(between, upper / torch.where(between, upper - lower, 1.0), on.to(lower.dtype))
    up = torch.full_like(lower, math.inf)
    above = torch.nextafter(torch.maximum(-w * lower, torch.nextafter(1.0 - w, up) * upper), up)
    keeps = (upper > -lower) & ~off | on
    return Lines(keeps.to(lower.dtype), torch.zeros_like(lower), w, torch.where(between, above, 0.0))
