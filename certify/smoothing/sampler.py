"""The sampler of a CPU: blocks in, records of integers out. It never computes a probability.

Rows of the pushed blocks flow, in their order and across the borders of blocks and examples, into micro-batches of one
fixed shape, so that every forward pass is full; only the last one is padded, with zeros. The reading turns the outputs
into one record for each piece of a block in the micro-batch, and the records of a block's pieces add up to its own.
Memory does not grow with the number of draws: a handful of blocks is held at a time.

The work is done in *bursts*: the inputs of some blocks, then their forward passes, and all their records. Each of these
fills the caches with what is its own, so that the first small operation after a change costs several times what the
next one does: the noise of a 28x28 image took 3.4 us a row after a forward pass, 2.0 after other noise.

``workers`` says how many bursts run side by side, and never changes a record: each is in a thread of its own and on one
core, from the keys of its noise to its records. A small network gains far more from this than from splitting an
operation over the cores, and nothing waits at a barrier when the machine is busy. (Other devices have a sampler of
their own: `device_sampler`.)
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest, block_key
from certify.smoothing.readings import Piece
from certify.smoothing.work import Work

BURST_ROWS, BURST_BYTES = 2**13, 2**25
BURST_SECONDS = 0.1  # of forward passes: nothing is counted sooner, and an interrupt waits as long


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
    """A block on its way: ``staged`` rows are in a burst, ``counted`` rows have come back."""

    request: BlockRequest
    counts: NDArray[np.int64]
    staged: int = 0
    counted: int = 0
    seconds: float = 0.0
    fingerprint: str = ""
    shared: Tensor | None = None  # the inputs of a block that is spread over micro-batches, until all are taken
    taken: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)  # it may be spread over bursts


@dataclass(frozen=True, eq=False)
class _Part:
    """Rows of a block from ``first`` on, in one micro-batch."""

    block: _OpenBlock
    first: int
    rows: int


@dataclass(frozen=True, eq=False)
class _Flight:
    """A launched burst: the parts in it, its forward passes, and how to wait for the records of the parts."""

    parts: list[_Part]
    passes: int
    records: Callable[[], NDArray[np.int64]]


@dataclass(eq=False)
class Sampler:
    """Evaluates blocks of one run in micro-batches."""

    work: Work
    workers: int = 1
    _queue: deque[_OpenBlock] = field(default_factory=deque, init=False)
    _flights: deque[_Flight] = field(default_factory=deque, init=False)
    _kept: threading.local = field(default_factory=threading.local, init=False)

    def __post_init__(self) -> None:
        side_by_side = self.workers > 1
        self._lanes = ThreadPoolExecutor(self.workers, initializer=use_one_core) if side_by_side else None
        self._ahead = self.workers if side_by_side else 0
        row_bytes = max(1, math.prod(self.work.shape) * self.work.network.dtype.itemsize)
        self._longest = max(1, min(BURST_ROWS, BURST_BYTES // row_bytes) // self.work.micro_batch)
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
        return (2 if self._lanes is not None else 1) * self._burst * self.work.micro_batch

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
        counts = np.zeros(self.work.reading.record_size(request.purpose), dtype=np.int64)
        self._queue.append(_OpenBlock(request, counts))

    def step(self) -> list[BlockResult]:
        """Evaluate one burst of queued rows; return the blocks that are complete."""
        start = time.perf_counter()
        if self._queue:
            self._flights.append(self._launch(min(self._burst, -(-self.queued // self.work.micro_batch))))
        keep = self._ahead if self._queue else 0
        results: list[BlockResult] = []
        while len(self._flights) > keep:
            flight = self._flights.popleft()
            found = flight.records()
            now = time.perf_counter()
            seconds = (now - start) / (flight.passes * self.work.micro_batch)
            results += _settle(flight, found, seconds, self.work.micro_batch)
            start = now
        return results

    def close(self) -> None:
        """Stop the worker threads and drop what is queued."""
        self._queue.clear()
        self._flights.clear()
        if self._lanes is not None:
            self._lanes.shutdown(wait=True, cancel_futures=True)

    def _stage(self) -> list[_Part]:
        """Return what the next micro-batch is made of: all of it, unless the queue runs dry."""
        parts: list[_Part] = []
        missing = self.work.micro_batch
        while self._queue and missing:
            block = self._queue[0]
            part = _Part(block, block.staged, min(missing, BLOCK_DRAWS - block.staged))
            block.staged += part.rows
            missing -= part.rows
            parts.append(part)
            if block.staged == BLOCK_DRAWS:
                self._queue.popleft()
        return parts

    def _launch(self, passes: int) -> _Flight:
        """Start the next forward passes, and the reading of their outputs."""
        batches = [self._stage() for _ in range(passes)]
        parts = [part for batch in batches for part in batch]
        if self._lanes is not None:
            return _Flight(parts, passes, self._lanes.submit(self._evaluate, batches).result)
        records = self._evaluate(batches)
        return _Flight(parts, passes, lambda: records)

    def _evaluate(self, batches: list[list[_Part]]) -> NDArray[np.int64]:
        """Return the records of the parts of all micro-batches, one after another."""
        reading, size = self.work.reading, self.work.micro_batch
        with self.work.network.running() as network:
            inputs = [self._inputs(batch, rows) for batch, rows in zip(batches, self._memory(), strict=False)]
            start = time.perf_counter()
            # A network may return the same memory every time: its outputs are copied.
            outputs = [reading.check(network(rows), size).clone() for rows in inputs]
            self._pass_seconds = (time.perf_counter() - start) / len(batches)
            pieces = [Piece(part.block.request, part.first, part.rows) for batch in batches for part in batch]
            found: NDArray[np.int64] = reading.records(torch.cat(outputs), pieces).numpy()
            return found

    def _memory(self) -> Iterator[Tensor]:
        """Yield this thread's tensors for the inputs of micro-batches, the same in every burst: they stay in a cache.

        Each is a tensor of its own, as aligned as any: the last bits of products can depend on that.
        """
        kept: list[Tensor] = self._kept.__dict__.setdefault("inputs", [])
        yield from kept
        while True:
            kept.append(torch.empty((self.work.micro_batch, *self.work.shape), dtype=self.work.network.dtype))
            yield kept[-1]

    def _inputs(self, batch: list[_Part], inputs: Tensor) -> Tensor:
        """Return the inputs of one micro-batch, padded with zeros."""
        place = 0
        for part in batch:
            whole = part.rows == len(inputs)
            self._draw(part, inputs if whole else inputs[place : place + part.rows])
            place += part.rows
        if place < len(inputs):
            inputs[place:] = 0
        return inputs

    def _draw(self, part: _Part, inputs: Tensor) -> None:
        """Draw a block where it belongs, or, when it is spread, once for all its parts."""
        if part.rows == BLOCK_DRAWS:
            self._fill(part.block, inputs)
            return
        block = part.block
        with block.lock:
            if block.shared is None:
                block.shared = torch.empty((BLOCK_DRAWS, *self.work.shape), dtype=inputs.dtype)
                self._fill(block, block.shared)
            inputs.copy_(block.shared[part.first : part.first + part.rows])
            block.taken += part.rows
            if block.taken == BLOCK_DRAWS:
                block.shared = None

    def _fill(self, block: _OpenBlock, inputs: Tensor) -> None:
        law = self.work.law
        block.fingerprint = law.fill(block.request, block_key(self.work.seed, block.request, law.name), inputs)


def use_one_core() -> None:
    """Keep the operations of this thread on one core; PyTorch sets this per thread."""
    torch.set_num_threads(1)


def _settle(flight: _Flight, records: NDArray[np.int64], seconds_per_row: float, micro_batch: int) -> list[BlockResult]:
    """Add the records of a finished burst to its blocks; return those that are complete."""
    complete: list[BlockResult] = []
    ends = accumulate(len(part.block.counts) for part in flight.parts)
    for part, end in zip(flight.parts, ends, strict=True):
        block = part.block
        block.counts += records[end - len(block.counts) : end]
        block.counted += part.rows
        block.seconds += part.rows * seconds_per_row
        if block.counted == BLOCK_DRAWS:
            complete.append(BlockResult(block.request, block.counts, micro_batch, block.seconds, block.fingerprint))
    return complete
