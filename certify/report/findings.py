"""Findings: where a report contradicts itself, as values.

A comparison is between what the record implies, computed again, and what the record says. Equality is exact: the same
floats from the same integers, or a finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec


@dataclass(frozen=True)
class Finding:
    """One contradiction: the place in the report, what the rest of the report implies, and what stands there.

    Example:
        >>> str(Finding("examples[3].radius", "0.25", "0.5"))
        'examples[3].radius: expected 0.25, found 0.5'
    """

    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}"


def compare(where: str, expected: object, found: object) -> Iterator[Finding]:
    """Yield one finding for each leaf in which two values, structs or nested containers differ.

    Example:
        >>> [finding.where for finding in compare("a", {"b": [1, 2]}, {"b": [1, 3]})]
        ['a.b[1]']
    """
    yield from _compare(where, msgspec.to_builtins(expected), msgspec.to_builtins(found))


def _compare(where: str, expected: Any, found: Any) -> Iterator[Finding]:  # noqa: ANN401 - plain JSON
    children = _children(expected), _children(found)
    if children[0] is None or children[1] is None or children[0].keys() != children[1].keys():
        if not (type(expected) is type(found) and expected == found):
            yield Finding(where, repr(expected), repr(found))
        return
    for step, value in children[0].items():
        yield from _compare(f"{where}{step}", value, children[1][step])


def _children(value: Any) -> Mapping[str, Any] | None:  # noqa: ANN401 - plain JSON
    if isinstance(value, dict):
        return {f".{key}": child for key, child in value.items()}
    if isinstance(value, list | tuple):
        return {f"[{index}]": child for index, child in enumerate(value)}
    return None


def require(holds: bool, where: str, expected: str, found: object) -> Iterator[Finding]:
    """Yield a finding unless the statement holds; a comparison with NaN does not hold."""
    if not holds:
        yield Finding(where, expected, repr(found))
