"""True certificates beside true readings of random networks of any scale: nothing contradicts, each view is written."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import certify
from certify.report import FORMATS, verify_report
from certify.results import CurvatureSettings, LipschitzSettings

ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.LeakyReLU, nn.Softplus, nn.ELU)


def random_network(seed: int) -> tuple[nn.Module, tuple[int, ...], int]:
    """Return a dense or convolutional network whose product of weights is of a size from 1e-4 to 1e4."""
    random.seed(seed)
    torch.manual_seed(seed)
    classes, act = random.choice([2, 3, 5]), random.choice(ACTIVATIONS)
    if seed % 2:
        pool = random.choice([nn.MaxPool2d(2), nn.AvgPool2d(2)])
        layers: list[nn.Module] = [nn.Conv2d(1, 2, 3, padding=1), act(), pool, nn.Flatten(), nn.Linear(8, classes)]
        shape: tuple[int, ...] = (1, 4, 4)
    else:
        widths = [random.choice([1, 2, 5]) for _ in range(random.choice([1, 2, 4]))]
        hidden = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), act())]
        layers, shape = [*hidden, nn.Linear(widths[-1], classes)], (widths[0],)
    module = nn.Sequential(*layers).eval().to(random.choice([torch.float32, torch.float64]))
    scale = 10.0 ** random.uniform(-4, 4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(scale ** (1 / len(layers)))
    return module, shape, classes


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_true_reports_are_consistent(seed: int, tmp_path: Path) -> None:
    module, shape, classes = random_network(seed)
    numbers, count = np.random.default_rng(seed), random.choice([1, 2, 9])
    x = 10.0 ** random.uniform(-3, 3) * numbers.normal(size=(count, *shape)) * random.choice([0.0, 1.0, 1.0])
    x += 1e-9 * np.arange(count).reshape(-1, *[1] * len(shape))  # equal inputs would be one example twice
    np.savez(tmp_path / "d.npz", x=x, y=numbers.integers(0, classes, size=count))
    certify.save(module, tmp_path / "m.safetensors", input_shape=shape)
    beside = [
        certify.lipschitz(
            tmp_path / "m.safetensors",
            tmp_path / "d.npz",
            LipschitzSettings(norm=norm, effort="fast", method="product", local=0.1),
            falsify="off",
        )
        for norm in ("l2", "linf")
    ]
    settings = CurvatureSettings(steps=random.choice([1, 5, 30]), probes=6, pairs=2, sigma=0.01, seed=seed)
    report = certify.measure_curvature(tmp_path / "m.safetensors", tmp_path / "d.npz", settings, beside=beside)
    assert verify_report(report) == ()
    assert all(render(report) for name, render in FORMATS.items() if name != "tsv")
