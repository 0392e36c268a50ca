"""Which data a run takes: 8-bit images, floats, and what it refuses before the first draw."""

import numpy as np
import pytest
import torch

from certify.errors import InputError
from certify.examples import Dataset, Example
from certify.results import SmoothingSettings
from certify.smoothing import RunHeader, make_tables, open_store, run_smoothing
from certify.smoothing.laws import make_law
from certify.smoothing.procedure import plan_procedure
from tests.smoothing.toy_runs import SETTINGS, dataset, header, predict, run, without_seconds


def data_of(*arrays, ids=None):
    ids = [str(i) for i in range(len(arrays))] if ids is None else ids
    examples = (Example(i, name, 1, array) for i, (name, array) in enumerate(zip(ids, arrays, strict=True)))
    return Dataset(tuple(examples), total=len(arrays), selection="all")


def quarter_space(x):
    """Class 1 iff the first coordinate is above 1/2: exact in every dtype and order."""
    score = (x[:, 0] > 0.5).float()
    return torch.stack([1 - score, score, torch.full_like(score, -1.0)], dim=1)


@pytest.mark.parametrize("stored", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_float_data_use_float_noise_in_any_dtype(tmp_path, stored, dtype):
    seen = set()

    def watched(x):
        seen.add(x.dtype)
        return quarter_space(x)

    data = data_of(np.array([1.5, -3.0], dtype=stored), np.array([0.6, 9.0], dtype=stored))
    settings = SmoothingSettings(sigma=0.5, n=3000, dtype=dtype)
    far, near = run(tmp_path, data, settings, watched)
    assert seen == {getattr(torch, dtype)}
    assert (far.predicted, far.correct) == (1, True)
    assert near.radius < far.radius <= 1.0  # the distance of 1.5 from 1/2


def test_float_noise_on_images_is_another_run_with_its_label(tmp_path):
    data = dataset(2)
    sound, floating = (SmoothingSettings(sigma=0.25, n=700, float_noise=choice) for choice in (False, True))
    assert header(data, sound).noise_law == "gaussian-255"
    assert header(data, floating).noise_law == "gaussian"
    assert len(run(tmp_path, data, floating)) == 2
    law = make_law(floating, eight_bit=True)
    tables = make_tables(plan_procedure(floating, classes=3, law=law, dimension=6), law)
    assert "not float-sound" in tables.noise
    assert tables.alpha_charged == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    with pytest.raises(InputError, match=r"^1: expected finite"):
        run(tmp_path, data_of(np.zeros(2), np.array([0.0, value])), classify=quarter_space)


def test_ragged_empty_and_repeated_data_are_refused(tmp_path):
    with pytest.raises(InputError, match="shape"):
        run(tmp_path, data_of(np.zeros(2), np.zeros(3)), classify=quarter_space)
    with pytest.raises(InputError, match="at least one example"):
        run(tmp_path, data_of(), classify=quarter_space)
    with pytest.raises(InputError, match="every example once"):
        run(tmp_path, data_of(np.zeros(2), np.zeros(2), ids=["a", "a"]), classify=quarter_space)


def test_equal_images_get_independent_noise(tmp_path):
    image = dataset(1).examples[0].stored
    first, second = run(tmp_path, data_of(image, image))
    assert first.hash == second.hash
    assert first.counts.selection != second.counts.selection


def test_hostile_ids_are_kept_as_they_are(tmp_path):
    names = ['"],["', "\x1b[31m\n", "'; DROP TABLE block; --", "\udcff", "‮"]
    data = data_of(*(example.stored for example in dataset(5)), ids=names)
    assert [found.id for found in run(tmp_path, data)] == names
    assert [found.id for found in run(tmp_path, data)] == names  # read back


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", [{"batch": 64}, {"batch": 100}, {"batch": "auto"}, {"batch": 512, "workers": 4}])
def test_cuda_gives_the_counts_of_the_cpu(tmp_path, options):
    data = dataset()

    def on_device(x):
        assert x.is_cuda
        return predict(x.cpu()).to(x.device)

    there = RunHeader("toy", data.sha256, SETTINGS, 3, "gaussian-255", device_kind="cuda")
    with open_store(tmp_path / "cuda", there) as store:
        found = run_smoothing(on_device, data, classes=3, settings=SETTINGS, store=store, device="cuda", **options)
        assert without_seconds(found) == run(tmp_path / "cpu", data)
