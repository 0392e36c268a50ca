"""`certify smooth` killed and interrupted at random moments, then run to its end: the report of an undisturbed run."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import certify
from certify.cli.app import main


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 3))
    certify.save(module, tmp_path / "model.safetensors", input_shape=(1, 8, 8))
    pixels = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", x=pixels, y=np.arange(60) % 3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(output: str, store: str, *more: str) -> list[str]:
    run = ["smooth", "data.npz", "--sigma", "0.5", "--n", "4000", "--batch", "512", "--falsify", "off", *more]
    return [*run, "-q", "-o", output, "--store", store]


def in_this_process(output: str, store: str, *more: str) -> int:
    return main(arguments(output, store, *more))


def start(output: str, store: str, *more: str) -> subprocess.Popen[bytes]:
    package = str(Path(certify.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-m", "certify", *arguments(output, store, *more)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"PYTHONPATH": package, "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )


def ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    _, err = process.communicate()
    return process.returncode, err


def compared(path: str) -> dict:
    report = json.loads(Path(path).read_text())
    del report["execution"]
    for example in report["examples"]:
        del example["seconds"]
    return report


def kept(store: str) -> tuple[tuple[str, int], ...]:
    """What the store has written so far: changes with every commit."""
    return tuple(sorted((path.name, path.stat().st_mtime_ns) for path in Path(store).glob("*.sqlite*")))


def wait_for_a_commit(process: subprocess.Popen[bytes], store: str) -> None:
    """Importing torch is not what is tested."""
    before, begun = kept(store), time.monotonic()
    while kept(store) == before and process.poll() is None and time.monotonic() - begun < 60:
        time.sleep(0.01)


@pytest.mark.parametrize(
    "kills, asked",
    [
        pytest.param(2, (), id="measured"),
        pytest.param(20, (), id="measured at length", marks=pytest.mark.slow),
        pytest.param(20, ("--at", "0.1", "--at", "0.4"), id="asked at length", marks=pytest.mark.slow),
    ],
)
def test_killed_and_continued_runs_give_the_same_report(project, kills, asked):
    """Every second process is interrupted instead: it says how to go on, and leaves no report."""
    assert in_this_process("whole.json", "undisturbed", *asked) == 0
    moments = random.Random(kills)
    for number in range(kills):
        process = start("killed.json", "disturbed", *asked)
        wait_for_a_commit(process, "disturbed")
        time.sleep(moments.uniform(0.0, 0.6 / kills))
        process.send_signal(signal.SIGKILL if number % 2 else signal.SIGINT)
        code, err = ended(process)
        assert code in ((-signal.SIGKILL, 0) if number % 2 else (130, 0))  # 0: the run was over before the signal
        if code == 130:
            assert b"Traceback" not in err
            assert b"kept" in err
            assert not Path("killed.json").exists()
        Path("killed.json").unlink(missing_ok=True)
    assert in_this_process("killed.json", "disturbed", *asked) == 0
    assert compared("killed.json") == compared("whole.json")
