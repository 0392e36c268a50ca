"""Several reports side by side: one row each, and their curves in one plot for each share and norm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import UNSET

from certify.report.compared_readings import compared_readings
from certify.report.curve import Curve, curve_of, describe_curve
from certify.report.curve_plot import draw_curves
from certify.report.figures import lower_figure, radius_text
from certify.report.outline import Block, Figure, Outline, Section, Table, Text, table_of
from certify.report.wording import SHARE_DIGITS, describe_clean
from certify.results import CertifiedAccuracy, CurvatureReport, Document, Listing
from certify.rounding import ceiling_text, floor_text

SERIES, MOST_ROWS = 6, 40  # colours there are; rows that are shown at once

NOTE = (
    "Solid lines are deterministic, dashed ones can fail by chance; a band holds the limits over examples. "
    "Curves of different data or procedures say nothing about one another; `certify compare` pairs two reports."
)


def compared_section(names: Sequence[str], reports: Sequence[Document], outlines: Sequence[Outline]) -> Section:
    """Return the reports of certificates in one table, and their curves in one plot for each share and norm."""
    curves = list(_curves(names, reports))
    kinds = list(dict.fromkeys((curve.share, curve.norm) for curve in curves))
    figures: list[Block] = [
        _figure(share, norm, [curve for curve in curves if (curve.share, curve.norm) == (share, norm)])
        for share, norm in kinds
    ]
    note = (Text(NOTE, quiet=True),) if figures else ()
    readings = compared_readings(names, reports)
    return Section("curves", "Side by side", (_overview(names, reports, outlines), *figures, *note, *readings))


def _curves(names: Sequence[str], reports: Sequence[Document]) -> Iterator[Curve]:
    for series, (name, report) in enumerate(zip(names, reports, strict=True)):
        curve = curve_of(report, name, series) if isinstance(report, Listing) else None
        if curve is not None:
            yield curve


def _overview(names: Sequence[str], reports: Sequence[Document], outlines: Sequence[Outline]) -> Table:
    titles = ("report", "#examples", "#clean", "#mean radius", "what it holds", "what it is")
    rows = [
        (name, *_figures(report), outline.title, outline.kind)
        for name, report, outline in zip(names, reports, outlines, strict=True)
    ]
    return table_of("The reports on this page", titles, rows, count=len(rows))


def _figures(report: Document) -> tuple[str, str, str]:
    if isinstance(report, CurvatureReport):
        return (f"{report.summary.examples:,}", f"{report.summary.clean_accuracy:.{SHARE_DIGITS}f}", "")
    if not isinstance(report, Listing) or report.summary is UNSET:
        return ("", "", "")
    summary = report.summary
    mean = "" if summary.mean_radius is None else lower_figure(summary.mean_radius)
    return (f"{summary.examples:,}", describe_clean(summary), mean)


def _figure(share: str, norm: str, curves: Sequence[Curve]) -> Figure:
    title = f"{share.capitalize()} against radius, {norm}"
    alt = " ".join(f"{curve.name}: {describe_curve(curve)}." for curve in curves)
    legend = tuple((f"s{curve.series % SERIES}", f"{curve.name} ({_chance(curve)})") for curve in curves)
    return Figure(title, alt, draw_curves(curves), _table(norm, curves), legend)


def _chance(curve: Curve) -> str:
    return "dashed: can fail by chance" if curve.chance else "deterministic"


def _table(norm: str, curves: Sequence[Curve]) -> Table:
    """Return the rows of every curve at the radii of its summary, one curve under the other: kinds share no column."""
    rows = [
        (curve.name, radius_text(row.radius), f"{row.accuracy:.{SHARE_DIGITS}f}", *_limits(row))
        for curve in curves
        for row in curve.limits
        if row.radius in curve.fixed
    ]
    titles = ("report", "#radius", "#observed", "#lower", "#upper")
    return table_of(f"The same curves in numbers ({norm})", titles, rows, count=len(rows), folded=len(rows) > MOST_ROWS)


def _limits(row: CertifiedAccuracy) -> tuple[str, str]:
    return floor_text(row.lower, SHARE_DIGITS), ceiling_text(row.upper, SHARE_DIGITS)
