"""Tables: comma-separated text, one example a line, its features as numbers and its label in one column.

The label is the last column, or the one named by ``label``. The first line is a header when none of its features is a
number. A label is the name of a class; or its index, when no class is named by an integer. Features are float64, in the
order of their columns.
"""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

import numpy as np

from certify.errors import InputError
from certify.files import read_file_once
from certify.loading.source import Request, Row, Source, arrangement, some

MAX_BYTES = 2**30
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def read_table(path: Path, request: Request) -> Source:
    """Return the rows of a ``.csv`` file; the number of the row, counted from 0 behind the header, is its id."""
    lines = _lines(path)
    column, header = _columns(lines, request.label, str(path))
    rows = lines[1:] if header else lines
    if not rows:
        raise InputError(f"{path}: expected rows below the header, got none")
    arrange = arrangement((len(lines[0][1]) - 1,), request.input.shape, eight_bit=False, name=str(path))

    def read(position: int) -> Row:
        line, cells = rows[position]
        where = f"{path}: line {line}"
        features = [_number(cell, where) for place, cell in enumerate(cells) if place != column]
        label = _label(cells[column].strip(), request.classes, where)
        return Row(str(position), label, arrange(np.array(features, dtype=np.float64)))

    return Source(len(rows), read)


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Return the number and the cells of each line that is not empty; all have the same number of cells."""
    try:
        text = read_file_once(path, limit=MAX_BYTES).decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected comma-separated UTF-8 text, got: {error}") from error
    if not lines or len(lines[0][1]) < 2:
        raise InputError(f"{path}: expected lines of comma-separated features and a label, got none")
    for line, cells in lines:
        if len(cells) != len(lines[0][1]):
            raise InputError(f"{path}: line {line}: expected {len(lines[0][1])} cells, got {len(cells)}")
    return lines


def _columns(lines: list[tuple[int, list[str]]], label: str | None, name: str) -> tuple[int, bool]:
    """Return the position of the label and whether the first line is a header."""
    first = [cell.strip() for cell in lines[0][1]]
    if label is not None:
        if first.count(label) != 1:
            raise InputError(f"{name}: expected one column named {label!r} in the header, got {first[:10]!s:.300}")
        return first.index(label), True
    numbers = [NUMBER.fullmatch(cell) is not None for cell in first[:-1]]
    if any(numbers) and not all(numbers):
        raise InputError(f"{name}: line 1: expected a header or numbers, got both: {first[:10]!s:.300}")
    return len(first) - 1, not numbers[0]


def _number(cell: str, where: str) -> float:
    text = cell.strip()
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: expected a finite number, got {cell!r:.100}")
    return value


def _label(text: str, classes: tuple[str, ...], where: str) -> int:
    if text in classes:
        return classes.index(text)
    named_by_integers = any(re.fullmatch(r"[+-]?[0-9]+", name) for name in classes)
    if re.fullmatch(r"[0-9]{1,9}", text) and int(text) < len(classes) and not named_by_integers:
        return int(text)
    raise InputError(f"{where}: expected a label among the classes {some(classes)}, got {text!r:.100}")
