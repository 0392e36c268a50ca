"""What a plot shows, read back from its paths: no line above the observed share, and every limit inside its band."""

import itertools
import re

import pytest

from certify.report.curve import curve_of
from certify.report.curve_plot import HEIGHT, draw_curves
from certify.report.plots import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Scale, nice_step, step_area, step_line, tick_values
from certify.results import certified_at
from certify.stats import population_limits
from tests.report.sample_reports import lipschitz_clean, many_lipschitz, sequential_whole, smoothing_clean

HALF_UNIT = 0.005  # paths have two decimals


def corners(d):
    """Return the corners of a path of vertical and horizontal lines."""
    x, y = map(float, re.match(r"M([\d.]+) ([\d.]+)", d).groups())
    points = [(x, y)]
    for axis, number in re.findall(r"([VH])([\d.]+)", d):
        x, y = (float(number), y) if axis == "H" else (x, float(number))
        points.append((x, y))
    return points


def value_at(points, place, side):
    """Return the highest or lowest value of horizontal lines over a place."""
    heights = [a[1] for a, b in itertools.pairwise(points) if a[1] == b[1] and a[0] <= place <= b[0]]
    return side(heights) if heights else None


def share_of(y):
    return (HEIGHT - BOTTOM - y) / (HEIGHT - BOTTOM - TOP)


def places(curve):
    """Return radii between and at the steps, and the place of each in the plot."""
    reach = max(curve.reach * 1.04, 1e-9)
    scale = Scale(0.0, reach, LEFT, WIDTH - RIGHT)
    return [(reach * k / 400, scale(reach * k / 400)) for k in range(1, 400)]


@pytest.mark.parametrize("build", [lipschitz_clean, smoothing_clean, lambda: many_lipschitz(1500)])
def test_the_line_as_drawn_is_never_above_the_observed_share(build):
    report = build()
    curve = curve_of(report)
    (line,) = [path for path in draw_curves([curve]).paths if path.role in ("proved", "chance")]
    points = corners(line.d)
    step = 1 / (HEIGHT - BOTTOM - TOP)
    drawn = 0
    for radius, place in places(curve):
        height = value_at(points, place, max)  # of two lines over a corner the lower one on the page
        if height is None:
            continue
        drawn += 1
        nearby = radius - curve.reach / 300  # a corner is placed to half a hundredth of a unit
        true = sum(certified_at(example, max(nearby, 0.0)) for example in report.examples) / len(report.examples)
        assert share_of(height) <= true + HALF_UNIT * step
    assert drawn > 350


@pytest.mark.parametrize("build, alpha", [(lipschitz_clean, 0.0), (smoothing_clean, 0.001)])
def test_the_band_as_drawn_holds_the_limits_at_every_radius(build, alpha):
    report = build()
    curve = curve_of(report)
    (band,) = [path for path in draw_curves([curve]).paths if path.role == "band"]
    points = corners(band.d)
    turn = max(range(len(points)), key=lambda k: points[k][0])
    forth, back = points[: turn + 1], points[turn:][::-1]
    total, slack = len(report.examples), 2 * HALF_UNIT / (HEIGHT - BOTTOM - TOP)
    for radius, place in places(curve):
        count = sum(certified_at(example, radius) for example in report.examples)
        lower, upper = population_limits(count, total, confidence=0.95, alpha=alpha)
        top, bottom = value_at(forth, place, min), value_at(back, place, max)
        assert top is None or share_of(top) >= upper - slack
        assert bottom is None or share_of(bottom) <= lower + slack


def test_asked_radii_are_points_with_whiskers_and_no_line():
    report = sequential_whole()
    plot = draw_curves([curve_of(report)])
    assert not [path for path in plot.paths if path.role in ("proved", "chance")]
    assert len(plot.dots) == len(report.settings.at)
    assert sum(path.role == "whisker" for path in plot.paths) == len(report.settings.at)


def test_deterministic_and_probabilistic_lines_differ_in_role():
    plot = draw_curves([curve_of(lipschitz_clean(), "a", 0), curve_of(smoothing_clean(), "b", 1)])
    assert [(path.role, path.series) for path in plot.paths if path.role in ("proved", "chance")] == [
        ("proved", 0),
        ("chance", 1),
    ]


def test_a_step_holds_its_value_up_to_its_place():
    x, y = Scale(0.0, 2.0, 0.0, 20.0), Scale(0.0, 1.0, 10.0, 0.0)
    assert step_line([(0.0, 1.0), (1.0, 0.5), (2.0, 0.0)], x, y) == "M0 0V5H10V10H20"
    upper, lower = [(0.0, 1.0), (1.0, 1.0), (2.0, 0.5)], [(0.0, 0.8), (1.0, 0.4), (2.0, 0.1)]
    assert step_area(upper, lower, x, y) == "M0 0V0H10V5H20V9V9H10V6H0Z"


@pytest.mark.parametrize("high", [1e-9, 0.003, 0.97, 1.0, 7.0, 123.0, 4e11])
def test_ticks_are_round_and_few(high):
    ticks = tick_values(high)
    assert ticks[0] == 0.0
    assert ticks[-1] <= high * (1 + 1e-9)
    assert 3 <= len(ticks) <= 7
    assert nice_step(high, 6) * 6 >= high * (1 - 1e-9)
