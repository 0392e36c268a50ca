"""A regression or segmentation report, checked against itself; without torch, without the network.

Of a regression follow from the settings: the charge on alpha, the ranks of the draws that are the ends, and with the
count of draws that are not numbers which ends must be absent. The values of the ends are order statistics of draws
that the report does not hold; only the digest binds them. Of a segmentation everything follows from its counts.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator

from certify.report.findings import Finding, compare, require
from certify.report.outputs import outputs_statement, summarise_outputs
from certify.report.rederive_data import check_order, check_selection
from certify.report.rederive_noise import SCALES, check_noise, expected_charge
from certify.results import (
    SCHEMA,
    OutputInterval,
    OutputsReport,
    Regression,
    RegressionExample,
    Segmentation,
    SegmentationExample,
    dump_json,
    report_digest,
)
from certify.stats import certified_by_holm, charged_alpha, quantile_ranks, radius_l2

HASH = re.compile(r"[0-9a-f]{64}")
NO_LABEL = -1


def check_outputs(report: OutputsReport) -> Iterator[Finding]:
    """Yield every contradiction found in a report.

    Raises:
        ValueError: If a setting or a count is out of the range of the statistics.
    """
    yield from compare("schema", SCHEMA, report.schema)
    yield from compare("digest", report_digest(report), report.digest)
    yield from _check_settings(report)
    yield from _check_data(report)
    yield from compare("statement", expected_statement(report), report.statement)
    yield from compare("summary", summarise_outputs(report.examples), report.summary)
    yield from compare("falsifier.found", 0, report.falsifier.found)
    alpha = charged_alpha(report.settings.alpha, report.tables.alpha_charged)
    for place, example in enumerate(report.examples):
        yield from _check_example(report, example, f"examples[{place}]", alpha)


def _check_settings(report: OutputsReport) -> Iterator[Finding]:
    settings, tables = report.settings, report.tables
    yield from check_noise(report)
    yield from compare("settings.noise", "gaussian", settings.noise)
    yield from compare("settings.procedure", "fixed", settings.procedure)
    yield from compare("settings.at", [], list(settings.at))
    charge = expected_charge(settings, tables.noise_law, report.model.input.size)
    yield from compare("tables.alpha_charged", charge, tables.alpha_charged)


def _check_data(report: OutputsReport) -> Iterator[Finding]:
    rows = [[example.id, NO_LABEL, example.hash] for example in report.examples]
    yield from compare("data.count", len(rows), report.data.count)
    yield from compare("data.sha256", hashlib.sha256(dump_json(rows).encode()).hexdigest(), report.data.sha256)
    yield from require(len({row[0] for row in rows}) == len(rows), "examples", "ids that differ", "equal ids")
    yield from check_order("examples", report.examples)
    yield from check_selection(report.settings, report.data, report.examples)


def expected_statement(report: OutputsReport) -> object:
    """Return the statement that a report's settings, network and number of examples imply."""
    return outputs_statement(
        settings=report.settings,
        model=report.model,
        tables=report.tables,
        shape=report.output_shape,
        examples=len(report.examples),
    )


def _check_example(
    report: OutputsReport, example: RegressionExample | SegmentationExample, where: str, alpha: float
) -> Iterator[Finding]:
    settings = report.settings
    yield from require(bool(HASH.fullmatch(example.hash)), f"{where}.hash", "64 hex digits", example.hash)
    drawn = {"n": settings.n, "n0": settings.n0, "seed": settings.seed}
    for name, value in drawn.items():
        yield from compare(f"{where}.{name}", value, getattr(example, name))
    task = settings.task
    if isinstance(example, RegressionExample) and isinstance(task, Regression):
        yield from _check_regression(report, task, example, where, alpha)
    elif isinstance(example, SegmentationExample) and isinstance(task, Segmentation):
        yield from _check_segmentation(report, task, example, where, alpha)
    else:
        yield Finding(f"{where}.kind", "that of the task", type(example).__name__)


def _check_regression(
    report: OutputsReport, task: Regression, example: RegressionExample, where: str, alpha: float
) -> Iterator[Finding]:
    yield from compare(f"{where}.radius", task.radius, example.radius)
    outputs = math.prod(report.output_shape)
    yield from compare(f"{where}.outputs", outputs, len(example.outputs))
    scale = SCALES[report.tables.noise_law](report.settings.sigma)
    ratio, part = math.nextafter(task.radius / scale, math.inf), math.nextafter(alpha / outputs, 0.0)
    ranks = quantile_ranks(example.n, task.quantile, ratio, part)
    for place, one in enumerate(example.outputs):
        yield from _check_interval(one, ranks, example.n, f"{where}.outputs[{place}]")


def _check_interval(one: OutputInterval, ranks: tuple[int | None, int | None], n: int, where: str) -> Iterator[Finding]:
    yield from require(0 <= one.invalid <= n, f"{where}.invalid", f"a count up to {n}", one.invalid)
    unbounded = (ranks[0] is None or one.invalid >= ranks[0], ranks[1] is None or n - one.invalid < ranks[1])
    for name, end, absent in zip(("lower", "upper"), (one.lower, one.upper), unbounded, strict=True):
        if absent:
            yield from compare(f"{where}.{name}", None, end)
    ends = [end for end in (one.lower, one.estimate, one.upper) if end is not None]
    yield from require(ends == sorted(ends), where, "lower <= estimate <= upper", ends)


def _check_segmentation(
    report: OutputsReport, task: Segmentation, example: SegmentationExample, where: str, alpha: float
) -> Iterator[Finding]:
    classes, pixels = report.output_shape[0], math.prod(report.output_shape[1:])
    for name in ("selected", "agreements", "predicted"):
        yield from compare(f"{where}.{name}", pixels, len(getattr(example, name)))
    yield from require(all(0 <= c <= classes for c in example.selected), f"{where}.selected", "classes", "others")
    invalid = [votes for c, votes in zip(example.selected, example.agreements, strict=True) if c == classes]
    yield from require(not any(invalid), f"{where}.agreements", "none for pixels of invalid outputs", invalid)
    kept = certified_by_holm(example.agreements, example.n, task.threshold, alpha).tolist()
    predicted = tuple(c if keep else None for c, keep in zip(example.selected, kept, strict=True))
    yield from compare(f"{where}.predicted", predicted, example.predicted)
    failure = 1.0 - task.threshold
    radius = radius_l2(SCALES[report.tables.noise_law](report.settings.sigma), failure, failure)
    yield from compare(f"{where}.radius", radius if any(kept) else 0.0, example.radius)
