"""Files: read whole and once, written whole or not at all.

A file is *read once*: what is hashed and what is parsed are the same bytes, so nothing can change between the two. A
file is *written atomically*: whatever happens, the path holds either the old content or the new one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from certify.errors import InputError


def read_start(path: str | Path, size: int) -> bytes:
    """Return at most the first ``size`` bytes of a file.

    Raises:
        InputError: If it cannot be read.

    Example:
        >>> len(read_start("/dev/zero", 2))
        2
    """
    try:
        with Path(path).open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from error


def read_file_once(path: str | Path, *, limit: int) -> bytes:
    """Return the content of a regular file of at most ``limit`` bytes.

    Pipes and devices are refused without blocking on them; symbolic links are followed.

    Raises:
        InputError: If the file is missing, unreadable, not regular, or larger than ``limit``.

    Example:
        >>> read_file_once("/dev/null", limit=10)
        Traceback (most recent call last):
        certify.errors.InputError: expected a regular file, got '/dev/null'; name a file
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise InputError(f"expected a file, got nothing at {str(path)!r}; check the path") from error
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {str(path)!r}: {error}") from error
    return _read_regular(descriptor, limit, str(path))


def _read_regular(descriptor: int, limit: int, name: str) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise InputError(f"expected a regular file, got {name!r}; name a file")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > limit:
            raise InputError(f"expected a file of at most {limit:,} bytes, got {status.st_size:,}: {name!r}")
        try:
            data = file.read(status.st_size + 1)
        except OSError as error:
            raise InputError(f"cannot read {name!r}: {error}") from error
    if len(data) != status.st_size:
        raise InputError(f"{name!r} changed its size while it was read; try again when it is complete")
    return data


def write_file_atomically(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path``: a new file beside it, flushed to the disk, takes its place in one step.

    The temporary file is created exclusively and never through a link.

    Raises:
        InputError: If `check_output` refuses the path, or it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_file_atomically(f"{folder}/report.json", b"{}")
        ...     read_file_once(f"{folder}/report.json", limit=2)
        b'{}'
    """
    check_output(path)
    target = Path(path)
    temporary = target.parent / f".certify-{secrets.token_hex(8)}.tmp"
    try:
        _write_new_file(temporary, data)
        temporary.replace(target)
        _flush_folder(target.parent)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_output(path: str | Path) -> None:
    """Return when a file could be written at ``path``; asked before a long run as well, whose result would be lost.

    A symbolic link is refused, so that a link planted in the folder cannot redirect the output. So are devices and
    pipes: a file that takes their place would break them for every other program.

    Raises:
        InputError: If the folder is missing or not writable, or ``path`` is a link, a folder, a device or a pipe.

    Example:
        >>> check_output("/dev/null")
        Traceback (most recent call last):
        certify.errors.InputError: expected an ordinary output file, got the device or pipe '/dev/null'; name a file
    """
    target = Path(path)
    folder = target.parent
    try:
        mode = target.lstat().st_mode if os.path.lexists(target) else stat.S_IFREG
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except OSError as error:
        raise _cannot_write(target, error) from error
    if not (is_folder and os.access(folder, os.W_OK | os.X_OK)):
        raise InputError(f"cannot write {str(target)!r}: expected a folder that can be written, got {str(folder)!r}")
    if stat.S_ISLNK(mode):
        raise InputError(f"expected an ordinary output file, got the symbolic link {str(target)!r}; name its target")
    if stat.S_ISDIR(mode):
        raise InputError(f"expected an output file, got the folder {str(target)!r}; name a file in it")
    if not stat.S_ISREG(mode):
        raise InputError(f"expected an ordinary output file, got the device or pipe {str(target)!r}; name a file")


def _cannot_write(target: Path, error: OSError) -> InputError:
    return InputError(f"cannot write {str(target)!r:.300}: {error.strerror}; check the folder and its free space")


def _write_new_file(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o666), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_store_folder(folder: Path) -> None:
    """Make the folder of a run store, with a ``.gitignore`` of its own, where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        return  # made before, or a folder of the user's, which is not ours to hide from git
    with contextlib.suppress(FileExistsError):
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
        handle = os.open(folder / ".gitignore", flags, 0o644)
        with os.fdopen(handle, "w") as file:
            file.write("*\n")
