"""Reading a report from its file: strict JSON, checked against the schema; `verify_report` derives it again."""

from __future__ import annotations

from pathlib import Path

from certify.files import read_file_once
from certify.results import Document, Report, document_from_json, report_from_json

MAX_REPORT_BYTES = 2**30


def read_report(path: str | Path) -> Report:
    """Return the report of certificates in a file.

    Raises:
        InputError: If the file cannot be read, is not strict JSON, does not fit the schema, or compares two reports.
    """
    return report_from_json(read_file_once(path, limit=MAX_REPORT_BYTES), name=str(path))


def read_document(path: str | Path) -> Document:
    """Return the report in a file, of certificates or of a comparison.

    Raises:
        InputError: If the file cannot be read, is not strict JSON, or does not fit the schema.
    """
    return document_from_json(read_file_once(path, limit=MAX_REPORT_BYTES), name=str(path))
