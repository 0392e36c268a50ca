"""Curves of certified accuracy as a plot: lines, the bands of their limits, and points where radii were asked."""

from __future__ import annotations

from collections.abc import Sequence

from certify.report.curve import UNLIMITED, Curve
from certify.report.plots import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Dot,
    Path,
    Plot,
    Scale,
    axes,
    plain_ticks,
    share_ticks,
    step_area,
    step_line,
    tick_values,
    units,
)

HEIGHT = 260.0


def draw_curves(curves: Sequence[Curve]) -> Plot:
    """Return the plot of one curve, or of several in one norm; deterministic and probabilistic lines differ in role."""
    reach = max(max(curve.reach for curve in curves) * 1.04, 1e-9)
    x, y = Scale(0.0, reach, LEFT, WIDTH - RIGHT), Scale(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    lines, labels = axes(
        x,
        y,
        x_ticks=plain_ticks(tick_values(reach)),
        y_ticks=share_ticks(),
        x_title=f"radius ({curves[0].norm})",
        height=HEIGHT,
    )
    paths = [path for curve in curves for path in _paths(curve, x, y)]
    asked = [curve for curve in curves if not curve.steps]
    whiskers = [path for curve in asked for path in _whiskers(curve, x, y)]
    dots = [dot for curve in asked for dot in _dots(curve, x, y)]
    return Plot(units(HEIGHT), paths=(*lines, *paths, *whiskers), dots=tuple(dots), labels=labels)


def _paths(curve: Curve, x: Scale, y: Scale) -> list[Path]:
    role = "chance" if curve.chance else "proved"
    band = [Path("band", _area(curve, x, y), curve.series)] if curve.limits else []
    if not curve.steps:
        return band
    last = curve.steps[-1][1] if curve.steps[-1][0] >= UNLIMITED else 0.0
    return [*band, Path(role, step_line([*curve.steps, (x.high, last)], x, y), curve.series)]


def _area(curve: Curve, x: Scale, y: Scale) -> str:
    """Return the area between the limits, which hold up to the next radius above and down to the next below."""
    end, rows = x.high, curve.limits
    places = [*(row.radius for row in rows[1:]), end]
    uppers = (*(row.upper for row in rows[:-1]), curve.beyond_upper)
    upper = [(rows[0].radius, rows[0].upper), *zip(places, uppers, strict=True)]
    beyond = [] if rows[-1].radius >= end else [(end, 0.0)]
    lower = [*((row.radius, row.lower) for row in rows), *beyond]
    return step_area(upper[: len(lower)], lower, x, y)


def _whiskers(curve: Curve, x: Scale, y: Scale) -> list[Path]:
    spans = ((units(x(row.radius)), units(y(row.lower)), units(y(row.upper))) for row in curve.limits)
    return [Path("whisker", f"M{at} {low}V{high}", curve.series) for at, low, high in spans]


def _dots(curve: Curve, x: Scale, y: Scale) -> list[Dot]:
    return [Dot("point", units(x(row.radius)), units(y(row.accuracy)), curve.series) for row in curve.limits]
