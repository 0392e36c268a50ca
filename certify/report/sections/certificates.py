"""What was certified: accuracy against radius, the radii, the classes, the votes, and the abstentions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from msgspec import UNSET

from certify.policy.promises import certified_words
from certify.report.curve import UNLIMITED, Curve, certified_radii, curve_of, describe_curve, norm_of
from certify.report.curve_plot import draw_curves
from certify.report.figures import radius_label, radius_text
from certify.report.outline import Block, Figure, Section, Table, Text, table_of
from certify.report.plots import BarRow, bar_chart, column_chart, nice_step, tick_values
from certify.report.wording import (
    LIMITS_NOTE,
    SHARE_DIGITS,
    answers_known,
    count_abstentions,
    describe_counts,
    describe_stop,
    describe_whole_curve,
    name_label,
    share_of,
    until_zero,
)
from certify.results import CertifiedAccuracy, Listing, LogReport, SmoothingReport, Summary, certified_at, clean_correct
from certify.rounding import ceiling_text, floor_text

MOST_BINS, MOST_CLASSES = 20, 30
VOTE_BINS = ((0.5, "< 50%"), (0.9, "50–90%"), (0.99, "90–99%"), (0.999, "99–99.9%"), (1.0, "99.9–100%"))
ALL_VOTES = "all votes"
CURVE_COLUMNS = ("#radius", "#examples", "#observed", "#lower", "#upper")


def accuracy_section(report: Listing) -> Section | None:
    """Return certified accuracy against radius, or the counts of a run that stopped early."""
    if report.summary is UNSET:
        return None
    summary, share = report.summary, share_of(report).capitalize()
    curve = curve_of(report)
    if curve is not None:
        return Section("accuracy", f"{share} against radius", tuple(_curve_blocks(report, curve, summary)))
    rows = list(describe_counts(summary))
    table = table_of("What the examples that were drawn show", ("#radius", "examples"), rows, count=len(rows))
    blocks: list[Block] = [Text(f"{describe_stop(summary).capitalize()}."), table] if rows else [Text("No examples.")]
    return Section("accuracy", share, tuple(blocks))


def _curve_blocks(report: Listing, curve: Curve, summary: Summary) -> Iterator[Block]:
    confidence = curve.limits[0].confidence
    shown = list(until_zero(summary.certified_accuracy))
    plain = curve_table(f"{curve.share.capitalize()} at fixed radii", shown, summary.examples)
    shape = "Points with limits" if not curve.steps else "A falling line with the band of its limits"
    yield Figure(
        f"Share of examples {_counted(report)}", f"{shape}: {describe_curve(curve)}.", draw_curves([curve]), plain
    )
    yield Text(
        f"{LIMITS_NOTE.format(confidence=confidence).capitalize()}. The band between radii follows from them.",
        quiet=True,
    )
    if whole := describe_whole_curve(summary):
        yield Text(f"{whole.capitalize()}.", quiet=True)
    if len(curve.limits) > len(shown):
        yield curve_table("Every limit that the band is drawn from", curve.limits, summary.examples, folded=True)


def _counted(report: Listing) -> str:
    """Return what an example that counts is; a log holds no task."""
    return "certified correct" if isinstance(report, LogReport) else certified_words(report.settings)


def curve_table(caption: str, rows: Sequence[CertifiedAccuracy], examples: int, *, folded: bool = False) -> Table:
    """Return rows of certified accuracy as a table: shares to nearest, limits outward."""
    cells = [_curve_cells(row, examples) for row in rows]
    return table_of(caption, CURVE_COLUMNS, cells, count=len(cells), folded=folded)


def _curve_cells(row: CertifiedAccuracy, examples: int) -> tuple[str, ...]:
    return (
        radius_text(row.radius),
        f"{round(row.accuracy * examples)}/{examples}",
        f"{row.accuracy:.{SHARE_DIGITS}f}",
        floor_text(row.lower, SHARE_DIGITS),
        ceiling_text(row.upper, SHARE_DIGITS),
    )


def radius_section(report: Listing) -> Section | None:
    """Return the histogram of certified radii and, for smoothing, of the votes they rest on."""
    asked = isinstance(report, SmoothingReport) and report.settings.at
    radii = [radius for radius in certified_radii(report.examples) if radius < UNLIMITED]
    blocks: list[Block] = [] if asked or not radii else [_radius_figure(radii, norm_of(report))]
    if isinstance(report, SmoothingReport) and report.examples:
        blocks.append(_vote_figure(report))
    return Section("radii", "How large the radii are", tuple(blocks)) if blocks else None


def _radius_figure(radii: Sequence[float], norm: str) -> Figure:
    step = nice_step(radii[-1], MOST_BINS)
    counts = count_bins(radii, step)
    high = step * len(counts)
    labels = [(value, f"{value:g}") for value in tick_values(high)]
    rows = [(f"{k * step:.4g} to {(k + 1) * step:.4g}", f"{count:,}") for k, count in enumerate(counts)]
    mode = max(range(len(counts)), key=counts.__getitem__)
    alt = f"Columns over bins of width {step:g}: most radii, {counts[mode]:,} of {len(radii):,}, are {rows[mode][0]}."
    table = table_of(
        "Correct examples by certified radius (lower end included)", ("radius", "#examples"), rows, count=len(rows)
    )
    return Figure(
        "Certified radii of correct examples", alt, column_chart(counts, labels, f"radius ({norm})", high=high), table
    )


def count_bins(radii: Sequence[float], step: float) -> list[int]:
    """Return how many radii lie in each bin [k step, (k + 1) step), up to the last that holds one.

    Example:
        >>> count_bins([0.1, 0.25, 0.3], 0.25)
        [1, 2]
    """
    places = [math.floor(radius / step) for radius in radii]
    counts = [0] * (max(places) + 1)
    for place in places:
        counts[place] += 1
    return counts


def _vote_figure(report: SmoothingReport) -> Figure:
    names = [*(name for _, name in VOTE_BINS), ALL_VOTES]
    counts = dict.fromkeys(names, 0)
    drawn = [example.counts for example in report.examples if example.counts.n]
    for votes in drawn:
        counts[_vote_bin(votes.estimation[votes.selected], votes.n)] += 1
    total = max(len(drawn), 1)
    rows = [BarRow(name, (("bar", count / total),), f"{count:,}") for name, count in counts.items()]
    cells = [(name, f"{count:,}") for name, count in counts.items()]
    most = max(names, key=counts.__getitem__)
    alt = f"Bars: of {len(drawn):,} examples, {counts[most]:,} have {most} for the selected class."
    table = table_of(
        "Examples by share of votes for the selected class", ("share of votes", "#examples"), cells, count=len(cells)
    )
    return Figure("Votes for the selected class", alt, bar_chart(rows), table)


def _vote_bin(votes: int, draws: int) -> str:
    return next((name for end, name in VOTE_BINS if votes / draws < end), ALL_VOTES)


@dataclass(frozen=True)
class ClassRow:
    """One class: its examples, those answered right, those certified at all, and those certified at the radius.

    ``clean`` is None where the certificates do not say which class is answered.
    """

    name: str
    examples: int
    clean: int | None
    certified: int
    at_radius: int

    @property
    def shares(self) -> Iterator[tuple[str, float]]:
        """The role in the figure and the share of each count that is known."""
        for role, count in (("clean", self.clean), ("some", self.certified), ("bar", self.at_radius)):
            if count is not None:
                yield role, count / self.examples


def class_section(report: Listing) -> Section | None:
    """Return clean against certified for each class; a run that stopped early knows no shares."""
    if report.summary is UNSET or report.summary.unsampled is not UNSET or not report.examples:
        return None
    radius = typical_radius(report)
    rows = count_classes(report, radius)
    weakest = sorted(rows, key=lambda row: row.at_radius / row.examples)[:MOST_CLASSES]
    shown = rows if len(rows) <= MOST_CLASSES else weakest
    title = "Certified" if rows[0].clean is None else "Clean and certified"
    return Section("classes", f"{title}, class by class", (_class_figure(rows, shown, radius),))


def _class_figure(rows: Sequence[ClassRow], shown: Sequence[ClassRow], radius: float) -> Figure:
    label = radius_label(radius)
    bars = [_class_bars(row) for row in shown]
    which = "each class" if len(shown) == len(rows) else f"the {len(shown)} classes certified least of {len(rows):,}"
    least = min(rows, key=lambda row: row.at_radius / row.examples)
    answered = rows[0].clean is not None
    alt = (
        f"Bars for {which}: {'answered right (outline), ' if answered else ''}certified at any radius (pale), "
        f"at radius {label} (full). Least certified: {least.name}, {least.at_radius} of {least.examples}."
    )
    titles = ("class", "#examples", *(("#right",) if answered else ()), "#certified", f"#at {label}")
    cells = [(row.name, str(row.examples), *(f"{share:.{SHARE_DIGITS}f}" for _, share in row.shares)) for row in rows]
    table = table_of(
        f"Shares by class; the last column at radius {label}",
        titles,
        cells,
        count=len(cells),
        folded=len(rows) > MOST_CLASSES,
    )
    right = (("clean", "answered right"),) if answered else ()
    legend = (*right, ("some", "certified at any radius"), ("bar", f"certified at radius {label}"))
    title = f"{'Answered right, certified,' if answered else 'Certified,'} and certified at radius {label}"
    return Figure(title, alt, bar_chart(bars), table, legend)


def _class_bars(row: ClassRow) -> BarRow:
    return BarRow(row.name, tuple(row.shares), f"{row.at_radius / row.examples:.2f}")


def typical_radius(report: Listing) -> float:
    """Return the radius to show classes at: of the first gate that has one, else where about half are certified."""
    gated = [gate.radius for gate in report.gates if gate.radius is not UNSET and gate.radius > 0.0]
    if gated:
        return gated[0]
    rows = [] if report.summary is UNSET else [row for row in report.summary.certified_accuracy if row.radius > 0.0]
    nearest = min(rows, key=lambda row: abs(row.accuracy - 0.5), default=None)
    return 0.0 if nearest is None else nearest.radius


def count_classes(report: Listing, radius: float) -> list[ClassRow]:
    """Return one row for each class that has examples, in the order of the model's classes."""
    counts: dict[int, list[int]] = {}
    for example in report.examples:
        found = (1, clean_correct(example), certified_at(example, 0.0), certified_at(example, radius))
        row = counts.setdefault(example.label, [0, 0, 0, 0])
        for k, holds in enumerate(found):
            row[k] += holds
    rows = [ClassRow(name_label(report, label), *counts[label]) for label in sorted(counts)]
    return rows if answers_known(report) else [replace(row, clean=None) for row in rows]


def abstention_section(report: Listing) -> Section | None:
    """Return the abstentions by reason."""
    reasons = [(reason, f"{count:,}") for reason, count in count_abstentions(report.examples)]
    if not reasons:
        return None
    table = table_of("Abstentions", ("reason", "#examples"), reasons, count=len(reasons), folded=len(reasons) > 30)
    return Section("abstentions", "Abstentions by reason", (table,))
