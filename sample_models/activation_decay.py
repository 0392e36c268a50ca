"""What activation decay does to a smoothing network: accuracy, curvature of the last layer, certified accuracy.

    python sample_models/activation_decay.py [--seeds 3]

Trains `decay_off` and `decay_on` of `train.py` with several seeds, alike but for the penalty, and certifies each on the
360 test images. Per quantity: mean and standard deviation over seeds of either, and the mean difference of the networks
of one seed with its 95 % interval by Student's t, which is wide for few seeds. The interval speaks of training runs on
these images; other images are another question.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from networks import CLASSES, INPUT_SHAPE, SmallCNN
from scipy.stats import t
from train import SIGMA, Digits, read_digits, train, write_test_folders

import certify
from certify.curvature import last_layer_curvature, mean_largest

RADII = (0.25, 0.5)


def measure(network: SmallCNN, digits: Digits, folder: Path) -> dict[str, float]:
    """Return what a network is like on the test images, by name."""
    x, y = digits.tensors(digits.test)
    with torch.inference_mode():
        activations = network.body(x)
        logits = network.head(activations)
        found = last_layer_curvature(activations, logits, y)
    path = folder / "model.safetensors"
    certify.save(network, path, input_shape=INPUT_SHAPE, classes=CLASSES, range=(0.0, 1.0))
    report = certify.smooth(path, folder / "data", certify.SmoothingSettings(sigma=SIGMA), store=folder, falsify="off")
    radii = torch.tensor([example.radius if example.correct else 0.0 for example in report.examples])
    return {
        "clean accuracy without noise, %": 100.0 * float((logits.argmax(1) == y).double().mean()),
        "mean squared norm of the last layer's input": float(found.squares.mean()),
        "largest eigenvalue of its Hessian, mean of images": float(found.largest.mean()),
        "largest eigenvalue of the mean Hessian": mean_largest(activations, logits).value,
        "trace": float(found.trace.mean()),
        **{f"certified at l2 {radius}, %": 100.0 * float((radii >= radius).double().mean()) for radius in RADII},
        "mean certified radius": float(radii.mean()),
    }


def row(name: str, off: list[float], on: list[float]) -> str:
    """Return a line of the table: both, and the difference within seeds with its interval."""
    differences = [after - before for before, after in zip(off, on, strict=True)]
    half = float(t.ppf(0.975, len(differences) - 1)) * statistics.stdev(differences) / len(differences) ** 0.5
    cells = [f"{statistics.fmean(values):.3g} ± {statistics.stdev(values):.2g}" for values in (off, on)]
    return f"| {name} | {cells[0]} | {cells[1]} | {statistics.fmean(differences):+.3g} ± {half:.2g} |"


def main() -> None:
    """Train, measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many, at least 2 (default: 3)")
    asked = parser.parse_args()
    digits = read_digits()
    found: dict[str, list[dict[str, float]]] = {"decay_off": [], "decay_on": []}
    with tempfile.TemporaryDirectory() as name:
        write_test_folders(digits, Path(name) / "data")
        for seed in range(asked.seeds):
            for recipe, rows in found.items():
                rows.append(measure(train(recipe, digits, seed), digits, Path(name)))
    print(f"| over {asked.seeds} seeds | without | with decay 0.1 | difference, 95 % interval |\n|---|---|---|---|")
    for quantity in found["decay_off"][0]:
        print(row(quantity, *([each[quantity] for each in rows] for rows in found.values())))


if __name__ == "__main__":
    main()
