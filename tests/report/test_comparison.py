"""Comparisons: what may be compared, what is counted, what every view and every check says about it."""

import csv
import json
import math
import re
import unicodedata
from fractions import Fraction
from io import StringIO
from xml.etree import ElementTree

import jsonschema
import pytest
from msgspec import UNSET
from msgspec.structs import replace

import certify
from certify.errors import InputError
from certify.pairing import FREE
from certify.policy import gate_exit_code
from certify.report import FORMATS, compare_reports, report_schema, verify_report
from certify.results import ComparisonReport, document_from_json, report_from_json, report_to_json, seal
from tests.report.edits import edited, leaves, nudge, read, shift
from tests.report.hostile_reports import HOSTILE
from tests.report.sample_comparisons import (
    COMPARISONS,
    lipschitz_compared,
    lipschitz_gated,
    lipschitz_pair,
    sequential_compared,
    smoothing_compared,
    smoothing_dropped,
)
from tests.report.sample_reports import (
    ASKED,
    SETTINGS,
    lipschitz_clean,
    lipschitz_linf,
    network_alone,
    sequential_report,
    sequential_settled,
    smoothing_clean,
    smoothing_report,
)

VALIDATOR = jsonschema.Draft202012Validator(report_schema())
every_comparison = pytest.mark.parametrize("build", COMPARISONS.values(), ids=COMPARISONS)


# ---- what is counted -----------------------------------------------------------------------------------------------


def test_each_example_is_lost_won_kept_or_neither():
    report = lipschitz_compared()
    assert [pair.change for pair in report.examples] == ["both"] * 7 + ["lost", "won", "neither", "neither"]
    assert (report.summary.lost, report.summary.won) == ((7,), (8,))
    here = report.summary.at_radius
    assert (here.old, here.new, here.won, here.lost, here.difference) == (8, 8, 1, 1, 0.0)
    assert here.lower < 0.0 < here.upper
    assert report.summary.radii == certify.results.RadiusSigns(larger=1, smaller=2, equal=8)


def test_a_wrong_answer_has_no_radius_to_compare():
    reports = lipschitz_pair([1.0, 1.0], [1.0, 1.0])
    wrong = replace(reports[1].examples[0], predicted=2, clean_predicted=2, correct=False)
    found = compare_reports(reports[0], replace(reports[1], examples=(wrong, reports[1].examples[1])))
    assert (found.examples[0].change, found.summary.radii.smaller) == ("lost", 1)


def test_the_limits_are_two_clopper_pearson_bounds():
    from scipy.stats import beta

    found, n, half = smoothing_dropped().summary.at_radius, 40, 0.025
    assert (found.won, found.lost) == (0, 20)
    lower = 0.0 - beta.ppf(1 - half, 21, 20)
    upper = -beta.ppf(half, 20, 21) + beta.ppf(1 - half, 1, n)
    assert found.lower == pytest.approx(lower, abs=1e-6)
    assert found.upper == pytest.approx(upper, abs=1e-6)
    assert found.lower <= lower
    assert found.upper >= upper


def test_equal_reports_pass_at_the_least_drop_and_not_below():
    report = smoothing_clean()
    least = compare_reports(report, report).summary.least_drop
    assert 0.0361 < least < 0.0363
    assert compare_reports(report, report, max_drop=least).gates[0].verdict == "passed"
    with pytest.raises(InputError, match=r"a share from 0\.0363, the least that 100 examples"):
        compare_reports(report, report, max_drop=math.nextafter(least, 0.0))


def test_a_drop_is_judged_only_when_asked():
    assert (lipschitz_compared().gates, lipschitz_compared().summary.verdict) == ((), None)
    passed, failed = lipschitz_gated(), smoothing_dropped()
    assert [gate.verdict for gate in (*passed.gates, *failed.gates)] == ["passed", "failed"]
    assert gate_exit_code(passed.gates) == 0
    assert gate_exit_code(failed.gates) == 1
    assert passed.gates[0].baseline.certified == tuple(range(400))


def test_between_the_limits_nothing_is_decided():
    pair = lipschitz_pair([1.0] * 100, [1.0] * 94 + [0.2] * 6)
    found = compare_reports(*pair, radius=0.3, max_drop=0.06)
    assert (found.gates[0].verdict, gate_exit_code(found.gates)) == ("undecided", 4)
    assert found.gates[0].lower < -0.06 < found.gates[0].upper


def test_the_asked_radius_is_the_default_and_draws_that_ended_by_a_test_have_no_signs():
    old, new = (sequential_report([1.0, share], settings=replace(ASKED, at=(0.25,))) for share in (0.3, 1.0))
    found = compare_reports(old, new)
    assert (found.settings.radius, found.summary.won, found.summary.radii) == (0.25, (1,), None)
    assert [row.radius for row in found.summary.curve] == [0.25]
    assert [row.radius for row in sequential_compared().summary.curve] == [0.1, 0.25]


def test_the_order_of_examples_does_not_matter_and_the_new_one_is_kept():
    old, new = lipschitz_pair([1.0, 0.0, 0.5], [1.0, 1.0, 0.0])
    turned = replace(old, examples=old.examples[::-1])
    assert compare_reports(turned, new).examples == compare_reports(old, new).examples


# ---- what may be compared ------------------------------------------------------------------------------------------


def with_settings(report, **changes):
    return replace(report, settings=replace(report.settings, **changes))


BINDING = {
    "alpha": 0.01,
    "bound": "cpm",
    "n": 2000,
    "n0": 32,
    "price": 1e-5,
    "procedure": "fixed",
    "float_noise": True,
}


@pytest.mark.parametrize("name", BINDING)
def test_settings_that_decide_what_is_certified_must_be_equal(name):
    report = smoothing_clean()
    other = with_settings(report, **{name: BINDING[name]})
    with pytest.raises(InputError, match=rf"two reports with one {name}, got .* in the old and .* in the new one; run"):
        compare_reports(report, other)


def test_every_setting_is_either_free_or_binding():
    assert not set(BINDING) & FREE
    assert {"sigma", "seed", "dtype"} <= FREE
    assert {*SETTINGS.__struct_fields__, *lipschitz_clean().settings.__struct_fields__} >= FREE


def test_sigma_seed_and_dtype_may_differ_and_are_shown():
    found = smoothing_compared()
    text = FORMATS["terminal"](found)
    assert "sigma 0.25, seed 0, float32" in text
    assert "sigma 0.5, seed 3, float32" in text
    assert "sigma 0.5, seed 3" in found.statement.text


def test_radii_that_were_not_asked_cannot_be_compared():
    report = sequential_report([1.0, 0.3])
    with pytest.raises(InputError, match=r"expected one radius to compare at.*name it"):
        compare_reports(report, report)
    with pytest.raises(InputError, match=r"radius that both reports decide, got 0\.2"):
        compare_reports(report, report, radius=0.2)


def test_smaller_asked_radii_must_be_the_same():
    """An answer is never better than that of a smaller asked radius, so asking one more changes what is certified."""
    report = sequential_report([1.0, 0.3])
    only = sequential_report([1.0, 0.3], settings=replace(ASKED, at=(0.25,)))
    with pytest.raises(InputError, match="asked radii up to that one"):
        compare_reports(report, only, radius=0.25)
    larger = sequential_report([1.0, 0.3], settings=replace(ASKED, at=(0.1, 0.3)))
    assert compare_reports(report, larger, radius=0.1).summary.at_radius.old == 1


@pytest.mark.parametrize(
    "old, new, message",
    [
        (smoothing_clean, lipschitz_clean, "one kind of certificates"),
        (lipschitz_linf, lipschitz_clean, "one norm of the radii"),
        (network_alone, network_alone, "expected at least one example"),
        (sequential_settled, sequential_settled, "answers for all examples, got those for 41 of 60"),
    ],
)
def test_reports_without_answers_to_one_question_are_refused(old, new, message):
    with pytest.raises(InputError, match=message):
        compare_reports(old(), new(), radius=0.25)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("classes", ("cat", "ship", "dog"), "one classes"),
        ("input", None, "one space of the radii"),
    ],
)
def test_another_space_or_other_classes_are_refused(field, value, message):
    report = smoothing_clean()
    model = report.model
    value = replace(model.input, space="normalised") if value is None else value
    with pytest.raises(InputError, match=message):
        compare_reports(report, replace(report, model=replace(model, **{field: value})))


def test_another_noise_law_is_refused():
    report = smoothing_clean()
    with pytest.raises(InputError, match="one noise law"):
        compare_reports(report, replace(report, tables=replace(report.tables, noise_law="gaussian")))


def test_other_examples_and_other_labels_are_refused():
    old, new = lipschitz_pair([1.0, 1.0], [1.0, 1.0])
    first, second = new.examples
    with pytest.raises(InputError, match=r"got 1 that only the old one has, first 'dog/00001\.png'"):
        compare_reports(old, replace(new, examples=(first,)))
    with pytest.raises(InputError, match="got 1 that only the new one has"):
        compare_reports(replace(old, examples=(first,)), new)
    with pytest.raises(InputError, match="that only the old one has"):
        compare_reports(old, replace(new, examples=(first, replace(second, hash="0" * 64))))
    with pytest.raises(InputError, match="one label in both reports, got 1 in the old and 2 in the new"):
        compare_reports(old, replace(new, examples=(first, replace(second, label=2))))


@pytest.mark.parametrize("name, value", [("arithmetic", "float32"), ("method", "product"), ("effort", "max")])
def test_lipschitz_reports_need_one_way_of_proving(name, value):
    report = lipschitz_clean()
    with pytest.raises(InputError, match=f"one {name}"):
        compare_reports(report, with_settings(report, **{name: value}))


@pytest.mark.parametrize("confidence", [0.5, 1.0, 95, math.nan])
def test_a_senseless_confidence_is_refused(confidence):
    with pytest.raises(InputError, match="confidence above 1/2 and below 1"):
        compare_reports(smoothing_clean(), smoothing_clean(), confidence=confidence)


@pytest.mark.parametrize("max_drop", [-0.1, 1.5, math.nan])
def test_a_senseless_drop_is_refused(max_drop):
    with pytest.raises(InputError, match="allowed drop as a share from"):
        compare_reports(smoothing_clean(), smoothing_clean(), max_drop=max_drop)


# ---- views ---------------------------------------------------------------------------------------------------------


@every_comparison
def test_it_reads_back_fits_the_schema_and_is_consistent(build):
    report = build()
    text = FORMATS["json"](report)
    assert document_from_json(text, name="report") == report
    assert verify_report(report) == ()
    VALIDATOR.validate(json.loads(text))
    with pytest.raises(InputError, match="expected a report of certificates, got a comparison"):
        report_from_json(text, name="report")


@every_comparison
@pytest.mark.parametrize("name", ["terminal", "markdown", "csv"])
def test_every_view_shows_every_comparison(build, name):
    report = build()
    text = FORMATS[name](report, width=100)
    assert "nan" not in text.lower().split()
    assert ("lost" in text) or name == "csv"
    if name == "terminal":
        assert max(map(len, text.splitlines())) <= 100
    if name == "csv":
        rows = list(csv.DictReader(StringIO(text, newline=""), strict=True))
        assert [row["change"] for row in rows] == [pair.change for pair in report.examples]
        assert [float(row["new_radius"]) for row in rows] == [pair.new_radius for pair in report.examples]


def test_the_gate_on_a_drop_is_a_test_case():
    root = ElementTree.fromstring(FORMATS["junit"](smoothing_dropped()))
    (case,) = root.iter("testcase")
    assert (root.get("failures"), case.get("classname")) == ("1", "certify.comparison")
    assert "20 lost and 0 won" in case.find("failure").get("message")
    assert not list(ElementTree.fromstring(FORMATS["junit"](lipschitz_compared())).iter("testcase"))


@pytest.mark.parametrize("name", ["tsv", "card"])
def test_a_format_without_a_place_for_comparisons_says_so(name):
    with pytest.raises(InputError, match="terminal, json, csv, markdown, html"):
        FORMATS[name](smoothing_compared())


def test_limits_print_outward():
    report = smoothing_dropped()
    row = next(line for line in FORMATS["terminal"](report).splitlines() if line.strip().startswith("0.1 "))
    lower, upper = map(Fraction, row.split()[-2:])
    found = report.summary.at_radius
    assert lower <= Fraction(found.lower) < lower + Fraction(1, 1000)
    assert upper - Fraction(1, 1000) < Fraction(found.upper) <= upper


@pytest.mark.parametrize("name", ["terminal", "markdown", "csv"])
def test_hostile_names_come_out_harmless(name):
    report = lipschitz_compared()
    rows = tuple(replace(pair, id=HOSTILE) for pair in report.examples)
    sides = [
        replace(run, model=replace(run.model, classes=(HOSTILE,) * 3), tool=replace(run.tool, version=HOSTILE))
        for run in (report.old, report.new)
    ]
    hostile = replace(
        report,
        examples=rows,
        old=sides[0],
        new=sides[1],
        data=replace(report.data, selection=HOSTILE),
        statement=replace(report.statement, text=HOSTILE),
        summary=replace(report.summary, reason=HOSTILE),
    )
    text = FORMATS[name](hostile, width=100).replace("\r\n", "\n")
    assert not {character for character in text if unicodedata.category(character)[0] == "C"} - {"\n"}
    assert not [line for line in text.splitlines() if line.startswith(("::", "="))]


# ---- verification --------------------------------------------------------------------------------------------------

NOT_IMPLIED = re.compile(
    r"execution\b.*|digest|tool\..*|(old|new)\.(digest|tool\..*|model\.(sha256|source|parameters))"
    r"|(old|new)\.(smoothing|lipschitz)\.(sigma|seed|dtype|limit|skip|local)|data\.selection"
    r"|examples\[\d+\]\.(index|old_predicted|new_predicted)|(old|new)\.model\.input\..*"
)


UNUSED = re.compile(r"(old|new)\.smoothing\.(price|procedure|bound)")  # where radii were asked for


@pytest.mark.parametrize("build", [lipschitz_compared, smoothing_dropped, sequential_compared])
@pytest.mark.parametrize("change", [nudge, shift], ids=lambda change: change.__name__)
def test_every_edit_is_found_and_after_sealing_again_wherever_numbers_imply_it(build, change):
    plain = json.loads(report_to_json(build()))
    some = re.compile(r"(?!execution)(?!.*\[(?:[4-9]|\d\d+)\])")  # of long lists the first four
    for path in filter(some.match, leaves(plain)):
        found = read(edited(plain, path, change))
        if found is None:
            continue
        assert verify_report(found), path
        unused = build is sequential_compared and UNUSED.fullmatch(path)
        if not (unused or NOT_IMPLIED.fullmatch(path)):
            assert verify_report(seal(found)), path


def places(report):
    return {finding.where for finding in verify_report(seal(report))}


def test_a_won_example_that_becomes_a_kept_one_is_found():
    report = lipschitz_compared()
    rows = tuple(replace(pair, change="both") if pair.change == "won" else pair for pair in report.examples)
    assert {"examples[8].change", "summary.won"} <= places(replace(report, examples=rows))


def test_runs_that_may_not_be_compared_are_found():
    report = smoothing_compared()
    other = replace(report.new, smoothing=replace(report.new.smoothing, alpha=0.01))
    assert "new.settings.alpha" in places(replace(report, new=other))
    assert "new.settings" in {
        where.partition("[")[0] for where in places(replace(report, new=replace(other, smoothing=UNSET)))
    }


def test_a_verdict_that_was_turned_is_found():
    report = smoothing_dropped()
    assert "gates[0].verdict" in places(replace(report, gates=(replace(report.gates[0], verdict="passed"),)))
    assert "summary.verdict" in places(replace(report, summary=replace(report.summary, verdict="passed")))


def test_the_library_call_is_the_command():
    assert certify.compare is compare_reports
    assert isinstance(certify.compare(smoothing_clean(), smoothing_clean()), ComparisonReport)


def test_a_smoothing_report_of_the_same_answers_keeps_its_own_alpha():
    report = smoothing_report([1.0] * 30)
    found = compare_reports(report, report)
    assert found.new.smoothing.alpha == 0.001
    assert found.statement.failure_probability == pytest.approx(0.05)
