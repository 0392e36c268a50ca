"""Networks trained by others: the bound lies between their steepest point and the product of their layers' norms.

The networks and attacked images are not part of this repository; without them these tests are skipped.
"""

import gzip
import importlib.util
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from certify.bounds import Analysis, analyse, certify_examples, jacobian_floor
from certify.examples import Example
from certify.graph import Graph, trace
from certify.results import LipschitzSettings

ROOT = Path(os.environ.get("CERTIFY_PUBLISHED_NETWORKS", Path(__file__).parents[3] / "shared" / "real"))
NAMES = (
    "lipsdp_mnist_50",
    "abc_mnist_conv_small_nat",
    "kw_mnist_linf01",
    "lirpa_mnist_fc_3layer",
    "mmr_univ_mnist",
    "sdp_cifar_cnn_a_mix",
    "kw_cifar_small_l2_36_stage0",
)
pytestmark = pytest.mark.skipif(not (ROOT / "models").is_dir(), reason=f"published networks are not at {ROOT}")
STORED_FLOAT32 = 1e-5  # distances of attacks were stored in float32
SETTINGS = LipschitzSettings(effort="fast")


def meta(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "models" / name / "meta.json").read_text())


@cache
def graph(name: str) -> Graph:
    folder = ROOT / "models" / name
    spec = importlib.util.spec_from_file_location(f"arch_{name}", folder / "arch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.build().eval()
    network.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    facts = meta(name)
    return trace(network, facts["input_shape"], mean=facts["mean"], std=facts["std"])


@cache
def analysis(name: str) -> Analysis:
    return analyse(graph(name), SETTINGS)


@cache
def mnist() -> np.ndarray:
    with gzip.open(ROOT / "data" / "mnist" / "t10k-images-idx3-ubyte.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)


@cache
def cifar() -> np.ndarray:
    with np.load(ROOT / "data" / "cifar10_300.npz") as data:
        return np.ascontiguousarray(data["x"].transpose(0, 3, 1, 2))


@cache
def attacks(name: str) -> dict[str, np.ndarray]:
    with np.load(ROOT / "models" / name / "l2_attack_upper.npz") as data:
        return dict(data)


def examples(name: str) -> list[Example]:
    images = mnist() if meta(name)["dataset"] == "mnist" else cifar()
    found = attacks(name)
    pairs = zip(found["test_index"], found["label"], strict=True)
    return [Example(k, f"{index}", int(label), images[index]) for k, (index, label) in enumerate(pairs)]


@pytest.mark.parametrize("name", NAMES)
def test_the_bound_is_above_the_steepest_image_and_at_most_the_product_of_norms(name: str) -> None:
    pixel_space = meta(name)["lipschitz_l2"]["pixel_space"]
    upper = analysis(name).network.upper
    assert upper is not None
    assert pixel_space["jacobian_floor"] <= upper <= 1.001 * pixel_space["product_ceiling"]


@pytest.mark.parametrize("name", NAMES)
def test_no_certified_radius_exceeds_the_distance_of_an_attack(name: str) -> None:
    distances = attacks(name)["l2_distance"].tolist()
    for row, distance in zip(certify_examples(analysis(name), examples(name), SETTINGS), distances, strict=True):
        assert row.radius * row.correct <= distance * (1 + STORED_FLOAT32)


@pytest.mark.parametrize("name", NAMES)
def test_some_images_are_certified_with_a_radius_the_float_error_leaves_alone(name: str) -> None:
    rows = list(certify_examples(analysis(name), examples(name)[:20], SETTINGS))
    certified = [row for row in rows if row.radius > 0]
    assert len(certified) >= 15
    for row in certified:
        assert row.error_upper < 1e-6 * row.margin_lower


@pytest.mark.parametrize("name", ["lipsdp_mnist_50", "kw_cifar_small_l2_36_stage0"])
def test_the_jacobian_floor_is_the_recorded_one(name: str) -> None:
    steepest = attacks(name)["jac_spectral_pixel"]
    few = np.argsort(-steepest)[:3]
    found = jacobian_floor(graph(name), [examples(name)[k] for k in few])
    assert found == pytest.approx(float(steepest.max()), rel=1e-5)


KEPT = {"float64": 0.999999, "float32": 0.9}
STEEP = "sdp_cifar_cnn_a_mix"  # bound 7654: in float32 the error at the edge of the ball eats most of the margin


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arithmetic", KEPT)
def test_a_deployed_program_keeps_most_of_the_radius(name: str, arithmetic: str) -> None:
    few = examples(name)[:8]
    exact = list(certify_examples(analysis(name), few, SETTINGS))
    deployed = list(certify_examples(analysis(name), few, LipschitzSettings(arithmetic=arithmetic)))
    assert all(b.radius <= a.radius for a, b in zip(exact, deployed, strict=True))
    kept = 0.01 if (name, arithmetic) == (STEEP, "float32") else KEPT[arithmetic]
    assert sum(row.radius for row in deployed) >= kept * sum(row.radius for row in exact) > 0
