"""Kills at random moments: a run is started and killed until a start comes to its end."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from certify.errors import InputError, InterruptedRun
from certify.examples import Dataset
from certify.results import SmoothingSettings
from certify.smoothing import open_store, store_path
from tests.smoothing.toy_runs import exit_code, fork, header, predict, run

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def slow_run(folder: Path, data: Dataset, settings: SmoothingSettings, workers: int):
    """In a child: the run, slowed down so that kills fall everywhere; every block is committed at once."""

    def slow(x):
        time.sleep(0.002)
        return predict(x)

    def action():
        import certify.smoothing.store as module

        module.COMMIT_SECONDS = -1.0
        try:
            run(folder, data, settings, classify=slow, batch=64, workers=workers)
        except InterruptedRun:
            return 130
        except InputError:
            return 2
        return 0

    return action


def kill_until_done(
    folder: Path,
    data: Dataset,
    settings: SmoothingSettings,
    number: int,
    workers: int,
    chance: random.Random,
    *,
    cut: bool = False,
) -> int:
    """Start and kill until a start comes to its end; return how many were killed.

    With ``cut`` the log is also cut at a random length. When the kill fell into a checkpoint, its pages are then in
    neither file: no store can survive the loss of synced data, and this one must be refused, and restarted.
    """
    kills = 0
    while True:
        child = fork(slow_run(folder, data, settings, workers))
        time.sleep(chance.uniform(0.0, 0.2 + 0.02 * kills))  # a loaded machine gets its time in the end
        os.kill(child, number)
        code = exit_code(child)
        assert code in (0, 130, -number) or (code == 2 and cut)
        if code == 0:
            return kills
        if code == 2:
            open_store(folder, header(data, settings), restart=True).close()
        kills += 1
        path = store_path(folder, header(data, settings))
        log = path.with_name(path.name + "-wal")
        if cut and log.exists():
            os.truncate(log, chance.randrange(log.stat().st_size + 1))
