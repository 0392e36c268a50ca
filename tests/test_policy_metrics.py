"""Gates on every class, on the mean radius and on the network, held to their statements by exact enumeration."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import comb

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from certify.errors import InputError
from certify.policy import Gate, Settlement, answers_gate, asked_radii, evaluate_gates, parse_gates, requirement
from certify.policy.fits import largest_radius
from certify.report import FORMATS, verify_report
from certify.results import NetworkBound, SmoothingSettings, report_from_json, report_to_json, seal
from certify.stats import population_limits
from certify.stats.mean_radius import mean_radius_limits
from tests.report.sample_reports import (
    SETTINGS,
    lipschitz_clean,
    lipschitz_empty,
    lipschitz_example,
    lipschitz_report,
    network_alone,
    sequential_few,
    smoothing_clean,
    smoothing_report,
    unbounded_with_data,
)


def class_gate(least=0.5, **options):
    return Gate(name="classes", metric="class_certified_accuracy", radius=0.1, min=least, **options)


def mean_gate(least=0.2, **options):
    return Gate(name="mean", metric="mean_radius", min=least, **options)


def network_gate(most, **options):
    return Gate(name="network", metric="lipschitz", max=most, **options)


def row_of(report, gate):
    return evaluate_gates(report, [gate])[0]


def labelled(counts):
    """A report in which ``certified`` of ``n`` examples of each class are certified at radius 0.3."""
    rows = []
    for label, (certified, n) in enumerate(counts):
        for k in range(n):
            example = lipschitz_example(len(rows), 1.0 if k < certified else 0.0)
            predicted = None if example.predicted is None else label
            rows.append(replace(example, label=label, predicted=predicted, clean_predicted=label))
    return lipschitz_report(rows)


CLASSES = len(lipschitz_clean().model.classes)


def test_the_sample_reports_have_three_classes():
    assert CLASSES == 3


# ---- every class ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("least", [0.5, 0.7])
def test_a_class_gate_passes_when_each_class_passes_and_fails_when_one_fails_at_a_third_of_the_level(least):
    n, gate = 12, class_gate(least)
    passes = requirement(gate, n, 0.0).passes_from
    fails = requirement(replace(gate, confidence=1 - 0.05 / 3), n, 0.0).fails_to
    assert fails < requirement(gate, n, 0.0).fails_to
    for counts in product((0, fails, fails + 1, passes - 1, passes, n), repeat=3):
        verdict = "failed" if min(counts) <= fails else "passed" if min(counts) >= passes else "undecided"
        assert row_of(labelled([(count, n) for count in counts]), gate).verdict == verdict, counts


def chances(n, share):
    return [comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]


@pytest.mark.parametrize("n", [6, 20, 60])
def test_a_bad_class_passes_and_a_good_model_fails_with_probability_at_most_one_in_twenty(n):
    """The worst cases: one class just below the threshold beside perfect ones; all classes just at it."""
    gate = class_gate(0.5)
    passes = requirement(gate, n, 0.0).passes_from
    fails = requirement(replace(gate, confidence=1 - 0.05 / 3), n, 0.0).fails_to
    law = chances(n, Fraction(1, 2))
    assert sum(law[passes:]) <= Fraction(1, 20)
    assert 1 - (1 - sum(law[: fails + 1])) ** CLASSES <= Fraction(1, 20)


def test_the_limits_of_a_class_gate_are_those_of_the_worst_class():
    row = row_of(labelled([(30, 30), (12, 20), (9, 10)]), class_gate(0.3))
    lower, _ = population_limits(12, 20, confidence=0.95, alpha=0.0)
    _, upper = population_limits(12, 20, confidence=1 - 0.05 / 3, alpha=0.0)
    assert (row.value, row.lower) == (0.6, lower)
    assert upper <= row.upper < upper + 1e-12
    assert "2 of 3 classes pass" not in row.reason
    assert row.reason.startswith("3 of 3 classes pass; class ")


def test_the_reason_names_the_class_that_fails():
    row = row_of(labelled([(30, 30), (0, 20), (9, 10)]), class_gate(0.5))
    name = lipschitz_clean().model.classes[1]
    assert row.verdict == "failed"
    assert f"class {name!r}: 0 of 20" in row.reason


def test_a_class_without_examples_is_undecided():
    row = row_of(labelled([(30, 30), (20, 20)]), class_gate(0.1))
    assert (row.verdict, row.lower, row.value) == ("undecided", 0.0, None)
    assert row.reason.endswith("a class without examples shows nothing")
    assert row_of(lipschitz_empty(), class_gate(0.0)).verdict == "undecided"


@pytest.mark.parametrize("options", [{"claim": "list"}, {"on": "estimate"}])
def test_without_a_population_each_class_is_plainly_counted(options):
    gate = class_gate(0.5, **options)
    assert row_of(labelled([(5, 10), (2, 4), (1, 2)]), gate).verdict == "passed"
    assert row_of(labelled([(5, 10), (2, 4), (0, 2)]), gate).verdict == "failed"


def test_a_run_with_a_class_gate_is_never_settled_early():
    watching = Settlement([class_gate()], n=3, alpha=0.0)
    for example in labelled([(1, 1), (1, 1), (1, 1)]).examples:
        watching.add(example)
    assert watching.verdicts == (None,)
    assert not watching.settled


# ---- the mean radius -----------------------------------------------------------------------------------------------


def test_a_mean_of_the_population_is_three_way():
    report = smoothing_report([1.0] * 60 + [0.5] * 20, settings=replace(SETTINGS, procedure="fixed", n=256))
    radii = [example.radius * example.correct for example in report.examples]
    cap = largest_radius(report)
    assert max(radii) <= cap
    lower, upper = mean_radius_limits(radii, confidence=0.95, alpha=SETTINGS.alpha, cap=cap)
    assert 0 < lower < upper
    for least, verdict in ((lower, "passed"), ((lower + upper) / 2, "undecided"), (upper * 1.001, "failed")):
        row = row_of(report, mean_gate(least))
        assert (row.verdict, row.lower, row.upper) == (verdict, lower, upper)


def test_deterministic_radii_have_no_upper_limit_and_the_reason_says_so():
    report = labelled([(0, 20)] * 3)
    row = row_of(report, mean_gate(5.0))
    assert (row.verdict, row.upper) == ("undecided", None)
    assert "no largest radius is known" in row.reason


@pytest.mark.parametrize("options", [{"claim": "list"}, {"on": "estimate"}])
def test_the_mean_of_a_list_turns_at_its_exact_value(options):
    report = labelled([(3, 4)] * 3)
    total = sum(Fraction(example.radius) for example in report.examples if example.correct)
    mean = total / 12
    assert row_of(report, mean_gate(float(mean) * (1 - 1e-12), **options)).verdict == "passed"
    assert row_of(report, mean_gate(float(mean) * (1 + 1e-12), **options)).verdict == "failed"


def test_a_smoothed_list_gives_up_as_many_of_its_largest_radii_as_may_be_false():
    report = smoothing_report([1.0] * 80, settings=replace(SETTINGS, procedure="fixed", n=256))
    plain, shown = (row_of(report, mean_gate(0.0, **options)) for options in ({"on": "estimate"}, {"claim": "list"}))
    assert shown.lower == pytest.approx(plain.value * 79 / 80, rel=1e-12)
    assert (plain.lower, plain.upper) == (None, None)


def test_a_mean_needs_examples_and_measured_radii():
    assert row_of(lipschitz_empty(), mean_gate(0.0)).verdict == "undecided"
    with pytest.raises(InputError, match="expected measured radii"):
        row_of(sequential_few(), mean_gate())
    with pytest.raises(InputError, match="expected certificates in linf"):
        row_of(lipschitz_clean(), mean_gate(norm="linf"))
    with pytest.raises(InputError, match="expected a report with data"):
        row_of(network_alone(), mean_gate())


def test_a_run_for_a_mean_measures_radii():
    settings = SmoothingSettings(sigma=0.25)
    assert asked_radii([mean_gate(), class_gate()], settings) == (0.1,)
    assert answers_gate(settings, mean_gate())
    assert not answers_gate(SmoothingSettings(sigma=0.25, at=(0.1,)), mean_gate())


# ---- the network ---------------------------------------------------------------------------------------------------


def bounded(lower, upper, proved=True, report=network_alone):
    found = report()
    reason = UNSET if upper is not None else "attention has no bound"
    network = NetworkBound(norm="l2", lower=lower, upper=upper, method="product", proved=proved, reason=reason)
    return replace(found, network=network)


@pytest.mark.parametrize(
    "lower, upper, proved, verdict",
    [
        (1.0, 2.0, True, "passed"),
        (1.0, 2.0000001, True, "undecided"),
        (2.0, 3.0, True, "undecided"),
        (2.0000001, 3.0, True, "failed"),
        (None, 2.0, True, "passed"),
        (None, 3.0, True, "undecided"),
        (None, None, True, "undecided"),
        (3.0, None, True, "failed"),
        (1.0, 1.5, False, "undecided"),
        (3.0, 4.0, False, "undecided"),
    ],
)
def test_a_network_gate_rests_on_proved_bounds_alone(lower, upper, proved, verdict):
    row = row_of(bounded(lower, upper, proved), network_gate(2.0))
    assert (row.verdict, row.lower, row.upper, row.threshold) == (verdict, lower, upper, 2.0)
    assert (row.claim, row.confidence, row.on) == (UNSET, UNSET, UNSET)


def test_a_network_gate_says_why_nothing_is_bounded():
    assert "attention has no bound" in row_of(bounded(None, None), network_gate(2.0)).reason


def test_a_network_gate_needs_a_report_of_its_kind_and_norm():
    with pytest.raises(InputError, match="expected a lipschitz report"):
        row_of(smoothing_clean(), network_gate(2.0))
    with pytest.raises(InputError, match="expected a bound in linf"):
        row_of(lipschitz_clean(), network_gate(2.0, norm="linf"))


def test_a_network_gate_has_neither_claim_nor_confidence():
    table = {"name": "n", "metric": "lipschitz", "max": 2}
    assert parse_gates([table])[0].certificates == "lipschitz"
    for extra in ({"claim": "list"}, {"confidence": 0.99}, {"on": "estimate"}, {"kind": "smoothing"}):
        with pytest.raises(InputError, match="remove"):
            parse_gates([{**table, **extra}])


# ---- every metric goes through verify and every format -------------------------------------------------------------

JUDGED = {
    "network": lambda: (bounded(1.0, 2.0), network_gate(2.0)),
    "network, data": lambda: (lipschitz_clean(), network_gate(2.0)),
    "network, no bound": lambda: (unbounded_with_data(), network_gate(2.0)),
    "classes": lambda: (labelled([(9, 10)] * 3), class_gate()),
    "classes, list": lambda: (smoothing_clean(), class_gate(claim="list")),
    "mean": lambda: (smoothing_clean(), mean_gate()),
    "mean, list": lambda: (lipschitz_clean(), mean_gate(claim="list")),
    "mean, estimate": lambda: (smoothing_clean(), mean_gate(on="estimate")),
}


@pytest.mark.parametrize("name", JUDGED)
def test_a_judged_report_is_consistent_and_shown_in_every_format(name):
    report, gate = JUDGED[name]()
    report = seal(replace(report, gates=evaluate_gates(report, [gate])))
    findings = [found for found in verify_report(report) if not found.where.startswith(("network", "statement"))]
    assert findings == []
    again = report_from_json(report_to_json(report), name="again")
    assert again == report
    for render in FORMATS.values():
        assert render(report, width=100, color=False)
    wrong = {"passed": "failed", "failed": "passed", "undecided": "passed"}[report.gates[0].verdict]
    edited = seal(replace(report, gates=(replace(report.gates[0], verdict=wrong),)))
    assert [found.where for found in verify_report(edited) if "verdict" in found.where] == ["gates[0].verdict"]
