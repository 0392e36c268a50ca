"""Reports with the verdicts of the gates of a configuration: those that are given, else what is missing is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
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
from certify.cli.output import Output
from certify.cli.reading import read_judged
from certify.cli.remembered import answer_name, question_name, recall, remember
from certify.cli.sources import data_path, model_path, read_known_model
from certify.errors import InputError, NoRuleError
from certify.policy import (
    Gate,
    answers_gate,
    evaluate_gates,
    in_native_norm,
    least_examples,
    refuse_diagnostic,
    requirement,
)
from certify.policy.gates import COUNTED
from certify.results import (
    CurvatureReport,
    GateRow,
    Judged,
    LipschitzReport,
    Report,
    SmoothingReport,
    seal,
    unsampled_of,
)
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
    else:
        found = [_found(kind, question, out, no_progress, baselines) for kind in needed_kinds(configuration)]
    return judge(found, configuration.gates, default_kind(configuration), baselines)


def _found(kind: str, question: Question, out: Output, no_progress: bool, baselines: Baselines) -> Judged:
    """Return the report of one kind, remembered from the last time the same was asked, or made now."""
    configuration = question.configuration
    folder = question.store or configuration.store or Path(options.STORE_FOLDER)
    if kind == "curvature":
        return _run(kind, question, out, no_progress, baselines)
    memory = Memory(kind, configuration, question.device, folder, question.falsify)
    report: Judged | None = memory.recall(out)
    if report is None:
        report = _run(kind, question, out, no_progress, baselines)
        memory.keep(report)
    return report


class Memory:
    """The report of the gates of one kind, from the last time the same was asked; see `certify.cli.remembered`."""

    def __init__(
        self, kind: str, configuration: Configuration, device: str | None, store: Path, falsify: str | None
    ) -> None:
        self._kind, self._configuration, self._device, self._store = kind, configuration, device, store
        self._table = configuration.smooth if kind == "smoothing" else configuration.lipschitz
        self._falsify = falsify_level(falsify, self._table)
        self._asked = self._question()

    def recall(self, out: Output) -> Report | None:
        """Return the remembered report, if nothing has changed since, with the warnings of the run that made it."""
        report = recall(self._store, answer_name(self._asked, self._kind, self._store))
        if report is None:
            return None
        out.detail(f"nothing has changed since the report in {self._store}")
        if isinstance(report, SmoothingReport):
            gates = gates_of(self._configuration, self._kind)
            _warn_out_of_reach(gates, len(report.examples) + len(unsampled_of(report)), report.settings.alpha, out)
            if warning := chance_level_note(report.examples, len(report.model.classes)):
                out.note(warning)
        return report

    def keep(self, report: Judged) -> None:
        """Remember a report of certificates, unless a file it was made of is another one by now."""
        if isinstance(report, Report) and self._question() == self._asked:
            remember(self._store, answer_name(self._asked, self._kind, self._store), report)

    def _question(self) -> str | None:
        configuration = self._configuration
        gates = gates_of(configuration, self._kind)
        return question_name(
            kind=self._kind,
            model=model_path(None, configuration),
            data=data_path(None, configuration) if _of_examples(gates) else None,
            arch=configuration.arch,
            table=self._table,
            gates=gates,
            device=self._device,
            falsify=self._falsify,
        )


def kind_of(report: Judged) -> str:
    """Return the kind of a report, as a gate names it."""
    if isinstance(report, CurvatureReport):
        return "curvature"
    return "lipschitz" if isinstance(report, LipschitzReport) else "smoothing"


def gate_kind(gate: Gate, default: str) -> str:
    """Return the kind of certificates a gate speaks of."""
    return gate.certificates or default


def default_kind(configuration: Configuration) -> str:
    """Return the kind of a gate that names none: what the configuration has a table for, smoothing first."""
    return "lipschitz" if configuration.lipschitz and not configuration.smooth else "smoothing"


def needed_kinds(configuration: Configuration) -> list[str]:
    """Return the kinds of reports the gates need, each once."""
    return sorted({gate_kind(gate, default_kind(configuration)) for gate in configuration.gates})


def judge(
    reports: Sequence[Judged], gates: tuple[Gate, ...], default: str, baselines: Baselines = MappingProxyType({})
) -> list[Judged]:
    """Return the reports with the verdicts of the gates that speak of them; gates on diagnostics have leave by now.

    A gate that names no kind speaks of the only report, or among several of the one of the ``default`` kind.

    Raises:
        InputError: If a gate speaks of a kind that no report has, or of several.
    """
    rows: dict[int, list[GateRow]] = {index: [] for index in range(len(reports))}
    for gate in gates:
        kind = gate.certificates if len(reports) == 1 else gate_kind(gate, default)
        fitting = [i for i, report in enumerate(reports) if kind in (None, kind_of(report))]
        if len(fitting) != 1:
            raise InputError(
                f"gate {gate.name!r}: expected exactly one report of kind {kind or 'any'}, got {len(fitting)};"
                " set its `kind`, and give one report of each kind"
            )
        rows[fitting[0]] += evaluate_gates(reports[fitting[0]], (gate,), baselines, allow_diagnostic=True)
    return [_with_gates(report, tuple(rows[index])) for index, report in enumerate(reports)]


def _with_gates(report: Judged, rows: tuple[GateRow, ...]) -> Judged:
    import msgspec

    return seal(msgspec.structs.replace(report, gates=rows, digest=""))


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
        data = data_path(None, configuration) if _of_examples(gates_of(configuration, kind)) else None
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


def _of_examples(gates: Sequence[Gate]) -> bool:
    return any(gate.metric != "lipschitz" for gate in gates)


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
    sequentially, up to the example that settles the last verdict. A gate with a baseline is answered as the baseline
    was: where that measured its radii, so does this run. A mean radius needs measured radii too.
    """
    from certify.runs import has_complete_run

    settings = smoothing_settings(configuration, {})
    gates = [in_native_norm(g, settings, model.input.size) for g in gates_of(configuration, "smoothing")]
    dataset = smooth.read_examples(model, data, None, settings)
    if settings.scores == "soft":
        return smooth.run(model, dataset, settings, places, out, no_progress, data=data)
    asked = asked_settings(configuration, settings, gates, baselines)
    if asked is None or (
        all(answers_gate(settings, gate) for gate in gates)
        and not any(gate.baseline for gate in gates)
        and has_complete_run(model, dataset, settings, store=places.store, device=places.device)
    ):
        out.detail(
            "measuring radii, as a gate needs them" if asked is None else "re-using the complete run in the store"
        )
        compared = [gate for gate in gates if gate.baseline]
        return smooth.run(
            model, dataset, settings, places, out, no_progress, data=data, compared=compared, baselines=baselines
        )
    _warn_out_of_reach(gates, len(dataset), settings.alpha, out)
    return smooth.run(model, dataset, asked, places, out, no_progress, data=data, gates=gates, baselines=baselines)


def gates_of(configuration: Configuration, kind: str) -> list[Gate]:
    """Return the gates that one kind of report answers."""
    default = default_kind(configuration)
    return [gate for gate in configuration.gates if gate_kind(gate, default) == kind]


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
