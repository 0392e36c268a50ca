"""The results that cross borders, and their strict JSON.

Words of this file. A number is ``upper`` or ``lower`` when it is proved (rounded outward), and ``estimate`` otherwise.
A *bracket* holds both ends of a proved enclosure. *Not knowing is a value*: `Unbounded` carries the reason and the
module where the analysis stopped, and fails every finite requirement.

The report is one struct per kind, told apart by its field ``kind``. Its JSON is strict: keys sorted, no NaN, no
infinity, no unknown and no duplicate keys. A field that does not apply is absent (`msgspec.UNSET`); a number that is
not finite is null beside its reason.
"""

from certify.results.comparison import (
    ComparedRun,
    ComparisonSettings,
    ComparisonSummary,
    PairedCounts,
    PairedExample,
    RadiusSigns,
)
from certify.results.documents import (
    AnyReport,
    document_from_json,
    report_digest,
    report_from_json,
    report_to_json,
    seal,
)
from certify.results.enclosures import Bracket, RandomStartUpper, Unbounded
from certify.results.gates import Baseline, GateRow
from certify.results.lipschitz import LayerRow, LipschitzExample, NetworkBound
from certify.results.log import Explanation, LogAudit, LogExample, LogFile, LogFinding, LogSettings
from certify.results.origin import DataRecord, Execution, Falsifier, InputSpace, ModelRecord, Part, Tool
from certify.results.outputs import OutputInterval, OutputsSummary, RegressionExample, SegmentationExample
from certify.results.reports import (
    SCHEMA,
    ComparisonReport,
    Document,
    LipschitzReport,
    Listing,
    LogReport,
    OutputsReport,
    Report,
    SmoothingReport,
    Statement,
    certified_at,
    clean_correct,
    unsampled_of,
)
from certify.results.row import Row
from certify.results.settings import (
    BY_PROCEDURE,
    PLANNED_CAP,
    SEQUENTIAL_CAP,
    LipschitzSettings,
    Regression,
    Scales,
    Segmentation,
    SmoothingSettings,
    TopK,
    refuse_other_words,
)
from certify.results.smoothing import (
    Counts,
    Decision,
    ScoreCandidate,
    ScoreSums,
    ScoreTable,
    SequentialTable,
    SmoothingExample,
    Tables,
    UnsampledExample,
)
from certify.results.strict_json import MAX_JSON_DEPTH, SURROGATE, dump_json, load_json
from certify.results.summary import CertifiedAccuracy, CertifiedCount, Summary, WholeCurve
from certify.results.words import (
    Answer,
    AnyNorm,
    Bound,
    Certificates,
    Change,
    Effort,
    FalsifyLevel,
    Method,
    Norm,
    SmoothingNorm,
    Verdict,
)

__all__ = [
    "BY_PROCEDURE",
    "MAX_JSON_DEPTH",
    "PLANNED_CAP",
    "SCHEMA",
    "SEQUENTIAL_CAP",
    "SURROGATE",
    "Answer",
    "AnyNorm",
    "AnyReport",
    "Baseline",
    "Bound",
    "Bracket",
    "Certificates",
    "CertifiedAccuracy",
    "CertifiedCount",
    "Change",
    "ComparedRun",
    "ComparisonReport",
    "ComparisonSettings",
    "ComparisonSummary",
    "Counts",
    "DataRecord",
    "Decision",
    "Document",
    "Effort",
    "Execution",
    "Explanation",
    "Falsifier",
    "FalsifyLevel",
    "GateRow",
    "InputSpace",
    "LayerRow",
    "LipschitzExample",
    "LipschitzReport",
    "LipschitzSettings",
    "Listing",
    "LogAudit",
    "LogExample",
    "LogFile",
    "LogFinding",
    "LogReport",
    "LogSettings",
    "Method",
    "ModelRecord",
    "NetworkBound",
    "Norm",
    "OutputInterval",
    "OutputsReport",
    "OutputsSummary",
    "PairedCounts",
    "PairedExample",
    "Part",
    "RadiusSigns",
    "RandomStartUpper",
    "Regression",
    "RegressionExample",
    "Report",
    "Row",
    "Scales",
    "ScoreCandidate",
    "ScoreSums",
    "ScoreTable",
    "Segmentation",
    "SegmentationExample",
    "SequentialTable",
    "SmoothingExample",
    "SmoothingNorm",
    "SmoothingReport",
    "SmoothingSettings",
    "Statement",
    "Summary",
    "Tables",
    "Tool",
    "TopK",
    "Unbounded",
    "UnsampledExample",
    "Verdict",
    "WholeCurve",
    "certified_at",
    "clean_correct",
    "document_from_json",
    "dump_json",
    "load_json",
    "refuse_other_words",
    "report_digest",
    "report_from_json",
    "report_to_json",
    "seal",
    "unsampled_of",
]
