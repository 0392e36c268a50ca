"""Whole smoothing runs on a device: every law, task and kind of scores, from the model's file to a verified report."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace

import certify
from certify.examples import Dataset, Example
from certify.report import rederive_noise
from certify.results import Regression, Segmentation, SmoothingSettings, TopK
from certify.smoothing import noise_source
from tests.pretend_device import KIND, PretendDevice, choose_pretend_device, pretend_device

SETTINGS = SmoothingSettings(sigma=0.25, n=1000, n0=100, alpha=0.01)
WORDS = "from a pretend device"
SHAPE = (1, 6, 6)
SCALES = np.where(np.arange(36).reshape(SHAPE) % 2, 1.0, 0.5)
rarely = pytest.mark.slow


def data(*, eight_bit: bool = True) -> Dataset:
    numbers = np.random.default_rng(0)
    rows = numbers.integers(0, 256, (3, *SHAPE), dtype=np.uint8)
    stored = rows if eight_bit else (rows / 255).astype(np.float32)
    return Dataset(tuple(Example(k, f"row {k}", k % 3, row) for k, row in enumerate(stored)), 3, "all")


def classifier() -> torch.nn.Module:
    torch.manual_seed(0)
    images = [torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    return torch.nn.Sequential(*images, torch.nn.Flatten(), torch.nn.Linear(36, 3)).eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    certify.save(classifier(), path, input_shape=SHAPE, classes=["a", "b", "c"], range=(0, 1))
    return certify.load(path)


@pytest.fixture
def device(monkeypatch) -> Iterator[PretendDevice]:
    source = noise_source.NoiseSource(WORDS, lambda where: f"a pretend generator of {where}")
    monkeypatch.setattr(noise_source, "SOURCES", {**noise_source.SOURCES, KIND: source})
    monkeypatch.setattr(rederive_noise, "SOURCES", {**rederive_noise.SOURCES, KIND: WORDS})
    choose_pretend_device(monkeypatch)
    with pretend_device() as found:
        yield found


RUNS = {
    "votes": {},
    "asked radii": {"at": (0.1,)},
    "soft scores": {"scores": "soft"},
    "float noise": {"float_noise": True},
    "float data": {"eight_bit": False},
    "uniform noise": {"noise": "uniform"},
    "uniform noise, float data": {"noise": "uniform", "eight_bit": False},
    "bfloat16": {"dtype": "bfloat16"},
    "float64": {"dtype": "float64"},
    "scales": {"scales": SCALES},
    "the first two": {"task": TopK(2)},
    "a batch of 64": {"batch": 64},
}
EVERY_DAY = ("votes",)
CASES = [pytest.param(name, marks=() if name in EVERY_DAY else rarely) for name in RUNS]


@pytest.mark.parametrize("name", CASES)
def test_a_run_on_a_device_gives_a_verified_report_that_names_its_source(name, model, device, tmp_path):
    options = dict(RUNS[name])
    examples = data(eight_bit=options.pop("eight_bit", True))
    apart = {key: options.pop(key) for key in ("scales", "task", "batch") if key in options}
    report = certify.smooth(model, examples, replace(SETTINGS, **options), store=tmp_path, falsify="off", **apart)
    assert (report.tool.device_kind, report.tables.noise.endswith(f"; {WORDS}")) == (KIND, True)
    assert not certify.verify(report)
    assert {len(draw[2]) for draw in device.draws} == {1, 4}, "64 words of a check, else whole blocks"
    again = certify.smooth(model, examples, replace(SETTINGS, **options), store=tmp_path, falsify="off", **apart)
    assert again.digest == report.digest


@pytest.mark.slow
def test_splitting_on_a_device_counts_what_the_processor_counts(model, tmp_path, monkeypatch):
    settings = SmoothingSettings(sigma=0.25, noise="split", dtype="float64")
    here = certify.smooth(model, data(), settings, store=tmp_path / "cpu", device="cpu", falsify="off")
    source = noise_source.NoiseSource(WORDS, lambda where: f"a pretend generator of {where}")
    monkeypatch.setattr(noise_source, "SOURCES", {**noise_source.SOURCES, KIND: source})
    monkeypatch.setattr(rederive_noise, "SOURCES", {**rederive_noise.SOURCES, KIND: WORDS})
    choose_pretend_device(monkeypatch)
    with pretend_device():
        there = certify.smooth(model, data(), settings, store=tmp_path, falsify="off")
    assert (there.tool.device_kind, there.tables.noise) == (KIND, here.tables.noise)
    assert [row.counts for row in there.examples] == [row.counts for row in here.examples]
    assert not certify.verify(there)


@pytest.mark.slow
@pytest.mark.parametrize("task", [Regression(radius=0.1), Segmentation()], ids=["regression", "segmentation"])
def test_a_run_of_outputs_on_a_device_gives_a_verified_report(task, device, tmp_path):
    torch.manual_seed(0)
    pixels = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1)).eval()
    inputs = np.stack([example.stored for example in data()])
    module = classifier() if isinstance(task, Regression) else pixels
    report = certify.smooth(module, inputs, SETTINGS, store=tmp_path, task=task)
    assert (report.tool.device_kind, report.tables.noise.endswith(f"; {WORDS}")) == (KIND, True)
    assert not certify.verify(report)


ATTACKED = """
import sys, tempfile
from tests import test_device_runs as those
from tests.pretend_device import KIND, choose_pretend_device, pretend_device
source = those.noise_source.NoiseSource(those.WORDS, lambda where: "pretend")
those.noise_source.SOURCES = {**those.noise_source.SOURCES, KIND: source}
choose_pretend_device(those.pytest.MonkeyPatch())
with tempfile.TemporaryDirectory() as folder, pretend_device() as device:
    those.certify.save(those.classifier(), f"{folder}/m.safetensors", input_shape=those.SHAPE, range=(0, 1))
    model = those.certify.load(f"{folder}/m.safetensors")
    settings = those.replace(those.SETTINGS, scores=sys.argv[1]) if sys.argv[1] == "soft" else those.SETTINGS
    found = those.certify.smooth(model, those.data(), settings, store=folder, falsify="full")
    print(found.falsifier.level, found.falsifier.tried)
"""


@pytest.mark.slow
@pytest.mark.parametrize("scores", ["hard", "soft"])
def test_attacks_by_gradients_stay_on_the_device(scores):
    """In a process of its own: PyTorch counts the devices at its first backward pass, and would not know this one."""
    where = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", ATTACKED, scores], cwd=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("full")
