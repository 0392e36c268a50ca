"""Progress tells the truth: draws spent, examples decided, running accuracy, verdicts so far, and the time left."""

import io
import re
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.progress import Progress
from scipy.stats import binom
from torch import nn

import certify
from certify.cli import progress
from certify.cli.app import main
from certify.cli.progress import Bar, Lines, Silent, consume_smoothing, meter
from certify.policy import Settlement
from certify.report import read_report
from tests.report.sample_reports import ASKED, gate, sequential_example

SHARES = (1.0, 1.0, 0.3, 1.0, 0.66, 1.0)


@dataclass
class Draws:
    """How far a run is."""

    draws_done: int
    draws_estimate: int
    decided: int


@dataclass
class Kept:
    """Keeps what it is shown."""

    shown: list

    def update(self, done, total, words):
        self.shown.append((done, total, words))


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def run_of(*events):
    yield from events


def words_after(shares, *, gates=(), decided=None, draws=(1000, 4000), total=8):
    """Return what is shown after some examples of a sequential run."""
    rows = [sequential_example(k, share, ASKED) for k, share in enumerate(shares)]
    watched_by = Settlement(gates, n=total, alpha=ASKED.alpha) if gates else None
    kept = Kept([])
    event = Draws(*draws, len(rows) if decided is None else decided)
    consume_smoothing(run_of(*rows, event), total, kept, ASKED.at, watched_by)
    (shown,) = kept.shown
    return shown


def limits(count, n):
    """One-sided Clopper-Pearson limits at 95 %, in percent, by bisection of the binomial tails."""
    lower, upper = 0.0, 1.0
    for bit in range(1, 40):
        lower += 2.0**-bit if count and binom.sf(count - 1, n, lower + 2.0**-bit) <= 0.05 else 0.0
        upper -= 2.0**-bit if count < n and binom.cdf(count, n, upper - 2.0**-bit) <= 0.05 else 0.0
    return 100 * lower, 100 * upper


def test_the_words_of_sequential_work():
    done, total, words = words_after(SHARES, decided=7)
    assert (done, total) == (1000, 4000)
    assert words.startswith("7/8 decided, 1,000 draws, ")
    rows = [sequential_example(k, share, ASKED) for k, share in enumerate(SHARES)]
    found = re.findall(r"at ([\d.]+): (\d+) % \((\d+)-(\d+)\)", words)
    assert [float(radius) for radius, *_ in found] == list(ASKED.at)
    for radius, share, low, high in found:
        count = sum(row.correct and row.radius >= float(radius) for row in rows)
        assert 0 < count < len(rows)
        assert int(share) == round(100 * count / len(rows))
        assert (int(low), int(high)) == tuple(round(end) for end in limits(count, len(rows)))


def test_before_any_example_there_is_no_accuracy():
    assert words_after(())[2] == "0/8 decided, 1,000 draws"


@pytest.mark.parametrize(
    ("gates", "end"),
    [
        ([gate(0.25, 0.01, claim="list")], ", gates passed"),
        ([gate(0.25, 0.99, claim="list")], ", gates failed"),
        ([gate(0.25, 0.75, claim="list")], ", gates open (which can end it sooner)"),
        ([gate(0.25, 0.99, claim="list"), gate(0.25, 0.75, claim="list")], ", gates failed, open (which can end it"),
    ],
)
def test_the_verdicts_so_far_are_those_of_the_examples_so_far(gates, end):
    rows = [sequential_example(k, share, ASKED) for k, share in enumerate(SHARES[:4])]
    watched_by = Settlement(gates, n=8, alpha=ASKED.alpha)
    for row in rows:
        watched_by.add(row)
    words = progress._sequential_words(rows, 8, Draws(1, 2, 4), ASKED.at, watched_by)
    assert end in words
    assert words.count("open") == watched_by.verdicts.count(None)


def test_a_run_is_left_when_its_verdicts_are_settled():
    left = []

    def events():
        try:
            for k in range(8):
                yield sequential_example(k, 1.0, ASKED)
        finally:
            left.append(True)

    watched_by = Settlement([gate(0.25, 0.25, claim="list")], n=8, alpha=ASKED.alpha)
    assert len(consume_smoothing(events(), 8, Silent(), ASKED.at, watched_by)) == 2
    assert left


def test_lines_say_the_share_and_the_time_left(clock, capsys):
    lines = Lines(last=clock[0])
    lines.update(0, 4000, "words")
    clock[0] += 10.0
    lines.update(1000, 4000, "words")
    assert capsys.readouterr().err.endswith("words, 25 %, about 30 s left\n")


def test_draws_of_an_earlier_start_took_no_time_of_this_one(clock, capsys):
    lines = Lines(last=clock[0])
    lines.update(3000, 4000, "words")
    clock[0] += 10.0
    lines.update(3100, 4000, "words")
    assert capsys.readouterr().err.endswith("words, 77 %, about 90 s left\n")  # not 3 s


def test_without_a_step_there_is_no_time_left(clock, capsys):
    lines = Lines(last=clock[0])
    clock[0] += 10.0
    lines.update(0, 4000, "words")
    clock[0] += 10.0
    lines.update(0, 0, "words")
    assert [line.split("words")[1] for line in capsys.readouterr().err.splitlines()] == [", 0 %", ""]


def test_lines_come_every_few_seconds(clock, capsys):
    lines = Lines(last=clock[0])
    for _ in range(100):
        clock[0] += progress.SECONDS_BETWEEN_LINES / 10
        lines.update(1, 2, "words")
    assert 9 <= len(capsys.readouterr().err.splitlines()) <= 10


def test_the_bar_shows_the_same_words_and_numbers():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Progress(console=console, auto_refresh=False) as shown:
        bar = Bar(shown, shown.add_task("starting", total=None))
        bar.update(1000, 4000, "7/8 decided, 1,000 draws")
        (task,) = shown.tasks
        assert (task.completed, task.total, task.description) == (1000, 4000, "7/8 decided, 1,000 draws")
        shown.refresh()
    assert "7/8 decided, 1,000 draws" in console.file.getvalue()
    assert "25%" in console.file.getvalue()


@pytest.mark.parametrize(
    ("shown", "terminal", "kind"), [(False, True, Silent), (True, False, Lines), (True, True, Bar)]
)
def test_a_terminal_gets_a_bar_and_a_log_gets_lines(monkeypatch, shown, terminal, kind):
    stderr = io.StringIO()
    stderr.isatty = lambda: bool(terminal)
    monkeypatch.setattr(sys, "stderr", stderr)
    with meter(shown=bool(shown)) as found:
        assert isinstance(found, kind)


def test_the_lines_of_a_sequential_run_end_at_its_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("certify.smoothing.loop.PROGRESS_SECONDS", -1.0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    torch.manual_seed(0)
    certify.save(nn.Linear(4, 3), "model.safetensors", input_shape=(4,))
    np.savez("data.npz", x=np.random.default_rng(0).integers(0, 256, (5, 4), dtype=np.uint8), y=np.zeros(5, dtype=int))
    asked = ("--sigma", "0.25", "--at", "0.1", "--n", "600", "--batch", "64", "--workers", "1", "--falsify", "off")
    assert main(["smooth", "data.npz", *asked, "--format", "json", "--output", "report.json"]) == 0
    lines = re.findall(r"(\d+)/5 decided, ([\d,]+) draws(.*)", capsys.readouterr().err)
    decided, draws = ([int(line[k].replace(",", "")) for line in lines] for k in (0, 1))
    assert decided == sorted(decided)
    assert draws == sorted(draws)
    rows = read_report(tmp_path / "report.json").examples
    assert (decided[-1], draws[-1]) == (5, sum(row.counts.n0 + row.counts.n for row in rows))
    assert "100 %, about 0 s left" in lines[-1][2]
    assert any(re.search(r"at 0.1: \d+ % \(\d+-\d+\)", rest) for *_, rest in lines)
