"""`certify smooth` killed at random moments, then run to its end: the report is that of an undisturbed run."""

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


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64, 3))
    certify.save(module, tmp_path / "model.safetensors", input_shape=(1, 8, 8))
    pixels = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", x=pixels, y=np.arange(60) % 3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(output: str, store: str, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "certify", "smooth", "data.npz", "--sigma", "0.5", "--n", "4000", "--batch", "512"]
    command += more
    package = str(Path(certify.__file__).parents[1])
    return subprocess.Popen(
        [*command, "-q", "-o", output, "--store", store],
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


def blocks_kept(store: str) -> bool:
    return any(Path(store).glob("*.sqlite"))


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("asked", [(), ("--at", "0.1", "--at", "0.4")], ids=["measured", "asked"])
def test_killed_and_continued_runs_give_the_same_report(project, kills, asked):
    assert ended(start("whole.json", "undisturbed", *asked)) == (0, b"")
    moments = random.Random(kills)
    for number in range(kills):
        process = start("killed.json", "disturbed", *asked)
        begun = time.monotonic()
        while not blocks_kept("disturbed") and process.poll() is None and time.monotonic() - begun < 60:
            time.sleep(0.01)  # importing torch is not what is tested
        time.sleep(moments.uniform(0.0, 1.5))
        process.send_signal(signal.SIGINT if number % 5 == 4 else signal.SIGKILL)
        ended(process)
    assert ended(start("killed.json", "disturbed", *asked)) == (0, b"")
    assert compared("killed.json") == compared("whole.json")


def test_interrupt_exits_130_and_says_how_to_go_on(project):
    process = start("report.json", "store")
    while not blocks_kept("store") and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    code, err = ended(process)
    assert code in (130, 0)  # 0: the run was over before the signal
    if code == 130:
        assert b"Traceback" not in err
        assert b"kept" in err
        assert not Path("report.json").exists()
