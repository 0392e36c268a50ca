"""Trained networks: radii twice the distance of a known flip are broken by the quick level, proved ones are not."""

import importlib.util
import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from safetensors.torch import load_file

from certify.errors import BrokenCertificate
from certify.examples import Example
from certify.falsifier import falsify_lipschitz
from certify.graph import Graph, trace
from tests.falsifier.broken_runs import certified
from tests.falsifier.test_radii import check_evidence

ROOT = Path(os.environ.get("CERTIFY_PUBLISHED_NETWORKS", Path(__file__).parents[3] / "shared" / "real"))
pytestmark = pytest.mark.skipif(not (ROOT / "models").is_dir(), reason=f"published networks are not at {ROOT}")
CIFAR = ("sdp_cifar_cnn_a_mix", "kw_cifar_small_l2_36_stage0")


@cache
def network(name: str) -> Graph:
    folder = ROOT / "models" / name
    spec = importlib.util.spec_from_file_location(f"arch_{name}", folder / "arch.py")
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    module = code.build().eval()
    module.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    meta = json.loads((folder / "meta.json").read_text())
    return trace(module, meta["input_shape"], mean=meta["mean"], std=meta["std"])


def flips(name: str) -> tuple[list[Example], list[float]]:
    """Images that the network gets right, and the l2 distance of an input it gets wrong."""
    with np.load(ROOT / "data" / "cifar10_300.npz") as data:
        images = np.ascontiguousarray(data["x"].transpose(0, 3, 1, 2))
    with np.load(ROOT / "models" / name / "l2_attack_upper.npz") as found:
        usable = np.flatnonzero((found["l2_distance"] > 0) & np.isfinite(found["l2_distance"]))[:20]
        records = [
            (int(found["test_index"][k]), int(found["label"][k]), float(found["l2_distance"][k])) for k in usable
        ]
    examples = [Example(k, str(i), label, images[i]) for k, (i, label, _) in enumerate(records)]
    return examples, [distance for *_, distance in records]


@pytest.mark.parametrize("name", [CIFAR[0], pytest.param(CIFAR[1], marks=pytest.mark.slow)])
def test_a_radius_of_twice_a_known_flip_is_broken_by_the_quick_level(name: str) -> None:
    graph = network(name)
    examples, known = flips(name)
    analysis, rows, settings = certified(graph, examples)
    assert falsify_lipschitz(analysis, examples, rows, settings, range=(0.0, 1.0)).found == 0
    one_wrong = [replace(rows[7], radius=2.0 * known[7]) if k == 7 else row for k, row in enumerate(rows)]
    with pytest.raises(BrokenCertificate) as caught:
        falsify_lipschitz(analysis, examples, one_wrong, settings, range=(0.0, 1.0))
    assert caught.value.evidence["id"] == examples[7].id
    check_evidence(graph, caught.value, "l2", (0.0, 1.0))


@pytest.mark.slow
@pytest.mark.parametrize("name", CIFAR)
def test_the_full_level_breaks_most_radii_beyond_a_known_flip_and_no_proved_one(name: str) -> None:
    graph = network(name)
    examples, known = flips(name)
    analysis, rows, settings = certified(graph, examples)
    assert falsify_lipschitz(analysis, examples, rows, settings, range=(0.0, 1.0), level="full").found == 0
    broken = 0
    for example, row, distance in list(zip(examples, rows, known, strict=True))[:5]:
        wrong = replace(row, radius=1.05 * distance, predicted=row.clean_predicted)
        try:
            falsify_lipschitz(analysis, [example], [wrong], settings, range=(0.0, 1.0), level="full")
        except BrokenCertificate:
            broken += 1
    assert broken >= 4
