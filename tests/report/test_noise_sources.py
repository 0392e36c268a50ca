"""Reports whose noise was made on another kind of device: what verify holds them to, and what they are not put with."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from certify.errors import InputError
from certify.report import compare_reports, verify_report
from certify.report.merging import merge_reports
from certify.report.rederive_noise import SOURCES
from certify.results import seal
from certify.smoothing import noise_source
from tests.report.sample_reports import smoothing_clean
from tests.report.test_merging import parts_of, whole


def on_cuda(report):
    """The same report as a CUDA device would have made it."""
    assert SOURCES["cpu"] in report.tables.noise
    tables = replace(report.tables, noise=report.tables.noise.replace(SOURCES["cpu"], SOURCES["cuda"]))
    return seal(replace(report, tool=replace(report.tool, device_kind="cuda"), tables=tables, digest=""))


def test_verify_knows_the_sources_that_runs_name():
    assert {kind: source.words for kind, source in noise_source.SOURCES.items()} == SOURCES
    assert verify_report(on_cuda(smoothing_clean())) == ()


@pytest.mark.parametrize("kind", ["cuda", "cpu", "tpu"])
def test_words_of_another_source_are_found(kind):
    report = smoothing_clean() if kind == "cuda" else on_cuda(smoothing_clean())
    report = seal(replace(report, tool=replace(report.tool, device_kind=kind), digest=""))
    places = {finding.where for finding in verify_report(report)}
    assert ("tool.device_kind" if kind == "tpu" else "tables.noise") in places


def test_parts_of_two_sources_are_not_merged():
    one, two = parts_of(whole(), 2)
    with pytest.raises(InputError, match="differ in their tool \\(device_kind: 'cpu' and 'cuda'\\)"):
        merge_reports([one, on_cuda(two)])
    assert merge_reports([on_cuda(one), on_cuda(two)]).tool.device_kind == "cuda"


def test_parts_of_two_models_of_device_are_not_merged():
    """The streams of CUDA devices depend on what they are made of; those of CPUs do not."""
    parts = [
        seal(replace(part, execution=replace(part.execution, device_name=name), digest=""))
        for part, name in zip(parts_of(whole(), 2), ("A100", "H100"), strict=True)
    ]
    assert merge_reports(parts).tool.device_kind == "cpu"
    with pytest.raises(InputError, match="one source of noise, got two from 'A100' and 'H100'"):
        merge_reports([on_cuda(part) for part in parts])


def test_runs_of_two_sources_are_not_compared():
    report = smoothing_clean()
    with pytest.raises(InputError, match="one kind of device that made the noise, got 'cpu' in the old and 'cuda'"):
        compare_reports(report, on_cuda(report))
    assert compare_reports(on_cuda(report), on_cuda(report)).summary
