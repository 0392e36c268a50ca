"""What a safetensors file must be before the safetensors library sees it.

The layout: eight bytes with the length of the header, the header (a JSON object from tensor name to dtype, shape and
offsets, and ``__metadata__``), then the tensors' bytes without gaps. The library accepts headers of 100 MB, duplicate
keys, any number of tensors, any name, booleans above 1 and NaN; this file does not. Each rule is one function, so that
each has its test; all of them run on bytes that were read once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from certify.errors import InputError
from certify.results import load_json

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 8_000_000
MAX_HEADER_DEPTH = 32
MAX_TENSORS = 20_000
MAX_DIMENSIONS = 16
TENSOR_NAME = re.compile(r"[A-Za-z0-9_.-]{1,256}")
METADATA_KEY = "__metadata__"

# Name in the file -> (NumPy type of the stored bytes, bits that are all set exactly for infinity and NaN).
DTYPES: Mapping[str, tuple[str, int]] = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "I64": ("<i8", 0),
    "I32": ("<i4", 0),
    "I16": ("<i2", 0),
    "I8": ("i1", 0),
    "U8": ("u1", 0),
    "BOOL": ("u1", 0),
}


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor as the header lists it."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@dataclass(frozen=True)
class Entry:
    """One checked tensor: its place ``[begin, end)`` counts from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    def stored(self, data: bytes) -> NDArray[Any]:
        """Return the stored bytes as flat integers of the element's width, without a copy."""
        return np.frombuffer(data, dtype=DTYPES[self.dtype][0], count=math.prod(self.shape), offset=self.begin)


@dataclass(frozen=True)
class Header:
    """A checked header: the tensors by name, and the metadata strings."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


def check_safetensors(data: bytes, *, name: str) -> Header:
    """Return the header of a safetensors file that keeps every rule of this module.

    Args:
        data: The whole file.
        name: The file, for the error message.

    Raises:
        InputError: If a rule is broken; the message names the file, the tensor and the rule.

    Example:
        >>> header = b'{"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}'
        >>> file = len(header).to_bytes(8, "little") + header + bytes([7, 9])
        >>> check_safetensors(file, name="example").entries["a"].stored(file).tolist()
        [7, 9]
        >>> check_safetensors(file + b"more", name="example")
        Traceback (most recent call last):
        certify.errors.InputError: example: expected tensors that fill the file without a gap, got a hole or ...
    """
    end_of_header = _check_header_length(data, name)
    plain = load_json(data[LENGTH_BYTES:end_of_header], name=f"{name}: header", max_depth=MAX_HEADER_DEPTH)
    if not isinstance(plain, dict):
        raise InputError(f"{name}: expected a header that is a JSON object, got {type(plain).__name__}")
    metadata = _check_metadata(plain.pop(METADATA_KEY, {}), name)
    if len(plain) > MAX_TENSORS:
        raise InputError(f"{name}: expected at most {MAX_TENSORS:,} tensors, got {len(plain):,}")
    entries = {tensor: _check_entry(tensor, record, end_of_header, name) for tensor, record in plain.items()}
    _check_tiling(entries, end_of_header, len(data), name)
    for entry in entries.values():
        _check_values(entry, data, name)
    return Header(entries, metadata)


def _check_header_length(data: bytes, name: str) -> int:
    if len(data) < LENGTH_BYTES:
        raise InputError(f"{name}: expected a safetensors file, got only {len(data)} bytes")
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise InputError(f"{name}: expected a header of at most {MAX_HEADER_BYTES:,} bytes, got {length:,}")
    if LENGTH_BYTES + length > len(data):
        raise InputError(f"{name}: expected a header within the file, got {length:,} bytes of header in {len(data):,}")
    return LENGTH_BYTES + length


def _check_metadata(plain: object, name: str) -> Mapping[str, str]:
    try:
        return msgspec.convert(plain, dict[str, str])
    except msgspec.ValidationError as error:
        raise InputError(f"{name}: expected metadata from strings to strings, got a mismatch: {error}") from error


def _check_entry(tensor: str, plain: object, start: int, name: str) -> Entry:
    if not TENSOR_NAME.fullmatch(tensor):
        raise InputError(
            f"{name}: expected tensor names of 1 to 256 letters, digits, '_', '.', '-', got {tensor!r:.300}"
        )
    where = f"{name}: tensor {tensor!r}"
    try:
        record = msgspec.convert(plain, _Record)
    except msgspec.ValidationError as error:
        raise InputError(f"{where}: expected dtype, shape and data_offsets, got a mismatch: {error}") from error
    if record.dtype not in DTYPES:
        raise InputError(f"{where}: expected a dtype among {', '.join(DTYPES)}, got {record.dtype!r:.100}")
    if len(record.shape) > MAX_DIMENSIONS or not all(0 <= size < 2**63 for size in record.shape):
        raise InputError(f"{where}: expected at most {MAX_DIMENSIONS} sizes >= 0, got {list(record.shape)!s:.200}")
    begin, end = record.data_offsets
    size = math.prod(record.shape) * np.dtype(DTYPES[record.dtype][0]).itemsize
    if not (0 <= begin <= end and end - begin == size):
        raise InputError(f"{where}: expected offsets {size:,} bytes apart, got [{begin}, {end}]")
    return Entry(tensor, record.dtype, record.shape, start + begin, start + end)


def _check_tiling(entries: Mapping[str, Entry], start: int, stop: int, name: str) -> None:
    ordered = sorted(entries.values(), key=lambda entry: (entry.begin, entry.end))
    borders = [start, *(border for entry in ordered for border in (entry.begin, entry.end)), stop]
    for end, begin in list(pairwise(borders))[::2]:
        if begin != end:
            kind = "overlap" if begin < end else "hole or trailing bytes"
            raise InputError(f"{name}: expected tensors that fill the file without a gap, got a {kind} at byte {end}")


def _check_values(entry: Entry, data: bytes, name: str) -> None:
    stored, exponent = entry.stored(data), DTYPES[entry.dtype][1]
    if exponent and bool(np.any((stored & exponent) == exponent)):
        raise InputError(f"{name}: tensor {entry.name!r}: expected finite numbers, got NaN or infinity")
    if entry.dtype == "BOOL" and bool(np.any(stored > 1)):
        raise InputError(f"{name}: tensor {entry.name!r}: expected booleans 0 or 1, got another byte")
