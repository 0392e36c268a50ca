"""Reports with the verdicts of the gates of a configuration: those that are given, else what is missing is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from certify.cli import curvature, lipschitz, options, smooth
from certify.cli.baselines import Baselines, asked_settings, read_baselines
from certify.cli.chance import chance_level_note
from certify.cli.configuration import (
    Configuration,
    curvature_settings,
    falsify_level,
    lipschitz_settings,
    search_device,
    smoothing_settings,
)
from certify.cli.gate_memory import GateMemory
from certify.cli.output import Output
from certify.cli.reading import read_judged
from certify.cli.sources import data_path, model_path, read_known_model
from certify.cli.verdicts import are_of_examples, default_kind, gates_of, judge, needed_kinds
from certify.errors import NoRuleError
from certify.policy import Gate, answers_gate, in_native_norm, least_examples, refuse_diagnostic, requirement
from certify.policy.gates import COUNTED
from certify.results import Judged, Report, SmoothingReport, unsampled_of
from certify.rounding import ceiling_text

if TYPE_CHECKING:
    from certify.loading import Model


@dataclass(frozen=True)
class Question:
    """What is judged by which gates, and where a run takes place if one is needed; None: as the configuration says."""

    configuration: Configuration
    reports: Sequence[Path] = ()
    falsify: str | None = None
    device: str | None = None
    batch: str | None = None
    workers: int | None = None
    store: Path | None = None
    allow_diagnostic: bool = False  # whether gates may judge readings of curvature


def decide(question: Question, out: Output, *, no_progress: bool) -> list[Judged]:
    """Return the reports with their verdicts: those of the question, else one of each kind that the gates need.

    Raises:
        InputError: If a report, the model or the data cannot be read, no report fits a gate, or a gate is on a
            diagnostic without leave.
    """
    configuration = question.configuration
    for gate in () if question.allow_diagnostic else configuration.gates:
        refuse_diagnostic(gate)
    baselines = read_baselines(configuration.gates)
    if question.reports:
        found: list[Judged] = [read_judged(path) for path in question.reports]
        return judge(found, configuration.gates, default_kind(configuration), baselines)
    return [_answer(kind, question, out, no_progress, baselines) for kind in needed_kinds(configuration)]


def _answer(kind: str, question: Question, out: Output, no_progress: bool, baselines: Baselines) -> Judged:
    """Return the judged report of one kind, remembered from the last time the same was asked, or made now."""
    configuration = question.configuration
    if kind == "curvature":
        return _judged(kind, question, out, no_progress, baselines)
    memory = GateMemory(
        kind,
        configuration,
        baselines,
        device=question.device,
        store=question.store or configuration.store or Path(options.STORE_FOLDER),
        falsify=question.falsify,
    )
    remembered = memory.recall(out)
    if remembered is not None:
        _warn_again(remembered, gates_of(configuration, kind), out)
        return remembered
    report = _judged(kind, question, out, no_progress, baselines)
    memory.keep(report)
    return report


def _judged(kind: str, question: Question, out: Output, no_progress: bool, baselines: Baselines) -> Judged:
    report = _run(kind, question, out, no_progress, baselines)
    configuration = question.configuration
    (judged,) = judge([report], tuple(gates_of(configuration, kind)), default_kind(configuration), baselines)
    return judged


def _warn_again(report: Report, gates: Sequence[Gate], out: Output) -> None:
    """Write the warnings of the run that made a remembered report."""
    if isinstance(report, SmoothingReport):
        _warn_out_of_reach(gates, len(report.examples) + len(unsampled_of(report)), report.settings.alpha, out)
        if warning := chance_level_note(report.examples, len(report.model.classes)):
            out.note(warning)


def _run(kind: str, question: Question, out: Output, no_progress: bool, baselines: Baselines) -> Judged:
    configuration = question.configuration
    path = model_path(None, configuration)
    if kind == "curvature":
        readings, batch = curvature_settings(configuration, {}), data_path(None, configuration)
        return curvature.run(
            path, batch, configuration.arch, None, readings, configuration, out, no_progress, device=question.device
        )
    if kind == "lipschitz":
        settings = lipschitz_settings(configuration, {})
        level = falsify_level(question.falsify, configuration.lipschitz)
        data = data_path(None, configuration) if are_of_examples(gates_of(configuration, kind)) else None
        where = search_device(question.device, configuration)
        report = lipschitz.run(path, data, configuration.arch, None, settings, out, no_progress, level, device=where)
        if not report.model.input.shape:  # a file of weights alone
            raise NoRuleError(str(report.network.reason))
        return report
    places = smooth.Places(
        configuration,
        device=question.device,
        batch=question.batch,
        workers=question.workers,
        store=question.store,
        falsify=question.falsify,
    )
    model = read_known_model(path, configuration.arch)
    return _run_smoothing(model, data_path(None, configuration), configuration, places, out, no_progress, baselines)


def _run_smoothing(
    model: Model,
    data: Path,
    configuration: Configuration,
    places: smooth.Places,
    out: Output,
    no_progress: bool,
    baselines: Baselines,
) -> SmoothingReport:
    """Return the report that the smoothing gates are judged by: a finished run, else the radii they ask for.

    A run of the configured settings that is complete in the store is re-used. Else the gates' radii are decided
    sequentially, up to the example that settles the last verdict; and once this has begun it stays so, since a run that
    is made afterwards measures on the same draws, and would be a second attempt. A gate with a baseline is answered as
    the baseline was: where that measured its radii, so does this run. A mean radius needs measured radii too.
    """
    from certify.runs import has_complete_run, has_run

    settings = smoothing_settings(configuration, {})
    gates = [in_native_norm(g, settings, model.input.size) for g in gates_of(configuration, "smoothing")]
    dataset = smooth.read_examples(model, data, None, settings)
    if settings.scores == "soft":
        return smooth.run(model, dataset, settings, places, out, no_progress, data=data)
    _warn_out_of_reach(gates, len(dataset), settings.alpha, out)
    asked = asked_settings(configuration, settings, gates, baselines)
    if asked is None or (
        all(answers_gate(settings, gate) for gate in gates)
        and not any(gate.baseline for gate in gates)
        and (asked == settings or not has_run(model, dataset, asked, store=places.store, device=places.device))
        and has_complete_run(model, dataset, settings, store=places.store, device=places.device)
    ):
        out.detail(
            "measuring radii, as a gate needs them" if asked is None else "re-using the complete run in the store"
        )
        compared = [gate for gate in gates if gate.baseline]
        return smooth.run(
            model, dataset, settings, places, out, no_progress, data=data, compared=compared, baselines=baselines
        )
    return smooth.run(model, dataset, asked, places, out, no_progress, data=data, gates=gates, baselines=baselines)


def _warn_out_of_reach(gates: Sequence[Gate], n: int, alpha: float, out: Output) -> None:
    for gate in gates:
        if n and gate.baseline:
            _warn_of_small_drop(gate, n, out)
        elif n and gate.metric in COUNTED and requirement(gate, n, alpha).passes_from > n:
            least = least_examples(gate, n, alpha)
            remedy = "no number of examples can" if least is None else f"at least {least} are needed"
            out.note(f"warning: gate {gate.name!r}: {n} examples cannot pass it, {remedy}")


def _warn_of_small_drop(gate: Gate, n: int, out: Output) -> None:
    from certify.stats import smallest_margin

    least = smallest_margin(n, 1.0 - gate.confidence)
    if gate.on == "lower" and not (gate.max_drop or 0.0) >= least:
        shown = ceiling_text(least, 4)
        out.note(f"warning: gate {gate.name!r}: {n} examples without any change show a drop of at most {shown}")
