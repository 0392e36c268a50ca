"""One example on its way through a task: which blocks it still needs, and what its stored blocks say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from certify.errors import InputError, SoundnessError
from certify.examples import Example
from certify.smoothing.addresses import BLOCK_DRAWS, NO_CHOICE, BlockRequest, Purpose, block_requests
from certify.smoothing.blocks import BlockRow, example_key
from certify.smoothing.tasks import Drawn, Row, Task


class Job:
    """The blocks of one example: stored ones are taken as they are, missing ones are asked for, stage by stage.

    The first stage is the pilot. Then the task says how many estimation draws there shall be; a sequential one says so
    again at each look, until it asks for no more.
    """

    def __init__(self, example: Example, task: Task[object], rows: Sequence[BlockRow]) -> None:
        self.example = example
        self.key = example_key(example)
        self.draws_done = 0
        self.done = False
        self._task = task
        self._stored = {(row.purpose, row.block): row for row in rows}
        self._pilot: NDArray[np.int64] | None = None  # its total, once it is complete
        self._choice = NO_CHOICE
        self._drawn = 0  # estimation draws asked for so far
        self._looks: list[int] = []  # what the task looked at, at each stage of the estimation
        self._total: NDArray[np.int64] = NO_CHOICE
        self._ask("selection", 0, task.settings.n0)
        self._advance()

    @property
    def estimation_draws(self) -> int | None:
        """The estimation draws of this example; None while they are not known."""
        return self._drawn if self.done or (self._drawn and not self._task.sequential) else None

    def next_request(self) -> BlockRequest | None:
        """Return the next missing block of the current stage; None when all of them are asked for."""
        return next(self._due, None)

    def receive(self, row: BlockRow) -> None:
        """Add one block; the last one of a stage starts the next."""
        self._add(row)
        self._advance()

    def _add(self, row: BlockRow) -> None:
        self._task.reading.merge(self._total, row.block, row.counts)
        self._missing -= 1
        self.draws_done += row.draws

    def _ask(self, purpose: Purpose, first: int, draws: int) -> None:
        """Begin the stage of the blocks that hold the draws from ``first`` to ``draws``."""
        size = self._task.reading.total_size(purpose, draws)
        self._total = np.concatenate([self._total, np.zeros(size - len(self._total), dtype=np.int64)])
        requests = list(block_requests(self.example, purpose, draws, self._choice))[first // BLOCK_DRAWS :]
        stored = [self._stored.pop((purpose, request.block), None) for request in requests]
        self._missing = len(requests)
        self._due: Iterator[BlockRequest] = iter(
            [request for request, row in zip(requests, stored, strict=True) if row is None]
        )
        for request, row in zip(requests, stored, strict=True):
            if row is not None:
                _check_draws(request, row)
                self._add(row)

    def _advance(self) -> None:
        while self._missing == 0 and not self.done:
            if self._pilot is None:
                self._pilot, self._total = self._total, NO_CHOICE
                self._choice = self._task.choose(self._pilot)
            else:
                self._looks.append(self._task.look(self._choice, self._total))
            asked = self._task.draws_after(self._pilot, self._looks)
            self.done = asked == self._drawn
            if not self.done:
                self._ask("estimation", self._drawn, asked)
                self._drawn = asked
        if self.done and self._stored:
            raise InputError(f"{self.key}: the store holds blocks that this run does not ask for; use --restart")


def read_example(example: Example, task: Task[Row], rows: Sequence[BlockRow]) -> Row:
    """Return the row of the report that the stored blocks give: a function of the store alone.

    Args:
        example: The example.
        task: What is asked of it.
        rows: Its blocks: the pilot's first, in block order.

    Raises:
        SoundnessError: If a block is missing, too many, of other draws, or of another micro-batch than the rest.
    """
    by_purpose = {purpose: list(found) for purpose, found in groupby(rows, lambda row: row.purpose)}
    selection, estimation = by_purpose.get("selection", []), by_purpose.get("estimation", [])
    pilot = _merge(example, "selection", task.settings.n0, task, selection)
    n, looks = _replay(task, pilot, estimation)
    total = _merge(example, "estimation", n, task, estimation)
    if len({row.micro_batch for row in rows}) != 1:
        raise SoundnessError(f"{example.id}: expected one micro-batch shape for all blocks of an example")
    return task.report(example, Drawn(pilot, total, n, looks, sum(row.seconds for row in rows)))


def _replay(task: Task[object], pilot: NDArray[np.int64], rows: Sequence[BlockRow]) -> tuple[int, list[int]]:
    """Return the estimation draws that the blocks lead to, and what the task looked at, at each stage."""
    choice, n, looks, merged = task.choose(pilot), 0, list[int](), 0
    total = NO_CHOICE
    while (asked := task.draws_after(pilot, looks)) != n:
        n = asked
        size = task.reading.total_size("estimation", n)
        total = np.concatenate([total, np.zeros(size - len(total), dtype=np.int64)])
        until = min(-(-n // BLOCK_DRAWS), len(rows))
        for row in rows[merged:until]:
            task.reading.merge(total, row.block, row.counts)
        merged = until
        looks.append(task.look(choice, total))
    return n, looks


def _merge(
    example: Example, purpose: Purpose, draws: int, task: Task[object], rows: Sequence[BlockRow]
) -> NDArray[np.int64]:
    """Return the total of one purpose, after checking that exactly the blocks of ``draws`` draws are there."""
    asked = [(request.block, request.draws) for request in block_requests(example, purpose, draws)]
    if [(row.block, row.draws) for row in rows] != asked:
        raise SoundnessError(f"{example.id}: expected the blocks of {draws} {purpose} draws, got others")
    total = np.zeros(task.reading.total_size(purpose, draws), dtype=np.int64)
    for row in rows:
        task.reading.merge(total, row.block, row.counts)
    return total


def _check_draws(request: BlockRequest, row: BlockRow) -> None:
    if request.draws != row.draws:
        raise InputError(
            f"{row.example}: expected {request.draws} draws in {row.purpose} block {row.block}, got {row.draws}; "
            "discard the store with --restart"
        )
