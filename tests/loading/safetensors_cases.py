"""Tiny safetensors files, one for each rule: (name, bytes, text of the error)."""

import json
import struct

FLOAT = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
ONE = struct.pack("<f", 1.0)


def pack(header, body=b""):
    """The bytes of a file; ``header`` is a JSON value or raw bytes."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + body


def floats(*values, dtype="F32", code="<f"):
    body = b"".join(struct.pack(code, value) for value in values)
    return pack({"a": {"dtype": dtype, "shape": [len(values)], "data_offsets": [0, len(body)]}}, body)


def _changed(**changes):
    return pack({"a": {**FLOAT, **changes}}, ONE)


BROKEN = [
    ("shorter than a length", b"\x01\x02", "only 2 bytes"),
    ("header above 8 MB", pack(b"{}" + b" " * 8_000_000), "at most 8,000,000 bytes"),
    ("header beyond the file", struct.pack("<Q", 100) + b"{}", "within the file"),
    ("header length near 2**64", b"\xff" * 8 + b"{}", "at most 8,000,000 bytes"),
    ("not UTF-8", pack(b"\xff{}"), "strict JSON"),
    ("not JSON", pack(b"{'a': 1}"), "strict JSON"),
    ("NaN in the header", pack(b'{"a": NaN}'), "strict JSON"),
    ("deep header", pack(b'{"a":' + b"[" * 40 + b"]" * 40 + b"}"), "nested deeper than 32"),
    ("no object", pack([]), "JSON object"),
    ("duplicate key", pack(b'{"a":%b,"a":%b}' % ((json.dumps(FLOAT).encode(),) * 2), ONE), "duplicate key 'a'"),
    ("too many tensors", pack(dict.fromkeys(map(str, range(20_001)), EMPTY)), "20,000"),
    ("empty name", pack({"": FLOAT}, ONE), "tensor names"),
    ("long name", pack({"a" * 257: FLOAT}, ONE), "tensor names"),
    ("name with a slash", pack({"../a": FLOAT}, ONE), "tensor names"),
    ("name with a final newline", pack({"a\n": FLOAT}, ONE), "tensor names"),
    ("unknown dtype", _changed(dtype="F8_E4M3"), "dtype among"),
    ("missing offsets", pack({"a": {"dtype": "F32", "shape": [1]}}, ONE), "mismatch"),
    ("unknown field", _changed(strides=[1]), "mismatch"),
    ("negative size", _changed(shape=[-1, -1]), "sizes >= 0"),
    ("boolean size", _changed(shape=[True]), "mismatch"),
    ("float size", _changed(shape=[1.5]), "mismatch"),
    ("17 dimensions", _changed(shape=[1] * 17), "at most 16 sizes"),
    ("size above 64 bits", _changed(shape=[0, 2**64], data_offsets=[0, 0]), "sizes >= 0"),
    ("size below the offsets", _changed(shape=[0]), "0 bytes apart"),
    ("size above the offsets", _changed(shape=[2]), "8 bytes apart"),
    ("reversed offsets", _changed(data_offsets=[4, 0]), "bytes apart"),
    ("negative offset", _changed(data_offsets=[-4, 0]), "bytes apart"),
    ("beyond the file", _changed(data_offsets=[4, 8]), "hole or trailing"),
    ("trailing bytes", pack({"a": FLOAT}, ONE + b"\0"), "hole or trailing"),
    ("trailing bytes without tensors", pack({}, b"\0"), "hole or trailing"),
    ("file cut short", pack({"a": FLOAT}, ONE[:3]), "overlap"),
    ("hole", pack({"a": FLOAT, "b": {**FLOAT, "data_offsets": [5, 9]}}, ONE * 2 + b"\0"), "hole"),
    ("overlap", pack({"a": FLOAT, "b": {**FLOAT, "data_offsets": [2, 6]}}, ONE + b"\0\0"), "overlap"),
    ("same bytes twice", pack({"a": FLOAT, "b": FLOAT}, ONE), "overlap"),
    ("boolean 2", pack({"a": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]}}, b"\1\2"), "booleans 0 or 1"),
    ("NaN", floats(1.0, float("nan")), "finite numbers"),
    ("infinity", floats(float("inf")), "finite numbers"),
    ("NaN in float64", floats(float("nan"), dtype="F64", code="<d"), "finite numbers"),
    ("minus infinity in float16", floats(float("-inf"), dtype="F16", code="<e"), "finite numbers"),
    ("NaN in bfloat16", floats(0xFFC0, dtype="BF16", code="<H"), "finite numbers"),
    ("metadata that is no object", pack({"__metadata__": "x"}), "strings to strings"),
    ("metadata that is no string", pack({"__metadata__": {"a": 1}}), "strings to strings"),
]
STARRED = [  # accepted by the safetensors library, refused here
    *("header above 8 MB", "duplicate key", "too many tensors", "long name", "name with a slash"),
    *("boolean 2", "NaN", "infinity", "NaN in float64", "minus infinity in float16", "NaN in bfloat16"),
]
SOUND = [
    ("no tensors", pack({})),
    ("padded header", pack(json.dumps({"a": FLOAT}).encode() + b"   ", ONE)),
    ("empty tensor", pack({"a": {**FLOAT, "shape": [0, 3], "data_offsets": [0, 0]}, "b": FLOAT}, ONE)),
    ("scalar", pack({"a": {**FLOAT, "shape": []}}, ONE)),
    ("largest float32", floats(3.4028234663852886e38, -1e-45, -0.0)),
    ("longest name", pack({"a" * 256: FLOAT}, ONE)),
    ("booleans", pack({"a": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]}}, b"\0\1")),
]
