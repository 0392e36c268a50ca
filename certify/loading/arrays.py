"""Arrays on disk: ``.npy`` pairs, ``.npz``, and ``.safetensors`` with entries ``x`` and ``y``.

A pair is ``x.npy`` and ``y.npy`` in one folder (name the folder or ``x.npy``), or ``NAME_x.npy`` and ``NAME_y.npy``
(name the first). Other entries of an ``.npz`` or ``.safetensors`` file are left alone. Sizes are checked against the
file before anything is allocated, and nothing is unpickled.
"""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from certify.errors import InputError
from certify.files import read_file_once
from certify.loading.safetensors_rules import check_safetensors
from certify.loading.source import Array, Request, Source, array_source

MAX_BYTES = 2**33
MAX_UNPACKED_BYTES = 2**32
MAX_ENTRIES = 1000
MAX_DIMENSIONS = 8

# What NumPy's header parser, a Python literal parser, raises for text that is no header.
_HEADER_ERRORS: tuple[type[Exception], ...] = (
    *(ValueError, SyntaxError, TypeError, KeyError, EOFError),
    *(RecursionError, MemoryError, OverflowError, tokenize.TokenError),
)
_SAFETENSORS_VALUES = {"U8": "|u1", "F32": "<f4", "F64": "<f8"}
_SAFETENSORS_LABELS = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1"}


def read_npy_pair(path: Path, request: Request) -> Source:
    """Return the rows of ``x.npy`` with ``y.npy`` beside it; ``path`` is the folder or the file with the inputs."""
    x_path = path / "x.npy" if path.is_dir() else path
    stem = x_path.stem
    if stem != "x" and not stem.endswith("_x"):
        raise InputError(f"expected x.npy or NAME_x.npy, with the labels in y.npy or NAME_y.npy, got {str(x_path)!r}")
    y_path = x_path.with_name(f"{stem[:-1]}y.npy")
    x, y = (parse_npy(read_file_once(part, limit=MAX_BYTES), name=str(part)) for part in (x_path, y_path))
    return array_source(x, y, request, str(x_path))


def read_npz(path: Path, request: Request) -> Source:
    """Return the rows of the entries ``x`` and ``y`` of an ``.npz`` file."""
    data, name = read_file_once(path, limit=MAX_BYTES), str(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            x, y = (parse_npy(_unpack(archive, entry, name), name=f"{name}: {entry}") for entry in ("x.npy", "y.npy"))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: expected an .npz file, got: {error}") from error
    return array_source(x, y, request, name)


def read_safetensors_data(path: Path, request: Request) -> Source:
    """Return the rows of the tensors ``x`` and ``y`` of a safetensors file."""
    data, name = read_file_once(path, limit=MAX_BYTES), str(path)
    entries = check_safetensors(data, name=name).entries
    found = []
    for key, dtypes in (("x", _SAFETENSORS_VALUES), ("y", _SAFETENSORS_LABELS)):
        entry = entries.get(key)
        if entry is None or entry.dtype not in dtypes:
            got = "no such tensor" if entry is None else entry.dtype
            raise InputError(f"{name}: expected a tensor {key!r} of dtype {', '.join(dtypes)}, got {got}")
        found.append(entry.stored(data).view(dtypes[entry.dtype]).reshape(entry.shape))
    return array_source(found[0], found[1], request, name)


def parse_npy(data: bytes, *, name: str) -> Array:
    """Return the array in the bytes of an ``.npy`` file, without a copy.

    Raises:
        InputError: If the header is not one of format 1.0 or 2.0, the dtype holds anything but numbers or text, or the
            size in the header is not the size of the data.

    Example:
        >>> buffer = io.BytesIO()
        >>> np.save(buffer, np.arange(3))
        >>> parse_npy(buffer.getvalue(), name="example").tolist()
        [0, 1, 2]
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"format version {version[0]}.{version[1]}")
        shape, fortran, dtype = readers[version](file)
    except _HEADER_ERRORS as error:
        raise InputError(f"{name}: expected an .npy header of version 1.0 or 2.0, got: {str(error)[:200]}") from error
    _check_npy_header(shape, dtype, len(data) - file.tell(), name)
    flat = np.frombuffer(data, dtype=dtype, offset=file.tell(), count=math.prod(shape))
    array: Array = flat.reshape(shape, order="F" if fortran else "C")
    return array


def _check_npy_header(shape: tuple[int, ...], dtype: np.dtype[np.generic], available: int, name: str) -> None:
    if dtype.kind not in "biufU" or dtype.itemsize == 0 or dtype.subdtype is not None:
        raise InputError(f"{name}: expected an array of numbers, got dtype {str(dtype)[:100]}; nothing is unpickled")
    if len(shape) > MAX_DIMENSIONS or not all(0 <= size < 2**63 for size in shape):
        raise InputError(f"{name}: expected at most {MAX_DIMENSIONS} sizes >= 0, got {str(shape)[:200]}")
    size = math.prod(shape) * dtype.itemsize
    if size != available:
        raise InputError(f"{name}: expected {size:,} bytes behind the header, got {available:,}; the file is damaged")


def _unpack(archive: zipfile.ZipFile, entry: str, name: str) -> bytes:
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise InputError(f"{name}: expected at most {MAX_ENTRIES} arrays, got {len(entries):,}")
    matching = [info for info in entries if info.filename == entry]
    if len(matching) != 1:
        got = [info.filename for info in entries[:10]]
        raise InputError(f"{name}: expected one array {entry.removesuffix('.npy')!r}, got entries {got!s:.300}")
    if matching[0].file_size > MAX_UNPACKED_BYTES:
        raise InputError(f"{name}: {entry}: expected at most {MAX_UNPACKED_BYTES:,} bytes when unpacked")
    with archive.open(matching[0]) as file:
        data = file.read(MAX_UNPACKED_BYTES + 1)
    if len(data) != matching[0].file_size:
        raise InputError(f"{name}: {entry}: expected {matching[0].file_size:,} bytes when unpacked, got {len(data):,}")
    return data
