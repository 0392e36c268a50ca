"""The name of a question to `certify gate`, for the cache of a CI system: `python question.py [CONFIG]`.

Prints ``store=`` (the folder of the run store) and ``sha256=``, the hash of everything a verdict rests on: the bytes of
the configuration, of the model, of what it names beside it, of the data and of the baselines, and the versions of the
programs. A store is never believed for more than the hashes in it: a name that misses a change (of a file that is read
beside the data) costs a run, never a verdict.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from certify._version import __version__
from certify.cli.configuration import Configuration, find_configuration
from certify.cli.options import STORE_FOLDER
from certify.cli.sources import DEFAULT_MODEL
from certify.errors import CertifyError, InputError

PROGRAMS = ("torch", "numpy", "scipy")


def files_of(configuration: Configuration) -> Iterator[tuple[str, Path]]:
    """Yield every file that a verdict rests on, beside what it is for; one that is missing is left to the run."""
    model = configuration.model or DEFAULT_MODEL
    beside = model.parent / "config.json"  # how the weights of a model are used, where there is one
    baselines = (gate.baseline for gate in configuration.gates)
    named = (configuration.path, model, beside, configuration.arch, configuration.data, *baselines)
    for number, name in enumerate(named):
        path = Path(name) if name is not None else None
        if path is not None and path.is_file():
            yield str(number), path
        elif path is not None and path.is_dir():
            within = sorted(found for found in path.rglob("*") if found.is_file())
            yield from ((f"{number}/{found.relative_to(path).as_posix()}", found) for found in within)


def sha256_of(configuration: Configuration) -> str:
    """Return the hash of the question."""
    found = hashlib.sha256(f"{__version__} {platform.python_version()}\0".encode())
    for program in PROGRAMS:
        found.update(f"{program} {_version(program)}\0".encode())
    for name, path in files_of(configuration):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        found.update(f"{name}\0{content}\0".encode(errors="surrogateescape"))
    return found.hexdigest()


def _version(program: str) -> str:
    try:
        return version(program)
    except PackageNotFoundError:
        return "none"


def store_of(configuration: Configuration) -> str:
    """Return the folder of the run store, from the root; one with a line break would write other outputs of the step.

    Raises:
        InputError: If it has one.
    """
    store = str(Path(configuration.store or STORE_FOLDER).resolve())
    if not store.isprintable():
        raise InputError(f"expected store to be one line of printable characters, got {store!r:.100}")
    return store


def main() -> int:
    """Print both lines; return 2 when the configuration cannot be read."""
    try:
        configuration = find_configuration(Path(sys.argv[1]) if sys.argv[1:] and sys.argv[1] else None)
        lines = [f"store={store_of(configuration)}", f"sha256={sha256_of(configuration)}"]
    except (CertifyError, OSError) as error:
        sys.stderr.write(f"certify: {error!s:.500}\n")
        return 2
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
