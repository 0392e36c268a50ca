"""Answers that cannot have come from their counts withhold the report; those of every path of votes do not."""

import itertools

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from certify.errors import BrokenCertificate
from certify.falsifier.asked_rules import check_answers
from certify.results import Counts, Decision, SmoothingExample, SmoothingSettings
from certify.smoothing import plan_procedure
from certify.smoothing.laws import make_law
from certify.smoothing.procedure import Procedure
from certify.smoothing.questions import Question, draws_to_next_look
from certify.stats import SequentialTest

LOOKS = (4, 8, 12)
SETTINGS = SmoothingSettings(sigma=0.25, n=12, n0=4, alpha=0.4, at=(0.1, 0.2))
EASY = SequentialTest(1.0, 0.8, 0.4, 0.4, 12, LOOKS, (5, 8, 11), (0, 3, 8), 1.0, 0.4, 0.4)
HARD = SequentialTest(1.5, 0.9, 0.4, 0.4, 12, LOOKS, (5, 9, 12), (1, 5, 9), 1.0, 0.4, 0.4)
PROCEDURE = Procedure(SETTINGS, 2, None, 0.0, 0.4, (Question(0.1, EASY), Question(0.2, HARD)))


def row_of(votes, n, answers, radius, selection=(4, 0, 0)):
    return SmoothingExample(
        index=0, id="a", hash="0" * 64, label=0, predicted=0 if radius else None, correct=bool(radius), radius=radius,
        norm="l2", procedure="sequential", seconds=0.0, stopped="gs", reason=UNSET if radius else "given up",
        counts=Counts(selection=selection, estimation=(votes, n - votes, 0), n0=4, n=n, seed=0),
        decisions=tuple(Decision(radius=r, verdict=a) for r, a in zip(SETTINGS.at, answers, strict=True)),
    )  # fmt: skip


def test_no_path_of_votes_is_refused():
    seen = set()
    for path in itertools.product((0, 1), repeat=12):
        votes = []
        while not votes or draws_to_next_look(PROCEDURE.questions, votes) != LOOKS[len(votes) - 1]:
            votes.append(sum(path[: draws_to_next_look(PROCEDURE.questions, votes)]))
        found = PROCEDURE.certify((4, 0, 0), (), votes)
        row = row_of(votes[-1], LOOKS[len(votes) - 1], [d.verdict for d in found.decisions], found.radius)
        check_answers([row], PROCEDURE)
        seen.add((row.counts.n, *(d.verdict for d in found.decisions)))
    assert len(seen) >= 8


UP, DOWN, OPEN = "certified", "not_certified", "undecided"


@pytest.mark.parametrize(
    ("row", "finding"),
    [
        (row_of(7, 8, [UP, DOWN], 0.1), "never reach its upper row"),
        (row_of(8, 8, [UP, UP], 0.2), "never reach its upper row"),
        (row_of(12, 12, [DOWN, DOWN], 0.0), "never reach its lower row"),
        (row_of(6, 6, [UP, DOWN], 0.1), "end at a look"),
        (row_of(6, 8, [OPEN, OPEN], 0.0), "no row was crossed"),
        (row_of(3, 4, [UP, OPEN], 0.1), "never reach its upper row"),
        (row_of(12, 12, [DOWN, UP], 0.0), "better than that of a smaller radius"),
        (row_of(12, 12, [UP, UP], 0.1), "the largest certified one"),
        (row_of(12, 12, [UP, UP], 0.2, selection=(0, 0, 4)), "after a pilot that invalid outputs won"),
    ],
)
def test_an_answer_that_no_path_gives_withholds_the_report(row, finding):
    with pytest.raises(BrokenCertificate, match=finding):
        check_answers([row], PROCEDURE)


def test_answers_to_other_radii_withhold_the_report():
    row = row_of(12, 12, [UP, UP], 0.2)
    with pytest.raises(BrokenCertificate, match="one answer to each asked radius"):
        check_answers([replace(row, decisions=row.decisions[:1])], PROCEDURE)


def test_a_table_that_errs_more_often_withholds_the_report():
    settings = SmoothingSettings(sigma=0.25, n=300, n0=4, alpha=0.001, at=(0.1,))
    procedure = plan_procedure(settings, classes=2, law=make_law(settings, eight_bit=False), dimension=4)
    check_answers([], procedure)
    (question,) = procedure.questions
    lowered = SequentialTest(**{**vars(question.test), "up": tuple(most - 8 for most in question.test.up)})
    wrong = Procedure(settings, 2, None, 0.0, procedure.alpha, (Question(0.1, lowered),))
    with pytest.raises(BrokenCertificate, match=r"radius 0\.1: expected a test of level at most"):
        check_answers([], wrong)
