import csv
import json
from decimal import Decimal
from io import StringIO
from typing import get_args, get_type_hints

import pytest
from msgspec import UNSET, structs
from msgspec.structs import replace

from certify.report import FORMATS
from certify.report.columns import name_columns
from certify.report.csv_view import SIDES
from certify.results import (
    CurvatureExample,
    LipschitzExample,
    LipschitzReport,
    PairedExample,
    SmoothingExample,
    dump_json,
)
from tests.report.hostile_reports import HOSTILE_REPORTS
from tests.report.sample_reports import (
    SAMPLES,
    lipschitz_example,
    lipschitz_mixed,
    lipschitz_report,
    network_alone,
    unbounded_network,
)

WITHOUT_DATA = ("network alone", "unbounded network")
WITH_EXAMPLES = {name: build for name, build in SAMPLES.items() if name not in WITHOUT_DATA}
every_sample = pytest.mark.parametrize("build", WITH_EXAMPLES.values(), ids=WITH_EXAMPLES)
AWKWARD = (0.3, 0.1, 1 / 3, 0.24999999999999997, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1e7, 0.0)
LOWER, UPPER = (
    ("radius", "margin_lower", "ball", "old_radius", "new_radius"),
    ("gain_upper", "error_upper", "local_upper"),
)
OF_LAYERS = {"upper", "lower", "share", "estimate"}


def read(report):
    return list(csv.DictReader(StringIO(FORMATS["csv"](report), newline=""), strict=True))


def field_of(example, column):
    value = example
    for step in column.split("."):
        value = getattr(value, step)
    return None if value is UNSET else value


@every_sample
def test_every_field_reads_back_as_the_value_of_the_report(build):
    report = build()
    rows = read(report)
    assert len(rows) == len(report.examples)
    for row, example in zip(rows, report.examples, strict=True):
        for column, cell in row.items():
            value = field_of(example, column)
            if value is None:
                assert cell == ""
            elif isinstance(value, str):
                assert cell == value
            else:
                assert json.loads(cell) == json.loads(dump_json(value))


@every_sample
def test_no_number_lies_on_the_wrong_side(build):
    for row in read(build()):
        for column in {*LOWER} & row.keys():
            if row[column]:
                assert Decimal(row[column]) <= Decimal(float(row[column]))
        for column in {*UPPER} & row.keys():
            if row[column]:
                assert Decimal(row[column]) >= Decimal(float(row[column]))


@pytest.mark.parametrize("value", AWKWARD)
def test_sides_are_kept_in_the_last_digit_and_the_float_reads_back(value):
    row = structs.replace(
        lipschitz_example(0, 1.0), radius=value, margin_lower=-value, gain_upper=value, error_upper=value
    )
    (found,) = read(lipschitz_report([replace(row, local_upper=value, seconds=value)]))
    exact = Decimal(value)
    assert Decimal(found["radius"]) <= exact
    assert Decimal(found["margin_lower"]) <= -exact
    assert all(Decimal(found[column]) >= exact for column in UPPER)
    assert {float(found[column]) for column in ("radius", *UPPER, "seconds")} == {value}
    assert float(found["margin_lower"]) == -value


def test_a_radius_just_below_a_quarter_never_shows_as_a_quarter():
    assert read(lipschitz_mixed())[0]["radius"].startswith("0.24999999")


@every_sample
def test_the_columns_follow_from_the_kind_alone(build):
    report = build()
    kind = LipschitzExample if isinstance(report, LipschitzReport) else SmoothingExample
    header = next(csv.reader(FORMATS["csv"](report).splitlines()))
    assert header == list(name_columns(kind))
    assert {name.partition(".")[0] for name in header} == set(kind.__struct_fields__)


def numbers_of(*kinds):
    hints = {name: hint for kind in kinds for name, hint in get_type_hints(kind).items()}
    return {name for name, hint in hints.items() if hint is float or float in get_args(hint)}


def test_every_number_has_a_side():
    readings = numbers_of(CurvatureExample)
    numbers = numbers_of(LipschitzExample, SmoothingExample, PairedExample)
    assert numbers == set(SIDES) - OF_LAYERS - readings == {*LOWER, *UPPER, "uniform", "seconds"}
    assert {SIDES[name] for name in readings} == {repr}  # nothing is proved of a reading: no side


@every_sample
def test_lines_end_and_cells_are_quoted_as_rfc_4180_asks(build):
    text = FORMATS["csv"](build())
    assert text.endswith("\r\n")
    assert text.count("\n") == text.count("\r") == text.count("\r\n")
    assert list(csv.reader(StringIO(text, newline=""), strict=True)) == [
        next(csv.reader([line], strict=True)) for line in text.split("\r\n")[:-1]
    ]


@pytest.mark.parametrize("build", HOSTILE_REPORTS.values(), ids=HOSTILE_REPORTS)
def test_a_hostile_name_stays_in_its_cell(build):
    report = build()
    rows = list(csv.reader(StringIO(FORMATS["csv"](report), newline=""), strict=True))
    without_data = report.data is UNSET
    assert len(rows) == 1 + (len(report.layers) + 3 if without_data else len(report.examples))
    assert {len(row) for row in rows} == {len(rows[0])}


def test_without_data_the_bounds_stand_in_the_examples_place():
    report = network_alone()
    layers = (replace(report.layers[0], share=0.75), *report.layers[1:])
    report = replace(report, layers=layers, network=replace(report.network, limited_by="=slopes"))
    *rows, network, data, slopes, limit = read(report)
    assert [row["name"] for row in rows] == [layer.name for layer in layers]
    assert [row["share"] for row in rows] == ["0.75", "", ""]
    for row, bound in [*zip(rows, layers, strict=True), (network, report.network)]:
        assert bound.lower is None or Decimal(row["lower"]) <= Decimal(bound.lower)
        assert Decimal(row["upper"]) >= Decimal(bound.upper)
    assert [row["kind"] for row in (network, data, slopes)] == ["network", "data_floor", "slope_floor"]
    assert [(row["upper"], row["lower"]) for row in (data, slopes)] == [("", "")] * 2
    assert [float(row["estimate"]) for row in (data, slopes)] == [0.8, 0.75]
    assert limit["method"] == "'=slopes"


def test_a_network_without_a_bound_says_why_in_its_row():
    network = next(row for row in read(unbounded_network()) if row["kind"] == "network")
    assert (network["upper"], network["method"]) == ("", "no rule for softmax attention")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "\t=1", "\r=1", "\x1b=1", '="a,b"'])
def test_no_text_of_an_example_starts_a_formula(text):
    (row,) = read(lipschitz_report([replace(lipschitz_example(0, -1.0), id=text, reason=text, method=text)]))
    assert all(row[column].startswith("'") for column in ("id", "reason", "method"))
    assert row["margin_lower"] == "-1"
