"""Networks trained by others: local radii never beyond a known adversarial example, and at least those of comparisons.

They are not part of the product: where the folder is absent these tests skip. The figures to reach are those of an
unproved prototype of the same method; of auto_LiRPA (CROWN, 50 images) they are .358 for the dense network and .473 for
the convolutional one.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from certify.bounds.facts import collect_structure
from certify.bounds.local.certify import LocalNetwork
from certify.bounds.local.chain import Chain, chain_of
from certify.graph import trace

REAL = Path(os.environ.get("CERTIFY_REAL", Path(__file__).parents[4] / "shared" / "real"))
pytestmark = pytest.mark.skipif(not (REAL / "models").is_dir(), reason=f"no real networks at {REAL}")


def load(name: str) -> tuple[Chain, torch.Tensor, np.ndarray, np.ndarray]:
    """Return the network with its normalisation inside, and images, labels and attack distances."""
    folder = REAL / "models" / name
    meta = json.loads((folder / "meta.json").read_text())
    spec = importlib.util.spec_from_file_location(f"local_{name}", folder / "arch.py")
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    module = code.build()
    module.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    facts = collect_structure(trace(module.eval(), tuple(meta["input_shape"]), mean=meta["mean"], std=meta["std"]))
    chain = chain_of(facts, facts.graph.output)
    assert isinstance(chain, Chain)
    attack = np.load(folder / "l2_attack_upper.npz")
    if meta["dataset"] == "mnist":
        raw = gzip.decompress((REAL / "data/mnist/t10k-images-idx3-ubyte.gz").read_bytes())
        images = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    else:
        images = np.load(REAL / "data/cifar10_300.npz")["x"].transpose(0, 3, 1, 2)
    x = torch.from_numpy(images[attack["test_index"]].astype(np.float64) / 255)
    return chain, x, attack["label"], attack["l2_distance"]


def radii(name: str, effort: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return certified radii of the first images, 0 where the class is wrong, and the attack distances."""
    chain, x, label, distance = load(name)
    y = chain.run(x[:count]).argmax(1)
    found = LocalNetwork(chain, "l2", effort).certify(x[:count], y, rounded_input=True)
    certified = np.array([min(one.radius for one in row) for row in found])
    return certified * (y.numpy() == label[:count]), distance[:count]


@pytest.mark.parametrize(
    ("name", "effort", "count", "mean", "shares"),
    [
        ("lirpa_mnist_fc_3layer", "fast", 50, 0.358, (0.96, 0.84, 0.16)),
        ("lirpa_mnist_fc_3layer", "default", 50, 0.4545, (0.96, 0.90, 0.40)),
        ("abc_mnist_conv_small_nat", "fast", 3, 0.44, (1.0, 1.0, 0.2)),
        pytest.param("abc_mnist_conv_small_nat", "default", 50, 0.736, (0.98, 0.96, 0.9), marks=pytest.mark.slow),
        pytest.param("kw_mnist_linf01", "default", 50, 0.292, (0.98, 0.84, 0.0), marks=pytest.mark.slow),
        pytest.param("mmr_univ_mnist", "default", 50, 0.653, (1.0, 1.0, 0.92), marks=pytest.mark.slow),
        pytest.param("kw_cifar_small_l2_36_stage0", "default", 50, 0.288, (0.56, 0.52, 0.26), marks=pytest.mark.slow),
    ],
)
def test_radii_reach_the_figures_and_no_attack(name, effort, count, mean, shares):
    certified, distance = radii(name, effort, count)
    assert bool((certified <= distance * (1 + 1e-5)).all())
    assert certified.mean() >= mean
    reached = tuple(float((certified >= radius).mean()) for radius in (0.1, 0.25, 0.5))
    assert all(have >= need for have, need in zip(reached, shares, strict=True))


def lowest_margins(chain: Chain, x: torch.Tensor, y: int, ball: float) -> torch.Tensor:
    """Return inputs of the ball that lower the lead of class y over each other one, from the centre and from afar.

    Rivals, starts and steps are those of projected gradient descent on every single margin, ``[rivals * starts, n]``.
    """
    others = [j for j in range(chain.outputs) if j != y]
    random = torch.randn(3, x.numel(), generator=torch.Generator().manual_seed(y), dtype=torch.float64)
    starts = torch.cat([torch.zeros(1, x.numel(), dtype=torch.float64), ball * random / random.norm(dim=1)[:, None]])
    moved, rival = starts.repeat(len(others), 1), torch.tensor(others).repeat_interleave(len(starts))
    for step in range(20):
        moved.requires_grad_(True)
        z = chain.run((x.flatten() + moved).reshape(-1, *x.shape))
        (gradient,) = torch.autograd.grad((z[:, y] - z.gather(1, rival[:, None])[:, 0]).sum(), moved)
        moved = moved.detach() - ball * (1 - step / 20) * gradient / gradient.norm(dim=1, keepdim=True).clamp(min=1e-30)
        moved = moved * (ball / moved.norm(dim=1, keepdim=True)).clamp(max=1.0)
    return moved


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("lirpa_mnist_fc_3layer", 2),
        *(
            pytest.param(name, 5, marks=pytest.mark.slow)
            for name in (
                "abc_mnist_conv_small_nat",
                "kw_mnist_linf01",
                "mmr_univ_mnist",
                "kw_cifar_small_l2_36_stage0",
                "sdp_cifar_cnn_a_mix",
            )
        ),
    ],
)
def test_attacks_on_every_margin_stay_above_its_certificate(name, count):
    """margin_j >= v_j - s_j ||d||, for every class and not only where the class changes."""
    chain, x, _, _ = load(name)
    y = chain.run(x[:count]).argmax(1)
    found = LocalNetwork(chain).certify(x[:count], y, rounded_input=True)
    for n in range(count):
        ball = min(one.ball for one in found[n])
        assert 0.0 < ball < 100.0
        moved = lowest_margins(chain, x[n], int(y[n]), ball * (1 - 1e-9))
        z, away = chain.run((x[n].flatten() + moved).reshape(-1, *x[n].shape)), moved.norm(dim=1)
        others = [j for j in range(chain.outputs) if j != int(y[n])]
        for j, one in zip(others, found[n], strict=True):
            lead = z[:, y[n]] - z[:, j]
            assert bool((lead >= one.v - one.s * away - 1e-9).all())
