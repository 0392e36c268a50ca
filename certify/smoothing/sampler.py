"""The sampler of a CPU: blocks in, records of integers out. It never computes a probability.

Rows of the pushed blocks flow, in their order and across the borders of blocks and examples, into micro-batches of one
fixed shape, so that every forward pass is full; only the last one is padded, with zeros. The reading turns the outputs
into one record for each piece of a block in the micro-batch, and the records of a block's pieces add up to its own.
Memory does not grow with the number of draws: a handful of blocks is held at a time.

The work is done in *bursts*: the noise of some blocks, then their inputs, their forward passes, and all their records.
Each of these fills the caches with what is its own, so that the first small operation after a change costs several
times what the next one does: the noise of a 28x28 image took 3.4 us a row after a forward pass, 2.0 after other noise.

``workers`` says how much runs side by side, and never changes a record: it is the number of forward passes, each in a
thread of its own and on one core. A small network gains far more from this than from splitting an operation over the
cores, and nothing waits at a barrier when the machine is busy. (Other devices have a sampler of their own:
`device_sampler`.)
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest, block_generator
from certify.smoothing.base_network import BaseNetwork
from certify.smoothing.noise import NoiseLaw, NoisyRows
from certify.smoothing.readings import Piece, Reading

BURST_ROWS, BURST_BYTES = 2**12, 2**23
BURST_SECONDS = 0.05  # of forward passes: nothing is counted sooner, and an interrupt waits as long


@dataclass(frozen=True, eq=False)
class BlockResult:
    """The record of one block, and how and how long it was evaluated."""

    request: BlockRequest
    counts: NDArray[np.int64]
    micro_batch: int
    seconds: float
    fingerprint: str


@dataclass(eq=False)
class _OpenBlock:
    """A block on its way: ``staged`` rows are in a micro-batch, ``counted`` rows have come back."""

    request: BlockRequest
    draw: Callable[[], NoisyRows]
    counts: NDArray[np.int64]
    staged: int = 0
    counted: int = 0
    seconds: float = 0.0
    fingerprint: str = ""
    _rows: NDArray[Any] | None = None  # those drawn, until all of them are staged

    def take_rows(self, most: int) -> NDArray[Any]:
        """Return the next rows of the block, at most ``most``; they are drawn at the first call."""
        if self._rows is None:
            noisy = self.draw()
            self._rows, self.fingerprint = noisy.rows, noisy.fingerprint
        part = self._rows[self.staged : self.staged + most]
        self.staged += len(part)
        if self.staged == BLOCK_DRAWS:
            self._rows = None
        return part


@dataclass(frozen=True, eq=False)
class _Flight:
    """A launched burst: its pieces (block and number of rows), its forward passes, and how to wait for the records."""

    pieces: list[tuple[_OpenBlock, int]]
    passes: int
    records: Callable[[], NDArray[np.int64]]


@dataclass(eq=False)
class Sampler:
    """Evaluates blocks of one run in micro-batches of ``micro_batch`` rows."""

    network: BaseNetwork
    reading: Reading
    law: NoiseLaw
    shape: tuple[int, ...]
    micro_batch: int
    seed: int
    workers: int = 1
    _queue: deque[_OpenBlock] = field(default_factory=deque, init=False)
    _flights: deque[_Flight] = field(default_factory=deque, init=False)

    def __post_init__(self) -> None:
        side_by_side = self.workers > 1
        self._lanes = ThreadPoolExecutor(self.workers, initializer=use_one_core) if side_by_side else None
        self._ahead = self.workers if side_by_side else 0
        row_bytes = max(1, math.prod(self.shape) * self.law.row_dtype.itemsize)
        self._longest = max(1, min(BURST_ROWS, BURST_BYTES // row_bytes) // self.micro_batch)
        self._pass_seconds = math.inf  # of the last forward pass

    @property
    def queued(self) -> int:
        """The number of rows that wait for a micro-batch."""
        return sum(BLOCK_DRAWS - block.staged for block in self._queue)

    @property
    def wanted(self) -> int:
        """How many rows should be queued: those of the next burst, and side by side those of one more.

        An empty queue is the end of the work, for which all flights are waited for: one that is only short of requests
        would make the lanes wait for each other.
        """
        return (2 if self._lanes is not None else 1) * self._burst * self.micro_batch

    @property
    def _burst(self) -> int:
        """The number of micro-batches in the next burst."""
        return max(1, min(self._longest, int(BURST_SECONDS / self._pass_seconds)))

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or in flight."""
        return not self._queue and not self._flights

    def push(self, request: BlockRequest) -> None:
        """Queue one block; its noise is drawn when it is needed."""
        counts = np.zeros(self.reading.record_size(request.purpose), dtype=np.int64)
        bits = block_generator(self.seed, request, self.law.name)
        self._queue.append(_OpenBlock(request, partial(self.law.draw, request.example, bits), counts))

    def step(self) -> list[BlockResult]:
        """Evaluate one burst of queued rows; return the blocks that are complete."""
        start = time.perf_counter()
        if self._queue:
            self._flights.append(self._launch(min(self._burst, -(-self.queued // self.micro_batch))))
        keep = self._ahead if self._queue else 0
        results: list[BlockResult] = []
        while len(self._flights) > keep:
            flight = self._flights.popleft()
            found = flight.records()
            now = time.perf_counter()
            results += _settle(flight, found, (now - start) / (flight.passes * self.micro_batch), self.micro_batch)
            start = now
        return results

    def close(self) -> None:
        """Stop the worker threads and drop what is queued."""
        self._queue.clear()
        self._flights.clear()
        if self._lanes is not None:
            self._lanes.shutdown(wait=True, cancel_futures=True)

    def _stage(self) -> tuple[list[tuple[_OpenBlock, int]], NDArray[Any]]:
        """Return the rows of the next micro-batch and whose they are; padded with zeros when the queue runs dry."""
        pieces: list[tuple[_OpenBlock, int]] = []
        parts: list[NDArray[Any]] = []
        missing = self.micro_batch
        while self._queue and missing:
            block = self._queue[0]
            part = block.take_rows(missing)
            missing -= len(part)
            parts.append(part)
            pieces.append((block, len(part)))
            if block.staged == BLOCK_DRAWS:
                self._queue.popleft()
        if missing:
            parts.append(np.zeros((missing, *self.shape), dtype=self.law.row_dtype))
        return pieces, parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _launch(self, passes: int) -> _Flight:
        """Start the next forward passes, and the reading of their outputs."""
        staged: list[tuple[_OpenBlock, int]] = []
        pieces: list[Piece] = []
        batches: list[NDArray[Any]] = []
        for _ in range(passes):
            found, rows = self._stage()
            staged += found
            pieces += [Piece(block.request, block.staged - count, count) for block, count in found]
            batches.append(rows)
        if self._lanes is not None:
            future = self._lanes.submit(lambda: _on_host(self._evaluate(batches, pieces)))
            return _Flight(staged, passes, future.result)
        records = self._evaluate(batches, pieces)
        return _Flight(staged, passes, lambda: _on_host(records))

    def _evaluate(self, batches: list[NDArray[Any]], pieces: list[Piece]) -> Tensor:
        """Return the records of the pieces, one after another."""
        with self.network.running() as network:
            inputs = [self.law.inputs(torch.from_numpy(rows), self.network.dtype) for rows in batches]
            start = time.perf_counter()
            # A network may return the same memory every time: its outputs are copied.
            outputs = [self.reading.check(network(rows), self.micro_batch).clone() for rows in inputs]
            self._pass_seconds = (time.perf_counter() - start) / len(batches)
            return self.reading.records(torch.cat(outputs), pieces)


def use_one_core() -> None:
    """Keep the operations of this thread on one core; PyTorch sets this per thread."""
    torch.set_num_threads(1)


def _on_host(records: Tensor) -> NDArray[np.int64]:
    found: NDArray[np.int64] = records.cpu().numpy()
    return found


def _settle(flight: _Flight, records: NDArray[np.int64], seconds_per_row: float, micro_batch: int) -> list[BlockResult]:
    """Add the records of a finished burst to its blocks; return those that are complete."""
    complete: list[BlockResult] = []
    ends = accumulate(len(block.counts) for block, _ in flight.pieces)
    for (block, rows), end in zip(flight.pieces, ends, strict=True):
        block.counts += records[end - len(block.counts) : end]
        block.counted += rows
        block.seconds += rows * seconds_per_row
        if block.counted == BLOCK_DRAWS:
            complete.append(BlockResult(block.request, block.counts, micro_batch, block.seconds, block.fingerprint))
    return complete
