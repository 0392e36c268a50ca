"""The search over radii: fixed points, cliffs, flat and hostile functions; whole searches against relaxation alone."""

from __future__ import annotations

import math

import pytest
import torch

from certify.bounds.local.search import EFFORTS, LATE, Interval, search
from tests.bounds.local.chains import centres, stacked

FUNCTIONS = {
    "falling": (lambda eps: 2.0 - eps, 1.0),
    "steep": (lambda eps: 3.0 * math.exp(-2.0 * eps), 0.716201),
    "cliff": (lambda eps: 1.5 if eps < 0.7 else 0.01, 0.7),
    "constant": (lambda eps: 0.25, 0.25),
}


def follow(interval: Interval, R) -> float:
    for _ in range(1000):
        if interval.done:
            return interval.best
        interval.tell(R(interval.eps))
    raise AssertionError("the search does not end")


@pytest.mark.parametrize("chase", [0, 4])
@pytest.mark.parametrize("start", [1e-3, 0.5, 40.0])
@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_the_best_radius_is_found(name, start, chase):
    R, best = FUNCTIONS[name]
    found = follow(Interval(start, tolerance=0.001, most=60, chase=chase), R)
    assert 0.98 * best <= found <= best * (1.0 + 1e-5)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_hostile_values_end_the_search(value):
    found = follow(Interval(0.5, tolerance=0.01), lambda eps: value)
    assert (found > 0.0) == (value == math.inf)
    assert math.isfinite(found)


def test_it_never_tries_more_than_it_may():
    interval, tried = Interval(0.5, tolerance=1e-9, most=7, chase=3), 0
    while not interval.done:
        interval.tell(2.0 - interval.eps)
        tried += 1
    assert tried <= 7 + LATE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("widths", [(8, 24, 4), (8, 24, 20, 4), (6, 16, 16, 16, 16, 3)])
def test_no_radius_is_below_that_of_relaxation_alone(widths, dtype):
    batch = centres(stacked(*widths, seed=3), 6, dtype=dtype)
    cuts = tuple(range(1, len(widths) - 3))
    fast = search(batch, EFFORTS["fast"], ())
    default = search(batch, EFFORTS["default"], cuts)
    longer = search(batch, EFFORTS["max"], cuts)
    mean = [sum(found.radius for found in part) for part in (fast, default, longer)]
    assert all(d.radius >= 0.95 * f.radius for f, d in zip(fast, default, strict=True))
    assert mean[0] < mean[1]
    assert mean[1] < 1.005 * mean[2]


def test_the_search_is_deterministic_and_hardly_depends_on_its_batch():
    chain = stacked(8, 24, 20, 4, seed=5)
    batch = centres(chain, 5)
    together, again = (search(batch, EFFORTS["default"], ()) for _ in range(2))
    assert [found.radius for found in together] == [found.radius for found in again]
    for n in range(5):
        (alone,) = search(batch.choose(torch.tensor([n])), EFFORTS["default"], ())
        assert alone.radius == pytest.approx(together[n].radius, rel=1e-3)


def test_a_margin_that_is_not_positive_is_not_searched():
    batch = centres(stacked(8, 24, 4, seed=6), 2)
    batch.margins[0, 1] = 0.0
    first, second = search(batch, EFFORTS["default"], ())
    assert (first.radius, first.trial) == (0.0, None)
    assert second.radius > 0.0
