"""Reports of asked radii: what the stages computed is consistent, and every way to claim more is refused.

The possible ends of the draws are held to a walk over every path of votes, one vote at a time.
"""

import itertools
import math

import numpy as np
import pytest
from msgspec import UNSET
from msgspec.structs import replace

from certify.policy import evaluate_gates
from certify.report import FORMATS, smoothing_statement, summarise_smoothing, verify_report
from certify.report.rederive_sequential import endings
from certify.results import Counts, Decision, SmoothingExample, SmoothingSettings, seal
from certify.smoothing.laws import make_law
from certify.smoothing.procedure import make_tables, plan_procedure
from certify.stats import BOUNDS, SequentialTest
from tests.report.sample_reports import (
    ASKED,
    data_record,
    gate,
    model_record,
    sequential_few,
    sequential_report,
    sequential_stopped,
    sha256,
    smoothing_report,
)


def hand_made(looks, up, lo):
    return SequentialTest(1.0, 0.8, 0.1, 0.1, looks[-1], looks, up, lo, 1.0, 0.1, 0.1)


HAND_MADE = {
    "one question": [hand_made((3, 6, 9), (4, 5, 7), (0, 2, 4))],
    "nested": [hand_made((2, 5, 9), (2, 4, 7), (-1, 1, 5)), hand_made((2, 5, 9), (3, 5, 8), (0, 2, 6))],
    "crossed rows": [hand_made((2, 4, 6), (3, 4, 5), (0, 1, 3)), hand_made((2, 4, 6), (2, 3, 5), (-1, 0, 3))],
    "one look": [hand_made((5,), (4,), (1,)), hand_made((5,), (5,), (2,))],
}


def ends_by_walking(tests):
    """Every (draws, votes, answers) at which some sequence of single votes ends, by the rules in words."""
    looks, found = tests[0].looks, set()
    for path in itertools.product((0, 1), repeat=looks[-1]):
        alone = ["undecided"] * len(tests)
        for j, look in enumerate(looks):
            now = sum(path[:look])
            for q, test in enumerate(tests):
                if alone[q] == "undecided" and now >= test.up[j]:
                    alone[q] = "certified"
                elif alone[q] == "undecided" and now <= test.lo[j]:
                    alone[q] = "not_certified"
            told = []
            for answer in alone:
                if "not_certified" in told:
                    told.append("not_certified")
                elif "undecided" in told and answer == "certified":
                    told.append("undecided")
                else:
                    told.append(answer)
            if "undecided" not in told or look == looks[-1]:
                found.add((look, now, tuple(told)))
                break
    return found


@pytest.mark.parametrize("tests", HAND_MADE.values(), ids=HAND_MADE)
def test_the_possible_ends_are_those_of_every_path_of_votes(tests):
    computed = {
        (look, votes, told)
        for look, ends in endings(tuple(tests)).items()
        for (low, high), told in ends
        for votes in range(low, high + 1)
    }
    assert computed == ends_by_walking(tests)


@pytest.mark.parametrize("eight_bit", [True, False])
@pytest.mark.parametrize("at", [(0.2,), (0.05, 0.2, 0.4)])
@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
def test_the_procedure_and_its_verification_agree(eight_bit, at, noise):
    settings = SmoothingSettings(sigma=0.37, n=1500, n0=20, at=at, noise=noise)
    model, law = model_record(), make_law(settings, eight_bit=eight_bit)
    run = plan_procedure(settings, classes=3, law=law, dimension=model.input.size)
    rng = np.random.default_rng(1)
    rows = tuple(walked(run, settings, rng, index) for index in range(60))
    assert len({row.counts.n for row in rows}) > 4
    assert {d.verdict for row in rows for d in row.decisions} == {"certified", "not_certified", "undecided"}
    tables = make_tables(run, law)
    report = replace(
        smoothing_report([], settings=replace(settings, at=()), integer_noise=eight_bit),
        settings=settings,
        tables=tables,
        examples=rows,
        data=data_record(rows),
        statement=smoothing_statement(settings=settings, model=model, tables=tables, examples=len(rows)),
        summary=summarise_smoothing(rows, settings),
    )
    assert verify_report(seal(report)) == ()
    assert all(view(report) for view in FORMATS.values())


def walked(run, settings, rng, index):
    law = rng.dirichlet([4.0, 0.6, 0.2, 0.1])
    selection = tuple(map(int, rng.multinomial(settings.n0, law)))
    selected = selection.index(max(selection))
    counts, votes, n = np.zeros(4, dtype=int), [], 0
    while (asked := run.draws_after(selection, votes)) != n:
        counts += rng.multinomial(asked - n, law)
        n = asked
        votes.append(int(counts[selected]))
    certificate = run.certify(selection, counts.tolist(), votes)
    return SmoothingExample(
        index=index,
        id=f"row {index}",
        hash=sha256(str(index)),
        label=0,
        predicted=certificate.predicted,
        correct=certificate.predicted == 0,
        radius=certificate.radius,
        norm=settings.norm,
        counts=Counts(selection=selection, estimation=tuple(counts.tolist()), n0=settings.n0, n=n, seed=0),
        procedure="sequential",
        seconds=0.0,
        stopped="gs",
        decisions=certificate.decisions,
        reason=certificate.reason or UNSET,
    )


def resealed(report, index=0, **changes):
    """The report with one example changed, and everything that follows from its examples made to agree."""
    rows = list(report.examples)
    rows[index] = replace(rows[index], **changes)
    summary = summarise_smoothing(rows, report.settings, unsampled=len(report.unsampled or ()))
    changed = replace(report, examples=tuple(rows), summary=summary, gates=())
    return seal(changed)


def places(report):
    return [finding.where for finding in verify_report(report)]


def counts_with(example, hits, n):
    return replace(example.counts, estimation=(n - hits, hits, 0, 0), n=n)


def whole():
    return sequential_report([1.0, 0.95, 0.78, 0.3], settings=replace(ASKED, n=300))


def test_the_report_under_edit_is_consistent():
    assert places(whole()) == []


def test_a_radius_for_a_fixed_number_of_draws_is_refused_on_sequential_counts():
    report = whole()
    counts = report.examples[0].counts
    fixed = BOUNDS["clopper-pearson"](counts.estimation, 1, ASKED.alpha, ASKED.sigma, counts.selection)
    assert fixed > report.examples[0].radius
    assert places(resealed(report, radius=fixed)) == ["examples[0].radius"]


def test_sequential_counts_are_refused_as_those_of_another_procedure():
    report = whole()
    renamed = resealed(report, procedure="fixed", stopped=UNSET, decisions=UNSET)
    assert "examples[0].procedure" in places(renamed)
    settings = replace(report.settings, at=(), procedure="fixed", n=128)
    row = replace(report.examples[0], procedure="fixed")
    fixed = smoothing_report([1.0], settings=settings)
    posing = replace(fixed, examples=(replace(row, radius=fixed.examples[0].radius),))
    assert {"examples[0].stopped", "examples[0].decisions"} <= set(places(seal(posing)))


@pytest.mark.parametrize("name", ["stopped", "decisions"])
def test_a_missing_mark_of_the_stop_is_found(name):
    found = places(resealed(whole(), **{name: UNSET}))
    assert any(where.startswith(f"examples[0].{name}") for where in found)


def test_draws_that_end_at_no_look_are_found():
    report = whole()
    assert places(resealed(report, counts=counts_with(report.examples[0], 130, 130))) == ["examples[0].counts.n"]


def test_votes_that_cross_no_row_at_their_look_are_found():
    report = whole()
    found = places(resealed(report, counts=counts_with(report.examples[0], 108, 128)))
    assert found == ["examples[0].counts.estimation"]


def test_votes_that_would_have_ended_the_draws_before_are_found():
    report = whole()  # 256 of 256 votes: the first 128 draws had 128 votes, and ended there
    found = places(resealed(report, counts=counts_with(report.examples[0], 256, 256)))
    assert found == ["examples[0].counts.estimation"]


def test_a_better_verdict_than_the_votes_is_found():
    report = whole()
    better = tuple(Decision(radius=radius, verdict="certified") for radius in ASKED.at)
    found = places(resealed(report, 2, decisions=better, radius=0.25, predicted=1, correct=True, reason=UNSET))
    assert found == ["examples[2].decisions.verdict"]


def test_a_radius_that_was_not_asked_for_is_found():
    report = whole()
    moved = tuple(replace(decision, radius=decision.radius * 2) for decision in report.examples[0].decisions)
    found = places(resealed(report, decisions=moved, radius=0.5))
    assert "examples[0].decisions.radius[0]" in found
    assert "examples[0].radius" in found


@pytest.mark.parametrize("row", ["up", "lo", "looks"])
def test_an_easier_table_is_found(row):
    report = whole()
    first, *rest = report.tables.sequential
    easier = replace(first, **{row: (getattr(first, row)[0] - 1, *getattr(first, row)[1:])})
    found = places(seal(replace(report, tables=replace(report.tables, sequential=(easier, *rest)))))
    assert found == [f"tables.sequential[0].{row}[0]"]


def test_tables_that_were_left_out_are_found():
    report = whole()
    assert "tables.sequential" in places(seal(replace(report, tables=replace(report.tables, sequential=UNSET))))


# ---- runs that stopped early ----


def test_examples_without_draws_are_part_of_the_data():
    report = sequential_stopped()
    assert verify_report(report) == ()
    assert "data.count" in places(seal(replace(report, unsampled=UNSET)))


def test_examples_without_draws_need_a_gate_that_was_settled():
    assert "unsampled" in places(seal(replace(sequential_stopped(), gates=())))
    assert "unsampled" in places(seal(replace(sequential_few(), unsampled=())))


def test_a_run_that_stopped_early_states_no_share():
    report = sequential_stopped()
    assert (report.summary.clean_accuracy, report.summary.certified_accuracy) == (None, ())
    assert [(row.at_least, row.at_most, row.examples) for row in report.summary.certified_counts] == [(2, 3, 4)] * 2
    assert report.gates[0].value is None
    texts = [view(report) for name, view in FORMATS.items() if name in ("terminal", "markdown")]
    assert all("at least 2 of 4" in text and "not" in text for text in texts)


def test_a_gate_that_the_sampled_examples_do_not_settle_is_undecided():
    report = replace(sequential_stopped(), gates=())
    (row,) = evaluate_gates(report, [gate(0.25, 0.75, on="estimate")])
    assert (row.verdict, row.value) == ("undecided", None)
    edited = seal(replace(report, gates=(replace(row, verdict="passed"),)))
    assert places(edited) == ["gates[0].verdict"]


def test_the_expected_number_of_false_certificates_counts_every_example():
    assert "of 4 examples" in sequential_stopped().statement.joint
    assert math.isclose(sequential_stopped().statement.failure_probability, 0.001)
