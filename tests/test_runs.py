"""What a run takes: data that fit its model, and the stored counts of its own network and no other."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from certify.errors import InputError
from certify.examples import Dataset, Example
from certify.falsifier import smoothing as falsifier
from certify.loading import Model, load, save
from certify.report import verify_report
from certify.results import SmoothingReport, SmoothingSettings, seal
from certify.runs import lipschitz, smooth
from certify.smoothing import votes

FACTORY = """
from torch import nn

def build():
    return nn.Sequential(nn.Linear(4, 8), nn.{activation}(), nn.Linear(8, 3)), {facts}
"""
NETWORKS = {
    "relu": ("ReLU", {"input_shape": (4,)}),
    "tanh": ("Tanh", {"input_shape": (4,)}),
    "gelu": ("GELU", {"input_shape": (4,)}),
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


@pytest.mark.parametrize(("worth", "cores"), [(0, 2), (10**9, 1)], ids=["large network", "small network"])
def test_attacks_take_the_cores_of_the_run_where_these_are_worth_it_and_votes_one(worth, cores, folder, monkeypatch):
    monkeypatch.setattr("certify.bounds.work.WORTH_SHARING", worth)
    seen = {"gradients": set(), "votes": set()}
    lose_vote, row_votes = falsifier.lose_vote, votes.row_votes
    threads = torch.get_num_threads

    def watched_gradients(*args, **options):
        seen["gradients"].add(threads())
        return lose_vote(*args, **options)

    def watched_votes(logits):
        seen["votes"].add(threads())
        return row_votes(logits)

    monkeypatch.setattr(falsifier, "lose_vote", watched_gradients)
    monkeypatch.setattr(votes, "row_votes", watched_votes)
    before = threads()
    torch.set_num_threads(3)
    try:
        smooth(network("relu"), "data.npz", SmoothingSettings(sigma=0.05, n=600), workers=2)
        assert threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == {"gradients": {cores}, "votes": {1}}


def test_a_network_is_known_by_every_weight(folder):
    model = network("relu")
    name, tensor = next(iter(model.graph.tensors.items()))
    moved = tensor.clone()
    moved.view(-1)[0] = torch.nextafter(moved.view(-1)[0], torch.tensor(torch.inf))
    other = model.graph.to(torch.float32)
    tensors = {**other.tensors, name: moved}
    assert other.sha256 == model.graph.sha256
    assert type(other)(other.operations, other.output, other.input_shape, tensors).sha256 != other.sha256


PAIR = (np.array([0.2, 0.7]), np.array([0.9, 0.1]))
BY_HAND = {
    "no example": ((), {}, "at least one example"),
    "one id twice": (PAIR, {"ids": "aa"}, "ids that differ"),
    "indices that do not rise": (PAIR, {"indices": (3, 3)}, "rising indices"),
    "a label outside the classes": (PAIR, {"labels": (0, 2)}, "label from 0 to 1"),
    "another shape": ((PAIR[0], PAIR[1][:, None]), {}, r"shape \[2\], got float64 of shape \[2, 1\]"),
    "integers": ((PAIR[0], np.array([0, 1])), {}, "got int64"),
    "half precision": (tuple(x.astype(np.float16) for x in PAIR), {}, "got float16"),
    "values outside the range": ((PAIR[0], PAIR[1] - 1), {}, r"values in \[0.0, 0.95\]"),
    "values that are not finite": ((PAIR[0], PAIR[1] * np.nan), {}, "finite"),
    "pixels in another space": (tuple((x * 255).astype(np.uint8) for x in PAIR), {}, "8-bit data stand for pixel/255"),
}


def by_hand(arrays, ids="ab", indices=(0, 1), labels=(0, 1)) -> Dataset:
    rows = zip(indices, ids, labels, arrays, strict=False)
    return Dataset(tuple(Example(*row) for row in rows), total=len(arrays), selection="by hand")


@pytest.fixture
def linear(folder) -> Model:
    """A linear network that declares the range [0, 0.95] for its inputs."""
    save(torch.nn.Linear(2, 2), "linear.safetensors", input_shape=(2,), range=(0, 0.95))
    return load("linear.safetensors")


@pytest.mark.parametrize(("arrays", "changes", "words"), BY_HAND.values(), ids=BY_HAND)
def test_data_put_together_by_hand_are_checked_like_those_of_a_file(linear, arrays, changes, words):
    data = by_hand(arrays, **changes)
    with pytest.raises(InputError, match=words):
        lipschitz(linear, data)
    with pytest.raises(InputError, match=words):
        smooth(linear, data, SmoothingSettings(sigma=0.25, n=300))
    assert not Path(".certify_cache").exists()


def test_data_put_together_by_hand_give_consistent_reports(linear):
    data = by_hand(PAIR, indices=(2, 7))
    assert verify_report(lipschitz(linear, data)) == ()
    assert verify_report(smooth(linear, data, SmoothingSettings(sigma=0.25, n=300), workers=1)) == ()


def test_a_randomized_bound_takes_its_number_from_the_seed_and_the_example(folder):
    """The same counts as under the deterministic bound, radii nowhere smaller, numbers that `verify` derives again."""
    model = network("relu")
    settings = SmoothingSettings(sigma=0.25, n=100, procedure="fixed", bound="clopper-pearson")
    plain_report, report = (
        smooth(model, "data.npz", msgspec.structs.replace(settings, bound=bound), batch=128, workers=1)
        for bound in ("clopper-pearson", "randomized-clopper-pearson")
    )
    assert verify_report(report) == ()
    assert "The bound is randomized" in report.statement.text
    assert all(example.uniform is msgspec.UNSET for example in plain_report.examples)
    for plain_row, row in zip(plain_report.examples, report.examples, strict=True):
        assert row.counts == plain_row.counts
        assert row.radius >= plain_row.radius
        assert 0.0 < row.uniform <= 1.0
    assert any(row.radius > other.radius for row, other in zip(report.examples, plain_report.examples, strict=True))
    luckier = msgspec.structs.replace(report.examples[0], uniform=report.examples[0].uniform / 2.0)
    edited = msgspec.structs.replace(report, examples=(luckier, *report.examples[1:]), digest="")
    assert "examples[0].uniform" in {finding.where for finding in verify_report(seal(edited))}


def test_growth_in_operations_without_a_row_is_no_inconsistency(folder):
    """GELU has slopes above 1: part of the bound grows in it, and the layers' shares are less than the whole."""
    report = lipschitz(network("gelu"), "data.npz")
    assert 0.9 < sum(layer.share for layer in report.layers) < 0.999
    assert verify_report(report) == ()
