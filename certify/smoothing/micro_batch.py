"""The micro-batch: how many rows one forward pass takes, chosen by a short timing, and halved when memory runs out.

It changes the speed and nothing else: noise is addressed by block, and records add. The last bits of logits can depend
on the shape, so the shape is recorded with every block, is one for all blocks of an example, and a resumed run takes
that of the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from certify.errors import InputError
from certify.examples import Example
from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest
from certify.smoothing.base_network import BaseNetwork
from certify.smoothing.noise import NoiseLaw
from certify.smoothing.readings import Piece, Reading

CANDIDATES = {"cpu": (16, 32, 64, 128, 256, 512, 1024), "cuda": (128, 256, 512, 1024, 2048, 4096)}
SLOW_SECONDS = 0.5  # a forward pass this long is large enough: a larger one delays an interrupt
WORTHWHILE = 1.03  # the gain in rows per second for which a larger batch is taken
NO_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
AS_GOOD = 0.95  # with passes side by side a larger batch is also taken when about as fast: Python's part runs alone


def choose_micro_batch(
    network: BaseNetwork, reading: Reading, law: NoiseLaw, example: Example, *, most: int, side_by_side: bool = False
) -> int:
    """Return the size of micro-batch with the most rows per second, of a few powers of two, about at most ``most``.

    Args:
        network: The network, with its device.
        reading: What is read from its outputs, which takes time too.
        law: Makes the inputs that are timed.
        example: The first example.
        most: The number of rows there are.
        side_by_side: Whether several passes run at once; the sizes that are about as fast as the best then win by size.
    """
    needed = AS_GOOD if side_by_side else WORTHWHILE
    sizes = CANDIDATES.get(network.device.type, CANDIDATES["cpu"])
    best, best_rate = sizes[0], 0.0
    tried = [size for size in sizes if size <= max(most, sizes[0])]
    for size, seconds in _timings(lambda size: _forward_seconds(network, reading, law, example, size), tried):
        rate = size / seconds
        if rate > needed * best_rate:
            best, best_rate = size, max(rate, best_rate)
        if seconds > SLOW_SECONDS or rate < 0.8 * best_rate:
            break
    return best if best_rate else best // 2  # the run itself finds out what fits below the smallest


def halve_micro_batch(size: int, error: BaseException) -> int:
    """Return half the size after an error that means "out of memory"; raise any other error again.

    Raises:
        InputError: If a single row does not fit.
    """
    if not _is_out_of_memory(error):
        raise error
    if size == 1:
        raise InputError("out of memory at one row per forward pass; use a smaller network or a larger machine") from (
            error
        )
    return size // 2


def _timings(seconds_of: Callable[[int], float], sizes: list[int]) -> Iterator[tuple[int, float]]:
    """Yield each size with the least seconds of two forward passes, until memory runs out."""
    for size in sizes:
        try:
            yield size, min(seconds_of(size) for _ in range(2))
        except (RuntimeError, MemoryError) as error:
            halve_micro_batch(size, error)
            return


def _forward_seconds(network: BaseNetwork, reading: Reading, law: NoiseLaw, example: Example, size: int) -> float:
    rows = torch.from_numpy(np.zeros((size, *example.stored.shape), dtype=law.row_dtype)).to(network.device)
    request = BlockRequest(example, "selection", 0, BLOCK_DRAWS)
    pieces = [Piece(request, 0, min(BLOCK_DRAWS, size - first)) for first in range(0, size, BLOCK_DRAWS)]
    start = time.perf_counter()
    with network.running() as run:
        outputs = reading.check(run(law.inputs(rows, network.dtype)), size)
        reading.records(outputs, pieces).cpu()  # the copy waits for the device
    return time.perf_counter() - start


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means "out of memory": a class of torch for devices, texts of the CPU and of CUDA."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
    )
