"""Which gates of a configuration speak of which report, and their verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from certify.cli.baselines import Baselines
from certify.cli.configuration import Configuration
from certify.errors import InputError
from certify.policy import Gate, evaluate_gates
from certify.results import CurvatureReport, GateRow, Judged, LipschitzReport, seal


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


def gates_of(configuration: Configuration, kind: str) -> list[Gate]:
    """Return the gates that one kind of report answers."""
    default = default_kind(configuration)
    return [gate for gate in configuration.gates if gate_kind(gate, default) == kind]


def are_of_examples(gates: Sequence[Gate]) -> bool:
    """Return whether any of the gates asks about examples, and so needs data."""
    return any(gate.metric != "lipschitz" for gate in gates)


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
