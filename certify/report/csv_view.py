"""Every field of every example as comma-separated values (RFC 4180): one line per example under the header line.

A Lipschitz report without data has its layers instead, then the network and what is only an estimate, in a column of
its own.

A radius and a lower bound are rounded down and an upper bound up, in the last of eighteen digits: no text lies on the
wrong side of its number, and each reads back as the very float of the report. Vote counts are one cell each, a JSON
list (last: invalid outputs): a column per class would depend on the model. What does not apply is empty.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import StringIO
from types import MappingProxyType
from typing import Any

from msgspec import UNSET, Struct

from certify.report.columns import name_columns, values_of
from certify.report.figures import lower_digits, upper_digits
from certify.report.neutralise import cell_text
from certify.report.wording import FLOORS
from certify.results import (
    ComparisonReport,
    CurvatureExample,
    CurvatureReport,
    Document,
    LayerRow,
    LipschitzExample,
    LipschitzReport,
    LogExample,
    LogReport,
    PairedExample,
    SmoothingExample,
    SmoothingReport,
    dump_json,
)

ESTIMATE = "estimate"  # the column of what is not proved
SIDES: Mapping[str, Callable[[float], str]] = MappingProxyType(
    {
        "radius": lower_digits,
        "margin_lower": lower_digits,
        "gain_upper": upper_digits,
        "error_upper": upper_digits,
        "ball": lower_digits,
        "local_upper": upper_digits,
        "upper": upper_digits,
        "lower": lower_digits,
        "share": repr,
        "estimate": repr,
        "old_radius": lower_digits,
        "new_radius": lower_digits,
        "uniform": repr,
        "seconds": repr,
        "loss": repr,
        "activation_square": repr,
        "last_layer_largest": repr,
        "last_layer_trace": repr,
        "last_layer_gradient": repr,
        "input_gradient": repr,
        "jacobian_spectral": repr,
        "jacobian_frobenius": repr,
        "flip_distance": repr,
    }
)


ROWS: Mapping[type[Struct], type[Struct]] = MappingProxyType(
    {
        LipschitzReport: LipschitzExample,
        SmoothingReport: SmoothingExample,
        ComparisonReport: PairedExample,
        LogReport: LogExample,
        CurvatureReport: CurvatureExample,
    }
)
"""What kind of rows a kind of report has."""


def render_csv(report: Document, *, width: int | None = None, color: bool = False) -> str:  # noqa: ARG001 - one table
    """Return the examples as comma-separated values; a Lipschitz report without data has its bounds instead."""
    if isinstance(report, LipschitzReport) and report.data is UNSET:
        return _write((*name_columns(LayerRow), ESTIMATE), _bounds(report))
    columns = name_columns(ROWS[type(report)])
    values = values_of(columns)
    return _write(columns, (values(example) for example in report.examples))


def _bounds(report: LipschitzReport) -> Iterator[tuple[Any, ...]]:
    """Yield the layers, the network as one more row, and below it the estimates of what is possible."""
    network = report.network
    yield from ((*values_of(name_columns(LayerRow))(layer), UNSET) for layer in report.layers)
    method = network.reason if isinstance(network.reason, str) else network.method
    yield ("", "network", (), network.upper, network.lower, method, UNSET, UNSET)
    for field, floor in FLOORS.items():
        if (value := getattr(network, field)) is not UNSET:
            yield ("", field, (), None, None, floor.meaning, UNSET, value)
    if network.limited_by is not UNSET:
        yield ("", "limited_by", (), None, None, network.limited_by, UNSET, UNSET)


def _write(columns: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    stream = StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(columns)
    for row in rows:
        writer.writerow(map(_cell, columns, row))
    return stream.getvalue()


def _cell(column: str, value: Any) -> str:  # noqa: ANN401 - any field
    """Return one cell; a number that no column here expects is an error, since its side is unknown."""
    if value is None or value is UNSET:
        return ""
    if isinstance(value, float):
        return SIDES[column](value)
    return cell_text(value) if isinstance(value, str) else dump_json(value)
