"""What must hold between counts and answers where radii were asked for, whatever the network.

The votes v for the selected class are known at the end, after n draws; at an earlier look of n_j draws they were at
least v - (n - n_j) and at most v, or n_j. So:

- draws end at a look of the test, or none were made because invalid outputs won the pilot;
- a certified radius needs a look at which so many votes could have reached its upper row, one that was given up a look
  at which so few could have reached its lower row;
- draws that ended before the cap ended because a row was crossed at the last look;
- no answer is better than that of a smaller radius, and the radius is the largest certified one;
- every table keeps its level, by a sum over its own rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import UNSET

from certify.errors import BrokenCertificate
from certify.results import Answer, SmoothingExample
from certify.smoothing import Procedure
from certify.smoothing.questions import ORDER, Question
from certify.stats import crossing


def check_answers(rows: Sequence[SmoothingExample], procedure: Procedure) -> None:
    """Raise when the answers to asked radii cannot have come from the counts, or a table does not keep its level.

    Raises:
        BrokenCertificate: Naming the example or the table, and the rule.
    """
    for question in procedure.questions:
        for finding in _table(question, procedure.alpha):
            _refuse(f"radius {question.radius!r}", finding)
    for row in rows:
        for finding in _contradictions(row, procedure):
            _refuse(f"example {row.id}", finding)


def _refuse(what: str, finding: str) -> None:
    message = f"{what}: {finding}; this is a bug of certify, and the report is withheld"
    raise BrokenCertificate(message, {"claim": "consistency", "of": what, "finding": finding})


def _table(question: Question, alpha: float) -> Iterator[str]:
    test = question.test
    level = crossing(test.looks, test.up, test.p0)
    if not level <= alpha:
        yield f"expected a test of level at most {alpha!r}, got {level!r}"
    if not all(low < most for low, most in zip(test.lo, test.up, strict=True)):
        yield "expected rows that leave room between giving up and certifying"


def _contradictions(row: SmoothingExample, procedure: Procedure) -> Iterator[str]:
    questions, counts = procedure.questions, row.counts
    decisions = () if row.decisions is UNSET else row.decisions
    answers: list[Answer] = [decision.verdict for decision in decisions]
    if [decision.radius for decision in decisions] != [question.radius for question in questions]:
        yield f"expected one answer to each asked radius, got {len(decisions)}"
        return
    if [ORDER.index(answer) for answer in answers] != sorted(ORDER.index(answer) for answer in answers):
        yield f"expected no answer better than that of a smaller radius, got {answers}"
    certified = answers.count("certified")
    largest = questions[certified - 1].radius if certified else 0.0
    if row.radius != largest:
        yield f"expected radius {largest!r}, the largest certified one, got {row.radius!r}"
    selected = max(range(len(counts.selection)), key=lambda k: (counts.selection[k], -k))
    if selected == len(counts.selection) - 1:
        if counts.n or certified:
            yield "expected no draws and no certificate after a pilot that invalid outputs won"
    elif counts.n not in questions[0].test.looks:
        yield f"expected draws that end at a look, got {counts.n}"
    else:
        yield from _rows(questions, answers, counts.n, counts.estimation[selected])


def _rows(questions: Sequence[Question], answers: Sequence[Answer], n: int, votes: int) -> Iterator[str]:
    """Yield where an answer needs a row that these votes cannot have crossed."""
    crossed_last = False
    for place, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        test, first_lost = question.test, "not_certified" not in answers[:place]
        seen = [j for j, look in enumerate(test.looks) if look <= n]
        if answer == "certified" and not any(min(votes, test.looks[j]) >= test.up[j] for j in seen):
            yield f"radius {question.radius!r} certified by {votes} of {n} votes, that never reach its upper row"
        fewest = [votes - (n - test.looks[j]) for j in seen]
        reaches = any(low <= test.lo[j] for j, low in zip(seen, fewest, strict=True))
        if answer == "not_certified" and first_lost and not reaches:
            yield f"radius {question.radius!r} given up at {votes} of {n} votes, that never reach its lower row"
        crossed_last |= not test.lo[seen[-1]] < votes < test.up[seen[-1]]
    if n < questions[0].test.looks[-1] and ("undecided" in answers or not crossed_last):
        yield f"draws ended after {n}, where no row was crossed by {votes} votes"
