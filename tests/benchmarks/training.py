"""What training buys: certified accuracy on MNIST, deterministic and smoothed, of one architecture. Prints tables.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.training [--only layers|penalties|best] [--seeds 3] [--images 1000]

``layers``: the same dense network (784-256-256-10) trained plainly and with each family of 1-Lipschitz layers.
``penalties``: the plain one under noise, with each regulariser. ``best``: the recipes that are recommended, three
seeds each. Deterministic shares are of certificates that the tool proves for the stored weights (`certify.lipschitz`,
method product: no searches), on the first test images; smoothed ones of `certify.smooth` on a tenth of them. Seconds
are of processor time. The files of MNIST are looked for in ``../shared/real``; without them there is nothing to do.

Published, for comparison: K. Leino, Z. Wang, M. Fredrikson (GloRo, arXiv 2102.08452) list certified accuracies of
95.7 % at 0.3 and 62.8 % at 1.58 for convolutional networks, each trained for its radius, on the page of their package
(pypi.org/project/gloro). What limits ours: two or three dense layers, minutes of training, one network for all radii.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import certify
from certify.examples import Dataset, Example
from certify.layers import CayleyLinear, ClassLayer, LipschitzLinear, LipschitzResidual, MaxMin
from certify.layers.losses import pairwise_cross_entropy
from certify.layers.noise import consistency_loss, with_noise
from certify.layers.penalties import (
    activation_decay,
    curvature_penalty,
    gram_penalty,
    input_gradient_penalty,
    jacobian_penalty,
)

MNIST = Path(__file__).parents[3] / "shared" / "real" / "data" / "mnist"
RADII = (0.25, 0.3, 0.5, 1.0, 1.58)
SIGMAS = (0.25, 0.5)
WIDTH = 256
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Images:
    """Training and test images as floats in [0, 1], and the bytes of the test images."""

    x: Tensor
    y: Tensor
    test_bytes: np.ndarray
    test_labels: np.ndarray


def read_idx(name: str) -> np.ndarray:
    content = gzip.decompress((MNIST / name).read_bytes())
    shape = np.frombuffer(content, ">i4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def read_mnist() -> Images:
    train, labels, test, test_labels = (
        read_idx(f"{part}-ubyte.gz")
        for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    )
    x = torch.from_numpy(train.astype(np.float32) / 255.0).unsqueeze(1)
    return Images(x, torch.from_numpy(labels.astype(np.int64)), test[:, None], test_labels)


class Network(nn.Module):
    """``body`` gives the input of the last layer ``head``."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def plain_network() -> Network:
    body = nn.Sequential(nn.Flatten(), nn.Linear(784, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())
    return Network(body, nn.Linear(WIDTH, 10))


def stacked(layer: Callable[[int, int], nn.Module], width: int = WIDTH, depth: int = 2) -> Network:
    """Return dense 1-Lipschitz layers with MaxMin between them."""
    sizes = [784, *[width] * depth]
    parts = [part for size in pairwise(sizes) for part in (layer(*size), MaxMin())]
    return Network(nn.Sequential(nn.Flatten(), *parts), ClassLayer(width, 10))


def residual(law: str) -> Network:
    body = nn.Sequential(nn.Flatten(), CayleyLinear(784, WIDTH), *(LipschitzResidual(WIDTH, law=law) for _ in range(2)))
    return Network(body, ClassLayer(WIDTH, 10))


def cross_entropy(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(network(x), y)


def for_certificates(network: Network, x: Tensor, y: Tensor, radius: float = 1.0) -> Tensor:
    constants = network.head.pair_constants
    return pairwise_cross_entropy(network(x), y, radius=radius, pair_constants=constants, temperature=0.25)


def under_noise(network: Network, x: Tensor, y: Tensor, penalty: Loss | None = None, sigma: float = 0.25) -> Tensor:
    noisy = with_noise(x, sigma)
    loss = F.cross_entropy(network(noisy), y)
    return loss if penalty is None else loss + penalty(network, noisy, y)


def consistent(network: Network, x: Tensor, y: Tensor) -> Tensor:
    return consistency_loss(network, x, y, sigma=0.25)


PENALTIES: dict[str, Loss] = {
    "activation decay 0.1": lambda net, x, _: activation_decay(net.body(x), sigma=0.1),
    "Gram 0.1": lambda net, _x, _y: 0.1 * gram_penalty(net),
    "input gradient 0.1": lambda net, x, y: 0.1 * input_gradient_penalty(net, x, y),
    "Jacobian 0.01": lambda net, x, _: 0.01 * jacobian_penalty(net, x),
    "curvature 0.1": lambda net, x, y: 0.1 * curvature_penalty(net, x, y, step=0.5),
}
Recipe = tuple[Callable[[], Network], Loss]
LAYERS: dict[str, Recipe] = {
    "plain": (plain_network, cross_entropy),
    "AOL": (partial(stacked, partial(LipschitzLinear, law="aol")), for_certificates),
    "SR": (partial(stacked, partial(LipschitzLinear, law="sr")), for_certificates),
    "spectral": (partial(stacked, partial(LipschitzLinear, law="spectral")), for_certificates),
    "Cayley": (partial(stacked, CayleyLinear), for_certificates),
    "residual SLL": (partial(residual, "sll"), for_certificates),
    "residual SR": (partial(residual, "sr"), for_certificates),
    "residual CPL": (partial(residual, "spectral"), for_certificates),
}
REGULARISED: dict[str, Recipe] = {
    "noise": (plain_network, under_noise),
    "consistency": (plain_network, consistent),
    **{name: (plain_network, partial(under_noise, penalty=penalty)) for name, penalty in PENALTIES.items()},
}
BEST: dict[str, Recipe] = {
    "Cayley, radius 1": (partial(stacked, CayleyLinear, 512, 3), for_certificates),
    "Cayley, radius 1.6": (partial(stacked, CayleyLinear, 512, 3), partial(for_certificates, radius=1.6)),
    "noise": (plain_network, under_noise),
    "noise, decay 0.1": (plain_network, partial(under_noise, penalty=PENALTIES["activation decay 0.1"])),
}


def batches(images: Images, epochs: int, size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled batches, each moved by up to one pixel."""
    for _ in range(epochs):
        for rows in torch.randperm(len(images.x)).split(size):
            right, down = torch.randint(-1, 2, (2,)).tolist()
            yield images.x[rows].roll((down, right), (2, 3)), images.y[rows]


def train(recipe: Recipe, images: Images, epochs: int, seed: int) -> tuple[nn.Module, float]:
    """Return the trained network and the seconds of processor time it took."""
    torch.manual_seed(seed)
    build, loss = recipe
    network, began = build(), time.process_time()
    steps = epochs * -(-len(images.x) // 256)
    optimiser = torch.optim.Adam(network.parameters())
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps, pct_start=0.1)
    for x, y in batches(images, epochs):
        optimiser.zero_grad()
        loss(network, x, y).backward()
        optimiser.step()
        cycle.step()
    return network.eval(), time.process_time() - began


def test_set(images: Images, count: int) -> Dataset:
    rows = zip(images.test_bytes[:count], images.test_labels[:count].tolist(), strict=True)
    examples = tuple(Example(index=i, id=f"{i}", label=label, stored=stored) for i, (stored, label) in enumerate(rows))
    return Dataset(examples, total=len(images.test_labels), selection=f"the first {count}")


@dataclass(frozen=True)
class Row:
    """Shares of test images: clean, certified by proofs at `RADII`, certified by votes at 0.25 and 0.5 per sigma."""

    seconds: float
    upper: float
    clean: float
    proved: tuple[float, ...]
    smoothed: tuple[float, ...]


def measure(network: nn.Module, images: Images, seconds: float, count: int) -> Row:
    data, few = test_set(images, count), test_set(images, max(1, count // 10))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        certify.save(network, path, input_shape=(1, 28, 28), range=(0.0, 1.0))
        settings = certify.LipschitzSettings(method="product")
        found = certify.lipschitz(path, data, settings, falsify="off")
        reports = [
            certify.smooth(path, few, certify.SmoothingSettings(sigma=sigma), store=folder, falsify="off")
            for sigma in SIGMAS
        ]
    radii = np.array([example.radius if example.correct else -1.0 for example in found.examples])
    clean = sum(example.clean_predicted == example.label for example in found.examples) / count
    votes = [np.array([e.radius if e.correct else -1.0 for e in report.examples]) for report in reports]
    smoothed = tuple(float((found >= radius).mean()) for found in votes for radius in (0.25, 0.5))
    return Row(seconds, found.network.upper, clean, tuple(float((radii >= r).mean()) for r in RADII), smoothed)


HEAD = f"{'':<22} {'seconds':>7} {'bound':>8} {'clean':>6}  " + " ".join(f"{r:>6}" for r in RADII)
HEAD += "  " + " ".join(f"{sigma}@{r}" for sigma in SIGMAS for r in (0.25, 0.5))


def show(name: str, rows: list[Row]) -> None:
    """Print the means of some seeds, and their largest standard deviation over seeds."""

    def mean(values: list[float]) -> float:
        return statistics.fmean(values)

    shares = [[row.clean, *row.proved, *row.smoothed] for row in rows]
    columns = list(zip(*shares, strict=True))
    means = [f"{100 * mean(list(column)):6.2f}" for column in columns]
    spread = max((statistics.stdev(column) for column in columns), default=0.0) if len(rows) > 1 else None
    ends = "" if spread is None else f"  +- {100 * spread:.2f}"
    upper = mean([row.upper for row in rows])
    first = f"{name:<22} {mean([row.seconds for row in rows]):7.0f} {upper:8.3g} {means[0]}  "
    proved, smoothed = means[1 : 1 + len(RADII)], means[1 + len(RADII) :]
    print(first + " ".join(proved) + "  " + "   ".join(smoothed) + ends, flush=True)


def table(title: str, recipes: dict[str, Recipe], images: Images, *, epochs: int, seeds: int, count: int) -> None:
    print(f"\n{title}, {epochs} epochs, {seeds} seed{'s' if seeds > 1 else ''}; certified accuracy in %")
    print(HEAD)
    for name, recipe in recipes.items():
        trained = [train(recipe, images, epochs, seed) for seed in range(seeds)]
        show(name, [measure(network, images, seconds, count) for network, seconds in trained])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["layers", "penalties", "best"])
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the recommended recipes (default: 3)")
    parser.add_argument("--images", type=int, default=1000, help="how many test images (default: 1000)")
    parser.add_argument("--epochs", type=int, default=0, help="default: 5, and 15 for the recommended recipes")
    asked = parser.parse_args()
    if not MNIST.is_dir():
        sys.exit(f"no MNIST files in {MNIST}: nothing to train on")
    images = read_mnist()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; the first {asked.images} test images")
    tables = {"layers": ("Layers", LAYERS, 5, 1), "penalties": ("Penalties under noise", REGULARISED, 5, 1)}
    tables["best"] = ("Recommended", BEST, 15, asked.seeds)
    for key, (title, recipes, epochs, seeds) in tables.items():
        if asked.only in (None, key):
            table(title, recipes, images, epochs=asked.epochs or epochs, seeds=seeds, count=asked.images)


if __name__ == "__main__":
    main()
