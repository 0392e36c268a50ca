"""Verification: does a report agree with itself? Everything is computed again from its own record.

The digest is compared like any other field: a report that was edited and sealed again is still found, wherever its
numbers follow from one another. No finding means *consistent*; it proves neither who made the report nor that what it
starts from was ever computed. Only the digest holds

- what was observed: votes and sums of scores of which the answers do not speak (moved between two losing classes);
- what was proved about the weights: bounds of layers and network, the margin, gain and error of an example, and the
  Lipschitz constant of a run on soft scores, on which its radii and the worth of its scores rest: whoever changes these
  constants *and everything that follows from them*, and seals again, has written another consistent report, and the
  model alone can tell it from the first;
- names and words: of the model, its classes and its source, of gates, of versions, of what the attacks tried.

Whoever needs more keeps the digest of a report where nobody else writes, or runs it again: the same command gives the
same report.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence

from msgspec import UNSET
from msgspec.structs import replace

from certify.errors import InputError, SoundnessError
from certify.policy import evaluate_gates, parse_gates
from certify.report import rederive_lipschitz, rederive_smoothing
from certify.report.findings import Finding, compare, require
from certify.report.rederive_comparison import check_comparison
from certify.report.rederive_curvature import check_curvature
from certify.report.rederive_data import check_order, check_selection
from certify.report.rederive_log import check_log
from certify.report.rederive_outputs import check_outputs
from certify.report.statement import lipschitz_statement, smoothing_statement
from certify.report.summary import summarise_lipschitz, summarise_smoothing
from certify.results import (
    SCHEMA,
    AnyReport,
    ComparisonReport,
    CurvatureReport,
    DataRecord,
    Document,
    GateRow,
    LipschitzExample,
    LogReport,
    OutputsReport,
    Report,
    SmoothingExample,
    SmoothingReport,
    Statement,
    Summary,
    UnsampledExample,
    dump_json,
    report_digest,
    unsampled_of,
)

HASH = re.compile(r"[0-9a-f]{64}")


def verify_report(report: Document) -> tuple[Finding, ...]:
    """Return every contradiction found in a report; none when it is consistent.

    Computed again are, for smoothing, the plan, the charge on alpha, the selected class, the draws, every radius and
    abstention from the integer counts; for Lipschitz reports every radius from its margin and constant, and the order
    of all bounds; for both the summary, the statement, the hash of the selection, the verdict of every gate, and the
    digest. Of a comparison, all that follows from the answers of both reports; of an imported log, from its rows; of
    readings of curvature, from its examples and samples.
    """
    if isinstance(report, ComparisonReport):
        return tuple(_attempt("comparison", check_comparison, report))
    if isinstance(report, LogReport):
        return tuple(_attempt("log", check_log, report))
    if isinstance(report, OutputsReport):
        return tuple(_attempt("outputs", check_outputs, report))
    if isinstance(report, CurvatureReport):
        return tuple(_attempt("curvature", check_curvature, report))
    checks: tuple[tuple[str, Callable[[Report], Iterator[Finding]]], ...] = (
        ("schema", _check_identity),
        ("examples", _check_rows),
        ("data", _check_data),
        ("examples", _check_certificates),
        ("statement", _check_statement),
        ("summary", _check_summary),
        ("gates", _check_gates),
        ("falsifier", _check_falsifier),
        ("digest", _check_digest),
    )
    return tuple(finding for where, check in checks for finding in _attempt(where, check, report))


def _attempt(where: str, check: Callable[[AnyReport], Iterator[Finding]], report: AnyReport) -> Iterator[Finding]:
    """Yield what a check finds; a value the statistics refuse or do not know, or cannot bound, is a finding too."""
    try:
        yield from check(report)
    except (InputError, SoundnessError, ValueError, ArithmeticError, KeyError) as error:
        yield Finding(where, "values that can be computed again", str(error))


def _check_identity(report: Report) -> Iterator[Finding]:
    yield from compare("schema", SCHEMA, report.schema)
    yield from require(bool(HASH.fullmatch(report.model.sha256)), "model.sha256", "64 hex digits", report.model.sha256)
    dtype = report.settings.dtype if isinstance(report, SmoothingReport) else "float64"
    yield from compare("tool.dtype", dtype, report.tool.dtype)


def _check_rows(report: Report) -> Iterator[Finding]:
    """Check what every kind of example has: place, hash, label, norm, and whether its answer is correct or absent."""
    classes = len(report.model.classes)
    norm = report.settings.norm
    examples: Sequence[LipschitzExample | SmoothingExample] = report.examples
    yield from check_order("examples", examples)
    for position, example in enumerate(examples):
        where = f"examples[{position}]"
        yield from require(bool(HASH.fullmatch(example.hash)), f"{where}.hash", "64 hex digits", example.hash)
        yield from require(0 <= example.label < classes, f"{where}.label", f"one of {classes} classes", example.label)
        yield from compare(f"{where}.norm", norm, example.norm)
        yield from compare(f"{where}.correct", example.predicted == example.label, example.correct)
        reasoned = isinstance(example.reason, str)
        yield from require(reasoned == (example.predicted is None), f"{where}.reason", "one iff abstained", reasoned)
    yield from _check_unsampled(report, examples[-1].index if examples else -1)


def _check_unsampled(report: Report, previous: int) -> Iterator[Finding]:
    """Check the rows of examples without draws: only gates on asked radii stop early, and they stop for good."""
    if not isinstance(report, SmoothingReport) or report.unsampled is UNSET:
        return
    yield from require(bool(report.unsampled), "unsampled", "at least one, or absent", [])
    yield from require(bool(report.settings.at), "unsampled", "absent, as no radius was asked for", "some")
    yield from require(bool(report.gates), "unsampled", "absent, as no gate was asked that could be settled", "some")
    classes = len(report.model.classes)
    yield from check_order("unsampled", report.unsampled, previous)
    for position, example in enumerate(report.unsampled):
        where = f"unsampled[{position}]"
        yield from require(bool(HASH.fullmatch(example.hash)), f"{where}.hash", "64 hex digits", example.hash)
        yield from require(0 <= example.label < classes, f"{where}.label", f"one of {classes} classes", example.label)


def _all_examples(report: Report) -> list[LipschitzExample | SmoothingExample | UnsampledExample]:
    if isinstance(report, SmoothingReport):
        return [*report.examples, *unsampled_of(report)]
    return list(report.examples)


def _check_data(report: Report) -> Iterator[Finding]:
    """The selection's hash is that of the rows [id, label, hash] of its examples, in order, without draws or with."""
    examples = _all_examples(report)
    if report.data is UNSET:
        yield from require(not examples, "data", "a record, as there are examples", None)
        return
    rows = [[example.id, example.label, example.hash] for example in examples]
    yield from compare("data.count", len(rows), report.data.count)
    yield from compare("data.sha256", hashlib.sha256(dump_json(rows).encode()).hexdigest(), report.data.sha256)
    yield from require(len({row[0] for row in rows}) == len(rows), "examples", "ids that differ", "equal ids")
    yield from check_selection(report.settings, report.data, examples)
    yield from _check_part(report, report.data)


def _check_part(report: Report, data: DataRecord) -> Iterator[Finding]:
    """A part holds every N-th position of the selection, from its own number on, up to the last."""
    if data.part is UNSET:
        return
    number, parts, of = data.part.number, data.part.parts, data.part.of
    expected = list(range(number - 1, of, parts)) if parts >= 1 else []
    found = [example.index - report.settings.skip for example in _all_examples(report)]
    holds = 1 <= number <= parts <= of and found == expected
    yield from require(holds, "data.part", f"every {parts}th example from the {number}th on", found[:5])
    if data.part.sha256 is not UNSET:
        known = data.sha256 if parts == 1 else data.part.sha256
        fits = known == data.part.sha256 and bool(HASH.fullmatch(known))
        yield from require(fits, "data.part.sha256", "that of the whole selection", data.part.sha256)


def _check_certificates(report: Report) -> Iterator[Finding]:
    if isinstance(report, SmoothingReport):
        yield from rederive_smoothing.check_tables(report)
        yield from rederive_smoothing.check_examples(report)
    else:
        yield from rederive_lipschitz.check_network(report)
        yield from rederive_lipschitz.check_examples(report)


def _check_statement(report: Report) -> Iterator[Finding]:
    yield from compare("statement", expected_statement(report), report.statement)


def expected_statement(report: Report) -> Statement:
    """Return the statement that a report's settings, model and number of examples imply."""
    model = report.model
    if isinstance(report, SmoothingReport):
        number = len(_all_examples(report))
        return smoothing_statement(settings=report.settings, model=model, tables=report.tables, examples=number)
    return lipschitz_statement(settings=report.settings, model=model, network=report.network, examples=report.examples)


def _check_summary(report: Report) -> Iterator[Finding]:
    expected = UNSET if report.data is UNSET else expected_summary(report)
    if expected is UNSET or report.summary is UNSET:
        yield from require(expected is report.summary, "summary", "one iff there is data", report.summary)
    else:
        whole = report.summary.whole_curve  # an earlier report says nothing of the curve at once
        expected = replace(expected, whole_curve=UNSET) if whole is UNSET else expected
        yield from compare("summary", expected, report.summary)


def expected_summary(report: Report) -> Summary:
    """Return the summary that a report's examples imply."""
    if isinstance(report, SmoothingReport):
        return summarise_smoothing(report.examples, report.settings, unsampled=len(unsampled_of(report)))
    return summarise_lipschitz(report.examples, report.settings)


def _check_gates(report: Report) -> Iterator[Finding]:
    gates = parse_gates([_gate_table(row, report) for row in report.gates])
    records = {row.baseline.digest: row.baseline for row in report.gates if row.baseline is not UNSET}
    yield from compare("gates", evaluate_gates(report, gates, records), report.gates)


def _gate_table(row: GateRow, report: Report) -> dict[str, object]:
    """Return the configuration of the gate that a row answers; its kind, norm and scales can only be the report's."""
    drop = {} if row.baseline is UNSET else {"baseline": row.baseline.digest, "max_drop": row.threshold}
    norm = report.settings.norm if row.norm is UNSET else row.norm
    scales = report.settings.scales if isinstance(report, SmoothingReport) and norm == "weighted-l2" else UNSET
    asked = {"radius": row.radius, "claim": row.claim, "confidence": row.confidence, "on": row.on}
    return {
        **(drop or {"max" if row.metric == "lipschitz" else "min": row.threshold}),
        "name": row.name,
        "metric": row.metric,
        "norm": norm,
        **({} if scales is UNSET else {"scales": scales.sha256}),
        **{key: value for key, value in asked.items() if value is not UNSET},
    }


def _check_falsifier(report: Report) -> Iterator[Finding]:
    """A report whose certificates were broken is withheld, so none may say so; `off` tried nothing."""
    yield from compare("falsifier.found", 0, report.falsifier.found)


def _check_digest(report: Report) -> Iterator[Finding]:
    yield from compare("digest", report_digest(report), report.digest)
