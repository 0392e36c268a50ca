r"""Smooth activations: ranges of their slopes and lines around them, from the range of the derivative on small pieces.

*Range of the derivative.* f' is monotone between its turning points, so its range on [l, u] is the hull of f'(l), f'(u)
and of its values at the turning points (and both limits at the jumps) inside. A turning point is only known to lie in
an interval, and its value is rounded outward; taking it in when that interval touches [l, u] can only widen the range.
The turning points and values are those of the module `slopes`, where the reasons stand; tests scan every derivative.

*Pieces.* Cut [l, u] at t_0 < ... < t_N, with f' in [a_i, b_i] on the i-th piece, of length h_i.

- Centred slopes q(t) = (f(t) - f(c)) / (t - c): for t on a piece at or beyond its near end t_i, seen from c,
  (t - c) q(t) = (t_i - c) q(t_i) + (t - t_i) m with m in [a_i, b_i]: a weighted mean of q(t_i) and m with weight
  on q(t_i) at least r = (t_i - c) / (t_{i+1} - c). So q(t) lies in the hull of q(t_i) and of
  r q(t_i) + (1 - r) [a_i, b_i]. The cuts are made on both sides of c, where q(c) is replaced by the first piece's
  own range, and the result is intersected with the range of f' on all of [l, u]. For a centre somewhere in
  [low, high], all pieces start at low or high, and q(t_i) is widened: moving c by e moves f(t_i) - f(c) by at most
  e max|f'|, and t_i - c by e.
- A line of slope w above f: g = f - w t has g' in [a_i - w, b_i - w], so on the piece
  g(t) <= min(g(t_i) + (b_i - w)^+ h_i, g(t_{i+1}) + (w - a_i)^+ h_i); the offset is the largest of these. Below: alike.

Rounding. Values of f are taken to be off by 2^-44 (1 + |t|) and those of f' by 2^-40 in float64 (2^-17 (1 + |t|) and
2^-14 in float32, where nothing is proved): the formulas use library functions that are off by a few units in the last
place, times factors of at most |t| where these do not already vanish; 2^-40 is thousands of units. Tests compare both
with 40 digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from certify.bounds.local.piecewise import Lines, best_lines

PIECES = 12
Function: TypeAlias = Callable[[Tensor], Tensor]
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


@dataclass(frozen=True)
class Turn:
    """Where f' turns or jumps, surely between ``low`` and ``high``, and the range of its values there."""

    low: float
    high: float
    least: float
    most: float


@dataclass(frozen=True, eq=False)
class Smooth:
    """A function with its derivative and the turning points of the derivative, in order.

    ``rises`` tells whether f' rises before the first turn; it changes at every turn. ``None``: f' is not monotone
    between turns in a way that is used (its jumps). ``size`` is at least 1 and what multiplies the rounding slacks.
    """

    value: Function
    derivative: Function
    turns: tuple[Turn, ...]
    rises: bool | None = None
    size: float = 1.0


def slope_slack(s: Smooth, x: Tensor) -> float:
    """Return what a computed derivative may be off by."""
    return s.size * (2.0**-40 if x.dtype == torch.float64 else 2.0**-14)


def value_slack(s: Smooth, t: Tensor) -> Tensor:
    """Return what a computed f(t) may be off by."""
    return (1.0 + t.abs()) * (s.size * (2.0**-44 if t.dtype == torch.float64 else 2.0**-17))


def local(s: Smooth, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Return the range of f' on [lower, upper], which holds the slope between any two points of it."""
    at_l, at_u = s.derivative(lower), s.derivative(upper)
    least, most = torch.minimum(at_l, at_u), torch.maximum(at_l, at_u)
    for turn in s.turns:
        inside = (lower <= turn.high) & (upper >= turn.low)
        least = torch.where(inside, least.clamp(max=turn.least), least)
        most = torch.where(inside, most.clamp(min=turn.most), most)
    return least - slope_slack(s, lower), most + slope_slack(s, lower)


def centred(s: Smooth, low: Tensor, high: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Return the range of the slopes between a centre, in [low, high], and other points of [lower, upper]."""
    whole = local(s, lower, upper)
    right = _one_side(s, low, high, torch.maximum(upper, high))
    left = _one_side(s, low, high, torch.minimum(lower, low))
    least = torch.maximum(torch.minimum(left[0], right[0]), whole[0])
    return least, torch.minimum(torch.maximum(left[1], right[1]), whole[1])


def _one_side(s: Smooth, low: Tensor, high: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Return the range of the slopes from the centre to points between it and ``end``, on one side."""
    ahead = end >= high
    start, back = torch.where(ahead, high, low), torch.where(ahead, low, high)
    cuts = _cuts(start, end)
    near, far = cuts[:-1], cuts[1:]
    reach = torch.where(ahead, far[0], back), torch.where(ahead, back, far[0])
    first = local(s, reach[1], reach[0])
    a, b = local(s, torch.minimum(near[1:], far[1:]), torch.maximum(near[1:], far[1:]))
    q_low, q_high = _secants(s, low, high, near[1:], first)
    r = ((near[1:] - start) / (far[1:] - start)).clamp(0.0, 1.0)
    r = torch.where(far[1:] == start, 0.0, r)
    least = torch.minimum(q_low, r * q_low + (1.0 - r) * a).amin(0) - slope_slack(s, end)
    most = torch.maximum(q_high, r * q_high + (1.0 - r) * b).amax(0) + slope_slack(s, end)
    return torch.minimum(least, first[0]), torch.maximum(most, first[1])


def _secants(s: Smooth, low: Tensor, high: Tensor, t: Tensor, other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the range of (f(t) - f(c)) / (t - c) over all centres c in [low, high]; ``other`` where t is one."""
    middle, e = (low + high) / 2, high - low
    rise, steepest = s.value(t) - s.value(middle), local(s, low, high)
    error = value_slack(s, t) + value_slack(s, middle) + e * torch.maximum(steepest[0].abs(), steepest[1].abs())
    ends = torch.stack([(rise + side * error) / (t - c) for side in (-1.0, 1.0) for c in (low, high)])
    apart = (t < low) | (t > high)
    return torch.where(apart, ends.amin(0), other[0]), torch.where(apart, ends.amax(0), other[1])


def _cuts(start: Tensor, end: Tensor) -> Tensor:
    """Return points from ``start`` to ``end``, both included, ``[PIECES + 1, ...]``."""
    share = torch.linspace(0.0, 1.0, PIECES + 1, dtype=start.dtype).reshape(-1, *[1] * start.dim())
    cuts = start + (end - start) * share
    cuts[-1] = end
    return cuts


def lines(s: Smooth, lower: Tensor, upper: Tensor) -> Lines:
    """Return a line below and one above the function on [lower, upper]."""
    t = _cuts(lower, upper)
    t = torch.maximum(torch.minimum(t, upper), lower)
    a, b = local(s, t[:-1], t[1:])
    values = s.value(t)
    h = t[1:] - t[:-1]

    def offsets(w: Tensor) -> tuple[Tensor, Tensor]:
        g = values - w * t
        pad = value_slack(s, t) * (2.0 + w.abs())
        g_low, g_high = g - pad, g + pad
        high = torch.minimum(g_high[:-1] + (b - w).clamp(min=0.0) * h, g_high[1:] + (w - a).clamp(min=0.0) * h)
        low = torch.maximum(g_low[:-1] + (a - w).clamp(max=0.0) * h, g_low[1:] - (b - w).clamp(min=0.0) * h)
        return low.amin(0), high.amax(0)

    chord = torch.where(upper > lower, (values[-1] - values[0]) / (upper - lower), s.derivative(lower))
    tried = [torch.where(chord.isfinite(), chord, 0.0), *(s.derivative(x) for x in (lower, upper, (lower + upper) / 2))]
    return best_lines(tried, offsets, lower, upper)


def curvature(s: Smooth, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the function is surely convex on [lower, upper], and where it is surely concave."""
    if s.rises is None:
        nowhere = torch.zeros_like(lower, dtype=torch.bool)
        return nowhere, nowhere
    rises, steady = torch.full_like(lower, s.rises, dtype=torch.bool), torch.ones_like(lower, dtype=torch.bool)
    for turn in s.turns:
        rises = rises ^ (lower > turn.high)
        steady = steady & ((lower > turn.high) | (upper < turn.low))
    return steady & rises, steady & ~rises


def smooth_of(kind: str, attributes: Mapping[str, object]) -> Smooth:
    """Return a smooth activation of the vocabulary.

    Raises:
        KeyError: If there is none of this kind.
    """
    if kind in _FIXED:
        return _FIXED[kind]
    return _MADE[kind](attributes)


def _number(attributes: Mapping[str, object], name: str) -> float:
    return float(str(attributes[name]))


def _at(point: float, least: float, most: float | None = None) -> Turn:
    return Turn(point - 1e-6, point + 1e-6, least, least if most is None else most)


def _silu_slope(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s + x * s * (1.0 - s)


def _mish_slope(x: Tensor) -> Tensor:
    t = torch.tanh(F.softplus(x))
    return t + x * (1.0 - t * t) * torch.sigmoid(x)


def _gelu_slope(x: Tensor) -> Tensor:
    below: Tensor = torch.special.ndtr(x)
    return below + x * torch.exp(-x * x / 2.0) / math.sqrt(2.0 * math.pi)


def _gelu_tanh_slope(x: Tensor) -> Tensor:
    x = x.clamp(-20.0, 20.0)  # beyond, the derivative is 0 or 1 to more digits than there are
    k, c = math.sqrt(2.0 / math.pi), 0.044715
    t = torch.tanh(k * (x + c * x**3))
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * k * (1.0 + 3.0 * c * x * x)


def _selu_slope(x: Tensor) -> Tensor:
    return SELU_SCALE * torch.where(x > 0.0, 1.0, SELU_ALPHA * torch.exp(x.clamp(max=0.0)))


def _hardswish_slope(x: Tensor) -> Tensor:
    return torch.where(x <= -3.0, 0.0, torch.where(x >= 3.0, 1.0, (2.0 * x + 3.0) / 6.0))


def _gelu(attributes: Mapping[str, object]) -> Smooth:
    if attributes["approximate"] == "tanh":
        turns = (_at(-1.4185040, -0.1289931), _at(1.4185040, 1.1289931))
        return Smooth(lambda x: F.gelu(x, approximate="tanh"), _gelu_tanh_slope, turns, rises=False)
    return Smooth(F.gelu, _gelu_slope, (_at(-math.sqrt(2.0), -0.1289042), _at(math.sqrt(2.0), 1.1289042)), rises=False)


def _softplus(attributes: Mapping[str, object]) -> Smooth:
    beta = _number(attributes, "beta")
    return Smooth(
        lambda x: torch.logaddexp(beta * x, torch.zeros_like(x)) / beta,
        lambda x: torch.sigmoid(beta * x),
        (),
        rises=True,
    )


def _elu(attributes: Mapping[str, object]) -> Smooth:
    alpha = _number(attributes, "alpha")
    jump = () if 0.0 <= alpha <= 1.0 else (Turn(0.0, 0.0, min(alpha, 1.0), max(alpha, 1.0)),)
    return Smooth(
        lambda x: F.elu(x, alpha),
        lambda x: torch.where(x > 0.0, 1.0, alpha * torch.exp(x.clamp(max=0.0))),
        jump,
        rises=None if jump else True,
        size=max(1.0, abs(alpha)),
    )


def _celu(attributes: Mapping[str, object]) -> Smooth:
    alpha = _number(attributes, "alpha")
    return Smooth(lambda x: F.celu(x, alpha), lambda x: torch.exp(x.clamp(max=0.0) / alpha), (), True, max(1.0, alpha))


SIXTH_UP = 0.16666666666666669
_WAVES = tuple(_at(k * math.pi, -1.0 if k % 2 else 1.0) for k in range(-8, 9))  # farther out, the whole range is taken
_MADE: Mapping[str, Callable[[Mapping[str, object]], Smooth]] = MappingProxyType(
    {"gelu": _gelu, "softplus": _softplus, "elu": _elu, "celu": _celu}
)
_FIXED: Mapping[str, Smooth] = MappingProxyType(
    {
        "tanh": Smooth(torch.tanh, lambda x: 1.0 - torch.tanh(x) ** 2, (_at(0.0, 1.0),), rises=True),
        "sigmoid": Smooth(torch.sigmoid, lambda x: torch.sigmoid(x) * torch.sigmoid(-x), (_at(0.0, 0.25),), rises=True),
        "softsign": Smooth(F.softsign, lambda x: (1.0 + x.abs()) ** -2, (_at(0.0, 1.0),), rises=True),
        "tanhshrink": Smooth(F.tanhshrink, lambda x: torch.tanh(x) ** 2, (_at(0.0, 0.0),), rises=False),
        "logsigmoid": Smooth(F.logsigmoid, lambda x: torch.sigmoid(-x), (), rises=False),
        "silu": Smooth(F.silu, _silu_slope, (_at(-2.3993572, -0.0998394), _at(2.3993572, 1.0998394)), rises=False),
        "mish": Smooth(F.mish, _mish_slope, (_at(-2.2563764, -0.1125262), _at(1.4905712, 1.0884982)), rises=False),
        "selu": Smooth(F.selu, _selu_slope, (Turn(0.0, 0.0, 1.0507009, 1.7580994),)),
        "hardswish": Smooth(F.hardswish, _hardswish_slope, (Turn(-3.0, -3.0, -0.5, 0.0), Turn(3.0, 3.0, 1.0, 1.5))),
        "hardsigmoid": Smooth(
            F.hardsigmoid,
            lambda x: SIXTH_UP * (x.abs() < 3.0).to(x.dtype),
            (Turn(-3.0, -3.0, 0.0, SIXTH_UP), Turn(3.0, 3.0, 0.0, SIXTH_UP)),
        ),
        "sin": Smooth(
            torch.sin,
            torch.cos,
            (Turn(-math.inf, -25.0, -1.0, 1.0), *_WAVES, Turn(25.0, math.inf, -1.0, 1.0)),
        ),
    }
)
