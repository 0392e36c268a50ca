"""Radii at another alpha: what is sound is computed, what is not is refused, and picking the best has its price."""

import math

import pytest
from msgspec.structs import replace
from scipy.special import ndtri
from scipy.stats import multinomial

import certify
from certify.errors import InputError
from certify.report.recertified import recertify
from certify.stats import BOUNDS
from tests.report.sample_reports import (
    SETTINGS,
    lipschitz_clean,
    sequential_few,
    smoothing_abstaining,
    smoothing_float_fixed,
    smoothing_report,
)

REPORTS = (smoothing_abstaining, smoothing_float_fixed, lambda: smoothing_report([1.0, 0.97, 0.8, 0.55, 0.2]))


@pytest.mark.parametrize("build", REPORTS)
def test_at_the_same_alpha_and_bound_the_radii_are_those_of_the_report(build):
    report = build()
    found = recertify(report)
    assert [(e.index, e.predicted, e.radius) for e in found.examples] == [
        (e.index, e.predicted, e.radius) for e in report.examples
    ]
    assert (found.alpha, found.bounds, found.together) == (report.settings.alpha, (report.settings.bound,), None)


def test_a_smaller_alpha_never_gives_a_larger_radius():
    report = smoothing_report([1.0, 0.97, 0.8, 0.6])
    radii = [[e.radius for e in recertify(report, alpha=alpha).examples] for alpha in (1e-3, 1e-4, 1e-6)]
    assert radii[0] > radii[1] > radii[2]
    assert all(a >= b >= c for a, b, c in zip(*radii, strict=True))


def test_together_each_runs_at_its_share():
    report = smoothing_report([1.0] * 50)
    found = recertify(report, together=True)
    assert found.together == 1e-3
    assert 0.99999 * 2e-5 < found.alpha <= 2e-5
    assert found.examples == recertify(report, alpha=found.alpha).examples
    assert "all hold together, except with probability at most 0.001" in found.statement


def test_the_best_of_several_bounds_pays_for_the_choice():
    report = smoothing_report([1.0, 0.97, 0.8, 0.6], settings=replace(SETTINGS, float_noise=True), integer_noise=False)
    found = recertify(report, bounds=("two-interval", "clopper-pearson"))
    for row, example in zip(found.examples, report.examples, strict=True):
        counts = example.counts.estimation
        parts = [max(0.0, BOUNDS[name](counts, 1, 0.0005, 0.25)) for name in found.bounds]
        assert row.radius == pytest.approx(max(parts), rel=1e-12)


def test_the_best_of_two_bounds_errs_more_often_than_each_and_at_halves_within_alpha():
    """Exact sums over all counts of three classes, at a law where the two bounds fail at different counts."""
    n, alpha, law = 30, 0.05, (0.5327, 0.4632, 0.0041)
    truth = float(ndtri(law[0]) - ndtri(law[1])) / 2.0

    def error(names, level):
        return sum(
            multinomial.pmf(counts, n, law)
            for counts in ((a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a))
            if max(BOUNDS[name](counts, 0, level, 1.0) for name in names) > truth
        )

    names = ("two-interval", "clopper-pearson")
    assert error(names, alpha) > max(error((name,), alpha) for name in names)
    assert error(names, alpha / 2.0) <= alpha


@pytest.mark.parametrize(
    "build, options, message",
    [
        (sequential_few, {}, "a sequential test ended"),
        (sequential_few, {"alpha": 1e-5}, "run without --at"),
        (lipschitz_clean, {}, "expected a smoothing report"),
        (smoothing_abstaining, {"alpha": 0.01}, "at most the report's 0.001"),
        (smoothing_abstaining, {"alpha": 0.0}, "above 0"),
        (smoothing_abstaining, {"alpha": math.nan}, "above 0"),
        (smoothing_abstaining, {"bounds": ("clopper-pearson",)}, "another bound alone"),
        (smoothing_abstaining, {"bounds": ("two-interval", "two-interval")}, "bounds that differ"),
        (smoothing_abstaining, {"alpha": 1e-13}, "at most half of alpha"),
    ],
)
def test_what_would_not_hold_is_refused(build, options, message):
    with pytest.raises(InputError, match=message):
        recertify(build(), **options)


def test_a_report_of_one_stopped_example_is_refused_too():
    report = smoothing_abstaining()
    stopped = replace(report, examples=(replace(report.examples[0], stopped="gs"), *report.examples[1:]))
    with pytest.raises(InputError, match="a sequential test ended"):
        recertify(stopped)


def test_the_library_has_it():
    assert certify.recertify is recertify
