"""The reports: one struct per kind, told apart by its field ``kind``."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import UNSET, UnsetType

from certify.results.comparison import ComparedRun, ComparisonSettings, ComparisonSummary, PairedExample
from certify.results.curvature import (
    CertificatesBeside,
    ConsistencyRow,
    CurvatureExample,
    CurvatureSettings,
    CurvatureSummary,
    DiagnosticStatement,
    LastLayerReading,
    NetworkReading,
    ReadingRow,
)
from certify.results.gates import GateRow
from certify.results.lipschitz import LayerRow, LipschitzExample, NetworkBound
from certify.results.log import LogAudit, LogExample, LogFile, LogSettings
from certify.results.origin import DataRecord, Execution, Falsifier, ModelRecord, Tool
from certify.results.outputs import OutputsSummary, RegressionExample, SegmentationExample
from certify.results.row import Row
from certify.results.settings import LipschitzSettings, SmoothingSettings
from certify.results.smoothing import SmoothingExample, Tables, UnsampledExample
from certify.results.summary import Summary

SCHEMA = "certify/report/1"


class Statement(Row, frozen=True, kw_only=True):
    """What a certificate of this report promises: in words, and field by field."""

    text: str
    object: Literal["base", "smoothed"]
    arithmetic: str
    domain: str
    failure_probability: float
    joint: str


class _Report(Row, frozen=True, kw_only=True):
    """The fields that every kind of report has."""

    schema: str = SCHEMA
    tool: Tool
    model: ModelRecord
    data: DataRecord | UnsetType = UNSET
    statement: Statement
    summary: Summary | UnsetType = UNSET
    gates: tuple[GateRow, ...] = ()
    falsifier: Falsifier
    digest: str = ""
    execution: Execution


class LipschitzReport(_Report, frozen=True, kw_only=True, tag_field="kind", tag="lipschitz"):
    """The report of `certify lipschitz`."""

    settings: LipschitzSettings
    network: NetworkBound
    layers: tuple[LayerRow, ...]
    examples: tuple[LipschitzExample, ...] = ()


class SmoothingReport(_Report, frozen=True, kw_only=True, tag_field="kind", tag="smoothing"):
    """The report of `certify smooth`, or of a gate: ``unsampled`` examples follow those in ``examples``."""

    settings: SmoothingSettings
    tables: Tables
    examples: tuple[SmoothingExample, ...]
    unsampled: tuple[UnsampledExample, ...] | UnsetType = UNSET


Report: TypeAlias = LipschitzReport | SmoothingReport


class ComparisonReport(Row, frozen=True, kw_only=True, tag_field="kind", tag="comparison"):
    """The report of `certify compare`: two reports on the same examples, paired."""

    schema: str = SCHEMA
    tool: Tool
    old: ComparedRun
    new: ComparedRun
    data: DataRecord
    settings: ComparisonSettings
    statement: Statement
    examples: tuple[PairedExample, ...]
    summary: ComparisonSummary
    gates: tuple[GateRow, ...] = ()
    digest: str = ""
    execution: Execution


class LogReport(Row, frozen=True, kw_only=True, tag_field="kind", tag="log"):
    """A certification log of the field, imported: its rows as written, and what an audit says about them."""

    schema: str = SCHEMA
    tool: Tool
    file: LogFile
    settings: LogSettings
    statement: Statement
    audit: LogAudit
    summary: Summary
    examples: tuple[LogExample, ...]
    gates: tuple[GateRow, ...] = ()
    digest: str = ""
    execution: Execution


Listing: TypeAlias = Report | LogReport
"""Every report that lists certificates, example by example."""


class OutputsReport(Row, frozen=True, kw_only=True, tag_field="kind", tag="outputs"):
    """The report of a smoothed regression or segmentation; ``output_shape`` is that of one input's outputs."""

    schema: str = SCHEMA
    tool: Tool
    model: ModelRecord
    output_shape: tuple[int, ...]
    data: DataRecord
    settings: SmoothingSettings
    statement: Statement
    tables: Tables
    examples: tuple[RegressionExample | SegmentationExample, ...]
    summary: OutputsSummary
    falsifier: Falsifier
    digest: str = ""
    execution: Execution


class CurvatureReport(Row, frozen=True, kw_only=True, tag_field="kind", tag="curvature"):
    """The report of `certify curvature`. ``table`` has every reading with its kind, certificates beside them."""

    schema: str = SCHEMA
    tool: Tool
    model: ModelRecord
    data: DataRecord
    settings: CurvatureSettings
    statement: DiagnosticStatement
    table: tuple[ReadingRow, ...]
    last_layer: LastLayerReading | None
    last_layer_reason: str | UnsetType = UNSET
    network: NetworkReading | None
    network_reason: str | UnsetType = UNSET
    summary: CurvatureSummary
    examples: tuple[CurvatureExample, ...]
    beside: tuple[CertificatesBeside, ...] = ()
    consistency: tuple[ConsistencyRow, ...]
    gates: tuple[GateRow, ...] = ()
    digest: str = ""
    execution: Execution


Judged: TypeAlias = Report | CurvatureReport
"""Every report that gates can judge: certificates, or readings where a diagnostic gate is allowed."""


Document: TypeAlias = Report | ComparisonReport | LogReport | OutputsReport | CurvatureReport
"""All that can stand in a ``report.json``: certificates of classes or of outputs, the comparison of two reports, an
imported log, or readings of curvature."""


def unsampled_of(report: Report) -> tuple[UnsampledExample, ...]:
    """Return the examples of a report that got no draws, since the verdicts of its gates were settled before."""
    return report.unsampled if isinstance(report, SmoothingReport) and report.unsampled is not UNSET else ()


def clean_correct(example: LipschitzExample | SmoothingExample | LogExample) -> bool:
    """Return whether the clean answer is the label: the network's own argmax, or the smoothed vote (no abstention).

    With the task "among the k likeliest" the recorded class is that of the pilot: the answer, for k = 1 alone.
    """
    if isinstance(example, LipschitzExample):
        return example.clean_predicted == example.label
    return example.predicted == example.label


def certified_at(example: LipschitzExample | SmoothingExample | LogExample, radius: float) -> bool:
    """Return whether an example counts as certified at a radius: correct, its own radius positive and no smaller."""
    return example.correct and example.radius > 0.0 and example.radius >= radius
