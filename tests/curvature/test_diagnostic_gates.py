"""Gates on readings: refused without leave, judged on the plain value, and named for what they are."""

from __future__ import annotations

import math

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from certify.errors import InputError
from certify.policy import DIAGNOSTICS, Gate, evaluate_gates, parse_gates
from certify.policy.diagnostics import READINGS
from certify.report import verify_report
from certify.results import CurvatureReport, GateRow, seal
from tests.curvature.tiny_runs import readings
from tests.report.sample_reports import lipschitz_clean


def judge(gate: Gate, report: CurvatureReport | None = None, earlier: CurvatureReport | None = None) -> GateRow:
    baselines = {} if earlier is None else {"earlier.json": earlier}
    return evaluate_gates(report or readings(), [gate], baselines, allow_diagnostic=True)[0]


def trend(tolerance: float | None = None, metric: str = "curvature_trace") -> Gate:
    table = {"name": "t", "metric": metric, "baseline": "earlier.json"}
    return parse_gates([table if tolerance is None else {**table, "tolerance": tolerance}])[0]


def with_trace(value: float, error: float) -> CurvatureReport:
    report = readings()
    assert report.network is not None
    trace = replace(report.network.trace_plus, value=value, standard_error=error)
    return replace(report, network=replace(report.network, trace_plus=trace))


def test_every_diagnostic_metric_reads_something() -> None:
    assert READINGS.keys() == DIAGNOSTICS
    assert all(READINGS[metric](readings()) is not None for metric in DIAGNOSTICS)


@pytest.mark.parametrize("metric", sorted(DIAGNOSTICS))
def test_a_value_is_held_to_its_largest_and_the_row_says_that_it_is_no_certificate(metric: str) -> None:
    value, _ = READINGS[metric](readings())
    for most, verdict in ((value, "passed"), (math.nextafter(value, 0.0), "failed")):
        row = judge(Gate(name="g", metric=metric, max=most))
        assert (row.verdict, row.value, row.diagnostic) == (verdict, value, True)
        assert row.reason.startswith("a diagnostic, no certificate: ")
        assert (row.lower, row.upper, row.claim, row.confidence) == (None, None, UNSET, UNSET)
        assert verify_report(seal(replace(readings(), gates=(row,)))) == ()


def test_without_leave_it_is_refused_whatever_the_report() -> None:
    gate = Gate(name="g", metric="loss_gap", max=1.0)
    for report in (readings(), lipschitz_clean()):
        with pytest.raises(InputError, match="--allow-diagnostic-gate lets it decide the exit code"):
            evaluate_gates(report, [gate])


def test_readings_answer_no_gate_on_certificates_and_certificates_none_on_readings() -> None:
    with pytest.raises(InputError, match="got readings of curvature, which certify nothing"):
        judge(Gate(name="g", metric="clean_accuracy", min=0.5))
    with pytest.raises(InputError, match="expected readings of curvature for loss_gap, got certificates"):
        evaluate_gates(lipschitz_clean(), [Gate(name="g", metric="loss_gap", max=1.0)], allow_diagnostic=True)


@pytest.mark.parametrize(
    ("rise", "tolerance", "verdict"),
    [
        (15.0, None, "passed"),
        (15.1, None, "failed"),
        (10.0, 2.0, "passed"),
        (10.1, 2.0, "failed"),
        (-9.0, 0.0, "passed"),
    ],
)
def test_a_trend_allows_so_many_combined_errors(rise: float, tolerance: float | None, verdict: str) -> None:
    earlier, now = with_trace(100.0, 3.0), with_trace(100.0 + rise, 4.0)  # hypot(3, 4) = 5
    row = judge(trend(tolerance), now, earlier)
    assert row.verdict == verdict
    assert row.threshold == (3.0 if tolerance is None else tolerance)
    assert (row.trend.value, row.trend.error) == (100.0, 3.0)


def test_a_trend_is_of_the_same_batch_with_the_same_settings() -> None:
    report = readings()
    others = {
        "batch of sha256": replace(report, data=replace(report.data, sha256="0" * 64)),
        "sigma": replace(report, settings=replace(report.settings, sigma=0.2)),
        "steps": replace(report, settings=replace(report.settings, steps=3)),
    }
    for what, earlier in others.items():
        with pytest.raises(InputError, match=f"a baseline with the same {what}"):
            judge(trend(), report, earlier)
    with pytest.raises(InputError, match="expected the readings of its baseline"):
        judge(trend(), report)
    gone = replace(report, network=None, network_reason="none")
    with pytest.raises(InputError, match="a baseline with curvature_trace"):
        judge(trend(), report, gone)


def test_a_reading_that_is_missing_is_undecided() -> None:
    assert judge(trend(), replace(readings(), network=None), readings()).verdict == "undecided"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "needs one of them"),
        ({"max": 1.0, "baseline": "b"}, "needs one of them"),
        ({"max": -1.0}, "key 'max'"),
        ({"max": math.nan}, "key 'max'"),
        ({"max": 1.0, "tolerance": 2.0}, "key 'tolerance'"),
        ({"baseline": "b", "tolerance": -1.0}, "key 'tolerance'"),
        ({"max": 1.0, "min": 0.5}, "remove them"),
        ({"max": 1.0, "confidence": 0.9}, "remove them"),
        ({"max": 1.0, "radius": 0.1}, "key 'radius'"),
        ({"max": 1.0, "kind": "smoothing"}, "key 'kind'"),
        ({"metric": "clean_accuracy", "min": 0.5, "tolerance": 1.0}, "key 'tolerance'"),
        ({"metric": "clean_accuracy", "min": 0.5, "kind": "curvature"}, "key 'kind'"),
    ],
)
def test_gates_that_ask_for_nothing_that_there_is(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_gates([{"name": "g", "metric": "loss_gap", **changes}])
