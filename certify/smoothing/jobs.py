"""One example on its way through the procedure: which blocks it still needs, and what its stored blocks say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from certify.errors import InputError, SoundnessError
from certify.examples import Example
from certify.results import Counts, SmoothingExample
from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest, Purpose, block_requests
from certify.smoothing.blocks import BlockRow, example_key
from certify.smoothing.procedure import Procedure, select_class


class Job:
    """The blocks of one example: stored ones are taken as they are, missing ones are asked for, stage by stage.

    The first stage is the pilot. Then the procedure says how many estimation draws there shall be; with asked radii it
    says so again at each look, until it asks for no more.
    """

    def __init__(self, example: Example, procedure: Procedure, rows: Sequence[BlockRow]) -> None:
        self.example = example
        self.key = example_key(example)
        self.draws_done = 0
        self.done = False
        self._procedure = procedure
        self._stored = {(row.purpose, row.block): row for row in rows}
        self._selection: list[int] = []
        self._selected: int | None = None
        self._drawn = 0  # estimation draws asked for so far
        self._votes: list[int] = []  # for the selected class, at each stage of the estimation
        self._counts: NDArray[np.int64] = np.zeros(procedure.classes + 1, dtype=np.int64)
        self._ask("selection", 0, procedure.settings.n0)
        self._advance()

    @property
    def estimation_draws(self) -> int | None:
        """The estimation draws of this example; None while they are not known."""
        return self._drawn if self.done or (self._drawn and not self._procedure.questions) else None

    def next_request(self) -> BlockRequest | None:
        """Return the next missing block of the current stage; None when all of them are asked for."""
        return next(self._due, None)

    def receive(self, row: BlockRow) -> None:
        """Add one block; the last one of a stage starts the next."""
        self._add(row)
        self._advance()

    def _add(self, row: BlockRow) -> None:
        self._counts += row.counts
        self._missing -= 1
        self.draws_done += row.draws

    def _ask(self, purpose: Purpose, first: int, draws: int) -> None:
        """Begin the stage of the blocks that hold the draws from ``first`` to ``draws``."""
        requests = list(block_requests(self.example, purpose, draws))[first // BLOCK_DRAWS :]
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
            if not self._selection:
                self._selection = self._counts.tolist()
                self._selected = select_class(self._selection)
                self._counts = np.zeros_like(self._counts)
            else:
                self._votes.append(int(self._counts[self._selected or 0]))
            asked = self._procedure.draws_after(self._selection, self._votes)
            self.done = asked == self._drawn
            if not self.done:
                self._ask("estimation", self._drawn, asked)
                self._drawn = asked
        if self.done and self._stored:
            raise InputError(f"{self.key}: the store holds blocks that this run does not ask for; use --restart")


def read_example(example: Example, procedure: Procedure, rows: Sequence[BlockRow]) -> SmoothingExample:
    """Return the certified example that the stored blocks give: a function of the store alone.

    Raises:
        SoundnessError: If a block is missing, too many, of other draws, or of another micro-batch than the rest.
    """
    settings = procedure.settings
    selection = _sum_blocks(example, "selection", settings.n0, procedure.classes, rows)
    n, votes = _replay(procedure, selection, [row for row in rows if row.purpose == "estimation"])
    estimation = _sum_blocks(example, "estimation", n, procedure.classes, rows)
    if len({row.micro_batch for row in rows}) != 1:
        raise SoundnessError(f"{example.id}: expected one micro-batch shape for all blocks of an example")
    certificate = procedure.certify(selection, estimation, votes)
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
        procedure=procedure.name,
        seconds=sum(row.seconds for row in rows),
        stopped="gs" if procedure.questions else UNSET,
        decisions=certificate.decisions or UNSET,
        reason=certificate.reason or UNSET,
    )


def _replay(procedure: Procedure, selection: Sequence[int], rows: Sequence[BlockRow]) -> tuple[int, list[int]]:
    """Return the estimation draws that the blocks lead to, and the votes for the selected class at each stage."""
    selected = select_class(selection)
    in_blocks = [0 if selected is None else row.counts[selected] for row in rows]  # in block order, as the store is
    until = [0, *accumulate(in_blocks)]
    n, votes = 0, list[int]()
    while (asked := procedure.draws_after(selection, votes)) != n:
        n = asked
        votes.append(until[min(-(-n // BLOCK_DRAWS), len(rows))])
    return n, votes


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
