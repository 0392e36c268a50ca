"""Everything about an imported log that follows from its rows, computed again; the rows themselves follow from nothing.

The summary is counted here a second time, from the definition. The audit is what the same rows give when audited again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from certify.report.findings import Finding, compare, require
from certify.report.log_reading import log_report
from certify.results import SCHEMA, LogReport, report_digest

HASH = re.compile(r"[0-9a-f]{64}")


def check_log(report: LogReport) -> Iterator[Finding]:
    """Yield every contradiction of an imported log with its own rows."""
    yield from compare("schema", SCHEMA, report.schema)
    yield from require(bool(HASH.fullmatch(report.file.sha256)), "file.sha256", "64 hex digits", report.file.sha256)
    yield from _check_shares(report)
    again = log_report(report.examples, report.file, report.settings)
    for part in ("statement", "audit", "summary", "gates"):
        yield from compare(part, getattr(again, part), getattr(report, part))
    yield from compare("digest", report_digest(report), report.digest)


def _check_shares(report: LogReport) -> Iterator[Finding]:
    """Count the shares of the summary from the definition: correct, and a positive radius of at least the asked one."""
    rows, total = report.examples, len(report.examples)
    for position, row in enumerate(report.summary.certified_accuracy):
        count = 0
        for example in rows:
            count += bool(example.correct and example.radius > 0.0 and example.radius >= row.radius)
        share = float(Fraction(count, total)) if total else 0.0
        yield from compare(f"summary.certified_accuracy[{position}].accuracy", share, row.accuracy)
