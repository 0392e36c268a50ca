"""The earlier reports that gates compare with: read, fitted into a run, and compared before anything is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from certify.cli.configuration import Configuration, smoothing_settings
from certify.cli.reading import read_judged
from certify.policy import Gate, asked_radii
from certify.policy.drops import baseline_record
from certify.results import Judged, SmoothingReport, SmoothingSettings

if TYPE_CHECKING:
    from certify.runs import SmoothingRun

Baselines = Mapping[str, Judged]  # by the path that a gate names


def read_baselines(gates: Iterable[Gate]) -> dict[str, Judged]:
    """Return the reports that gates name as their baseline, each after re-deriving every number in it.

    Raises:
        InputError: If one is no report, or a number in it does not follow from its record.
    """
    return {name: read_judged(Path(name)) for name in sorted({gate.baseline for gate in gates if gate.baseline})}


def asked_settings(
    configuration: Configuration, settings: SmoothingSettings, gates: Sequence[Gate], baselines: Baselines
) -> SmoothingSettings | None:
    """Return the settings of the run that decides the radii of gates; None where radii must be measured.

    A gate on the mean radius needs measured radii, and so does one whose baseline measured them. Deterministic
    splitting evaluates all its shifts in any case.

    An answer is compared with one to the same questions: what a baseline was asked for, the run is asked for too.
    """
    earlier = [
        report.settings.at
        for gate in gates
        if gate.baseline and isinstance(report := baselines[gate.baseline], SmoothingReport)
    ]
    if settings.deterministic or () in earlier or any(gate.metric == "mean_radius" for gate in gates):
        return None
    radii = {*asked_radii(gates, settings), *(radius for at in earlier for radius in at)}
    return smoothing_settings(configuration, {"at": tuple(sorted(radii))})


def certified_before(run: SmoothingRun, gates: Sequence[Gate], baselines: Baselines) -> dict[str, tuple[int, ...]]:
    """Return which examples of a run each baseline certified, by the name of the gate.

    Raises:
        InputError: If a baseline may not be compared with the run.
    """
    compared = [gate for gate in gates if gate.baseline]
    if not compared:
        return {}
    nothing = replace(run, falsify="off").report((), settled=True)  # what the run would say before its first draw
    return {gate.name: baseline_record(gate, nothing, baselines).certified for gate in compared}
