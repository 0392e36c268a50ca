"""Everything in a report of readings that follows from its own record, computed again; without torch or the model.

Losses, slopes, eigenvalues and the values of probes rest on the weights, and nothing but the model can check them. What
follows from them is found here a second time, from its definition: the hash of the batch, every mean, the standard
errors from the stored samples, the bound of noise on the last weight, the table with its kinds, the verdicts, and the
relations between readings and certificates (`certify.report.curvature_checks`). Besides, for p = softmax and the loss
l = -ln p_y of one example:

- (1 - p_y)^2 K / (K - 1) <= ||p - e_y||^2 <= 2 (1 - p_y)^2, and the gradient of the last weight has ||p - e_y|| ||a||;
- C = diag(p) - p p^T is positive of rank at most K - 1: its trace, 1 - ||p||^2 <= 1 - 1/K, is at least its largest
  eigenvalue and at most K - 1 times it;
- a matrix of K rows has a Frobenius norm between its spectral norm and sqrt(K) times that.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise

from msgspec import UNSET

from certify.policy.diagnostics import asked_again, judge_diagnostic
from certify.report.certificates_beside import SPLITTING
from certify.report.curvature_checks import NOISE, SLACK, contradictions, count_relations
from certify.report.curvature_summary import curvature_statement
from certify.report.curvature_table import reading_rows
from certify.report.findings import Finding, compare, require
from certify.report.rederive_data import check_order, check_selection
from certify.results import (
    SCHEMA,
    CertificatesBeside,
    CurvatureExample,
    CurvatureReport,
    NetworkReading,
    Ritz,
    SampledMean,
    Spread,
    dump_json,
    report_digest,
)

HASH = re.compile(r"[0-9a-f]{64}")
OF_LAST_LAYER = ("activation_square", "last_layer_largest", "last_layer_trace", "last_layer_gradient")
SLOPES = ("input_gradient", "jacobian_spectral", "jacobian_frobenius")


def check_curvature(report: CurvatureReport) -> Iterator[Finding]:
    """Yield every contradiction found in a report of readings."""
    yield from compare("schema", SCHEMA, report.schema)
    yield from compare("digest", report_digest(report), report.digest)
    yield from _check_data(report)
    yield from compare("statement", curvature_statement(model=report.model, data=report.data), report.statement)
    for place, example in enumerate(report.examples):
        yield from _check_example(report, example, f"examples[{place}]")
    yield from _check_summary(report)
    yield from _check_last_layer(report)
    yield from _check_network(report)
    for place, beside in enumerate(report.beside):
        yield from _check_beside(report, beside, f"beside[{place}]")
    yield from contradictions(report)
    yield from compare("consistency", count_relations(report), report.consistency)
    yield from compare("table", reading_rows(report), report.table)
    expected = tuple(judge_diagnostic(report, *asked_again(row)) for row in report.gates)
    yield from compare("gates", expected, report.gates)


def _check_data(report: CurvatureReport) -> Iterator[Finding]:
    rows = [[example.id, example.label, example.hash] for example in report.examples]
    for name, value in (("model.sha256", report.model.sha256), ("digest", report.digest)):
        yield from require(bool(HASH.fullmatch(value)), name, "64 hex digits", value)
    yield from require(bool(rows), "examples", "at least one", rows)
    yield from compare("data.count", len(rows), report.data.count)
    yield from compare("data.sha256", hashlib.sha256(dump_json(rows).encode()).hexdigest(), report.data.sha256)
    yield from require(len({row[0] for row in rows}) == len(rows), "examples", "ids that differ", "equal ids")
    yield from check_order("examples", report.examples)
    yield from check_selection(report.settings, report.data, report.examples)
    yield from require(report.data.part is UNSET, "data.part", "absent, as readings are of a whole batch", "one")


def _check_example(report: CurvatureReport, example: CurvatureExample, where: str) -> Iterator[Finding]:
    classes = len(report.model.classes)
    yield from require(bool(HASH.fullmatch(example.hash)), f"{where}.hash", "64 hex digits", example.hash)
    for name in ("label", "predicted"):
        value = getattr(example, name)
        yield from require(0 <= value < classes, f"{where}.{name}", f"one of {classes} classes", value)
    yield from compare(f"{where}.correct", example.predicted == example.label, example.correct)
    for name in ("loss", *SLOPES, *OF_LAST_LAYER, "flip_distance"):
        value = getattr(example, name)
        yield from require(value is None or value >= 0.0, f"{where}.{name}", "a number of at least 0", value)
    absent = {getattr(example, name) is None for name in OF_LAST_LAYER}
    yield from compare(f"{where}.activation_square", {report.last_layer is None} == absent, True)
    spectral, frobenius = example.jacobian_spectral, example.jacobian_frobenius
    yield from _between(f"{where}.jacobian_frobenius", spectral, frobenius, math.sqrt(classes) * spectral)
    yield from _check_closed_forms(example, classes, where)


def _check_closed_forms(example: CurvatureExample, classes: int, where: str) -> Iterator[Finding]:
    square, largest = example.activation_square, example.last_layer_largest
    trace, gradient = example.last_layer_trace, example.last_layer_gradient
    if square is None or largest is None or trace is None or gradient is None:
        return
    size = math.sqrt(max(square, 0.0))
    wrong = -math.expm1(-example.loss) * size  # (1 - p_y) ||a||, of a loss that is rounded beside 1
    least = wrong * math.sqrt(classes / max(classes - 1, 1))
    yield from _between(f"{where}.last_layer_gradient", least, gradient, math.sqrt(2.0) * wrong, unit=size)
    most = min((classes - 1) * largest, square * (1.0 - 1.0 / classes))
    yield from _between(f"{where}.last_layer_trace", largest, trace, most)


def _between(where: str, least: float, value: float, most: float, *, unit: float = 1.0) -> Iterator[Finding]:
    noise = NOISE * max(1.0, unit)
    holds = least <= SLACK * value + noise and value <= SLACK * most + noise
    yield from require(holds, where, f"from {least!r} to {most!r}", value)


def _mean(values: Sequence[float]) -> float:
    total = Fraction(0)
    for value in values:
        total += Fraction(value)
    return float(total / len(values)) if values else 0.0


def _check_summary(report: CurvatureReport) -> Iterator[Finding]:
    rows, found = report.examples, report.summary
    yield from compare("summary.examples", len(rows), found.examples)
    yield from compare("summary.clean_accuracy", _share(rows), found.clean_accuracy)
    yield from compare("summary.loss", _mean([row.loss for row in rows]), found.loss)
    for name in SLOPES:
        values = [getattr(row, name) for row in rows]
        yield from _check_spread(f"summary.{name}", values, getattr(found, name))
    flips = [row.flip_distance for row in rows if row.flip_distance is not None]
    yield from compare("summary.flipped", len(flips), found.flipped)
    yield from require((found.flip_distance is None) == (not flips), "summary.flip_distance", "one iff flipped", flips)
    if found.flip_distance is not None:
        yield from _check_spread("summary.flip_distance", flips, found.flip_distance)


def _share(rows: Sequence[CurvatureExample]) -> float:
    return float(Fraction(sum(row.predicted == row.label for row in rows), max(len(rows), 1)))


def _check_spread(where: str, values: Sequence[float], found: Spread) -> Iterator[Finding]:
    ordered = sorted(values) or [0.0]
    yield from compare(f"{where}.smallest", ordered[0], found.smallest)
    yield from compare(f"{where}.mean", _mean(ordered), found.mean)
    yield from compare(f"{where}.largest", ordered[-1], found.largest)


def _check_last_layer(report: CurvatureReport) -> Iterator[Finding]:
    found, rows = report.last_layer, report.examples
    missing = isinstance(report.last_layer_reason, str)
    yield from require(missing == (found is None), "last_layer_reason", "one iff there are no readings", missing)
    if found is None:
        return
    yield from compare("last_layer.classes", len(report.model.classes), found.classes)
    yield from require(found.features >= 1, "last_layer.features", "at least 1", found.features)
    yield from compare("last_layer.largest_mean", _mean(_column(rows, "last_layer_largest")), found.largest_mean)
    yield from compare("last_layer.trace", _mean(_column(rows, "last_layer_trace")), found.trace)
    noise = sum((Fraction(square) for square in _column(rows, "activation_square")), Fraction(0))
    noise *= Fraction(report.settings.sigma) * Fraction(report.settings.sigma) / max(len(rows), 1) / 2
    yield from compare("last_layer.decay_bound", float(noise), found.decay_bound)
    yield from _check_ritz("last_layer.largest", found.largest, report, found.classes * found.features)
    yield from _between("last_layer.trace", found.largest.value, found.trace, math.inf)


def _column(rows: Sequence[CurvatureExample], name: str) -> list[float]:
    return [getattr(row, name) or 0.0 for row in rows]


def _check_ritz(where: str, found: Ritz, report: CurvatureReport, size: int) -> Iterator[Finding]:
    most = min(report.settings.steps, size)
    yield from require(1 <= found.steps <= most, f"{where}.steps", f"from 1 to {most}", found.steps)
    yield from require(found.residual >= 0.0, f"{where}.residual", "at least 0", found.residual)


def _check_network(report: CurvatureReport) -> Iterator[Finding]:
    found = report.network
    missing = isinstance(report.network_reason, str)
    yield from require(missing == (found is None), "network_reason", "one iff there are no readings", missing)
    if found is not None:
        yield from _check_estimates(report, found)


def _check_estimates(report: CurvatureReport, found: NetworkReading) -> Iterator[Finding]:
    size, settings = found.variables, report.settings
    most = report.model.parameters
    yield from require(1 <= size <= most, "network.variables", f"from 1 to {most}", size)
    for name in ("largest", "steepest"):
        yield from _check_ritz(f"network.{name}", getattr(found, name), report, size)
    yield from _between("network.steepest", found.largest.value, abs(found.steepest.value), math.inf)
    each = min(settings.probes // 3, size)
    yield from _check_sampled("network.trace", found.trace, settings.probes, known=0.0)
    yield from _check_sampled("network.trace_plus", found.trace_plus, each, known=None)
    yield from _check_sampled("network.loss_gap", found.loss_gap, settings.pairs, known=0.0)


def _check_sampled(where: str, found: SampledMean, count: int, *, known: float | None) -> Iterator[Finding]:
    """Check mean and standard error by the raw moments: n sum x^2 - (sum x)^2 is n (n - 1) times the variance."""
    n = len(found.samples)
    yield from compare(f"{where}.samples", count, n)
    if known is not None:
        yield from compare(f"{where}.known", known, found.known)
    if n < 2:
        return
    first = sum(map(Fraction, found.samples), Fraction(0))
    second = sum((Fraction(x) ** 2 for x in found.samples), Fraction(0))
    yield from compare(f"{where}.value", float(Fraction(found.known) + first / n), found.value)
    error = math.sqrt((n * second - first**2) / (n * n * (n - 1)))
    yield from compare(f"{where}.standard_error", error, found.standard_error)


def _check_beside(report: CurvatureReport, beside: CertificatesBeside, where: str) -> Iterator[Finding]:
    yield from require(bool(HASH.fullmatch(beside.digest)), f"{where}.digest", "64 hex digits", beside.digest)
    proved, split = beside.certificates == "lipschitz", beside.object == SPLITTING
    never = beside.failure_probability == 0.0
    yield from require(never == (proved or split), f"{where}.failure_probability", "0 iff nothing is random", 0)
    fits = not split or (beside.norm, beside.domain) == ("l1", "grid")
    yield from require(fits, f"{where}.domain", "the grid, in l1, of a splitting vote", beside.domain)
    yield from require(
        (beside.object == "base network") == proved, f"{where}.object", "that of its kind", beside.object
    )
    yield from require((beside.sigma is UNSET) == proved, f"{where}.sigma", "one iff smoothed", beside.sigma)
    for name in ("upper", "lower", "method", "layers"):
        given = getattr(beside, name) is not UNSET
        yield from require(given == proved, f"{where}.{name}", "one iff of a network", given)
    yield from require(proved or not beside.matched, f"{where}.matched", "none of smoothed certificates", "some")
    yield from compare(f"{where}.falsifier.found", 0, beside.falsifier.found)
    places = [found.index for found in beside.matched]
    known = {example.index for example in report.examples}
    holds = places == sorted(set(places)) and set(places) <= known
    yield from require(holds, f"{where}.matched", "examples of the batch, each once, in order", places[:5])
    for found in beside.matched:
        yield from require(found.radius > 0.0, f"{where}.matched", "positive radii", found.radius)
    yield from _check_shares(beside, f"{where}.certified_accuracy")
    for layer in beside.layers if isinstance(beside.layers, tuple) else ():
        low, high = layer.lower or 0.0, math.inf if layer.upper is None else layer.upper
        yield from require(0.0 <= low <= high, f"{where}.layers", "0 <= lower <= upper", (layer.lower, layer.upper))


def _check_shares(beside: CertificatesBeside, where: str) -> Iterator[Finding]:
    """Certified accuracies are shares of all examples between their limits, and fall as the radius rises."""
    shares, n = beside.certified_accuracy, beside.examples
    for row in shares:
        counted = n < 1 or round(row.accuracy * n) / n == row.accuracy
        between = 0.0 <= row.lower <= row.accuracy <= row.upper <= 1.0 and 0.5 <= row.confidence < 1.0
        yield from require(counted and between, where, f"a share of {n} between its limits", row.accuracy)
    for one, two in pairwise(shares):
        falls = one.radius < two.radius and one.accuracy >= two.accuracy
        yield from require(falls, where, "shares that fall as radii rise", (one.radius, two.radius))
