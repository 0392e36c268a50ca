"""Fixed binary formats of two data sets: MNIST's idx files and CIFAR's records.

- *idx*: two zero bytes, a type byte (8 = unsigned byte), the number of dimensions, the sizes as big-endian 32-bit
  integers, the values. Plain or gzipped. The labels stand beside the images, under the same name with ``labels`` and
  ``idx1`` for ``images`` and ``idx3``.
- *CIFAR binary*: records of a label byte (CIFAR-100: coarse, then fine) and 3 x 32 x 32 pixels, channel by channel.
"""

from __future__ import annotations

import gzip
import io
import math
import re
import zlib
from pathlib import Path

import numpy as np

from certify.errors import InputError
from certify.files import read_file_once
from certify.loading.source import Array, Request, Source, array_source

MAX_BYTES = 2**31
UNSIGNED_BYTE = 8
MOST_UNPACKED_PER_BYTE = 1040  # deflate packs at most 258 bytes into 2 bits
IDX_NAME = re.compile(r".*idx[0-9]-ubyte(\.gz)?")
CIFAR_SHAPE = (3, 32, 32)

# Number of classes -> (label bytes of a record, which of them is the label).
CIFAR_LABELS = {10: (1, 0), 20: (2, 0), 100: (2, 1)}


def is_idx(name: str) -> bool:
    """Return whether a file name is one of the idx format.

    Example:
        >>> is_idx("t10k-images-idx3-ubyte.gz"), is_idx("images.npz")
        (True, False)
    """
    return IDX_NAME.fullmatch(name) is not None


def read_idx(path: Path, request: Request) -> Source:
    """Return the rows of an idx file of images, with the labels beside it."""
    x = parse_idx(read_file_once(path, limit=MAX_BYTES), name=str(path))
    if x.ndim < 3:
        raise InputError(f"expected the file of images, got {str(path)!r} with {x.ndim} dimensions; name the images")
    labels = _labels_beside(path)
    return array_source(x, parse_idx(read_file_once(labels, limit=MAX_BYTES), name=str(labels)), request, str(path))


def _labels_beside(path: Path) -> Path:
    plain = re.sub(r"idx[0-9]", "idx1", path.name.replace("images", "labels")).removesuffix(".gz")
    candidates = [path.with_name(name) for name in (plain, f"{plain}.gz") if name != path.name]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise InputError(f"{path}: expected its labels beside it, as {plain!r}, plain or .gz; put them there")


def parse_idx(data: bytes, *, name: str) -> Array:
    """Return the array in the bytes of an idx file, plain or gzipped.

    Never more is unpacked than the header announces, and that is capped.

    Raises:
        InputError: If it is no idx file of unsigned bytes, or its size is not the one in its header.

    Example:
        >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), name="labels-idx1-ubyte").tolist()
        [7, 9]
    """
    try:
        with _opened(data) as file:
            shape = _idx_shape(file, name)
            _check_announced(math.prod(shape), len(data), name)
            values = file.read(math.prod(shape) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name}: expected an idx file, got damaged gzip data: {error}") from error
    if len(values) != math.prod(shape):
        got = "more" if len(values) > math.prod(shape) else f"{len(values):,}"
        raise InputError(f"{name}: expected {math.prod(shape):,} bytes behind the header, got {got}")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _opened(data: bytes) -> io.BytesIO | gzip.GzipFile:
    return gzip.GzipFile(fileobj=io.BytesIO(data)) if data[:2] == b"\x1f\x8b" else io.BytesIO(data)


def _idx_shape(file: io.BytesIO | gzip.GzipFile, name: str) -> tuple[int, ...]:
    magic = file.read(4)
    if len(magic) != 4 or magic[:3] != bytes([0, 0, UNSIGNED_BYTE]) or not 1 <= magic[3] <= 4:
        raise InputError(f"{name}: expected an idx file of unsigned bytes with 1 to 4 dimensions, got {magic.hex()!r}")
    sizes = file.read(4 * magic[3])
    if len(sizes) != 4 * magic[3]:
        raise InputError(f"{name}: expected an idx header, got a file that ends in it")
    return tuple(int(size) for size in np.frombuffer(sizes, dtype=">u4"))


def _check_announced(size: int, available: int, name: str) -> None:
    """Refuse a size that these bytes cannot hold, before room for it is made."""
    most = min(MAX_BYTES, MOST_UNPACKED_PER_BYTE * available)
    if size > most:
        raise InputError(f"{name}: expected at most {most:,} bytes behind the header, got {size:,} announced")


def read_cifar(path: Path, request: Request) -> Source:
    """Return the rows of a CIFAR binary file; which label byte counts follows from the number of classes."""
    layout = CIFAR_LABELS.get(len(request.classes))
    if layout is None:
        raise InputError(f"{path}: expected a model of 10, 20 or 100 classes for CIFAR, got {len(request.classes)}")
    label_bytes, which = layout
    size = label_bytes + math.prod(CIFAR_SHAPE)
    data = read_file_once(path, limit=MAX_BYTES)
    if not data or len(data) % size:
        raise InputError(f"{path}: expected CIFAR records of {size} bytes, got a file of {len(data):,} bytes")
    records = np.frombuffer(data, dtype=np.uint8).reshape(-1, size)
    return array_source(records[:, label_bytes:].reshape(-1, *CIFAR_SHAPE), records[:, which], request, str(path))
