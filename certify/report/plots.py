"""Plots as shapes in a plane of their own: what a view draws, without how it looks.

A plot is 360 units wide. Shapes carry a *role* (``curve``, ``band``, ``bar``, ...) and an optional *series*, the number
of the report they belong to; the view gives colours and strokes to roles. Numbers in paths have two decimals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

WIDTH = 360.0
LEFT, RIGHT, TOP, BOTTOM = 42.0, 12.0, 12.0, 42.0
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)

Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True)
class Path:
    """A line or an area."""

    role: str
    d: str
    series: int = 0


@dataclass(frozen=True)
class Box:
    """A bar."""

    role: str
    x: str
    y: str
    width: str
    height: str
    series: int = 0


@dataclass(frozen=True)
class Dot:
    """A point; an estimate is drawn hollow."""

    role: str
    x: str
    y: str
    series: int = 0


@dataclass(frozen=True)
class Label:
    """A text in the plot."""

    role: str
    x: str
    y: str
    text: str
    anchor: Anchor = "middle"


@dataclass(frozen=True)
class Plot:
    """The shapes of one plot, drawn in order, in a plane of ``WIDTH`` by ``height``."""

    height: str
    paths: tuple[Path, ...] = ()
    boxes: tuple[Box, ...] = ()
    dots: tuple[Dot, ...] = ()
    labels: tuple[Label, ...] = ()
    width: str = "360"


@dataclass(frozen=True)
class Scale:
    """An affine map from values to units; values outside are clipped to the ends."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the place of a value.

        Example:
            >>> Scale(0.0, 2.0, 42.0, 348.0)(1.0)
            195.0
        """
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def units(value: float) -> str:
    """Return a length with at most two decimals.

    Example:
        >>> units(12.0), units(1 / 3)
        ('12', '0.33')
    """
    return f"{value:.2f}".rstrip("0").rstrip(".")


def nice_step(high: float, most: int) -> float:
    """Return the least step of 1, 2, 2.5 or 5 times a power of ten with at most ``most`` of them up to ``high``.

    Example:
        >>> nice_step(1.11, 6), nice_step(37.0, 20)
        (0.2, 2.0)
    """
    rough = high / most
    power = 10.0 ** math.floor(math.log10(rough))
    return next(float(f"{step * power:.12g}") for step in STEPS if step * power >= rough * (1 - 1e-12))


def tick_values(high: float, most: int = 6) -> tuple[float, ...]:
    """Return round values from 0 to at most ``high``.

    Example:
        >>> tick_values(1.1)
        (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """
    step = nice_step(high, most)
    return tuple(float(f"{step * k:.12g}") for k in range(math.floor(high / step + 1e-9) + 1))


def step_line(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    """Return the path that holds each value *up to* its place, as a certified share does, and then steps.

    ``points`` are (place, value) in rising order; the first place is where the line starts.
    """
    parts = [f"M{units(x(points[0][0]))} {units(y(points[0][1]))}"]
    for place, value in points[1:]:
        parts.append(f"V{units(y(value))}H{units(x(place))}")
    return "".join(parts)


def step_area(upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    """Return the closed path between two such lines over the same places."""
    back = list(reversed(lower))
    parts = [step_line(upper, x, y), f"V{units(y(back[0][1]))}"]
    for (place, _), (_, value) in zip(back[1:], back[:-1], strict=True):
        parts.append(f"V{units(y(value))}H{units(x(place))}")
    return "".join([*parts, "Z"])


def axes(
    x: Scale,
    y: Scale,
    *,
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[tuple[float, str]],
    x_title: str,
    height: float,
) -> tuple[tuple[Path, ...], tuple[Label, ...]]:
    """Return grid lines and labels of a plane of ``height`` units."""
    bottom = height - BOTTOM
    grid = "".join(f"M{units(LEFT)} {units(y(value))}H{units(WIDTH - RIGHT)}" for value, _ in y_ticks)
    marks = "".join(f"M{units(x(value))} {units(bottom)}v4" for value, _ in x_ticks)
    base = f"M{units(LEFT)} {units(bottom)}H{units(WIDTH - RIGHT)}"
    labels = [Label("tick", units(LEFT - 6), units(y(value) + 4), text, "end") for value, text in y_ticks]
    labels += [Label("tick", units(x(value)), units(bottom + 17), text) for value, text in x_ticks]
    title = Label("title", units((LEFT + WIDTH - RIGHT) / 2), units(height - 6), x_title)
    return (Path("grid", grid), Path("axis", base + marks)), (*labels, title)


def share_ticks() -> tuple[tuple[float, str], ...]:
    """Return the ticks of a share, from 0 to 1."""
    return tuple((value / 4, f"{value * 25}%") for value in range(5))


def plain_ticks(values: Sequence[float]) -> tuple[tuple[float, str], ...]:
    """Return ticks that are labelled with their values."""
    return tuple((value, f"{value:g}") for value in values)


def column_chart(counts: Sequence[int], edges: Sequence[tuple[float, str]], x_title: str, *, high: float) -> Plot:
    """Return columns of counts over bins of equal width on [0, ``high``]; ``edges`` are the labelled places."""
    height = 230.0
    most = max(*counts, 1)
    x, y = Scale(0.0, high, LEFT, WIDTH - RIGHT), Scale(0.0, float(most), height - BOTTOM, TOP)
    ticks = [(value, f"{value:g}") for value in tick_values(float(most), 4) if value == int(value)]
    lines, labels = axes(x, y, x_ticks=edges, y_ticks=ticks, x_title=x_title, height=height)
    width = (WIDTH - RIGHT - LEFT) / len(counts)
    boxes = [_column(LEFT + k * width, width, y(count), height - BOTTOM) for k, count in enumerate(counts) if count > 0]
    return Plot(units(height), paths=lines, boxes=tuple(boxes), labels=labels)


def _column(left: float, width: float, top: float, bottom: float) -> Box:
    gap = min(1.0, width / 6)
    return Box("bar", units(left + gap / 2), units(top), units(width - gap), units(bottom - top))


@dataclass(frozen=True)
class BarRow:
    """One row of a bar chart: a name, bars from 0 to 1 drawn over each other, widest first, and a text behind them."""

    name: str
    shares: tuple[tuple[str, float], ...]
    text: str = ""


ROW, NAME_WIDTH, TEXT_WIDTH, NAME_CHARACTERS = 22.0, 100.0, 44.0, 14


def bar_chart(rows: Sequence[BarRow]) -> Plot:
    """Return one row of bars for each name, on a common scale from 0 to 1."""
    x = Scale(0.0, 1.0, NAME_WIDTH, WIDTH - TEXT_WIDTH)
    boxes: list[Box] = []
    labels: list[Label] = []
    for k, row in enumerate(rows):
        top = 4.0 + k * ROW
        boxes += [_row_box(role, top, x(share) - NAME_WIDTH) for role, share in row.shares]
        labels.append(Label("tick", units(NAME_WIDTH - 6), units(top + 13), _short(row.name), "end"))
        labels.append(Label("tick", units(WIDTH - TEXT_WIDTH + 5), units(top + 13), row.text, "start"))
    return Plot(units(8.0 + len(rows) * ROW), boxes=tuple(boxes), labels=tuple(labels))


def _row_box(role: str, top: float, width: float) -> Box:
    return Box(role, units(NAME_WIDTH), units(top), units(width), units(ROW - 5))


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARACTERS else f"{name[: NAME_CHARACTERS - 1]}…"


def place_dots(rows: Sequence[tuple[str, str, float, str]], place: Callable[[float], float]) -> Plot:
    """Return one dot for each row (role, name, value, text) on a common scale given by ``place``, from 0 to 1."""
    x = Scale(0.0, 1.0, NAME_WIDTH + 8, WIDTH - TEXT_WIDTH - 20)
    dots: list[Dot] = []
    labels: list[Label] = []
    lines = ""
    for k, (role, name, value, text) in enumerate(rows):
        y, at = 16.0 + k * ROW, x(place(value))
        lines += f"M{units(NAME_WIDTH + 8)} {units(y)}H{units(WIDTH - TEXT_WIDTH - 20)}"
        dots.append(Dot(role, units(at), units(y)))
        labels.append(Label("tick", units(NAME_WIDTH - 2), units(y + 4), name, "end"))
        labels.append(Label("value", units(at + 9), units(y + 4), text, "start"))
    return Plot(units(12.0 + len(rows) * ROW), paths=(Path("grid", lines),), dots=tuple(dots), labels=tuple(labels))
