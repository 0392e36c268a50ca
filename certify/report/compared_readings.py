"""Readings of several reports beside each other: one row a reading, one column a report; certificates stay apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from certify.report.curvature_words import describe_number
from certify.report.outline import Block, Text, table_of
from certify.results import CurvatureReport, Document, ReadingRow

SAME = "The same batch for all of them. A difference within a few standard errors shows nothing."
OTHER = "Batches differ, so these numbers say nothing about one another."


def compared_readings(names: Sequence[str], reports: Sequence[Document]) -> Iterator[Block]:
    """Yield the readings of several reports of curvature in one table; nothing for fewer than two."""
    found = [(name, report) for name, report in zip(names, reports, strict=True) if isinstance(report, CurvatureReport)]
    if len(found) < 2:
        return
    columns = [{_key(row): row for row in report.table if row.failure_probability is None} for _, report in found]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    rows = [(*key, *(describe_number(column[key]) if key in column else "" for column in columns)) for key in keys]
    titles = ("object", "quantity", "kind", *(f"#{name}" for name, _ in found))
    yield table_of("Readings side by side: diagnostics, no certificates", titles, rows, count=len(rows))
    yield Text(SAME if len({report.data.sha256 for _, report in found}) == 1 else OTHER, quiet=True)


def _key(row: ReadingRow) -> tuple[str, str, str]:
    return row.object, row.quantity, row.kind
