from fractions import Fraction
from math import comb

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from certify.report import FORMATS, verify_report
from certify.report.summary import RADII, summarise_lipschitz, summarise_smoothing
from certify.results import LipschitzSettings, seal
from certify.stats.whole_curve import whole_curve_deviation
from tests.report.sample_reports import (
    SETTINGS,
    lipschitz_clean,
    lipschitz_empty,
    lipschitz_example,
    lipschitz_linf,
    lipschitz_mixed,
    sequential_settled,
    smoothing_clean,
    smoothing_failing,
)

REPORTS = [lipschitz_clean, lipschitz_mixed, lipschitz_linf, smoothing_clean, smoothing_failing]


def tail(n, k, p):
    """P(Bin(n, p) >= k), exactly."""
    return sum(comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k, n + 1))


@pytest.mark.parametrize("build", REPORTS)
def test_counts_are_those_of_a_plain_loop(build):
    report = build()
    n = len(report.examples)
    for row in report.summary.certified_accuracy:
        count = 0
        for example in report.examples:
            if example.predicted == example.label and example.radius > 0 and example.radius >= row.radius:
                count += 1
        assert row.accuracy == count / n
        assert row.lower <= row.accuracy <= row.upper


@pytest.mark.parametrize("build", [lipschitz_mixed, lipschitz_linf])
def test_limits_without_chance_are_exact_binomial_limits(build):
    report = build()
    n, delta = len(report.examples), 1 - Fraction(0.95)
    for row in report.summary.certified_accuracy:
        count = round(row.accuracy * n)
        if count:
            assert tail(n, count, Fraction(row.lower)) <= delta  # a share this low is refuted by so many
        if count < n:
            assert 1 - tail(n, count + 1, Fraction(row.upper)) <= delta


def test_smoothing_limits_hold_the_chance_of_false_certificates():
    report = smoothing_failing()
    n, alpha, delta = len(report.examples), Fraction(report.settings.alpha), 1 - Fraction(0.95)
    for row in report.summary.certified_accuracy:
        count = round(row.accuracy * n)
        if count:
            truly = Fraction(row.lower)
            assert tail(n, count, truly + alpha * (1 - truly)) <= delta


@pytest.mark.parametrize("build", REPORTS)
def test_the_mean_radius_is_never_above_the_exact_one(build):
    report = build()
    exact = sum(Fraction(row.radius) for row in report.examples if row.correct) / len(report.examples)
    assert exact * (1 - Fraction(1, 2**50)) <= Fraction(report.summary.mean_radius) <= exact


def test_an_equal_radius_counts_and_one_float_less_does_not():
    half = replace(lipschitz_example(0, 1.0), radius=0.5)
    below = replace(half, radius=0.49999999999999994)
    at = {
        example.radius: {
            row.radius: row.accuracy for row in summarise_lipschitz([example], LipschitzSettings()).certified_accuracy
        }
        for example in (half, below)
    }
    assert at[0.5][0.5] == 1.0
    assert at[0.49999999999999994][0.5] == 0.0


def test_radius_zero_needs_a_positive_radius():
    row = replace(lipschitz_example(0, 1.0), radius=0.0, correct=True)
    assert summarise_lipschitz([row], LipschitzSettings()).certified_accuracy[0].accuracy == 0.0


def test_a_wrong_class_with_a_radius_never_counts():
    row = lipschitz_example(0, 1.0, label=0)
    assert row.radius > 0
    assert all(at.accuracy == 0.0 for at in summarise_lipschitz([row], LipschitzSettings()).certified_accuracy)


def test_no_examples_show_nothing():
    summary = summarise_smoothing([], SETTINGS)
    assert (summary.examples, summary.clean_accuracy, summary.mean_radius) == (0, 0.0, None)
    assert {(row.lower, row.upper) for row in summary.certified_accuracy} == {(0.0, 1.0)}


def test_each_norm_has_its_own_radii():
    for build, norm in ((lipschitz_linf, "linf"), (lipschitz_clean, "l2"), (smoothing_clean, "l2")):
        assert tuple(row.radius for row in build().summary.certified_accuracy) == RADII[norm]


def test_the_radii_asked_for_rise_from_zero():
    assert all(radii[0] == 0.0 and list(radii) == sorted(set(radii)) for radii in RADII.values())


def test_the_whole_curve_is_stated_wherever_shares_are():
    report = smoothing_clean()
    whole = report.summary.whole_curve
    assert (whole.deviation, whole.confidence) == (whole_curve_deviation(100, confidence=0.95, alpha=0.001), 0.95)
    assert "at all radii at once: at least the observed share minus 0.124, at 0.95" in FORMATS["terminal"](report)
    assert lipschitz_clean().summary.whole_curve.deviation < whole.deviation
    assert sequential_settled().summary.whole_curve is UNSET
    assert lipschitz_empty().summary.whole_curve is UNSET


def test_a_report_from_before_is_consistent_and_an_edited_curve_is_not():
    report = smoothing_clean()
    before = seal(replace(report, summary=replace(report.summary, whole_curve=UNSET)))
    assert verify_report(before) == ()
    better = replace(report.summary.whole_curve, deviation=0.1)
    edited = seal(replace(report, summary=replace(report.summary, whole_curve=better)))
    assert {finding.where for finding in verify_report(edited)} == {"summary.whole_curve.deviation"}
