"""The parts of one smoothing run, put together: the report that the whole run would have made.

Part i of N holds every N-th example of the selection, from the i-th on. The draws of an example are addressed by the
seed and its own identity, so it has the same votes in a part as in the whole run; each certificate keeps its own alpha.
What speaks of all examples together (summary, statement, the hash of the selection) is computed here from all of them.

Refused are parts of different runs, or of devices that make different noise, a missing part, and a part given twice
with different rows; the same one twice counts once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from certify.errors import InputError
from certify.report.verify import expected_statement, expected_summary
from certify.results import (
    DataRecord,
    Execution,
    Falsifier,
    Part,
    Report,
    SmoothingExample,
    SmoothingReport,
    dump_json,
    seal,
)

LEVELS = ("off", "quick", "full")
SHARED = ("schema", "tool", "model", "settings", "tables")


def merge_reports(reports: Sequence[Report]) -> SmoothingReport:
    """Return the report of the run whose parts these are.

    Raises:
        InputError: If they are not the parts of one run, complete and without contradiction; the message says which.
    """
    parts = [_checked(report) for report in reports]
    if not parts:
        raise InputError("expected the parts of a run, got none")
    by_number: dict[int, SmoothingReport] = {}
    for report in parts:
        _refuse_other_run(parts[0], report)
        _keep(by_number, report)
    whole = _part_of(parts[0])
    missing = sorted(set(range(1, whole.parts + 1)) - by_number.keys())
    if missing:
        raise InputError(f"expected all {whole.parts} parts, got none numbered {', '.join(map(str, missing))}")
    return _put_together([by_number[number] for number in sorted(by_number)], whole)


def _checked(report: Report) -> SmoothingReport:
    if not isinstance(report, SmoothingReport) or report.data is UNSET or report.data.part is UNSET:
        raise InputError("expected reports of `certify smooth --shard i/N`, got one of another kind or of a whole run")
    if report.gates or report.unsampled is not UNSET:
        raise InputError("expected parts without gates, got one that a gate has judged; run `certify smooth` for it")
    return report


def _part_of(report: SmoothingReport) -> Part:
    if report.data is UNSET or report.data.part is UNSET:
        raise InputError("expected a part of a run, got a whole one")
    return report.data.part


def _refuse_other_run(first: SmoothingReport, other: SmoothingReport) -> None:
    """Refuse a part of a run that differs in anything but which examples it holds."""
    for field in SHARED:
        one, two = getattr(first, field), getattr(other, field)
        if one != two:
            raise InputError(f"expected parts of one run, got two that differ in their {field}{_which(one, two)}")
    named = [report.execution.device_name for report in (first, other)]
    if first.tool.device_kind != "cpu" and named[0] != named[1]:  # each model of device makes noise of its own
        raise InputError(f"expected parts of one source of noise, got two from {named[0]!r:.60} and {named[1]!r:.60}")
    one, two = _part_of(first), _part_of(other)
    if (one.parts, one.of, one.sha256, _selection(first)) != (two.parts, two.of, two.sha256, _selection(other)):
        raise InputError("expected parts of one selection of examples, got two that differ in it")


def _which(one: object, two: object) -> str:
    """Return in which fields two structs differ, and how."""
    names = [name for name in getattr(one, "__struct_fields__", ()) if getattr(one, name) != getattr(two, name)]
    shown = [f"{name}: {getattr(one, name)!r:.60} and {getattr(two, name)!r:.60}" for name in names]
    return f" ({'; '.join(shown)})" if shown else ""


def _selection(report: SmoothingReport) -> str:
    return "" if report.data is UNSET else report.data.selection


def _keep(by_number: dict[int, SmoothingReport], report: SmoothingReport) -> None:
    number = _part_of(report).number
    known = by_number.setdefault(number, report)
    if _rows(known) != _rows(report):
        raise InputError(f"expected part {number} once, got it twice with different rows")


def _rows(report: SmoothingReport) -> list[SmoothingExample]:
    return [msgspec.structs.replace(example, seconds=0.0) for example in report.examples]


def _put_together(parts: Sequence[SmoothingReport], whole: Part) -> SmoothingReport:
    examples = tuple(sorted((e for report in parts for e in report.examples), key=lambda example: example.index))
    if len({example.index for example in examples}) != whole.of or len(examples) != whole.of:
        raise InputError(f"expected {whole.of} examples in all parts, got {len(examples)} or some of them twice")
    rows = [[example.id, example.label, example.hash] for example in examples]
    data = DataRecord(
        sha256=hashlib.sha256(dump_json(rows).encode()).hexdigest(),
        count=whole.of,
        selection=_selection(parts[0]),
        eight_bit=_eight_bit(parts),
    )
    if whole.sha256 not in (UNSET, data.sha256):
        raise InputError("expected parts of one selection of examples, got some that are not of it; run them again")
    merged = msgspec.structs.replace(
        parts[0], data=data, examples=examples, falsifier=_falsifier(parts), execution=_execution(parts)
    )
    merged = msgspec.structs.replace(merged, summary=expected_summary(merged), statement=expected_statement(merged))
    return seal(merged)


def _eight_bit(parts: Sequence[SmoothingReport]) -> bool | UnsetType:
    """Return whether every part is of 8-bit pixels; unset where one does not say."""
    said = [report.data.eight_bit for report in parts if report.data is not UNSET]
    return UNSET if UNSET in said else all(said)


def _falsifier(parts: Sequence[SmoothingReport]) -> Falsifier:
    """Return what was tried against all parts; where one was attacked less, that is the level of all."""
    tried = [report.falsifier for report in parts]
    least = min(tried, key=lambda one: LEVELS.index(one.level))
    if least.level == "off":
        return msgspec.structs.replace(least, found=sum(one.found for one in tried))
    words = "; ".join(f"part {number}: {one.tried}" for number, one in enumerate(tried, start=1))
    return Falsifier(level=least.level, tried=words, found=sum(one.found for one in tried))


def _execution(parts: Sequence[SmoothingReport]) -> Execution:
    """Return where the parts took place: the first one's places, the sum of the times, every earlier seed and run."""
    runs = [report.execution for report in parts]
    seeds = tuple(sorted({seed for run in runs for seed in run.earlier_seeds}))
    others = {words for run in runs if run.earlier_runs is not UNSET for words in run.earlier_runs}
    seconds = sum(run.seconds for run in runs)
    return msgspec.structs.replace(
        runs[0], seconds=seconds, earlier_seeds=seeds, earlier_runs=tuple(sorted(others)) or UNSET, shard=""
    )
