"""The networks that the benchmark of whole-network bounds speaks of: seeded dense ones, a ResNet-18, and trained ones.

Trained networks, images and attack distances are not part of the repository: they are looked for in the folder of
`REAL`, and tables that need them say so where they are absent.
"""

from __future__ import annotations

import gzip
import importlib.util
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from certify.examples import Example
from certify.graph import Graph, trace

REAL = Path(os.environ.get("CERTIFY_REAL", Path(__file__).parents[3] / "shared" / "real"))
CNNS = (
    *("abc_mnist_conv_small_nat", "kw_mnist_linf01", "mmr_univ_mnist"),
    *("kw_cifar_small_l2_36_stage0", "sdp_cifar_cnn_a_mix"),
)
MLP = "lirpa_mnist_fc_3layer"


def gaussian_layers(*widths: int) -> list[Tensor]:
    """Weights randn / sqrt(inputs), drawn in order after seed 0."""
    generator = torch.Generator().manual_seed(0)
    pairs = itertools.pairwise(widths)
    return [torch.randn(m, n, generator=generator, dtype=torch.float64) / n**0.5 for n, m in pairs]


def scaled_layers(layers: int, width: int) -> list[Tensor]:
    """The networks of ECLipsE's experiments: 4 inputs, 1 output, norms drawn uniformly from [0.4, 1.8]."""
    random = np.random.RandomState(7 * width + 13 * layers)  # the seeds and the generator of the published figures
    widths, weights = [4, *[width] * (layers - 1), 1], []
    for n, m in itertools.pairwise(widths):
        norm = random.uniform(0.4, 1.8)
        W = random.randn(m, n)
        weights.append(torch.tensor(W * (norm / np.linalg.norm(W, 2))))
    return weights


def net_a() -> list[Tensor]:
    return gaussian_layers(10, 50, 50, 50, 10)


def net_b() -> list[Tensor]:
    return gaussian_layers(784, 128, 128, 128, 10)


def net_e5() -> list[Tensor]:
    return scaled_layers(5, 40)


def net_e20() -> list[Tensor]:
    return scaled_layers(20, 80)


def net_p() -> list[Tensor]:
    return [layer.weight.detach().double() for layer in trained(MLP) if isinstance(layer, nn.Linear)]


DENSE = {"A": net_a, "E5": net_e5, "E20": net_e20, "P": net_p, "B": net_b}


def product_of_norms(weights: Sequence[Tensor]) -> float:
    """The plain product, in floating point."""
    return float(torch.stack([torch.linalg.matrix_norm(W, 2) for W in weights]).prod())


def relu_net(weights: Sequence[Tensor]) -> nn.Sequential:
    """The network of these weights without biases, with a ReLU between layers."""
    layers: list[nn.Module] = []
    for W in weights:
        linear = nn.Linear(W.shape[1], W.shape[0], bias=False, dtype=torch.float64)
        linear.weight = nn.Parameter(W.clone(), requires_grad=False)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def dense_graph(weights: Sequence[Tensor]) -> Graph:
    return trace(relu_net(weights).eval(), (weights[0].shape[1],))


def example_net() -> tuple[nn.Sequential, Tensor]:
    """The example of auto_LiRPA's local Lipschitz constants, and its centre."""
    torch.manual_seed(0)
    shapes = (nn.Linear(192, 100), nn.ReLU(), nn.Linear(100, 200), nn.ReLU(), nn.Linear(200, 10))
    return nn.Sequential(nn.Flatten(), *shapes), torch.randn(1, 3, 8, 8)


def mlp_net() -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    shapes = (nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    return nn.Sequential(nn.Flatten(), *shapes), torch.rand(1, 1, 28, 28)


class Block(nn.Module):
    """ResNet's basic block."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside))
        self.second = nn.Sequential(nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside))
        same = stride == 1 and inside == outside
        shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))
        self.shortcut = nn.Identity() if same else shortcut

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


STEMS = {
    "7x7, max-pool": lambda: (nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.MaxPool2d(3, 2, 1)),
    "3x3": lambda: (nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.Identity()),
}


def resnet18(stem: str = "3x3", classes: int = 10) -> nn.Sequential:
    """ResNet-18 with seeded weights, its batch norms set by a batch of noise images of 32 x 32 and folded.

    Args:
        stem: "3x3", as used for 32 x 32 images, or "7x7, max-pool", as published for 224 x 224.
        classes: The number of outputs.
    """
    torch.manual_seed(0)
    convolution, norm, pool = STEMS[stem]()
    widths = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
    blocks = [Block(*width) for width in [*widths, (512, 512, 1)]]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))
    net = nn.Sequential(nn.Sequential(convolution, norm), nn.ReLU(), pool, *blocks, *head)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean over all batches seen, that is: of the one below
    with torch.no_grad():
        net(torch.rand(64, 3, 32, 32))
    return fold(net.eval()).requires_grad_(requires_grad=False)


def fold(module: nn.Module) -> nn.Module:
    """Replace every pair of a convolution and a batch norm by one convolution."""
    for name, child in module.named_children():
        pair = isinstance(child, nn.Sequential) and len(child) == 2 and isinstance(child[1], nn.BatchNorm2d)
        setattr(module, name, nn.utils.fusion.fuse_conv_bn_eval(child[0], child[1]) if pair else fold(child))
    return module


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network's facts: the input it takes, its dataset, and its normalisation."""

    name: str
    input_shape: tuple[int, ...]
    dataset: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def graph(self, *, pixels: bool) -> Graph:
        """The network on [0, 1] pixels, its normalisation inside, or on inputs already normalised."""
        scaling = {"mean": self.mean, "std": self.std} if pixels else {}
        return trace(trained(self.name), self.input_shape, **scaling)

    def examples(self, count: int) -> list[Example]:
        """The first test images, in [0, 1] pixels."""
        images, labels = mnist() if self.dataset == "mnist" else cifar()
        rows = zip(images[:count], labels[:count], strict=True)
        return [Example(k, str(k), int(label), image) for k, (image, label) in enumerate(rows)]

    def attack_distances(self) -> dict[int, float]:
        """The size of a perturbation that changes the prediction, by index of the test image."""
        with np.load(REAL / "models" / self.name / "l2_attack_upper.npz") as found:
            return dict(zip(found["test_index"].tolist(), found["l2_distance"].tolist(), strict=True))


def facts_of(name: str) -> Trained:
    meta = json.loads((REAL / "models" / name / "meta.json").read_text())
    return Trained(name, tuple(meta["input_shape"]), meta["dataset"], tuple(meta["mean"]), tuple(meta["std"]))


def trained(name: str) -> nn.Sequential:
    folder = REAL / "models" / name
    spec = importlib.util.spec_from_file_location(f"arch_{name}", folder / "arch.py")
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    module = code.build().eval()
    module.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return module


def absent() -> str | None:
    """Why there is nothing to measure on trained networks, or None."""
    return None if (REAL / "models").is_dir() else f"no trained networks at {REAL} (set CERTIFY_REAL)"


@cache
def mnist() -> tuple[np.ndarray, np.ndarray]:
    folder = REAL / "data" / "mnist"
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(folder / "t10k-labels-idx1-ubyte.gz") as file:
        return images, np.frombuffer(file.read(), np.uint8, offset=8)


@cache
def cifar() -> tuple[np.ndarray, np.ndarray]:
    with np.load(REAL / "data" / "cifar10_300.npz") as found:
        return np.ascontiguousarray(found["x"].transpose(0, 3, 1, 2)), found["y"]
