"""Settings given as whole numbers, or as numbers of numpy, are those of floats: one text, one store, one digest."""

import numpy as np
import pytest
from torch import nn

import certify
from certify.policy import Gate
from certify.report import verify_report
from certify.results import (
    CurvatureSettings,
    LipschitzSettings,
    Regression,
    Segmentation,
    SmoothingSettings,
    TopK,
    dump_json,
    report_from_json,
    report_to_json,
)

PAIRS = (
    (SmoothingSettings(sigma=1, price=0), SmoothingSettings(sigma=1.0, price=0.0)),
    (SmoothingSettings(sigma=np.float64(0.25), n=np.int64(700)), SmoothingSettings(sigma=0.25, n=700)),
    (SmoothingSettings(sigma=np.float32(0.25), at=(2, np.float64(0.5))), SmoothingSettings(sigma=0.25, at=(0.5, 2.0))),
    (SmoothingSettings(sigma=2, scores="soft", temperature=4), SmoothingSettings(sigma=2.0, scores="soft",
                                                                                 temperature=4.0)),
    (LipschitzSettings(local=1, limit=np.int64(3)), LipschitzSettings(local=1.0, limit=3)),
    (CurvatureSettings(sigma=1), CurvatureSettings(sigma=1.0)),
    (Regression(radius=1), Regression(radius=1.0)),
    (Segmentation(threshold=np.float64(0.75)), Segmentation(threshold=0.75)),
    (TopK(k=np.int64(2)), TopK(k=2)),
    (Gate(name="g", metric="clean_accuracy", min=1), Gate(name="g", metric="clean_accuracy", min=1.0)),
)  # fmt: skip


@pytest.mark.parametrize(("given", "plain"), PAIRS)
def test_a_number_is_written_one_way(given, plain):
    assert given == plain
    if not isinstance(given, Gate):
        assert dump_json(given) == dump_json(plain)


@pytest.mark.parametrize("odd", ["1", None, True, 10**400])
def test_what_is_no_number_of_a_float_stays_and_is_refused(odd):
    assert SmoothingSettings(sigma=odd).sigma is odd


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    certify.save(nn.Linear(4, 3), "model.safetensors", input_shape=(4,), range=(0, 1))
    np.savez("data.npz", x=np.full((3, 4), 128, dtype=np.uint8) + np.arange(3, dtype=np.uint8)[:, None], y=np.arange(3))


@pytest.mark.parametrize("settings", [{"sigma": 1}, {"sigma": 1, "at": (1,), "n": 1000}, {"sigma": 1, "price": 0}])
def test_a_report_of_whole_numbers_reads_back_as_it_is(project, settings):
    report = certify.smooth("model.safetensors", "data.npz", SmoothingSettings(**settings), workers=1, falsify="off")
    again = report_from_json(report_to_json(report).encode(), name="report")
    assert verify_report(again) == ()
    assert again.digest == report.digest


def test_the_likeliest_class_alone_is_verified_by_the_bound_of_the_run(project):
    """Among its one likeliest: the certificates of the plain task, whatever the bound."""
    settings = SmoothingSettings(sigma=0.25, n=512, bound="clopper-pearson", task=TopK(k=1))
    report = certify.smooth("model.safetensors", "data.npz", settings, workers=1, falsify="off")
    assert any(row.radius > 0.0 for row in report.examples)
    assert verify_report(report) == ()
