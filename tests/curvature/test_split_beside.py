"""Certificates of deterministic splitting beside readings: proved, and never in one kind with probable ones."""

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import nn

import certify
from certify.report import FORMATS, verify_report
from certify.results import seal
from certify.runs.readings import measure_curvature
from tests.curvature.tiny_runs import SETTINGS

SPLIT = certify.SmoothingSettings(sigma=0.05, noise="split")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("split")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3))
    certify.save(network, folder / "model.safetensors", input_shape=(3,))
    pixels = np.random.default_rng(0).integers(0, 256, (7, 3), dtype=np.uint8)
    np.savez(folder / "data.npz", x=pixels, y=np.arange(7) % 3)
    places = folder / "model.safetensors", folder / "data.npz"
    beside = certify.smooth(*places, SPLIT, store=folder / "runs", workers=1)
    return measure_curvature(*places, SETTINGS, beside=(beside,))


def test_they_are_proved_and_never_fail(report):
    assert verify_report(report) == ()
    rows = [row for row in report.table if row.object.startswith("splitting vote")]
    assert rows
    assert {(row.kind, row.failure_probability) for row in rows} == {("proved", 0.0)}
    for name in ("terminal", "markdown", "html"):
        assert "proved with probability" not in FORMATS[name](report)


@pytest.mark.parametrize(
    "edit", [{"failure_probability": 0.001}, {"object": "smoothed vote"}, {"norm": "l2"}, {"domain": "real ball"}]
)
def test_a_vote_of_all_shifts_is_what_never_fails(report, edit):
    edited = replace(report, beside=(replace(report.beside[0], **edit),), digest="")
    where = {finding.where for finding in verify_report(seal(edited))}
    assert where & {"beside[0].failure_probability", "beside[0].domain"}
