import math
import tomllib
from fractions import Fraction
from itertools import accumulate
from math import comb

import pytest
from msgspec.structs import replace

from certify.errors import InputError
from certify.policy import Gate, evaluate_gates, gate_exit_code, least_examples, parse_gates, requirement
from certify.stats import BOUNDS, charged_alpha
from tests.report.sample_reports import (
    SETTINGS,
    clean_gate,
    gate,
    lipschitz_clean,
    lipschitz_empty,
    lipschitz_example,
    lipschitz_linf,
    lipschitz_report,
    network_alone,
    smoothing_clean,
    smoothing_empty,
    smoothing_report,
    unbounded_with_data,
)

ALPHA = 0.001


def judge(report, *gates):
    return [row.verdict for row in evaluate_gates(report, gates)]


def lipschitz_with(count, n):
    """A report in which ``count`` of ``n`` examples are certified, at radius 0.3."""
    return lipschitz_report([lipschitz_example(i, 1.0 if i < count else 0.0) for i in range(n)])


def smoothing_with(count, n):
    settings = replace(SETTINGS, procedure="fixed", n=256)
    return smoothing_report([1.0] * count + [0.5] * (n - count), settings=settings)


def tails(n, p):
    """P(Bin(n, p) >= k) for k = 0..n+1, exactly."""
    pmf = [comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(n + 1)]
    return list(accumulate(reversed(pmf), initial=Fraction(0)))[::-1]


# ---- the population claim ------------------------------------------------------------------------------------------

NEEDED = {
    (0.95, 100): {0.5: 59, 0.6: 69, 0.7: 78, 0.8: 87, 0.9: 96},
    (0.95, 200): {0.5: 113, 0.6: 132, 0.7: 152, 0.8: 170, 0.9: 188},
    (0.95, 500): {0.5: 270, 0.6: 319, 0.7: 368, 0.8: 416, 0.9: 462},
    (0.95, 1000): {0.5: 528, 0.6: 627, 0.7: 725, 0.8: 822, 0.9: 916},
    (0.95, 2000): {0.5: 1039, 0.6: 1238, 0.7: 1435, 0.8: 1631, 0.9: 1823},
    (0.95, 10_000): {0.5: 5088, 0.6: 6086, 0.7: 7079, 0.8: 8069, 0.9: 9051},
    (0.99, 100): {0.5: 63, 0.6: 72, 0.7: 81, 0.8: 90, 0.9: 97, 0.95: 100},
    (0.99, 200): {0.5: 118, 0.6: 137, 0.7: 156, 0.8: 174, 0.9: 190, 0.95: 197},
    (0.99, 500): {0.5: 277, 0.6: 327, 0.7: 375, 0.8: 421, 0.9: 466, 0.95: 487},
    (0.99, 1000): {0.5: 538, 0.6: 637, 0.7: 735, 0.8: 830, 0.9: 923, 0.95: 966},
    (0.99, 2000): {0.5: 1054, 0.6: 1253, 0.7: 1449, 0.8: 1643, 0.9: 1832, 0.95: 1923},
    (0.99, 10_000): {0.5: 5122, 0.6: 6119, 0.7: 7110, 0.8: 8096, 0.9: 9071, 0.95: 9552},
}
"""Counts needed at alpha 0.001: (confidence, n) -> threshold -> count."""


@pytest.mark.parametrize("confidence, n", NEEDED)
def test_needed_counts_are_those_of_the_table(confidence, n):
    for least, need in NEEDED[confidence, n].items():
        assert requirement(gate(0.25, least, confidence=confidence), n, ALPHA).passes_from == need


@pytest.mark.parametrize("alpha", [0.0, 0.001, 0.05])
@pytest.mark.parametrize("n", [1, 7, 40, 100])
@pytest.mark.parametrize("least", [0.05, 0.5, 0.9])
def test_passing_and_failing_counts_agree_with_exact_binomial_tails(n, least, alpha):
    """At the smallest share that is enough, so many are too unlikely; at the threshold, so few are.

    The statistics round outward by 1e-8 of the failing share, so they are held between the exact level and one just
    below it.
    """
    rule = requirement(gate(0.25, least), n, alpha)
    exact, stricter = (
        exact_counts(n, Fraction(repr(least)), Fraction(alpha), slack) for slack in (0, Fraction(1, 10**6))
    )
    assert exact[0] <= rule.passes_from <= stricter[0]
    assert stricter[1] <= rule.fails_to <= exact[1]


def exact_counts(n, threshold, alpha, slack):
    """Return the least count that passes and the largest that fails, at the level 0.05 (1 - slack)."""
    delta = (1 - Fraction(0.95)) * (1 - slack)
    at_enough, at_threshold = tails(n, threshold + alpha * (1 - threshold)), tails(n, threshold)
    enough = [count for count in range(n + 1) if at_enough[count] <= delta]
    few = [count for count in range(n + 1) if 1 - at_threshold[count + 1] < delta]
    return min(enough, default=n + 1), max(few, default=-1)


@pytest.mark.parametrize("build, alpha", [(lipschitz_with, 0.0), (smoothing_with, ALPHA)])
def test_verdicts_of_reports_turn_at_the_needed_counts(build, alpha):
    asked = gate(0.1, 0.6)
    rule = requirement(asked, 50, alpha)
    counts = (rule.fails_to, rule.fails_to + 1, rule.passes_from - 1, rule.passes_from)
    assert [judge(build(count, 50), asked)[0] for count in counts] == ["failed", "undecided", "undecided", "passed"]


def test_alpha_is_inside_the_smoothing_gate():
    """At the same count a certificate that may be false shows less than one that cannot be."""
    asked = gate(0.1, 0.6, confidence=0.99)
    sure, chance = requirement(asked, 10_000, 0.0), requirement(asked, 10_000, ALPHA)
    assert sure.passes_from < chance.passes_from


def test_clean_accuracy_of_a_smoothed_classifier_is_certified_accuracy_at_radius_0():
    report = smoothing_with(40, 50)
    at_zero, clean = evaluate_gates(report, [gate(0.0, 0.6), clean_gate(0.6)])
    assert (at_zero.value, at_zero.lower, at_zero.upper) == (clean.value, clean.lower, clean.upper)


def test_clean_accuracy_of_a_network_counts_its_own_answers():
    report = unbounded_with_data()
    row = evaluate_gates(report, [clean_gate(0.5, on="estimate")])[0]
    assert (row.value, row.verdict) == (1.0, "passed")


# ---- the list claim and estimates ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n, false_ones", [(500, 2), (1000, 3), (10_000, 15)])
def test_the_list_claim_needs_the_possible_false_ones_on_top(n, false_ones):
    rule = requirement(gate(0.1, 0.5, claim="list"), n, ALPHA)
    assert (rule.passes_from, rule.fails_to) == (n // 2 + false_ones, n // 2 + false_ones - 1)


@pytest.mark.parametrize("confidence, false_ones", [(0.95, 2), (0.99, 3), (0.999, 4)])
def test_the_list_claim_holds_at_its_own_confidence(confidence, false_ones):
    rule = requirement(gate(0.1, 0.5, claim="list", confidence=confidence), 500, ALPHA)
    assert rule.passes_from == 250 + false_ones


def test_the_list_claim_without_chance_is_plain_counting():
    asked = gate(0.1, 0.5, claim="list")
    assert [judge(lipschitz_with(count, 20), asked)[0] for count in (9, 10)] == ["failed", "passed"]


def test_the_list_claim_has_no_middle_zone():
    asked = gate(0.1, 0.7, claim="list")
    verdicts = {judge(smoothing_with(count, 12), asked)[0] for count in range(13)}
    assert verdicts == {"failed", "passed"}


@pytest.mark.parametrize("least", [0.1, 0.2, 0.3, 0.6, 0.7, 0.9])
def test_a_threshold_is_the_decimal_that_was_written(least):
    """0.1 as a float is above one tenth: 2 of 20 must be enough all the same."""
    asked = gate(0.1, least, on="estimate")
    count = round(least * 20)
    assert judge(lipschitz_with(count, 20), asked) == ["passed"]
    assert judge(lipschitz_with(count - 1, 20), asked) == ["failed"]


def test_limits_and_estimates_never_share_a_row():
    rows = evaluate_gates(smoothing_clean(), [gate(0.1, 0.5, name=on, on=on) for on in ("estimate", "lower")])
    assert (rows[0].lower, rows[0].upper) == (None, None)
    assert rows[1].lower < rows[1].value <= rows[1].upper


def test_the_list_limit_takes_the_possible_false_ones_off():
    row = evaluate_gates(smoothing_with(40, 50), [gate(0.1, 0.5, claim="list", confidence=0.99)])[0]
    assert Fraction(row.lower) <= Fraction(39, 50) < Fraction(row.lower) + Fraction(1, 10**15)
    assert row.upper is None


# ---- radii ---------------------------------------------------------------------------------------------------------


def test_a_radius_just_below_the_gate_does_not_count():
    row = replace(lipschitz_example(0, 1.0), radius=0.24999999999999997)
    report = lipschitz_report([row] * 1)
    asked = gate(0.25, 0.5, on="estimate")
    assert judge(report, asked) == ["failed"]
    assert judge(lipschitz_report([replace(row, radius=0.25)]), asked) == ["passed"]


def test_a_network_without_a_bound_fails_every_radius():
    assert judge(unbounded_with_data(), gate(0.0, 0.9), gate(0.0, 0.01, on="estimate")) == ["failed", "failed"]


# ---- out of reach --------------------------------------------------------------------------------------------------


def test_a_threshold_out_of_reach_names_the_least_number_of_examples():
    rows = evaluate_gates(lipschitz_with(20, 20), [gate(0.1, 0.9), gate(0.1, 1.0)])
    assert [row.verdict for row in rows] == ["undecided", "undecided"]
    assert "at least 29 examples" in rows[0].reason
    assert "no number of examples can" in rows[1].reason


@pytest.mark.parametrize("claim", ["population", "list"])
@pytest.mark.parametrize("alpha", [0.0, 0.001, 0.02])
@pytest.mark.parametrize("least", [0.5, 0.9, 0.95])
def test_the_least_number_of_examples_is_the_first_that_can_pass(claim, alpha, least):
    asked = gate(0.1, least, claim=claim)
    for n in (1, 10, 60):
        found = least_examples(asked, n, alpha)
        assert found >= n
        assert requirement(asked, found, alpha).passes_from <= found
        assert all(requirement(asked, fewer, alpha).passes_from > fewer for fewer in range(n, found))


def test_a_list_that_can_never_pass_is_said():
    assert least_examples(gate(0.1, 1.0, claim="list"), 500, ALPHA) is None
    assert least_examples(gate(0.1, 1.0, claim="list"), 500, 0.0) == 500


@pytest.mark.parametrize("build", [lipschitz_empty, smoothing_empty])
@pytest.mark.parametrize("options", [{}, {"claim": "list"}, {"on": "estimate"}])
def test_no_examples_never_pass(build, options):
    rows = evaluate_gates(build(), [gate(0.1, 0.0, **options)])
    assert (rows[0].verdict, rows[0].value, rows[0].reason) == ("undecided", None, "no examples")


# ---- gates that do not fit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build, asked, message",
    [
        (lipschitz_clean, gate(0.1, 0.5, kind="smoothing"), "expected smoothing certificates"),
        (smoothing_clean, gate(0.1, 0.5, kind="lipschitz"), "expected lipschitz certificates"),
        (smoothing_clean, gate(0.5, 0.5, norm="linf"), "a larger --n"),
        (lipschitz_linf, gate(0.1, 0.5), "expected certificates in l2"),
        (smoothing_clean, gate(0.75, 0.5), "a larger --n"),
        (network_alone, clean_gate(0.5), "expected a report with data"),
    ],
)
def test_a_gate_that_does_not_fit_the_report_is_an_error(build, asked, message):
    with pytest.raises(InputError, match=message):
        evaluate_gates(build(), [asked])


def test_a_gate_on_smoothed_certificates_in_another_norm_is_converted():
    """A ball in linf needs a certificate that is sqrt(d) larger, one in l1 none that is."""
    report = smoothing_clean()
    root = math.sqrt(report.model.input.size)
    largest = max(example.radius for example in report.examples)
    for example in (row for row in report.examples if 0.0 < row.radius < 0.9 * largest):
        for norm, factor in (("linf", root), ("l1", 1.0)):
            inside = gate(example.radius / factor * (1 - 1e-12), 1.0, norm=norm, on="estimate")
            outside = gate(example.radius / factor * (1 + 1e-12), 1.0, norm=norm, on="estimate")
            (least, more), own = evaluate_gates(report, [inside, outside]), gate(example.radius, 1.0, on="estimate")
            assert least.value == evaluate_gates(report, [own])[0].value > more.value
            assert (least.norm, least.radius) == (norm, inside.radius)
            assert "converted from l2 radius" in least.reason


def test_the_largest_reachable_radius_is_accepted():
    report = smoothing_clean()
    largest = max(example.radius for example in report.examples)
    assert judge(report, gate(largest, 0.5)) == ["passed"]


def test_a_radius_between_the_longest_plan_and_the_cap_is_out_of_reach():
    """The plan draws whole blocks, 896 of the 1000 asked for; what 1000 draws would reach no example can have."""
    report = smoothing_clean()
    assert max(report.tables.plan) < report.settings.n
    alpha = charged_alpha(report.settings.alpha, report.tables.alpha_charged)
    reached = BOUNDS["two-interval"]((report.settings.n, 0), 0, alpha, report.settings.sigma)
    with pytest.raises(InputError, match="radius that 896 draws"):
        evaluate_gates(report, [gate(reached, 0.5)])


def test_the_reachable_radius_is_that_of_the_alpha_left_by_the_noise():
    report = smoothing_clean()
    largest = max(example.radius for example in report.examples)
    charged = replace(report, tables=replace(report.tables, alpha_charged=0.0004))
    with pytest.raises(InputError, match="a larger --n"):
        evaluate_gates(charged, [gate(largest, 0.5)])


# ---- parsing -------------------------------------------------------------------------------------------------------

CONFIGURED = """
[[gate]]
name = "l2 at 0.25"
metric = "certified_accuracy"
kind = "smoothing"
norm = "l2"
radius = 0.25
min = 0.60
claim = "population"
confidence = 0.95

[[gate]]
name = "clean"
metric = "clean_accuracy"
min = 1
on = "estimate"
"""


def test_gates_are_read_as_they_are_written():
    first, second = parse_gates(tomllib.loads(CONFIGURED)["gate"])
    assert first == Gate(name="l2 at 0.25", metric="certified_accuracy", kind="smoothing", radius=0.25, min=0.6)
    assert (second.min, second.on, second.claim, second.confidence) == (1.0, "estimate", "population", 0.95)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"minimum": 0.5}, "minimum"),
        ({"min": "0.5"}, r"min"),
        ({"min": 60}, "'min'.*0.6 for 60"),
        ({"min": float("nan")}, "'min'"),
        ({"radius": float("nan")}, "'radius'"),
        ({"radius": float("inf")}, "'radius'"),
        ({"radius": -0.1}, "'radius'"),
        ({"radius": None}, "'radius'.*needs a radius"),
        ({"radius": True}, "radius"),
        ({"confidence": 95}, "'confidence'"),
        ({"confidence": 0.5}, "'confidence'"),
        ({"confidence": 1.0}, "'confidence'"),
        ({"norm": "l7"}, "norm"),
        ({"kind": "curvature"}, "kind"),
        ({"claim": "all"}, "claim"),
        ({"on": "upper"}, "on"),
        ({"metric": "accuracy"}, "metric"),
        ({"metric": ["clean_accuracy"]}, "metric"),
        ({"metric": "clean_accuracy"}, "'radius'.*clean_accuracy has none"),
        ({"metric": "mean_radius"}, "'radius'.*mean_radius has none"),
        ({"metric": "mean_radius", "radius": None, "min": -0.1}, "'min'.*at least 0"),
        ({"metric": "mean_radius", "radius": None, "min": float("inf")}, "'min'.*at least 0"),
        ({"metric": "class_certified_accuracy", "radius": None}, "'radius'.*needs a radius"),
        ({"metric": "class_certified_accuracy", "min": 60}, "'min'.*0.6 for 60"),
        ({"metric": "lipschitz", "radius": None}, "'max'.*lipschitz needs"),
        ({"metric": "lipschitz", "radius": None, "max": 2.0}, "'min'.*lipschitz has none"),
        ({"max": 3.0}, "'max': certified_accuracy has none"),
        ({"baseline": "main.json"}, "'min': expected none beside a baseline"),
        ({"max_drop": 0.02}, "expected both or none"),
    ],
    ids=str,
)
def test_a_wrong_key_is_an_error_that_names_gate_and_key(change, message):
    table = {"name": "strict", "metric": "certified_accuracy", "radius": 0.25, "min": 0.6, **change}
    with pytest.raises(InputError, match=rf"gate 'strict'.*{message}"):
        parse_gates([table])


@pytest.mark.parametrize("key", ["name", "metric", "min"])
def test_a_missing_key_is_an_error(key):
    table = {"name": "strict", "metric": "clean_accuracy", "min": 0.6}
    del table[key]
    with pytest.raises(InputError, match=f"missing required field `{key}`"):
        parse_gates([table])


def test_two_gates_of_one_name_are_an_error():
    table = {"name": "twice", "metric": "clean_accuracy", "min": 0.6}
    with pytest.raises(InputError, match=r"'twice'.*a name of its own"):
        parse_gates([table, table])


# ---- exit codes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verdicts, code",
    [
        ([], 0),
        (["passed"], 0),
        (["passed", "failed"], 1),
        (["undecided", "passed"], 4),
        (["undecided", "failed", "passed"], 1),
        (["failed", "undecided"], 1),
    ],
)
def test_one_failed_gate_beats_undecided_ones(verdicts, code):
    row = lipschitz_clean().gates[0]
    assert gate_exit_code([replace(row, verdict=verdict) for verdict in verdicts]) == code
