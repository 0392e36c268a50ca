r"""Gates on every class: in each, the share certified at the radius is at least ``min``.

The examples of one class are counted as `certify.policy.tallies` counts a list: independent draws from that class, with
its own n. Let K be the number of classes, delta = 1 - confidence.

- **Passed** when every class passes at the confidence itself. If some class c is below ``min``, the gate passes only if
  the test of that very c errs, which has probability at most delta: no level is shared out (the intersection-union
  test; Berger, Technometrics 24(4), 1982).
- **Failed** when some class fails at delta / K. If every class reaches ``min``, one of K tests must err for that, which
  has probability at most K delta / K (Bonferroni).
- **Undecided** otherwise; so is a class without examples.

The limits follow: with c the worst class, min over classes of the lower limits is at most that of c, a lower limit of
its share at the confidence; and the least of K upper limits at delta / K holds for the share of its own class, which is
no smaller than that of c. A ``list`` claim and ``on = "estimate"`` count each class by the same rule as a whole
list. Examples without draws, of a run whose verdicts were settled, may still count or not, in the limits too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from msgspec import structs

from certify.policy.gates import Gate
from certify.policy.promises import certified_words, scales_notes
from certify.policy.requirements import requirement
from certify.policy.rows import examples_row
from certify.policy.tallies import Tally, tally
from certify.results import GateRow, Report, SmoothingReport, Verdict, unsampled_of
from certify.rounding import div_down, div_up
from certify.stats import Requirement


@dataclass(frozen=True)
class ClassTally:
    """What a gate has seen of one class, and the gate that its failure is held to."""

    name: str
    seen: Tally
    gate: Gate
    stricter: Gate

    @property
    def rule(self) -> Requirement:
        """The counts from which this class passes at the confidence, and up to which it fails for all classes."""
        return class_requirement(self.gate, self.stricter, self.seen.n, self.seen.alpha)

    @property
    def verdict(self) -> Verdict:
        """The verdict on this class alone; undecided without examples."""
        if not self.seen.n:
            return "undecided"
        lingering = self.seen.undecided if self.gate.claim == "list" and self.gate.on == "lower" else 0
        return self.rule.verdict(self.seen.count, self.seen.unsampled + lingering)

    def limits(self) -> tuple[float, float | None]:
        """Return the lower limit at the confidence, and the upper limit at its share of the level."""
        return self.seen.limits(self.gate, self.stricter.confidence) if self.seen.n else (0.0, 1.0)


def class_requirement(gate: Gate, stricter: Gate, n: int, alpha: float) -> Requirement:
    """Return the counts of ``n`` examples of one class from which it passes, and up to which it fails for all."""
    passing, failing = requirement(gate, n, alpha), requirement(stricter, n, alpha)
    three_way = gate.on == "lower" and gate.claim == "population"
    return Requirement(passing.passes_from, failing.fails_to if three_way else passing.fails_to)


def held_to_fail(gate: Gate, classes: int) -> Gate:
    """Return the gate at the confidence that the failure of one among several classes is held to."""
    return structs.replace(gate, confidence=_shared_out(gate.confidence, max(classes, 1)))


def judge_classes(report: Report, gate: Gate, native: Gate) -> GateRow:
    """Return the verdict on the share of every class certified at a radius.

    Args:
        report: The report, which fits the gate.
        gate: The gate as it is asked.
        native: The gate at the radius in the norm of the certificates.
    """
    classes = list(class_tallies(report, gate, native))
    shares = [one.seen.share for one in classes]
    known = [share for share in shares if share is not None]
    return examples_row(
        gate,
        native,
        value=min(known) if classes and len(known) == len(shares) else None,
        limits=_limits(gate, classes),
        verdict=_verdict(classes),
        reason=_reason(gate, classes, report),
    )


def class_tallies(report: Report, gate: Gate, native: Gate) -> Iterator[ClassTally]:
    """Yield what is seen of each class, in the order of the model's classes."""
    unsampled = [example.label for example in unsampled_of(report)]
    alpha = report.settings.alpha if isinstance(report, SmoothingReport) else 0.0
    names = report.model.classes
    stricter = held_to_fail(gate, len(names))
    for label, name in enumerate(names):
        own = [example for example in report.examples if example.label == label]
        n = len(own) + unsampled.count(label)
        yield ClassTally(name, tally(native, own, n, alpha), gate, stricter)


def _shared_out(confidence: float, classes: int) -> float:
    """Return a confidence of at least 1 - (1 - confidence) / classes, below 1."""
    return (
        min(1.0 - div_down(1.0 - confidence, float(classes)) + 2.0**-53, 1.0 - 2.0**-53) if classes > 1 else confidence
    )


def _limits(gate: Gate, classes: Sequence[ClassTally]) -> tuple[float | None, float | None]:
    if gate.on == "estimate" or not any(one.seen.n for one in classes):
        return None, None
    found = [one.limits() for one in classes]
    uppers = [upper for _, upper in found if upper is not None]
    return min(lower for lower, _ in found), min(uppers, default=None)


def _verdict(classes: Sequence[ClassTally]) -> Verdict:
    verdicts = {one.verdict for one in classes}
    if "failed" in verdicts:
        return "failed"
    return "passed" if verdicts == {"passed"} else "undecided"


def _reason(gate: Gate, classes: Sequence[ClassTally], report: Report) -> str:
    """Return how many classes pass, and what was counted in the one that is furthest from it."""
    if not any(one.seen.n for one in classes):
        return "no examples"
    passing = sum(one.verdict == "passed" for one in classes)
    worst = min(classes, key=_rank)
    seen = worst.seen
    certified = f"{certified_words(report.settings)} at {gate.norm} radius {gate.radius!r}"
    counted = f"class {worst.name!r}: {_counted(seen, certified)}"
    need = (
        f"{worst.rule.passes_from} needed to show {gate.min!r}" if seen.n else "a class without examples shows nothing"
    )
    notes = scales_notes(gate.norm, report.settings)
    return "; ".join([f"{passing} of {len(classes)} classes pass", counted, need, *notes])


def _counted(seen: Tally, certified: str) -> str:
    if not seen.unsampled:
        return f"{seen.count} of {seen.n} examples {certified}"
    most = seen.count + seen.unsampled
    return f"at least {seen.count} of {seen.n} examples {certified}, at most {most}"


def _rank(one: ClassTally) -> tuple[int, float]:
    """Return what orders classes from the one that fails most to the one that passes best."""
    order = ("failed", "undecided", "passed")
    return order.index(one.verdict), div_up(float(one.seen.count), float(one.seen.n)) if one.seen.n else 0.0
