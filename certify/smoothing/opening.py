"""Opening a run store: the lock, the making, and every check before a stored count is believed.

The file of a run is named by the digest of its header, so other settings are another file. Of several starts of the
same run one gets the lock and the others are refused at once. A file that is damaged, of another run, or a symbolic
link is refused with what to do about it.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from certify.errors import InputError
from certify.files import make_store_folder
from certify.results import load_json
from certify.smoothing.blocks import read_row
from certify.smoothing.header import RunHeader, differing_fields, flatten, header_name
from certify.smoothing.readings import Reading
from certify.smoothing.store import SELECT, Store
from certify.smoothing.votes import Votes

SCHEMA = (
    "CREATE TABLE block (example TEXT, purpose TEXT CHECK (purpose IN ('selection','estimation')), block INTEGER,\n"
    "  draws INTEGER NOT NULL, micro_batch INTEGER NOT NULL, counts TEXT NOT NULL, seconds REAL NOT NULL,\n"
    "  noise TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, PRIMARY KEY (example, purpose, block)) STRICT, WITHOUT ROWID",
    "CREATE TABLE header (one INTEGER PRIMARY KEY CHECK (one = 1), settings TEXT NOT NULL, digest TEXT NOT NULL)"
    " STRICT",
)
OLDEST_SQLITE = (3, 37, 0)  # the first with STRICT tables
# Two first starts can hold the shared lock at the same instant; one then waits for the other, which gives up at once.
LOCK_SECONDS = 0.25
SETTINGS = ("locking_mode=EXCLUSIVE", "trusted_schema=OFF", "mmap_size=0", "cell_size_check=ON")
SIDE_FILES = ("", "-wal", "-shm", "-journal")
SELECTION = frozenset({"settings.limit", "settings.skip"})
MOST_SHOWN = 60


def store_path(folder: Path, header: RunHeader) -> Path:
    """Return the file of a run in a folder."""
    return folder / f"{header.digest()}.sqlite"


def open_store(folder: Path, header: RunHeader, *, reading: Reading | None = None, restart: bool = False) -> Store:
    """Return the store of a run, opened and checked; made when there is none.

    Args:
        folder: Where the stores are; made, with its own ``.gitignore``, when missing.
        header: What the run is.
        reading: What the records of the run hold; None: the votes of its classes.
        restart: Discard what an earlier run of the same header has left.

    Raises:
        InputError: If the store is in use, damaged, of another run, a symbolic link, or cannot be written.
    """
    reading = reading or Votes(header.classes)
    if header.reading != header_name(reading):
        raise InputError(f"expected a header for reading {reading.name}, got one for {header.reading}")
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise InputError(f"expected SQLite 3.37 or newer, got {sqlite3.sqlite_version}; use a newer Python")
    path = store_path(folder, header)
    try:
        make_store_folder(folder)
        _refuse_links(path)
        if restart:
            _discard(path)
        return _open(path, header, reading)
    except OSError as error:
        raise InputError(
            f"{path}: expected a writable run store, got: {error}; choose a folder with --store"
        ) from error
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise InputError(_words(path, error)) from error


def earlier_seeds(folder: Path, header: RunHeader) -> tuple[int, ...]:
    """Return the other seeds under which a folder holds runs of the same model and data.

    Choosing among runs by their outcome voids alpha, so a report lists them. Stores that cannot be read are left out:
    they cannot be continued either.
    """
    seeds = {theirs["settings.seed"] for theirs in _relatives(folder, header.fields())}
    return tuple(sorted(seeds - {header.settings.seed}))


def earlier_runs(folder: Path, header: RunHeader) -> tuple[str, ...]:
    """Return in which settings the other runs of the same model and data differ, what each had in their place.

    Under one seed two runs share draws: to go on with more of them, or to measure after a test that ended undecided,
    because of what the first has shown, is one procedure with two alphas. Runs that differ in nothing but their seed
    are left to `earlier_seeds`; how the same examples were selected changes nothing.
    """
    ours, found = header.fields(), set()
    for theirs in _relatives(folder, ours):
        names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        names = [name for name in names if name.startswith("settings.") and name not in SELECTION]
        if set(names) - {"settings.seed"}:
            found.add(", ".join(f"{name.removeprefix('settings.')} {_shown(theirs.get(name))}" for name in names))
    return tuple(sorted(found))


def _relatives(folder: Path, ours: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the flat headers of the runs of the same model and data in a folder."""
    for path in sorted(folder.glob("*.sqlite")):
        theirs = _header_fields(path)
        same = all(theirs.get(name) == ours[name] for name in ("model_sha256", "data_sha256"))
        if same and isinstance(theirs.get("settings.seed"), int):
            yield theirs


def _shown(value: object) -> str:
    """Return the value of a setting in a few characters; a list, of radii, with blanks between."""
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text[:MOST_SHOWN] or "none"


def _refuse_links(path: Path) -> None:
    for suffix in SIDE_FILES:
        side = path.with_name(path.name + suffix)
        if side.is_symlink():
            raise InputError(f"{side}: expected a file of its own, got a symbolic link; remove it")


def _discard(path: Path) -> None:
    """Delete a store that no other process holds, readable or not."""
    try:
        _connect(path).close()
    except sqlite3.DatabaseError as error:
        if _primary_code(error) == sqlite3.SQLITE_BUSY:
            raise
    for suffix in SIDE_FILES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _open(path: Path, header: RunHeader, reading: Reading) -> Store:
    connection = _connect(path)
    try:
        if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
            _make(connection, header)
        _check(path, connection, header, reading)
    except BaseException:
        connection.close()
        raise
    return Store(path, header, reading, connection)


def _connect(path: Path) -> sqlite3.Connection:
    """Return a connection that holds the file's exclusive lock."""
    connection = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)
    try:
        for setting in SETTINGS:
            connection.execute(f"PRAGMA {setting}")
        mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise InputError(f"{path}: expected a write-ahead log, got journal mode {mode!r}; use a local disk")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _make(connection: sqlite3.Connection, header: RunHeader) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for table in SCHEMA:
        connection.execute(table)
    connection.execute("INSERT INTO header VALUES (1, ?, ?)", (header.text(), header.digest()))
    connection.execute("COMMIT")
    # The header goes to the main file now, where `earlier_seeds` of other runs can read it without the log.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _check(path: Path, connection: sqlite3.Connection, header: RunHeader, reading: Reading) -> None:
    """Refuse the store unless schema, pages, header and every row are what was written."""
    tables = connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").fetchall()
    if tuple(text for (text,) in tables) != SCHEMA:
        raise InputError(f"{path}: expected a run store, got other tables; {_REMEDY}")
    if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
        raise InputError(f"{path}: expected an intact run store, got damaged pages; {_REMEDY}")
    _check_header(path, connection.execute("SELECT settings, digest FROM header").fetchall(), header)
    try:
        for row in connection.execute(SELECT):
            read_row(row, header.digest(), reading)
    except InputError as error:
        raise InputError(f"{path}: {error}; {_REMEDY}") from error


def _check_header(path: Path, found: list[tuple[str, str]], header: RunHeader) -> None:
    if found == [(header.text(), header.digest())]:
        return
    if len(found) != 1 or hashlib.sha256(found[0][0].encode()).hexdigest() != found[0][1]:
        raise InputError(f"{path}: expected the header of a run, got one that does not fit its digest; {_REMEDY}")
    theirs = flatten(load_json(found[0][0], name=str(path)))
    raise InputError(
        f"{path}: expected a store of this run, got one of another: {differing_fields(header.fields(), theirs)}; "
        "use the settings of the store, or discard it with --restart"
    )


def _header_fields(path: Path) -> dict[str, Any]:
    """Return the flat header of a store without locking it; empty when it cannot be read."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as store:
            text = store.execute("SELECT settings FROM header").fetchone()[0]
        plain = load_json(text, name=str(path))
    except (sqlite3.Error, UnicodeDecodeError, InputError, TypeError):
        return {}
    return flatten(plain) if isinstance(plain, dict) else {}


_REMEDY = "nothing is repaired: restore the file, or discard it with --restart"


def _primary_code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _words(path: Path, error: Exception) -> str:
    """Return what an error of SQLite means for the user; text that is no UTF-8 is damage as well."""
    meanings = {
        sqlite3.SQLITE_BUSY: "expected a store that no other run uses, got one in use; wait for that run to end",
        sqlite3.SQLITE_READONLY: "expected a writable run store, got a read-only one; choose a folder with --store",
        sqlite3.SQLITE_CANTOPEN: "expected a writable run store, got one that cannot be opened; choose another --store",
        sqlite3.SQLITE_FULL: "expected room on the disk, got a full one; make room and run the same command again",
        sqlite3.SQLITE_IOERR: "expected a readable and writable disk; check its permissions, or choose another --store",
    }
    damaged = f"expected an intact run store, got a damaged file; {_REMEDY}"
    return f"{path}: {meanings.get(_primary_code(error), damaged)} ({error})"
