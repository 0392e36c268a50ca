"""One row of the run store: the record of one block, as it is written, read back and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from certify.errors import InputError
from certify.examples import Example
from certify.results import dump_json
from certify.smoothing.readings import Reading

PAIRS = msgspec.json.Decoder(list[tuple[int, Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]]])
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
        plain = (*address, msgspec.json.encode(pairs).decode(), self.seconds, self.noise)
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
    counts = _unpacked(text, reading.record_size(purpose), where)
    wrong = reading.refuse(counts, purpose, draws) if draws >= 1 else f"expected at least 1 draw, got {draws}"
    if wrong:
        raise InputError(f"{where}: {wrong}")
    return BlockRow(example, purpose, block, draws, micro_batch, tuple(counts), seconds, noise)


def _unpacked(text: str, size: int, where: str) -> list[int]:
    """Return the record in the pairs [place, count] that were written: digests tell accidents, and no hostile hand."""
    counts, last = [0] * size, -1
    try:
        pairs = PAIRS.decode(text)
    except (msgspec.DecodeError, TypeError) as error:
        raise InputError(f"{where}: expected pairs of a place and a count of 64 bits, got {text!r:.60}") from error
    for place, count in pairs:
        if not last < place < size:
            raise InputError(f"{where}: expected every place below {size} once, in order, got {text:.60}")
        counts[place], last = count, place
    return counts
