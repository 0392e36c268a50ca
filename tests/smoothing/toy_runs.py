"""Small runs whose every number is known: an exact classifier, 8-bit data, and stores in a temporary folder."""

import os
import signal
import warnings
from pathlib import Path

import msgspec
import numpy as np
import torch

from certify.examples import Dataset, Example
from certify.results import SmoothingSettings
from certify.smoothing import RunHeader, law_name, make_law, open_store, run_smoothing
from certify.smoothing.addresses import block_generator, block_requests

CLASSES = 3
SHAPE = (2, 3)
WEIGHTS = np.array([[3, -1, 2, 0, 1, -2], [-2, 2, 0, 1, -1, 1], [0, 0, -3, 2, 1, 1]])
OFFSETS = np.array([-100, 60, -40])
SETTINGS = SmoothingSettings(sigma=0.25, n=700, n0=100, price=1e-4)


def predict(x: torch.Tensor) -> torch.Tensor:
    """Integer scores of the integer pixels: exact in float64, so votes cannot depend on any order of summation."""
    z = torch.round(x.double() * 255).flatten(1)
    scores = z @ torch.from_numpy(WEIGHTS.T.astype(np.float64)) + torch.from_numpy(OFFSETS.astype(np.float64))
    scores = torch.div(scores, 64, rounding_mode="floor")  # coarse, so that ties are common
    return torch.where((z.sum(1, keepdim=True) % 11) == 0, torch.full_like(scores, torch.nan), scores)


def votes_by_hand(z: np.ndarray) -> np.ndarray:
    """The votes of `predict` on integer rows, in plain integers."""
    z = z.reshape(len(z), -1).astype(np.int64)
    scores = (z @ WEIGHTS.T + OFFSETS) // 64
    votes = [max(range(CLASSES), key=lambda k, row=row: (row[k], -k)) for row in scores]
    return np.where(z.sum(1) % 11 == 0, CLASSES, votes)


def dataset(count: int = 4, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    examples = (Example(index=i, id=f"row {i}", label=i % CLASSES, stored=x) for i, x in enumerate(pixels))
    return Dataset(tuple(examples), total=count, selection="all")


def header(data: Dataset, settings: SmoothingSettings = SETTINGS, model: str = "toy") -> RunHeader:
    law = law_name(settings, eight_bit=data.eight_bit)
    return RunHeader(model, data.sha256, settings, CLASSES, law)


def counts_by_hand(example: Example, purpose: str, draws: int, settings: SmoothingSettings = SETTINGS) -> list[int]:
    """The counts of one example without sampler, batches or store."""
    law = make_law(settings, eight_bit=True)
    total = np.zeros(CLASSES + 1, dtype=np.int64)
    for request in block_requests(example, purpose, draws):
        rows = law.draw(request, block_generator(settings.seed, request, law.name)).rows
        total += np.bincount(votes_by_hand(rows)[: request.draws], minlength=CLASSES + 1)
    return total.tolist()


def run(folder: Path, data: Dataset, settings: SmoothingSettings = SETTINGS, classify=predict, **options):
    """Run to the end in a folder; return the examples without their seconds."""
    options = {"batch": 64} | options
    with open_store(folder, header(data, settings)) as store:
        found = run_smoothing(classify, data, classes=CLASSES, settings=settings, store=store, **options)
        return without_seconds(found)


def without_seconds(examples):
    return [msgspec.structs.replace(example, seconds=0.0) for example in examples]


def fork(action) -> int:
    """Start a child process that exits with what ``action`` returns; return its process id."""
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)  # no KeyboardInterrupt may unwind the child into pytest
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns where other threads exist
        child = os.fork()
    if child:
        signal.signal(signal.SIGINT, handler)
        return child
    code = 9
    try:
        torch.set_num_threads(1)
        code = action()
    finally:
        os._exit(code)


def exit_code(child: int) -> int:
    """Wait for a child; return its exit status, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
