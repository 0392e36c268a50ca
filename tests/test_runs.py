"""What a run re-uses: the counts of its own network, and of no other that has the same weights."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from certify.loading import Model, load
from certify.results import SmoothingReport, SmoothingSettings
from certify.runs import smooth

FACTORY = """
from torch import nn

def build():
    return nn.Sequential(nn.Linear(4, 8), nn.{activation}(), nn.Linear(8, 3)), {facts}
"""
NETWORKS = {
    "relu": ("ReLU", {"input_shape": (4,)}),
    "tanh": ("Tanh", {"input_shape": (4,)}),
    "normalised": ("ReLU", {"input_shape": (4,), "mean": (0.7,) * 4, "std": (0.1,) * 4}),
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a file of weights, and data."""
    monkeypatch.chdir(tmp_path)
    numbers = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (8, 4), "0.bias": (8,), "2.weight": (3, 8), "2.bias": (3,)}
    save_file({name: torch.randn(shape, generator=numbers) for name, shape in shapes.items()}, "weights.safetensors")
    np.savez("data.npz", x=np.random.default_rng(0).integers(0, 256, (3, 4), dtype=np.uint8), y=np.array([0, 1, 2]))
    return tmp_path


def network(name: str) -> Model:
    """Return the weights of the folder in a network; the file of the factory is written anew each time."""
    activation, facts = NETWORKS[name]
    Path("arch.py").write_text(FACTORY.format(activation=activation, facts=facts))
    return load("weights.safetensors", arch="arch.py:build")


def certified(model: Model, store: str) -> SmoothingReport:
    return smooth(model, "data.npz", SmoothingSettings(sigma=0.25, n=600), store=store, batch=128, workers=1)


def plain(report: SmoothingReport):
    return [msgspec.structs.replace(example, seconds=0.0) for example in report.examples]


def test_a_store_never_serves_another_network_of_the_same_weights(folder):
    models = {name: network(name) for name in NETWORKS}
    assert len({model.sha256 for model in models.values()}) == 1
    own = {name: plain(certified(model, f"store of {name}")) for name, model in models.items()}
    assert own["relu"] != own["tanh"]
    assert own["relu"] != own["normalised"]
    assert {name: plain(certified(model, "shared")) for name, model in models.items()} == own


def test_the_same_network_loaded_again_is_served(folder):
    first = certified(network("relu"), "store")
    (path,) = Path("store").glob("*.sqlite")
    assert certified(network("relu"), "store").digest == first.digest
    assert list(Path("store").glob("*.sqlite")) == [path]


def test_a_network_is_known_by_every_weight(folder):
    model = network("relu")
    name, tensor = next(iter(model.graph.tensors.items()))
    moved = tensor.clone()
    moved.view(-1)[0] = torch.nextafter(moved.view(-1)[0], torch.tensor(torch.inf))
    other = model.graph.to(torch.float32)
    tensors = {**other.tensors, name: moved}
    assert other.sha256 == model.graph.sha256
    assert type(other)(other.operations, other.output, other.input_shape, tensors).sha256 != other.sha256
