"""Reports that a command judges: read from their files, and derived again before they are believed."""

from __future__ import annotations

from pathlib import Path

from certify.errors import InputError
from certify.results import CurvatureReport, Judged, Report


def read_verified(path: Path) -> Report:
    """Return the report in a file, after re-deriving every number in it.

    Raises:
        InputError: If the file is no report, or a number in it does not follow from its record.
    """
    from certify.report import read_report, verify_report

    report = read_report(path)
    findings = verify_report(report)
    if findings:
        raise InputError(f"{path}: inconsistent report, it cannot be judged: {findings[0]}")
    return report


def read_judged(path: Path) -> Judged:
    """Return the report in a file that gates may judge, readings of curvature included, after re-deriving it.

    Raises:
        InputError: If the file is no such report, or a number in it does not follow from its record.
    """
    from certify.report import read_document, verify_report

    found = read_document(path)
    if not isinstance(found, CurvatureReport):
        return read_verified(path)
    findings = verify_report(found)
    if findings:
        raise InputError(f"{path}: inconsistent report, it cannot be judged: {findings[0]}")
    return found
