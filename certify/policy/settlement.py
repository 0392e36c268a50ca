"""Watching a run: when no later example can change the verdict of any gate.

A gate on every class is settled by what its classes can still become. The labels of all examples are known before the
first draw, so of each class it is known how many examples are left; what one class becomes says nothing of another, so
every combination of what each can become is possible. The gate can still *fail* when some class can, *pass* when all
can, and stay *undecided* when every class can end without failing and some of them undecided.

A gate on the mean radius waits for the last example: it needs measured radii, of which a run that stopped would have no
mean to report. A gate on the network draws nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from certify.policy.classes import class_requirement, held_to_fail
from certify.policy.drops import DropTally, drop_tally
from certify.policy.gates import COUNTED, Gate
from certify.policy.tallies import Tally, tally
from certify.results import LipschitzExample, SmoothingExample, Verdict
from certify.stats import Requirement


@dataclass(frozen=True)
class WholeRun:
    """What a gate has seen that waits for the last example."""

    def after(self, gate: Gate, example: LipschitzExample | SmoothingExample) -> WholeRun:  # noqa: ARG002 - as a tally
        """Return what is seen with one more example."""
        return self

    def verdict(self, gate: Gate) -> Verdict | None:  # noqa: ARG002 - as a tally
        """Return None: a later example can change it."""
        return None


@dataclass(frozen=True)
class ClassTallies:
    """What a gate has seen of each class, in the order of the model's classes."""

    seen: tuple[Tally, ...]

    def after(self, gate: Gate, example: LipschitzExample | SmoothingExample) -> ClassTallies:
        """Return what is seen with one more example."""
        label = example.label
        return ClassTallies((*self.seen[:label], self.seen[label].after(gate, example), *self.seen[label + 1 :]))

    def verdict(self, gate: Gate) -> Verdict | None:
        """Return the verdict that the examples without draws cannot change; None while they can."""
        stricter = held_to_fail(gate, len(self.seen))
        classes = [possible_verdicts(gate, stricter, seen) for seen in self.seen]
        possible: set[Verdict] = set()
        if any("failed" in one for one in classes):
            possible.add("failed")
        if all("passed" in one for one in classes):
            possible.add("passed")
        if all(one - {"failed"} for one in classes) and any("undecided" in one for one in classes):
            possible.add("undecided")
        return next(iter(possible)) if len(possible) == 1 else None


def possible_verdicts(gate: Gate, stricter: Gate, seen: Tally) -> frozenset[Verdict]:
    """Return the verdicts on one class that its examples without draws leave possible.

    Where examples that end undecided keep a failure open (a list claim), all those without draws may end so, which is
    the completion with the smallest count and the most open ones: if any leaves the class undecided, this one does.

    Args:
        gate: The gate, at a radius in the norm of the run.
        stricter: The gate at the confidence that the failure of one class is held to.
        seen: What is counted of the class.
    """
    if not seen.n:
        return frozenset(("undecided",))
    rule = class_requirement(gate, stricter, seen.n, seen.alpha)
    lingers = gate.claim == "list" and gate.on == "lower"
    ends: tuple[tuple[Verdict, bool], ...] = (
        ("passed", seen.count + seen.unsampled >= rule.passes_from),
        ("failed", rule.verdict(seen.count, seen.undecided if lingers else 0) == "failed"),
        ("undecided", _may_stay_open(rule, seen, lingers)),
    )
    return frozenset(verdict for verdict, holds in ends if holds)


def _may_stay_open(rule: Requirement, seen: Tally, lingers: bool) -> bool:
    if lingers:
        return rule.verdict(seen.count, seen.undecided + seen.unsampled) == "undecided"
    return max(seen.count, rule.fails_to + 1) <= min(seen.count + seen.unsampled, rule.passes_from - 1)


class Settlement:
    """Watches the examples of a run, one by one in their order, until no later one can change a verdict.

    Example:
        >>> gate = Gate(name="g", metric="clean_accuracy", min=0.9)
        >>> Settlement([gate], n=100, alpha=0.001).verdicts
        (None,)
    """

    def __init__(
        self,
        gates: Sequence[Gate],
        *,
        n: int,
        alpha: float,
        certified: Mapping[str, Collection[int]] = MappingProxyType({}),
        labels: Collection[int] = (),
        classes: int = 0,
    ) -> None:
        """Begin with no example seen of ``n``.

        Args:
            gates: The gates, at radii in the norm of the run.
            n: All examples.
            alpha: The chance that one certificate is false.
            certified: By name of a gate with a baseline, the indices of the examples that the baseline certified.
            labels: The labels of all examples, for gates on every class; without them these wait for the last example.
            classes: How many classes the model has.
        """
        sizes = Counter(labels)
        nothing = ClassTallies(tuple(_unseen(sizes[label], alpha) for label in range(classes))) if sizes else WholeRun()
        self._seen = [(gate, _nothing_seen(gate, n, alpha, certified.get(gate.name, ()), nothing)) for gate in gates]

    def add(self, example: LipschitzExample | SmoothingExample) -> None:
        """See the next example."""
        self._seen = [(gate, seen.after(gate, example)) for gate, seen in self._seen]

    @property
    def verdicts(self) -> tuple[Verdict | None, ...]:
        """The verdict of each gate, None while a later example can change it."""
        return tuple(seen.verdict(gate) for gate, seen in self._seen)

    @property
    def settled(self) -> bool:
        """Whether the verdict of every gate stands."""
        return None not in self.verdicts


def _unseen(n: int, alpha: float) -> Tally:
    return Tally(count=0, undecided=0, unsampled=n, n=n, alpha=alpha)


def _nothing_seen(
    gate: Gate, n: int, alpha: float, certified: Collection[int], of_classes: ClassTallies | WholeRun
) -> Tally | DropTally | ClassTallies | WholeRun:
    if gate.baseline is not None:
        return drop_tally(gate, (), n, certified)
    if gate.metric in COUNTED:
        return tally(gate, (), n, alpha)
    return of_classes if gate.metric == "class_certified_accuracy" else WholeRun()
