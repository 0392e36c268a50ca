"""Where results and notes go: the result to stdout in the chosen format and nothing else, everything else to stderr."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from certify.cli.options import Color, Format
from certify.results import Report, report_to_json


@dataclass(frozen=True)
class Output:
    """How one command shows its result."""

    format: Format = Format.terminal
    path: Path | None = None
    color: Color = Color.auto
    quiet: bool = False
    verbose: bool = False

    def note(self, text: str) -> None:
        """Write a line to stderr, unless quiet."""
        if not self.quiet:
            write_note(text)

    def detail(self, text: str) -> None:
        """Write a line to stderr, when verbose."""
        if self.verbose:
            self.note(text)

    def show(self, report: Report) -> None:
        """Write the report file when one was asked for, then the view on stdout."""
        from certify.report import FORMATS, write_file_atomically

        if self.path is not None:
            write_file_atomically(self.path, report_to_json(report).encode())
            self.detail(f"report written to {self.path}")
        width, color = terminal_width(), use_color(self.color)
        write_text(FORMATS[self.format.value](report, width=width, color=color))


def use_color(choice: Color) -> bool:
    """Return whether stdout gets colours: ``auto`` on a terminal, unless NO_COLOR is set."""
    if choice is Color.auto:
        return sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return choice is Color.always


def terminal_width() -> int:
    """Return the columns of the terminal, within what the views are made for."""
    return max(60, min(120, shutil.get_terminal_size((100, 24)).columns))


def write_text(text: str) -> None:
    """Write text to stdout, with one newline at its end."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def write_note(text: str) -> None:
    """Write one line to stderr, with control characters in names made harmless."""
    from certify.report import strip_controls

    sys.stderr.write(strip_controls(text) + "\n")
    sys.stderr.flush()
