"""Several reports in one text: valid in its format, or refused; every format has an answer."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest
import yaml

import certify
from certify.errors import InputError
from certify.report import FORMATS, render_several
from certify.report.several import MARKDOWN_BYTES, SEVERAL
from certify.results import document_from_json, dump_json
from tests.report.hostile_reports import HOSTILE_REPORTS
from tests.report.sample_comparisons import COMPARISONS
from tests.report.sample_reports import SAMPLES, lipschitz_clean, smoothing_report

PAIR = (lipschitz_clean(), smoothing_report([1.0] * 20))


def test_json_is_one_list_of_reports_that_read_as_they_were():
    found = json.loads(render_several(PAIR, "json"))
    assert [document_from_json(dump_json(report), name="a") for report in found] == list(PAIR)
    assert json.loads(render_several(PAIR[:1], "json"))["kind"] == "lipschitz"


def test_junit_is_one_document_whose_totals_are_those_of_all_suites():
    reports = [build() for build in SAMPLES.values()]
    root = ElementTree.fromstring(render_several(reports, "junit"))
    assert len(root) == len(reports)
    for total in ("tests", "failures", "errors"):
        assert int(root.get(total)) == sum(int(suite.get(total)) for suite in root)
    assert int(root.get("tests")) == sum(len(report.gates) for report in reports) > 0


def test_a_card_has_one_entry_for_each_model():
    block = yaml.safe_load(render_several((*PAIR, *PAIR), "card"))["model-index"]
    names = [entry["name"] for entry in block]
    assert len(names) == len(set(names)) == len({report.model.sha256 for report in PAIR})
    assert sum(len(entry["results"]) for entry in block) == 4


def test_a_page_and_markdown_hold_all_of_them():
    page, text = (render_several(PAIR, name) for name in ("html", "markdown"))
    for report in PAIR:
        assert report.digest in page
        assert report.digest in text


def test_markdown_of_many_reports_says_how_many_were_left_out(monkeypatch):
    one = FORMATS["markdown"](PAIR[0])
    monkeypatch.setattr("certify.report.several.MARKDOWN_BYTES", 3 * len(one.encode()) + 10)
    text = render_several([PAIR[0]] * 7, "markdown")
    assert text.count(PAIR[0].digest) == 3
    assert "and 4 more of 7 reports" in text
    assert MARKDOWN_BYTES + 1000 < 2**20


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - SEVERAL.keys()))
def test_a_table_takes_one_report(name):
    with pytest.raises(InputError, match=f"expected one report with --format {name}, got 2"):
        render_several(PAIR, name)


def test_every_format_shows_several_or_refuses_them():
    assert FORMATS.keys() - SEVERAL.keys() == {"csv", "tsv"}
    assert certify.render(PAIR, "json") == render_several(PAIR, "json")


@pytest.mark.parametrize("name", SEVERAL)
def test_hostile_names_do_no_more_harm_together(name):
    """Each renderer is the one of a single report, which is attacked on its own: together, nothing is undone."""
    text = render_several([build() for build in HOSTILE_REPORTS.values()], name)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    if name in ("html", "markdown", "junit"):  # where it would be markup
        assert "<script>alert" not in text
    assert not [line for line in text.splitlines() if line.startswith("::")]


def test_comparisons_stand_beside_reports():
    reports = [PAIR[0], *(build() for build in COMPARISONS.values())]
    assert len(ElementTree.fromstring(render_several(reports, "junit"))) == len(reports)
    with pytest.raises(InputError, match="expected certificates of classes"):
        render_several(reports, "card")
