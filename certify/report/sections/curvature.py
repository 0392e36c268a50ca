"""Readings of curvature: the one table with its kinds first, then what it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from msgspec import UNSET, UnsetType

from certify.report.curvature_words import (
    KINDS_NOTE,
    describe_chance,
    describe_curvature,
    describe_curvature_settings,
    describe_number,
    describe_title,
)
from certify.report.figures import estimate_figure, lower_figure, upper_figure
from certify.report.outline import Block, Facts, Outline, Quote, Section, Table, Text, Verdicts, table_of
from certify.report.promise_words import describe_failure
from certify.report.sections.examples import OPEN_UP_TO
from certify.report.sections.record import describe_tool
from certify.report.sections.verdicts import verdict_row
from certify.report.wording import (
    VERDICT_ORDER,
    describe_data,
    describe_falsifier,
    describe_shape,
    describe_space,
)
from certify.results import CertificatesBeside, CurvatureExample, CurvatureReport, LayerRow

TITLES = ("object", "quantity", "#value", "kind", "domain", "fails")
EXAMPLES = (
    "#index",
    "example",
    "label",
    "read",
    "#loss",
    "#squared activation",
    "#last-layer eigenvalue",
    "#last-layer trace",
    "#input gradient",
    "#Jacobian, spectral",
    "#Jacobian, Frobenius",
    "#nearest flip, l2",
)
CHECK = (
    "To check: `certify verify report.json` derives every mean, standard error, bound, relation and verdict again from "
    "the JSON report, without the model and without PyTorch. Losses, slopes, eigenvalues and samples rest on the "
    "weights: the same command on the same model and data makes them again."
)


def curvature_outline(report: CurvatureReport) -> Outline:
    """Return readings as an outline."""
    return Outline(describe_title(report), describe_curvature(report), tuple(_sections(report)))


def _sections(report: CurvatureReport) -> Iterator[Section]:
    if report.gates:
        rows = sorted(report.gates, key=lambda gate: VERDICT_ORDER.index(gate.verdict))
        yield Section("verdicts", "Verdicts on diagnostics", (Verdicts(tuple(map(verdict_row, rows))),))
    yield Section("readings", "Readings", (_table(report), Text(KINDS_NOTE, quiet=True)))
    statement = report.statement
    facts = (("object", statement.object), ("arithmetic", statement.arithmetic), ("domain", statement.domain))
    yield Section("statement", "What this is", (Quote(statement.text), Facts(facts)))
    for number, beside in enumerate(report.beside, start=1):
        yield Section(f"beside-{number}", f"Beside: {beside.object}", tuple(_beside(beside)))
    yield Section("consistency", "Held against each other", (_relations(report),))
    yield _examples(report)
    yield Section("record", "Record", (Facts(tuple(_record(report))), Text(CHECK)))


def _table(report: CurvatureReport) -> Table:
    rows = [
        (row.object, row.quantity, describe_number(row), row.kind, row.domain, describe_chance(row))
        for row in report.table
    ]
    return table_of("Readings and certificates, each with its kind", TITLES, rows, count=len(rows))


def _beside(beside: CertificatesBeside) -> Iterator[Block]:
    yield Quote(beside.text)
    facts = [
        ("arithmetic", beside.arithmetic),
        ("domain", beside.domain),
        ("fails", describe_failure(beside.failure_probability)),
        ("falsifier", describe_falsifier(beside.falsifier)),
        ("report", beside.digest),
    ]
    if beside.data_sha256 is not UNSET:
        facts.append(("data", f"sha256 {beside.data_sha256}"))
    if beside.certificates == "lipschitz":
        facts.append(("matched", f"{len(beside.matched):,} certified examples of this batch, by their hash"))
    yield Facts(tuple(facts))
    if not isinstance(beside.layers, UnsetType) and beside.layers:
        yield _layers(beside.layers, beside.norm)


def _layers(layers: Sequence[LayerRow], norm: str) -> Table:
    titles = ("layer", "kind", "shape", "#lower", "#upper")
    rows = [
        (
            layer.name,
            layer.kind,
            describe_shape(layer.shape),
            "" if layer.lower is None else lower_figure(layer.lower),
            "unbounded" if layer.upper is None else upper_figure(layer.upper),
        )
        for layer in layers
    ]
    return table_of(f"Proved {norm} brackets of the layers", titles, rows, count=len(rows), folded=True)


def _relations(report: CurvatureReport) -> Table:
    rows = [(row.relation, f"{row.compared:,}" if row.compared else "nothing to compare") for row in report.consistency]
    return table_of("Relations that held, and in how many places", ("relation", "#places"), rows, count=len(rows))


def _examples(report: CurvatureReport) -> Section:
    total = len(report.examples)
    rows = (_cells(report, example) for example in report.examples)
    table = table_of("Examples", EXAMPLES, rows, count=total, folded=total > OPEN_UP_TO)
    return Section("examples", f"Examples ({total:,})", (replace(table, sortable=True),))


def _cells(report: CurvatureReport, example: CurvatureExample) -> tuple[str, ...]:
    numbers = (
        example.loss,
        example.activation_square,
        example.last_layer_largest,
        example.last_layer_trace,
        example.input_gradient,
        example.jacobian_spectral,
        example.jacobian_frobenius,
        example.flip_distance,
    )
    names = (_name(report, example.label), _name(report, example.predicted))
    figures = ("" if number is None else estimate_figure(number) for number in numbers)
    return (str(example.index), example.id, *names, *figures)


def _name(report: CurvatureReport, label: int) -> str:
    classes = report.model.classes
    return classes[label] if 0 <= label < len(classes) else str(label)


def _record(report: CurvatureReport) -> Iterator[tuple[str, str]]:
    model, data = report.model, report.data
    yield "model", f"sha256 {model.sha256}, {model.source}, {model.parameters:,} parameters"
    yield "input", f"{describe_space(model.input)}; {len(model.classes):,} classes"
    yield "batch", f"sha256 {data.sha256}, {describe_data(data)}"
    yield "settings", describe_curvature_settings(report.settings)
    yield "tool", describe_tool(report.tool)
    yield "digest", report.digest or "none"
