"""Where results and notes go: the result to stdout in the chosen format and nothing else, everything else to stderr."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from certify.cli.options import Color, Format
from certify.errors import InputError
from certify.files import check_output, read_start

if TYPE_CHECKING:
    from certify.results import Document

REPORT_START = b"{\n"


@dataclass(frozen=True)
class Output:
    """How one command shows its result; a report file that could not be written is refused before anything runs."""

    format: Format = Format.terminal
    path: Path | None = None
    color: Color = Color.auto
    quiet: bool = False
    verbose: bool = False

    def __post_init__(self) -> None:
        if self.path is not None:
            check_output(self.path)
            _refuse_to_replace(self.path)

    def note(self, text: str) -> None:
        """Write a line to stderr, unless quiet."""
        if not self.quiet:
            write_note(text)

    def detail(self, text: str) -> None:
        """Write a line to stderr, when verbose."""
        if self.verbose:
            self.note(text)

    def show(self, *reports: Document) -> None:
        """Write the report file when one was asked for, which holds one, then the view of all on stdout."""
        from certify.report import render_several

        if self.path is not None:
            (report,) = reports
            self.write(report)
        width, color = terminal_width(), use_color(self.color)
        write_text(render_several(reports, self.format.value, width=width, color=color))

    def write(self, report: Document) -> None:
        """Write the report file, when one was asked for."""
        from certify.files import write_file_atomically
        from certify.results import report_to_json

        if self.path is not None:
            write_file_atomically(self.path, report_to_json(report).encode())
            self.detail(f"report written to {self.path}")


def _refuse_to_replace(path: Path) -> None:
    """Refuse to put a report in the place of anything but an earlier report: a model, an image, a configuration."""
    if path.exists() and read_start(path, len(REPORT_START)) not in (b"", REPORT_START):
        raise InputError(f"expected a new file or an earlier report for --output, got {str(path)!r}; name another file")


def use_color(choice: Color) -> bool:
    """Return whether stdout gets colours: ``auto`` on a terminal that has them, unless NO_COLOR is set."""
    if choice is Color.auto:
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        return sys.stdout is not None and sys.stdout.isatty() and not plain
    return choice is Color.always


def terminal_width() -> int:
    """Return the columns of the terminal, within what the views are made for."""
    return max(60, min(120, shutil.get_terminal_size((100, 24)).columns))


def write_text(text: str) -> None:
    """Write text to stdout, with one newline at its end.

    Raises:
        InputError: If stdout is closed or full.
        BrokenPipeError: If its reader has gone; `certify.cli.app.main` ends quietly then.
    """
    if sys.stdout is None:
        raise InputError("expected an open stdout for the result, got a closed one; redirect it to a file")
    try:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _abandon(sys.stdout)
        raise InputError(f"cannot write the result to stdout: {error.strerror}; redirect it elsewhere") from error


def write_note(text: str) -> None:
    """Write one line to stderr, with control characters in names made harmless.

    A stderr that is closed or full changes nothing: the exit code says what happened.
    """
    from certify.report import strip_controls

    if sys.stderr is None:
        return
    try:
        sys.stderr.write(strip_controls(text) + "\n")
        sys.stderr.flush()
    except OSError:
        _abandon(sys.stderr)


def flush_streams() -> bool:
    """Return whether stdout and stderr took everything; what one did not take is dropped, or Python would exit 120."""
    taken = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            taken = False
            _abandon(stream)
    return taken


def _abandon(stream: TextIO) -> None:
    """Let what a stream still holds go nowhere, or Python would fail on it again when it exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
