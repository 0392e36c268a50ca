"""Parts of a run, put together: the whole run's report, or a refusal that names what does not fit."""

import functools
import json

import jsonschema
import pytest
from msgspec import UNSET
from msgspec.structs import replace

from certify.errors import InputError
from certify.report import FORMATS, merge_reports, report_schema, smoothing_statement, verify_report
from certify.report.summary import summarise_smoothing
from certify.results import Falsifier, Part, report_from_json, report_to_json, seal
from tests.report.sample_reports import (
    data_record,
    lipschitz_clean,
    sequential_report,
    sequential_settled,
    smoothing_clean,
    smoothing_report,
)

OFF = Falsifier(level="off", tried="", found=0)


@functools.cache
def whole(build=None):
    report = build() if build else smoothing_report([1.0, 0.9, 0.5, 0.97, 0.55, 1.0, 0.2])
    return seal(replace(report, gates=(), falsifier=OFF))


def part_of(report, number, parts):
    rows = report.examples[number - 1 :: parts]
    part = Part(number=number, parts=parts, of=len(report.examples), sha256=report.data.sha256)
    statement = smoothing_statement(
        settings=report.settings, model=report.model, tables=report.tables, examples=len(rows)
    )
    summary = summarise_smoothing(rows, report.settings)
    data = replace(data_record(rows), part=part)
    return seal(replace(report, examples=rows, data=data, statement=statement, summary=summary))


def parts_of(report, parts):
    return [part_of(report, number, parts) for number in range(1, parts + 1)]


@pytest.mark.parametrize("said", [(True, True), (True, UNSET), (UNSET, UNSET)])
def test_the_whole_is_of_8_bit_pixels_where_every_part_says_so(said):
    given = [
        seal(replace(part, data=replace(part.data, eight_bit=one)))
        for part, one in zip(parts_of(whole(), 2), said, strict=True)
    ]
    merged = merge_reports(given)
    assert merged.data.eight_bit is (UNSET if UNSET in said else True)
    assert verify_report(merged) == ()


RUNS = ((None, 1), (None, 3), (None, 7), (smoothing_clean, 5), (lambda: sequential_report([1.0, 0.7, 0.3]), 2))


@pytest.mark.parametrize("build, parts", RUNS)
def test_the_parts_of_a_run_make_the_report_of_the_whole(build, parts):
    report = whole(build)
    given = parts_of(report, parts)
    assert all(verify_report(part) == () for part in given)
    merged = merge_reports([*given[::-1], given[0]])
    assert merged == report
    assert verify_report(merged) == ()


def test_a_part_says_so_in_every_view_that_names_its_data():
    part = part_of(whole(), 2, 3)
    for name in ("terminal", "markdown", "html"):
        assert "part 2 of 3 of first rows" in " ".join(FORMATS[name](part).split())
    text = report_to_json(part)
    assert report_from_json(text, name="part") == part
    jsonschema.Draft202012Validator(report_schema()).validate(json.loads(text))


def test_the_falsifier_of_all_is_the_least_of_them():
    one, two = parts_of(whole(), 2)
    quick = Falsifier(level="quick", tried="3 of 3", found=0)
    assert merge_reports([replace(one, falsifier=quick), two]).falsifier == OFF
    both = merge_reports([replace(one, falsifier=quick), replace(two, falsifier=quick)]).falsifier
    assert (both.level, both.tried) == ("quick", "part 1: 3 of 3; part 2: 3 of 3")


def test_earlier_seeds_of_any_part_are_told():
    one, two = parts_of(whole(), 2)
    two = replace(two, execution=replace(two.execution, earlier_seeds=(9,)))
    assert merge_reports([one, two]).execution.earlier_seeds == (1, 7, 9)
    assert merge_reports([one, two]).execution.earlier_runs is UNSET
    one, two = (replace(part, execution=replace(part.execution, earlier_runs=runs))
                for part, runs in ((one, ("n 5",)), (two, ("n 5", "at 0.1"))))  # fmt: skip
    assert merge_reports([one, two]).execution.earlier_runs == ("at 0.1", "n 5")


@functools.cache
def refused():
    report = whole()
    one, two, three = parts_of(report, 3)
    other_row = replace(one.examples[0], hash="0" * 64)
    doubled = replace(two, examples=one.examples[:2])
    wider = replace(two.data.part, of=9)
    changed, strangers = (
        [replace(part, data=replace(part.data, part=replace(part.data.part, sha256=digit * 64))) for part in of]
        for digit, of in (("a", (two,)), ("b", (one, two, three)))
    )
    reseeded = replace(two, settings=replace(two.settings, seed=1))
    return {
        "none": ([], "got none"),
        "a missing part": ([one, three], "none numbered 2"),
        "a whole run": ([report], "whole run"),
        "another kind": ([lipschitz_clean()], "another kind"),
        "a judged one": ([replace(one, gates=smoothing_clean().gates), two, three], "without gates"),
        "one that stopped": ([replace(sequential_settled(), data=one.data, gates=())], "without gates"),
        "another seed": ([one, reseeded, three], "differ in their settings"),
        "another model": ([one, two, replace(three, model=replace(three.model, sha256="0" * 64))], "in their model"),
        "another size": ([one, replace(two, data=replace(two.data, part=wider)), three], "one selection"),
        "another selection": ([one, replace(two, data=replace(two.data, selection="x")), three], "one selection"),
        "data that changed": ([one, *changed, three], "one selection of examples"),
        "parts of other data": (strangers, "not of it"),
        "a part twice": ([one, two, three, replace(one, examples=(other_row, *one.examples[1:]))], "different rows"),
        "rows twice": ([one, doubled, three], "some of them twice"),
    }


@pytest.mark.parametrize("name", refused())
def test_what_is_no_complete_run_is_refused(name):
    reports, words = refused()[name]
    with pytest.raises(InputError, match=words):
        merge_reports(reports)


@pytest.mark.parametrize("number, parts, of", [(2, 2, 7), (1, 3, 7), (1, 2, 9), (3, 2, 7)])
def test_a_part_that_holds_other_examples_is_found(number, parts, of):
    report = part_of(whole(), 1, 2)
    part = Part(number=number, parts=parts, of=of, sha256=report.data.part.sha256)
    claimed = seal(replace(report, data=replace(report.data, part=part)))
    assert "data.part" in [finding.where for finding in verify_report(claimed)]
    assert verify_report(replace(report, data=replace(report.data, part=UNSET)))


@pytest.mark.parametrize("parts, sha256", [(2, "0" * 63), (2, ""), (1, "0" * 64)])
def test_a_hash_that_is_not_of_the_whole_selection_is_found(parts, sha256):
    report = part_of(whole(), 1, parts)
    claimed = seal(replace(report, data=replace(report.data, part=replace(report.data.part, sha256=sha256))))
    assert [finding.where for finding in verify_report(claimed)] == ["data.part.sha256"]


def test_parts_of_an_earlier_version_without_that_hash_still_merge():
    parts = [seal(replace(part, data=replace(part.data, part=replace(part.data.part, sha256=UNSET))))
             for part in parts_of(whole(), 3)]  # fmt: skip
    assert merge_reports(parts) == merge_reports(parts_of(whole(), 3))
