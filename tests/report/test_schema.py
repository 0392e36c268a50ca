import json
from importlib.resources import files

import jsonschema
import pytest

from certify.report import report_schema, schema_text
from certify.report.schema import OPTIONAL
from certify.results import report_to_json
from tests.report.sample_reports import SAMPLES, smoothing_abstaining

VALIDATOR = jsonschema.Draft202012Validator(report_schema())


def test_the_shipped_file_is_the_generated_schema():
    shipped = files("certify.report").joinpath("schema.json").read_text(encoding="utf-8")
    assert shipped == schema_text(), "write certify.report.schema.schema_text() to certify/report/schema.json"


def test_the_schema_is_itself_valid():
    jsonschema.Draft202012Validator.check_schema(report_schema())


@pytest.mark.parametrize("build", SAMPLES.values(), ids=SAMPLES)
def test_every_emitted_report_fits(build):
    VALIDATOR.validate(json.loads(report_to_json(build())))


def edit(plain, path, value):
    *steps, last = path
    node = plain
    for step in steps:
        node = node[step]
    node[last] = value


@pytest.mark.parametrize(
    "path, value",
    [
        (["schema"], "certify/report/2"),
        (["kind"], "lipschitz"),
        (["unknown"], 1),
        (["digest"], "abc"),
        (["examples", 0, "radius"], -0.1),
        (["examples", 0, "radius"], 0.1),  # an abstention
        (["examples", 0, "predicted"], "1"),
        (["examples", 0, "counts", "estimation", 0], -1),
        (["settings", "alpha"], 0.5),
        (["settings", "sigma"], 0),
        (["gates", 0, "verdict"], "probably"),
        (["summary", "clean_accuracy"], 1.5),
        (["model", "sha256"], "A" * 64),
    ],
    ids=str,
)
def test_what_no_report_may_hold_is_refused(path, value):
    plain = json.loads(report_to_json(smoothing_abstaining()))
    edit(plain, path, value)
    assert not VALIDATOR.is_valid(plain)


def test_every_field_but_the_optional_ones_is_required():
    plain = json.loads(report_to_json(smoothing_abstaining()))
    for field in plain:
        left = {name: value for name, value in plain.items() if name != field}
        assert VALIDATOR.is_valid(left) == (field in OPTIONAL["SmoothingReport"])


def test_the_text_is_plain_sorted_json():
    assert json.loads(schema_text()) == report_schema()
    assert schema_text().isascii()
