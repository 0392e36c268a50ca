"""Readings in every view: the kind in every row, names made harmless, and every edit found."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata

import jsonschema
import pytest
import yaml
from msgspec.structs import replace

from certify.errors import InputError
from certify.policy import Gate, evaluate_gates
from certify.report import FORMATS, report_schema, verify_report
from certify.report.curvature_table import reading_rows
from certify.report.html_view import NamedReport, render_html_page
from certify.results import CurvatureReport, document_from_json, report_to_json, seal
from tests.curvature.tiny_runs import readings
from tests.report.edits import edited, flip, leaves, nudge, read
from tests.report.hostile_reports import HOSTILE
from tests.report.page_structure import Page, faults

SHOWN = [name for name in FORMATS if name != "tsv"]
KINDS = ("proved", "proved with probability", "exact formula in", "estimate", "measured")


def judged() -> CurvatureReport:
    gates = [Gate(name="flat", metric="last_layer_trace", max=100.0), Gate(name="gap", metric="loss_gap", max=0.0)]
    return seal(replace(readings(), gates=evaluate_gates(readings(), gates, allow_diagnostic=True)))


def hostile() -> CurvatureReport:
    report = judged()
    beside = replace(report.beside[0], text=HOSTILE, object=HOSTILE, domain=HOSTILE, arithmetic=HOSTILE, method=HOSTILE)
    beside = replace(beside, layers=tuple(replace(row, name=HOSTILE, kind=HOSTILE) for row in beside.layers))
    return replace(
        report,
        model=replace(
            report.model, source=HOSTILE, classes=(HOSTILE,) * 3, input=replace(report.model.input, space=HOSTILE)
        ),
        data=replace(report.data, selection=HOSTILE),
        statement=replace(report.statement, text=HOSTILE, arithmetic=HOSTILE, domain=HOSTILE),
        table=tuple(replace(row, object=HOSTILE, quantity=HOSTILE, domain=HOSTILE) for row in report.table),
        examples=tuple(replace(row, id=HOSTILE) for row in report.examples),
        beside=(beside, *report.beside[1:]),
        gates=tuple(replace(row, name=HOSTILE, reason=HOSTILE) for row in report.gates),
        tool=replace(report.tool, version=HOSTILE),
        last_layer=None,
        last_layer_reason=HOSTILE,
        digest=HOSTILE,
    )


@pytest.mark.parametrize("name", ["terminal", "markdown", "html", "card"])
def test_every_kind_stands_in_every_view_that_shows_the_table(name: str) -> None:
    text = " ".join(FORMATS[name](judged(), width=120).split())
    assert all(kind in text for kind in KINDS)
    assert "no certificate" in text
    assert not {"nan", "None"} & set(text.split())


def test_the_table_has_no_number_without_its_kind_and_no_certificate_without_its_chance() -> None:
    for row in readings().table:
        proved = row.kind.startswith("proved")
        assert proved == (row.failure_probability is not None) == (row.value is None)
        assert proved or (row.lower is None and row.upper is None)
        assert (row.failure_probability or 0.0) == (0.001 if row.kind == "proved with probability" else 0.0)


def test_the_table_has_the_errors_and_the_chances_of_its_numbers() -> None:
    report, rows = readings(), {row.quantity: row for row in readings().table if row.object == "whole network"}
    for quantity, found in (
        ("trace, Hutchinson", report.network.trace),
        ("trace, Hutch++", report.network.trace_plus),
        ("loss gap at sigma 0.05", report.network.loss_gap),
    ):
        row = rows[quantity]
        assert (row.value, row.error, row.error_of) == (found.value, found.standard_error, "standard error")
    row = rows["largest eigenvalue, from below"]
    assert (row.value, row.error, row.error_of) == (
        report.network.largest.value,
        report.network.largest.residual,
        "residual",
    )
    shown = FORMATS["terminal"](report, width=120)
    assert len([line for line in shown.splitlines() if re.search(r"proved with probability +0\.001$", line)]) > 2
    assert len([line for line in shown.splitlines() if re.search(r"proved +never$", line)]) > 2


def test_the_terminal_keeps_its_width() -> None:
    for width in (60, 80, 120):
        text = FORMATS["terminal"](judged(), width=width)
        assert max(map(len, text.splitlines())) <= width
        assert "\x1b" not in text
    assert "\x1b[" in FORMATS["terminal"](judged(), width=100, color=True)


def test_csv_has_every_field_of_every_example() -> None:
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](judged()))))
    for row, example in zip(rows, judged().examples, strict=True):
        assert float(row["jacobian_spectral"]) == example.jacobian_spectral
        assert row["flip_distance"] == ("" if example.flip_distance is None else repr(example.flip_distance))


def test_the_page_has_no_fault() -> None:
    assert faults(FORMATS["html"](judged())) == []
    assert "exact formula in floating point" in Page(FORMATS["html"](judged())).all("main")[0].text


def test_readings_of_two_reports_stand_side_by_side_and_certificates_do_not() -> None:
    other = replace(judged(), data=replace(judged().data, sha256="0" * 64))
    for second, words in ((judged(), "The same batch"), (other, "Batches differ")):
        page = render_html_page([NamedReport("a.json", judged()), NamedReport("b.json", second)])
        assert faults(page) == []
        shared = page.partition("Readings side by side")[2].partition("</table>")
        assert "a.json" in shared[0]
        assert "proved" not in shared[0]
        assert words in shared[2][:2000]


def test_the_card_names_each_number_by_its_kind() -> None:
    card = yaml.safe_load(FORMATS["card"](judged()))
    metrics = card["model-index"][0]["results"][0]["metrics"]
    assert {metric["type"] for metric in metrics} == {"certificate", "diagnostic"}
    for metric in metrics:
        certified = metric["args"]["kind"].startswith("proved")
        assert (metric["type"] == "certificate") == certified == ("failure_probability" in metric["args"])


def test_junit_says_that_a_verdict_is_no_certificate() -> None:
    text = FORMATS["junit"](judged())
    assert text.count("diagnostic: no certificate") == 2
    assert 'failures="1"' in text


def test_the_table_of_the_field_has_no_place_for_readings() -> None:
    with pytest.raises(InputError, match="got tsv, whose columns are those of certified radii"):
        FORMATS["tsv"](judged())


@pytest.mark.parametrize("name", SHOWN)
def test_hostile_names_come_out_harmless(name: str) -> None:
    text = FORMATS[name](hostile(), width=100).replace("\r\n", "\n")
    assert not {c for c in text if unicodedata.category(c)[0] == "C"} - {"\n"}
    assert not [line for line in text.splitlines() if line.startswith(("::", "="))]
    assert "<script>alert" not in text or name in ("terminal", "csv", "json", "card")


# ---- the record ----------------------------------------------------------------------------------------------------

DIGEST_ONLY = [
    r"tool\..*",
    r"model\.(sha256|source|parameters|classes\[\d+\]|input\..*)",
    r"data\.(selection|eight_bit)",
    r"settings\.(limit|skip|seed|steps)",
    r"(last_layer\.(module|features|largest\.(value|residual|steps))|network\.(largest|steepest)\.(value|residual|steps))",
    r"network\.variables",
    r"examples\[\d+\]\.(index|id|loss|predicted|flip_distance|input_gradient|jacobian_\w+|last_layer_\w+|activation_square)",
    r"beside\[\d+\]\..*",
    r"gates\[\d+\]\.name",
]
"""What rests on the weights, on another report, or on nothing: the digest alone holds it."""


def test_a_report_is_consistent_and_reads_back() -> None:
    text = report_to_json(judged())
    assert verify_report(judged()) == ()
    assert document_from_json(text, name="r") == judged()
    jsonschema.Draft202012Validator(report_schema()).validate(json.loads(text))


def plain_and_paths() -> tuple[dict, list[str]]:
    """Return the plain report of few examples' leaves: the others have the same ones."""
    plain = json.loads(report_to_json(judged()))
    paths = [path for path in leaves(plain) if not path.startswith("execution")]
    far = re.compile(r"(examples|matched|layers|samples)\[([1-9]|\d\d+)\]|table\[(?!(0|9|17|20)\])")
    return plain, [path for path in paths if not far.search(path)]


@pytest.mark.slow
def test_every_edited_leaf_is_found() -> None:
    plain, paths = plain_and_paths()
    assert len(paths) > 150
    for path in paths:
        report = read(edited(plain, path, nudge))
        assert report is None or verify_report(report), path


@pytest.mark.slow
def test_an_edit_that_is_sealed_again_is_found_wherever_numbers_imply_it() -> None:
    plain, paths = plain_and_paths()
    unnoticed = set()
    for path in paths:
        report = read(edited(plain, path, flip))
        if report is not None and not verify_report(seal(report)):
            unnoticed.add(path)
    assert {path for path in unnoticed if not any(re.fullmatch(one, path) for one in (*DIGEST_ONLY, "digest"))} == set()


@pytest.mark.parametrize(
    "path",
    [
        *("summary.loss", "summary.clean_accuracy", "summary.flipped", "summary.jacobian_spectral.mean"),
        *("summary.input_gradient.largest", "summary.flip_distance.smallest", "summary.examples"),
        *("last_layer.trace", "last_layer.largest_mean", "last_layer.decay_bound", "last_layer.classes"),
        *("network.trace.value", "network.trace_plus.standard_error", "network.loss_gap.known"),
        *("examples[0].correct", "examples[0].hash", "examples[0].label"),
        *("data.count", "data.sha256", "beside[0].digest", "beside[0].matched[0].index"),
    ],
)
def test_an_edit_is_found_though_table_and_digest_are_made_again(path: str) -> None:
    report = read(edited(json.loads(report_to_json(judged())), path, flip))
    assert report is not None
    found = verify_report(seal(replace(report, table=reading_rows(report))))
    place = path.removesuffix(".index").removesuffix("[0]")
    assert any(finding.where.startswith((place, "examples[0].correct")) for finding in found), found


@pytest.mark.parametrize(("share", "consistent"), [(0.9, False), (1.0 - 1e-12, True), (-1.1, True)])
def test_the_eigenvalue_of_the_largest_size_is_at_least_as_large(share: float, consistent: bool) -> None:
    """Of ends that are equal but for their sign either one may be a rounding ahead, at any scale."""
    network = judged().network
    ends = replace(network.largest, value=1e9), replace(network.steepest, value=share * 1e9)
    report = replace(judged(), network=replace(network, largest=ends[0], steepest=ends[1]), gates=())
    found = verify_report(seal(replace(report, table=reading_rows(report))))
    assert (found == ()) == consistent


@pytest.mark.parametrize("factor", [0.1, 10.0])
@pytest.mark.parametrize("name", ["jacobian_frobenius", "last_layer_trace", "last_layer_gradient"])
def test_a_closed_form_out_of_its_range_is_found(name: str, factor: float) -> None:
    first, *rest = judged().examples
    moved = replace(first, **{name: factor * getattr(first, name)})
    found = verify_report(seal(replace(judged(), examples=(moved, *rest))))
    assert f"examples[0].{name}" in {finding.where for finding in found}


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("last_layer.trace", nudge),
        ("last_layer.largest_mean", nudge),
        ("last_layer.decay_bound", nudge),
        ("network.trace.value", nudge),
        ("network.trace_plus.standard_error", nudge),
        ("network.trace_plus.known", flip),
        ("network.loss_gap.samples[0]", flip),
        ("settings.sigma", nudge),
        ("settings.pairs", nudge),
        ("summary.input_gradient.mean", nudge),
        ("summary.flipped", nudge),
        ("examples[0].activation_square", flip),
        ("examples[0].loss", flip),
        ("table[0].kind", lambda _: "measured"),
        ("table[17].value", nudge),
        ("consistency[0].compared", nudge),
        ("beside[0].failure_probability", lambda _: 0.01),
        ("beside[1].failure_probability", lambda _: 0.0),
        ("gates[0].value", nudge),
        ("gates[1].verdict", lambda _: "passed"),
        ("gates[0].reason", nudge),
        ("gates[0].diagnostic", lambda _: False),
    ],
)
def test_the_smallest_edit_of_what_follows_is_found_though_sealed_again(path: str, change) -> None:
    report = read(edited(json.loads(report_to_json(judged())), path, change))
    assert report is not None
    assert verify_report(seal(report))
