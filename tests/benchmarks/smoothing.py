"""How close does smoothing come to the bare forward pass? Prints a table.

    MALLOC_TRIM_THRESHOLD_=1000000000 MALLOC_MMAP_THRESHOLD_=1000000000 python -m tests.benchmarks.smoothing

Rows per CPU-second, each relative to the forward pass of the same network with batch norm folded, measured in the same
round (machines are shared, so absolute figures of different rounds do not compare; take an idle machine). Beside it a
loop in the style of the first published code: float32 noise from torch, one vote at a time, no store. The two variables
keep glibc from returning memory between forward passes: else page faults, which come and go with the state of
the heap, cost either side up to half of its time.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from certify.examples import Dataset, Example
from certify.results import SmoothingSettings
from certify.smoothing import LAWS, RunHeader, open_store, run_smoothing
from certify.smoothing.addresses import BlockRequest, block_generator

ROUNDS = 3
SIGMA = 0.25


class Residual(nn.Module):
    """A basic block: two convolutions with batch norm, and a shortcut by a strided 1x1 convolution."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside))
        self.second = nn.Sequential(nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside))
        self.shortcut = nn.Conv2d(inside, outside, 1, stride) if stride > 1 or inside != outside else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16)), nn.ReLU(),
        nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32)), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 49, 10),
    )  # fmt: skip


def resnet20() -> nn.Module:
    widths = [(16, 16, 1)] * 3 + [(16, 32, 2), (32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1)]
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16))
    blocks = [Residual(*width) for width in widths]
    return nn.Sequential(stem, nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def folded(module: nn.Module) -> nn.Module:
    """Fold every (convolution, batch norm) pair of a network in eval mode."""
    for name, child in module.named_children():
        pair = isinstance(child, nn.Sequential) and len(child) == 2 and isinstance(child[1], nn.BatchNorm2d)
        setattr(module, name, fuse_conv_bn_eval(child[0], child[1]) if pair else folded(child))
    return module


def forward_rate(net: nn.Module, shape: tuple[int, ...], rows: int, batch: int) -> float:
    x = torch.rand(batch, *shape)
    with torch.no_grad():
        net(x)
        start = time.process_time()
        for _ in range(rows // batch):
            net(x)
    return rows // batch * batch / (time.process_time() - start)


def certify_rate(net: nn.Module, data: Dataset, draws: int, batch: int) -> float:
    """The whole run: noise, votes, counts, procedure and store. Every evaluated row counts, start-up check included."""
    settings = SmoothingSettings(sigma=SIGMA, n=draws, procedure="fixed")
    header = RunHeader("benchmark", data.sha256, settings, 10, "gaussian-255")
    evaluated = 0

    def counting(x: torch.Tensor) -> torch.Tensor:
        nonlocal evaluated
        evaluated += len(x)
        return net(x)

    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder), header) as store:
        start = time.process_time()
        list(run_smoothing(counting, data, classes=10, settings=settings, store=store, batch=batch))
        return evaluated / (time.process_time() - start)


def cohen_rate(net: nn.Module, data: Dataset, draws: int, batch: int) -> float:
    total, start = 0, time.process_time()
    with torch.no_grad():
        for example in data:
            x = torch.from_numpy(example.values()).float()
            counts = np.zeros(10, dtype=int)
            for _ in range(draws // batch):
                copies = x.repeat((batch, 1, 1, 1))
                for vote in net(copies + torch.randn_like(copies) * SIGMA).argmax(1).numpy():
                    counts[vote] += 1
                total += batch
    return total / (time.process_time() - start)


def noise_nanoseconds(name: str, example: Example) -> float:
    law, seconds = LAWS[name](SIGMA), []
    for block in range(20):
        start = time.perf_counter()
        law.draw(example, block_generator(0, BlockRequest(example, "estimation", block, 128), name))
        seconds.append(time.perf_counter() - start)
    return min(seconds) / 128 / example.stored.size * 1e9


def images(shape: tuple[int, ...], count: int = 2) -> Dataset:
    rng = np.random.default_rng(0)
    rows = (Example(i, str(i), 0, rng.integers(0, 256, shape, dtype=np.uint8)) for i in range(count))
    return Dataset(tuple(rows), total=count, selection="random pixels")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in LAWS:
        print(f"noise {name:<14} {noise_nanoseconds(name, images((3, 32, 32)).examples[0]):6.1f} ns per coordinate")
    cases = (("small CNN 1x28x28", small_cnn, (1, 28, 28), 16384), ("ResNet-20 3x32x32", resnet20, (3, 32, 32), 1000))
    columns = f"{'batch':>6}{'forward/s':>11}{'certify':>9}{'Cohen':>8}{'Cohen 1000':>12}"
    print(f"{'relative to the folded forward':<32}{columns}")
    for title, build, shape, draws in cases:
        data, plain = images(shape), build().eval()
        fused = folded(build().eval())
        for batch in (128, 256):
            rounds = []
            for _ in range(ROUNDS):
                bare = forward_rate(fused, shape, draws, batch)
                others = (
                    certify_rate(fused, data, draws, batch),
                    cohen_rate(plain, data, draws, batch),
                    cohen_rate(plain, data, max(draws, 1000), 1000),
                )
                rounds.append((bare, *(other / bare for other in others)))
            bare, *ratios = (statistics.median(column) for column in zip(*rounds, strict=True))
            print(
                f"{title:<32}{batch:>6}{bare:>11,.0f}{ratios[0]:>9.2f}{ratios[1]:>8.2f}{ratios[2]:>12.2f}", flush=True
            )


if __name__ == "__main__":
    main()
