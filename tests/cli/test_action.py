"""The composite action and the pre-commit hooks, run as their hosts run them, without a network.

The steps of ``action.yml`` that are scripts run in bash, in order, with the environment, the outputs and the conditions
that GitHub gives them; a step that uses another action is recorded. ``python -m pip`` is recorded too.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import certify
from certify.cli.app import main
from certify.cli.commands import COMMANDS
from certify.results import report_to_json
from tests.report.sample_reports import lipschitz_example, lipschitz_report, smoothing_report

ROOT = Path(certify.__file__).parents[1]
FOLDER = ROOT / ".github" / "actions" / "certify"
ACTION = yaml.safe_load((FOLDER / "action.yml").read_text())
STEPS = ACTION["runs"]["steps"]
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
GATE = '[[gate]]\nname = "g"\nmetric = "certified_accuracy"\nradius = 0.3\nmin = {least}\n'
PYTHON = """#!/bin/sh
if [ "$2" = pip ]; then echo "$@" >> "$PIP_LOG"; exit 0; fi
exec {python} "$@"
"""


@dataclass
class Runner:
    """What GitHub's runner keeps between the steps of an action."""

    folder: Path
    inputs: dict[str, str]
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    used: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def value(self, expression: str) -> str:
        """Return the value of `inputs.x`, `steps.a.outputs.b`, `runner.os`, `github.action_path` or of a literal."""
        kind, *path = expression.strip().split(".")
        if kind.startswith("'"):
            return expression.strip().strip("'")
        if kind == "inputs":
            return self.inputs[path[0]]
        if kind == "steps":
            return self.outputs.get(path[0], {}).get(path[2], "")
        return {"runner.os": "Linux", "github.action_path": str(FOLDER)}[expression.strip()]

    def text(self, template: str) -> str:
        return re.sub(r"\$\{\{(.*?)\}\}", lambda found: self.value(found[1]), template)

    def holds(self, condition: str) -> bool:
        parts = [re.split(r"(==|!=)", part) for part in condition.split("&&")]
        return all((self.value(left) == self.value(right)) == (sign == "==") for left, sign, right in parts)

    def run(self) -> tuple[int, str]:
        """Run the steps that apply; return the exit code of the first that fails, else 0, and what all printed."""
        shown = ""
        for step in STEPS:
            if not self.holds(step.get("if", "'' == ''")):
                continue
            if "uses" in step:
                self.used.append((step["uses"], {key: self.text(text) for key, text in step["with"].items()}))
                continue
            done = self.script(step)
            shown += done.stdout + done.stderr
            if done.returncode:
                return done.returncode, shown
        return 0, shown

    def script(self, step: dict) -> subprocess.CompletedProcess[str]:
        outputs = self.folder / "github_output"
        outputs.write_text("")
        environment = {key: self.text(text) for key, text in step["env"].items()}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.folder / "work" / self.text(step.get("working-directory", ".")),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **environment, **self.host(), "GITHUB_OUTPUT": str(outputs)},
        )
        if "id" in step:
            self.outputs[step["id"]] = dict(line.split("=", 1) for line in outputs.read_text().splitlines())
        return done

    def host(self) -> dict[str, str]:
        shims = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        logs = {"PIP_LOG": str(self.folder / "pip.log"), "GITHUB_STEP_SUMMARY": str(self.folder / "summary.md")}
        return {"PATH": shims, "PYTHONPATH": str(ROOT), "GITHUB_ACTIONS": "true", **logs}


@pytest.fixture
def runner(tmp_path) -> Runner:
    (tmp_path / "bin").mkdir()
    (tmp_path / "work" / "models").mkdir(parents=True)
    shim = tmp_path / "bin" / "python"
    shim.write_text(PYTHON.format(python=shlex.quote(sys.executable)))
    shim.chmod(0o755)
    defaults = {name: entry["default"] for name, entry in ACTION["inputs"].items()}
    return Runner(tmp_path, defaults | {"working-directory": "models"})


@pytest.fixture
def judged(runner) -> Runner:
    """A report of 100 examples, 80 of them certified, and a gate that asks for more."""
    models = runner.folder / "work" / "models"
    rows = [lipschitz_example(index, 1.0 if index < 80 else 0.0) for index in range(100)]
    (models / "a report.json").write_text(report_to_json(lipschitz_report(rows)))
    (models / "certify.toml").write_text(GATE.format(least=0.95))
    runner.inputs |= {"reports": "a report.json\n", "output": ""}
    return runner


def test_a_failed_gate_of_a_report_fails_the_job(judged):
    code, shown = judged.run()
    assert code == 1, shown
    assert "::error title=certify%3A g failed::" in shown
    assert "g" in (judged.folder / "summary.md").read_text()
    assert [name for name, _ in judged.used] == ["actions/setup-python@v5"]  # reports rest on no store
    installed = (judged.folder / "pip.log").read_text().splitlines()
    assert installed[0].endswith("--index-url https://download.pytorch.org/whl/cpu torch")
    assert (Path(shlex.split(installed[1])[-1]) / "pyproject.toml").is_file()
    assert "views" not in judged.outputs


@pytest.mark.slow
def test_judged_reports_of_both_kinds_are_left_with_their_views(judged):
    models = judged.folder / "work" / "models"
    (models / "votes.json").write_text(report_to_json(smoothing_report([1.0] * 20)))
    more = GATE.format(least=0.1).replace('"g"', '"votes"').replace("radius = 0.3", 'radius = 0.1\nkind = "smoothing"')
    first = (models / "certify.toml").read_text().replace("radius", 'kind = "lipschitz"\nradius')
    (models / "certify.toml").write_text(first + more)
    (models / "judged here").mkdir()
    (models / "votes.json").rename(models / "judged here" / "smoothing.json")
    judged.inputs |= {"output": "judged here", "reports": "a report.json\njudged here/smoothing.json"}
    code, shown = judged.run()
    assert code == 1, shown
    views, work = judged.outputs["views"], judged.folder / "work"
    assert ElementTree.parse(work / views["junit"]).getroot().get("failures") == "1"
    assert "<!doctype html>" in (work / views["html"]).read_text()[:100].lower()
    written = {path.name for path in (work / views["reports"]).iterdir()}
    assert written == {"lipschitz.json", "smoothing.json", "junit.xml", "index.html"}


def test_a_configuration_that_cannot_be_read_exits_2_and_shows_no_report(runner):
    (runner.folder / "work" / "models" / "certify.toml").write_text('store = "a\\nexit-code=0"\n')
    code, shown = runner.run()
    assert code == 2
    assert "one line of printable characters" in shown
    assert "views" not in runner.outputs


@pytest.mark.slow
def test_what_is_missing_is_run_once_and_kept_under_the_hash_of_everything(runner):
    models = runner.folder / "work" / "models"
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    certify.save(module, models / "model.safetensors", input_shape=(1, 4, 4), classes=["0", "1"], range=(0, 1))
    np.savez(models / "data.npz", x=np.zeros((20, 1, 4, 4), np.uint8), y=np.arange(20) % 2)
    gate = GATE.format(least=0.3).replace("0.3\nmin", "0.01\nmin")
    (models / "certify.toml").write_text(f'data = "data.npz"\n[smooth]\nsigma = 0.25\nn = 500\n{gate}')
    runner.inputs |= {"install": "false", "exit-zero": "true", "python-version": ""}
    code, shown = runner.run()
    assert code == 0, shown
    (_, fetched), (_, kept) = runner.used
    assert fetched == kept
    assert Path(fetched["path"]) == models / ".certify_cache"
    assert list(Path(fetched["path"]).glob("*.sqlite"))
    runner.outputs["cache"] = {"cache-hit": "true"}
    again, _ = runner.run()
    assert again == 0
    assert runner.used[2:] == [runner.used[0]]  # the same question, and nothing new to keep
    np.savez(models / "data.npz", x=np.ones((20, 1, 4, 4), np.uint8), y=np.arange(20) % 2)
    runner.run()
    assert runner.used[3][1]["key"] != fetched["key"]


def test_no_input_is_pasted_into_a_script():
    assert not [step["name"] for step in STEPS if "${{" in step.get("run", "")]
    assert all(step["shell"] == "bash" for step in STEPS if "run" in step)


def test_every_input_is_read_and_every_output_is_set():
    text = (FOLDER / "action.yml").read_text()
    assert not [name for name in ACTION["inputs"] if f"inputs.{name}" not in text]
    written = {
        (step["id"], name) for step in STEPS if "id" in step for name in re.findall(r"([a-z-]+)=", step.get("run", ""))
    }
    asked = re.findall(r"steps\.(\w+)\.outputs\.([\w-]+)", text)
    known = {("question", "store"), ("question", "sha256"), ("cache", "cache-hit")}
    assert set(asked) <= written | known


def test_the_readme_shows_inputs_and_hooks_that_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    action, hooks = map(yaml.safe_load, blocks)
    (step,) = [step for step in action["steps"] if "certify" in step["uses"]]
    assert step["uses"].split("@")[0].endswith(str(FOLDER.relative_to(ROOT)))
    assert step["with"].keys() <= ACTION["inputs"].keys()
    shown = re.findall(rf"steps\.{step['id']}\.outputs\.([\w-]+)", blocks[0])
    assert set(shown) <= ACTION["outputs"].keys()
    assert {hook["id"] for hook in hooks["repos"][0]["hooks"]} == {hook["id"] for hook in HOOKS}
    assert all(len(block.splitlines()) <= 10 for block in blocks)


def test_the_hooks_run_commands_that_exist(tmp_path, monkeypatch):
    """A hook is called with its files, several at once, or with none; a report that was edited fails it."""
    assert [hook["id"] for hook in HOOKS] == ["certify-gate", "certify-verify"]
    assert all({"name", "entry", "language", "files"} <= hook.keys() for hook in HOOKS)
    assert all(hook["entry"].split()[:1] == ["certify"] and hook["entry"].split()[1] in COMMANDS for hook in HOOKS)
    gate, verify = HOOKS
    assert gate["pass_filenames"] is False
    assert re.search(gate["files"], "a/certify.toml")
    assert re.search(verify["files"], "models/certificates/main.json")
    assert not re.search(verify["files"], "package.json")
    whole = report_to_json(lipschitz_report([lipschitz_example(0, 1.0)]))
    monkeypatch.chdir(tmp_path)
    Path("a.json").write_text(whole)
    Path("b.json").write_text(whole.replace('"count": 1', '"count": 2'))
    command = verify["entry"].split()[1:]
    assert [main([*command, *names]) for names in (("a.json", "a.json"), ("a.json", "b.json"))] == [0, 2]
