"""`certify curvature` and gates on its readings: exit codes, what stands on stdout, and what on stderr."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import certify
from certify.cli.app import main
from certify.results import document_from_json, report_to_json
from tests.curvature.tiny_runs import SETTINGS, folder, lipschitz, readings, smoothed

FEW = ("--steps", "12", "--probes", "9", "--pairs", "4", "--sigma", "0.05")
PACKAGE = str(Path(certify.__file__).parents[1])


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("model.safetensors", "other.safetensors", "data.npz"):
        shutil.copy(folder() / name, tmp_path)
    Path("lipschitz.json").write_text(report_to_json(lipschitz()))
    Path("smoothed.json").write_text(report_to_json(smoothed()))
    Path("readings.json").write_text(report_to_json(readings()))
    return tmp_path


def test_the_command_writes_what_the_library_returns(project, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # no cell of the table is folded
    beside = ("--with", "lipschitz.json", "--with", "smoothed.json")
    assert main(["curvature", "model.safetensors", "data.npz", *FEW, *beside, "-o", "new.json", "-q"]) == 0
    found, shown = document_from_json(Path("new.json").read_bytes(), name="new"), capsys.readouterr()
    assert found.digest == readings().digest
    assert found.settings == SETTINGS
    assert "proved with probability" in shown.out
    assert shown.err == ""
    assert main(["verify", "new.json"]) == 0
    assert "which rest on the weights" in capsys.readouterr().out


def test_certificates_of_another_model_exit_2(project, capsys) -> None:
    assert main(["curvature", "other.safetensors", "data.npz", "--with", "lipschitz.json", "-q"]) == 2
    assert "same model beside the readings, got another sha256" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["readings.json", "broken.json", "edited.json", "missing.json"])
def test_what_is_no_consistent_report_of_certificates_exits_2(project, capsys, name: str) -> None:
    Path("broken.json").write_text("{}")
    plain = json.loads(Path("lipschitz.json").read_text())
    plain["network"]["upper"] = 0.5 * plain["network"]["lower"]  # lower above upper
    Path("edited.json").write_text(json.dumps(plain))
    assert main(["curvature", "model.safetensors", "data.npz", "--with", name, "-q"]) == 2
    assert name in capsys.readouterr().err


def test_a_setting_out_of_range_exits_2(project, capsys) -> None:
    assert main(["curvature", "model.safetensors", "data.npz", "--probes", "2", "-q"]) == 2
    assert "expected probes from 6" in capsys.readouterr().err


def test_without_its_extra_it_exits_2_and_names_it(project, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "curvlinops", None)
    assert main(["curvature", "model.safetensors", "data.npz", "-q"]) == 2
    found = capsys.readouterr()
    assert 'pip install "certify-nn[curvature]"' in found.err
    assert "Traceback" not in found.err
    assert found.out == ""


def test_help_names_the_extra_and_the_defaults(capsys) -> None:
    assert main(["curvature", "--help"]) == 0
    text = capsys.readouterr().out
    assert "certify-nn[curvature]" in text
    assert "[default: 30]" in " ".join(text.replace("│", " ").split())


def false_report(upper: float) -> str:
    """The Lipschitz report, sealed again around a constant that is too small: what a bug would make."""
    from msgspec import UNSET
    from msgspec.structs import replace

    from certify.results import seal

    report = lipschitz()
    network = replace(report.network, upper=upper, lower=0.0, data_floor=UNSET, slope_floor=UNSET, limited_by=UNSET)
    examples = tuple(replace(example, local_upper=UNSET) for example in report.examples)
    settings = replace(report.settings, local=None)
    return report_to_json(seal(replace(report, network=network, examples=examples, settings=settings)))


def test_a_reading_that_disproves_a_certificate_exits_70_and_keeps_the_evidence(project, capsys) -> None:
    Path("false.json").write_text(false_report(0.01))
    assert (
        main(["curvature", "model.safetensors", "data.npz", *FEW, "--with", "false.json", "-o", "x.json", "-q"]) == 70
    )
    found = capsys.readouterr()
    assert "contradict each other" in found.err
    assert found.out == ""
    assert not Path("x.json").exists()
    evidence = json.loads(Path("certify-broken-certificate.json").read_text())
    assert evidence["claim"] == "consistency"
    assert any("Jacobian norm <= L" in line for line in evidence["contradictions"])


# ---- gates ---------------------------------------------------------------------------------------------------------

GATE = '[[gate]]\nname = "flat"\nmetric = "curvature_lambda_max"\n{rest}\n'


@pytest.mark.parametrize(("most", "code"), [(100.0, 0), (1e-6, 1)])
def test_a_gate_on_a_reading_needs_leave(project, capsys, most: float, code: int) -> None:
    Path("certify.toml").write_text(GATE.format(rest=f"max = {most}"))
    assert main(["gate", "readings.json"]) == 2
    assert "--allow-diagnostic-gate" in capsys.readouterr().err
    assert main(["gate", "readings.json", "--allow-diagnostic-gate", "-o", "judged.json"]) == code
    assert "a diagnostic, no certificate" in capsys.readouterr().out
    assert main(["verify", "judged.json", "-q"]) == 0
    assert main(["gate", "readings.json", "--allow-diagnostic-gate", "--exit-zero"]) == 0


def test_a_trend_against_an_earlier_report(project, capsys) -> None:
    Path("certify.toml").write_text(GATE.format(rest='baseline = "readings.json"'))
    assert main(["gate", "readings.json", "--allow-diagnostic-gate"]) == 0
    Path("certify.toml").write_text(GATE.format(rest='baseline = "lipschitz.json"'))
    assert main(["gate", "readings.json", "--allow-diagnostic-gate"]) == 2
    assert "expected the readings of its baseline" in capsys.readouterr().err


def test_a_gate_reads_curvature_itself_where_no_report_is_given(project, capsys) -> None:
    head = 'model = "model.safetensors"\ndata = "data.npz"\n[curvature]\nsteps = 3\nprobes = 6\npairs = 2\nlimit = 4\n'
    Path("certify.toml").write_text(head + GATE.format(rest="max = 100"))
    assert main(["gate", "--allow-diagnostic-gate", "-q"]) == 0
    assert "Curvature on 4 examples" in capsys.readouterr().out
    assert main(["gate", "--allow-diagnostic-gate", "--plan"]) == 0
    assert "no certificate" in capsys.readouterr().out


def test_an_unknown_key_of_the_configuration_exits_2(project, capsys) -> None:
    Path("certify.toml").write_text("[curvature]\nstep = 3\n")
    assert main(["curvature", "model.safetensors", "data.npz", "-q"]) == 2
    assert "unknown key 'step' in [curvature]" in capsys.readouterr().err


# ---- the real process ----------------------------------------------------------------------------------------------


def process(*arguments: str, path: str = PACKAGE) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path, "GITHUB_ACTIONS": ""}
    command = [sys.executable, "-m", "certify", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


@pytest.mark.slow
def test_exit_codes_of_the_process(project) -> None:
    few = ("curvature", "model.safetensors", "data.npz", *FEW, "-q")
    first, second = (process(*few, "-o", name, "--format", "csv") for name in ("a.json", "b.json"))
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == second.stdout
    plain = [json.loads(Path(name).read_text()) for name in ("a.json", "b.json")]
    assert [one.pop("execution") for one in plain]
    assert plain[0] == plain[1]
    assert process(*few, "--with", "smoothed.json", "--with", "lipschitz.json").returncode == 0
    assert process("curvature", "other.safetensors", "data.npz", "--with", "lipschitz.json", "-q").returncode == 2
    Path("false.json").write_text(false_report(0.01))
    assert process(*few, "--with", "false.json").returncode == 70
    Path("without").mkdir()
    Path("without/curvlinops.py").write_text("raise ImportError('not installed')")
    missing = process(*few, path=f"without{os.pathsep}{PACKAGE}")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "certify-nn[curvature]" in missing.stderr
    assert "Traceback" not in missing.stderr
    Path("certify.toml").write_text(GATE.format(rest="max = 0.0"))
    assert process("gate", "readings.json").returncode == 2
    assert process("gate", "readings.json", "--allow-diagnostic-gate").returncode == 1
