"""How much radius do soft scores add on a network whose Lipschitz constant is 1? Prints a table for each data set.

    python -m tests.benchmarks.soft_scores [--images 60] [--n 10000] [--only digits]

A small network of orthogonal layers and absolute values, 1-Lipschitz by construction and proved so by the run itself,
is trained here in seconds under noise: on the digits of scikit-learn, and on MNIST where its files are found. The same
images are then certified by votes, and by soft scores with each kind of radius that their sums prove: of any scores
(probit), of Lipschitz scores one by one (class slopes) and of their difference. ``no noise`` is the network's own
certificate without smoothing. Beside each mean radius stands what the formulas give at the observed means without any
statistical shift or slack: the most that more draws could reach.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from msgspec import UNSET
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.parametrizations import orthogonal
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from certify.examples import Dataset, Example
from certify.loading import Model, load, save
from certify.results import SmoothingExample, SmoothingReport, SmoothingSettings
from certify.runs import lipschitz, smooth
from certify.stats import class_radius, difference_radius, radius_l2, score_bounds, score_slopes
from certify.stats.empirical_bernstein import UNITS

MNIST = Path(__file__).parents[3] / "shared" / "real" / "data" / "mnist"
WIDTH = 64
SHARPNESS = 12.0  # the factor of the logits in the training loss
RADII = (0.25, 0.5, 1.0)


class Absolute(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.abs(x)


def flat_network(pixels: torch.Tensor) -> nn.Sequential:
    """Return orthogonal layers behind the projection onto the principal directions of some images, which stays."""
    rows = pixels[:5000].flatten(1)
    first = nn.Linear(rows.shape[1], WIDTH, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[:WIDTH])
    first.weight.requires_grad_(False)
    layers = [orthogonal(nn.Linear(WIDTH, size)) for size in (WIDTH, WIDTH, 10)]
    return nn.Sequential(nn.Flatten(), first, layers[0], Absolute(), layers[1], Absolute(), layers[2])


def train(x: np.ndarray, y: np.ndarray, *, sigma: float, steps: int) -> nn.Sequential:
    """Train under noise of the size it is certified with; the labels are learned from 8-bit pixels."""
    torch.manual_seed(0)
    pixels, labels = torch.from_numpy(x).float() / 255, torch.from_numpy(y).long()
    net = flat_network(pixels)
    optimizer = torch.optim.Adam([each for each in net.parameters() if each.requires_grad], lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(pixels), (256,))
        noisy = pixels[rows] + sigma * torch.randn_like(pixels[rows])
        loss = cross_entropy(SHARPNESS * net(noisy), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    for layer in net:
        if is_parametrized(layer):
            remove_parametrizations(layer, "weight")
    return net.eval()


def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return np.round(found.images * 255 / 16).astype(np.uint8)[:, None], found.target


def mnist(part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    images = gzip.decompress((MNIST / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((MNIST / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, dtype=np.uint8, offset=16).reshape(-1, 1, 28, 28)
    return pixels[:count].copy(), np.frombuffer(labels, dtype=np.uint8, offset=8)[:count].astype(int)


def sets() -> Iterator[tuple[str, Callable[[int], tuple[nn.Module, np.ndarray, np.ndarray]]]]:
    def small(count: int) -> tuple[nn.Module, np.ndarray, np.ndarray]:
        x, y = digits()
        return train(x[360:], y[360:], sigma=0.25, steps=1200), x[:count], y[:count]

    def large(count: int) -> tuple[nn.Module, np.ndarray, np.ndarray]:
        x, y = mnist("train", 60_000)
        return train(x, y, sigma=0.25, steps=1200), *mnist("t10k", count)

    yield "digits", small
    if MNIST.is_dir():
        yield "MNIST", large


def as_dataset(x: np.ndarray, y: np.ndarray) -> Dataset:
    rows = (Example(index=k, id=str(k), label=int(label), stored=image) for k, (image, label) in enumerate(zip(x, y)))  # noqa: B905
    return Dataset(tuple(rows), total=len(x), selection=f"the first {len(x)}")


def as_model(net: nn.Module, shape: tuple[int, ...]) -> Model:
    with tempfile.TemporaryDirectory() as folder:
        save(net, f"{folder}/model.safetensors", input_shape=shape, range=(0.0, 1.0))
        return load(f"{folder}/model.safetensors")


def radii_of(example: SmoothingExample, report: SmoothingReport) -> dict[str, tuple[float, float]]:
    """Return, per kind of radius, what the sums prove and what the observed means would give without shift or slack."""
    table, settings = report.tables.scores, report.settings
    chosen = table.candidates[table.chosen]
    rounded = report.model.input.size if report.tables.noise_law == "gaussian-255" else 0
    slopes = score_slopes(
        chosen.map,
        chosen.temperature,
        classes=10,
        lipschitz=table.lipschitz,
        error=table.logit_error,
        rounded_coordinates=rounded,
    )
    if example.predicted is None:
        return dict.fromkeys(("probit", "class slopes", "difference"), (0.0, 0.0))
    sums, selected, n = example.scores, example.predicted, example.counts.n
    alpha = settings.alpha - report.tables.alpha_charged
    proved = score_bounds(sums.estimation, sums.estimation_squares, selected, n, alpha)
    means = np.array(sums.estimation) / (n * UNITS)
    seen = (max(1.0 - float(means[selected]), 1e-15), max(float(np.delete(means, selected).max()), 1e-15))
    sigma, one, two = settings.sigma, slopes.slack, slopes.slack_difference
    return {
        "probit": (radius_l2(sigma, *proved), radius_l2(sigma, *seen)),
        "class slopes": (
            class_radius(sigma, *proved, slopes.per_class, one),
            class_radius(sigma, *seen, slopes.per_class, 0.0),
        ),
        "difference": (
            difference_radius(sigma, *proved, slopes.difference, two),
            difference_radius(sigma, *seen, slopes.difference, 0.0),
        ),
    }


def line(name: str, radii: list[float], correct: list[bool], most: list[float] | None = None) -> str:
    counted = [radius if right else 0.0 for radius, right in zip(radii, correct, strict=True)]
    shares = "".join(f"{sum(r >= at for r in counted) / len(counted):8.3f}" for at in RADII)
    limit = (
        "" if most is None else f"{statistics.fmean(max(m, 0) * c for m, c in zip(most, correct, strict=True)):12.4f}"
    )
    return f"  {name:<34}{statistics.fmean(counted):8.4f}{shares}{limit}"


def rows(model: Model, data: Dataset, n: int, store: str) -> Iterator[str]:
    own = lipschitz(model, data, falsify="off")
    yield f"  proved Lipschitz constant {own.network.upper:.6f}"
    yield f"  {'':<34}{'mean R':>8}" + "".join(f"{f'>= {at}':>8}" for at in RADII) + f"{'no shift':>12}"
    yield line("no noise", [e.radius for e in own.examples], [e.correct for e in own.examples])
    for sigma in (0.1, 0.25):
        for law, float_noise in (("float noise", True), ("integer noise", False)):
            settings = SmoothingSettings(sigma=sigma, n=n, float_noise=float_noise)
            hard = smooth(model, data, settings, store=store, falsify="off")
            found = [max(e.radius, 0.0) for e in hard.examples]
            yield line(f"sigma {sigma}, {law}: votes", found, [e.correct for e in hard.examples])
            soft = smooth(model, data, SmoothingSettings(sigma=sigma, n=n, float_noise=float_noise, scores="soft"),
                          store=store, falsify="off")  # fmt: skip
            used = soft.tables.scores.candidates[soft.tables.scores.chosen]
            correct = [e.correct for e in soft.examples]
            if soft.examples[0].scores is not UNSET:
                kinds = [radii_of(e, soft) for e in soft.examples]
                for kind in kinds[0]:
                    yield line(f"    {kind}", [k[kind][0] for k in kinds], correct, [k[kind][1] for k in kinds])
            draws = statistics.fmean(e.counts.n for e in soft.examples) / statistics.fmean(
                e.counts.n for e in hard.examples
            )
            reported = [e.radius for e in soft.examples]
            yield line(f"    reported ({used.map} {used.temperature:g}, {draws:.1f}x draws)", reported, correct)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    print(
        "formulas at p 0.9 / 0.05, Lipschitz constant 1, sigma 0.25: probit "
        f"{radius_l2(0.25, 0.1, 0.05):.3f}, class slopes {class_radius(0.25, 0.1, 0.05, 1.0, 0.0):.3f}, difference "
        f"{difference_radius(0.25, 0.1, 0.05, 2**0.5, 0.0):.3f}"
    )
    for name, prepare in sets():
        if asked.only in ("", name):
            start = time.monotonic()
            net, x, y = prepare(asked.images)
            print(
                f"{name}: {asked.images} images, n {asked.n}, trained in {time.monotonic() - start:.0f} s", flush=True
            )
            with tempfile.TemporaryDirectory() as store:
                for text in rows(as_model(net, x.shape[1:]), as_dataset(x, y), asked.n, store):
                    print(text, flush=True)


if __name__ == "__main__":
    main()
