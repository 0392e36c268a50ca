"""Every field of every example as comma-separated values (RFC 4180): one line per example under the header line.

A radius and a lower bound are rounded down and an upper bound up, in the last of eighteen digits: no text lies on the
wrong side of its number, and each reads back as the very float of the report. Vote counts are one cell each, a JSON
list (last: invalid outputs): a column per class would depend on the model. What does not apply is empty.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from io import StringIO
from types import MappingProxyType
from typing import Any

from msgspec import UNSET, Struct

from certify.report.columns import name_columns, values_of
from certify.report.figures import lower_digits, upper_digits
from certify.report.neutralise import cell_text
from certify.results import (
    ComparisonReport,
    Document,
    LipschitzExample,
    LipschitzReport,
    LogExample,
    LogReport,
    PairedExample,
    SmoothingExample,
    SmoothingReport,
    dump_json,
)

SIDES: Mapping[str, Callable[[float], str]] = MappingProxyType(
    {
        "radius": lower_digits,
        "margin_lower": lower_digits,
        "gain_upper": upper_digits,
        "error_upper": upper_digits,
        "ball": lower_digits,
        "local_upper": upper_digits,
        "old_radius": lower_digits,
        "new_radius": lower_digits,
        "uniform": repr,
        "seconds": repr,
    }
)


ROWS: Mapping[type[Struct], type[Struct]] = MappingProxyType(
    {
        LipschitzReport: LipschitzExample,
        SmoothingReport: SmoothingExample,
        ComparisonReport: PairedExample,
        LogReport: LogExample,
    }
)
"""What kind of rows a kind of report has."""


def render_csv(report: Document, *, width: int | None = None, color: bool = False) -> str:  # noqa: ARG001 - one table
    """Return the examples as comma-separated values; a report without data has the header alone."""
    columns = name_columns(ROWS[type(report)])
    values = values_of(columns)
    stream = StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(columns)
    for example in report.examples:
        writer.writerow(map(_cell, columns, values(example)))
    return stream.getvalue()


def _cell(column: str, value: Any) -> str:  # noqa: ANN401 - any field
    """Return one cell; a number that no column here expects is an error, since its side is unknown."""
    if value is None or value is UNSET:
        return ""
    if isinstance(value, float):
        return SIDES[column](value)
    return cell_text(value) if isinstance(value, str) else dump_json(value)
