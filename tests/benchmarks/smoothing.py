"""How close does smoothing come to the bare forward pass? Prints two tables.

    MALLOC_TRIM_THRESHOLD_=1000000000 MALLOC_MMAP_THRESHOLD_=1000000000 python -m tests.benchmarks.smoothing

*Rows per CPU-second, one thread*, each relative to the forward pass of the same network with batch norm folded,
measured in the same round (machines are shared, so absolute figures of different rounds do not compare; the best and
the median of the rounds are shown, and the load of the machine). Beside it the forward pass as it was trained, and a
loop in the style of the first published code: float32 noise from torch, one vote at a time, no store. The two variables
keep glibc from returning memory between forward passes: else page faults, which come and go with the state of the
heap, cost either side up to half of its time.

*Rows per second of the clock, with one worker and with two*, again in the same rounds; on a loaded machine the second
one has to wait for its core.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from certify.examples import Dataset, Example
from certify.results import SmoothingSettings
from certify.smoothing import LAWS, RunHeader, open_store, run_smoothing
from certify.smoothing.addresses import BlockRequest, block_generator

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


def certify_rate(
    net: nn.Module,
    data: Dataset,
    draws: int,
    batch: int,
    *,
    float_noise: bool = False,
    workers: int = 1,
    clock: Callable[[], float] = time.process_time,
) -> float:
    """The whole run: noise, votes, counts, procedure and store. Every evaluated row counts, start-up check included."""
    settings = SmoothingSettings(sigma=SIGMA, n=draws, procedure="fixed", float_noise=float_noise)
    header = RunHeader("benchmark", data.sha256, settings, 10, "gaussian" if float_noise else "gaussian-255")
    evaluated = 0

    def counting(x: torch.Tensor) -> torch.Tensor:
        nonlocal evaluated
        evaluated += len(x)
        return net(x)

    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder), header) as store:
        start = clock()
        options = {"classes": 10, "settings": settings, "store": store, "batch": batch, "workers": workers}
        list(run_smoothing(counting, data, **options))
        return evaluated / (clock() - start)


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


CASES = (("small CNN 1x28x28", small_cnn, (1, 28, 28), 16384, 5), ("ResNet-20 3x32x32", resnet20, (3, 32, 32), 1000, 3))
COLUMNS = ("plain", "integer noise", "float64 noise", "Cohen 400", "Cohen 1000")


def one_round(plain: nn.Module, fused: nn.Module, data: Dataset, draws: int, batch: int) -> tuple[float, ...]:
    """The rate of the folded forward pass, and those of `COLUMNS` relative to it."""
    shape = data.examples[0].stored.shape
    bare = forward_rate(fused, shape, max(draws, 4096), batch)
    others = (
        forward_rate(plain, shape, max(draws, 4096), batch),
        certify_rate(fused, data, draws, batch),
        certify_rate(fused, data, draws, batch, float_noise=True),
        cohen_rate(plain, data, max(draws, 400), 400),
        cohen_rate(plain, data, max(draws, 1000), 1000),
    )
    return bare, *(other / bare for other in others)


def both(values: list[float]) -> str:
    return f"{max(values):>7.2f}{statistics.median(values):>6.2f}"


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("load of the machine: {:.1f} {:.1f} {:.1f} on {} cores".format(*os.getloadavg(), os.cpu_count()))
    for name in LAWS:
        if "diagonal" not in name:  # which needs a scale for every coordinate
            nanoseconds = noise_nanoseconds(name, images((3, 32, 32)).examples[0])
            print(f"noise {name:<14} {nanoseconds:6.1f} ns per coordinate")
    heads = "".join(f"{name:>15}" for name in COLUMNS)
    print(f"{'relative to the folded forward':<26}{'batch':>6}{'rows/s':>9}{heads}   (best, median)")
    for title, build, shape, draws, rounds in CASES:
        data, plain, fused = images(shape), build().eval(), folded(build().eval())
        for batch in (128, 256):
            found = [one_round(plain, fused, data, draws, batch) for _ in range(rounds)]
            bare, *ratios = (list(column) for column in zip(*found, strict=True))
            cells = "".join(f"{both(ratio):>15}" for ratio in ratios)
            print(f"{title:<26}{batch:>6}{max(bare):>9,.0f}{cells}", flush=True)
    for title, build, shape, draws, rounds in CASES:
        data, fused = images(shape), folded(build().eval())
        pairs = [
            [certify_rate(fused, data, draws, 128, workers=workers, clock=time.perf_counter) for workers in (1, 2)]
            for _ in range(rounds)
        ]
        print(f"{title:<26} two workers over one, by the clock: {both([two / one for one, two in pairs])}", flush=True)


if __name__ == "__main__":
    main()
