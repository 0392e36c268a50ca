"""A report as an outline: sections of blocks whose texts are final, for the views that only lay them out.

Every number in a block is text already, rounded to its side (`certify.report.figures`), so that two views never round
differently. Names are *not* neutralised yet: each view does it for the place where it shows them
(`certify.report.neutralise`). A block says by its type what it is; a view has one way to show each type.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from certify.report.plots import Plot
from certify.results import Verdict


@dataclass(frozen=True)
class Text:
    """A paragraph; a quiet one explains, and is set back."""

    words: str
    quiet: bool = False
    block: Literal["text"] = "text"


@dataclass(frozen=True)
class Quote:
    """What a certificate promises, in words."""

    words: str
    block: Literal["quote"] = "quote"


@dataclass(frozen=True)
class Facts:
    """Labels and their texts."""

    rows: tuple[tuple[str, str], ...]
    block: Literal["facts"] = "facts"


@dataclass(frozen=True)
class VerdictRow:
    """One verdict: of what, what was asked, what was found, and why."""

    verdict: Verdict
    name: str
    asked: str
    found: str
    reason: str


@dataclass(frozen=True)
class Verdicts:
    """The verdicts, those that ask for action first."""

    rows: tuple[VerdictRow, ...]
    block: Literal["verdicts"] = "verdicts"


@dataclass(frozen=True)
class Tile:
    """One figure that stands for the whole report, and on which side of the truth it lies."""

    label: str
    figure: str
    side: str


@dataclass(frozen=True)
class Tiles:
    """The figures that stand for the whole report."""

    rows: tuple[Tile, ...]
    block: Literal["tiles"] = "tiles"


@dataclass(frozen=True)
class Picture:
    """A small image in a cell: its media type, its bytes in base64, and its text."""

    encoded: str
    alt: str


Cell: TypeAlias = str | Picture


@dataclass(frozen=True)
class Column:
    """One column of a table; numbers are set flush right and sorted as numbers."""

    title: str
    number: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under titled columns; a folded table is shown when it is asked for."""

    caption: str
    columns: tuple[Column, ...]
    rows: Iterable[Sequence[Cell]]
    count: int
    folded: bool = False
    sortable: bool = False
    block: Literal["table"] = "table"


@dataclass(frozen=True)
class Figure:
    """A plot, what it shows in words, the table of the same numbers, and (role, meaning) of what needs a key."""

    title: str
    alt: str
    plot: Plot
    table: Table
    legend: tuple[tuple[str, str], ...] = ()
    block: Literal["figure"] = "figure"


Block: TypeAlias = Text | Quote | Facts | Verdicts | Tiles | Table | Figure


@dataclass(frozen=True)
class Section:
    """Blocks under a title; ``anchor`` names the section within its outline."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Outline:
    """A report ready to be laid out: its title, what kind of claim it makes, and its sections."""

    title: str
    kind: str
    sections: tuple[Section, ...]


def table_of(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, count: int, folded: bool = False
) -> Table:
    """Return a table; a column whose title starts with ``#`` holds numbers.

    Example:
        >>> [column.number for column in table_of("", ("name", "#upper"), [], count=0).columns]
        [False, True]
    """
    marked = tuple(Column(title.removeprefix("#"), title.startswith("#")) for title in columns)
    return Table(caption=caption, columns=marked, rows=rows, count=count, folded=folded)
