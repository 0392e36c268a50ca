"""Runs on a Ray cluster: the same rows, whoever evaluates, dies or comes late; and other networks are refused."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import certify
from certify.errors import InputError
from certify.results import SmoothingSettings
from certify.smoothing import open_store, shards
from certify.smoothing.shards import MOST_TRIES, RayShards, cluster_workers
from tests.smoothing.pretend_ray import PretendRay
from tests.smoothing.toy_runs import SETTINGS, dataset, header, predict, run

SAMPLES = Path(__file__).parents[2] / "sample_models"
DATA = dataset(5)


def first_use_fails(x):
    """A network that rounds otherwise on other machines: those, here, that are not the first to ask."""
    found = predict(x)
    return found if os.environ.get("HERE") == "driver" else found + 1e-9


@pytest.fixture
def pretend(monkeypatch):
    def connect(**options):
        ray = PretendRay(**options)
        monkeypatch.setitem(sys.modules, "ray", ray)
        return ray

    monkeypatch.setattr(shards, "LEAST_ROWS", 128)  # so that there are many parcels
    return connect


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    return run(tmp_path_factory.mktemp("truth"), DATA)


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("batch", [48, 64, 256])
def test_the_rows_are_those_of_a_local_run(pretend, truth, tmp_path, workers, batch):
    ray = pretend(seed=workers)
    assert run(tmp_path, DATA, batch=batch, workers=workers, engine="ray") == truth
    assert (ray.hired, ray.dismissed) == (workers, workers)
    assert ray.results == {}


def test_the_shifts_of_a_splitting_are_dealt_out_like_draws(pretend, tmp_path):
    settings = SmoothingSettings(sigma=0.25, noise="split")
    pretend()
    here = run(tmp_path / "here", DATA, settings)
    assert run(tmp_path / "there", DATA, settings, workers=2, engine="ray") == here
    assert {row.counts.n for row in here} == {221}


@pytest.mark.parametrize("deaths", [{1}, {3}, {2, 3}, {1, 4, 9, 16}])
def test_what_a_dead_worker_had_is_asked_for_again(pretend, truth, tmp_path, deaths):
    ray = pretend(deaths=deaths)
    assert run(tmp_path, DATA, workers=2, engine="ray") == truth
    assert ray.hired > 2


def test_blocks_that_kill_every_worker_end_the_run_and_the_next_one_continues(pretend, truth, tmp_path):
    ray = pretend(deaths=range(5, 1000))
    with pytest.raises(InputError, match="died with the same blocks") as caught:
        run(tmp_path, DATA, workers=1, engine="ray")
    assert "run the same command again" in str(caught.value)
    assert MOST_TRIES <= ray.hired < 2 * MOST_TRIES  # two parcels were on their way
    done = ray.evaluations
    again = pretend()
    assert run(tmp_path, DATA, workers=1, engine="ray") == truth
    assert again.evaluations > 0
    assert done > MOST_TRIES
    fresh = pretend()
    assert run(tmp_path / "fresh", DATA, workers=1, engine="ray") == truth
    assert again.evaluations < fresh.evaluations


def test_outputs_that_differ_in_the_last_bit_are_refused(pretend, tmp_path, monkeypatch):
    ray = pretend()
    monkeypatch.setenv("HERE", "driver")
    kept = RayShards._hire

    def hire_elsewhere(self):
        worker = kept(self)
        introduce = worker.actor.introduce

        def elsewhere(example):
            monkeypatch.setenv("HERE", "elsewhere")
            try:
                return introduce(example)
            finally:
                monkeypatch.setenv("HERE", "driver")

        worker.actor.introduce = elsewhere
        return worker

    monkeypatch.setattr(RayShards, "_hire", hire_elsewhere)
    with pytest.raises(InputError, match="to the last bit, on all machines"):
        run(tmp_path, DATA, classify=first_use_fails, workers=2, engine="ray")
    assert (ray.evaluations, ray.dismissed) == (0, 2)


def test_who_replaces_a_dead_worker_has_to_agree_too(pretend, tmp_path, monkeypatch):
    """The scheduler may put it on another machine."""
    ray = pretend(deaths={3})
    kept, counted = RayShards._hire, []

    def hire(self):
        worker = kept(self)
        if ray.hired > 2:
            counted.append(worker)
            worker.actor.introduce = lambda _: ("another machine", "another signature")
        return worker

    monkeypatch.setattr(RayShards, "_hire", hire)
    with pytest.raises(InputError, match="another signature on another machine"):
        run(tmp_path, DATA, workers=2, engine="ray")
    assert len(counted) == 1
    assert ray.dismissed == 2


def out_of_memory_above_32(x):
    if len(x) > 32:
        raise torch.OutOfMemoryError("pretended")
    return predict(x)


def test_a_worker_without_memory_halves_the_micro_batch_of_all(pretend, truth, tmp_path):
    pretend()
    with open_store(tmp_path, header(DATA)) as store:
        found = shards_run(store, out_of_memory_above_32)
        assert store.micro_batch() == 32
    assert [row.counts for row in found] == [row.counts for row in truth]


def shards_run(store, classify):
    from certify.smoothing import run_smoothing

    return list(
        run_smoothing(classify, DATA, classes=3, settings=SETTINGS, store=store, batch=128, workers=2, engine="ray")
    )


def test_the_cluster_says_how_many_workers_it_holds(pretend):
    pretend(cores=7)
    assert cluster_workers("cpu") == 7
    with pytest.raises(InputError, match="at least one GPU, got none"):
        cluster_workers("cuda:0")


def test_without_ray_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'certify-nn\[ray\]'"):
        cluster_workers("cpu")


@pytest.mark.slow
def test_a_real_cluster_gives_the_report_of_a_local_run(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    settings = SmoothingSettings(sigma=0.25, n=1000, limit=6)
    reports = [
        certify.smooth(
            SAMPLES / "model.safetensors", SAMPLES / "data", settings, store=tmp_path / engine, workers=2, engine=engine
        )
        for engine in ("local", "ray")
    ]
    assert reports[0].digest == reports[1].digest
    assert [report.execution.engine for report in reports] == ["local", "ray"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_an_interrupted_run_on_a_cluster_keeps_its_blocks(tmp_path, number, code):
    pytest.importorskip("ray", reason="Ray is not installed")
    command = [sys.executable, "-m", "certify", "smooth", SAMPLES / "data", "--model", SAMPLES / "model.safetensors"]
    command += ["--sigma", "0.25", "--engine", "ray", "--workers", "2", "--store", tmp_path]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not any(path.stat().st_size > 2**16 for path in tmp_path.glob("*-wal")):
        time.sleep(0.2)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code, told.decode()
    assert "every finished block is kept" in told.decode()
