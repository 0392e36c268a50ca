"""The run store: one SQLite file that holds the records of a run, block by block.

A run can be killed at any instant and continued, because a block is either in the store or not, and its record does not
depend on when it was evaluated. The report is a function of the store alone.

- One connection, one writer. The lock is exclusive from the opening to the close, so a second start fails at once.
- Every row carries the sha256 of the header's digest and of itself, because SQLite has no checksum on its pages; the
  opening (`certify.smoothing.opening`) compares all of them, and refuses the store at any difference. Nothing is
  ever repaired.
- ``noise`` is the fingerprint of the block's randomness, and unique: a seed used twice cannot be counted twice.

Not for network drives, where file locks are unreliable.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from certify.errors import InputError, SoundnessError
from certify.smoothing.blocks import COLUMNS, BlockRow, read_row
from certify.smoothing.header import RunHeader
from certify.smoothing.readings import Reading

COMMIT_SECONDS = 1.0
INSERT = f"INSERT INTO block VALUES ({', '.join('?' for _ in COLUMNS)})"  # noqa: S608 - question marks only
SELECT = f"SELECT {', '.join(COLUMNS)} FROM block"  # noqa: S608 - constant names


class Store:
    """The open store of one run. `certify.smoothing.opening.open_store` makes it, leaving its context closes it."""

    def __init__(self, path: Path, header: RunHeader, reading: Reading, connection: sqlite3.Connection) -> None:
        self.path = path
        self.header = header
        self.reading = reading
        self._digest = header.digest()
        self._connection = connection
        self._pending: list[BlockRow] = []
        self._last_commit = time.monotonic()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store; blocks that were not committed are dropped, as by a kill."""
        self._connection.close()

    def rows(self, example: str) -> list[BlockRow]:
        """Return the committed blocks of one example: selection first, then estimation, in block order."""
        query = f"{SELECT} WHERE example = ? ORDER BY purpose DESC, block"
        found = self._connection.execute(query, (example,))
        return [read_row(row, self._digest, self.reading) for row in found]

    def micro_batch(self) -> int | None:
        """Return the smallest micro-batch in the store (a run only ever shrinks it), or None when there is none."""
        found = self._connection.execute("SELECT min(micro_batch) FROM block").fetchone()[0]
        return None if found is None else int(found)

    def add(self, row: BlockRow) -> None:
        """Keep one block; all kept ones are committed when a second has passed since the last commit."""
        self._pending.append(row)
        if time.monotonic() - self._last_commit > COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Write the kept blocks durably, in one transaction.

        Raises:
            InputError: If the disk is full or the file cannot be written; nothing of this transaction is kept.
            SoundnessError: If a block is there already, or two blocks were made of the same noise.
        """
        if self._pending:
            self._write(self._insert_pending)
        self._last_commit = time.monotonic()

    def discard(self, examples: Sequence[str]) -> None:
        """Delete every block of some examples, kept or committed, in one transaction.

        Raises:
            InputError: If the file cannot be written.
        """
        self._pending = [row for row in self._pending if row.example not in examples]
        self._write(lambda: self._delete(examples))

    def _delete(self, examples: Sequence[str]) -> None:
        self._connection.executemany("DELETE FROM block WHERE example = ?", [(example,) for example in examples])
        self._insert_pending()

    def _insert_pending(self) -> None:
        self._connection.executemany(INSERT, [row.columns(self._digest) for row in self._pending])

    def _write(self, change: Callable[[], None]) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            change()
            self._connection.execute("COMMIT")
        except sqlite3.IntegrityError as error:
            self._roll_back()
            raise SoundnessError(f"{self.path}: two blocks with one address or one noise: {error}") from error
        except sqlite3.Error as error:
            self._roll_back()
            raise InputError(
                f"{self.path}: expected to write the run store, got: {error}; what was committed is kept: "
                "make room on the disk and run the same command again"
            ) from error
        self._pending = []

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
