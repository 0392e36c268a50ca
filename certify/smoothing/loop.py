"""The loop of a run: which blocks go into the next forward pass, and what happens to what comes back.

The loop fills the sampler from the oldest example that has blocks to ask for, looks ahead to the pilots of the next
ones when a micro-batch would not be full, keeps what comes back, and yields an example when its last block is there.
What the store already has is not evaluated again, so a killed run continues, and a complete one is read back without
a forward pass.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Generic, TypeAlias

from certify.errors import InterruptedRun
from certify.examples import Dataset, Example
from certify.smoothing.addresses import BlockRequest
from certify.smoothing.base_network import BaseNetwork, one_core_per_pass
from certify.smoothing.blocks import BlockRow, example_key
from certify.smoothing.device_sampler import DeviceSampler
from certify.smoothing.function_check import refuse_unless_function
from certify.smoothing.interruption import Interruption
from certify.smoothing.jobs import Job, read_example
from certify.smoothing.micro_batch import choose_micro_batch, halve_micro_batch
from certify.smoothing.noise import NoiseLaw
from certify.smoothing.placement import Engine
from certify.smoothing.sampler import BlockResult, Sampler
from certify.smoothing.shards import RayShards, local_sampler
from certify.smoothing.store import Store
from certify.smoothing.tasks import Row, Task
from certify.smoothing.work import Work

PROGRESS_SECONDS = 0.2

Evaluator: TypeAlias = Sampler | DeviceSampler | RayShards
Events: TypeAlias = "Generator[Row | SmoothingProgress, None, None]"


@dataclass(frozen=True)
class SmoothingProgress:
    """How far a run is. ``draws_estimate`` is the expected total: later votes decide how many draws it will be.

    Examples are yielded in order: ``decided`` are those that need no more draws, ``examples_done`` of them are out.
    """

    examples_done: int
    decided: int
    examples: int
    draws_done: int
    draws_estimate: int


@dataclass(eq=False)
class SmoothingLoop(Generic[Row]):
    """The state of the loop; everything that must survive a kill is in the store instead."""

    network: BaseNetwork
    law: NoiseLaw
    task: Task[Row]
    dataset: Dataset
    store: Store
    micro_batch: int | None  # None until the first block is due
    workers: int
    engine: Engine = "local"
    _jobs: deque[Job] = field(default_factory=deque, init=False)  # those not yielded yet, in order
    _open: list[Job] = field(default_factory=list, init=False)  # those of them that are not done, in order
    _finished: list[int] = field(default_factory=list, init=False)  # estimation draws of each finished example
    _sampler: Evaluator | None = field(default=None, init=False)
    _exhausted: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._upcoming: Iterator[Example] = iter(self.dataset)

    def events(self) -> Events[Row]:
        """Yield results and progress until every example is finished."""
        shown = time.monotonic()
        with Interruption() as interruption, one_core_per_pass(self.network.device), contextlib.closing(self):
            while self._jobs or not self._exhausted:
                self._fill()
                while self._jobs and self._jobs[0].done:
                    yield self._finish(self._jobs.popleft())
                if self._step(interruption) and time.monotonic() - shown > PROGRESS_SECONDS:
                    shown = time.monotonic()
                    yield self._progress()

    def close(self) -> None:
        """Stop the sampler's threads, or dismiss the workers of a cluster."""
        if self._sampler is not None:
            self._sampler.close()

    def _fill(self) -> None:
        """Queue blocks until the next micro-batch is full, or an example can be yielded."""
        while not (self._jobs and self._jobs[0].done) and self._wants_rows():
            request = self._next_request()
            if request is None or self._sampler is None:
                return
            self._sampler.push(request)

    def _wants_rows(self) -> bool:
        return self._sampler is None or self._sampler.queued < self._sampler.wanted

    def _next_request(self) -> BlockRequest | None:
        for job in self._open:
            if request := job.next_request():
                return request
        for example in self._upcoming:
            job = self._admit(example)
            self._jobs.append(job)
            if not job.done:
                self._open.append(job)
            if request := job.next_request():
                return request
            if self._jobs[0].done:
                return None
        self._exhausted = True
        return None

    def _admit(self, example: Example) -> Job:
        """Return the job of the next example; blocks of another micro-batch are made again, unless it is complete."""
        rows = self.store.rows(example_key(example))
        job = Job(example, self.task, rows)
        if job.done:
            return job
        size = self._ready().work.micro_batch
        if all(row.micro_batch == size for row in rows):
            return job
        self.store.discard([job.key])
        return Job(example, self.task, [])

    def _ready(self) -> Evaluator:
        """Return the sampler; the first call chooses the micro-batch and checks that the network is a function."""
        if self._sampler is None:
            size = self._checked_micro_batch()
            shape, task = self.dataset.examples[0].stored.shape, self.task
            work = Work(self.network, task.reading, self.law, shape, size, task.settings.seed)
            remote = self.engine == "ray"
            first = self.dataset.examples[0]
            self._sampler = RayShards(work, first, self.workers) if remote else local_sampler(work, self.workers)
        return self._sampler

    def _checked_micro_batch(self) -> int:
        first, settings, reading = self.dataset.examples[0], self.task.settings, self.task.reading
        if self.micro_batch is None:
            most = len(self.dataset) * (settings.n0 + settings.n)
            self.micro_batch = choose_micro_batch(
                self.network, reading, self.law, first, most=most, side_by_side=self.workers > 1
            )
        while True:
            try:
                refuse_unless_function(
                    self.network, reading, self.law, first, micro_batch=self.micro_batch, seed=settings.seed
                )
            except (RuntimeError, MemoryError) as error:
                self.micro_batch = halve_micro_batch(self.micro_batch, error)
            else:
                return self.micro_batch

    def _step(self, interruption: Interruption) -> bool:
        """Evaluate one micro-batch and keep its blocks; return whether there was one."""
        if self._sampler is None or self._sampler.idle:
            self._stop_if(interruption)
            return False
        try:
            results = self._sampler.step()
        except (RuntimeError, MemoryError) as error:
            self._shrink(self._sampler, error)
            return False
        for result in results:
            self._keep(result)
        if results:
            self._stop_if(interruption)
        return True

    def _keep(self, result: BlockResult) -> None:
        job = next(job for job in self._open if job.example is result.request.example)
        request = result.request
        row = BlockRow(
            example=job.key,
            purpose=request.purpose,
            block=request.block,
            draws=request.draws,
            micro_batch=result.micro_batch,
            counts=tuple(result.counts.tolist()),
            seconds=result.seconds,
            noise=result.fingerprint,
        )
        self.store.add(row)
        job.receive(row)
        if job.done:
            self._open.remove(job)

    def _finish(self, job: Job) -> Row:
        self.store.commit()
        found = read_example(job.example, self.task, self.store.rows(job.key))
        self._finished.append(job.estimation_draws or 0)
        return found

    def _shrink(self, sampler: Evaluator, error: BaseException) -> None:
        """After running out of memory: halve the micro-batch and begin the open examples again."""
        self.micro_batch = halve_micro_batch(sampler.work.micro_batch, error)
        sampler.close()
        self._sampler, self._exhausted = None, False
        self.store.discard([job.key for job in self._jobs])
        self._upcoming = chain([job.example for job in self._jobs], self._upcoming)
        self._jobs.clear()
        self._open.clear()

    def _stop_if(self, interruption: Interruption) -> None:
        if not interruption.requested:
            return
        self.store.commit()
        raise InterruptedRun(
            f"interrupted by {interruption.name}: {len(self._finished)} of {len(self.dataset)} examples are done; "
            f"every finished block is kept in {self.store.path}; run the same command again to go on"
        )

    def _progress(self) -> SmoothingProgress:
        n0 = self.task.settings.n0
        known = [job.estimation_draws for job in self._jobs if job.estimation_draws is not None] + self._finished
        likely = sum(known) / len(known) if known else self.task.first_draws
        beyond = (job.draws_done - n0 - likely for job in self._open if job.estimation_draws is None)
        total = n0 * len(self.dataset) + sum(known) + likely * (len(self.dataset) - len(known))
        total += sum(draws for draws in beyond if draws > 0)
        done = sum(job.draws_done for job in self._jobs) + sum(self._finished) + n0 * len(self._finished)
        decided = len(self._finished) + len(self._jobs) - len(self._open)
        return SmoothingProgress(len(self._finished), decided, len(self.dataset), done, round(total))
