"""How close does smoothing come to the bare forward pass, and where does the rest of the time go? Prints four tables.

    python -m tests.benchmarks.smoothing

*Rows per CPU-second, one thread*, relative to the ceiling: the forward pass of the same network in PyTorch with batch
norm folded, in batches of the size at which it is fastest, measured just before and just after (machines are shared, so
absolute figures of different times do not compare; the best and the median of the rounds are shown, and the load).
Beside it the forward pass as it was trained, and a loop in the style of the first published code: float32 noise from
torch, one vote at a time, no store. glibc is kept from returning memory between forward passes, as by the command line:
else page faults, which come and go with the state of the heap, cost either side up to half of its time.

*Where the time goes*: CPU-microseconds a row of drawing the inputs of the network, of the forward passes, of the votes,
and of the rest: store, decisions, Python.

*Rows per second of the clock*, with one worker, two, and all, against as many threads that do nothing but the folded
forward pass; on a loaded machine the later ones wait for their cores.

*Other programs*: the network as `certify smooth` runs it, channels-last, and compiled by PyTorch's compiler.

Measured on four cores of an AMD EPYC (Zen 4), load 0.5 to 1.6:

    small CNN   integer noise .92 at best, .89 in the median; float64 noise .74 and .71
    ResNet-20   integer noise 1.17 and 1.12; float64 noise 1.15 and 1.15

The small CNN takes 8.6 us a row for the bare forward pass. A run takes 10.5: 8.4 for forward passes, 1.5 for inputs, .1
for votes, .5 to .7 for the rest. Three things brought it there from .70. The draws are compiled (`kernels`): 1.2 ns a
coordinate with all that turns them into inputs, where numpy takes 3.3, of which half is Philox (vectors of 512 bits
gained nothing over its 64-bit products), and a quarter the table in the second cache. Convolutions stay in oneDNN's
layouts between each other, which is why ResNet-20 is faster than its ceiling; alone, the small CNN takes 7.9 in them.
And what stands beside a block costs a third of what it did. Bursts matter: after other work the first forward pass
takes half as long again, as its memory has to come back to the caches; streamed stores, integers of 16 bits between
draws and forward passes, and large pages changed nothing more. Without the kernels the ratios are .76 and .48.
"""

from __future__ import annotations

import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from certify.cli.memory import keep_freed_memory, leave_imports_alone
from certify.examples import Dataset, Example
from certify.graph import Program, trace
from certify.results import SmoothingSettings
from certify.smoothing import LAWS, RunHeader, Store, law_name, make_law, open_store, plan_procedure, run_smoothing
from certify.smoothing.addresses import BlockRequest
from certify.smoothing.classification import Classification
from certify.smoothing.kernels import kernels
from certify.smoothing.noise import block_inputs
from certify.smoothing.placement import Placement
from certify.smoothing.run import task_events

SIGMA = 0.25
BATCHES = (16, 32, 64, 128, 256, 512, 1024)


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
        for _ in range(max(1, rows // batch)):
            net(x)
    return max(1, rows // batch) * batch / (time.process_time() - start)


def fastest_batch(net: nn.Module, shape: tuple[int, ...], rows: int) -> int:
    """The batch of the ceiling: the one with the most rows per CPU-second, of the sizes that the tool tries."""
    rates = [max(forward_rate(net, shape, rows, batch) for _ in range(3)) for batch in BATCHES]
    return BATCHES[rates.index(max(rates))]


class Timed:
    """Stands for an object, and adds the CPU time of some of its methods to entries of ``spent``."""

    def __init__(self, inner: object, spent: dict[str, float], **entries: str) -> None:
        self._inner, self._spent, self._entries = inner, spent, entries

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return found if name not in self._entries else self._timed(found, self._entries[name])

    def _timed(self, method: Callable[..., Any], entry: str) -> Callable[..., Any]:
        def call(*values: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return method(*values, **options)
            finally:
                self._spent[entry] += time.process_time() - start

        return call


class TimedTask(Timed):
    @property
    def reading(self) -> Any:
        return Timed(self._inner.reading, self._spent, check="votes", records="votes")


def opened(folder: str, data: Dataset, settings: SmoothingSettings) -> Store:
    name = law_name(settings, eight_bit=True)
    return open_store(Path(folder), RunHeader("benchmark", data.sha256, settings, 10, name))


def time_spent(net: Program, data: Dataset, draws: int, batch: int, *, float_noise: bool = False) -> dict[str, float]:
    """CPU-microseconds a row of the parts of a run."""
    settings = SmoothingSettings(sigma=SIGMA, n=draws, procedure="fixed", float_noise=float_noise)
    law = make_law(settings, eight_bit=True)
    task = Classification(
        plan_procedure(settings, classes=10, law=law, dimension=int(np.prod(data.examples[0].stored.shape)))
    )
    spent, rows = dict.fromkeys((*PARTS, "rest"), 0.0), 0
    timed_law = Timed(law, spent, fill="noise")
    timed_net = Timed(net, spent, __call__="forward")

    def counting(x: torch.Tensor) -> torch.Tensor:
        nonlocal rows
        rows += x.shape[0]
        return timed_net.__call__(x)

    with tempfile.TemporaryDirectory() as folder, opened(folder, data, settings) as store:
        start = time.process_time()
        placement = Placement(batch=batch)
        list(task_events(counting, data, TimedTask(task, spent), timed_law, store=store, placement=placement))
        total = time.process_time() - start
    spent["rest"] = total - sum(spent.values())
    return {part: 1e6 * seconds / rows for part, seconds in spent.items()}


def certify_rate(
    net: Callable[[torch.Tensor], torch.Tensor],
    data: Dataset,
    draws: int,
    batch: int | Literal["auto"],
    *,
    float_noise: bool = False,
    workers: int = 1,
    clock: Callable[[], float] = time.process_time,
) -> float:
    """The whole run: noise, votes, counts, procedure and store. Every evaluated row counts, start-up check included."""
    settings = SmoothingSettings(sigma=SIGMA, n=draws, procedure="fixed", float_noise=float_noise)
    evaluated = [0]

    def counting(x: torch.Tensor) -> torch.Tensor:
        evaluated.append(x.shape[0])  # by several threads at once
        return net(x)

    with tempfile.TemporaryDirectory() as folder, opened(folder, data, settings) as store:
        start = clock()
        options = {"classes": 10, "settings": settings, "store": store, "batch": batch, "workers": workers}
        list(run_smoothing(counting, data, **options))
        return sum(evaluated) / (clock() - start)


def forward_threads(net: nn.Module, shape: tuple[int, ...], rows: int, batch: int, workers: int) -> float:
    """Rows per second of the clock of threads that do nothing but forward passes, each on one core."""

    def passes(_: int) -> None:
        torch.set_num_threads(1)
        x = torch.rand(batch, *shape)
        with torch.no_grad():
            for _ in range(max(1, rows // batch // workers)):
                net(x)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(passes, range(workers)))
        start = time.perf_counter()
        list(pool.map(passes, range(workers)))
        return max(1, rows // batch // workers) * workers * batch / (time.perf_counter() - start)


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
        block_inputs(law, 0, BlockRequest(example, "estimation", block, 128), torch.float32)
        seconds.append(time.perf_counter() - start)
    return min(seconds) / 128 / example.stored.size * 1e9


def images(shape: tuple[int, ...], count: int = 2) -> Dataset:
    rng = np.random.default_rng(0)
    rows = (Example(i, str(i), 0, rng.integers(0, 256, shape, dtype=np.uint8)) for i in range(count))
    return Dataset(tuple(rows), total=count, selection="random pixels")


CASES = (
    ("small CNN 1x28x28", small_cnn, (1, 28, 28), 65536, 11),
    ("ResNet-20 3x32x32", resnet20, (3, 32, 32), 1000, 3),
)
COLUMNS = ("plain", "integer noise", "float64 noise", "Cohen 400", "Cohen 1000")
PARTS = ("noise", "forward", "votes")


def networks(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module, Program]:
    """The network as it was trained, with batch norm folded, and as `certify smooth` runs it."""
    plain = build().eval()
    return plain, folded(copy.deepcopy(plain)), Program(trace(plain, shape))


def one_round(
    plain: nn.Module, fused: nn.Module, program: Program, data: Dataset, draws: int, batch: int
) -> tuple[float, ...]:
    """The rate of the folded forward pass, and those of `COLUMNS` relative to its mean just before and just after."""
    shape, rows = data.examples[0].stored.shape, min(draws, 16384)
    measures = (
        lambda: forward_rate(plain, shape, rows, batch),
        lambda: certify_rate(program, data, draws, batch),
        lambda: certify_rate(program, data, draws // 4, batch, float_noise=True),
        lambda: cohen_rate(plain, data, max(rows // 2, 400), 400),
        lambda: cohen_rate(plain, data, max(rows // 2, 1000), 1000),
    )
    bare, ratios = [forward_rate(fused, shape, min(draws, 32768), batch)], []
    for measure in measures:
        found = measure()
        bare.append(forward_rate(fused, shape, min(draws, 32768), batch))
        ratios.append(found / statistics.fmean(bare[-2:]))
    return max(bare), *ratios


def both(values: list[float]) -> str:
    return f"{max(values):>7.2f}{statistics.median(values):>6.2f}"


def print_ratios(fastest: dict[str, int]) -> None:
    heads = "".join(f"{name:>15}" for name in COLUMNS)
    print(f"\n{'relative to the folded forward':<31}{'batch':>6}{'rows/s':>9}{heads}   (best, median)")
    for title, build, shape, draws, rounds in CASES:
        data, nets = images(shape), networks(build, shape)
        found = [one_round(*nets, data, draws, fastest[title]) for _ in range(rounds)]
        bare, *ratios = (list(column) for column in zip(*found, strict=True))
        cells = "".join(f"{both(ratio):>15}" for ratio in ratios)
        print(f"{title:<31}{fastest[title]:>6}{max(bare):>9,.0f}{cells}", flush=True)


def print_parts(fastest: dict[str, int]) -> None:
    heads = "".join(f"{part:>10}" for part in (*PARTS, "rest"))
    print(f"\n{'CPU-microseconds a row':<35}{heads}   (of the run with the least of all)")
    for title, build, shape, draws, rounds in CASES:
        data, (_, _, program) = images(shape), networks(build, shape)
        for words, float_noise in (("integer noise", False), ("float64 noise", True)):
            runs = [
                time_spent(program, data, draws // (4 if float_noise else 1), fastest[title], float_noise=float_noise)
                for _ in range(rounds)
            ]
            least = min(runs, key=lambda parts: sum(parts.values()))
            print(f"{f'{title}, {words}':<35}" + "".join(f"{us:>10.2f}" for us in least.values()), flush=True)


def print_workers(fastest: dict[str, int]) -> None:
    print("\nrows per second of the clock, of certify and of the folded forward   (best, median of the ratio)")
    for title, build, shape, draws, rounds in CASES:
        data, (_, fused, program), batch = images(shape), networks(build, shape), fastest[title]
        for workers in sorted({1, 2, os.cpu_count() or 1}):
            pairs = [
                (
                    certify_rate(program, data, draws // 2, batch, workers=workers, clock=time.perf_counter),
                    forward_threads(fused, shape, min(draws, 16384) * workers, batch, workers),
                )
                for _ in range(rounds)
            ]
            rates = "".join(f"{max(column):>10,.0f}" for column in zip(*pairs, strict=True))
            ratio = both([ours / bare for ours, bare in pairs])
            print(f"{title:<22}{workers:>3} workers{rates}{ratio}", flush=True)


def print_programs(fastest: dict[str, int]) -> None:
    print("\nCPU-microseconds a row of the program: as it is, channels-last, compiled   (least)")
    for title, build, shape, draws, rounds in CASES:
        graph, batch = trace(build().eval(), shape), fastest[title]
        programs = (Program(graph), Program(graph, channels_last=True), Program(graph, compiled_rows=batch))
        rates = [
            max(forward_rate(program, shape, min(draws, 8192), batch) for _ in range(rounds)) for program in programs
        ]
        print(f"{title:<31}" + "".join(f"{1e6 / rate:>10.2f}" for rate in rates), flush=True)


def main() -> None:
    keep_freed_memory()  # for all sides; so does the command line
    leave_imports_alone()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("load of the machine: {:.1f} {:.1f} {:.1f} on {} cores".format(*os.getloadavg(), os.cpu_count()))
    print("draws of the CPU: " + ("by numpy" if kernels() is None else "compiled"))
    for name in LAWS:
        nanoseconds = noise_nanoseconds(name, images((3, 32, 32)).examples[0])
        print(f"noise {name:<14} {nanoseconds:6.1f} ns per coordinate")
    fastest = {
        title: fastest_batch(folded(build().eval()), shape, min(draws, 8192)) for title, build, shape, draws, _ in CASES
    }
    print_ratios(fastest)
    print_parts(fastest)
    print_workers(fastest)
    print_programs(fastest)
    print("load of the machine: {:.1f} {:.1f} {:.1f}".format(*os.getloadavg()))


if __name__ == "__main__":
    main()
