"""The report of a gate from the last time the same was asked, and what it must show before it is believed.

A remembered report is a file in a folder that others may write to. Its name says which question it answers
(`certify.cli.remembered`); it is believed only if it speaks of that question itself (the kind of certificates, the
weights, the settings, the attacks, and for smoothing the processor on which the network would run now: a certificate of
a network as run on one says nothing of another), if its verdicts are those of the gates, and if every number in it
follows from its record, as `certify verify` derives it. Otherwise the gates run again.

What remains believed is a record of votes that nobody cast, or of bounds that nobody proved, with all that follows from
them: no report can show that it was computed. Nor is what `execution` says of other runs in the store derived again. A
gate that must not trust a folder takes another one, with ``--store``.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from certify.cli.baselines import Baselines, asked_settings
from certify.cli.configuration import Configuration, falsify_level, lipschitz_settings, smoothing_settings
from certify.cli.output import Output
from certify.cli.remembered import answer_name, file_sha256, question_name, recall, remember
from certify.cli.sources import data_path, model_path
from certify.cli.verdicts import are_of_examples, default_kind, gates_of, judge, kind_of
from certify.errors import InputError
from certify.policy import in_native_norm
from certify.results import Judged, LipschitzSettings, Report, SmoothingReport, SmoothingSettings


class GateMemory:
    """The report that answers the gates of one kind, from the last time the same was asked."""

    def __init__(
        self,
        kind: str,
        configuration: Configuration,
        baselines: Baselines,
        *,
        device: str | None,
        store: Path,
        falsify: str | None,
    ) -> None:
        self._kind, self._configuration, self._baselines, self._store = kind, configuration, baselines, store
        self._table = configuration.smooth if kind == "smoothing" else configuration.lipschitz
        self._falsify = falsify_level(falsify, self._table)
        self._gates = gates_of(configuration, kind)
        self._device = device
        # A Lipschitz bound is the CPU's proof, wherever its multipliers were searched.
        self._processor = processor_of(str(device or self._table.get("device", "auto"))) if kind == "smoothing" else ""
        self._asked = self._question()

    def recall(self, out: Output) -> Report | None:
        """Return the remembered report with its verdicts, if nothing has changed since and nothing speaks against it.

        What speaks against it is written to ``out``.
        """
        report = recall(self._store, answer_name(self._asked, self._kind, self._store))
        if report is None:
            return None
        objection = next(self._objections(report), None)
        if objection is not None:
            out.note(f"warning: the report remembered in {self._store} is not used, and made again: {objection}")
            return None
        out.detail(f"nothing has changed since the report in {self._store}")
        return report

    def keep(self, report: Judged) -> None:
        """Remember a report of certificates, unless a file it was made of is another one by now."""
        if isinstance(report, Report) and self._question() == self._asked:
            remember(self._store, answer_name(self._asked, self._kind, self._store), report)

    def _question(self) -> str | None:
        configuration = self._configuration
        return question_name(
            kind=self._kind,
            model=model_path(None, configuration),
            data=data_path(None, configuration) if are_of_examples(self._gates) else None,
            arch=configuration.arch,
            table=self._table,
            gates=self._gates,
            device=self._device,
            processor=self._processor,
            falsify=self._falsify,
        )

    def _objections(self, report: Report) -> Iterator[str]:
        """Yield what speaks against a report, the first reason first; a report of another question may not be judged.

        A bad value in it may have no rule at all: what the policy or the statistics refuse is an objection too.
        """
        try:
            yield from self._other_question(report)
            yield from self._contradictions(report)
        except (InputError, ValueError) as error:
            yield str(error)

    def _other_question(self, report: Report) -> Iterator[str]:
        model = file_sha256(model_path(None, self._configuration))
        facts = (
            ("kind", self._kind, kind_of(report)),
            ("weights", model, report.model.sha256),
            ("attacks", self._falsify, report.falsifier.level),
            ("processor", self._processor, _processor_in(report)),
        )
        for name, asked, found in facts:
            if asked != found:
                yield f"expected {name} {asked!r}, got {found!r}"
        if report.settings not in self._possible_settings(report.model.input.size):
            yield "its settings are not those of the configuration"

    def _possible_settings(self, dimension: int) -> tuple[LipschitzSettings | SmoothingSettings | None, ...]:
        """Return the settings that a run for these gates can have: the configuration's, or those of asked radii."""
        configuration = self._configuration
        if self._kind == "lipschitz":
            return (lipschitz_settings(configuration, {}),)
        settings = smoothing_settings(configuration, {})
        gates = [in_native_norm(gate, settings, dimension) for gate in self._gates]
        return settings, asked_settings(configuration, settings, gates, self._baselines)

    def _contradictions(self, report: Report) -> Iterator[str]:
        from certify.report import verify_report

        (judged,) = judge([report], tuple(self._gates), default_kind(self._configuration), self._baselines)
        if judged.gates != report.gates:
            yield "its verdicts are not those of the gates"
        yield from map(str, verify_report(report))


def processor_of(device: str) -> str:
    """Return the processor that a word for a device means on this machine: of a GPU with its name.

    PyTorch is asked only where a GPU may be there: loading it takes longer than all the rest of a remembered gate. A
    device that is not there is the word itself, which no report has; the run refuses it.
    """
    if device == "cpu" or (device == "auto" and not _may_have_gpu()):
        return "cpu"
    from certify.runs.places import choose_device, device_name

    try:
        chosen = choose_device(device)
    except InputError:
        return device
    return _processor(chosen.partition(":")[0], device_name(chosen))


def _may_have_gpu() -> bool:
    """Return False only where PyTorch cannot have a GPU: it was built for none, or CUDA's driver is not there."""
    build = version("torch").partition("+")[2]
    if build == "cpu" or build.startswith("rocm"):  # which brings its own library
        return build != "cpu"
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _processor_in(report: Report) -> str:
    """Return the processor on which the network of a report was run; of Lipschitz bounds it says nothing."""
    if not isinstance(report, SmoothingReport):
        return ""
    return _processor(report.tool.device_kind, report.execution.device_name)


def _processor(kind: str, name: str) -> str:
    return kind if kind == "cpu" else f"{kind}, {name}"
