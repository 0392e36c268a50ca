"""The sampler of a device: noise is made, added, evaluated and counted there, and integers alone come back.

It takes and gives what `sampler` does. A micro-batch is made of the noise of some blocks, drawn together, and of what
the last one left over; its records, and the words by which blocks with equal noise are recognised, come back in one
copy. Nothing waits for a result before `AHEAD` more micro-batches are on their way: what the host asks for is put in
line behind the forward passes, and a copy is read when an event behind it has happened.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest
from certify.smoothing.device_noise import DeviceNoise
from certify.smoothing.noise import FINGERPRINT_WORDS, fingerprint
from certify.smoothing.readings import Piece
from certify.smoothing.sampler import BlockResult
from certify.smoothing.work import Work

AHEAD = 2


@dataclass(eq=False)
class _DrawnBlock:
    """A block whose noise is drawn: ``staged`` rows are in a micro-batch, ``counted`` rows have come back."""

    request: BlockRequest
    counts: NDArray[np.int64]
    staged: int = 0
    counted: int = 0
    seconds: float = 0.0
    fingerprint: str = ""


@dataclass(frozen=True, eq=False)
class _Flight:
    """A micro-batch on its way: its pieces, the blocks that begin in it, and where its numbers arrive, and when."""

    pieces: list[tuple[_DrawnBlock, int]]
    fresh: list[_DrawnBlock]
    numbers: Tensor
    arrived: torch.cuda.Event


@dataclass(eq=False)
class DeviceSampler:
    """Evaluates blocks of one run in micro-batches, on the device of the network."""

    work: Work
    _queue: deque[BlockRequest] = field(default_factory=deque, init=False)
    _open: deque[_DrawnBlock] = field(default_factory=deque, init=False)  # with rows that are in no micro-batch
    _flights: deque[_Flight] = field(default_factory=deque, init=False)
    _left: Tensor = field(init=False)  # the rows of the open blocks

    def __post_init__(self) -> None:
        self._left = torch.from_numpy(np.zeros((0, *self.work.shape), dtype=self.work.law.row_dtype)).to(self._device)

    @property
    def _device(self) -> torch.device:
        return self.work.network.device

    @cached_property
    def _noise(self) -> DeviceNoise:
        """The noise of the run; made in a step, where the end of the memory is noticed."""
        return DeviceNoise(self.work.law, self.work.seed, self._device)

    @property
    def queued(self) -> int:
        """The number of rows that wait for a micro-batch."""
        return BLOCK_DRAWS * len(self._queue) + len(self._left)

    @property
    def wanted(self) -> int:
        """How many rows should be queued: those of the next micro-batch."""
        return self.work.micro_batch

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or in flight."""
        return not (self.queued or self._flights)

    def push(self, request: BlockRequest) -> None:
        """Queue one block."""
        self._queue.append(request)

    def step(self) -> list[BlockResult]:
        """Start one micro-batch of queued rows; return the blocks that have become complete."""
        start = time.perf_counter()
        if self.queued:
            self._flights.append(self._launch())
        keep = AHEAD if self.queued else 0
        results: list[BlockResult] = []
        while len(self._flights) > keep:
            flight = self._flights.popleft()
            flight.arrived.synchronize()
            now = time.perf_counter()
            results += _settle(flight, (now - start) / self.work.micro_batch, self.work.micro_batch)
            start = now
        return results

    def close(self) -> None:
        """Drop what is queued and on its way."""
        self._queue.clear()
        self._open.clear()
        self._flights.clear()
        self._left = self._left[:0]

    def _launch(self) -> _Flight:
        """Put the next micro-batch in line, and the copy of what is read from it."""
        fresh, words = self._draw()
        rows, staged = self._stage()
        pieces = [Piece(block.request, block.staged - count, count) for block, count in staged]
        reading = self.work.reading
        with self.work.network.running() as network:
            inputs = self.work.law.inputs(rows, self.work.network.dtype)
            records = reading.records(reading.check(network(inputs), self.work.micro_batch), pieces)
        numbers = torch.cat([records, words]).to("cpu", non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(torch.cuda.current_stream(self._device))
        return _Flight(staged, fresh, numbers, arrived)

    def _draw(self) -> tuple[list[_DrawnBlock], Tensor]:
        """Draw the blocks that the next micro-batch needs; return them, and the words of their fingerprints."""
        missing = self.work.micro_batch - len(self._left)
        count = min(-(-missing // BLOCK_DRAWS), len(self._queue))
        requests = [self._queue.popleft() for _ in range(count)]
        fresh = [
            _DrawnBlock(one, np.zeros(self.work.reading.record_size(one.purpose), dtype=np.int64)) for one in requests
        ]
        if not fresh:
            return [], torch.zeros(0, dtype=torch.int64, device=self._device)
        drawn = self._noise.draw(requests)
        self._left = torch.cat([self._left, drawn.rows])
        self._open.extend(fresh)
        return fresh, drawn.words.flatten()

    def _stage(self) -> tuple[Tensor, list[tuple[_DrawnBlock, int]]]:
        """Return the rows of the next micro-batch, padded with zeros at the end of the queue, and whose they are."""
        rows, self._left = self._left[: self.work.micro_batch], self._left[self.work.micro_batch :].clone()
        pieces: list[tuple[_DrawnBlock, int]] = []
        filled = 0
        while self._open and filled < len(rows):
            block = self._open[0]
            count = min(BLOCK_DRAWS - block.staged, len(rows) - filled)
            block.staged += count
            filled += count
            pieces.append((block, count))
            if block.staged == BLOCK_DRAWS:
                self._open.popleft()
        padding = rows.new_zeros((self.work.micro_batch - len(rows), *self.work.shape))
        return (torch.cat([rows, padding]) if len(padding) else rows), pieces


def _settle(flight: _Flight, seconds_per_row: float, micro_batch: int) -> Iterator[BlockResult]:
    """Add the records of a micro-batch that has arrived to its blocks; yield those that are complete."""
    numbers: NDArray[np.int64] = flight.numbers.numpy()
    words = numbers[len(numbers) - FINGERPRINT_WORDS * len(flight.fresh) :].reshape(-1, FINGERPRINT_WORDS)
    for block, own in zip(flight.fresh, words, strict=True):
        block.fingerprint = fingerprint(own)
    ends = accumulate(len(block.counts) for block, _ in flight.pieces)
    for (block, rows), end in zip(flight.pieces, ends, strict=True):
        block.counts += numbers[end - len(block.counts) : end]
        block.counted += rows
        block.seconds += rows * seconds_per_row
        if block.counted == BLOCK_DRAWS:
            yield BlockResult(block.request, block.counts, micro_batch, block.seconds, block.fingerprint)
