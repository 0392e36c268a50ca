"""The verdicts of a report, the figures that stand for it, and its promise in words."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import UNSET

from certify.report.conversions import describe_conversions
from certify.report.figures import estimate_figure, lower_figure, radius_label, upper_figure
from certify.report.outline import Block, Facts, Quote, Section, Tile, Tiles, VerdictRow, Verdicts
from certify.report.promise_words import describe_statement
from certify.report.wording import SHARE_DIGITS, VERDICT_ORDER, describe_asked, share_words
from certify.results import CertifiedAccuracy, GateRow, LipschitzReport, Report, Summary
from certify.rounding import floor_text


def verdict_section(report: Report) -> Section:
    """Return the verdicts, those that ask for action first, and the figures that stand for the report."""
    blocks: list[Block] = []
    if report.gates:
        rows = sorted(report.gates, key=lambda gate: VERDICT_ORDER.index(gate.verdict))
        share = share_words(report.settings)
        blocks.append(Verdicts(tuple(verdict_row(gate, share) for gate in rows)))
    if tiles := tuple(_tiles(report)):
        blocks.append(Tiles(tiles))
    return Section("verdicts", "Verdicts" if report.gates else "At a glance", tuple(blocks))


def verdict_row(gate: GateRow, share: str = "certified accuracy") -> VerdictRow:
    """Return one gate: an observed share, which is called ``share``, to nearest, limits outward."""
    numbers = (("observed", gate.value, estimate_figure), ("lower", gate.lower, lower_figure))
    found = [f"{label} {figure(value)}" for label, value, figure in numbers if value is not None]
    found += [] if gate.upper is None else [f"upper {upper_figure(gate.upper)}"]
    return VerdictRow(gate.verdict, gate.name, describe_asked(gate, share), ", ".join(found), gate.reason)


def _tiles(report: Report) -> Iterator[Tile]:
    if isinstance(report, LipschitzReport) and report.network.upper is not None:
        side = "upper, proved" if report.network.proved else "estimate, not proved"
        yield Tile(f"Lipschitz constant, {report.network.norm}", upper_figure(report.network.upper), side)
    if report.summary is not UNSET:
        yield from summary_tiles(report.summary)


def summary_tiles(summary: Summary, *, claimed: bool = False) -> Iterator[Tile]:
    """Yield the figures of a summary; what a run that stopped early does not know is left out.

    ``claimed`` figures are those of an imported log, whose radii nobody can derive again.
    """
    if summary.clean_accuracy is not None:
        yield Tile("clean accuracy", f"{summary.clean_accuracy:.{SHARE_DIGITS}f}", "observed")
    if row := _middle_row(summary):
        limit = "as claimed" if claimed else f"at least {floor_text(row.lower, SHARE_DIGITS)} of the population"
        yield Tile(f"certified, radius {radius_label(row.radius)}", f"{row.accuracy:.{SHARE_DIGITS}f}", limit)
    if summary.mean_radius is not None:
        yield Tile(
            "mean radius", lower_figure(summary.mean_radius), "as claimed" if claimed else "correct ones, rounded down"
        )
    yield Tile("abstained", f"{summary.abstained:,}", f"of {summary.examples:,} examples")


def _middle_row(summary: Summary) -> CertifiedAccuracy | None:
    """Return the row of the largest radius at which half of the examples are certified, or the first row."""
    rows = summary.certified_accuracy
    half = [row for row in rows if row.accuracy >= 0.5]
    return half[-1] if half else next(iter(rows), None)


def statement_section(report: Report) -> Section:
    """Return the promise in words and field by field."""
    statement, conversions = report.statement, describe_conversions(report)
    facts = [*describe_statement(statement), *([("converted", conversions)] if conversions else [])]
    return Section("statement", "What is promised", (Quote(statement.text), Facts(tuple(facts))))
