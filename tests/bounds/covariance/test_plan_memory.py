"""Memory is known before it is taken: estimates from shapes, from plans, and what a process really held."""

import multiprocessing
import resource
from pathlib import Path

import pytest
import torch

from certify.bounds.covariance.draft import Draft
from certify.bounds.covariance.effort import LARGE, work
from certify.bounds.covariance.limits import MOST_BYTES
from certify.bounds.covariance.memory import expected_bytes, free_bytes, peak_bytes
from certify.bounds.covariance.optimise import optimise
from certify.bounds.covariance.plan import compile_plan
from certify.bounds.covariance.proof import prove
from certify.bounds.covariance.steps import Bounded, Start
from certify.bounds.facts import collect_facts
from certify.bounds.gains import combine_rules, gain_uppers
from certify.graph import Graph, trace
from tests.benchmarks.network_nets import resnet18
from tests.bounds.small_networks import Build

NEVER_COUNTED = 300e6  # chunks of the proof, code that is loaded late, what an allocator keeps


def residual_network(channels: int, size: int, blocks: int) -> Graph:
    b = Build(3, size, size)
    b.conv(b.normal(channels, 3, 3, 3) / 5, padding=[[1, 1], [1, 1]])
    for _ in range(blocks):
        skip = b.add("relu")
        b.conv(b.normal(channels, channels, 3, 3) / (9 * channels) ** 0.5, padding=[[1, 1], [1, 1]])
        b.add("relu")
        branch = b.conv(b.normal(channels, channels, 3, 3) / (9 * channels) ** 0.5, padding=[[1, 1], [1, 1]])
        b.add("add", skip, branch)
    b.add("relu")
    b.add("mean", dims=[2, 3], keepdim=False)
    b.linear(channels, 4)
    return b.graph()


@pytest.mark.parametrize("size", [8, 13])
@pytest.mark.parametrize("blocks", [0, 2])
def test_shapes_tell_what_a_plan_will_need(blocks, size):
    graph = residual_network(6, size, blocks)
    facts = collect_facts(graph)
    gains = gain_uppers(facts, combine_rules(facts))
    expected = expected_bytes(Draft(facts, graph.output, "l2", gains, graph.input))
    needed = peak_bytes(compile_plan(facts, graph.output, "l2", gains), single=True)
    assert 0.8 * needed <= expected <= 2.0 * needed


def test_a_plan_may_take_most_of_what_is_free(tmp_path: Path):
    machine, group = tmp_path / "proc", tmp_path / "sys/fs/cgroup"
    machine.mkdir(parents=True)
    (machine / "meminfo").write_text("MemTotal: 4000 kB\nMemAvailable: 3000 kB\n")
    assert free_bytes(tmp_path) == 0.75 * 3000 * 1024
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1000000\n")
    assert free_bytes(tmp_path) == 0.75 * 3000 * 1024
    (group / "memory.max").write_text("1500000\n")
    assert free_bytes(tmp_path) == 0.75 * 500000


def held() -> float:
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measured(channels: int, size: int, blocks: int) -> tuple[float, float]:
    """What a plan is said to need, and by how much the process grew."""
    torch.set_num_threads(1)
    graph = residual_network(channels, size, blocks)
    facts = collect_facts(graph)
    gains = gain_uppers(facts, combine_rules(facts))
    before = held()
    plan = compile_plan(facts, graph.output, "l2", gains)
    needed = peak_bytes(plan, single=work(plan) > LARGE)
    if prove(plan, optimise(plan, "default")) is None:
        raise ValueError("expected feasible multipliers, got some that no proof accepts")
    return needed, held() - before


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "size", "blocks"), [(64, 27, 2), (96, 16, 2)])
def test_a_process_needs_no_more_than_its_plan_was_said_to_need(channels, size, blocks):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        needed, grown = pool.apply(measured, (channels, size, blocks))
    assert 0.3 * needed <= grown <= needed + NEVER_COUNTED


@pytest.mark.slow
def test_a_resnet18_for_small_images_is_planned_as_a_whole():
    graph = trace(resnet18("3x3"), (3, 32, 32))
    facts = collect_facts(graph)
    gains = gain_uppers(facts, combine_rules(facts))
    plan = compile_plan(facts, graph.output, "l2", gains, most_bytes=MOST_BYTES)
    assert isinstance(plan.steps[0], Start)
    assert plan.fallbacks == ()
    assert peak_bytes(plan, single=work(plan) > LARGE) <= MOST_BYTES
    less = compile_plan(facts, graph.output, "l2", gains, most_bytes=1e9)
    assert isinstance(less.steps[0], Bounded)
    assert any("want of memory" in words for words in less.fallbacks)
    assert peak_bytes(less, single=work(less) > LARGE) <= 1e9
