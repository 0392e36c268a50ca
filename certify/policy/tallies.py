"""What a gate has counted, example by example, and when no later example can change its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from msgspec import UNSET

from certify.policy.gates import Gate
from certify.policy.requirements import requirement
from certify.results import LipschitzExample, SmoothingExample, Verdict, certified_at, clean_correct
from certify.rounding import div_down
from certify.stats import false_certificates_quantile, population_limits


@dataclass(frozen=True)
class Tally:
    """What a gate has seen: ``count`` of the ``n`` examples count, each falsely with chance ``alpha`` at most.

    ``unsampled`` examples have no draws yet; ``undecided`` ones have, and their own question stayed open.

    Example:
        >>> gate = Gate(name="g", metric="certified_accuracy", radius=0.25, min=0.5)
        >>> Tally(count=113, undecided=0, unsampled=60, n=200, alpha=0.001).verdict(gate)
        'passed'
        >>> Tally(count=112, undecided=0, unsampled=60, n=200, alpha=0.001).verdict(gate) is None
        True
    """

    count: int
    undecided: int
    unsampled: int
    n: int
    alpha: float

    @property
    def share(self) -> float | None:
        """The observed share, rounded to nearest; None without examples, or while some have no draws."""
        return self.count / self.n if self.n and not self.unsampled else None

    def limits(self, gate: Gate, failing: float) -> tuple[float, float | None]:
        """Return the limits of the share that a verdict on at least one example rests on.

        Of the population they are the lower one at the confidence of the gate and the upper one at ``failing``, the
        confidence that a failure is held to; of this list there is a lower one only.
        """
        if gate.claim == "list":
            false_ones = false_certificates_quantile(self.n, self.alpha, 1.0 - gate.confidence)
            return div_down(float(max(self.count - false_ones, 0)), float(self.n)), None
        most = self.count + self.unsampled
        lower, _ = population_limits(self.count, self.n, confidence=gate.confidence, alpha=self.alpha)
        return lower, population_limits(most, self.n, confidence=failing, alpha=self.alpha)[1]

    def after(self, gate: Gate, example: LipschitzExample | SmoothingExample) -> Tally:
        """Return what is seen with one more example."""
        return replace(
            self,
            count=self.count + _counts(gate, example),
            undecided=self.undecided + _is_undecided(gate, example),
            unsampled=self.unsampled - 1,
        )

    def verdict(self, gate: Gate) -> Verdict | None:
        """Return the verdict that the examples without draws cannot change; None while they can."""
        if not self.n:
            return "undecided"
        rule = requirement(gate, self.n, self.alpha)
        lingering = self.undecided if gate.claim == "list" and gate.on == "lower" else 0
        now = rule.verdict(self.count, self.unsampled + lingering)
        if now != "undecided" or not self.unsampled:
            return now
        may_pass = self.count + self.unsampled >= rule.passes_from
        may_fail = self.count + lingering <= rule.fails_to
        return None if may_pass or may_fail else "undecided"


def tally(gate: Gate, examples: Sequence[LipschitzExample | SmoothingExample], n: int, alpha: float) -> Tally:
    """Return what a gate has seen in the first examples of ``n``."""
    return Tally(
        count=sum(_counts(gate, example) for example in examples),
        undecided=sum(_is_undecided(gate, example) for example in examples),
        unsampled=n - len(examples),
        n=n,
        alpha=alpha,
    )


def _counts(gate: Gate, example: LipschitzExample | SmoothingExample) -> bool:
    return clean_correct(example) if gate.radius is None else certified_at(example, gate.radius)


def _is_undecided(gate: Gate, example: LipschitzExample | SmoothingExample) -> bool:
    """Return whether the question of a gate stayed open at the most draws, for the class that is the label."""
    if not isinstance(example, SmoothingExample) or example.decisions is UNSET or _counts(gate, example):
        return False
    selection, asked = example.counts.selection, gate.radius or 0.0
    if selection.index(max(selection)) != example.label:
        return False
    return next((d.verdict == "undecided" for d in example.decisions if d.radius >= asked), False)
