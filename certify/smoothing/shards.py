"""One run on many machines: its blocks are evaluated by processes of a Ray cluster, its counts kept here.

A block is addressed by (seed, example, purpose, index), so that it does not matter where it is evaluated: the process
that was asked keeps the store, sends requests out and adds the integers that come back, as with threads. What must not
differ is the network. Machines of different kinds may round its outputs differently, and votes of two functions prove
nothing about either; so every worker first evaluates one pilot block, and all outputs must agree with those here to
the last bit, as must the versions of this program and of PyTorch.

A worker that dies is replaced, and what it had is asked for again, at most `MOST_TRIES` times in all: whatever kills
every worker it meets ends the run, with every finished block in the store.

Ray (ray.io) looks for the cluster that ``RAY_ADDRESS`` names, else for one on this machine; else it starts one here,
which ends with this process. Cores and GPUs of the cluster each hold one worker.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import lcm
from types import ModuleType
from typing import Any

import torch

from certify._version import __version__
from certify.errors import InputError
from certify.examples import Example
from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest
from certify.smoothing.device_sampler import DeviceSampler
from certify.smoothing.noise_source import source_name
from certify.smoothing.sampler import BlockResult, Sampler, use_one_core
from certify.smoothing.work import Work

MOST_TRIES = 3
WAIT_SECONDS = 0.2  # so that a signal is seen soon
LEAST_ROWS = 1024  # of one request to a worker: a trip costs about a millisecond


def local_sampler(work: Work, workers: int = 1) -> Sampler | DeviceSampler:
    """Return a sampler of this process."""
    return Sampler(work, workers) if work.network.device.type == "cpu" else DeviceSampler(work)


def signature(work: Work, example: Example) -> str:
    """Return what must agree wherever blocks are evaluated: versions, generator, all outputs of one pilot block."""
    versions = f"certify {__version__}, torch {torch.__version__}, noise of {source_name(work.network.device)}"
    return f"{versions}, {work.pilot_outputs(example)}"


class Worker:
    """What a process of the cluster runs: a sampler on one core."""

    def __init__(self, work: Work) -> None:
        use_one_core()
        self._work, self._sampler = work, local_sampler(work)

    def introduce(self, example: Example) -> tuple[str, str]:
        """Return the name of the machine, and the signature of what it evaluates with."""
        return socket.gethostname(), signature(self._work, example)

    def evaluate(self, requests: Sequence[BlockRequest]) -> list[BlockResult]:
        """Return the records of some blocks, in their order."""
        for request in requests:
            self._sampler.push(request)
        results: list[BlockResult] = []
        while not self._sampler.idle:
            results += self._sampler.step()
        return results


@dataclass(eq=False)
class Parcel:
    """Some blocks on their way to a worker and back."""

    requests: list[BlockRequest]
    tries: int = 0


@dataclass(eq=False)
class RayShards:
    """Evaluates blocks as `Sampler` does, in ``workers`` processes of a Ray cluster.

    Raises:
        InputError: If Ray is missing, or a machine evaluates the network differently.
    """

    work: Work
    example: Example
    workers: int
    _queue: deque[BlockRequest] = field(default_factory=deque, init=False)
    _again: deque[Parcel] = field(default_factory=deque, init=False)
    _away: dict[Any, tuple[Parcel, int]] = field(default_factory=dict, init=False)  # by the future of the results
    _newcomers: dict[int, Any] = field(default_factory=dict, init=False)  # by position: introductions not heard yet

    def __post_init__(self) -> None:
        self._ray = _connected()
        self._stored = self._ray.put(self.work)
        self._signature = signature(self.work, self.example)
        self._crew = [self._hire() for _ in range(self.workers)]
        for introduced in self._ray.get([worker.introduce.remote(self.example) for worker in self._crew]):
            self._check_agreement(*introduced)

    @property
    def queued(self) -> int:
        """The number of rows that no worker has been asked for."""
        return BLOCK_DRAWS * len(self._queue)

    @property
    def wanted(self) -> int:
        """How many rows should be queued: one parcel for everyone."""
        return BLOCK_DRAWS * self._blocks_each * self.workers

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or away."""
        return not (self._queue or self._again or self._away)

    def push(self, request: BlockRequest) -> None:
        """Queue one block."""
        self._queue.append(request)

    def step(self) -> list[BlockResult]:
        """Send out what is queued and return the blocks that have come back, after waiting for some.

        Raises:
            InputError: If the same blocks were lost with `MOST_TRIES` workers.
        """
        self._send()
        ready, _ = self._ray.wait(list(self._away), num_returns=1, timeout=WAIT_SECONDS)
        return [result for future in ready for result in self._received(future)]

    def close(self) -> None:
        """Dismiss the workers."""
        self._queue.clear()
        self._again.clear()
        self._away.clear()
        for worker in self._crew:
            self._ray.kill(worker)
        self._crew.clear()

    @property
    def _blocks_each(self) -> int:
        """The blocks of one parcel: they fill whole micro-batches."""
        full = lcm(BLOCK_DRAWS, self.work.micro_batch)
        return -(-LEAST_ROWS // full) * full // BLOCK_DRAWS

    def _hire(self) -> Any:  # noqa: ANN401 - a handle of Ray's, which has no types
        devices = int(self.work.network.device.type == "cuda")
        return self._ray.remote(Worker).options(num_cpus=1, num_gpus=devices).remote(self._stored)

    def _check_agreement(self, machine: str, there: str) -> None:
        if there != self._signature:
            self.close()
            raise InputError(
                "expected the same program and the same outputs, to the last bit, on all machines: got "
                f"{self._signature} here and {there} on {machine}; use machines of one kind, or run parts of the "
                "examples (--shard)"
            )

    def _send(self) -> None:
        """Give a parcel to every worker that has fewer than two."""
        busy = [position for _, position in self._away.values()]
        for round_ in (0, 1):
            for position, worker in enumerate(self._crew):
                if busy.count(position) > round_ or not (parcel := self._next_parcel()):
                    continue
                busy.append(position)
                self._away[worker.evaluate.remote(parcel.requests)] = parcel, position

    def _next_parcel(self) -> Parcel | None:
        if self._again:
            return self._again.popleft()
        taken = [self._queue.popleft() for _ in range(min(self._blocks_each, len(self._queue)))]
        return Parcel(taken) if taken else None

    def _received(self, future: Any) -> Iterator[BlockResult]:  # noqa: ANN401 - as above
        parcel, position = self._away.pop(future)
        try:
            results = self._ray.get(future)
        except self._ray.exceptions.RayActorError as error:
            self._replace(position, parcel, error)
            return
        if position in self._newcomers:  # a worker answers in order: it has introduced itself before
            self._check_agreement(*self._ray.get(self._newcomers.pop(position)))
        for request, result in zip(parcel.requests, results, strict=True):
            yield replace(result, request=request)  # the example it is of is an object of this process

    def _replace(self, position: int, lost: Parcel, error: Exception) -> None:
        """Hire another worker, and send everything again that the dead one had."""
        gone = [future for future, (_, owner) in self._away.items() if owner == position]
        parcels = [lost, *(self._away.pop(future)[0] for future in gone)]
        lost.tries += 1
        if lost.tries >= MOST_TRIES:
            raise InputError(
                f"expected workers that live, got {MOST_TRIES} that died with the same blocks (the last one: "
                f"{str(error).splitlines()[0]}); every finished block is kept: look at their machines, and run the "
                "same command again to go on"
            )
        self._again.extend(parcels)
        self._crew[position] = self._hire()
        self._newcomers[position] = self._crew[position].introduce.remote(self.example)


def cluster_workers(device: str) -> int:
    """Return how many workers the cluster can hold: one a core, or one a GPU.

    Raises:
        InputError: If Ray is missing, or the cluster has no such device.
    """
    ray = _connected()
    name = "GPU" if device.startswith("cuda") else "CPU"
    found = int(ray.cluster_resources().get(name, 0))
    if found < 1:
        raise InputError(f"expected a Ray cluster with at least one {name}, got none; choose another --device")
    return found


def _connected() -> ModuleType:
    """Return Ray, connected to a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a tool that certifies does not phone home
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise InputError("expected Ray for --engine ray, got none; pip install 'certify-nn[ray]'") from error
    if not ray.is_initialized():
        with _handlers_kept():
            ray.init(log_to_driver=False, logging_level="error")
    return ray


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Put back the handlers of signals that Ray replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
