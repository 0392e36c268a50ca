"""The JSON Schema of the report, generated from its structs, with what types alone cannot say.

Added to the generated schema: the exact name of the schema; which fields an emitted report always has, defaults
included; ranges of numbers and the form of hashes; an example without a prediction has radius 0 and a reason. The file
``schema.json`` beside this one is its text, shipped for other tools; a test keeps the two equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from certify.results import SCHEMA, Document

DIALECT = "https://json-schema.org/draft/2020-12/schema"

NOT_NEGATIVE: Mapping[str, Any] = {"minimum": 0}
SHARE: Mapping[str, Any] = {"minimum": 0, "maximum": 1}
CHANGE: Mapping[str, Any] = {"minimum": -1, "maximum": 1}
HASH: Mapping[str, Any] = {"pattern": "^[0-9a-f]{64}$"}

RANGES: Mapping[tuple[str, ...], Mapping[str, Any]] = {
    ("ModelRecord", "sha256"): HASH,
    ("ModelRecord", "parameters"): NOT_NEGATIVE,
    ("DataRecord", "sha256"): HASH,
    ("Part", "sha256"): HASH,
    ("DataRecord", "count"): NOT_NEGATIVE,
    ("Part", "number"): {"minimum": 1},
    ("Part", "parts"): {"minimum": 1},
    ("Part", "of"): {"minimum": 1},
    ("InputSpace", "shape", "items"): {"minimum": 1},
    ("LipschitzReport", "digest"): HASH,
    ("SmoothingReport", "digest"): HASH,
    ("SmoothingSettings", "sigma"): {"exclusiveMinimum": 0},
    ("SmoothingSettings", "alpha"): {"minimum": 0, "exclusiveMaximum": 0.5},
    ("SmoothingSettings", "n"): {"minimum": 1},
    ("SmoothingSettings", "n0"): NOT_NEGATIVE,
    ("SmoothingSettings", "price"): NOT_NEGATIVE,
    ("Statement", "failure_probability"): {"minimum": 0, "exclusiveMaximum": 0.5},
    ("Counts", "selection", "items"): NOT_NEGATIVE,
    ("Counts", "estimation", "items"): NOT_NEGATIVE,
    ("Counts", "n0"): NOT_NEGATIVE,
    ("Counts", "n"): NOT_NEGATIVE,
    ("ScoreSums", "selection", "items"): NOT_NEGATIVE,
    ("ScoreSums", "selection_squares", "items"): NOT_NEGATIVE,
    ("ScoreSums", "estimation", "items"): NOT_NEGATIVE,
    ("ScoreSums", "estimation_squares", "items"): NOT_NEGATIVE,
    ("ScoreCandidate", "temperature"): NOT_NEGATIVE,
    ("ScoreCandidate", "worth"): NOT_NEGATIVE,
    ("ScoreTable", "chosen"): NOT_NEGATIVE,
    ("ScoreTable", "lipschitz"): NOT_NEGATIVE,
    ("ScoreTable", "logit_error"): NOT_NEGATIVE,
    ("SequentialTable", "radius"): {"exclusiveMinimum": 0},
    ("SequentialTable", "level"): {"minimum": 0, "exclusiveMaximum": 0.5},
    ("SequentialTable", "sha256"): HASH,
    ("Decision", "radius"): {"exclusiveMinimum": 0},
    ("UnsampledExample", "index"): NOT_NEGATIVE,
    ("UnsampledExample", "hash"): HASH,
    ("UnsampledExample", "label"): NOT_NEGATIVE,
    ("WholeCurve", "deviation"): NOT_NEGATIVE,
    ("WholeCurve", "confidence"): {"exclusiveMinimum": 0.5, "exclusiveMaximum": 1},
    ("CertifiedCount", "radius"): NOT_NEGATIVE,
    ("CertifiedCount", "at_least"): NOT_NEGATIVE,
    ("CertifiedCount", "at_most"): NOT_NEGATIVE,
    ("CertifiedCount", "examples"): NOT_NEGATIVE,
    ("Tables", "alpha_charged"): {"minimum": 0, "exclusiveMaximum": 0.25},
    ("LipschitzExample", "index"): NOT_NEGATIVE,
    ("LipschitzExample", "hash"): HASH,
    ("LipschitzExample", "label"): NOT_NEGATIVE,
    ("LipschitzExample", "radius"): NOT_NEGATIVE,
    ("LipschitzExample", "seconds"): NOT_NEGATIVE,
    ("LayerRow", "share"): SHARE,
    ("SmoothingExample", "index"): NOT_NEGATIVE,
    ("SmoothingExample", "hash"): HASH,
    ("SmoothingExample", "label"): NOT_NEGATIVE,
    ("SmoothingExample", "radius"): NOT_NEGATIVE,
    ("SmoothingExample", "seconds"): NOT_NEGATIVE,
    ("SmoothingExample", "uniform"): {"exclusiveMinimum": 0, "maximum": 1},
    ("Summary", "examples"): NOT_NEGATIVE,
    ("Summary", "clean_accuracy"): SHARE,
    ("Summary", "abstained"): NOT_NEGATIVE,
    ("CertifiedAccuracy", "radius"): NOT_NEGATIVE,
    ("CertifiedAccuracy", "accuracy"): SHARE,
    ("CertifiedAccuracy", "lower"): SHARE,
    ("CertifiedAccuracy", "upper"): SHARE,
    ("CertifiedAccuracy", "confidence"): {"exclusiveMinimum": 0.5, "exclusiveMaximum": 1},
    ("GateRow", "threshold"): NOT_NEGATIVE,
    ("GateRow", "radius"): NOT_NEGATIVE,
    ("GateRow", "confidence"): {"exclusiveMinimum": 0.5, "exclusiveMaximum": 1},
    ("Falsifier", "found"): NOT_NEGATIVE,
    ("Baseline", "digest"): HASH,
    ("Baseline", "model_sha256"): HASH,
    ("Baseline", "certified", "items"): NOT_NEGATIVE,
    ("CurvatureReport", "digest"): HASH,
    ("CurvatureSettings", "steps"): {"minimum": 1},
    ("CurvatureSettings", "probes"): {"minimum": 6},
    ("CurvatureSettings", "pairs"): {"minimum": 2},
    ("CurvatureSettings", "sigma"): {"exclusiveMinimum": 0},
    ("CurvatureExample", "index"): NOT_NEGATIVE,
    ("CurvatureExample", "hash"): HASH,
    ("CurvatureExample", "label"): NOT_NEGATIVE,
    ("CurvatureExample", "predicted"): NOT_NEGATIVE,
    ("CurvatureExample", "loss"): NOT_NEGATIVE,
    ("CurvatureExample", "activation_square"): NOT_NEGATIVE,
    ("CurvatureExample", "last_layer_largest"): NOT_NEGATIVE,
    ("CurvatureExample", "last_layer_trace"): NOT_NEGATIVE,
    ("CurvatureExample", "last_layer_gradient"): NOT_NEGATIVE,
    ("CurvatureExample", "input_gradient"): NOT_NEGATIVE,
    ("CurvatureExample", "jacobian_spectral"): NOT_NEGATIVE,
    ("CurvatureExample", "jacobian_frobenius"): NOT_NEGATIVE,
    ("CurvatureExample", "flip_distance"): NOT_NEGATIVE,
    ("CurvatureSummary", "examples"): {"minimum": 1},
    ("CurvatureSummary", "clean_accuracy"): SHARE,
    ("CurvatureSummary", "flipped"): NOT_NEGATIVE,
    ("LastLayerReading", "features"): {"minimum": 1},
    ("NetworkReading", "variables"): {"minimum": 1},
    ("Ritz", "residual"): NOT_NEGATIVE,
    ("Ritz", "steps"): {"minimum": 1},
    ("SampledMean", "standard_error"): NOT_NEGATIVE,
    ("MatchedCertificate", "radius"): {"exclusiveMinimum": 0},
    ("CertificatesBeside", "digest"): HASH,
    ("CertificatesBeside", "failure_probability"): {"minimum": 0, "exclusiveMaximum": 0.5},
    ("ReadingRow", "of"): {"minimum": 1},
    ("ConsistencyRow", "compared"): NOT_NEGATIVE,
    ("Trend", "digest"): HASH,
    ("Trend", "model_sha256"): HASH,
    ("Trend", "error"): NOT_NEGATIVE,
    ("ComparisonReport", "digest"): HASH,
    ("LogReport", "digest"): HASH,
    ("LogFile", "sha256"): HASH,
    ("LogSettings", "alpha"): {"exclusiveMinimum": 0, "exclusiveMaximum": 0.5},
    ("LogSettings", "n"): {"minimum": 1},
    ("LogExample", "index"): NOT_NEGATIVE,
    ("LogExample", "label"): NOT_NEGATIVE,
    ("LogExample", "radius"): NOT_NEGATIVE,
    ("LogFinding", "count"): {"minimum": 1},
    ("LogAudit", "significant"): NOT_NEGATIVE,
    ("LogAudit", "decimals"): NOT_NEGATIVE,
    ("ComparedRun", "digest"): HASH,
    ("ComparisonSettings", "radius"): NOT_NEGATIVE,
    ("ComparisonSettings", "max_drop"): SHARE,
    ("ComparisonSettings", "confidence"): {"exclusiveMinimum": 0.5, "exclusiveMaximum": 1},
    ("PairedExample", "index"): NOT_NEGATIVE,
    ("PairedExample", "hash"): HASH,
    ("PairedExample", "label"): NOT_NEGATIVE,
    ("PairedExample", "old_radius"): NOT_NEGATIVE,
    ("PairedExample", "new_radius"): NOT_NEGATIVE,
    ("PairedCounts", "radius"): NOT_NEGATIVE,
    ("PairedCounts", "old"): NOT_NEGATIVE,
    ("PairedCounts", "new"): NOT_NEGATIVE,
    ("PairedCounts", "won"): NOT_NEGATIVE,
    ("PairedCounts", "lost"): NOT_NEGATIVE,
    ("PairedCounts", "difference"): CHANGE,
    ("PairedCounts", "lower"): CHANGE,
    ("PairedCounts", "upper"): CHANGE,
    ("RadiusSigns", "larger"): NOT_NEGATIVE,
    ("RadiusSigns", "smaller"): NOT_NEGATIVE,
    ("RadiusSigns", "equal"): NOT_NEGATIVE,
    ("ComparisonSummary", "examples"): {"minimum": 1},
    ("ComparisonSummary", "mcnemar"): SHARE,
    ("ComparisonSummary", "won", "items"): NOT_NEGATIVE,
    ("ComparisonSummary", "lost", "items"): NOT_NEGATIVE,
}
"""Where (struct, field, and ``items`` for the entries of a list) to what holds there."""

OPTIONAL: Mapping[str, frozenset[str]] = {
    "LipschitzReport": frozenset({"data", "summary"}),
    "SmoothingReport": frozenset({"data", "summary", "unsampled"}),
    "Summary": frozenset({"unsampled", "certified_counts", "whole_curve"}),
    "Tables": frozenset({"sequential", "scores"}),
    "DataRecord": frozenset({"part", "eight_bit"}),
    "Execution": frozenset({"earlier_runs"}),
    "Part": frozenset({"sha256"}),
    "NetworkBound": frozenset({"reason", "data_floor", "slope_floor", "limited_by"}),
    "ScoreTable": frozenset({"reason"}),
    "SmoothingSettings": frozenset(
        {"scores", "score_map", "temperature", "scales", "task", "compile", "channels_last"}
    ),
    "LayerRow": frozenset({"share"}),
    "LipschitzExample": frozenset({"ball", "local_upper", "reason"}),
    "SmoothingExample": frozenset({"scores", "stopped", "decisions", "uniform", "reason"}),
    "GateRow": frozenset({"radius", "claim", "confidence", "on", "norm", "baseline", "diagnostic", "trend"}),
    "CurvatureReport": frozenset({"last_layer_reason", "network_reason"}),
    "CertificatesBeside": frozenset({"data_sha256", "upper", "lower", "method", "layers", "sigma", "mean_radius"}),
    "ReadingRow": frozenset({"error_of", "of", "note"}),
    "ComparedRun": frozenset({"lipschitz", "smoothing", "noise_law"}),
}
"""The fields that are absent where they do not apply; every other field is always there."""

ABSTENTION: Mapping[str, Any] = {
    "if": {"properties": {"predicted": {"type": "null"}}},
    "then": {"properties": {"radius": {"const": 0}, "correct": {"const": False}}, "required": ["reason"]},
}
UNBOUNDED: Mapping[str, Any] = {
    "if": {"properties": {"upper": {"type": "null"}}},
    "then": {"required": ["reason"]},
}
SPLIT: Mapping[str, Any] = {
    "if": {"properties": {"noise": {"const": "split"}}},
    "then": {"properties": {"alpha": {"const": 0}, "n0": {"const": 0}, "procedure": {"const": "fixed"}}},
    "else": {"properties": {"alpha": {"exclusiveMinimum": 0}, "n0": {"minimum": 1}}},
}
CONDITIONS: Mapping[str, Mapping[str, Any]] = {
    "LipschitzExample": ABSTENTION,
    "SmoothingExample": ABSTENTION,
    "NetworkBound": UNBOUNDED,
    "SmoothingSettings": SPLIT,
}


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) that every emitted report fits.

    Example:
        >>> report_schema()["$defs"]["SmoothingReport"]["properties"]["schema"]
        {'const': 'certify/report/1'}
    """
    schema = msgspec.json.schema(Document)
    definitions: dict[str, Any] = schema["$defs"]
    for name, definition in definitions.items():
        _require_all(name, definition)
        definition.update(CONDITIONS.get(name, {}))
    for (name, field, *rest), limits in RANGES.items():
        _at(definitions[name]["properties"][field], rest).update(limits)
    for name in ("LipschitzReport", "SmoothingReport", "ComparisonReport", "LogReport", "CurvatureReport"):
        definitions[name]["properties"]["schema"] = {"const": SCHEMA}
    return {"$schema": DIALECT, "title": SCHEMA, **schema}


def _require_all(name: str, definition: dict[str, Any]) -> None:
    """Make every field required that is not absent by design, and drop defaults: an emitted report has them all."""
    properties = definition["properties"]
    definition["required"] = sorted(set(properties) - OPTIONAL.get(name, frozenset()))
    for field in properties.values():
        field.pop("default", None)


def _at(node: dict[str, Any], path: list[str]) -> dict[str, Any]:
    for step in path:
        node = node[step]
    return node


def schema_text() -> str:
    """Return the text of ``schema.json``: sorted, indented, with a final newline."""
    return json.dumps(report_schema(), sort_keys=True, indent=1) + "\n"
