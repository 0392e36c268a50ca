"""What the numbers of a report rest on, and how to check them."""

from __future__ import annotations

from msgspec import UNSET

from certify.report.outline import Facts, Section, Text
from certify.report.promise_words import earlier_words
from certify.report.score_words import describe_scores
from certify.report.wording import describe_data, describe_falsifier, describe_settings, describe_space
from certify.results import Report, SmoothingReport, Tool

CHECK = (
    "To check: `certify verify report.json` derives every radius, interval, summary and verdict again from the JSON "
    "report, without the model and without PyTorch. This page is a view; the JSON report is the record. The digest "
    "tells accident from record, it is no signature."
)


def describe_tool(tool: Tool) -> str:
    """Return what computed a report, in one line."""
    return f"certify {tool.version}, Python {tool.python}, PyTorch {tool.torch}, {tool.device_kind}, {tool.dtype}"


def record_section(report: Report) -> Section:
    """Return settings, hashes, what was tried against the certificates, and how to re-derive the numbers."""
    model = report.model
    facts = [("model", f"sha256 {model.sha256}, {model.source}, {model.parameters:,} parameters")]
    facts.append(("input", f"{describe_space(model.input)}; {len(model.classes):,} classes"))
    if report.data is not UNSET:
        facts.append(("data", f"sha256 {report.data.sha256}, {describe_data(report.data)}"))
    facts.append(("settings", describe_settings(report.settings)))
    if isinstance(report, SmoothingReport):
        facts.append(("noise", f"{report.tables.noise_law}: {report.tables.noise}"))
        facts += describe_scores(report)
    facts += [
        ("falsifier", describe_falsifier(report.falsifier)),
        ("tool", describe_tool(report.tool)),
        ("digest", report.digest or "none"),
    ]
    if earlier := earlier_words(report):
        facts.append(("warning", earlier))
    return Section("record", "Record", (Facts(tuple(facts)), Text(CHECK)))
