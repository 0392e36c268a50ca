"""Every exit code through the real process: what CI sees is the status of a process, not what a function returns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import certify
from certify.results import report_to_json
from tests.report.sample_reports import lipschitz_example, lipschitz_report

PACKAGE = str(Path(certify.__file__).parents[1])
GATE = '[[gate]]\nname = "g"\nmetric = "certified_accuracy"\nradius = 0.3\nmin = {least}\n'
RUN = "from certify.__main__ import main; import sys; sys.argv = ['certify', 'gate', 'report.json']; "
BROKEN = RUN + "import certify.cli.judging as judging; judging.judge = lambda *_: 1 / 0; main()"
INTERRUPTED = (
    RUN + "import os, signal, time, certify.cli.judging as judging; "
    "judging.judge = lambda *_: (os.kill(os.getpid(), signal.{name}), time.sleep(30)); main()"
)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A report of 100 examples, of which 80 are certified at radius 0.3."""
    monkeypatch.chdir(tmp_path)
    report = lipschitz_report([lipschitz_example(i, 1.0 if i < 80 else 0.0) for i in range(100)])
    Path("report.json").write_text(report_to_json(report))
    Path("certify.toml").write_text(GATE.format(least=0.5))
    return tmp_path


def process(*command: str, path: str = PACKAGE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path, "GITHUB_ACTIONS": ""},
    )


@pytest.mark.parametrize("least, word, code", [(0.5, "PASSED", 0), (0.95, "FAILED", 1), (0.8, "UNDECIDED", 4)])
def test_verdicts(project, least, word, code):
    Path("certify.toml").write_text(GATE.format(least=least))
    done = process("-m", "certify", "gate", "report.json")
    assert (done.returncode, done.stderr) == (code, "")
    assert word in done.stdout


def test_whatever_the_verdict_exit_zero_exits_0(project):
    Path("certify.toml").write_text(GATE.format(least=0.95))
    done = process("-m", "certify", "gate", "report.json", "--exit-zero")
    assert done.returncode == 0
    assert "FAILED" in done.stdout


def test_an_input_that_is_not_there_exits_2(project):
    done = process("-m", "certify", "gate", "nowhere.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nowhere.json" in done.stderr


def test_an_unknown_architecture_exits_3(project):
    save_file({"head.weight": torch.ones(2, 4)}, "weights.safetensors")
    done = process("-m", "certify", "lipschitz", "weights.safetensors", "--no-progress")
    assert done.returncode == 3
    assert "head.weight" in done.stdout


def test_a_bug_exits_70_with_its_traceback(project):
    done = process("-c", BROKEN)
    assert (done.returncode, done.stdout) == (70, "")
    assert "ZeroDivisionError" in done.stderr
    assert "internal error" in done.stderr


def test_an_installation_that_cannot_start_exits_70(project, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "typer.py").write_text("raise RuntimeError('half installed')")
    done = process("-m", "certify", "gate", "report.json", path=f"{tmp_path / 'broken'}{os.pathsep}{PACKAGE}")
    assert (done.returncode, done.stdout) == (70, "")
    assert "half installed" in done.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_exits_130_and_is_no_traceback(project, name):
    done = process("-c", INTERRUPTED.format(name=name))
    assert (done.returncode, done.stdout) == (130, "")
    assert "interrupted" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupt_while_the_program_loads_exits_130_and_is_no_traceback(project, tmp_path):
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "typer.py").write_text("raise KeyboardInterrupt")
    done = process("-m", "certify", "gate", "report.json", path=f"{tmp_path / 'slow'}{os.pathsep}{PACKAGE}")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "certify: interrupted\n")
