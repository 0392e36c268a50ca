"""The model card's block: valid YAML, whatever the names; every number is the report's, on its side."""

import math

import pytest
import yaml

from certify.report import FORMATS
from certify.report.card import Number, yaml_lines
from certify.report.neutralise import strip_controls
from tests.report.hostile_reports import HOSTILE, hostile_lipschitz
from tests.report.sample_reports import (
    SAMPLES,
    lipschitz_clean,
    network_alone,
    sequential_settled,
    smoothing_clean,
    unbounded_network,
)

every_sample = pytest.mark.parametrize("build", SAMPLES.values(), ids=SAMPLES)


def results(report):
    plain = yaml.safe_load(FORMATS["card"](report))
    assert list(plain) == ["model-index"]
    return plain["model-index"][0]["results"]


def metrics(report, kind):
    return [metric for result in results(report) for metric in result["metrics"] if metric["type"] == kind]


@every_sample
def test_every_result_has_what_the_hub_requires(build):
    report = build()
    for result in results(report):
        assert {"type"} <= result["task"].keys()
        assert {"type", "name"} <= result["dataset"].keys()
        names = [metric["name"] for metric in result["metrics"]]
        assert len(set(names)) == len(names)
        for metric in result["metrics"]:
            assert isinstance(metric["value"], float)
            assert metric["args"]["model_sha256"] == report.model.sha256
            assert isinstance(metric["args"]["failure_probability"], float)


@pytest.mark.parametrize("build", [lipschitz_clean, smoothing_clean])
def test_certified_accuracy_comes_with_its_arguments(build):
    report = build()
    rows = [row for row in report.summary.certified_accuracy if row.accuracy > 0]
    found = [metric for metric in metrics(report, "certified_accuracy") if metric["value"] > 0]
    assert len(found) == len(rows)
    for metric, row in zip(found, rows, strict=True):
        arguments = metric["args"]
        assert (metric["value"], arguments["radius"]) == (row.accuracy, row.radius)
        assert (arguments["lower"], arguments["upper"]) == (row.lower, row.upper)
        assert arguments["norm"] == "l2"
        assert arguments["object"] == report.statement.object
        assert arguments["failure_probability"] == report.statement.failure_probability
    if build is smoothing_clean:
        assert (found[0]["args"]["sigma"], found[0]["args"]["n"]) == (0.25, 1000)


def test_only_a_proved_bound_is_a_metric():
    (bound,) = metrics(network_alone(), "lipschitz_constant")
    assert bound["value"] == network_alone().network.upper
    assert results(unbounded_network()) == []


def test_a_run_that_stopped_early_has_a_share_of_all_examples_and_no_other():
    report = sequential_settled()
    found = metrics(report, "certified_accuracy")
    assert metrics(report, "accuracy") == []
    for metric, row in zip(found, report.summary.certified_counts, strict=True):
        assert metric["value"] <= row.at_least / report.summary.examples
        assert metric["name"].endswith("at least")


def test_a_hostile_name_stays_a_string():
    texts = list(strings(results(hostile_lipschitz())))
    assert {text for text in texts if "alert" in text} >= {strip_controls(HOSTILE)}


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            yield from strings(child)


TRAPS = (
    "no",
    "null",
    "1e3",
    "1:30",
    "- a",
    "#b",
    "*x",
    "!!python/object:os.system",
    "a: b",
    "\\",
    '"',
    "\U0001f600",
    "~",
)


@pytest.mark.parametrize("text", TRAPS)
def test_strings_that_yaml_would_read_as_something_else_come_back(text):
    assert yaml.safe_load("\n".join(yaml_lines({"a": [{"b": text}]}))) == {"a": [{"b": text}]}


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-5, 1e-300, 1.5e300, 1e16, 0.1, 123456.0])
def test_floats_come_back_as_floats(value):
    found = yaml.safe_load("\n".join(yaml_lines({"a": Number(repr(value))})))["a"]
    assert isinstance(found, float)
    assert math.isclose(found, value, rel_tol=0.0)
