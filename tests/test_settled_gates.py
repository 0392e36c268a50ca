"""Gates that stop early: exactly when no completion can change the verdict, and with the verdict of the whole run."""

import itertools
from collections import Counter

import pytest
from msgspec import structs

from certify.policy import Gate, Settlement, Tally, answers_gate, asked_radii, evaluate_gates
from certify.policy.classes import ClassTally, _verdict, held_to_fail
from certify.policy.settlement import ClassTallies
from certify.results import SmoothingSettings, UnsampledExample
from tests.report.sample_reports import ASKED, clean_gate, gate, sequential_example, sequential_report

OUTCOMES = ("counts", "undecided", "misses")
GATES = {
    "population": Gate(name="g", metric="certified_accuracy", radius=0.1, min=0.4, confidence=0.7),
    "list": Gate(name="g", metric="certified_accuracy", radius=0.1, min=0.4, claim="list", confidence=0.7),
    "estimate": Gate(name="g", metric="certified_accuracy", radius=0.1, min=0.4, on="estimate"),
    "list of estimates": Gate(name="g", metric="clean_accuracy", min=0.5, on="estimate", claim="list"),
    "out of reach": Gate(name="g", metric="certified_accuracy", radius=0.1, min=0.99),
}
N = 7


def seen(outcomes):
    return Tally(
        count=outcomes.count("counts"),
        undecided=outcomes.count("undecided"),
        unsampled=N - len(outcomes),
        n=N,
        alpha=0.05,
    )


@pytest.mark.parametrize("asked", GATES.values(), ids=GATES)
def test_a_verdict_is_settled_exactly_when_every_completion_gives_it(asked):
    whole = {path: seen(path).verdict(asked) for path in itertools.product(OUTCOMES, repeat=N)}
    assert None not in whole.values()
    completions = {}
    for path, verdict in whole.items():
        for length in range(N + 1):
            completions.setdefault(path[:length], set()).add(verdict)
    for prefix, verdicts in completions.items():
        assert seen(prefix).verdict(asked) == (next(iter(verdicts)) if len(verdicts) == 1 else None), prefix


def test_the_gates_above_show_all_three_verdicts():
    verdicts = {seen(path).verdict(asked) for asked in GATES.values() for path in itertools.product(OUTCOMES, repeat=N)}
    assert verdicts == {"passed", "failed", "undecided"}


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_watching_a_run_gives_the_verdicts_of_its_whole_report(share):
    gates = [gate(0.25, 0.5), gate(0.1, 0.6, claim="list"), gate(0.25, 0.7, on="estimate")]
    shares = [share] * 40 + [0.78, 0.66, 0.95] * 6
    watched_by = Settlement(gates, n=len(shares), alpha=ASKED.alpha)
    sampled = 0
    while not watched_by.settled:
        watched_by.add(sequential_example(sampled, shares[sampled], ASKED))
        sampled += 1
    assert sampled < len(shares)
    whole = evaluate_gates(sequential_report(shares), gates)
    stopped = evaluate_gates(sequential_report(shares[:sampled], unsampled=len(shares) - sampled), gates)
    assert watched_by.verdicts == tuple(row.verdict for row in whole)
    assert [row.verdict for row in stopped] == [row.verdict for row in whole]
    assert all(row.value is None for row in stopped)
    for early, late in zip(stopped, whole, strict=True):
        if late.lower is not None:
            assert early.lower <= late.lower
        if late.upper is not None:
            assert late.upper <= early.upper


def test_another_label_than_the_selected_class_is_never_open():
    example = sequential_example(0, 0.66, ASKED, label=0)
    assert example.decisions[0].verdict == "undecided"
    asked = gate(0.1, 0.5, claim="list")
    watched_by = Settlement([asked], n=1, alpha=ASKED.alpha)
    watched_by.add(example)
    assert watched_by.verdicts == ("failed",)
    watched_by = Settlement([asked], n=1, alpha=ASKED.alpha)
    watched_by.add(sequential_example(0, 0.66, ASKED, label=1))
    assert watched_by.verdicts == ("undecided",)


def test_gates_ask_for_their_radii_and_clean_accuracy_for_a_tiny_one():
    settings = SmoothingSettings(sigma=0.5)
    gates = [gate(0.25, 0.5), gate(0.0, 0.5), clean_gate(0.9), gate(0.25, 0.9)]
    asked = asked_radii(gates, settings)
    assert asked == (0.0005, 0.25)
    sequential = SmoothingSettings(sigma=0.5, at=asked)
    assert all(answers_gate(sequential, each) for each in gates)
    assert not answers_gate(sequential, gate(0.1, 0.5))
    assert not answers_gate(SmoothingSettings(sigma=0.5, at=(0.25,)), clean_gate(0.9))
    assert answers_gate(settings, gate(0.1, 0.5))


LABELS = (0, 1, 0, 0, 1, 0)  # class 2 has no example
CLASS_GATES = {
    "population": {"min": 0.4, "confidence": 0.7},
    "list": {"min": 0.4, "confidence": 0.7, "claim": "list"},
    "estimate": {"min": 0.5, "on": "estimate"},
    "low": {"min": 0.1, "confidence": 0.6},
    "out of reach": {"min": 0.99},
}


def class_seen(outcomes, classes):
    """What is seen of each class when the first examples ended so, counted one by one."""
    sizes, seen = Counter(LABELS), []
    for label in range(classes):
        own = [outcome for outcome, which in zip(outcomes, LABELS, strict=False) if which == label]
        left, n = sizes[label] - len(own), sizes[label]
        seen.append(Tally(own.count("counts"), own.count("undecided"), left, n, alpha=0.05))
    return ClassTallies(tuple(seen))


def judged(asked, seen):
    stricter = held_to_fail(asked, len(seen.seen))
    return _verdict([ClassTally("", one, asked, stricter) for one in seen.seen])


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("options", CLASS_GATES.values(), ids=CLASS_GATES)
def test_every_class_is_settled_exactly_when_every_completion_gives_the_verdict(options, classes):
    asked = Gate(name="g", metric="class_certified_accuracy", radius=0.1, **options)
    completions = {}
    for path in itertools.product(OUTCOMES, repeat=len(LABELS)):
        verdict = judged(asked, class_seen(path, classes))
        for length in range(len(LABELS) + 1):
            completions.setdefault(path[:length], set()).add(verdict)
    for prefix, verdicts in completions.items():
        seen = class_seen(prefix, classes)
        assert seen.verdict(asked) == (next(iter(verdicts)) if len(verdicts) == 1 else None), prefix
        if len(verdicts) == 1:  # and the report that stops here is judged so
            assert judged(asked, seen) == next(iter(verdicts))


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_watching_the_classes_of_a_run_gives_the_verdict_of_its_whole_report(share):
    asked = Gate(name="g", metric="class_certified_accuracy", radius=0.25, min=0.4)
    shares = [share] * 40 + [0.78, 0.66, 0.95] * 6
    whole = sequential_report(shares)
    labels = [example.label for example in whole.examples]
    asked_classes = {"labels": labels, "classes": len(whole.model.classes)}
    watched_by = Settlement([asked], n=len(shares), alpha=ASKED.alpha, **asked_classes)
    sampled = 0
    while not watched_by.settled and sampled < len(shares):
        watched_by.add(whole.examples[sampled])
        sampled += 1
    (row,) = evaluate_gates(whole, [asked])
    rest = [UnsampledExample(index=e.index, id=e.id, hash=e.hash, label=e.label) for e in whole.examples[sampled:]]
    assert rest
    stopped_there = structs.replace(whole, examples=whole.examples[:sampled], unsampled=tuple(rest))
    (stopped,) = evaluate_gates(stopped_there, [asked])
    assert stopped.verdict == row.verdict == watched_by.verdicts[0]
    assert stopped.lower <= row.lower
    assert row.upper <= stopped.upper


def test_without_the_labels_every_class_waits_for_the_last_example():
    asked = Gate(name="g", metric="class_certified_accuracy", radius=0.25, min=0.4)
    assert Settlement([asked], n=0, alpha=0.1).verdicts == (None,)
