"""The one table of readings: each with its kind, certificates of the same model beside them, and no sum over kinds."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from certify.report.figures import radius_label
from certify.report.wording import until_zero
from certify.results import (
    CertificatesBeside,
    CurvatureReport,
    LastLayerReading,
    NetworkReading,
    ReadingKind,
    ReadingRow,
    Ritz,
    SampledMean,
    Spread,
)

ONE_BATCH = "one batch"
FORMULA: ReadingKind = "exact formula in floating point"


def reading_rows(report: CurvatureReport) -> tuple[ReadingRow, ...]:
    """Return the table that a report's certificates and readings imply: certificates first, then readings."""
    return (
        *(row for beside in report.beside for row in _certificates(beside)),
        *_last_layer(report),
        *_network(report),
        *_inputs(report),
    )


def _certificates(beside: CertificatesBeside) -> Iterator[ReadingRow]:
    """Yield the proved numbers of one report: bounds in their own fields, each with its failure probability."""
    note = f"report {beside.digest[:16]}, {beside.arithmetic}"
    if beside.certificates == "lipschitz":
        yield _proved(
            beside,
            f"{beside.norm} constant L of the logits",
            lower=_number(beside.lower),
            upper=_number(beside.upper),
            domain="all inputs",
            note=f"{note}; by {beside.method}" if isinstance(beside.upper, float) else f"no bound: {beside.method}",
        )
    domain = f"{beside.domain} at each of its examples"
    for row in until_zero(beside.certified_accuracy):
        share = f"certified, {beside.norm} radius {radius_label(row.radius)}"
        yield _proved(beside, share, lower=row.accuracy, of=beside.examples, domain=domain, note=note)
    for count in beside.certified_counts:
        share = f"certified, {beside.norm} radius {radius_label(count.radius)}"
        known = count.at_least / count.examples if count.examples else 0.0
        early = f"{note}; stopped early"
        yield _proved(beside, share, lower=known, of=count.examples, domain=domain, note=early)
    if isinstance(beside.mean_radius, float):
        quantity = f"mean {beside.norm} radius, if correct"
        yield _proved(beside, quantity, lower=beside.mean_radius, domain=domain, note=note)


def _proved(
    beside: CertificatesBeside,
    quantity: str,
    *,
    lower: float | None = None,
    upper: float | None = None,
    of: int = 0,
    domain: str,
    note: str,
) -> ReadingRow:
    chance = beside.failure_probability
    return ReadingRow(
        object=beside.object if isinstance(beside.sigma, UnsetType) else f"{beside.object}, sigma {beside.sigma!r}",
        quantity=quantity,
        kind="proved with probability" if chance > 0.0 else "proved",
        value=None,
        lower=lower,
        upper=upper,
        error=None,
        of=of or UNSET,
        domain=domain,
        failure_probability=chance,
        note=note,
    )


def _number(value: float | UnsetType | None) -> float | None:
    return None if isinstance(value, UnsetType) else value


def _last_layer(report: CurvatureReport) -> Iterator[ReadingRow]:
    found = report.last_layer
    if found is None:
        yield _missing("last layer", FORMULA, report.last_layer_reason)
        return
    yield from _last_layer_rows(found, report.settings.sigma)


def _last_layer_rows(found: LastLayerReading, sigma: float) -> Iterator[ReadingRow]:
    domain = f"weight of {found.module or 'the last layer'}, {ONE_BATCH}"
    yield _row("last layer", "largest eigenvalue, mean", FORMULA, found.largest_mean, domain)
    yield _ritz("last layer", "largest eigenvalue of the mean", found.largest, domain)
    yield _row("last layer", "trace of the mean", FORMULA, found.trace, domain)
    noise = f"loss added by noise {sigma!r}, at most"
    yield _row("last layer", noise, FORMULA, found.decay_bound, domain)


def _network(report: CurvatureReport) -> Iterator[ReadingRow]:
    if report.network is None:
        yield _missing("whole network", "estimate", report.network_reason)
        return
    yield from _network_rows(report.network, report.settings.sigma)


def _network_rows(found: NetworkReading, sigma: float) -> Iterator[ReadingRow]:
    domain, whole = f"{found.variables:,} weights, {ONE_BATCH}", "whole network"
    yield _ritz(whole, "largest eigenvalue, from below", found.largest, domain)
    yield _ritz(whole, "eigenvalue of the largest size", found.steepest, domain)
    yield _sampled(whole, "trace, Hutchinson", found.trace, domain)
    yield _sampled(whole, "trace, Hutch++", found.trace_plus, domain)
    yield _sampled(whole, f"loss gap at sigma {sigma!r}", found.loss_gap, domain)


def _inputs(report: CurvatureReport) -> Iterator[ReadingRow]:
    found, where = report.summary, f"{report.summary.examples:,} listed examples"
    spreads: tuple[tuple[str, Spread], ...] = (
        ("input gradient", found.input_gradient),
        ("Jacobian, spectral norm", found.jacobian_spectral),
        ("Jacobian, Frobenius norm", found.jacobian_frobenius),
    )
    for name, spread in spreads:
        yield _row("inputs", f"{name}, largest", "measured", spread.largest, where)
        yield _row("inputs", f"{name}, mean", "measured", spread.mean, where)
    share = _row("inputs", "flipped by an attack", "measured", found.flipped / found.examples, where)
    yield replace(share, of=found.examples)
    if found.flip_distance is not None:
        yield _row("inputs", "l2 distance of a flip, smallest", "measured", found.flip_distance.smallest, where)
        yield _row("inputs", "l2 distance of a flip, mean", "measured", found.flip_distance.mean, where)


def _row(of: str, quantity: str, kind: ReadingKind, value: float, domain: str) -> ReadingRow:
    return ReadingRow(
        object=of,
        quantity=quantity,
        kind=kind,
        value=value,
        lower=None,
        upper=None,
        error=None,
        domain=domain,
        failure_probability=None,
    )


def _ritz(of: str, quantity: str, found: Ritz, domain: str) -> ReadingRow:
    return replace(_row(of, quantity, "estimate", found.value, domain), error=found.residual, error_of="residual")


def _sampled(of: str, quantity: str, found: SampledMean, domain: str) -> ReadingRow:
    error = found.standard_error
    return replace(_row(of, quantity, "estimate", found.value, domain), error=error, error_of="standard error")


def _missing(of: str, kind: ReadingKind, reason: str | UnsetType) -> ReadingRow:
    return ReadingRow(
        object=of,
        quantity="curvature",
        kind=kind,
        value=None,
        lower=None,
        upper=None,
        error=None,
        domain=ONE_BATCH,
        failure_probability=None,
        note="not known" if reason is UNSET else reason,
    )
