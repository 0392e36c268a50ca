"""`pytest --certify`: one item per gate, verdicts as outcomes, and nothing at all without the flag."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy.fft  # noqa: F401 - its C extension cannot be loaded twice
import pytest

import certify
import certify.cli.judging
import certify.report.verify  # loaded once here, or each run in this process would load them again
from certify.results import report_to_json
from tests.report.hostile_reports import HOSTILE
from tests.report.sample_reports import lipschitz_example, lipschitz_report

pytest_plugins = ["pytester"]
PACKAGE = str(Path(certify.__file__).parents[1])
GATE = '[[gate]]\nname = {name}\nmetric = "certified_accuracy"\nradius = 0.3\nmin = {least}\n'
LEAST = {"low": 0.5, "high": 0.95, "between": 0.8}
INERT = """
import sys
def test_of_the_user():
    loaded = [name for name in sys.modules if name.split(".")[0] in ("torch", "certify", "msgspec", "typer")]
    assert sorted(loaded) == ["certify", "certify._version", "certify.pytest_plugin"]
"""


@pytest.fixture
def project(pytester, monkeypatch) -> pytest.Pytester:
    """A report of 100 examples, of which 80 are certified at radius 0.3, three gates, and a test of the user's own."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    report = lipschitz_report([lipschitz_example(i, 1.0 if i < 80 else 0.0) for i in range(100)])
    Path("report.json").write_text(report_to_json(report))
    write_gates(**LEAST)
    pytester.makepyfile(test_own="def test_own(): pass")
    return pytester


def write_gates(**least: float) -> None:
    Path("certify.toml").write_text("".join(GATE.format(name=f'"{name}"', least=it) for name, it in least.items()))


def run(project, *flags: str) -> pytest.RunResult:
    return project.runpytest_inprocess("-p", "certify.pytest_plugin", "-p", "no:cacheprovider", *flags)


def test_each_gate_is_one_item_and_its_verdict_the_outcome(project):
    result = run(project, "-v", "--certify", "--certify-report", "report.json")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        ["certify.toml::low PASSED*", "certify.toml::high FAILED*", "certify.toml::between FAILED*"]
    )
    result.stdout.fnmatch_lines(["high: failed: *80 of 100*", "between: undecided: *80 of 100*"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_all_gates_passed_is_a_green_run_and_k_chooses_among_them(project):
    result = run(project, "--certify", "--certify-report", "report.json", "-k", "low")
    result.assert_outcomes(passed=1, deselected=3)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["collected 4 items / 3 deselected / 1 selected"])


def test_gates_alone_are_a_run_of_tests(project):
    Path("test_own.py").unlink()
    write_gates(low=0.5)
    result = run(project, "--certify", "--certify-report", "report.json")
    result.stdout.fnmatch_lines(["collected 1 item", "*1 passed*"])
    assert result.ret == 0


@pytest.mark.parametrize(
    "text, words",
    [("", "expected at least one*got none"), ("gat = 1", "unknown key 'gat'"), (None, "no certify.toml")],
)
def test_a_flag_without_gates_is_an_error_of_usage(project, monkeypatch, text, words):
    path = Path("certify.toml")
    path.unlink() if text is None else path.write_text(text)
    result = run(project, "--certify")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --certify: *{words}*"])


def test_what_cannot_be_judged_fails_each_gate_with_one_line(project):
    result = run(project, "--certify", "--certify-report", "nowhere.json")
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(["high: *nowhere.json*"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_gate_on_a_diagnostic_is_no_test(project):
    """There is no flag that gives leave here."""
    Path("certify.toml").write_text('[[gate]]\nname = "flat"\nmetric = "curvature_lambda_max"\nmax = 1e9\n')
    result = run(project, "--certify", "--certify-report", "readings.json")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["flat: *expected a metric that is certified*no certificate*"])


def test_a_hostile_name_does_no_harm(project):
    escaped = "".join(f"\\u{ord(character):04x}" for character in HOSTILE)
    Path("certify.toml").write_text(GATE.format(name=f'"{escaped}"', least=0.95))
    result = run(project, "-v", "--certify", "--certify-report", "report.json")
    result.assert_outcomes(passed=1, failed=1)
    shown = result.stdout.str()
    assert not {"\x1b", "\u202e", "\u200f"} & set(shown)
    assert not [line for line in shown.splitlines() if line.startswith("::")]


def test_without_the_flag_nothing_is_added_and_nothing_is_loaded(project):
    project.makepyfile(test_inert=INERT)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "certify.pytest_plugin", "test_inert.py"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "", "PYTHONPATH": PACKAGE, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    assert (done.returncode, "1 passed" in done.stdout) == (0, True), done.stdout
