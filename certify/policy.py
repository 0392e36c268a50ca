r"""Gates: a policy and a report in, one verdict per gate out.

A gate compares a count of examples with a threshold, on integers. Let V_i = 1 when example i counts, n the examples, a
the threshold, delta = 1 - confidence, and alpha the chance that one V_i = 1 is false (0 for Lipschitz certificates).

- claim ``population``: "the share in the population is at least a". **Passed** when the lower limit of the share is at
  least a, **failed** when the upper limit of the share that this procedure certifies is below a, **undecided** between
  the two: never a pass. Needs examples drawn independently from the population.
- claim ``list``: "of these n examples at least a n are truly certified". At most q of n certificates are false with
  probability 1 - delta (q = 0 when alpha is 0), so it passes from ceil(a n) + q on, and fails below: no middle zone.
- on ``estimate``: the plain share against a; no confidence is claimed.

The statements and their proofs stand in `certify.stats.populations`.

*Which alpha for clean accuracy?* For smoothing V_i = 1 says that the vote was not an abstention and named the label. An
answer is given only with a positive radius, and that this radius is too large, or the class not the smoothed
classifier's, has probability at most alpha: the certificate at radius 0 is the claim "the smoothed classifier's answer
is this class". So clean accuracy of a smoothed classifier is its certified accuracy at radius 0, with the same alpha.
For Lipschitz reports it counts the network's own argmax, an observation that nothing random can falsify: alpha = 0.

*Asked radii, and stopping early.* A run that decides asked radii (`at`) speaks of these alone: a gate at another radius
is an error of the policy, and clean accuracy is the question at a radius so small that it means any positive one
(`SMALLEST` sigma). Each V_i depends on the draws of its own example only, so a verdict that the examples without draws
cannot change is that of the whole run, and no level is spent by stopping there: **passed** when the certified examples
alone suffice, **failed** when these and all open ones would not. The record then says how many are certified at least
and at most, never a share of those drawn. An example that ended undecided counts as not certified; for a list claim,
where the other answer could have made the difference, it stays open, and the verdict may end undecided.

A threshold that is out of reach of n examples can only fail or stay undecided; the reason then names the least number
of examples that could pass. A radius that no vote can reach with the draws asked for is an error of the policy
(`InputError`), not a verdict on the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from typing import Any, Literal

import msgspec
from msgspec import UNSET

from certify.errors import InputError
from certify.results import (
    GateRow,
    LipschitzExample,
    Norm,
    Report,
    SmoothingExample,
    SmoothingReport,
    SmoothingSettings,
    Verdict,
    certified_at,
    clean_correct,
    refuse_other_words,
    unsampled_of,
)
from certify.rounding import div_down, floor_text
from certify.stats import (
    BOUNDS,
    Requirement,
    charged_alpha,
    false_certificates_quantile,
    list_requirement,
    population_limits,
    population_requirement,
    smallest_population_sample,
)

PLANNED_KEYS = frozenset({"baseline", "max_drop", "max"})
PLANNED_METRICS = frozenset({"class_certified_accuracy", "lipschitz", "mean_radius"})
MOST_STEPS = 1000
SMALLEST = 0.001  # times sigma: the asked radius that stands for any positive one


class Gate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One requirement on a report; the fields are the keys of a ``[[gate]]`` table.

    ``kind`` None takes the certificates of whichever report it is given. ``radius`` and ``norm`` belong to
    ``certified_accuracy`` alone.

    Raises:
        ValueError: If a value is outside its range, or a radius is missing or does not apply.
    """

    name: str
    metric: Literal["certified_accuracy", "clean_accuracy"]
    min: float
    kind: Literal["lipschitz", "smoothing"] | None = None
    norm: Norm = "l2"
    radius: float | None = None
    claim: Literal["population", "list"] = "population"
    confidence: float = 0.95
    on: Literal["lower", "estimate"] = "lower"

    def __post_init__(self) -> None:
        if not 0.0 <= self.min <= 1.0:
            raise ValueError(f"key 'min': expected a share within 0..1, got {self.min!r}; write 0.6 for 60 %")
        if not 0.5 < self.confidence < 1.0:
            raise ValueError(f"key 'confidence': expected a number above 1/2 and below 1, got {self.confidence!r}")
        if self.metric == "clean_accuracy" and self.radius is not None:
            raise ValueError("key 'radius': clean_accuracy has none; remove it, or ask for certified_accuracy")
        if self.metric == "certified_accuracy" and not (self.radius is not None and 0.0 <= self.radius < math.inf):
            raise ValueError(f"key 'radius': certified_accuracy needs a radius of at least 0, got {self.radius!r}")


def parse_gates(tables: Sequence[Mapping[str, Any]]) -> tuple[Gate, ...]:
    """Return the gates of the ``[[gate]]`` tables of a configuration.

    Raises:
        InputError: If a key is unknown, missing, not of its type or range, not supported, or a name occurs twice.

    Example:
        >>> parse_gates([{"name": "clean", "metric": "clean_accuracy", "min": 0.9}])[0].claim
        'population'
    """
    gates = tuple(_parse_gate(table, number) for number, table in enumerate(tables, start=1))
    names = [gate.name for gate in gates]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"gate {name!r}: expected a name of its own for each gate; rename one of them")
    return gates


def _parse_gate(table: Mapping[str, Any], number: int) -> Gate:
    label = f"gate {table.get('name', number)!r}"
    planned = sorted(PLANNED_KEYS.intersection(table))
    if planned:
        raise InputError(f"{label}: key {planned[0]!r} is not supported by this version; remove it, or update certify")
    metric = table.get("metric")
    if isinstance(metric, str) and metric in PLANNED_METRICS:
        raise InputError(
            f"{label}: metric {metric!r} is not supported by this version; "
            "expected certified_accuracy or clean_accuracy"
        )
    try:
        refuse_other_words(table, Gate)
        return msgspec.convert(dict(table), Gate)
    except (msgspec.ValidationError, InputError) as error:
        raise InputError(f"{label}: {error}; the keys are {', '.join(Gate.__struct_fields__)}") from error


def evaluate_gates(report: Report, gates: Iterable[Gate]) -> tuple[GateRow, ...]:
    """Return the verdict of each gate on a report, in their order.

    Raises:
        InputError: If a gate asks for another kind or norm than the report's, for a radius that the draws of the report
            cannot reach, or the report has no data.
    """
    return tuple(_evaluate(report, gate) for gate in gates)


def gate_exit_code(rows: Iterable[GateRow]) -> int:
    """Return 1 when a gate failed, else 4 when one is undecided, else 0.

    Example:
        >>> gate_exit_code([])
        0
    """
    verdicts = {row.verdict for row in rows}
    return 1 if "failed" in verdicts else 4 if "undecided" in verdicts else 0


@lru_cache(maxsize=256)
def requirement(gate: Gate, n: int, alpha: float) -> Requirement:
    """Return the counts of ``n`` examples from which the gate passes and up to which it fails.

    Args:
        gate: The gate.
        n: Examples, at least 1.
        alpha: The chance that one certificate is false; 0 for Lipschitz reports.

    Raises:
        ValueError: If ``n`` or ``alpha`` is out of range.

    Example:
        >>> gate = Gate(name="g", metric="clean_accuracy", min=0.6)
        >>> requirement(gate, 500, 0.001)
        Requirement(passes_from=319, fails_to=281)
    """
    if gate.on == "estimate":
        return list_requirement(n, gate.min, alpha=0.0, rho=0.05)  # without false certificates rho plays no part
    if gate.claim == "list":
        return list_requirement(n, gate.min, alpha=alpha, rho=1.0 - gate.confidence)
    return population_requirement(n, gate.min, confidence=gate.confidence, alpha=alpha)


def least_examples(gate: Gate, n: int, alpha: float) -> int | None:
    """Return the least number of examples, at least ``n``, that could pass the gate; None when none is found.

    What a list of n examples must count rises with n, so stepping from n to what n asks for, again and again, stops at
    the first n that asks for no more than it has.

    Example:
        >>> least_examples(Gate(name="g", metric="clean_accuracy", min=0.99), 100, 0.0)
        299
    """
    if gate.on == "lower" and gate.claim == "population":
        least = smallest_population_sample(gate.min, confidence=gate.confidence, alpha=alpha)
        return None if least is None else max(n, least)
    for _ in range(MOST_STEPS):
        need = requirement(gate, n, alpha).passes_from
        if need <= n:
            return n
        n = need
    return None


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
    nothing = Tally(count=0, undecided=0, unsampled=n, n=n, alpha=alpha)
    return reduce(lambda seen, example: seen.after(gate, example), examples, nothing)


class Settlement:
    """Watches the examples of a run, one by one in their order, until no later one can change a verdict.

    Example:
        >>> gate = Gate(name="g", metric="clean_accuracy", min=0.9)
        >>> Settlement([gate], n=100, alpha=0.001).verdicts
        (None,)
    """

    def __init__(self, gates: Sequence[Gate], *, n: int, alpha: float) -> None:
        self._seen = [(gate, tally(gate, (), n, alpha)) for gate in gates]

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


def asked_radii(gates: Iterable[Gate], settings: SmoothingSettings) -> tuple[float, ...]:
    """Return the radii that a sequential run must decide for gates of kind smoothing; `SMALLEST` sigma for any radius.

    Example:
        >>> gates = parse_gates([{"name": "clean", "metric": "clean_accuracy", "min": 0.9}])
        >>> asked_radii(gates, SmoothingSettings(sigma=0.25))
        (0.00025,)
    """
    smallest = SMALLEST * settings.sigma
    return tuple(sorted({gate.radius or smallest for gate in gates}))


def answers_gate(settings: SmoothingSettings, gate: Gate) -> bool:
    """Return whether a run with these settings decides what a gate asks: any radius, or the asked ones alone."""
    smallest = SMALLEST * settings.sigma
    return not settings.at or (gate.radius in settings.at if gate.radius else settings.at[0] <= smallest)


def _evaluate(report: Report, gate: Gate) -> GateRow:
    _check_fits(report, gate)
    found = tally(gate, report.examples, len(report.examples) + len(unsampled_of(report)), _alpha(report))
    verdict, reason = _judge(gate, found)
    lower, upper = _limits(gate, found)
    return GateRow(
        name=gate.name,
        metric=gate.metric,
        threshold=gate.min,
        radius=UNSET if gate.radius is None else gate.radius,
        claim=gate.claim,
        confidence=gate.confidence,
        on=gate.on,
        value=found.count / found.n if found.n and not found.unsampled else None,
        lower=lower,
        upper=upper,
        verdict=verdict,
        reason=reason,
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


def _alpha(report: Report) -> float:
    return report.settings.alpha if isinstance(report, SmoothingReport) else 0.0


def _judge(gate: Gate, found: Tally) -> tuple[Verdict, str]:
    if not found.n:
        return "undecided", "no examples"
    rule = requirement(gate, found.n, found.alpha)
    verdict = found.verdict(gate) or "undecided"
    return verdict, "; ".join([_counted(gate, found), _need(gate, rule, found), *_contrary(gate, rule)])


def _counted(gate: Gate, found: Tally) -> str:
    what = "answered correctly" if gate.radius is None else f"certified correct at {gate.norm} radius {gate.radius!r}"
    lingering = f", {found.undecided} undecided at the most draws" if found.undecided else ""
    if not found.unsampled:
        return f"{found.count} of {found.n} examples {what}{lingering}"
    most = found.count + found.unsampled
    return (
        f"at least {found.count} of {found.n} examples {what}, at most {most}{lingering} (stopped after "
        f"{found.n - found.unsampled} examples)"
    )


def _need(gate: Gate, rule: Requirement, found: Tally) -> str:
    if rule.passes_from <= found.n:
        return f"{rule.passes_from} needed to show {_asked(gate)}"
    least = least_examples(gate, found.n, found.alpha)
    remedy = "no number of examples can" if least is None else f"at least {least} examples are needed"
    return f"{found.n} examples cannot show {_asked(gate)}, {remedy}"


def _contrary(gate: Gate, rule: Requirement) -> list[str]:
    three_way = gate.on == "lower" and gate.claim == "population" and rule.fails_to >= 0
    return [f"{rule.fails_to} or fewer show less"] if three_way else []


def _asked(gate: Gate) -> str:
    if gate.on == "estimate":
        return f"a share of {gate.min!r}"
    where = "of the population" if gate.claim == "population" else "of this list"
    return f"{gate.min!r} {where} at confidence {gate.confidence!r}"


def _limits(gate: Gate, found: Tally) -> tuple[float | None, float | None]:
    """Return the limits that the verdict rests on: those of the population, or the share of this list from below."""
    if gate.on == "estimate" or not found.n:
        return None, None
    most = found.count + found.unsampled
    if gate.claim == "population":
        lower, upper = (
            population_limits(count, found.n, confidence=gate.confidence, alpha=found.alpha)
            for count in (found.count, most)
        )
        return lower[0], upper[1]
    false_ones = false_certificates_quantile(found.n, found.alpha, 1.0 - gate.confidence)
    return div_down(float(max(found.count - false_ones, 0)), float(found.n)), None


def _check_fits(report: Report, gate: Gate) -> None:
    kind = "smoothing" if isinstance(report, SmoothingReport) else "lipschitz"
    if report.data is UNSET:
        raise InputError(
            f"gate {gate.name!r}: expected a report with data, got one of the network alone; give the data"
        )
    if gate.kind not in (None, kind):
        raise InputError(f"gate {gate.name!r}: expected {gate.kind} certificates, got a {kind} report; run {gate.kind}")
    norm: Norm = "l2" if isinstance(report, SmoothingReport) else report.settings.norm
    check_norm(gate, norm)
    if isinstance(report, SmoothingReport):
        _check_reachable(report, gate)


def check_norm(gate: Gate, norm: Norm) -> None:
    """Refuse a gate on radii in another norm than the certificates have.

    Raises:
        InputError: If it asks for another norm.
    """
    if gate.radius is not None and gate.norm != norm:
        raise InputError(
            f"gate {gate.name!r}: expected certificates in {gate.norm}, got a report in {norm}; "
            f"set norm = {norm!r}, or run with the other norm"
        )


def _check_reachable(report: SmoothingReport, gate: Gate) -> None:
    settings, tables = report.settings, report.tables
    if settings.at:
        _check_asked(settings, gate)
        return
    draws = settings.n if tables.plan is None else max(tables.plan)
    alpha = charged_alpha(settings.alpha, tables.alpha_charged)
    votes = (draws, *[0] * len(report.model.classes))  # the last: invalid outputs
    largest = BOUNDS[settings.bound](votes, 0, alpha, settings.sigma, votes)
    if gate.radius is not None and not gate.radius <= largest:
        raise InputError(
            f"gate {gate.name!r}: expected a radius that {draws} draws can certify at sigma {settings.sigma!r}, at "
            f"most {floor_text(max(largest, 0.0), 5)}, got {gate.radius!r}; lower it, or run with a larger --n"
        )


def _check_asked(settings: SmoothingSettings, gate: Gate) -> None:
    if answers_gate(settings, gate):
        return
    radius = gate.radius or SMALLEST * settings.sigma
    raise InputError(
        f"gate {gate.name!r}: expected a report that decides radius {radius!r}, got one that was asked only at "
        f"{', '.join(map(repr, settings.at))}; run with --at {radius!r} as well, or without --at"
    )
