"""A struct of the report as the columns of a table: every field in order, nested structs in their place.

The columns follow from the type alone, so that a table has the same ones whatever its rows hold.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from msgspec import Struct, structs


def name_columns(kind: type[Struct]) -> tuple[str, ...]:
    """Return the dotted names of all fields of a struct.

    Example:
        >>> from certify.results import SmoothingExample
        >>> name_columns(SmoothingExample)[8:11]
        ('counts.selection', 'counts.estimation', 'counts.n0')
    """
    return tuple(name for field in structs.fields(kind) for name in _names(field.name, field.type))


def _names(name: str, kind: Any) -> list[str]:  # noqa: ANN401 - any annotation
    nested = isinstance(kind, type) and issubclass(kind, Struct)
    return [f"{name}.{inner}" for inner in name_columns(kind)] if nested else [name]


def values_of(columns: tuple[str, ...]) -> Callable[[Struct], tuple[Any, ...]]:
    """Return the function from a struct to its values in these columns (two or more)."""
    return attrgetter(*columns)
