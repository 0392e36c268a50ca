"""Reports written, sealed and read back."""

from __future__ import annotations

import hashlib
from typing import TypeVar

import msgspec

from certify.errors import InputError
from certify.results.reports import (
    SCHEMA,
    ComparisonReport,
    CurvatureReport,
    Document,
    LipschitzReport,
    LogReport,
    OutputsReport,
    Report,
    SmoothingReport,
)
from certify.results.strict_json import dump_json, load_json


def report_digest(report: Document) -> str:
    """Return the sha256 of everything in a report except ``digest``, ``execution`` and each example's ``seconds``."""
    plain = msgspec.to_builtins(report)
    del plain["digest"], plain["execution"]
    for example in plain["examples"]:
        example.pop("seconds", None)
    return hashlib.sha256(dump_json(plain).encode()).hexdigest()


AnyReport = TypeVar(
    "AnyReport",
    bound=LipschitzReport | SmoothingReport | ComparisonReport | LogReport | OutputsReport | CurvatureReport,
)


def seal(report: AnyReport) -> AnyReport:
    """Return the report with its digest filled in."""
    return msgspec.structs.replace(report, digest=report_digest(report))


def report_to_json(report: Document) -> str:
    """Return the text of ``report.json``: strict, sorted, indented, with a final newline."""
    return dump_json(report, indent=1) + "\n"


def report_from_json(data: bytes | str, *, name: str) -> Report:
    """Return the report of certificates in ``data``; its content is checked against the schema, not re-derived.

    Raises:
        InputError: If it is not strict JSON, does not fit the schema of this version, or compares two reports.
    """
    found = document_from_json(data, name=name)
    if isinstance(found, ComparisonReport):
        raise InputError(f"{name}: expected a report of certificates, got a comparison of two; name one of them")
    if isinstance(found, OutputsReport):
        raise InputError(f"{name}: expected certificates of classes, got a regression or segmentation")
    if isinstance(found, LogReport):
        raise InputError(f"{name}: expected a report of certificates, got an imported log, which proves none")
    if isinstance(found, CurvatureReport):
        raise InputError(f"{name}: expected a report of certificates, got readings of curvature, which certify nothing")
    return found


def document_from_json(data: bytes | str, *, name: str) -> Document:
    """Return whatever report is in ``data``; its content is checked against the schema, not re-derived.

    Raises:
        InputError: If it is not strict JSON or does not fit the schema of this version.
    """
    plain = load_json(data, name=name)
    try:
        report: Document = msgspec.convert(plain, Document)
    except msgspec.ValidationError as error:
        raise InputError(f"{name}: expected a report of schema {SCHEMA!r}, got a mismatch: {error}") from error
    if report.schema != SCHEMA:
        raise InputError(f"{name}: expected schema {SCHEMA!r}, got {report.schema!r}; use the matching tool version")
    return report
