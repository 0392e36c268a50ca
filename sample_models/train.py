"""Make everything in this folder from scratch: the test images as class folders, and the trained models.

    python sample_models/train.py [--output FOLDER] [--only NAME ...]

Needs scikit-learn (``pip install certify-nn[test]``), no accelerator, and a few minutes on two cores. The split, the
seeds and the algorithms are fixed, so one machine gives the same files every time; another processor or another
version of PyTorch sums in another order and gives weights that differ, with figures about as good.

Pixels. A value v = 0 ... 16 of scikit-learn's digits becomes the 8-bit pixel round(255 v / 16), and every model is
trained on these pixels / 255: what is certified is exactly what the files hold.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from networks import CLASSES, INPUT_SHAPE, AttentionNet, LipschitzMLP, LipschitzResNet, ResidualNet, SmallCNN
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample, log_softmax, nll_loss
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from certify.layers.losses import pairwise_cross_entropy
from certify.layers.noise import with_noise
from certify.layers.penalties import activation_decay
from certify.loading import save

TEST_SIZE = 360
SIGMA = 0.25
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Digits:
    """The digits as 8-bit images ``[1797, 8, 8]`` and labels, with the rows of the training and the test part."""

    images: np.ndarray
    labels: np.ndarray
    training: np.ndarray
    test: np.ndarray

    def tensors(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the pixels ``[n, 1, 8, 8]`` in [0, 1] and the labels of some rows."""
        return torch.tensor(self.images[rows]).unsqueeze(1) / 255, torch.tensor(self.labels[rows])


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network is trained: AdamW under one cycle of the learning rate."""

    epochs: int
    batch: int
    rate: float
    augment: bool = False


def read_digits() -> Digits:
    """Return the data and its split: 360 test rows, stratified by class, always the same."""
    digits = load_digits()
    images = np.rint(digits.images * 255 / 16).astype(np.uint8)
    rows = np.arange(len(digits.target))
    training, test = train_test_split(rows, test_size=TEST_SIZE, stratify=digits.target, random_state=0)
    return Digits(images, digits.target, training, test)


def write_test_folders(digits: Digits, folder: Path) -> None:
    """Write each test image to ``<folder>/<class>/<row>.png``, 8-bit gray."""
    for row in digits.test:
        path = folder / CLASSES[digits.labels[row]] / f"{row:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.images[row]).save(path)


def distort(x: Tensor) -> Tensor:
    """Return half of the images as they are, the others turned, scaled, sheared and shifted at random.

    By up to 10 degrees, 8 %, 0.1 and half a pixel; the images left alone keep the training near the law of the test.
    """

    def uniform(limit: float) -> Tensor:
        return (2 * torch.rand(len(x)) - 1) * limit

    turn, shear = uniform(math.radians(10)), uniform(0.1)
    wide, high = 1 + uniform(0.08), 1 + uniform(0.08)
    first_row = torch.stack([turn.cos() * wide, shear - turn.sin() * wide, uniform(0.125)], dim=1)
    second_row = torch.stack([turn.sin() * high, turn.cos() * high, uniform(0.125)], dim=1)
    maps = torch.stack([first_row, second_row], dim=1)
    grid = affine_grid(maps, list(x.shape), align_corners=False)
    kept = torch.rand(len(x), 1, 1, 1) < 0.5
    return torch.where(kept, x, grid_sample(x, grid, align_corners=False))


def batches(x: Tensor, y: Tensor, schedule: Schedule) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the shuffled, possibly distorted batches of all epochs."""
    for _ in range(schedule.epochs):
        for rows in torch.randperm(len(x)).split(schedule.batch):
            yield (distort(x[rows]) if schedule.augment else x[rows]), y[rows]


def fit(network: nn.Module, loss: Loss, x: Tensor, y: Tensor, schedule: Schedule) -> None:
    """Train a network in place and leave it in evaluation mode."""
    steps = schedule.epochs * math.ceil(len(x) / schedule.batch)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=5e-4)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.rate, total_steps=steps, pct_start=0.15)
    network.train()
    for inputs, labels in batches(x, y, schedule):
        optimizer.zero_grad()
        loss(network, inputs, labels).backward()
        optimizer.step()
        cycle.step()
    network.eval()


def consistent_noise_loss(network: nn.Module, x: Tensor, y: Tensor, draws: int = 4, weight: float = 0.5) -> Tensor:
    """Return the loss under Gaussian noise, plus a penalty where the draws of one image disagree.

    Mean cross-entropy of ``draws`` noisy copies of each image, plus ``weight`` times the mean Kullback-Leibler
    divergence KL(q || p_i) of each copy's prediction p_i from their average q. Reference: Cohen et al., 1902.02918
    (noise); Jeong and Shin, 2006.04021 (consistency).
    """
    copies = x.repeat(draws, 1, 1, 1)
    log_p = log_softmax(network(copies + SIGMA * torch.randn_like(copies)), dim=1)
    by_draw = log_p.unflatten(0, (draws, -1))
    average = by_draw.exp().mean(dim=0)
    disagreement = (average * (average.clamp_min(1e-9).log() - by_draw)).sum(dim=-1).mean()
    return nll_loss(log_p, y.repeat(draws)) + weight * disagreement


def pair_margin_loss(network: nn.Module, x: Tensor, y: Tensor, radius: float = 0.3, heat: float = 0.25) -> Tensor:
    """Return the loss that asks for a certified l2 radius of a network whose hidden part is 1-Lipschitz.

    The difference of logits j and y then moves by at most r ||w_j - w_y|| within distance r, where w_j are the rows of
    the last layer. So logit j is raised by ``radius`` ||w_j - w_y|| before a cross-entropy at temperature ``heat``.
    Reference: Tsuzuku et al., 1802.04034 (there with one constant for all pairs).
    """
    head = network.get_parameter("head.weight")
    gains = (head.unsqueeze(1) - head.unsqueeze(0)).square().sum(dim=-1).add(1e-12).sqrt()
    logits = network(x + 0.1 * torch.randn_like(x))
    return cross_entropy((logits + radius * gains[y]) / heat, y)


def certificate_loss(network: LipschitzResNet, x: Tensor, y: Tensor, radius: float = 0.4, heat: float = 0.1) -> Tensor:
    """Return the loss that asks for a certified l2 radius of a network that is 1-Lipschitz up to its last layer."""
    constants = network.head.pair_constants
    return pairwise_cross_entropy(network(x), y, radius=radius, pair_constants=constants, temperature=heat)


def noise_loss(network: SmallCNN, x: Tensor, y: Tensor, decay: float = 0.0) -> Tensor:
    """Return the cross-entropy of two noisy copies of each image, plus activation decay for weight noise ``decay``."""
    copies = with_noise(x.repeat(2, 1, 1, 1), SIGMA)
    activations = network.body(copies)
    fit_loss = cross_entropy(network.head(activations), y.repeat(2))
    return fit_loss + activation_decay(activations, sigma=decay)


def plain_loss(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy under slight noise."""
    return cross_entropy(network(x + 0.1 * torch.randn_like(x)), y)


def freeze_parametrizations(network: nn.Module) -> None:
    """Replace every parametrised weight by its present value."""
    for module in list(network.modules()):
        if is_parametrized(module):
            remove_parametrizations(module, "weight")


NOISY = Schedule(epochs=60, batch=128, rate=5e-3, augment=True)
RECIPES: dict[str, tuple[Callable[[], nn.Module], Loss, Schedule]] = {
    "model": (ResidualNet, consistent_noise_loss, Schedule(epochs=300, batch=256, rate=1e-2, augment=True)),
    "mlp": (LipschitzMLP, pair_margin_loss, Schedule(epochs=200, batch=128, rate=5e-3)),
    "attention": (AttentionNet, plain_loss, Schedule(epochs=60, batch=128, rate=5e-3, augment=True)),
    "residual": (LipschitzResNet, certificate_loss, Schedule(epochs=60, batch=64, rate=1e-2, augment=True)),
    "decay_off": (SmallCNN, noise_loss, NOISY),
    "decay_on": (SmallCNN, partial(noise_loss, decay=0.1), NOISY),
}


def train(name: str, digits: Digits, seed: int = 0) -> nn.Module:
    """Return the trained network of a recipe; each starts from the same seed, whatever was trained before."""
    build, loss, schedule = RECIPES[name]
    torch.manual_seed(seed)
    network = build()
    fit(network, loss, *digits.tensors(digits.training), schedule)
    freeze_parametrizations(network)
    return network


def accuracy_estimate(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the share of clean images that the network's argmax gets right."""
    with torch.inference_mode():
        return float((network(x).argmax(dim=1) == y).double().mean())


def main() -> None:
    """Write the images and the models, and print what was made."""
    parser = argparse.ArgumentParser(description="Make the sample models and their data.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="default: the folder of this file")
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), default=list(RECIPES), help="default: all models")
    asked = parser.parse_args()
    folder = asked.output
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    digits = read_digits()
    write_test_folders(digits, folder / "data")
    for name in asked.only:
        started = time.perf_counter()
        network = train(name, digits)
        seconds = time.perf_counter() - started
        path = folder / f"{name}.safetensors"
        save(network, path, input_shape=INPUT_SHAPE, classes=CLASSES, range=(0.0, 1.0), space="pixels")
        accuracy = accuracy_estimate(network, *digits.tensors(digits.test))
        print(f"{path}: {accuracy:.1%} of {TEST_SIZE} test images, trained in {seconds:.0f} s")


if __name__ == "__main__":
    main()
