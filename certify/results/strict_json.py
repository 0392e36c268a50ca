"""Strict JSON: keys sorted, no NaN, no infinity, no duplicate keys, bounded nesting, whole Unicode."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgspec

from certify.errors import InputError, SoundnessError

MAX_JSON_DEPTH = 64
COMPACT = json.JSONEncoder(sort_keys=True, allow_nan=False, separators=(",", ":"))  # made once: blocks are many
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")  # escaped, or as it is


def dump_json(value: object, *, indent: int | None = None) -> str:
    """Return the strict JSON of a plain value or a struct: keys sorted, ASCII, NaN and infinity refused.

    Raises:
        SoundnessError: If a number in it is not finite.

    Example:
        >>> dump_json({"b": 1, "a": [0.5, None]})
        '{"a":[0.5,null],"b":1}'
    """
    plain = msgspec.to_builtins(value)
    try:
        if indent is None:
            return COMPACT.encode(plain)
        return json.dumps(plain, sort_keys=True, allow_nan=False, separators=(",", ": "), indent=indent)
    except ValueError as error:
        raise SoundnessError(f"a report must hold finite numbers only: {error}") from error


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"duplicate key {twice!r}")
    return found


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"number out of range: {text}")
    return value


def _depth_within(text: str, limit: int) -> bool:
    if text.count("[") + text.count("{") <= limit:
        return True  # no deeper than there are brackets
    depth, in_string, escaped = 0, False, False
    for character in text:
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            if depth > limit:
                return False
        elif character in "]}":
            depth -= 1
    return True


def _refuse_surrogates(text: str, value: Any) -> None:  # noqa: ANN401 - plain JSON
    """Refuse half of a surrogate pair: Python's JSON takes it, and nothing can write or compare it as UTF-8."""
    written = json.dumps(value, ensure_ascii=False) if SURROGATE.search(text) else ""
    if any("\ud800" <= character <= "\udfff" for character in written):
        raise ValueError("half of a surrogate pair, which is not valid Unicode")


def load_json(data: bytes | str, *, name: str, max_depth: int = MAX_JSON_DEPTH) -> Any:  # noqa: ANN401 - plain JSON
    """Return the plain value of strict JSON: UTF-8, no duplicate keys, no NaN, no infinity, bounded nesting.

    Half of a surrogate pair is refused too, and two escapes that make one character are not.

    Args:
        data: The text, or its bytes.
        name: What is parsed, for the error message.
        max_depth: The deepest nesting accepted.

    Raises:
        InputError: If the text is anything but strict JSON.

    Example:
        >>> load_json('{"a": 1}', name="example")
        {'a': 1}
    """
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        if not _depth_within(text, max_depth):
            raise ValueError(f"nested deeper than {max_depth}")
        value = json.loads(
            text,
            object_pairs_hook=_refuse_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
        _refuse_surrogates(text, value)
        return value
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: expected strict JSON, got {error}") from error
