"""Gates on readings of curvature: verdicts on a diagnostic, and said to be that. They certify nothing.

A reading is a closed form, or an estimate with its standard error or residual, of one batch. A gate on it compares the
plain value with ``max``, or, as a trend, with the same reading of an earlier report of the very same batch: **passed**
when it lies at most ``tolerance`` combined errors above the earlier one, hypot(new error, old error), else **failed**.
**Undecided** where the reading is missing. No confidence is claimed in either case.

Certificates are what gates are for, so these are refused unless whoever asks allows them by name, and their rows carry
the word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from msgspec import UNSET, UnsetType

from certify.errors import InputError
from certify.policy.gates import Gate, parse_gates
from certify.results import Baseline, CurvatureReport, GateRow, Judged, Ritz, SampledMean, Trend, Verdict, report_digest

TOLERANCE = 3.0  # errors, where a gate names none
NO_CERTIFICATE = "a diagnostic, no certificate"

Reading = tuple[float, float]  # a value and its standard error or residual; 0 for a closed form


def _ritz(found: Ritz) -> Reading:
    return found.value, found.residual


def _sampled(found: SampledMean) -> Reading:
    return found.value, found.standard_error


READINGS: Mapping[str, Callable[[CurvatureReport], Reading | None]] = MappingProxyType(
    {
        "curvature_lambda_max": lambda r: None if r.network is None else _ritz(r.network.largest),
        "curvature_trace": lambda r: None if r.network is None else _sampled(r.network.trace_plus),
        "loss_gap": lambda r: None if r.network is None else _sampled(r.network.loss_gap),
        "last_layer_lambda_max": lambda r: None if r.last_layer is None else _ritz(r.last_layer.largest),
        "last_layer_trace": lambda r: None if r.last_layer is None else (r.last_layer.trace, 0.0),
    }
)
"""What each metric reads."""


def refuse_diagnostic(gate: Gate) -> None:
    """Refuse a gate on a reading, for want of leave.

    Raises:
        InputError: If it is one.
    """
    if gate.diagnostic:
        raise InputError(
            f"gate {gate.name!r}: expected a metric that is certified, got {gate.metric}, {NO_CERTIFICATE}; "
            "--allow-diagnostic-gate lets it decide the exit code all the same"
        )


def trend_of(gate: Gate, report: CurvatureReport, baselines: Mapping[str, Judged | Baseline]) -> Trend | None:
    """Return the earlier reading that a gate compares with; None for a gate without a baseline.

    Raises:
        InputError: If there is none under its name, it is of another kind, batch or settings, or lacks the reading.
    """
    if gate.baseline is None:
        return None
    earlier = baselines.get(gate.baseline)
    if not isinstance(earlier, CurvatureReport):
        raise InputError(f"gate {gate.name!r}: expected the readings of its baseline {gate.baseline!r}, got none")
    _refuse_other(gate, "batch of sha256", earlier.data.sha256, report.data.sha256)
    for name in ("steps", "probes", "pairs", "sigma"):
        _refuse_other(gate, name, getattr(earlier.settings, name), getattr(report.settings, name))
    found = READINGS[gate.metric](earlier)
    if found is None:
        raise InputError(f"gate {gate.name!r}: expected a baseline with {gate.metric}, got one without")
    return Trend(digest=report_digest(earlier), model_sha256=earlier.model.sha256, value=found[0], error=found[1])


def _refuse_other(gate: Gate, what: str, earlier: object, now: object) -> None:
    if earlier != now:
        raise InputError(
            f"gate {gate.name!r}: expected a baseline with the same {what}, got {earlier!s:.80} and not {now!s:.80}; "
            "read curvature again"
        )


def judge_diagnostic(report: CurvatureReport, gate: Gate, trend: Trend | None) -> GateRow:
    """Return the verdict on one reading, which says that it is no certificate.

    Raises:
        InputError: If the gate asks for certificates.
    """
    if not gate.diagnostic:
        raise InputError(
            f"gate {gate.name!r}: expected certificates for {gate.metric}, got readings of curvature, which certify "
            "nothing; give a report of certificates"
        )
    found = READINGS[gate.metric](report)
    verdict, reason = _verdict(gate, found, trend)
    return GateRow(
        name=gate.name,
        metric=gate.metric,
        threshold=_threshold(gate, trend),
        value=None if found is None else found[0],
        lower=None,
        upper=None,
        verdict=verdict,
        reason=f"{NO_CERTIFICATE}: {reason}",
        diagnostic=True,
        trend=UNSET if trend is None else trend,
    )


def _threshold(gate: Gate, trend: Trend | None) -> float:
    asked = gate.max if trend is None else gate.tolerance
    return TOLERANCE if asked is None else asked


def _verdict(gate: Gate, found: Reading | None, trend: Trend | None) -> tuple[Verdict, str]:
    asked = _threshold(gate, trend)
    if found is None:
        return "undecided", "the report has no such reading"
    value, error = found
    seen = f"{value:.6g} with error {error:.2g}" if error else f"{value:.6g}"
    if trend is None:
        return ("passed" if value <= asked else "failed"), f"{seen}; {asked!r} allowed"
    allowed = trend.value + asked * math.hypot(error, trend.error)
    earlier = f"{trend.value:.6g} with error {trend.error:.2g} before"
    return ("passed" if value <= allowed else "failed"), f"{seen}; {earlier}, a rise of {asked!r} errors allowed"


def asked_again(row: GateRow) -> tuple[Gate, Trend | None]:
    """Return the gate that a row answers, and what it was compared with.

    Raises:
        InputError: If no gate could have asked so.
    """
    trend = None if isinstance(row.trend, UnsetType) else row.trend
    table: dict[str, object] = {"name": row.name, "metric": row.metric}
    if trend is None:
        return parse_gates([{**table, "max": row.threshold}])[0], None
    return parse_gates([{**table, "baseline": trend.digest, "tolerance": row.threshold}])[0], trend
