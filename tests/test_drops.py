"""Gates with a baseline: the drop below an earlier report, judged from the record alone, and settled early."""

import itertools

import pytest
from msgspec.structs import replace

from certify.errors import InputError
from certify.policy import Gate, Settlement, evaluate_gates, parse_gates
from certify.policy.drops import DropQuestion, PairedTally
from certify.report import FORMATS, compare_reports, verify_report
from certify.results import document_from_json, report_to_json, seal
from tests.report.sample_reports import (
    ASKED,
    lipschitz_example,
    lipschitz_report,
    sequential_report,
    smoothing_clean,
    smoothing_report,
)


def drop(max_drop=0.05, **options):
    return Gate(
        name="no regression", metric="certified_accuracy", min=0.0, baseline="main.json", max_drop=max_drop,
        **{"radius": 0.3, **options},
    )  # fmt: skip


def lipschitz_with(certified, n=400):
    return lipschitz_report([lipschitz_example(index, 1.0 if index < certified else 0.2) for index in range(n)])


def judged(old, new, gate):
    return seal(replace(new, gates=evaluate_gates(new, [gate], {"main.json": old})))


@pytest.mark.parametrize(
    "certified, max_drop, options, verdict",
    [
        (400, 0.05, {}, "passed"),
        (396, 0.05, {}, "passed"),
        (380, 0.05, {}, "undecided"),
        (300, 0.05, {}, "failed"),
        (400, 0.001, {}, "undecided"),
        (380, 0.05, {"on": "estimate"}, "passed"),
        (379, 0.05, {"on": "estimate", "claim": "list"}, "failed"),
    ],
)
def test_a_drop_is_judged_as_a_comparison_is(certified, max_drop, options, verdict):
    old, new, gate = lipschitz_with(400), lipschitz_with(certified), drop(max_drop, **options)
    report = judged(old, new, gate)
    (row,) = report.gates
    assert row.verdict == verdict
    assert verify_report(report) == ()
    assert (row.threshold, row.baseline.certified) == (max_drop, tuple(range(400)))
    found = compare_reports(old, new, radius=0.3).summary.at_radius
    assert row.value == found.difference
    assert (row.lower, row.upper) == ((None, None) if options else (found.lower, found.upper))


def test_the_record_of_the_baseline_is_all_that_verification_needs():
    report = judged(smoothing_report([1.0] * 40), smoothing_report([1.0] * 20 + [0.2] * 20), drop(0.1, radius=0.1))
    again = document_from_json(report_to_json(report), name="report")
    assert again == report
    assert verify_report(again) == ()
    (row,) = report.gates
    easier = replace(row, baseline=replace(row.baseline, certified=tuple(range(20))))
    foreign = replace(row, baseline=replace(row.baseline, certified=(*row.baseline.certified, 99)))
    for edit in (easier, foreign, replace(row, verdict="passed"), replace(row, threshold=0.9)):
        assert verify_report(seal(replace(report, gates=(edit,))))


@pytest.mark.parametrize("name", ["terminal", "markdown", "junit"])
def test_every_view_says_what_was_lost(name):
    report = judged(lipschitz_with(400), lipschitz_with(300), drop())
    assert "100 lost and 0 won" in FORMATS[name](report)


def test_a_baseline_that_may_not_be_compared_is_an_error_of_the_policy():
    new = lipschitz_with(400)
    with pytest.raises(InputError, match=r"'no regression'.*report of its baseline 'main\.json', got none"):
        evaluate_gates(new, [drop()])
    with pytest.raises(InputError, match=r"'no regression'.*'main\.json'.*one kind of certificates"):
        evaluate_gates(new, [drop()], {"main.json": smoothing_clean()})
    with pytest.raises(InputError, match="the same examples"):
        evaluate_gates(new, [drop()], {"main.json": lipschitz_with(399, n=399)})


def test_no_examples_never_pass():
    nothing = lipschitz_report([])
    with pytest.raises(InputError, match="at least one example"):
        evaluate_gates(nothing, [drop()], {"main.json": nothing})


# ---- stopping early ------------------------------------------------------------------------------------------------

GATES = (
    DropQuestion(name="g", norm="l2", radius=0.1, max_drop=0.4, confidence=0.75),
    DropQuestion(name="g", norm="l2", radius=0.1, max_drop=0.2, confidence=0.95, on="estimate"),
)


@pytest.mark.parametrize("asked", GATES)
@pytest.mark.parametrize("old", [(1, 1, 1, 1, 1, 1, 1), (1, 0, 1, 1, 0, 1, 0), (0,) * 7])
def test_an_early_verdict_is_that_of_every_completion(asked, old):
    """All outcomes of seven examples, and what was known after each of them."""
    n, stopped = len(old), 0
    for new in itertools.product((0, 1), repeat=n):
        won = [sum(b > a for a, b in zip(old[:k], new[:k], strict=True)) for k in range(n + 1)]
        lost = [sum(b < a for a, b in zip(old[:k], new[:k], strict=True)) for k in range(n + 1)]
        whole = PairedTally(won[n], lost[n], n).verdict(asked)
        for seen in range(n):
            early = PairedTally(won[seen], lost[seen], n, n - seen, sum(old[seen:])).verdict(asked)
            assert early in (None, whole)
            stopped += early is not None
    assert stopped


def test_a_settled_run_has_the_verdict_of_the_whole_and_its_record_is_consistent():
    asked = replace(ASKED, at=(0.25,))
    old, new = sequential_report([1.0] * 60, settings=asked), sequential_report([0.3] * 30 + [1.0] * 30, settings=asked)
    gate = drop(0.1, radius=0.25)
    watch = Settlement([gate], n=60, alpha=0.001, certified={gate.name: range(60)})
    seen = 0
    while not watch.settled:
        watch.add(new.examples[seen])
        seen += 1
    assert seen < 30
    assert watch.verdicts == ("failed",) == tuple(row.verdict for row in judged(old, new, gate).gates)
    rest = sequential_report([0.3] * seen, settings=asked, unsampled=60 - seen)
    ids = {example.index: example.id for example in rest.unsampled}
    old = replace(old, examples=tuple(
        replace(e, id=ids.get(e.index, e.id), label=0 if e.index in ids else e.label) for e in old.examples
    ))  # fmt: skip
    old = replace(old, examples=tuple(replace(e, correct=e.predicted == e.label) for e in old.examples))
    stopped = judged(old, rest, drop(0.99, radius=0.25))
    assert verify_report(stopped) == ()
    assert f"stopped after {seen} of them" in stopped.gates[0].reason
    assert stopped.gates[0].value is None


# ---- parsing -------------------------------------------------------------------------------------------------------

TABLE = {"name": "strict", "baseline": "main.json", "radius": 0.25}


def test_a_baseline_needs_no_metric_and_allows_a_hundredth():
    (gate,) = parse_gates([TABLE])
    assert (gate.metric, gate.max_drop, gate.claim, gate.confidence) == ("certified_accuracy", 0.01, "population", 0.95)
    assert parse_gates([{**TABLE, "max_drop": 0.02}])[0].max_drop == 0.02


@pytest.mark.parametrize(
    "change, message",
    [
        ({"min": 0.5}, "'min': expected none beside a baseline"),
        ({"max_drop": 2}, "'max_drop'.*0.02 for 2 %"),
        ({"max_drop": float("nan")}, "'max_drop'"),
        ({"max_drop": None}, "expected both or none"),
        ({"radius": None}, "needs a radius"),
        ({"metric": "clean_accuracy", "radius": None}, "expected metric certified_accuracy"),
        ({"claim": "list"}, "'claim': a drop is shown for the population"),
        ({"baseline": 7}, "baseline"),
    ],
    ids=str,
)
def test_a_wrong_key_of_a_baseline_is_an_error_that_names_gate_and_key(change, message):
    with pytest.raises(InputError, match=rf"gate 'strict'.*{message}"):
        parse_gates([{**TABLE, **change}])
