"""Seven networks trained by others, with attack distances: the whole path, from `arch.py` to certified radii.

They are not part of the product: where the folder is absent these tests skip. What must hold: the published clean
accuracy, a bound between the largest Jacobian found and the product of converged layer norms, and no certified radius
beyond a known adversarial example.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import certify
from certify.cli.app import main
from certify.loading import read_data
from certify.report import read_report, verify_report

REAL = Path(os.environ.get("CERTIFY_REAL", Path(__file__).parents[2] / "shared" / "real"))
NAMES = (
    *("lipsdp_mnist_50", "abc_mnist_conv_small_nat", "kw_mnist_linf01", "lirpa_mnist_fc_3layer", "mmr_univ_mnist"),
    *("sdp_cifar_cnn_a_mix", "kw_cifar_small_l2_36_stage0"),
)
QUICK = ("lipsdp_mnist_50", "lirpa_mnist_fc_3layer")
EVERYDAY = ("lipsdp_mnist_50", "abc_mnist_conv_small_nat")  # dense, convolutional
pytestmark = pytest.mark.skipif(not (REAL / "models").is_dir(), reason=f"no real networks at {REAL}")
DATA = {"mnist": "data/mnist/t10k-images-idx3-ubyte.gz", "cifar": "data/cifar10_300.npz"}
ACCURACY = {"mnist": "mnist_test_10000", "cifar": "cifar10_300"}


def meta_of(name: str) -> dict:
    return json.loads((REAL / "models" / name / "meta.json").read_text())


@pytest.fixture(scope="module", params=NAMES)
def network(request, tmp_path_factory) -> tuple[dict, Path, Path]:
    """The facts of one network, its self-describing file with the normalisation inside, and its data."""
    folder, meta = REAL / "models" / request.param, meta_of(request.param)
    spec = importlib.util.spec_from_file_location(f"arch_{request.param}", folder / "arch.py")
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    module = code.build()
    module.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    path = tmp_path_factory.mktemp(request.param) / "model.safetensors"
    certify.save(module, path, input_shape=meta["input_shape"], mean=meta["mean"], std=meta["std"])
    return meta, path, REAL / DATA[meta["dataset"]]


EACH = pytest.mark.parametrize(
    "names", [EVERYDAY, pytest.param(NAMES, marks=pytest.mark.slow)], ids=["everyday", "all"]
)


def of(network: tuple[dict, Path, Path], names: tuple[str, ...]) -> tuple[dict, Path, Path]:
    """Return a network that is one of some; another is skipped."""
    if network[0]["name"] not in names:
        pytest.skip("in the slow test")
    return network


def test_clean_accuracy_is_the_published_one(network):
    meta, path, data = network
    model = certify.load(path)
    dataset = read_data(data, input=model.input, classes=model.classes)
    x = torch.from_numpy(np.stack([example.stored for example in dataset])).float() / 255
    predicted = torch.cat([model.predict()(part).argmax(1) for part in x.split(1000)])
    labels = torch.tensor([example.label for example in dataset])
    accuracy = float((predicted == labels).float().mean())
    assert abs(accuracy - meta["clean_accuracy"][ACCURACY[meta["dataset"]]]) < 0.5 / len(dataset)


@EACH
def test_inspect_and_lipschitz(network, names, tmp_path, capsys):
    """The bounds and the radii of all of them are held to the same facts in the tests of bounds every day."""
    meta, path, data = of(network, names)
    assert main(["inspect", str(path)]) == 0
    assert "can treat it" in capsys.readouterr().out
    out = tmp_path / "report.json"
    method = ["--method", "covariance", "--effort", "fast", "--falsify", "off"]
    assert main(["lipschitz", str(path), str(data), "--limit", "200", *method, "-o", str(out), "-q"]) == 0
    report = read_report(out)
    assert verify_report(report) == ()
    facts = meta["lipschitz_l2"]["pixel_space"]
    assert facts["jacobian_floor"] <= report.network.upper <= 1.001 * facts["product_ceiling"]
    assert report.network.data_floor <= report.network.upper
    attack = np.load(REAL / "models" / meta["name"] / "l2_attack_upper.npz")
    distance = dict(zip(attack["test_index"].tolist(), attack["l2_distance"].tolist(), strict=True))
    attacked = [example for example in report.examples if int(example.id) in distance]
    assert len(attacked) >= 100
    for example in attacked:
        assert example.radius * example.correct <= distance[int(example.id)] * (1 + 1e-5)


@pytest.mark.parametrize("effort, count", [("fast", "2"), pytest.param("default", "20", marks=pytest.mark.slow)])
def test_certificates_around_examples(network, effort, count, tmp_path):
    meta, path, data = network
    if effort == "fast" and meta["name"] not in QUICK:
        pytest.skip("seconds an image: in the slow test")
    everywhere, around = tmp_path / "everywhere.json", tmp_path / "around.json"
    few = ["lipschitz", str(path), str(data), "--limit", count, "-q", "-o"]
    assert main([*few, str(everywhere), "--method", "covariance", "--effort", "fast", "--falsify", "off"]) == 0
    assert main([*few, str(around), "--effort", effort]) == 0
    report = read_report(around)
    assert verify_report(report) == ()
    attack = np.load(REAL / "models" / meta["name"] / "l2_attack_upper.npz")
    distance = dict(zip(attack["test_index"].tolist(), attack["l2_distance"].tolist(), strict=True))
    for example, wide in zip(report.examples, read_report(everywhere).examples, strict=True):
        assert example.radius >= wide.radius
        assert example.radius * example.correct <= distance.get(int(example.id), np.inf) * (1 + 1e-5)
    assert sum(example.radius for example in report.examples) > 0.0


@EACH
def test_smooth(network, names, tmp_path):
    _, path, data = of(network, names)
    out = tmp_path / "report.json"
    arguments = ["smooth", str(data), "--model", str(path), "--sigma", "0.25", "--n", "1000", "--limit", "5"]
    assert main([*arguments, "--store", str(tmp_path / "store"), "-o", str(out), "-q"]) == 0
    report = read_report(out)
    assert verify_report(report) == ()
    assert len(report.examples) == 5
    assert report.tables.noise_law == "gaussian-255"
