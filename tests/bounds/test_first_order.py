"""When a search around an example is left out: by time alone, and never with the largest effort."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from certify.bounds import certificates
from certify.bounds.analysis import analyse
from certify.bounds.first_order import LITTLE, first_order_distance, search_may_gain
from certify.bounds.local.certify import LocalNetwork
from certify.examples import Example
from certify.results import LipschitzSettings
from tests.bounds.small_networks import Build


def plane(*weight: tuple[float, float]) -> Build:
    b = Build(2)
    b.add("linear", weight=torch.tensor(weight, dtype=torch.float64))
    return b


@pytest.mark.parametrize("norm, size", [("l2", 5.0), ("linf", 7.0)])
def test_the_distance_is_that_of_the_plane_where_two_logits_meet(norm: str, size: float) -> None:
    graph, x = plane((3.0, 4.0), (0.0, 0.0)).graph(), torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    assert first_order_distance(graph, x, 0, 1, norm) == pytest.approx(11.0 / size, rel=1e-15)
    assert first_order_distance(plane((1.0, 1.0), (1.0, 1.0)).graph(), x, 0, 1, norm) == math.inf


@pytest.mark.parametrize("gain, searched", [(5.0, False), (5.9, False), (6.1, True), (50.0, True), (math.inf, True)])
def test_a_search_is_left_out_where_the_gain_is_nearly_the_slope(gain: float, searched: bool) -> None:
    graph, x = plane((3.0, 4.0), (0.0, 0.0)).graph(), torch.ones(1, 2, dtype=torch.float64)
    assert search_may_gain(graph, x, [7.0, 0.0], [0.0, gain], 0, "l2") is searched
    assert 5.9 < 5.0 * LITTLE < 6.1


def test_nan_is_no_reason_to_stop_and_gains_of_zero_leave_no_rival() -> None:
    graph, x = plane((3.0, 4.0), (0.0, 0.0)).graph(), torch.ones(1, 2, dtype=torch.float64)
    assert search_may_gain(graph, x, [math.nan, 0.0], [0.0, 5.0], 0, "l2")
    assert search_may_gain(graph, x, [7.0, 0.0], [0.0, 0.0], 0, "l2")


def test_large_networks_are_searched_where_it_may_gain_and_whenever_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    b = plane((3.0, 4.0), (0.0, 0.0))
    b.add("relu")
    b.add("linear", weight=torch.eye(2, dtype=torch.float64))
    example = Example(index=0, id="a", label=0, stored=np.array([3.0, 1.0]))
    settings = LipschitzSettings(method="auto")
    analysis = analyse(b.graph(), settings, pairs=True)
    tried: list[int] = []
    monkeypatch.setattr(certificates, "_around", lambda cases: [tried.append(len(cases))] * len(cases))
    for together, effort, searched in ((64, "default", True), (1, "default", False), (1, "max", True)):
        monkeypatch.setattr(LocalNetwork, "batch", together)
        asked = LipschitzSettings(method="auto", effort=effort)
        found = certificates.certify_example(analysis, example, asked)
        assert tried == ([1] if searched else [])
        assert found.radius > 0.0
        tried.clear()
