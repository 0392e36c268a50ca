"""Certificates that the stages computed themselves agree with what the verification derives from the record."""

import numpy as np
import pytest
import torch
from msgspec import UNSET
from msgspec.structs import replace

from certify.bounds import analyse, certify_example
from certify.examples import Dataset, Example
from certify.graph import Graph, Operation
from certify.report import FORMATS, smoothing_statement, summarise_smoothing, verify_report
from certify.results import Counts, LipschitzSettings, SmoothingExample, SmoothingSettings, seal
from certify.smoothing.laws import make_law
from certify.smoothing.procedure import make_tables, plan_procedure
from certify.stats import BOUNDS
from tests.report.sample_reports import (
    data_record,
    lipschitz_report,
    model_record,
    sha256,
    smoothing_report,
)


def small_network(last_layer: torch.Tensor, *, softmax: bool) -> Graph:
    generator = torch.Generator().manual_seed(0)
    operations = [
        Operation(name="x", kind="input"),
        Operation(name="h", kind="linear", inputs=("x",), weights={"weight": "W1"}),
        Operation(name="a", kind="relu", inputs=("h",)),
        Operation(name="y", kind="linear", inputs=("a",), weights={"weight": "W2"}),
    ]
    if softmax:
        operations.append(Operation(name="p", kind="softmax", inputs=("y",), attributes={"dim": 1}))
    weights = {"W1": torch.randn(6, 4, generator=generator, dtype=torch.float64), "W2": last_layer.double()}
    return Graph(tuple(operations), operations[-1].name, (4,), weights)


LAST_LAYERS = {
    "plain": torch.randn(3, 6, generator=torch.Generator().manual_seed(1)),
    "equal rows": torch.ones(3, 6),  # every difference of logits is 0: no margin
    "zero": torch.zeros(3, 6),
}


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("arithmetic", ["exact", "float64", "float32"])
@pytest.mark.parametrize("name", LAST_LAYERS)
def test_computed_lipschitz_certificates_are_consistent(norm, arithmetic, name):
    settings = LipschitzSettings(norm=norm, arithmetic=arithmetic)
    check_network(small_network(LAST_LAYERS[name], softmax=False), settings)


def test_a_network_that_ends_in_softmax_is_consistent():
    check_network(small_network(LAST_LAYERS["plain"], softmax=True), LipschitzSettings())


def check_network(graph: Graph, settings: LipschitzSettings) -> None:
    analysis = analyse(graph, settings)
    rng = np.random.default_rng(0)
    data = Dataset(
        tuple(Example(i, f"row {i}", i % 3, rng.standard_normal(4)) for i in range(12)), total=12, selection="all"
    )
    rows = [certify_example(analysis, example, settings) for example in data]
    report = lipschitz_report(rows, network=analysis.network, layers=analysis.layers)
    statement = replace(report.statement)
    if settings.arithmetic != "exact":
        from certify.report import lipschitz_statement

        statement = lipschitz_statement(settings=settings, model=report.model, network=analysis.network, examples=rows)
    report = seal(replace(report, settings=settings, statement=statement))
    assert report.data.sha256 == data.sha256
    assert verify_report(report) == ()
    assert all(view(report) for view in FORMATS.values())


@pytest.mark.parametrize("eight_bit", [True, False])
@pytest.mark.parametrize("procedure", ["planned", "fixed"])
@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
def test_the_procedure_and_its_verification_agree_on_every_count(eight_bit, procedure, bound, noise):
    settings = SmoothingSettings(sigma=0.37, n=1500, n0=20, procedure=procedure, bound=bound, price=1e-4, noise=noise)
    model, law = model_record(), make_law(settings, eight_bit=eight_bit)
    run = plan_procedure(settings, classes=3, law=law, dimension=model.input.size)
    tables = make_tables(run, law)
    rng = np.random.default_rng(1)
    rows = tuple(example_of(run, settings, rng, index) for index in range(40))
    assert {row.predicted is None for row in rows} == {True, False}
    report = replace(
        smoothing_report([], settings=settings, integer_noise=eight_bit),
        tables=tables,
        examples=rows,
        data=replace(data_record(rows), eight_bit=eight_bit),
        statement=smoothing_statement(settings=settings, model=model, tables=tables, examples=len(rows)),
        summary=summarise_smoothing(rows, settings),
    )
    assert verify_report(seal(report)) == ()
    assert verify_report(seal(replace(report, data=data_record(rows)))) == ()  # as before there was a word on it
    otherwise = seal(replace(report, data=replace(report.data, eight_bit=not eight_bit)))
    assert [finding.where for finding in verify_report(otherwise)] == ["tables.noise_law"]


def example_of(run, settings, rng, index):
    law = rng.dirichlet([3.0, 1.0, 0.5, 0.5])
    selection = tuple(map(int, rng.multinomial(settings.n0, law)))
    draws = run.draws_after(selection)
    estimation = tuple(map(int, rng.multinomial(draws, law)))
    name, content = f"row {index}", sha256(str(index))
    uniform = run.uniform_of(name, content)
    certificate = run.certify(selection, estimation, uniform=uniform)
    return SmoothingExample(
        index=index,
        id=name,
        hash=content,
        label=0,
        predicted=certificate.predicted,
        correct=certificate.predicted == 0,
        radius=certificate.radius,
        norm=settings.norm,
        counts=Counts(selection=selection, estimation=estimation, n0=settings.n0, n=draws, seed=settings.seed),
        procedure=settings.procedure,
        seconds=0.0,
        uniform=UNSET if uniform is None else uniform,
        reason=certificate.reason or UNSET,
    )
