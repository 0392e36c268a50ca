r"""Piecewise linear activations: slopes and lines from their knots, exactly, then rounded outward.

f has knots k_1 < ... < k_r and slopes s_0, ..., s_r around them. On an interval [l, u]:

- *local slopes* (between any two points): the slopes of the pieces [l, u] meets; a secant is a weighted mean of them.
- *centred slopes* q(t) = (f(t) - f(c)) / (t - c), t in [l, u]: on one piece f(t) = s t + o, so q(t) - s is a constant
  over t - c, monotone on either side of c. The extremes are at the ends of pieces, l, u and knots, and at the piece of
  c itself, where q is its slope. For a centre only known to lie in [c_1, c_2], in one piece, the same holds in c for
  fixed t, so the corners of every rectangle bound q; with a knot inside [c_1, c_2] the local slopes are taken.
- *lines*: for any slope w the smallest offset of a line above f is max over l, u and the knots between of f(t) - w t,
  since f(t) - w t is piecewise linear. Of the slopes tried (the chord's and every piece's) the one whose line is lowest
  at the midpoint is taken: that minimises the area between line and f.

Rounding. Numbers here are computed with fewer than 16 roundings of terms of the size that stands beside them; results
are moved outward by 32 units in the last place of that size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDINGS = 32.0


@dataclass(frozen=True, eq=False)
class Pieces:
    """A continuous piecewise linear function: ``knots`` in order, one more ``slopes``, and its value at every knot.

    A slope is a number, or a tensor with one number per row.
    """

    knots: tuple[float, ...]
    slopes: tuple[float | Tensor, ...]
    values: tuple[float, ...]

    def value(self, t: Tensor) -> Tensor:
        """Return f(t), computed with four roundings of numbers up to the largest slope times |t| + the largest knot."""
        found = self.values[0] + self.slopes[0] * (t - self.knots[0])
        for knot, slope, value in zip(self.knots, self.slopes[1:], self.values, strict=True):
            found = torch.where(t > knot, value + slope * (t - knot), found)
        return found

    def size(self, t: Tensor) -> Tensor:
        """Return a number that all terms of f(t) stay below, in size."""
        steepest = torch.stack([torch.as_tensor(slope, dtype=t.dtype).abs().amax() for slope in self.slopes]).amax()
        most = max(abs(number) for number in (*self.knots, *self.values))
        return (steepest + 1.0) * (t.abs() + most)


@dataclass(frozen=True, eq=False)
class Lines:
    """Two lines per row: lower slope z + lower offset <= phi(z) <= upper slope z + upper offset."""

    lower_slope: Tensor
    lower_offset: Tensor
    upper_slope: Tensor
    upper_offset: Tensor


def outward(amount: Tensor) -> Tensor:
    """Return 32 units in the last place of an amount."""
    return ROUNDINGS * torch.finfo(amount.dtype).eps * amount


def pieces_of(kind: str, attributes: Mapping[str, object], slopes: Tensor | None) -> Pieces | None:
    """Return a piecewise linear activation by its knots; None for any other."""
    if kind in _FIXED:
        return _FIXED[kind]
    if kind == "leaky_relu":
        return Pieces((0.0,), (_number(attributes, "negative_slope"), 1.0), (0.0,))
    if kind == "prelu":
        return Pieces((0.0,), (slopes if slopes is not None else 1.0, 1.0), (0.0,))
    if kind == "softshrink":
        t = _number(attributes, "threshold")
        return Pieces((-t, t), (1.0, 0.0, 1.0), (0.0, 0.0)) if t > 0.0 else Pieces((0.0,), (1.0, 1.0), (0.0,))
    return _clamp(attributes) if kind == "clamp" else None


def _number(attributes: Mapping[str, object], name: str) -> float:
    return float(str(attributes[name]))


def _clamp(attributes: Mapping[str, object]) -> Pieces:
    ends = [(name, attributes[name]) for name in ("min", "max") if attributes[name] is not None]
    knots = tuple(float(str(end)) for _, end in ends)
    if not knots or knots[0] == knots[-1]:
        level = knots[0] if knots else 0.0
        return Pieces((level,), (0.0, 0.0) if len(knots) == 2 else _one_sided(ends), (level,))
    return Pieces(knots, (0.0, 1.0, 0.0), knots)


def _one_sided(ends: Sequence[tuple[str, object]]) -> tuple[float, float]:
    return (1.0, 1.0) if not ends else (0.0, 1.0) if ends[0][0] == "min" else (1.0, 0.0)


_FIXED: Mapping[str, Pieces] = {
    "relu": Pieces((0.0,), (0.0, 1.0), (0.0,)),
    "abs": Pieces((0.0,), (-1.0, 1.0), (0.0,)),
    "identity": Pieces((0.0,), (1.0, 1.0), (0.0,)),
}


def local(p: Pieces, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Return the range of the slopes between any two points of [lower, upper]."""
    return _hull(p, [(lower < after) & (upper > before) for before, after in _spans(p)], lower)


def centred(p: Pieces, low: Tensor, high: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Return the range of the slopes between a centre, in [low, high], and other points of [lower, upper]."""
    spans = _spans(p)
    meets = [(lower < after) & (upper > before) for before, after in spans]
    at_centre = [met & (low <= after) & (high >= before) for met, (before, after) in zip(meets, spans, strict=True)]
    least, most = _hull(p, at_centre, lower)
    for t in (lower, upper, *(torch.full_like(lower, knot) for knot in p.knots)):
        for c in (low, high):
            q, error = _secant(p, t, c)
            seen = (t >= lower) & (t <= upper) & ((t < low) | (t > high))
            least = torch.where(seen, torch.minimum(least, q - error), least)
            most = torch.where(seen, torch.maximum(most, q + error), most)
    inside = torch.stack([(low < knot) & (high > knot) for knot in p.knots]).any(0)
    widest = _hull(p, meets, lower)
    least = torch.where(inside, widest[0], torch.maximum(least, widest[0]))
    return least, torch.where(inside, widest[1], torch.minimum(most, widest[1]))


def lines(p: Pieces, lower: Tensor, upper: Tensor) -> Lines:
    """Return a line below and one above the function on [lower, upper]."""
    chord = torch.where(
        upper > lower, (p.value(upper) - p.value(lower)) / (upper - lower).clamp(min=torch.finfo(lower.dtype).tiny), 0.0
    )
    chord = torch.where(chord.isfinite(), chord, 0.0)
    tried = [chord, *(torch.as_tensor(slope, dtype=lower.dtype).expand_as(lower) for slope in p.slopes)]
    ends = [
        lower,
        upper,
        *(torch.maximum(torch.minimum(torch.full_like(lower, knot), upper), lower) for knot in p.knots),
    ]
    return best_lines(tried, lambda w: _offsets(p, w, ends), lower, upper)


def best_lines(
    tried: Sequence[Tensor], offsets: Callable[[Tensor], tuple[Tensor, Tensor]], lower: Tensor, upper: Tensor
) -> Lines:
    """Return, of the lines with the slopes tried, those nearest to each other at the midpoint.

    Args:
        tried: Slopes.
        offsets: From a slope w to the offsets of a line below and of one above, both rounded outward.
        lower: Lower ends.
        upper: Upper ends.
    """
    middle = (lower + upper) / 2
    found: Lines | None = None
    for w in tried:
        low, high = offsets(w)
        if found is None:
            found = Lines(w, low, w, high)
            continue
        above = w * middle + low > found.lower_slope * middle + found.lower_offset
        below = w * middle + high < found.upper_slope * middle + found.upper_offset
        found = Lines(
            torch.where(above, w, found.lower_slope),
            torch.where(above, low, found.lower_offset),
            torch.where(below, w, found.upper_slope),
            torch.where(below, high, found.upper_offset),
        )
    if found is None:
        raise ValueError("expected at least one slope to try")
    return found


def curvature(p: Pieces, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the function is convex on [lower, upper], and where it is concave."""
    convex, concave = torch.ones_like(lower, dtype=torch.bool), torch.ones_like(lower, dtype=torch.bool)
    for knot, before, after in zip(p.knots, p.slopes, p.slopes[1:], strict=False):
        crossed = (lower < knot) & (upper > knot)
        rise = torch.as_tensor(after, dtype=lower.dtype) - before
        convex, concave = convex & ~(crossed & (rise < 0.0)), concave & ~(crossed & (rise > 0.0))
    return convex, concave


def _spans(p: Pieces) -> list[tuple[float, float]]:
    return list(itertools.pairwise((-math.inf, *p.knots, math.inf)))


def _hull(p: Pieces, meets: Sequence[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the range of the slopes of the pieces that are met; of the last piece where none is."""
    slopes = [torch.as_tensor(slope, dtype=like.dtype).expand_as(like) for slope in p.slopes]
    least = torch.stack([torch.where(met, s, math.inf) for met, s in zip(meets, slopes, strict=True)]).amin(0)
    most = torch.stack([torch.where(met, s, -math.inf) for met, s in zip(meets, slopes, strict=True)]).amax(0)
    return torch.where(least <= most, least, slopes[-1]), torch.where(least <= most, most, slopes[-1])


def _secant(p: Pieces, t: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Return (f(t) - f(c)) / (t - c) and its error; infinite where t = c."""
    distance = (t - c).abs()
    q = (p.value(t) - p.value(c)) / (t - c)
    return q, outward((p.size(t) + p.size(c)) / distance)


def _offsets(p: Pieces, w: Tensor, ends: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the least and the largest f(t) - w t, rounded outward."""
    rests = torch.stack([p.value(t) - w * t for t in ends])
    errors = torch.stack([outward(p.size(t) + w.abs() * t.abs()) for t in ends])
    return (rests - errors).amin(0), (rests + errors).amax(0)
