"""A run can be killed at any instant and continued: the result is that of the uninterrupted run, seconds apart."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from certify.errors import InputError, InterruptedRun
from certify.results import SmoothingExample, SmoothingSettings
from certify.smoothing import open_store, run_smoothing, smoothing_events, store_path
from certify.smoothing.placement import Placement
from tests.smoothing.kills import FORKS, kill_until_done
from tests.smoothing.toy_runs import (
    CLASSES,
    SETTINGS,
    dataset,
    exit_code,
    fork,
    header,
    predict,
    run,
    without_seconds,
)

DATA = dataset(5)


class Killed(BaseException):
    """Ends a run where it stands, as a kill would: nothing below may catch it."""


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    return run(tmp_path_factory.mktemp("truth"), DATA)


@pytest.fixture(autouse=True)
def short_bursts(monkeypatch):
    """Every forward pass is counted before the next one, so that these small runs have many moments to end in."""
    monkeypatch.setattr("certify.smoothing.sampler.BURST_ROWS", 1)


class Fragile:
    """`predict`, which does ``act`` at call number ``at``."""

    def __init__(self, at, act):
        self.calls, self.at, self.act = 0, at, act

    def __call__(self, x):
        self.calls += 1
        if self.calls == self.at:
            self.act()
        return predict(x)


def kill():
    raise Killed


def attempt(folder, classify, **options):
    """Start the run, and let it end as it will."""
    try:
        return run(folder, DATA, classify=classify, **options)
    except (Killed, InterruptedRun):
        return None


def calls_of_a_run(folder, **options):
    counter = Fragile(0, kill)
    run(folder, DATA, classify=counter, **options)
    return counter.calls


@pytest.mark.parametrize("batch", [50, 300])
def test_killed_at_every_forward_pass(tmp_path, truth, batch):
    total = calls_of_a_run(tmp_path / "whole", batch=batch)
    for at in range(1, total + 1, 5):
        folder = tmp_path / str(at)
        assert attempt(folder, Fragile(at, kill), batch=batch) is None
        assert run(folder, DATA, batch=batch) == truth


def test_killed_again_and_again(tmp_path, truth, monkeypatch):
    """Blocks are committed one by one, so that every start gets a little further."""
    monkeypatch.setattr("certify.smoothing.store.COMMIT_SECONDS", -1.0)
    found, starts = None, 0
    while found is None and starts < 500:
        starts += 1
        found = attempt(tmp_path, Fragile(12, kill), batch=64)
    assert found == truth
    assert starts > 3


def test_killed_around_every_commit(tmp_path, truth, monkeypatch):
    from certify.smoothing.store import Store

    commit = Store.commit
    for moment in ("before", "after"):
        for at in range(1, len(DATA) + 1):
            seen = iter(range(1, 1000))

            def fragile(store, moment=moment, at=at, seen=seen):
                last = next(seen) == at
                if last and moment == "before":
                    raise Killed
                commit(store)
                if last:
                    raise Killed

            folder = tmp_path / f"{moment} {at}"
            monkeypatch.setattr(Store, "commit", fragile)
            assert attempt(folder, predict) is None
            monkeypatch.setattr(Store, "commit", commit)
            assert run(folder, DATA) == truth


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [1, 5, 7, 11])
@pytest.mark.parametrize("batch", [50, 300])
def test_the_first_signal_finishes_a_block_and_says_how_to_go_on(tmp_path, truth, number, at, batch):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    fragile = Fragile(at, lambda: signal.raise_signal(number))
    with pytest.raises(InterruptedRun) as caught:
        run(tmp_path, DATA, classify=fragile, batch=batch)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert number.name in str(caught.value)
    assert "same command" in str(caught.value)
    with open_store(tmp_path, header(DATA)) as store:
        assert store.micro_batch() == batch  # something was kept
    assert run(tmp_path, DATA, batch=batch) == truth


def test_a_signal_while_the_consumer_works_is_heard(tmp_path, truth):
    with open_store(tmp_path, header(DATA)) as store:
        found = run_smoothing(predict, DATA, classes=CLASSES, settings=SETTINGS, store=store, batch=64)
        next(found)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(InterruptedRun):
            list(found)
    assert run(tmp_path, DATA, batch=64) == truth


def test_a_consumer_that_leaves_gets_its_signal_handlers_back(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with open_store(tmp_path, header(DATA)) as store:
        found = run_smoothing(predict, DATA, classes=CLASSES, settings=SETTINGS, store=store, workers=2)
        next(found)
        assert signal.getsignal(signal.SIGINT) != before
        found.close()
        assert signal.getsignal(signal.SIGINT) == before


@FORKS
def test_the_second_signal_ends_at_once(tmp_path, truth):
    def stubborn():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    child = fork(lambda: run(tmp_path, DATA, classify=Fragile(9, stubborn)) and 0)
    assert exit_code(child) == -signal.SIGTERM
    assert run(tmp_path, DATA) == truth


@FORKS
@pytest.mark.parametrize(
    "number, workers, cut",
    [(signal.SIGKILL, 1, True), (signal.SIGKILL, 2, False), (signal.SIGTERM, 1, False), (signal.SIGINT, 2, False)],
)
def test_killed_at_random_moments(tmp_path, truth, number, workers, cut):
    """At least five kills each: twenty in all."""
    chance, kills, runs = random.Random(workers), 0, 0
    while kills < 5:
        folder, runs = tmp_path / str(runs), runs + 1
        folder.mkdir()
        kills += kill_until_done(folder, DATA, SETTINGS, number, workers, chance, cut=cut)
        assert run(folder, DATA, batch=64) == truth


@FORKS
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_killed_hundreds_of_times(tmp_path, truth, seed):
    chance = random.Random(seed)
    number = chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    kill_until_done(tmp_path, DATA, SETTINGS, number, chance.choice([1, 2]), chance, cut=seed % 2 == 0)
    assert run(tmp_path, DATA, batch=64) == truth


SCRIPT = """
import sys, time
from pathlib import Path
from tests.smoothing.toy_runs import dataset, predict, run
def slow(x):
    time.sleep(0.01)
    return predict(x)
print("running", flush=True)
run(Path(sys.argv[1]), dataset(5), classify=slow)
"""


def test_a_killed_process_is_continued_by_another(tmp_path, truth):
    """The same across interpreters: no state but the store is shared."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "running\n"
        while not store_path(tmp_path, header(DATA)).exists():
            time.sleep(0.01)
        time.sleep(0.25)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert run(tmp_path, DATA) == truth


def test_a_complete_run_is_read_back_without_the_network(tmp_path):
    def never(x):
        raise AssertionError("the network was called")

    with open_store(tmp_path, header(DATA)) as store:
        first = list(run_smoothing(predict, DATA, classes=CLASSES, settings=SETTINGS, store=store))
    with open_store(tmp_path, header(DATA)) as store:
        again = list(run_smoothing(never, DATA, classes=CLASSES, settings=SETTINGS, store=store))
    assert first == again  # seconds included
    assert all(example.seconds > 0 for example in first)


def test_a_store_cannot_serve_another_run(tmp_path):
    other = SmoothingSettings(sigma=0.25, n=700, n0=100, price=1e-4, seed=1)
    options = {"classes": CLASSES, "settings": SETTINGS}
    with open_store(tmp_path, header(DATA)) as store:
        for change in ({"settings": other}, {"classes": 4}):
            with pytest.raises(InputError, match="expected a store opened for"):
                run_smoothing(predict, DATA, store=store, **(options | change))
        with pytest.raises(InputError, match="data_sha256"):
            run_smoothing(predict, dataset(5, seed=1), store=store, **options)


@pytest.mark.parametrize(
    "change, words",
    [({"draws": 64, "counts": (0, 64, 0, 0)}, "expected 128 draws in estimation block 1, got 64"),
     ({"block": 99, "noise": "another"}, "blocks that this run does not ask for")],
)  # fmt: skip
def test_blocks_of_other_draws_are_refused_behind_a_digest_that_fits(tmp_path, change, words):
    run(tmp_path, DATA, batch=64)
    with open_store(tmp_path, header(DATA)) as store:
        row = next(row for row in store.rows(f'["{DATA.examples[0].id}","{DATA.examples[0].hash}"]') if row.block == 1)
    assert (row.purpose, row.draws) == ("estimation", 128)
    with sqlite3.connect(store_path(tmp_path, header(DATA))) as connection:
        if "draws" in change:
            connection.execute("DELETE FROM block WHERE noise = ?", (row.noise,))
        columns = replace(row, **change).columns(header(DATA).digest())
        connection.execute(f"INSERT INTO block VALUES ({', '.join('?' * len(columns))})", columns)
    connection.close()
    with pytest.raises(InputError, match=words):
        run(tmp_path, DATA, batch=64)


def test_another_micro_batch_on_resume_makes_open_examples_again(tmp_path, truth):
    assert attempt(tmp_path, Fragile(16, lambda: signal.raise_signal(signal.SIGINT)), batch=64) is None
    assert run(tmp_path, DATA, batch=100) == truth
    with open_store(tmp_path, header(DATA)) as store:
        rows = [store.rows(f'["{x.id}","{x.hash}"]') for x in DATA]
    sizes = [{row.micro_batch for row in found} for found in rows]
    assert all(len(size) == 1 for size in sizes)
    assert {64} in sizes
    assert {100} in sizes


def out_of_memory():
    raise torch.OutOfMemoryError("CUDA out of memory")


def no_host_memory():
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes")


@pytest.mark.parametrize("fail", [out_of_memory, no_host_memory])
@pytest.mark.parametrize("most", [40, 100, 1])
def test_out_of_memory_halves_the_micro_batch(tmp_path, truth, most, fail):
    sizes = []

    def limited(x):
        sizes.append(len(x))
        if len(x) > most:
            fail()
        return predict(x)

    assert run(tmp_path, DATA, classify=limited, batch=256) == truth
    assert sizes[0] == 256
    assert sizes[-1] == {40: 32, 100: 64, 1: 1}[most]


@pytest.mark.parametrize("at", [20, 30, 50])
def test_out_of_memory_in_the_middle_makes_the_open_examples_again(tmp_path, truth, at):
    assert run(tmp_path, DATA, classify=Fragile(at, out_of_memory), batch=64) == truth
    with open_store(tmp_path, header(DATA)) as store:
        rows = [store.rows(f'["{x.id}","{x.hash}"]') for x in DATA]
    assert all(len({row.micro_batch for row in found}) == 1 for found in rows)
    assert store_path(tmp_path, header(DATA)).exists()


def test_out_of_memory_at_one_row_is_an_error(tmp_path):
    with pytest.raises(InputError, match="out of memory at one row"):
        run(tmp_path, DATA, classify=lambda x: out_of_memory(), batch=8)


def test_other_failures_of_the_network_are_not_swallowed(tmp_path):
    def fail():
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        run(tmp_path, DATA, classify=Fragile(20, fail), batch=64)


def test_progress_counts_every_draw_and_ends_at_the_truth(tmp_path, monkeypatch):
    monkeypatch.setattr("certify.smoothing.loop.PROGRESS_SECONDS", -1.0)
    with open_store(tmp_path, header(DATA)) as store:
        events = list(
            smoothing_events(
                predict, DATA, classes=CLASSES, settings=SETTINGS, store=store, placement=Placement(batch=64)
            )
        )
    examples = [event for event in events if isinstance(event, SmoothingExample)]
    progress = [event for event in events if not isinstance(event, SmoothingExample)]
    total = sum(example.counts.n0 + example.counts.n for example in examples)
    done = [event.draws_done for event in progress]
    assert done == sorted(done)
    assert (done[-1], progress[-1].draws_estimate) == (total, total)
    assert all(event.draws_done <= event.draws_estimate for event in progress)
    assert len(progress) > 30
    assert without_seconds(examples) == run(tmp_path, DATA)


@pytest.mark.parametrize("options", [{"batch": 0}, {"batch": -1}, {"workers": 0}, {"batch": 1.5}])
def test_sizes_below_one_are_refused(tmp_path, options):
    with pytest.raises(InputError, match="at least 1"):
        run(tmp_path, DATA, **options)
