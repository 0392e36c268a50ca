"""Progress is consumption: the command draws it while it consumes a run's results.

On a terminal a bar (examples done, draws per second, time left, running certified accuracy), elsewhere one plain line
every few seconds, both on stderr. The bar advances in draws, because examples differ in how many they take; the time
left comes from the draws that are still planned. Where draws end by a test, the words are examples decided, draws
spent, the certified accuracy so far with its interval, and what the gates say so far.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from certify.cli.output import write_note
from certify.policy import Settlement
from certify.results import LipschitzExample, SmoothingExample, certified_at

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SECONDS_BETWEEN_LINES = 5.0
MOST_RADII = 2  # whose running accuracy has room in a line


class Meter(Protocol):
    """Shows how far a run is."""

    def update(self, done: int, total: int, words: str) -> None:
        """Show that ``done`` of ``total`` steps are done."""


@dataclass
class Silent:
    """Shows nothing."""

    def update(self, done: int, total: int, words: str) -> None:
        """Do nothing."""


@dataclass
class Lines:
    """Writes one plain line every few seconds, for logs.

    The time left is that of the steps since the first update: those of an earlier start took no time of this one.
    """

    last: float = field(default_factory=time.monotonic)
    _first: tuple[float, int] | None = None  # when the first update came, and the steps that were done by then

    def update(self, done: int, total: int, words: str) -> None:
        """Write a line when the last one is old enough."""
        now = time.monotonic()
        started, before = self._first = self._first or (now, done)
        if now - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = now
        share = f", {100 * done // total} %" if total else ""
        made = done - before
        left = f", about {(now - started) * (total - done) / made:.0f} s left" if made > 0 else ""
        write_note(f"{words}{share}{left}")


@dataclass
class Bar:
    """Draws a bar with rich."""

    progress: Progress
    task: TaskID

    def update(self, done: int, total: int, words: str) -> None:
        """Redraw the bar."""
        self.progress.update(self.task, completed=done, total=total, description=words)


@contextmanager
def meter(*, shown: bool) -> Iterator[Meter]:
    """Give the meter that fits stderr, and take it away at the end."""
    if not shown:
        yield Silent()
    elif not sys.stderr.isatty():
        yield Lines()
    else:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            yield Bar(progress, progress.add_task("starting", total=None))


def consume_lipschitz(
    examples: Iterable[LipschitzExample], total: int, shown_by: Meter
) -> tuple[LipschitzExample, ...]:
    """Return all examples of a Lipschitz run, showing each as it comes."""
    found: list[LipschitzExample] = []
    for example in examples:
        found.append(example)
        shown_by.update(len(found), total, _words(found, total))
    return tuple(found)


class DrawsDone(Protocol):
    """How far a smoothing run is, in draws."""

    @property
    def draws_done(self) -> int:
        """Draws made so far."""

    @property
    def draws_estimate(self) -> int:
        """Draws expected in all."""

    @property
    def decided(self) -> int:
        """Examples that need no more draws."""


def consume_smoothing(
    events: Generator[SmoothingExample | DrawsDone, None, None],
    total: int,
    shown_by: Meter,
    at: Sequence[float] = (),
    watched_by: Settlement | None = None,
) -> tuple[SmoothingExample, ...]:
    """Return the examples of a smoothing run, showing its progress in draws.

    Args:
        events: The run.
        total: Its number of examples.
        shown_by: Where the progress is shown.
        at: The asked radii of a sequential run.
        watched_by: What the gates say so far: as soon as no later example can change it, the run is left.
    """
    found: list[SmoothingExample] = []
    with closing(events):
        for event in events:
            if isinstance(event, SmoothingExample):
                found.append(event)
                if watched_by is not None:
                    watched_by.add(event)
                    if watched_by.settled:
                        break
            else:
                words = _sequential_words(found, total, event, at, watched_by) if at else _words(found, total)
                shown_by.update(event.draws_done, event.draws_estimate, words)
    return tuple(found)


def _sequential_words(
    found: list[SmoothingExample], total: int, event: DrawsDone, at: Sequence[float], gates: Settlement | None
) -> str:
    """Return the words of sequential work; the intervals are over the examples so far, each end at 95 %."""
    parts = [f"{event.decided}/{total} decided", f"{event.draws_done:,} draws", *_running(found, at)]
    verdicts = () if gates is None else gates.verdicts
    if verdicts:
        sooner = " (which can end it sooner)" if None in verdicts else ""
        parts.append(f"gates {', '.join(verdict or 'open' for verdict in verdicts)}{sooner}")
    return ", ".join(parts)


def _running(found: list[SmoothingExample], at: Sequence[float]) -> Iterator[str]:
    from certify.stats import population_limits

    for radius in at[-MOST_RADII:] if found else ():
        count = sum(certified_at(example, radius) for example in found)
        low, high = population_limits(count, len(found), confidence=0.95, alpha=0.0)
        yield f"at {radius:g}: {100 * count / len(found):.0f} % ({100 * low:.0f}-{100 * high:.0f})"


def _words(found: list[LipschitzExample] | list[SmoothingExample], total: int) -> str:
    certified = sum(certified_at(example, 0.0) for example in found)
    share = f", certified {100 * certified / len(found):.1f} %" if found else ""
    return f"{len(found)}/{total} examples{share}"
