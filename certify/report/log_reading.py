"""Certification logs of the field: tab-separated rows ``idx label predict radius correct time``.

The columns are those of Cohen, Rosenfeld and Kolter (2019), arXiv 1902.02918, and of the work that followed; ``time``
is seconds, or hours:minutes:seconds, or absent; further columns are left alone. An abstention predicts -1. A log holds
no votes, so no radius in it can be derived again: it is shown as written, and audited (`certify.report.log_audit`).
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from certify._version import __version__
from certify.errors import InputError
from certify.files import read_file_once, read_start
from certify.report.log_audit import audit_log
from certify.report.summary import summarise_log
from certify.results import Execution, LogExample, LogFile, LogReport, LogSettings, Statement, Tool, seal
from certify.stats import false_certificates_quantile, largest_radius_upper
from certify.stats.arguments import MAX_SIGMA, MIN_SIGMA

MAX_LOG_BYTES = 2**28
NEEDED = ("idx", "label", "predict", "radius", "correct")
WHOLE = re.compile(r"-?\d{1,15}", re.ASCII)
DECIMAL = re.compile(r"\d{1,12}(\.\d{0,20})?([eE][-+]?\d{1,3})?", re.ASCII)
CLOCK = re.compile(r"(?:(\d{1,6}) days?, )?(\d{1,6}):(\d{1,2}):(\d{1,2}(?:\.\d{1,9})?)", re.ASCII)
FLAGS: Mapping[str, bool] = {"1": True, "0": False, "True": True, "False": False}
UNKNOWN = Tool(version=__version__, python=platform.python_version(), torch="", device_kind="", dtype="")


def log_settings(*, sigma: float | None = None, alpha: float | None = None, n: int | None = None) -> LogSettings:
    """Return what was stated about a log, within its ranges; alpha 0.001 and n 100,000 where it was not.

    Example:
        >>> log_settings(sigma=0.5).n
        100000

    Raises:
        InputError: If sigma is not positive, or so extreme that no radius can be computed, alpha not in (0, 1/2), or n
            not in 1..10^9.
    """
    if sigma is not None and not MIN_SIGMA <= sigma <= MAX_SIGMA:
        raise InputError(
            f"the settings of the log: expected sigma from {MIN_SIGMA:.0e} to {MAX_SIGMA:.0e}, got {sigma!r}"
        )
    plain = LogSettings()
    settings = LogSettings(sigma=sigma, alpha=plain.alpha if alpha is None else alpha, n=plain.n if n is None else n)
    try:
        largest_radius_upper(1.0 if sigma is None else sigma, settings.n, settings.alpha)
    except ValueError as error:
        raise InputError(f"the settings of the log: {error}") from error
    return settings


def is_log(path: str | Path) -> bool:
    """Return whether a file starts as a log does, with the name of its first column."""
    return read_start(path, 4).lower() == b"idx\t"


def read_log(path: str | Path, settings: LogSettings | None = None) -> LogReport:
    """Return the report of a log.

    Args:
        path: The file.
        settings: What its owner says of it: sigma, alpha and n stand in no log. None: no sigma, alpha 0.001 and
            100,000 draws, as most of the field.

    Raises:
        InputError: If the file is no log; the message names the line.
    """
    return parse_log(read_file_once(path, limit=MAX_LOG_BYTES), settings or LogSettings(), name=str(path))


def parse_log(data: bytes, settings: LogSettings, *, name: str) -> LogReport:
    r"""Return the report of the text of a log.

    Example:
        >>> text = b"idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t3\t3\t0.378\t1\t15.4\n20\t7\t-1\t0.0\t0\t15.6\n"
        >>> report = parse_log(text, LogSettings(sigma=0.25), name="log")
        >>> report.examples[1].predicted is None, report.summary.certified_accuracy[2].accuracy
        (True, 0.5)

    Raises:
        InputError: If it is none; the message names the line.
    """
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: expected a log in UTF-8, got {error.reason} at byte {error.start}") from error
    columns = tuple(lines[0].split("\t")) if lines else ()
    missing = [column for column in NEEDED if columns.count(column) != 1]
    if missing:
        raise InputError(
            f"{name}: expected the columns {' '.join(NEEDED)} once each, got none or several {missing[0]!r}"
        )
    file = LogFile(sha256=hashlib.sha256(data).hexdigest(), columns=columns)
    return log_report(tuple(_rows(lines, columns, name)), file, settings)


def _rows(lines: list[str], columns: tuple[str, ...], name: str) -> Iterator[LogExample]:
    for number, line in enumerate(lines[1:], start=2):
        if line.strip():
            cells = line.split("\t")
            if len(cells) != len(columns):
                raise InputError(f"{name}, line {number}: expected {len(columns)} cells, got {len(cells)}")
            yield _example(dict(zip(columns, cells, strict=True)), f"{name}, line {number}")


def _example(cells: Mapping[str, str], where: str) -> LogExample:
    label, predicted = _whole(cells["label"], f"{where}, label"), _whole(cells["predict"], f"{where}, predict")
    return LogExample(
        index=_not_negative(_whole(cells["idx"], f"{where}, idx"), f"{where}, idx"),
        label=_not_negative(label, f"{where}, label"),
        predicted=None if predicted == -1 else _not_negative(predicted, f"{where}, predict"),
        correct=_flag(cells["correct"], f"{where}, correct"),
        radius=_radius(cells["radius"], f"{where}, radius"),
        seconds=_seconds(cells.get("time", "")),
    )


def _whole(text: str, where: str) -> int:
    if not WHOLE.fullmatch(text.strip()):
        raise InputError(f"{where}: expected a whole number, got {text!r:.60}")
    return int(text)


def _not_negative(value: int, where: str) -> int:
    if value < 0:
        raise InputError(f"{where}: expected 0 or more, got {value}")
    return value


def _flag(text: str, where: str) -> bool:
    if text.strip() not in FLAGS:
        raise InputError(f"{where}: expected 1 or 0, got {text!r:.60}")
    return FLAGS[text.strip()]


def _radius(text: str, where: str) -> float:
    """Return a radius as written; nothing that is not a finite number of 0 or more is one."""
    if not DECIMAL.fullmatch(text.strip()) or not float(text) < float("inf"):
        raise InputError(f"{where}: expected a finite radius of 0 or more, got {text!r:.60}")
    return float(text)


def _seconds(text: str) -> float | None:
    """Return seconds of either way to write them; none where it is neither, since no certificate depends on it."""
    if DECIMAL.fullmatch(text.strip()):
        return min(float(text), 1e12)
    found = CLOCK.fullmatch(text.strip())
    if found is None:
        return None
    days, hours, minutes, seconds = (float(part or 0.0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def log_report(examples: tuple[LogExample, ...], file: LogFile, settings: LogSettings) -> LogReport:
    """Return the sealed report of the rows of a log."""
    return seal(
        LogReport(
            tool=UNKNOWN,
            file=file,
            settings=settings,
            statement=log_statement(len(examples), file, settings),
            audit=audit_log(examples, settings),
            summary=summarise_log(examples, settings),
            examples=examples,
            execution=Execution(),
        )
    )


def log_statement(rows: int, file: LogFile, settings: LogSettings) -> Statement:
    """Return what a log claims, in the words of a claim: nothing in it can be derived again."""
    sigma = "an unstated sigma" if settings.sigma is None else f"sigma {settings.sigma!r}"
    text = (
        f"A log of {rows:,} rows, of sha256 {file.sha256}, claims for each row a class and an l2 radius of the noisy "
        f"vote of a network that it does not name, with {sigma}, alpha {settings.alpha!r} and {settings.n:,} draws "
        "as its owner states them. It holds no votes: nothing in it was certified or derived again here."
    )
    false = false_certificates_quantile(rows, settings.alpha, 0.05) if rows else 0
    return Statement(
        text=text,
        object="smoothed",
        arithmetic="unknown: a log does not say how its numbers were computed or rounded",
        domain="unknown",
        failure_probability=settings.alpha,
        joint=f"if it is right, at most {false} of {rows:,} radii are too large with probability 0.95",
    )
