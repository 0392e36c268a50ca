"""The search for multipliers on a device: all of it there, nothing mixed, and its bounds proved on the CPU as ever."""

from __future__ import annotations

import pytest
import torch

from certify.bounds import SearchPlace, analyse
from certify.bounds.covariance import optimise as searching
from certify.bounds.covariance.coarse import coarsen
from certify.bounds.covariance.place import WORTHWHILE, Search
from certify.bounds.covariance.proof import prove
from certify.results import LipschitzSettings
from tests.bounds.covariance.hand_plans import PLANS
from tests.bounds.small_networks import Build
from tests.pretend_device import DEVICE, KIND, pretend_device

EVERY_DAY = [("spatial join", True), ("dense linf", False)]
REST = [(name, single) for name in PLANS for single in (False, True) if (name, single) not in EVERY_DAY]


def convolutional(seed: int = 0):
    """A network with a plan on tori."""
    b = Build(2, 6, 6, seed=seed)
    b.conv(b.normal(3, 2, 3, 3) / 3)
    b.add("relu")
    b.conv(b.normal(3, 3, 2, 2) / 3, stride=[2, 2], padding=[[0, 0], [0, 0]])
    b.add("relu")
    b.add("reshape", shape=[-1, 27])
    b.linear(27, 3)
    return b.graph()


@pytest.mark.parametrize("name, single", [*EVERY_DAY, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)])
def test_a_search_stays_on_its_device_and_gives_what_the_cpu_can_prove(name, single, monkeypatch):
    monkeypatch.setattr(searching, "LARGE", 0.0 if single else 1e30)
    plan = PLANS[name]()
    here = Search(SearchPlace()).optimise(plan, "fast", "norm")
    with pretend_device() as device:
        search = Search(SearchPlace(DEVICE))
        there = search.optimise(plan, "fast", "norm")
        assert (search.kind, search.note) == (KIND, "")
        tensors = sum(isinstance(v, torch.Tensor) for step in plan.steps for v in vars(step).values())
        assert device.to_device <= 3 * tensors + 30, "constants are moved once"
        assert device.to_host <= len(there) + 6, "only multipliers come back"
        assert device.operations > 100
    assert {multiplier.device.type for multiplier in there.values()} == {"cpu"}
    found, other = (prove(plan, searching.settle(plan, multipliers)) for multipliers in (here, there))
    assert abs(other.upper() / found.upper() - 1.0) < (1e-3 if single else 1e-9)


def dense(seed: int = 0):
    b = Build(4, seed=seed)
    b.linear(4, 6)
    b.add("relu")
    b.linear(6, 3)
    return b.graph()


@pytest.mark.parametrize("norm", ["l2", pytest.param("linf", marks=pytest.mark.slow)])
@pytest.mark.parametrize("network", [dense, pytest.param(convolutional, marks=pytest.mark.slow)])
def test_a_network_searched_on_a_device_gets_the_bound_of_the_cpu(network, norm):
    graph, settings = network(), LipschitzSettings(norm=norm, effort="fast")
    here = analyse(graph, settings, pairs=True)
    with pretend_device():
        there = analyse(graph, settings, pairs=True, place=SearchPlace(DEVICE))
    assert (here.covariance.searched_on, there.covariance.searched_on) == ("cpu", KIND)
    assert there.network.upper == pytest.approx(here.network.upper, rel=1e-9)
    assert torch.allclose(there.covariance.pair_uppers, here.covariance.pair_uppers, rtol=1e-6)


def test_where_memory_ends_the_cpu_searches_and_the_bound_is_the_same():
    graph, settings = dense(1), LipschitzSettings(effort="fast")
    here = analyse(graph, settings, pairs=True)
    with pretend_device() as device:
        device.largest = 200
        there = analyse(graph, settings, pairs=True, place=SearchPlace(DEVICE))
        assert device.refused == 1, "once is enough: the second search begins on the CPU"
    assert there.covariance.searched_on == "cpu"
    failure = f"{DEVICE} failed (out of memory on {DEVICE})"
    assert there.covariance.notes == (f"multipliers are searched on the CPU: {failure}",)
    assert there.network.upper == here.network.upper


def test_where_a_device_has_no_kernel_the_cpu_searches(monkeypatch):
    def without_eigenvalues(matrix: torch.Tensor, whole=torch.linalg.eigvalsh) -> torch.Tensor:
        if matrix.device.type == KIND:
            raise RuntimeError("no kernel image is available for execution on the device\nsecond line")
        return whole(matrix)

    monkeypatch.setattr(torch.linalg, "eigvalsh", without_eigenvalues)
    with pretend_device():
        search = Search(SearchPlace(DEVICE))
        found = search.optimise(PLANS["dense"](), "fast", "norm")
    assert search.kind == "cpu"
    assert search.note.endswith("(no kernel image is available for execution on the device)")
    assert found


def test_small_plans_stay_on_the_cpu_unless_the_device_is_asked_for():
    with pretend_device() as device:
        search = Search(SearchPlace(DEVICE, least_work=WORTHWHILE))
        search.optimise(PLANS["dense"](), "fast", "norm")
        assert (search.kind, device.operations) == ("cpu", 0)


@pytest.mark.parametrize("effort", ["default", "max"])
@pytest.mark.slow
def test_a_longer_search_with_coarse_plans_and_single_pairs_stays_on_its_device(effort, monkeypatch):
    coarse: list[object] = []
    monkeypatch.setattr(searching, "LARGE", 1e4)
    monkeypatch.setattr(searching, "coarsen", lambda *asked: coarse.append(coarsen(*asked)) or coarse[-1])
    graph, settings = convolutional(2), LipschitzSettings(effort=effort)
    here = analyse(graph, settings, pairs=True)
    with pretend_device():
        there = analyse(graph, settings, pairs=True, place=SearchPlace(DEVICE))
    assert coarse, "the plan was too small for a coarse one"
    assert there.covariance.searched_on == KIND
    assert there.network.upper == pytest.approx(here.network.upper, rel=1e-2)
