"""An outline on a terminal and as Markdown: each block has one way to be shown, and every name is neutralised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text as Line

from certify.report.markdown import MARKS, NAME, PARAGRAPH, SENTENCE, make_folded, make_table
from certify.report.neutralise import markdown_text, strip_controls
from certify.report.outline import Cell, Facts, Figure, Outline, Quote, Table, Text, Tiles, Verdicts
from certify.report.sections import outline_of
from certify.report.terminal.frame import draw_panes
from certify.report.terminal.header import label_rows
from certify.report.terminal.verdicts import STYLES
from certify.results import Document

TERMINAL_ROWS, MARKDOWN_BYTES = 40, 6000  # of one table


def render_terminal_outline(report: Document, *, width: int | None = None, color: bool = False) -> str:
    """Return the outline of a report as text of at most ``width`` columns, without its long tables."""
    outline = outline_of(report)
    head = Line.assemble((strip_controls(outline.title), "bold"), "\n", strip_controls(outline.kind))
    panes = [(section.title, list(filter(_fits, section.blocks))) for section in outline.sections]
    drawn = [(title, Group(*map(_draw, blocks))) for title, blocks in panes if blocks]
    return draw_panes([("", head), *drawn], width=width, color=color)


def _fits(block: Any) -> bool:  # noqa: ANN401 - one of the blocks
    """Return whether a block is for a terminal: rows that a page folds or sorts are not."""
    return not (isinstance(block, Table) and (block.folded or block.sortable))


def _draw(block: Any) -> RenderableType:  # noqa: ANN401 - one of the blocks
    return DRAWN[type(block)](block)


def _draw_verdicts(block: Verdicts) -> RenderableType:
    grid = Grid.grid(padding=(0, 2))
    for row in block.rows:
        words = f"{row.name}: {row.asked} ({row.found}; {row.reason})"
        grid.add_row(Line("!" if row.verdict == "failed" else "-", style=STYLES[row.verdict]), strip_controls(words))
    return grid


def _draw_table(block: Table) -> RenderableType:
    grid = Grid(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for column in block.columns:
        grid.add_column(strip_controls(column.title), justify="right" if column.number else "left", overflow="fold")
    for row in islice(block.rows, TERMINAL_ROWS):
        grid.add_row(*(Line(strip_controls(_words(cell))) for cell in row))
    hidden = block.count - TERMINAL_ROWS
    return Group(grid, Line(f"... and {hidden:,} more of {block.count:,}", style="dim")) if hidden > 0 else grid


def _words(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell.alt


DRAWN: Mapping[type, Callable[[Any], RenderableType]] = MappingProxyType(
    {
        Text: lambda block: Line(strip_controls(block.words), style="dim" if block.quiet else ""),
        Quote: lambda block: Line(strip_controls(block.words)),
        Facts: lambda block: label_rows(list(block.rows)),
        Verdicts: _draw_verdicts,
        Tiles: lambda block: label_rows([(tile.label, f"{tile.figure}  {tile.side}") for tile in block.rows]),
        Table: _draw_table,
        Figure: lambda block: _draw_table(block.table),
    }
)


def render_markdown_outline(report: Document, *, width: int | None = None, color: bool = False) -> str:  # noqa: ARG001 - one table
    """Return the outline of a report as GitHub-flavoured Markdown; each table has a limit of bytes."""
    outline = outline_of(report)
    lines = [f"## {markdown_text(outline.title, SENTENCE)}", "", f"{markdown_text(outline.kind, SENTENCE)}."]
    return "\n".join([*lines, *_sections(outline)]) + "\n"


def _sections(outline: Outline) -> Iterator[str]:
    for section in outline.sections:
        yield from ("", f"### {markdown_text(section.title, SENTENCE)}")
        for block in section.blocks:
            yield from ("", *WRITTEN[type(block)](block))


def _write_facts(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    return (f"- {label}: {markdown_text(text, SENTENCE)}" for label, text in rows)


def _write_verdicts(block: Verdicts) -> Iterator[str]:
    for row in block.rows:
        words = f"{row.name}: {row.asked} ({row.found}; {row.reason})"
        yield f"- {MARKS[row.verdict]} {markdown_text(words, SENTENCE)}"


def _write_table(block: Table) -> Iterator[str]:
    titles = [markdown_text(column.title, NAME) for column in block.columns]
    rows: Iterator[Sequence[str]] = ([markdown_text(_words(cell), NAME) for cell in row] for row in block.rows)
    lines = make_table(titles, rows, total=block.count, most=MARKDOWN_BYTES)
    return make_folded(f"{block.caption} ({block.count})", lines) if block.sortable or block.folded else lines


WRITTEN: Mapping[type, Callable[[Any], Iterable[str]]] = MappingProxyType(
    {
        Text: lambda block: [markdown_text(block.words, PARAGRAPH)],
        Quote: lambda block: [f"> {markdown_text(block.words, PARAGRAPH)}"],
        Facts: lambda block: _write_facts(block.rows),
        Verdicts: _write_verdicts,
        Tiles: lambda block: _write_facts((tile.label, f"{tile.figure}, {tile.side}") for tile in block.rows),
        Table: _write_table,
        Figure: lambda block: _write_table(block.table),
    }
)
