"""The table that the field's plotting scripts read: ``idx label predict radius correct time``, tab-separated.

The columns are those of Cohen, Rosenfeld and Kolter (2019), arXiv 1902.02918, so that their analysis code reads it:
an abstention predicts -1, ``correct`` is 1 or 0, ``time`` is hours:minutes:seconds. Their radii were rounded to nearest
with three digits; here a radius is rounded down, with six. A row of an imported log keeps the digits it came with.
"""

from __future__ import annotations

from datetime import timedelta

from certify.report.neutralise import cell_text
from certify.results import LipschitzExample, Listing, LogExample, SmoothingExample
from certify.rounding import floor_text

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
RADIUS_DIGITS = 6
LARGEST_RADIUS = 1e12  # an unlimited radius is recorded as the largest float; a smaller one is certified as well
ABSTAINED = -1


def render_tsv(report: Listing, *, width: int | None = None, color: bool = False) -> str:  # noqa: ARG001 - one table
    """Return one line per example under the header line; a report without data has the header alone."""
    rows = [COLUMNS, *(_cells(example) for example in report.examples)]
    return "".join("\t".join(cell_text(cell) for cell in row) + "\n" for row in rows)


def _cells(example: LipschitzExample | SmoothingExample | LogExample) -> tuple[str | int, ...]:
    predicted = ABSTAINED if example.predicted is None else example.predicted
    as_written = isinstance(example, LogExample)
    radius = repr(example.radius) if as_written else floor_text(min(example.radius, LARGEST_RADIUS), RADIUS_DIGITS)
    elapsed = str(timedelta(seconds=example.seconds or 0.0))
    return (example.index, example.label, predicted, radius, int(example.correct), elapsed)
