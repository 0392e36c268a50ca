"""One row of the run store: the record of one block, as it is written, read back and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from certify.errors import InputError
from certify.examples import Example
from certify.results import dump_json, load_json
from certify.smoothing.readings import Reading

COLUMNS = ("example", "purpose", "block", "draws", "micro_batch", "counts", "seconds", "noise", "digest")


@dataclass(frozen=True)
class BlockRow:
    """One evaluated block: ``counts`` is its record, by the reading of the run.

    ``example`` is an `example_key`; ``noise`` the fingerprint of the randomness the block was made of.
    """

    example: str
    purpose: str
    block: int
    draws: int
    micro_batch: int
    counts: tuple[int, ...]
    seconds: float
    noise: str

    def columns(self, header_digest: str) -> tuple[str | int | float, ...]:
        """Return the row as it is stored: counts as JSON pairs [place, count] where there is one, and its digest."""
        pairs = [[place, count] for place, count in enumerate(self.counts) if count]
        address = (self.example, self.purpose, self.block, self.draws, self.micro_batch)
        plain = (*address, dump_json(pairs), self.seconds, self.noise)
        return (*plain, row_digest(header_digest, plain))


def example_key(example: Example) -> str:
    """Return the name of an example in the store: its id and hash as JSON, which no file name can confuse.

    Example:
        >>> import numpy as np
        >>> example_key(Example(0, "a/1.png", 2, np.zeros(1), hash="00"))
        '["a/1.png","00"]'
    """
    return dump_json([example.id, example.hash])


def row_digest(header_digest: str, plain: Sequence[str | int | float]) -> str:
    """Return the sha256 that ties the other columns of a row to each other and to the header of their run."""
    return hashlib.sha256(dump_json([header_digest, *plain]).encode()).hexdigest()


def read_row(row: Sequence[Any], header_digest: str, reading: Reading) -> BlockRow:
    """Return the block in a row of the store, after checking its digest and its record.

    Raises:
        InputError: If the row is not what was written.
    """
    *plain, digest = row
    where = f"block {plain[2]} ({plain[1]}) of {plain[0]}"
    if row_digest(header_digest, plain) != digest:
        raise InputError(f"{where}: expected the digest that was written, got a row that does not fit it")
    example, purpose, block, draws, micro_batch, text, seconds, noise = plain
    counts = [0] * reading.record_size(purpose)
    for place, count in load_json(text, name=where):
        counts[place] = count
    if wrong := reading.refuse(counts, purpose, draws):
        raise InputError(f"{where}: {wrong}")
    return BlockRow(example, purpose, block, draws, micro_batch, tuple(counts), seconds, noise)
