"""Every number of a comparison, computed again from the answers of both reports in its own record.

The two reports are named by their digests; whether they held these answers only they can show. All else follows from
the answers: which examples count as certified, the counts at each radius, the limits, the lists, the verdict. The
counting is written here a second time, from the definition.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction

from msgspec import UnsetType, to_builtins

from certify.pairing import FOLLOWING_SIGMA, FREE, UNUSED_WITH_ASKED
from certify.report.comparison import asked_of, comparison_gate, comparison_statement, summarise_pairs
from certify.report.findings import Finding, compare, require
from certify.report.rederive_data import check_selection
from certify.report.summary import RADII
from certify.results import (
    SCHEMA,
    ComparedRun,
    ComparisonReport,
    PairedCounts,
    PairedExample,
    dump_json,
    report_digest,
)
from certify.rounding import sub_down
from certify.stats import compare_paired, smallest_margin, success_lower, success_upper

HASH = re.compile(r"[0-9a-f]{64}")
WORDS: Mapping[tuple[bool, bool], str] = {
    (True, True): "both",
    (True, False): "lost",
    (False, True): "won",
    (False, False): "neither",
}


def check_comparison(report: ComparisonReport) -> Iterator[Finding]:
    """Yield where a comparison contradicts itself.

    Raises:
        ValueError: If a number is out of the range of the statistics.
    """
    yield from compare("schema", SCHEMA, report.schema)
    yield from _check_runs(report)
    yield from _check_examples(report)
    yield from _check_data(report)
    yield from _check_summary(report)
    yield from compare("statement", comparison_statement(report.old, report.new, report.settings), report.statement)
    yield from _check_gates(report)
    yield from compare("digest", report_digest(report), report.digest)


def _check_runs(report: ComparisonReport) -> Iterator[Finding]:
    """Check that the two runs may be compared: one kind, one space, one set of binding settings."""
    for name, run in (("old", report.old), ("new", report.new)):
        for field, value in (("digest", run.digest), ("model.sha256", run.model.sha256)):
            yield from require(bool(HASH.fullmatch(value)), f"{name}.{field}", "64 hex digits", value)
        present = [
            kind
            for kind, settings in (("lipschitz", run.lipschitz), ("smoothing", run.smoothing))
            if not isinstance(settings, UnsetType)
        ]
        yield from compare(f"{name}.settings", [report.settings.certificates], present)
    yield from compare("new.model.input", report.old.model.input, report.new.model.input)
    yield from compare("new.model.classes", report.old.model.classes, report.new.model.classes)
    yield from compare("new.noise_law", _plain(report.old.noise_law), _plain(report.new.noise_law))
    yield from compare("new.settings", _binding(report.old, report), _binding(report.new, report))
    radius = report.settings.radius
    yield from require(0.0 <= radius < math.inf, "settings.radius", "a radius of at least 0", radius)
    yield from require(
        not asked_of(report.new) or report.settings.radius in asked_of(report.new),
        "settings.radius",
        "one of the asked radii",
        report.settings.radius,
    )


def _plain(value: object) -> object:
    return None if isinstance(value, UnsetType) else value


def _binding(run: ComparedRun, report: ComparisonReport) -> dict[str, object]:
    settings = run.smoothing if report.settings.certificates == "smoothing" else run.lipschitz
    plain: dict[str, object] = {} if isinstance(settings, UnsetType) else to_builtins(settings)
    at, split = asked_of(run), plain.get("noise") == "split"
    left_out = FREE | (UNUSED_WITH_ASKED if at else frozenset()) | (FOLLOWING_SIGMA if split else frozenset())
    left = {name: value for name, value in plain.items() if name not in left_out}
    return {**left, "asked": [radius for radius in at if radius <= report.settings.radius]}


def _check_examples(report: ComparisonReport) -> Iterator[Finding]:
    classes, previous = len(report.new.model.classes), -1
    for position, pair in enumerate(report.examples):
        where = f"examples[{position}]"
        yield from require(pair.index > previous, f"{where}.index", f"above {previous}", pair.index)
        previous = pair.index
        yield from require(bool(HASH.fullmatch(pair.hash)), f"{where}.hash", "64 hex digits", pair.hash)
        yield from require(0 <= pair.label < classes, f"{where}.label", f"one of {classes} classes", pair.label)
        yield from compare(f"{where}.change", _word(pair, report.settings.radius), pair.change)
        yield from _check_answer(f"{where}.old", pair.old_predicted, pair.old_radius, report.old)
        yield from _check_answer(f"{where}.new", pair.new_predicted, pair.new_radius, report.new)


def _check_answer(where: str, predicted: int | None, radius: float, run: ComparedRun) -> Iterator[Finding]:
    classes, asked = len(run.model.classes), asked_of(run)
    known = predicted is None or 0 <= predicted < classes
    yield from require(known, f"{where}_predicted", f"one of {classes} classes, or none", predicted)
    sound = 0.0 < radius < math.inf if predicted is not None else radius == 0.0
    yield from require(sound, f"{where}_radius", "above 0, and 0 iff abstained", radius)
    decided = not asked or radius in (0.0, *asked)
    yield from require(decided, f"{where}_radius", "one of the asked radii, or 0", radius)


def _word(pair: PairedExample, radius: float) -> str:
    least = max(radius, math.ulp(0.0))  # a radius of 0 asks for any positive one
    return WORDS[
        pair.old_predicted == pair.label and pair.old_radius >= least,
        pair.new_predicted == pair.label and pair.new_radius >= least,
    ]


def _check_data(report: ComparisonReport) -> Iterator[Finding]:
    for run in (report.old, report.new):
        for settings in (run.lipschitz, run.smoothing):
            if not isinstance(settings, UnsetType):
                yield from check_selection(settings, report.data, report.examples)
    rows = [[pair.id, pair.label, pair.hash] for pair in report.examples]
    yield from compare("data.count", len(rows), report.data.count)
    yield from compare("data.sha256", hashlib.sha256(dump_json(rows).encode()).hexdigest(), report.data.sha256)
    yield from require(
        len({(row[0], row[2]) for row in rows}) == len(rows), "examples", "keys that differ", "equal keys"
    )


def _check_summary(report: ComparisonReport) -> Iterator[Finding]:
    summary, settings, pairs = report.summary, report.settings, report.examples
    yield from compare("summary.examples", len(pairs), summary.examples)
    yield from compare("summary.at_radius", _counts(report, settings.radius), summary.at_radius)
    at = [radius for radius in asked_of(report.new) if radius <= settings.radius]
    radii = at or sorted({*RADII[settings.norm], settings.radius})
    yield from compare("summary.curve", [_counts(report, radius) for radius in radii], summary.curve)
    for word, found in (("won", summary.won), ("lost", summary.lost)):
        yield from compare(f"summary.{word}", [pair.index for pair in pairs if pair.change == word], found)
    yield from compare("summary.radii", None if at else _signs(report), summary.radii)
    yield from _check_verdict(report)
    information = compare_paired(len(summary.won), len(summary.lost), len(pairs), 1.0 - settings.confidence).mcnemar
    yield from compare("summary.mcnemar", information, summary.mcnemar)


def _counts(report: ComparisonReport, radius: float) -> PairedCounts:
    """Return the counts and limits at a radius, each from its definition."""
    words, n = [_word(pair, radius) for pair in report.examples], len(report.examples)
    won, lost = words.count("won"), words.count("lost")
    half = (1.0 - report.settings.confidence) / 2.0
    return PairedCounts(
        radius=radius,
        old=words.count("both") + lost,
        new=words.count("both") + won,
        won=won,
        lost=lost,
        difference=(won - lost) / n,
        lower=sub_down(success_lower(won, n, half), success_upper(lost, n, half)),
        upper=-sub_down(success_lower(lost, n, half), success_upper(won, n, half)),
    )


def _signs(report: ComparisonReport) -> dict[str, int]:
    """Return in how many examples the radius of a correct answer grew, fell, or stayed."""
    signs = {"larger": 0, "smaller": 0, "equal": 0}
    for pair in report.examples:
        old = pair.old_radius * (pair.old_predicted == pair.label)
        new = pair.new_radius * (pair.new_predicted == pair.label)
        signs["larger" if new > old else "smaller" if new < old else "equal"] += 1
    return signs


def _check_verdict(report: ComparisonReport) -> Iterator[Finding]:
    summary, settings = report.summary, report.settings
    least = smallest_margin(len(report.examples), 1.0 - settings.confidence)
    yield from compare("summary.least_drop", least, summary.least_drop)
    here, margin = _counts(report, settings.radius), Fraction(repr(settings.max_drop))
    shown, refuted = Fraction(here.lower) >= -margin, Fraction(here.upper) < -margin
    verdict = "passed" if shown else "failed" if refuted else "undecided"
    yield from compare("summary.verdict", verdict if settings.max_drop >= least else None, summary.verdict)
    reason = summarise_pairs(report.examples, settings, asked_of(report.new)).reason
    yield from compare("summary.reason", reason, summary.reason)


def _check_gates(report: ComparisonReport) -> Iterator[Finding]:
    """A comparison has one gate, on the drop that was asked for, or none."""
    expected = [comparison_gate(report)] if report.gates else []
    yield from compare("gates", expected, report.gates)
