"""Reports of deterministic splitting: what they promise, that every view says so, and that edits are found."""

import json

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from certify.errors import InputError
from certify.examples import Dataset, Example
from certify.policy import evaluate_gates, parse_gates
from certify.report import FORMATS, compare_reports, recertify, smoothing_statement, summarise_smoothing, verify_report
from certify.report.curve import curve_of
from certify.report.rederive_splitting import shifts_of
from certify.report.schema import report_schema
from certify.results import (
    Counts,
    Execution,
    SmoothingExample,
    SmoothingSettings,
    report_from_json,
    report_to_json,
    seal,
)
from certify.smoothing import make_law, make_tables, plan_procedure
from certify.stats.splitting import split_radius, split_shifts
from tests.report.edits import edited
from tests.report.sample_reports import data_record, model_record, sha256, smoothing_report

SETTINGS = SmoothingSettings(sigma=0.25, noise="split")
SHARES = ([0.9, 0.05, 0.03, 0.02], [0.4, 0.35, 0.2, 0.05], [0.1, 0.1, 0.1, 0.7], [1.0, 0.0, 0.0, 0.0])


def example_of(settings, index, rng):
    votes = tuple(map(int, rng.multinomial(settings.n, SHARES[index % 4])))
    if index == 5:
        votes = (100, 100, settings.n - 200, 0)
    law = make_law(settings, eight_bit=True)
    found = plan_procedure(settings, classes=3, law=law, dimension=4).certify((0, 0, 0, 0), votes)
    return SmoothingExample(
        index=index,
        id=f"row {index}",
        hash=sha256(str(index)),
        label=0,
        predicted=found.predicted,
        correct=found.predicted == 0,
        radius=found.radius,
        norm="l1",
        counts=Counts(selection=(0, 0, 0, 0), estimation=votes, n0=0, n=settings.n, seed=settings.seed),
        procedure="fixed",
        seconds=0.0,
        reason=found.reason or msgspec.UNSET,
    )


def split_report(settings=SETTINGS, count=24, seed=1):
    rng = np.random.default_rng(seed)
    rows = tuple(example_of(settings, index, rng) for index in range(count))
    law, model = make_law(settings, eight_bit=True), model_record()
    tables = make_tables(plan_procedure(settings, classes=3, law=law, dimension=model.input.size), law)
    return seal(
        replace(
            smoothing_report([], settings=settings),
            tables=tables,
            examples=rows,
            data=replace(data_record(rows), eight_bit=True),
            statement=smoothing_statement(settings=settings, model=model, tables=tables, examples=count),
            summary=summarise_smoothing(rows, settings),
            execution=Execution(model_path="model.safetensors"),
        )
    )


REPORT = split_report()


@pytest.mark.parametrize("sigma", [0.0012, 0.01, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("seed", [0, 7])
def test_a_report_is_consistent_in_every_view(sigma, seed):
    report = split_report(SmoothingSettings(sigma=sigma, noise="split", seed=seed), count=5)
    assert verify_report(report) == ()
    assert verify_report(report_from_json(report_to_json(report), name="report")) == ()
    assert all(view(report) for view in FORMATS.values())


def test_nothing_in_it_speaks_of_chance():
    statement, texts = REPORT.statement, {name: view(REPORT) for name, view in FORMATS.items() if name != "json"}
    assert (statement.failure_probability, statement.object, statement.domain) == (0.0, "smoothed", "grid")
    assert "without exception" in statement.text
    assert "8-bit grid point" in statement.text
    for text in texts.values():
        assert "probabilistic" not in text
        assert "alpha" not in text
        assert "Philox" not in text
    assert all("deterministic" in texts[name] for name in ("terminal", "markdown", "html"))
    curve = curve_of(REPORT)
    assert curve is not None
    assert not curve.chance


def test_runs_with_other_offsets_void_no_certificate():
    """Whoever chooses offsets by these examples has true certificates, and shares that say nothing of others."""
    chosen = replace(REPORT, execution=Execution(earlier_seeds=(1, 2)))
    for name in ("terminal", "markdown", "html"):
        text = " ".join(FORMATS[name](chosen).split())
        assert "voids limits of the population" in text
        assert "voids alpha" not in text


def test_limits_of_the_population_charge_nothing():
    charged = summarise_smoothing(REPORT.examples, SmoothingSettings(sigma=0.25, noise="uniform"))
    for mine, theirs in zip(REPORT.summary.certified_accuracy, charged.certified_accuracy, strict=True):
        assert mine.lower >= theirs.lower
    assert any(
        mine.lower > theirs.lower
        for mine, theirs in zip(REPORT.summary.certified_accuracy, charged.certified_accuracy, strict=True)
    )


def plain():
    return json.loads(report_to_json(REPORT))


EDITS = [
    ("examples[0].counts.estimation[0]", lambda v: v + 1),
    ("examples[0].counts.estimation[0]", lambda v: v - 1),
    ("examples[0].counts.selection[0]", lambda v: v + 1),
    ("examples[0].counts.n", lambda v: v + 1),
    ("examples[0].counts.n0", lambda v: v + 1),
    ("examples[0].radius", lambda v: np.nextafter(v, 1.0)),
    ("examples[0].radius", lambda v: v + 1 / 510),
    ("examples[5].predicted", lambda v: 0),
    ("examples[0].norm", lambda v: "l2"),
    ("examples[0].procedure", lambda v: "planned"),
    ("settings.sigma", lambda v: 0.26),
    ("settings.n", lambda v: v + 1),
    ("settings.n0", lambda v: 128),
    ("settings.alpha", lambda v: 0.001),
    ("settings.seed", lambda v: v + 1),
    ("settings.price", lambda v: 1e-4),
    ("settings.bound", lambda v: "cpm"),
    ("settings.float_noise", lambda v: True),
    ("settings.noise", lambda v: "uniform"),
    ("data.eight_bit", lambda v: False),
    ("tables.noise", lambda v: v.replace("221", "222")),
    ("tables.noise_law", lambda v: "uniform-255"),
    ("tables.alpha_charged", lambda v: 1e-9),
    ("statement.failure_probability", lambda v: 0.001),
    ("statement.text", lambda v: v.replace("sha256 ", "sha256 0", 1)),
    ("statement.domain", lambda v: "real ball"),
    ("summary.certified_accuracy[2].lower", lambda v: v + 0.01),
]


@pytest.mark.parametrize("path,change", EDITS)
def test_an_edit_is_found_even_when_it_is_sealed_again(path, change):
    try:
        report = report_from_json(json.dumps(edited(plain(), path, change)), name="report")
    except InputError:
        return
    assert verify_report(seal(replace(report, digest=""))), path


def test_votes_that_do_not_add_up_to_all_shifts_are_found():
    """A class that gains votes with its radius: everything else consistent, but one shift too many."""
    row = REPORT.examples[3]
    votes = (row.counts.estimation[0] + 1, *row.counts.estimation[1:])
    larger = replace(row, radius=222 / 510, counts=replace(row.counts, estimation=votes, n=222))
    rows = (*REPORT.examples[:3], larger, *REPORT.examples[4:])
    forged = seal(replace(REPORT, examples=rows, summary=summarise_smoothing(rows, SETTINGS), digest=""))
    assert "examples[3].counts.n" in {finding.where for finding in verify_report(forged)}


@pytest.mark.parametrize("shifts", [220, 222])
def test_another_number_of_shifts_is_found_where_all_else_agrees(shifts):
    """A run of 222 shifts at this sigma, with the votes, words and sums of 222: what it says follows from itself."""
    settings = replace(SETTINGS, n=shifts)
    votes = (shifts, 0, 0, 0)
    rows = tuple(
        replace(
            row,
            radius=split_radius(shifts),
            predicted=0,
            correct=True,
            counts=replace(row.counts, estimation=votes, n=shifts),
        )
        for row in REPORT.examples[3:4]
    )
    tables = replace(REPORT.tables, noise=REPORT.tables.noise.replace("221", str(shifts)))
    forged = replace(
        REPORT,
        settings=settings,
        tables=tables,
        examples=rows,
        data=replace(data_record(rows), eight_bit=True, selection=""),
        statement=smoothing_statement(settings=settings, model=REPORT.model, tables=tables, examples=1),
        summary=summarise_smoothing(rows, settings),
    )
    assert [finding.where for finding in verify_report(seal(forged))] == ["settings.n"]


def test_every_view_that_names_points_names_those_of_the_grid():
    other = split_report(SmoothingSettings(sigma=0.25, noise="split", seed=4))
    assert "8-bit grid point" in FORMATS["card"](REPORT)
    found = compare_reports(REPORT, other)
    assert "8-bit grid point" in found.statement.text
    assert found.statement.domain == "grid"


def test_the_votes_shown_are_those_for_the_certified_class():
    """Without a pilot the selected class is the one with the most votes: here not the first."""
    row = REPORT.examples[0]
    votes = (1, 220, 0, 0)
    other = replace(
        row, predicted=1, correct=False, radius=split_radius(219), counts=replace(row.counts, estimation=votes)
    )
    assert other.counts.selected == 1
    report = replace(REPORT, examples=(other,))
    assert "220" in FORMATS["html"](report)


def test_the_number_of_shifts_is_derived_twice():
    for k in range(1, 400):
        sigma = k / 137
        assert shifts_of(sigma) == split_shifts(sigma)


def test_gates_are_judged_without_chance():
    tables = [
        {"name": "l1", "metric": "certified_accuracy", "norm": "l1", "radius": 0.1, "min": 0.2, "claim": "list"},
        {"name": "linf", "metric": "certified_accuracy", "norm": "linf", "radius": 0.001, "min": 0.2},
        {"name": "mean", "metric": "mean_radius", "norm": "l1", "min": 0.05},
    ]
    count = sum(row.correct and row.radius >= 0.1 for row in REPORT.examples)
    rows = evaluate_gates(REPORT, parse_gates(tables))
    assert rows[0].lower is not None
    assert rows[0].lower > (count - 0.001) / len(REPORT.examples)  # no certificate of this list may be false
    judged = seal(replace(REPORT, gates=rows, digest=""))
    assert verify_report(judged) == ()
    beyond = parse_gates([tables[0] | {"radius": 0.44}])
    with pytest.raises(InputError, match=r"221 shifts can certify at sigma 0\.25, at most 0\.43333"):
        evaluate_gates(REPORT, beyond)


def test_deterministic_and_probabilistic_certificates_are_not_compared():
    law, uniform = replace(REPORT.tables, noise_law="uniform-255"), SmoothingSettings(sigma=0.25, noise="uniform")
    drawn = replace(REPORT, settings=uniform, tables=law)
    with pytest.raises(InputError, match="noise law"):
        compare_reports(drawn, REPORT, radius=0.1)
    other = split_report(SmoothingSettings(sigma=0.5, noise="split", seed=4))
    found = compare_reports(REPORT, other, radius=0.1)
    assert verify_report(found) == ()
    assert "deterministic certificates" in FORMATS["terminal"](found)
    assert "alpha" not in FORMATS["markdown"](found)
    assert 'class="proved' in FORMATS["html"](found)
    assert 'class="chance' not in FORMATS["html"](found)


def test_there_is_nothing_to_certify_again():
    with pytest.raises(InputError, match="deterministic splitting"):
        recertify(REPORT, together=True)


def test_the_schema_holds_alpha_to_the_noise():
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(report_schema())
    assert not list(validator.iter_errors(plain()))
    for path, value in (("settings.alpha", 0.001), ("settings.n0", 128), ("settings.procedure", "planned")):
        assert list(validator.iter_errors(edited(plain(), path, lambda _, value=value: value)))
    ordinary = json.loads(report_to_json(smoothing_report([1.0, 0.9])))
    assert list(validator.iter_errors(edited(ordinary, "settings.alpha", lambda _: 0.0)))


def test_a_data_set_of_examples_has_the_row_of_its_selection():
    images = tuple(Example(i, f"row {i}", 0, np.zeros(4, dtype=np.uint8)) for i in range(2))
    assert Dataset(images, total=2, selection="all").eight_bit
