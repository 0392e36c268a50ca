"""The HTML view, read by a parser: whole, closed to the network, escaped, readable by all, and true to the report."""

import itertools
import re
import unicodedata

import pytest
from msgspec.structs import replace

from certify.report.curve import curve_of, describe_curve, share_at, thin_out
from certify.report.html_view import NamedReport, render_html, render_html_page
from certify.report.html_view.page import content_policy
from certify.report.sections.certificates import count_bins, count_classes
from certify.results import certified_at
from tests.report.hostile_reports import HOSTILE, HOSTILE_REPORTS
from tests.report.page_structure import Page, faults
from tests.report.sample_reports import (
    SAMPLES,
    lipschitz_clean,
    lipschitz_example,
    lipschitz_report,
    network_alone,
    sequential_settled,
    sequential_whole,
    smoothing_abstaining,
    smoothing_clean,
    smoothing_report,
    unbounded_network,
)

STRIPPED = "[2J<script>alert(1)</script>31m=1+1 ::error::x name[bold red]|`@a"

every_sample = pytest.mark.parametrize("build", SAMPLES.values(), ids=SAMPLES)


@every_sample
def test_a_page_is_whole_closed_to_the_network_and_readable_by_all(build):
    assert faults(render_html(build())) == []


def test_several_reports_on_one_page_are_as_good():
    reports = [NamedReport(name, build(), warning="a: expected 1, found 2") for name, build in SAMPLES.items()]
    text = render_html_page(reports)
    assert faults(text) == []
    page = Page(text)
    assert len(page.all("article")) == len(SAMPLES)
    assert sum("it contradicts itself" in element.text for element in page.all("p")) == len(SAMPLES)


@pytest.mark.parametrize("build", HOSTILE_REPORTS.values(), ids=HOSTILE_REPORTS)
def test_a_hostile_name_is_shown_and_never_obeyed(build):
    text = render_html_page([NamedReport(HOSTILE, build(), warning=HOSTILE), NamedReport(HOSTILE, build())])
    assert faults(text) == []
    page = Page(text)
    assert "alert" not in page.all("script")[0].text
    assert STRIPPED in page.all("main")[0].text
    assert not {character for character in text if unicodedata.category(character)[0] == "C"} - {"\n"}


def test_markup_in_a_gate_or_a_class_becomes_text():
    text = render_html(HOSTILE_REPORTS["lipschitz"]())
    assert "<script>alert" not in text
    verdict = next(element for element in Page(text).all("h3") if "alert" in element.text)
    assert verdict.text.endswith(STRIPPED)
    assert "verdicts" not in verdict.inside


def test_a_picture_is_shown_where_its_hash_is_known_and_only_then_are_images_allowed():
    report = lipschitz_clean()
    pictures = {example.hash: "iVBORw0KGgo=" for example in report.examples[:3]}
    text = render_html_page([NamedReport("a", report, pictures=pictures)])
    assert faults(text) == []
    assert len(Page(text).all("img")) == 3
    assert "97 of 100 are without one" in text
    assert "img-src data:" in text
    assert "img-src" not in render_html(report)
    assert "img-src" not in content_policy(pictures=False)


# ---- what the page says is what the report says --------------------------------------------------------------------


def table_rows(text, caption):
    page = Page(text)
    index = next(k for k, e in enumerate(page.elements) if e.tag == "caption" and e.text == caption)
    rows, row = [], []
    for element in page.elements[index + 1 :]:
        if element.tag in ("table", "section"):
            break
        if element.tag == "tr":
            rows.append(row := [])
        if element.tag in ("td", "th"):
            row.append(element.text)
    return rows


def test_verdicts_stand_first_with_their_numbers():
    report = lipschitz_clean()
    text = Page(render_html(report)).all("main")[0].text
    places = [text.index(gate.reason) for gate in report.gates]
    assert max(places) < text.index("What is promised")
    assert "passed" in text[: places[0]]


def test_the_examples_table_has_every_example_in_order():
    report = smoothing_abstaining()
    head, *rows = table_rows(render_html(report), "Examples")
    assert head[:6] == ["index", "example", "radius", "label", "predicted", "correct"]
    assert [row[1] for row in rows] == [example.id for example in report.examples]
    for row, example in zip(rows, report.examples, strict=True):
        assert float(row[2]) <= example.radius < float(row[2]) * 1.001 + 1e-300
        assert (row[4] == "abstained") == (example.predicted is None)


def test_the_floors_are_called_estimates_and_the_bound_proved():
    text = Page(render_html(network_alone())).all("main")[0].text
    assert "2.4692" in text
    assert text.count("an estimate:") == 2
    assert "upper, proved" in text
    unproved = network_alone()
    unproved = replace(unproved, network=replace(unproved.network, proved=False))
    assert "upper, proved" not in Page(render_html(unproved)).all("main")[0].text


def test_no_bound_is_said_with_its_reason():
    assert "No bound: no rule for softmax attention" in Page(render_html(unbounded_network())).all("main")[0].text


def test_a_run_that_stopped_early_shows_counts_and_no_share():
    text = Page(render_html(sequential_settled())).all("main")[0].text
    assert "is no accuracy" in text
    assert "class by class" not in text
    assert curve_of(sequential_settled()) is None


def test_classes_are_counted_as_a_loop_would():
    rows = [lipschitz_example(k, 0.5 + k, label=k % 3, predicted=k % 2) for k in range(12)]
    report = lipschitz_report(rows)
    for row in count_classes(report, 2.0):
        mine = [e for e in rows if report.model.classes[e.label] == row.name]
        assert row.examples == len(mine)
        assert row.clean == sum(e.clean_predicted == e.label for e in mine)
        assert row.certified == sum(certified_at(e, 0.0) for e in mine)
        assert row.at_radius == sum(certified_at(e, 2.0) for e in mine)


def test_every_radius_falls_into_the_bin_that_holds_it():
    radii = [0.0999, 0.1, 0.30000000000000004, 0.5]
    assert count_bins(radii, 0.1) == [1, 1, 0, 1, 0, 1]


# ---- the curve -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [lipschitz_clean, smoothing_clean])
def test_the_drawn_line_never_lies_above_the_observed_share(build):
    report = build()
    curve = curve_of(report)
    for (low, _), (high, share) in itertools.pairwise(curve.steps):
        for radius in (low + (high - low) / 3, high):
            true = sum(certified_at(example, radius) for example in report.examples) / len(report.examples)
            assert share <= true


@pytest.mark.parametrize("build", [lipschitz_clean, smoothing_clean, sequential_whole])
def test_the_band_holds_the_observed_share_and_the_limits_of_the_summary(build):
    report = build()
    curve = curve_of(report)
    known = {row.radius: row for row in report.summary.certified_accuracy}
    for row in curve.limits:
        assert row.lower <= row.accuracy <= row.upper
        assert row == known.get(row.radius, row)
    assert all(low.upper >= high.upper for low, high in itertools.pairwise(curve.limits))
    assert curve.beyond_upper <= curve.limits[-1].upper
    assert {r for r, row in known.items() if row.accuracy > 0} <= {row.radius for row in curve.limits}


def test_a_thinned_curve_keeps_its_ends_and_its_order():
    values = [k / 7 for k in range(5000)]
    thin = thin_out(values, 400)
    assert (len(thin), thin[0], thin[-1]) == (400, values[0], values[-1])
    assert thin == sorted(thin)


def test_shares_count_the_radius_itself():
    assert [share_at([0.25, 0.25, 0.5], r, 3) for r in (0.0, 0.25, 0.2500001, 0.5, 0.6)] == [1, 1, 1 / 3, 1 / 3, 0]


def test_an_unlimited_radius_leaves_the_axis_readable():
    rows = [replace(lipschitz_example(0, 1.0), radius=1.7e308), lipschitz_example(1, 1.0)]
    report = lipschitz_report(rows)
    assert curve_of(report).reach < 1
    assert not re.search(r"\d{9,}", " ".join(e.attributes.get("d", "") for e in Page(render_html(report)).all("path")))


# ---- contrast ------------------------------------------------------------------------------------------------------


def luminance(colour):
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_text_colour_stands_out_from_what_lies_behind_it(scheme):
    style = Page(render_html(network_alone())).all("style")[0].text
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", style.split(":root {")[1 + scheme]))
    for behind in ("paper", "card"):
        for name in ("ink", "soft", "passed", "failed", "undecided", "s0", "s1", "s2", "s3", "s4", "s5"):
            assert contrast(colours[name], colours[behind]) >= 4.5, (name, behind)


def test_beside_others_a_report_stands_with_its_long_tables_folded():
    """Alone all examples are open; together the figures are what is read."""
    report = smoothing_report([0.9] * 30)
    alone, both = render_html(report), render_html_page([NamedReport("a.json", report), NamedReport("b.json", report)])
    assert both.count("<details") == 2 * (alone.count("<details") + 1)


def test_what_the_curve_says_is_not_certified_beyond_is_not():
    """The largest radius is named rounded up: rounded down, it would say that nothing is certified at that radius."""
    report = smoothing_report([0.9, 0.95, 1.0])
    named = float(re.search(r"none beyond (.*)", describe_curve(curve_of(report)))[1])
    assert max(example.radius for example in report.examples) <= named
    assert f"none beyond {named!r}" in render_html(report)
