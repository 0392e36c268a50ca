"""`certify gate --plan`: what must be observed for each gate to pass at the number of examples in the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from certify.cli import smooth
from certify.cli.configuration import Configuration, lipschitz_settings, smoothing_settings
from certify.cli.sources import data_path, model_path, read_known_model
from certify.policy import Gate, least_examples, requirement
from certify.policy.classes import class_requirement, held_to_fail
from certify.policy.diagnostics import TOLERANCE
from certify.policy.drops import PairedTally, question_of
from certify.rounding import ceiling_text, floor_text

if TYPE_CHECKING:
    from certify.examples import Dataset
    from certify.loading import Model
    from certify.stats import Requirement


def plan_text(configuration: Configuration, gates_by_kind: Mapping[str, Sequence[Gate]]) -> str:
    """Return what must be observed for each gate to pass at the number of examples in the data.

    Raises:
        InputError: If model or data cannot be read, or a setting is out of range.
    """
    path = model_path(None, configuration)
    model = read_known_model(path, configuration.arch)
    lines: list[str] = []
    for kind, gates in gates_by_kind.items():
        counted = [gate for gate in gates if gate.metric != "lipschitz" and not gate.diagnostic]
        dataset, alpha = _examples_of(kind, model, configuration) if counted else (None, 0.0)
        for gate in gates:
            lines += [f"{gate.name} ({kind}, {_asked(gate)})", *_required(gate, dataset, alpha, len(model.classes))]
    return "\n".join(lines)


def _examples_of(kind: str, model: Model, configuration: Configuration) -> tuple[Dataset, float]:
    """Return the examples that a kind is run on, and the chance that one of its certificates is false."""
    from certify.runs import read_dataset

    data = data_path(None, configuration)
    if kind == "lipschitz":
        rows = lipschitz_settings(configuration, {})
        return read_dataset(data, model, skip=rows.skip, limit=rows.limit), 0.0
    settings = smoothing_settings(configuration, {})
    return smooth.read_examples(model, data, None, settings), settings.alpha


def _asked(gate: Gate) -> str:
    if gate.diagnostic:
        rise = f"at most {gate.tolerance or TOLERANCE!r} errors above {gate.baseline}"
        return f"{gate.metric.replace('_', ' ')} {rise if gate.max is None else f'at most {gate.max!r}'}, diagnostic"
    where = "" if gate.radius is None else f" at {gate.norm} {gate.radius!r}"
    if gate.baseline:
        return (
            f"certified accuracy{where} at most {gate.max_drop!r} below {gate.baseline}, confidence {gate.confidence!r}"
        )
    if gate.metric == "lipschitz":
        return f"Lipschitz constant of the network at most {gate.max!r}, proved"
    claim = "plain value" if gate.on == "estimate" else f"{gate.claim}, confidence {gate.confidence!r}"
    return f"{gate.metric.replace('_', ' ')}{where} at least {gate.min!r}, {claim}"


def _allowed(gate: Gate, n: int) -> Iterator[str]:
    """Yield how many examples may be lost when none is won, and how many losses show too much."""
    question = question_of(gate)
    verdicts = [PairedTally(won=0, lost=lost, n=n).verdict(question) for lost in range(n + 1)]
    passing, failing = verdicts.count("passed"), verdicts.count("failed")
    yield (
        f"  passes when at most {passing - 1} of {n} are lost and none won"
        if passing
        else f"  {n} examples cannot pass"
    )
    if failing:
        yield f"  fails when {n + 1 - failing} or more are lost and none won"


def _required(gate: Gate, dataset: Dataset | None, alpha: float, classes: int) -> Iterator[str]:
    """Yield what must be observed for a gate to pass, and what makes it fail."""
    n = 0 if dataset is None else len(dataset)
    if gate.diagnostic:
        yield "  passes when the plain value of the reading is within that, else fails; no certificate"
    elif gate.metric == "lipschitz":
        yield f"  passes when the proved bound is at most {gate.max!r}, fails when the constant is proved to be above"
    elif not n or dataset is None:
        yield "  no examples: undecided"
    elif gate.baseline:
        yield from _allowed(gate, n)
    elif gate.metric == "mean_radius":
        yield from _mean_required(gate, n)
    elif gate.metric == "class_certified_accuracy":
        sizes = sorted(Counter(example.label for example in dataset).values())
        yield f"  every class: of the smallest, {sizes[0]} examples, of the largest, {sizes[-1]}"
        stricter = held_to_fail(gate, classes)
        for size in dict.fromkeys((sizes[0], sizes[-1])):
            yield from _counts_required(gate, class_requirement(gate, stricter, size, alpha), size, alpha)
    else:
        yield from _counts_required(gate, requirement(gate, n, alpha), n, alpha)


def _mean_required(gate: Gate, n: int) -> Iterator[str]:
    if gate.on == "estimate":
        yield f"  passes when the mean of {n} examples is at least {gate.min!r}, else fails"
    elif gate.claim == "list":
        yield f"  passes when the mean of {n} examples is at least {gate.min!r} without those that may be false"
    else:
        yield f"  passes when the lower limit over {n} examples is at least {gate.min!r}"


def _counts_required(gate: Gate, rule: Requirement, n: int, alpha: float) -> Iterator[str]:
    passes, fails = rule.passes_from, rule.fails_to
    if passes <= n:
        yield f"  passes from {passes} of {n} examples ({ceiling_text(passes / n, 4)})"
    else:
        least = least_examples(gate, n, alpha)
        remedy = "no number of examples can" if least is None else f"at least {least} are needed"
        yield f"  cannot pass with {n} examples, {remedy}"
    if fails >= 0:
        yield f"  fails up to {fails} of {n} ({floor_text(fails / n, 4)})"
    if passes - fails > 1:
        yield "  undecided between the two"
