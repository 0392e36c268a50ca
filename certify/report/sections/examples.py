"""Every example of a report as one sortable table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from certify.report.figures import lower_figure, upper_figure
from certify.report.outline import Cell, Picture, Section, Text, table_of
from certify.report.wording import name_label
from certify.results import LipschitzExample, Report, SmoothingExample, SmoothingReport

OPEN_UP_TO = 400  # rows; a longer table is folded, so that the page opens at once
FIRST = ("#index", "example", "#radius", "label", "predicted", "correct")  # a phone shows the first four
BY_KIND = {
    False: ("#margin, lower", "#gain, upper", "how, or why not"),
    True: ("#votes", "#draws", "how, or why not"),
}


def examples_section(report: Report, pictures: Mapping[str, str]) -> Section | None:
    """Return the examples, with thumbnails where ``pictures`` has one for their hash."""
    if not report.examples:
        return None
    titles = [*FIRST, *BY_KIND[isinstance(report, SmoothingReport)]]
    examples: Sequence[LipschitzExample | SmoothingExample] = report.examples
    total = len(examples)
    shown = sum(example.hash in pictures for example in examples)
    rows: Iterator[Sequence[Cell]] = map(_cells_of(report), examples)
    if shown:
        titles.insert(2, "image")
        rows = (_with_picture(row, example, pictures) for row, example in zip(rows, examples, strict=True))
    table = replace(table_of("Examples", titles, rows, count=total, folded=total > OPEN_UP_TO), sortable=True)
    return Section("examples", f"Examples ({total:,})", (table, *_picture_note(shown, total)))


def _picture_note(shown: int, total: int) -> tuple[Text, ...]:
    note = "Each image was read again and has the hash that the report holds for its example."
    missing = "" if shown == total else f" {total - shown:,} of {total:,} are without one."
    return (Text(note + missing, quiet=True),) if shown else ()


def _with_picture(
    row: Sequence[Cell], example: LipschitzExample | SmoothingExample, pictures: Mapping[str, str]
) -> Sequence[Cell]:
    encoded = pictures.get(example.hash)
    cell: Cell = "" if encoded is None else Picture(encoded, f"the input of example {example.index}")
    return (*row[:2], cell, *row[2:])


def _cells_of(report: Report) -> Callable[[LipschitzExample | SmoothingExample], tuple[str, ...]]:
    def cells(example: LipschitzExample | SmoothingExample) -> tuple[str, ...]:
        predicted = "abstained" if example.predicted is None else name_label(report, example.predicted)
        radius = lower_figure(example.radius)
        answer = (radius, name_label(report, example.label), predicted, "yes" if example.correct else "no")
        last = _smoothing(example) if isinstance(example, SmoothingExample) else _lipschitz(example)
        return (str(example.index), example.id, *answer, *last)

    return cells


def _lipschitz(example: LipschitzExample) -> tuple[str, ...]:
    margin = "" if example.margin_lower is None else lower_figure(example.margin_lower)
    gain = "" if example.gain_upper is None else upper_figure(example.gain_upper)
    return (margin, gain, example.reason if isinstance(example.reason, str) else example.method)


def _smoothing(example: SmoothingExample) -> tuple[str, ...]:
    votes = example.counts
    won = votes.estimation[votes.selected] if any(votes.estimation) else 0
    return (f"{won:,}", f"{votes.n:,}", example.reason if isinstance(example.reason, str) else example.procedure)
