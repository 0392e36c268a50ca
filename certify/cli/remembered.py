"""A gate's report, remembered beside the run store: asked again about the same files, the verdict needs no network.

The name of a remembered report is the sha256 of everything it rests on: the bytes of the model, of its layer list and
of the data, the tables of the configuration, the versions of the programs, and, for smoothing, which runs the store
holds (another run of the same data can be one under another seed, which a report must state). A report that is found is
read like any other and must fit its digest, and its first line must fit it and the name it has: a copy under another
name answers nothing. What is damaged, or cannot be named safely, is not used; what changed while the run read it is not
remembered. Whoever can compute two hashes can write such a file: `certify.cli.gate_memory` says when one is believed.

Only data that is one file, or a folder of files below `MOST_BYTES`, has a name: some formats read files beside the one
that was given, and a folder that is a link may lead anywhere.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from certify._version import __version__
from certify.errors import InputError
from certify.files import make_store_folder, read_file_once, write_file_atomically
from certify.policy import Gate
from certify.results import Report, dump_json, report_digest, report_from_json, report_to_json

MOST_BYTES = 2**26
ALONE = frozenset({".npz", ".safetensors", ".csv"})  # formats whose one file is all the data
PROGRAMS = ("torch", "numpy", "scipy", "pillow")


def question_name(
    *,
    kind: str,
    model: Path,
    data: Path | None,
    arch: str | None,
    table: Mapping[str, Any],
    gates: Sequence[Gate],
    device: str | None,
    processor: str,
    falsify: str,
) -> str | None:
    """Return the name of a question to the gates of one kind, of all that a run reads; None when it has none.

    Args:
        kind: Which certificates the gates ask for: lipschitz or smoothing.
        model: The file of the model.
        data: The data; None where the gates ask for none.
        arch: The layer list of a file that holds weights only.
        table: The table of the configuration for this kind.
        gates: The gates of this kind.
        device: The device asked for.
        processor: What that is on this machine, where a certificate speaks of it.
        falsify: How hard the certificates are attacked.
    """
    try:
        beside = [Path(name) for name in (arch, *(gate.baseline for gate in gates)) if name is not None]
        files = [file_sha256(path) for path in (model, *_beside(model), *beside)]
        content = [] if data is None else list(_content(data))
    except (InputError, OSError):
        return None  # the run itself says what is wrong
    programs = [__version__, platform.python_version(), *map(version, PROGRAMS)]
    if data is not None and not content:
        return None
    asked = [
        kind,
        files,
        content,
        dict(table),
        [_plain(gate) for gate in gates],
        device,
        processor,
        falsify,
        programs,
        str(data),
    ]
    try:
        return hashlib.sha256(dump_json(asked).encode()).hexdigest()
    except (TypeError, ValueError):
        return None


def answer_name(question: str | None, kind: str, store: Path) -> str | None:
    """Return the name of the answer to a question beside the runs of a store: equal names have equal answers."""
    runs = sorted(path.name for path in store.glob("*.sqlite")) if kind == "smoothing" else []
    return None if question is None else hashlib.sha256(dump_json([question, runs]).encode()).hexdigest()


def recall(store: Path, name: str | None) -> Report | None:
    """Return the report that was remembered under a name; None when there is none, or it is not what was written."""
    if name is None:
        return None
    path = _path(store, name)
    try:
        first, _, content = read_file_once(path, limit=MOST_BYTES).partition(b"\n")
        if first != _seal(name, content):
            return None
        report = report_from_json(content, name=str(path))
    except InputError:
        return None
    return report if report_digest(report) == report.digest else None


def remember(store: Path, name: str | None, report: Report) -> None:
    """Keep a report for the next time; where it cannot be written, the next time runs again."""
    if name is None:
        return
    try:
        make_store_folder(store)
        content = report_to_json(report).encode()
        write_file_atomically(_path(store, name), _seal(name, content) + b"\n" + content)
    except (InputError, OSError):
        return


def _path(store: Path, name: str) -> Path:
    return store / f"gate-{name}.json"


def _seal(name: str, content: bytes) -> bytes:
    """Return the first line of a remembered report."""
    return hashlib.sha256(f"{name}\n".encode() + content).hexdigest().encode()


def _beside(model: Path) -> Iterator[Path]:
    """Yield the file that says how the weights of a model are used, where there is one."""
    path = model.parent / "config.json"
    if path.is_file():
        yield path


def _content(data: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and hash of every file of the data; nothing when they are too many bytes, or some out of sight."""
    if data.is_file():
        files = [data] if data.suffix.lower() in ALONE else []
    else:
        found = sorted(data.rglob("*"))
        if any(path.is_dir() and path.is_symlink() for path in found):  # which is not descended into
            return
        files = [path for path in found if not path.is_dir()]
    if sum(path.stat().st_size for path in files) > MOST_BYTES:
        return
    for path in files:
        yield path.relative_to(data.parent).as_posix(), file_sha256(path)


def file_sha256(path: Path) -> str:
    """Return the hash of a file.

    Raises:
        InputError: If it cannot be read, or is larger than `MOST_BYTES`.
    """
    return hashlib.sha256(read_file_once(path, limit=MOST_BYTES)).hexdigest()


def _plain(gate: Gate) -> dict[str, Any]:
    return {name: getattr(gate, name) for name in gate.__struct_fields__}
