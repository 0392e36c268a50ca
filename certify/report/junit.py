"""The gates of a report as JUnit XML: one test case per gate, for CI systems that show test results.

A failed gate is a ``failure``. An undecided gate is an ``error``: nothing was shown either way, and a CI system must
show that as it shows a red test; ``skipped`` would count as fine. A passed gate keeps its reason in ``system-out``.
Elements and attributes are those that Jenkins, GitLab and GitHub's test reporters read. ``time`` is the time of the
whole run, at the suite; a gate itself is a comparison. The text is ASCII with character references.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from msgspec import UNSET

from certify.report.figures import estimate_figure, lower_figure, radius_label, upper_figure
from certify.report.neutralise import xml_text
from certify.results import (
    ComparisonReport,
    CurvatureReport,
    GateRow,
    Judged,
    LipschitzReport,
    SmoothingReport,
    Verdict,
)

HasGates: TypeAlias = Judged | ComparisonReport
KINDS: Mapping[type, str] = MappingProxyType(
    {
        LipschitzReport: "lipschitz",
        SmoothingReport: "smoothing",
        ComparisonReport: "comparison",
        CurvatureReport: "curvature",
    }
)
DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'
ELEMENTS: Mapping[Verdict, str] = MappingProxyType({"passed": "system-out", "failed": "failure", "undecided": "error"})


def render_junit(report: HasGates, *, width: int | None = None, color: bool = False) -> str:  # noqa: ARG001 - one table
    """Return the gates as JUnit XML; a report without gates is an empty suite."""
    return render_suites([report])


def render_suites(reports: Sequence[HasGates]) -> str:
    """Return the gates of reports as one JUnit XML document with a suite for each."""
    root = Element("testsuites", {"name": "certify", **_totals(reports)})
    for report in reports:
        suite = SubElement(root, "testsuite", {"name": f"certify {_kind(report)}", "skipped": "0", **_totals([report])})
        properties = SubElement(suite, "properties")
        for name, value in _properties(report):
            SubElement(properties, "property", name=name, value=xml_text(value))
        for number, gate in enumerate(report.gates, start=1):
            _add_case(suite, gate, classname=f"certify.{_kind(report)}", number=number)
    indent(root)
    return f"{DECLARATION}{tostring(root, encoding='us-ascii').decode('ascii')}\n"


def _kind(report: HasGates) -> str:
    return KINDS[type(report)]


def _totals(reports: Sequence[HasGates]) -> dict[str, str]:
    verdicts = [gate.verdict for report in reports for gate in report.gates]
    return {
        "tests": str(len(verdicts)),
        "failures": str(verdicts.count("failed")),
        "errors": str(verdicts.count("undecided")),
        "time": f"{sum(max(0.0, report.execution.seconds) for report in reports):.3f}",
    }


def _properties(report: HasGates) -> Iterator[tuple[str, str]]:
    yield "version", report.tool.version
    if isinstance(report, ComparisonReport):
        yield "old.model.sha256", report.old.model.sha256
        yield "new.model.sha256", report.new.model.sha256
    else:
        yield "model.sha256", report.model.sha256
    if report.data is not UNSET:
        yield "data.sha256", report.data.sha256
    yield "digest", report.digest
    yield "statement", report.statement.text


def _add_case(suite: Element, gate: GateRow, *, classname: str, number: int) -> None:
    name = xml_text(gate.name).strip() or f"gate {number}"
    case = SubElement(suite, "testcase", name=name, classname=classname, time="0.000")
    outcome = SubElement(case, ELEMENTS[gate.verdict])
    if gate.verdict != "passed":
        outcome.set("type", gate.verdict)
        outcome.set("message", xml_text(gate.reason))
    outcome.text = "\n".join(f"{label}: {xml_text(text)}" for label, text in _facts(gate))


def _facts(gate: GateRow) -> Iterator[tuple[str, str]]:
    """Yield what was asked and found; limits are printed outward, the observed share to nearest."""
    yield "verdict", gate.verdict
    yield "reason", gate.reason
    yield "metric", gate.metric
    if gate.radius is not UNSET:
        yield "radius", radius_label(gate.radius)
    yield "threshold", repr(gate.threshold)
    if gate.diagnostic is not UNSET:
        yield "diagnostic", "no certificate"
    if gate.claim is not UNSET:
        yield "claim", f"{gate.claim}, on {gate.on}, confidence {gate.confidence!r}"
    numbers: tuple[tuple[str, float | None, Callable[[float], str]], ...] = (
        ("value", gate.value, estimate_figure),
        ("lower", gate.lower, lower_figure),
        ("upper", gate.upper, upper_figure),
    )
    for label, number, figure in numbers:
        yield label, "none" if number is None else figure(number)
