"""Readings of curvature as a ``model-index`` block: metrics whose type and name say that they certify nothing."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import UNSET

from certify.report.card import HEAD, TASKS, Number, Yaml, yaml_lines
from certify.report.figures import lower_digits, upper_digits
from certify.results import CurvatureReport, ReadingRow


def render_readings(report: CurvatureReport, *, width: int | None = None, color: bool = False) -> str:  # noqa: ARG001 - one table
    """Return the block: every row of the table that has a number, with its kind among the arguments."""
    data = report.data
    result: Yaml = {
        "task": {"type": TASKS.get(len(report.model.input.shape), "other"), "name": "classification"},
        "dataset": {
            "type": "other",
            "name": f"{data.selection}, sha256 {data.sha256[:16]}",
            "args": {"sha256": data.sha256, "examples": data.count},
        },
        "metrics": [_metric(report, row, *number) for row in report.table for number in _numbers(row)],
    }
    name = f"model of sha256 {report.model.sha256[:16]}"
    block: Yaml = {"model-index": [{"name": name, "results": [result]}]}
    return HEAD + "".join(f"{line}\n" for line in yaml_lines(block))


def _numbers(row: ReadingRow) -> Iterator[tuple[str, str]]:
    """Yield which side each number of a row is on, and its digits, rounded to that side."""
    if row.lower is not None:
        yield "at least", lower_digits(row.lower)
    if row.upper is not None:
        yield "at most", upper_digits(row.upper)
    if row.value is not None:
        yield "", repr(row.value)


def _metric(report: CurvatureReport, row: ReadingRow, side: str, digits: str) -> Yaml:
    promised = row.failure_probability is not None
    kind = row.kind if promised else f"{row.kind}, no certificate"
    error: dict[str, Yaml] = {}
    if row.error is not None and row.error_of is not UNSET:
        error = {row.error_of.replace(" ", "_"): Number(repr(row.error))}
    chance: dict[str, Yaml] = {}
    if row.failure_probability is not None:
        chance = {"failure_probability": Number(repr(row.failure_probability))}
    return {
        "type": "certificate" if promised else "diagnostic",
        "name": f"{row.object}, {row.quantity}{f', {side}' if side else ''} ({kind})",
        "value": Number(digits),
        "args": {
            "kind": row.kind,
            "domain": row.domain,
            **error,
            **chance,
            "model_sha256": report.model.sha256,
            "report_digest": report.digest,
            "certify": report.tool.version,
        },
    }
