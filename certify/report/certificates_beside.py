"""Certificates of the same model beside its readings: what is taken over from a report, and when it is refused.

A report stands beside readings only where it speaks of the very same network: the same weights by their hash, with the
same architecture (which the source names, by its own hash where it stood in another file), input space and classes. Its
promise goes with it, in words and with its failure probability, so that no number is shown without what it claims.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from certify.errors import InputError
from certify.report.promise_words import scores_in_use
from certify.results import (
    CertificatesBeside,
    CurvatureExample,
    LipschitzExample,
    LipschitzReport,
    MatchedCertificate,
    ModelRecord,
    Report,
    SmoothingReport,
    report_digest,
)

SPLITTING = "splitting vote"  # the one smoothed object whose certificates never fail


def refuse_other_model(report: Report, model: ModelRecord) -> None:
    """Return when a report speaks of the model of the readings.

    Raises:
        InputError: Naming what differs.
    """
    for what in ("sha256", "source", "input", "classes"):
        here, there = getattr(model, what), getattr(report.model, what)
        if here != there:
            raise InputError(
                f"expected certificates of the same model beside the readings, got another {what}: {there!s:.100}, "
                f"not {here!s:.100}; certify this very model file first"
            )


def certificates_beside(report: Report, model: ModelRecord, examples: Sequence[CurvatureExample]) -> CertificatesBeside:
    """Return what of a report stands beside the readings of these examples.

    Args:
        report: Certificates, derived again from their record by whoever read them.
        model: The model that was read.
        examples: Its readings, which deterministic certificates are matched with by hash.

    Raises:
        InputError: If the report speaks of another model.
    """
    refuse_other_model(report, model)
    statement, summary = report.statement, report.summary
    shared = CertificatesBeside(
        digest=report_digest(report),
        certificates="lipschitz" if isinstance(report, LipschitzReport) else "smoothing",
        norm=report.settings.norm,
        object=_object(report),
        arithmetic=statement.arithmetic,
        domain=statement.domain,
        failure_probability=statement.failure_probability,
        text=statement.text,
        examples=0 if summary is UNSET else summary.examples,
        data_sha256=UNSET if report.data is UNSET else report.data.sha256,
        mean_radius=UNSET if summary is UNSET else summary.mean_radius,
        certified_accuracy=() if summary is UNSET else summary.certified_accuracy,
        certified_counts=() if summary is UNSET or summary.certified_counts is UNSET else summary.certified_counts,
        falsifier=report.falsifier,
    )
    return _with_kind(shared, report, examples)


def _object(report: Report) -> str:
    if isinstance(report, LipschitzReport):
        return "base network"
    if report.settings.deterministic:
        return SPLITTING
    if scores_in_use(report.tables) is not None:
        return "smoothed scores"
    k = report.settings.top_k
    return "smoothed vote" if k == 1 else f"smoothed vote, among the {k} likeliest"


def _with_kind(shared: CertificatesBeside, report: Report, examples: Sequence[CurvatureExample]) -> CertificatesBeside:
    if isinstance(report, SmoothingReport):
        return replace(shared, sigma=report.settings.sigma)
    network = report.network
    return replace(
        shared,
        upper=network.upper if network.proved else None,
        lower=network.lower if network.proved else None,
        method=network.reason if network.upper is None and isinstance(network.reason, str) else network.method,
        layers=report.layers,
        matched=_matched(report.examples, examples),
    )


def _matched(
    certified: Sequence[LipschitzExample], examples: Sequence[CurvatureExample]
) -> tuple[MatchedCertificate, ...]:
    """Return the certificate of each example that has one; an input that stands there twice has the larger radius."""
    best: dict[str, LipschitzExample] = {}
    for row in certified:
        if row.radius > 0.0 and row.radius >= best.get(row.hash, row).radius:
            best[row.hash] = row
    pairs = ((example.index, best[example.hash]) for example in examples if example.hash in best)
    return tuple(
        MatchedCertificate(
            index=index, predicted=row.clean_predicted, radius=row.radius, local_upper=_known(row.local_upper)
        )
        for index, row in pairs
    )


def _known(local_upper: float | UnsetType | None) -> float | None:
    return None if isinstance(local_upper, UnsetType) else local_upper
