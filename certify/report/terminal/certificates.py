"""The certificates of a report on a terminal: the accuracy curve, the extreme examples, the draws."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET
from rich.console import Group
from rich.table import Table
from rich.text import Text

from certify.report.figures import lower_figure, radius_label
from certify.report.promise_words import earlier_words
from certify.report.score_words import describe_scores
from certify.report.terminal.header import label_rows
from certify.report.wording import (
    LIMITS_NOTE,
    SHARE_DIGITS,
    count_abstentions,
    describe_clean,
    describe_counts,
    describe_stop,
    describe_whole_curve,
    name_label,
    share_words,
    until_zero,
)
from certify.results import (
    CertifiedAccuracy,
    LipschitzExample,
    Report,
    SmoothingExample,
    SmoothingReport,
    Summary,
)
from certify.rounding import ceiling_text, floor_text

BAR_CELLS = 24
EIGHTHS = " ▏▎▍▌▋▊▉"


def accuracy_title(report: Report) -> str:
    """Return what the share of certified examples is called."""
    return share_words(report.settings).capitalize()


def draw_accuracy(report: Report) -> Group | None:
    """Return certified accuracy against radius: the observed share with a bar, and its limits over examples."""
    if report.summary is UNSET:
        return None
    summary = report.summary
    if summary.unsampled is not UNSET:
        counts = [(f"radius {radius}", words) for radius, words in describe_counts(summary)]
        return Group(label_rows([*counts, ("stopped", describe_stop(summary))]), Text(_facts(summary)))
    return Group(_curve(summary), _notes(summary))


def _curve(summary: Summary) -> Table:
    rows = summary.certified_accuracy
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("radius", justify="right", no_wrap=True)
    table.add_column("observed", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, style="cyan")
    for side in ("lower", "upper"):
        table.add_column(side, justify="right", no_wrap=True)
    for row in until_zero(rows):
        table.add_row(*_curve_cells(row, summary.examples))
    return table


def _curve_cells(row: CertifiedAccuracy, examples: int) -> tuple[str, ...]:
    return (
        radius_label(row.radius),
        f"{round(row.accuracy * examples)}/{examples}  {row.accuracy:.{SHARE_DIGITS}f}",
        bar(row.accuracy),
        floor_text(row.lower, SHARE_DIGITS),
        ceiling_text(row.upper, SHARE_DIGITS),
    )


def bar(share: float) -> str:
    """Return a bar of at most 24 cells, full at a share of 1, in steps of an eighth of a cell, rounded down.

    Example:
        >>> bar(1.0) == "█" * 24, bar(0.0), bar(1 / 48)
        (True, '', '▌')
    """
    full, eighths = divmod(int(min(max(share, 0.0), 1.0) * BAR_CELLS * 8), 8)
    return ("█" * full + EIGHTHS[eighths]).rstrip()


def _notes(summary: Summary) -> Text:
    confidence = summary.certified_accuracy[0].confidence if summary.certified_accuracy else 0.0
    return Text.assemble(
        f"{_facts(summary)}\n",
        ("\n".join(filter(None, (LIMITS_NOTE.format(confidence=confidence), describe_whole_curve(summary)))), "dim"),
    )


def _facts(summary: Summary) -> str:
    mean = "none" if summary.mean_radius is None else lower_figure(summary.mean_radius)
    return f"clean accuracy {describe_clean(summary)}, abstained {summary.abstained}, mean radius {mean}"


def draw_extremes(report: Report) -> Table | None:
    """Return the largest and the smallest radius of a correct certificate, and the abstentions by reason."""
    if not report.examples:
        return None
    examples: Sequence[LipschitzExample | SmoothingExample] = report.examples
    certified = [example for example in examples if example.correct and example.radius > 0.0]
    rows = [(f"{count} x", reason) for reason, count in count_abstentions(examples)]
    if certified:
        largest = max(certified, key=lambda example: example.radius)
        smallest = min(certified, key=lambda example: example.radius)
        rows = [("largest", _name(largest, report)), ("smallest", _name(smallest, report)), *rows]
    wrong = sum(example.predicted is not None and not example.correct for example in examples)
    return label_rows([*rows, ("wrong", f"{wrong} predicted another class than the label")])


def _name(example: LipschitzExample | SmoothingExample, report: Report) -> str:
    return f"radius {lower_figure(example.radius)}  {example.id}  {name_label(report, example.label)}"


def draw_draws(report: Report) -> Table | None:
    """Return how many draws an example took on average, where the noise came from, and earlier seeds."""
    if not isinstance(report, SmoothingReport) or not report.examples:
        return None
    rows = [
        ("mean", _drawn(report)),
        ("noise", f"{report.tables.noise_law}: {report.tables.noise}"),
        *describe_scores(report),
    ]
    if earlier := earlier_words(report):
        rows.append(("warning", earlier))
    return label_rows(rows)


def _drawn(report: SmoothingReport) -> str:
    """Return how often the network was asked about an example."""
    total = sum(example.counts.n0 + example.counts.n for example in report.examples)
    if report.settings.deterministic:
        return f"{report.settings.n:,} shifts per example, {total:,} in all, none random"
    return f"{total / len(report.examples):,.0f} draws per example, {total:,} in all, pilot included"
