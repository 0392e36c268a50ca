"""A report as a `Outline`, section by section: verdicts first, the record last."""

from __future__ import annotations

from collections.abc import Mapping

from certify.report.outline import Outline
from certify.report.sections.certificates import abstention_section, accuracy_section, class_section, radius_section
from certify.report.sections.comparison import comparison_outline
from certify.report.sections.curvature import curvature_outline
from certify.report.sections.examples import examples_section
from certify.report.sections.log import log_outline
from certify.report.sections.network import layers_section, network_section
from certify.report.sections.outputs import outputs_outline
from certify.report.sections.record import record_section
from certify.report.sections.verdicts import statement_section, verdict_section
from certify.report.wording import describe_headline, describe_kind
from certify.results import ComparisonReport, CurvatureReport, Document, LogReport, OutputsReport

PARTS = (
    verdict_section,
    statement_section,
    accuracy_section,
    radius_section,
    class_section,
    abstention_section,
    network_section,
    layers_section,
)


def outline_of(report: Document, *, pictures: Mapping[str, str] | None = None) -> Outline:
    """Return a report as an outline; a section without content is left out.

    Args:
        report: What to show.
        pictures: A PNG in base64 for the hash of an example, where the data were at hand.
    """
    if isinstance(report, ComparisonReport):
        return comparison_outline(report)
    if isinstance(report, LogReport):
        return log_outline(report)
    if isinstance(report, OutputsReport):
        return outputs_outline(report)
    if isinstance(report, CurvatureReport):
        return curvature_outline(report)
    parts = [part(report) for part in PARTS]
    parts += [examples_section(report, pictures or {}), record_section(report)]
    shown = tuple(part for part in parts if part is not None and part.blocks)
    return Outline(describe_headline(report), describe_kind(report), shown)
