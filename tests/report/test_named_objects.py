"""Cards and comparisons name what is certified: the task, the scores, and the scales of the noise."""

from __future__ import annotations

import pytest
import yaml
from msgspec import UNSET
from msgspec.structs import replace

from certify.policy import evaluate_gates
from certify.report import FORMATS, compare_reports, verify_report
from certify.report.html_view import NamedReport, render_html_page
from certify.report.promise_words import scales_words, scores_words
from certify.results import Scales, ScoreCandidate, ScoreTable, TopK
from tests.report.sample_reports import SETTINGS, gate, lipschitz_clean, smoothing_report

SCALES = Scales(sha256="5c" * 32, smallest=0.5, largest=2.0, geometric_mean=1.0)
SOFT = {"scores": "soft", "score_map": "sparsemax", "temperature": 4.0}
TABLE = ScoreTable(
    candidates=(ScoreCandidate(map="sparsemax", temperature=4.0, worth=1.0),),
    chosen=0,
    lipschitz=None,
    logit_error=None,
    reason="no bound",
)
NAMED = {
    "task": ({"task": TopK(2)}, "among its 2 likeliest"),
    "scores": (SOFT, scores_words("sparsemax", 4.0)),
    "scales": ({"scales": SCALES}, SCALES.sha256),
}
each = pytest.mark.parametrize(("options", "words"), NAMED.values(), ids=NAMED)


def report_with(options, shares):
    """A report of votes whose record says that something else was certified: views read the record alone."""
    report = smoothing_report(shares)
    scores = TABLE if "scores" in options else UNSET
    return replace(report, settings=replace(SETTINGS, **options), tables=replace(report.tables, scores=scores))


def compared(options):
    return compare_reports(report_with(options, [1.0] * 20), report_with(options, [1.0] * 19 + [0.5]))


@each
def test_comparisons_name_it_in_their_statement_and_in_every_view(options, words):
    comparison = compared(options)
    assert words in comparison.statement.text
    assert verify_report(comparison) == ()
    for name in ("terminal", "markdown", "html"):
        assert words in " ".join(FORMATS[name](comparison).replace("│", " ").split()), name


@each
def test_plain_comparisons_say_nothing_of_it(options, words):
    comparison = compared({})
    assert words not in comparison.statement.text
    assert words not in FORMATS["markdown"](comparison)


def test_comparisons_speak_of_the_smoothed_classifier_with_its_noise():
    text = compared({}).statement.text
    assert "the smoothed classifier (Gaussian noise rounded to the 8-bit grid, sigma" in text
    assert "gives the predicted class to every 8-bit grid point x' with ||x' - x||_2 < radius" in text
    scaled = compared({"scales": SCALES}).statement.text
    assert f"||D^-1 (x' - x)||_2 < radius, {scales_words(replace(SETTINGS, scales=SCALES))}in the space" in scaled


def metrics(report):
    (result,) = yaml.safe_load(FORMATS["card"](report))["model-index"][0]["results"]
    return result["metrics"]


@each
def test_cards_name_it_beside_every_number(options, words):
    found, plain = metrics(report_with(options, [1.0] * 20)), metrics(report_with({}, [1.0] * 20))
    assert found
    assert all(any(words in str(value) for value in metric["args"].values()) for metric in found)
    assert not any(words in str(metric) for metric in plain)


def test_cards_of_the_k_likeliest_measure_something_else():
    found = metrics(report_with({"task": TopK(2)}, [1.0] * 20))
    certified = [metric for metric in found if metric["type"] != "accuracy"]
    assert certified
    for metric in certified:
        assert metric["type"] == "certified_top_k_accuracy"
        assert metric["name"].startswith("Label certified among the k likeliest, l2 radius")
        assert (metric["args"]["task"], metric["args"]["k"]) == ("top-k", 2)


def test_cards_of_the_network_itself_have_no_task():
    assert all("task" not in metric["args"] for metric in metrics(lipschitz_clean()))


def test_headings_of_the_k_likeliest_name_another_share():
    """Each view says top-2 where it says certified accuracy of votes, in reports, comparisons and beside others."""
    report, plain = report_with({"task": TopK(2)}, [1.0] * 20), report_with({}, [1.0] * 20)
    for shown in (report, compared({"task": TopK(2)})):
        for name in ("terminal", "markdown", "html"):
            text = " ".join(FORMATS[name](shown).split())
            assert "Certified accuracy" not in text, name
            assert "Top-2 certified accuracy" in text or name != "html", name
    for name in ("terminal", "markdown"):
        assert "Top-2 certified accuracy" in FORMATS[name](report)
    page = render_html_page([NamedReport("two.json", report), NamedReport("votes.json", plain)])
    assert "Top-2 certified accuracy against radius, l2" in page
    assert "Certified accuracy against radius, l2" in page


def test_verdicts_on_the_k_likeliest_say_what_was_asked():
    report = report_with({"task": TopK(2)}, [1.0] * 20)
    judged = replace(report, gates=evaluate_gates(report, [gate(0.1, 0.5)]))
    for name in ("markdown", "html"):
        assert "top-2 certified accuracy at radius 0.1 at least 0.5" in FORMATS[name](judged)
