"""What a gate may count where the number alone does not say: the task of the certificates, the scales of the radius."""

from __future__ import annotations

import re

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from certify.errors import InputError
from certify.policy import Gate, check_fits, evaluate_gates, in_native_norm, parse_gates
from certify.report import summarise_smoothing
from certify.results import Scales, SmoothingSettings, TopK
from tests.report.sample_reports import SETTINGS, smoothing_report

SHA256, OTHER = "0123456789abcdef" * 4, "01234567" + "f" * 56
SCALED = SmoothingSettings(sigma=0.25, scales=Scales(sha256=SHA256, smallest=0.5, largest=2.0, geometric_mean=1.0))


def gate(metric="certified_accuracy", **options):
    fields = {"metric": metric, "min": 0.1, "claim": "list"} | options
    if metric in ("certified_accuracy", "class_certified_accuracy"):
        fields = {"radius": 0.1, **fields}
    return Gate(name="g", **fields)


def weighted(**options):
    return gate(norm="weighted-l2", **options)


@pytest.fixture(scope="module")
def among_two():
    report = smoothing_report([1.0] * 20)
    return replace(report, settings=replace(SETTINGS, task=TopK(2)))


@pytest.fixture(scope="module")
def scaled():
    report = smoothing_report([1.0] * 20)
    return replace(report, settings=replace(SETTINGS, scales=SCALED.scales))


@pytest.mark.parametrize("claim", ["list", "population"])
@pytest.mark.parametrize("on", ["lower", "estimate"])
def test_clean_accuracy_is_not_asked_of_certificates_among_the_k_likeliest(among_two, claim, on):
    asked = gate("clean_accuracy", claim=claim, on=on)
    for judge in (lambda: check_fits(among_two, asked), lambda: evaluate_gates(among_two, [asked])):
        with pytest.raises(InputError, match=r"top-k with k = 2.*ask for certified_accuracy at radius 0\.0"):
            judge()


def test_clean_accuracy_is_asked_of_k_equal_to_one():
    report = smoothing_report([1.0] * 20)
    one = replace(report, settings=replace(SETTINGS, task=TopK(1)))
    for found in (report, one):
        assert evaluate_gates(found, [gate("clean_accuracy")])[0].verdict == "passed"
        assert summarise_smoothing(found.examples, found.settings).clean_accuracy == 1.0


@pytest.mark.parametrize("metric", ["certified_accuracy", "class_certified_accuracy", "mean_radius"])
def test_reasons_say_among_how_many_the_label_is(among_two, metric):
    plain = evaluate_gates(smoothing_report([1.0] * 20), [gate(metric)])[0]
    assert "likeliest" not in plain.reason
    row = evaluate_gates(among_two, [gate(metric)])[0]
    assert "with the label certified among the 2 likeliest" in row.reason
    assert "certified correct" not in row.reason


@pytest.mark.parametrize("metric", ["certified_accuracy", "class_certified_accuracy", "mean_radius"])
def test_weighted_radii_are_asked_for_in_named_scales(scaled, metric):
    for named in (SHA256, SHA256[:8]):
        row = evaluate_gates(scaled, [weighted(metric=metric, scales=named)])[0]
        assert row.reason.endswith(f"D the scales of sha256 {SHA256}")
    for wrong in (None, OTHER, OTHER[:9]):
        with pytest.raises(InputError, match=re.escape(repr(SHA256[:16]))):
            evaluate_gates(scaled, [weighted(metric=metric, scales=wrong)])


def test_drops_name_task_and_scales(among_two, scaled):
    for report, asked, words in (
        (among_two, gate, "counted are examples with the label certified among the 2 likeliest"),
        (scaled, weighted, f"D the scales of sha256 {SHA256}"),
    ):
        own = {} if asked is gate else {"scales": SHA256[:8]}
        drop = asked(min=0.0, baseline="old.json", max_drop=0.5, claim="population", **own)
        assert evaluate_gates(report, [drop], {"old.json": report})[0].reason.endswith(words)


def test_other_norms_need_no_scales(scaled):
    row = evaluate_gates(scaled, [gate(radius=0.01)])[0]
    assert row.norm == "l2"
    assert evaluate_gates(scaled, [gate("clean_accuracy")])[0].verdict == "passed"
    with pytest.raises(InputError, match="run with scales"):
        in_native_norm(weighted(scales=SHA256), SETTINGS, 6)


@pytest.mark.parametrize("scales", ["0123456", "0123456G", SHA256 + "0", SHA256.upper(), ""])
def test_scales_are_the_first_digits_of_a_hash(scales):
    with pytest.raises(ValueError, match="8 to 64 lower-case hex digits"):
        weighted(scales=scales)
    with pytest.raises(InputError, match="8 to 64 lower-case hex digits"):
        parse_gates([{"name": "g", "metric": "mean_radius", "min": 0.1, "norm": "weighted-l2", "scales": scales}])


def test_scales_belong_to_weighted_radii():
    with pytest.raises(ValueError, match="norm weighted-l2, got l2"):
        gate(scales=SHA256)


def test_summaries_of_the_k_likeliest_know_no_clean_accuracy(among_two):
    found = summarise_smoothing(among_two.examples, among_two.settings)
    one = summarise_smoothing(among_two.examples, replace(among_two.settings, task=UNSET))
    assert (found.clean_accuracy, one.clean_accuracy) == (None, 1.0)
    assert replace(found, clean_accuracy=1.0) == one
