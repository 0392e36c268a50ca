r"""The drop below an earlier report: the verdict on what was lost and won, on paired examples.

D_i is 1 when example i is certified in the new report alone, -1 in the old one alone, else 0. The claim "the expected
share drops by at most m" is that the expectation of D is at least -m: **passed** when its lower limit shows that,
**failed** when its upper limit shows the contrary, **undecided** between the two (`certify.stats.comparison` has both
limits and their proof). On ``estimate`` the observed change is compared, and no confidence is claimed.

*Stopping early.* Each D_i depends on the draws of its own example only, and of an example without draws it is known
what is left: one that the old report certified can be lost, any other won. Both limits rise with each one won and fall
with each one lost, so a verdict that stands for the worst and for the best of these is that of the whole run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from msgspec import structs

from certify.errors import InputError
from certify.pairing import certified_before
from certify.policy.gates import Gate
from certify.policy.promises import promise_notes
from certify.results import (
    Baseline,
    CurvatureReport,
    GateRow,
    Judged,
    LipschitzExample,
    Report,
    SmoothingExample,
    Verdict,
    certified_at,
    report_digest,
    unsampled_of,
)
from certify.rounding import ceiling_text, floor_text
from certify.stats import compare_paired, smallest_margin
from certify.stats.comparison import PairedDifference, judge_drop

DIGITS = 4  # of a limit in a sentence


@dataclass(frozen=True)
class DropQuestion:
    """What a gate on the drop below a baseline asks: of the share certified at ``radius``, at most ``max_drop`` less.

    Example:
        >>> asked = DropQuestion(name="g", norm="l2", radius=0.25, max_drop=0.02, confidence=0.95)
        >>> PairedTally(won=3, lost=5, n=1000).verdict(asked), PairedTally(won=0, lost=5, n=100).verdict(asked)
        ('passed', 'undecided')
    """

    name: str
    norm: str
    radius: float
    max_drop: float
    confidence: float
    on: Literal["lower", "estimate"] = "lower"


@dataclass(frozen=True)
class PairedTally:
    """What is known of n paired examples: ``won`` and ``lost`` ones, and ``unsampled`` ones without an answer yet.

    ``unsampled_old`` of the unsampled ones are certified in the old report.
    """

    won: int
    lost: int
    n: int
    unsampled: int = 0
    unsampled_old: int = 0

    def worst(self, confidence: float) -> PairedDifference:
        """Return what the examples would say if those without an answer were all lost that can be."""
        return compare_paired(self.won, self.lost + self.unsampled_old, self.n, 1.0 - confidence)

    def best(self, confidence: float) -> PairedDifference:
        """Return what the examples would say if those without an answer were all won that can be."""
        return compare_paired(self.won + self.unsampled - self.unsampled_old, self.lost, self.n, 1.0 - confidence)

    def verdict(self, asked: DropQuestion) -> Verdict | None:
        """Return the verdict that the examples without an answer cannot change; None while they can."""
        if not self.n:
            return "undecided"
        worst, best = (_verdict(end(asked.confidence), asked) for end in (self.worst, self.best))
        return worst if worst == best else None


@dataclass(frozen=True)
class DropTally:
    """What a gate with a baseline has seen: ``certified`` are the indices of the examples that the baseline certified.

    Example:
        >>> gate = Gate(name="g", metric="certified_accuracy", min=0.0, radius=0.1, baseline="main.json", max_drop=0.02)
        >>> nothing = PairedTally(won=0, lost=0, n=1000, unsampled=1000, unsampled_old=900)
        >>> DropTally(frozenset(range(900)), nothing).verdict(gate) is None
        True
    """

    certified: frozenset[int]
    found: PairedTally

    def after(self, gate: Gate, example: LipschitzExample | SmoothingExample) -> DropTally:
        """Return what is seen with one more example."""
        before, now, found = example.index in self.certified, certified_at(example, gate.radius or 0.0), self.found
        seen = PairedTally(
            won=found.won + (now and not before),
            lost=found.lost + (before and not now),
            n=found.n,
            unsampled=found.unsampled - 1,
            unsampled_old=found.unsampled_old - before,
        )
        return replace(self, found=seen)

    def verdict(self, gate: Gate) -> Verdict | None:
        """Return the verdict that the examples without draws cannot change; None while they can."""
        return self.found.verdict(question_of(gate))


def drop_tally(
    gate: Gate, examples: Sequence[LipschitzExample | SmoothingExample], n: int, certified: Collection[int]
) -> DropTally:
    """Return what a gate has seen in the first examples of ``n``."""
    seen = DropTally(frozenset(certified), PairedTally(0, 0, n, unsampled=n, unsampled_old=len(certified)))
    for example in examples:
        seen = seen.after(gate, example)
    return seen


def question_of(gate: Gate) -> DropQuestion:
    """Return what a gate with a baseline asks."""
    return DropQuestion(
        name=gate.name,
        norm=gate.norm,
        radius=gate.radius or 0.0,
        max_drop=gate.max_drop or 0.0,
        confidence=gate.confidence,
        on=gate.on,
    )


def baseline_record(gate: Gate, report: Report, baselines: Mapping[str, Judged | Baseline]) -> Baseline:
    """Return the baseline of a gate on a report: which of its examples the earlier report certified.

    Args:
        gate: The gate, at a radius in the norm of the report.
        report: The report that is judged.
        baselines: Earlier reports, or their records, by the path that the gate names.

    Raises:
        InputError: If there is none under that path, or the two reports may not be compared.
    """
    found = baselines.get(gate.baseline or "")
    if found is None or isinstance(found, CurvatureReport):
        raise InputError(
            f"gate {gate.name!r}: expected the report of its baseline {gate.baseline!r}, got none; read it, pass it on"
        )
    if isinstance(found, Baseline):
        return _checked(found, report)
    try:
        certified = certified_before(found, report, gate.radius or 0.0)
    except InputError as error:
        raise InputError(f"gate {gate.name!r}: baseline {gate.baseline!r}: {error}") from error
    return Baseline(digest=report_digest(found), model_sha256=found.model.sha256, certified=certified)


def _checked(record: Baseline, report: Report) -> Baseline:
    """Return a record that speaks of the examples of a report alone."""
    indices = [example.index for example in (*report.examples, *unsampled_of(report))]
    if list(record.certified) != sorted(set(record.certified)) or not set(record.certified) <= set(indices):
        raise InputError("expected the certified examples of a baseline among those of the report, each once, in order")
    return record


def judge_gate(gate: Gate, native: Gate, report: Report, baseline: Baseline) -> GateRow:
    """Return the row of a gate with a baseline; ``native`` is the gate at a radius in the norm of the report."""
    n = len(report.examples) + len(unsampled_of(report))
    found = drop_tally(native, report.examples, n, baseline.certified).found
    row = drop_row(question_of(gate), found, baseline)
    row = structs.replace(row, reason="; ".join([row.reason, *promise_notes(gate.norm, report.settings)]))
    return row if native is gate else _converted(row, gate, native)


def _converted(row: GateRow, gate: Gate, native: Gate) -> GateRow:
    reason = f"{row.reason}; converted from {native.norm} radius {native.radius!r}"
    return structs.replace(row, norm=gate.norm, reason=reason)


def drop_row(asked: DropQuestion, found: PairedTally, baseline: Baseline) -> GateRow:
    """Return the row of a gate on the drop below a baseline.

    Raises:
        ValueError: If a number is out of its range.
    """
    if not found.n:
        return _row(asked, baseline, "undecided", "no examples")
    worst, best, proved = found.worst(asked.confidence), found.best(asked.confidence), asked.on == "lower"
    row = _row(asked, baseline, found.verdict(asked) or "undecided", drop_reason(asked, found))
    return structs.replace(
        row,
        value=None if found.unsampled else worst.difference,
        lower=worst.difference_lower if proved else None,
        upper=best.difference_upper if proved else None,
    )


def _row(asked: DropQuestion, baseline: Baseline, verdict: Verdict, reason: str) -> GateRow:
    return GateRow(
        name=asked.name,
        metric="certified_accuracy",
        threshold=asked.max_drop,
        radius=asked.radius,
        claim="population",
        confidence=asked.confidence,
        on=asked.on,
        value=None,
        lower=None,
        upper=None,
        verdict=verdict,
        reason=reason,
        baseline=baseline,
    )


def drop_reason(asked: DropQuestion, found: PairedTally) -> str:
    """Return in one sentence what the verdict on a drop rests on."""
    return "; ".join([_counted(asked, found), *(_limits(asked, found) if asked.on == "lower" else _plain(asked))])


def _verdict(found: PairedDifference, asked: DropQuestion) -> Verdict:
    if asked.on == "lower":
        return judge_drop(found, asked.max_drop)
    change = Fraction(found.won - found.lost, found.examples)
    return "passed" if change >= -Fraction(repr(asked.max_drop)) else "failed"


def _counted(asked: DropQuestion, found: PairedTally) -> str:
    where = f"{asked.norm} radius {asked.radius!r}" if asked.radius else f"any positive {asked.norm} radius"
    stopped = f" (stopped after {found.n - found.unsampled} of them)" if found.unsampled else ""
    return f"of {found.n} examples{stopped} {found.lost} lost and {found.won} won their certificate at {where}"


def _plain(asked: DropQuestion) -> Iterator[str]:
    yield f"a drop of at most {asked.max_drop!r} of the share was allowed on these examples"


def _limits(asked: DropQuestion, found: PairedTally) -> Iterator[str]:
    lower = floor_text(found.worst(asked.confidence).difference_lower, DIGITS)
    upper = ceiling_text(found.best(asked.confidence).difference_upper, DIGITS)
    yield (
        f"the expected change of the share is at least {lower} and at most {upper}, each at confidence "
        f"{asked.confidence!r}; at least {-asked.max_drop!r} was asked for"
    )
    least = smallest_margin(found.n, 1.0 - asked.confidence)
    if not asked.max_drop >= least:
        yield f"{found.n} examples without any change show a drop of at most {ceiling_text(least, DIGITS)}"
