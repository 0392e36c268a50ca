"""The sample models are what their README says: scikit-learn's data, networks that classify, small files.

The pixels are held to scikit-learn's own arrays and the split is drawn again; the accuracies are of the stored files,
run by the loading package on the stored images.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from certify.bounds import analyse, certify_example
from certify.cli.app import main
from certify.curvature import last_layer_curvature
from certify.graph import run_all
from certify.loading import load, read_data
from certify.results import LipschitzSettings
from certify.stats import population_limits

FOLDER = Path(__file__).parent.parent / "sample_models"
CLEAN = {  # the README's promises, below its measured figures
    "model": 0.98,
    "mlp": 0.95,
    "attention": 0.95,
    "residual": 0.95,
    "decay_off": 0.97,
    "decay_on": 0.97,
}


def model(name, folder=FOLDER):
    return load(folder / f"{name}.safetensors")


def data(folder=FOLDER):
    loaded = model("model")
    return read_data(folder / "data", input=loaded.input, classes=loaded.classes)


def accuracy(name, folder=FOLDER):
    examples = data(folder).examples
    pixels = torch.tensor(np.stack([example.values() for example in examples]))
    predicted = model(name, folder).predict("cpu", torch.float64)(pixels).argmax(dim=1)
    return float((predicted == torch.tensor([example.label for example in examples])).double().mean())


def radii_of(name, settings):
    analysis = analyse(model(name).graph, settings)
    examples = [certify_example(analysis, example, settings) for example in data()]
    return np.array([example.radius if example.correct else -1.0 for example in examples])


def test_the_images_are_the_stratified_test_split_of_the_digits():
    digits = load_digits()
    rows = np.arange(len(digits.target))
    _, test = train_test_split(rows, test_size=360, stratify=digits.target, random_state=0)
    expected = {f"{digits.target[row]}/{row:04d}.png" for row in test}
    assert {path.relative_to(FOLDER / "data").as_posix() for path in (FOLDER / "data").rglob("*.*")} == expected


def test_every_pixel_is_the_rounded_value_of_scikit_learn():
    values = load_digits().images
    for path in (FOLDER / "data").rglob("*.png"):
        with Image.open(path) as image:
            assert image.mode == "L"
            pixels = np.asarray(image).astype(int)
        exact = values[int(path.stem)]
        assert (np.abs(16 * pixels - 255 * exact) <= 8).all()  # |pixel - 255 v / 16| <= 1/2
        assert (pixels[exact == 8] == 128).all()  # the only tie, 127.5, goes to the even side


def test_the_reader_finds_all_of_them_as_eight_bit_examples():
    found = data()
    assert len(found) == found.total == 360
    assert found.eight_bit
    assert {example.label for example in found} == set(range(10))


@pytest.mark.parametrize("name", CLEAN)
def test_each_model_describes_itself_and_classifies_the_folder(name):
    loaded = model(name)
    assert loaded.classes == tuple("0123456789")
    assert (loaded.input.shape, loaded.input.range, loaded.input.space) == ((1, 8, 8), (0.0, 1.0), "pixels")
    assert accuracy(name) >= CLEAN[name]


def test_together_the_models_stay_under_a_megabyte():
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) < 1_000_000


def test_the_mlp_has_useful_radii_from_the_product_bound():
    radii = radii_of("mlp", LipschitzSettings(method="product"))
    assert (radii >= 0.1).mean() >= 0.93
    assert (radii >= 0.25).mean() >= 0.85


def test_the_residual_network_is_1_lipschitz_up_to_its_head_and_its_gates_pass():
    settings = LipschitzSettings(method="product")
    analysis = analyse(model("residual").graph, settings)
    steps = [row.upper for row in analysis.layers if row.kind == "gradient_step"]
    assert len(steps) == 3
    assert max(steps) <= 1.0001
    gates = tomllib.loads((FOLDER / "lipschitz.toml").read_text())["gate"]
    assert analysis.network.upper <= gates[1]["max"]
    certified = int((radii_of("residual", settings) >= gates[0]["radius"]).sum())
    assert population_limits(certified, 360, confidence=0.95, alpha=0.0)[0] >= gates[0]["min"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["certify", "lipschitz", "decay"])
def test_the_gates_of_the_folder_pass(name, tmp_path, capsys):
    assert main(["gate", "--config", str(FOLDER / f"{name}.toml"), "--store", str(tmp_path), "-q"]) == 0
    assert capsys.readouterr().out


def test_activation_decay_is_all_that_tells_two_models_apart_and_it_flattens_the_last_layer():
    pixels = torch.tensor(np.stack([example.values() for example in data()]))
    labels = torch.tensor([example.label for example in data()])
    largest = {}
    for name in ("decay_off", "decay_on"):
        graph = model(name).graph.to(torch.float64, "cpu")
        *_, head = graph.operations
        values = run_all(graph, pixels)
        found = last_layer_curvature(values[head.inputs[0]], values[head.name], labels)
        largest[name] = float(found.largest.mean())
    kinds = [[op.kind for op in model(name).graph] for name in largest]
    assert kinds[0] == kinds[1]
    assert largest["decay_on"] <= 0.1 * largest["decay_off"]


def test_the_attention_model_has_no_global_bound_and_the_reason_names_attention():
    network = analyse(model("attention").graph, LipschitzSettings()).network
    assert network.upper is None
    assert "attention" in network.reason


def test_noisy_votes_of_the_residual_network_support_the_gates():
    """A plain vote over 200 float draws an image, without certify's sampler: far from certificates, but independent."""
    predict, generator = model("model").predict(), torch.Generator().manual_seed(1)
    right = 0
    for example in data():
        noisy = torch.tensor(example.values()) + 0.25 * torch.randn(200, 1, 8, 8, generator=generator)
        right += int(predict(noisy).argmax(dim=1).eq(example.label).double().mean() > 0.85)  # Phi(0.25 / 0.25) = 0.841
    assert right / 360 >= 0.92


@pytest.mark.parametrize("gate, count", [(0, 334), (1, 350)])
def test_the_counts_named_beside_the_gates_are_the_least_that_pass(gate, count):
    row = tomllib.loads((FOLDER / "certify.toml").read_text())["gate"][gate]
    lower, _ = population_limits(count, 360, confidence=row["confidence"], alpha=0.001)
    below, _ = population_limits(count - 1, 360, confidence=row["confidence"], alpha=0.001)
    assert below < row["min"] <= lower


@pytest.mark.slow
def test_the_script_makes_the_same_data_and_models_as_good(tmp_path):
    subprocess.run([sys.executable, FOLDER / "train.py", "--output", tmp_path], check=True, cwd=FOLDER.parent)
    for path in (FOLDER / "data").rglob("*.png"):
        with Image.open(path) as stored, Image.open(tmp_path / path.relative_to(FOLDER)) as made:
            assert np.array_equal(stored, made)
    for name, least in CLEAN.items():
        assert accuracy(name, tmp_path) >= least
