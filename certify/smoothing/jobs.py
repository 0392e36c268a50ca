"""One example on its way through the procedure: which blocks it still needs, and what its stored blocks say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from certify.errors import InputError, SoundnessError
from certify.examples import Example
from certify.results import Counts, SmoothingExample
from certify.smoothing.addresses import BlockRequest, Purpose, block_requests
from certify.smoothing.blocks import BlockRow, example_key
from certify.smoothing.procedure import Procedure


class Job:
    """The blocks of one example: stored ones are taken as they are, missing ones are asked for, phase by phase."""

    def __init__(self, example: Example, procedure: Procedure, rows: Sequence[BlockRow]) -> None:
        self.example = example
        self.key = example_key(example)
        self.draws_done = 0
        self.estimation_draws: int | None = None  # known once the pilot is complete
        self._procedure = procedure
        self._stored = {(row.purpose, row.block): row for row in rows}
        self._begin("selection", procedure.settings.n0)

    @property
    def done(self) -> bool:
        """Whether every block of both phases is there."""
        return self.estimation_draws is not None and self._missing == 0

    def next_request(self) -> BlockRequest | None:
        """Return the next missing block of the current phase; None when all of them are asked for."""
        return next(self._due, None)

    def receive(self, row: BlockRow) -> None:
        """Add one block; the last one of the pilot starts the estimation."""
        self._counts += row.counts
        self._missing -= 1
        self.draws_done += row.draws
        self._advance()

    def _begin(self, purpose: Purpose, draws: int) -> None:
        requests = list(block_requests(self.example, purpose, draws))
        stored = [self._stored.pop((purpose, request.block), None) for request in requests]
        self._counts: NDArray[np.int64] = np.zeros(self._procedure.classes + 1, dtype=np.int64)
        self._missing = len(requests)
        self._due: Iterator[BlockRequest] = iter(
            [request for request, row in zip(requests, stored, strict=True) if row is None]
        )
        self._purpose = purpose
        for request, row in zip(requests, stored, strict=True):
            if row is not None:
                _check_draws(request, row)
                self._counts += row.counts
                self._missing -= 1
                self.draws_done += row.draws
        self._advance()

    def _advance(self) -> None:
        if self._purpose == "selection" and self._missing == 0:
            self.estimation_draws = self._procedure.draws_after(self._counts.tolist())
            self._begin("estimation", self.estimation_draws)
        elif self.done and self._stored:
            raise InputError(f"{self.key}: the store holds blocks that this run does not ask for; use --restart")


def read_example(example: Example, procedure: Procedure, rows: Sequence[BlockRow]) -> SmoothingExample:
    """Return the certified example that the stored blocks give: a function of the store alone.

    Raises:
        SoundnessError: If a block is missing, too many, of other draws, or of another micro-batch than the rest.
    """
    settings = procedure.settings
    selection = _sum_blocks(example, "selection", settings.n0, procedure.classes, rows)
    n = procedure.draws_after(selection)
    estimation = _sum_blocks(example, "estimation", n, procedure.classes, rows)
    if len({row.micro_batch for row in rows}) != 1:
        raise SoundnessError(f"{example.id}: expected one micro-batch shape for all blocks of an example")
    certificate = procedure.certify(selection, estimation)
    return SmoothingExample(
        index=example.index,
        id=example.id,
        hash=example.hash,
        label=example.label,
        predicted=certificate.predicted,
        correct=certificate.predicted == example.label,
        radius=certificate.radius,
        norm="l2",
        counts=Counts(selection=selection, estimation=estimation, n0=settings.n0, n=n, seed=settings.seed),
        procedure=settings.procedure,
        seconds=sum(row.seconds for row in rows),
        reason=certificate.reason or UNSET,
    )


def _sum_blocks(
    example: Example, purpose: Purpose, draws: int, classes: int, rows: Sequence[BlockRow]
) -> tuple[int, ...]:
    """Return the counts of one purpose, after checking that exactly the blocks of ``draws`` draws are there."""
    found = [row for row in rows if row.purpose == purpose]
    asked = [(request.block, request.draws) for request in block_requests(example, purpose, draws)]
    if [(row.block, row.draws) for row in found] != asked:
        raise SoundnessError(f"{example.id}: expected the blocks of {draws} {purpose} draws, got others")
    total = [0] * (classes + 1)
    for row in found:
        total = [have + votes for have, votes in zip(total, row.counts, strict=True)]
    return tuple(total)


def _check_draws(request: BlockRequest, row: BlockRow) -> None:
    if request.draws != row.draws:
        raise InputError(
            f"{row.example}: expected {request.draws} draws in {row.purpose} block {row.block}, got {row.draws}; "
            "discard the store with --restart"
        )
