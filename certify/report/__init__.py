"""Views of a report: every format, the summary, and verification, from its JSON alone.

The names below load their file when they are first used: a view needs no statistics, and only the terminal needs rich.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from certify.files import write_file_atomically
    from certify.report.comparison import compare_reports
    from certify.report.findings import Finding
    from certify.report.formats import FORMATS, Renderer
    from certify.report.log_reading import read_log
    from certify.report.merging import merge_reports
    from certify.report.neutralise import markup_text, strip_controls
    from certify.report.reading import read_document, read_report
    from certify.report.recertified import recertify
    from certify.report.schema import report_schema, schema_text
    from certify.report.several import refuse_several, render, render_several
    from certify.report.statement import lipschitz_statement, smoothing_statement
    from certify.report.summary import summarise_lipschitz, summarise_smoothing
    from certify.report.verify import verify_report

HOMES = {
    "FORMATS": "certify.report.formats",
    "Finding": "certify.report.findings",
    "Renderer": "certify.report.formats",
    "compare_reports": "certify.report.comparison",
    "lipschitz_statement": "certify.report.statement",
    "markup_text": "certify.report.neutralise",
    "merge_reports": "certify.report.merging",
    "read_document": "certify.report.reading",
    "read_log": "certify.report.log_reading",
    "read_report": "certify.report.reading",
    "recertify": "certify.report.recertified",
    "render": "certify.report.several",
    "refuse_several": "certify.report.several",
    "render_several": "certify.report.several",
    "report_schema": "certify.report.schema",
    "schema_text": "certify.report.schema",
    "smoothing_statement": "certify.report.statement",
    "strip_controls": "certify.report.neutralise",
    "summarise_lipschitz": "certify.report.summary",
    "summarise_smoothing": "certify.report.summary",
    "verify_report": "certify.report.verify",
    "write_file_atomically": "certify.files",
}

__all__ = [
    "FORMATS",
    "Finding",
    "Renderer",
    "compare_reports",
    "lipschitz_statement",
    "markup_text",
    "merge_reports",
    "read_document",
    "read_log",
    "read_report",
    "recertify",
    "refuse_several",
    "render",
    "render_several",
    "report_schema",
    "schema_text",
    "smoothing_statement",
    "strip_controls",
    "summarise_lipschitz",
    "summarise_smoothing",
    "verify_report",
    "write_file_atomically",
]


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)
