"""Every command and every block of the README is run: a newcomer's first lines must work as written."""

from __future__ import annotations

import functools
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import certify
from certify.cli.app import main
from certify.cli.configuration import find_configuration

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NETWORK = """
from torch import nn


def build():
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))
    return module, {"input_shape": (3, 8, 8), "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
"""
LAYERS = """
input_shape = [3, 8, 8]
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]

[[layer]]
type = "conv2d"
in_channels = 3
out_channels = 4
kernel_size = 3
padding = 1

[[layer]]
type = "relu"

[[layer]]
type = "flatten"

[[layer]]
type = "linear"
in_features = 256
out_features = 3
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def certify_lines() -> list[str]:
    """Every `certify ...` in a shell block, and every one written in a sentence with its arguments."""
    shell = [part.strip() for block in blocks("sh") for line in block.splitlines() for part in line.split("&&")]
    prose = re.findall(r"`(certify [a-z]+ [^`]*)`", re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S))
    return [line for line in shell + prose if line.startswith("certify ")]


@pytest.fixture
def samples(tmp_path, monkeypatch) -> Path:
    """The sample models, and the files of a reader who follows the README with a network of their own."""
    folder = tmp_path / "sample_models"
    shutil.copytree(ROOT / "sample_models", folder, ignore=shutil.ignore_patterns(".certify_cache", "__pycache__"))
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))
    save_file(module.state_dict(), "weights.safetensors")
    Path("mynet.py").write_text(NETWORK)
    Path("layers.toml").write_text(LAYERS)
    Path("log.tsv").write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t3\t3\t0.378\t1\t15.4\n")
    return folder


def test_the_readme_has_both_commands():
    marked = re.findall(r"<!-- (main|test) command -->\n```sh\n(.+)\n```", README)
    assert [name for name, _ in marked] == ["main", "test"]
    assert all(
        command.startswith("python3 -m venv .venv && . .venv/bin/activate && pip install") for _, command in marked
    )


@functools.cache
def small_report() -> str:
    """The report of 12 digits, certified once for all commands that read one; called in the folder of the samples."""
    assert main(["smooth", "data", "--limit", "12", "--n", "600", "-o", "small.json", "-q"]) == 0
    text = Path("small.json").read_text()
    Path("small.json").unlink()
    return text


@pytest.mark.parametrize("line", certify_lines())
def test_command_of_the_readme(line, samples, capsys):
    arguments = shlex.split(line)[1:]
    for report in (name for name in arguments if name.endswith(".json")):
        Path(report).write_text(small_report())
    if arguments[0] == "smooth" or "data/" in arguments:
        arguments += ["--limit", "4"]  # what is shown is run below, all 360 in the slow test
    if arguments[0] == "lipschitz":
        arguments += ["--effort", "fast"]  # as written in the slow test
    if arguments[0] == "curvature":
        arguments += ["--steps", "3", "--probes", "6", "--pairs", "2"]
    if arguments[0] == "export":
        Path("model.safetensors").unlink()
    code = main(arguments)
    assert code in ((0, 1, 4) if arguments[0] == "gate" else (0,)), capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in certify_lines() if line.startswith("certify lipschitz")])
def test_a_search_of_the_readme_as_written(line, samples):
    assert main(shlex.split(line)[1:]) == 0


@pytest.mark.slow
def test_the_main_command_on_all_digits(samples):
    command = re.search(r"<!-- main command -->\n```sh\n(.+)\n```", README)[1]
    lines = [part.strip() for part in command.split("&&") if part.strip().startswith("certify ")]
    assert [main(shlex.split(line)[1:]) for line in lines] == [0, 0]


def test_the_output_shown_is_the_real_one(samples, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    shown = re.search(r"<!-- output of: (.+) -->\n```text\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert main([*shlex.split(shown[1]), "-q"]) == 0
    printed = capsys.readouterr().out
    assert without_numbers(printed) == without_numbers(shown[2])
    for found, written in zip(numbers(printed), numbers(shown[2]), strict=True):
        assert found == pytest.approx(written, rel=0.02, abs=0.02)  # searches end elsewhere on another processor


NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w])")
UNSTABLE = re.compile(r"\d+/\d+\.png\s+\d+|[█▏▎▍▌▋▊▉]+")  # an example may lose its place to a near one, a bar a cell


def without_numbers(text: str) -> list[str]:
    """Return the words of each line; the digest holds the versions of Python and PyTorch and is left out."""
    lines = (line for line in text.strip().splitlines() if not line.startswith("digest"))
    return [" ".join(NUMBER.sub("#", UNSTABLE.sub("", line)).split()) for line in lines]


def numbers(text: str) -> list[float]:
    """Return the numbers of a text, those of the digest left out."""
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("digest"))
    return [float(found) for found in NUMBER.findall(UNSTABLE.sub("", kept))]


def test_the_python_blocks_save_a_model_and_ask_for_radii(samples):
    names = {
        "model": nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)),
        "names": ["cat", "dog"],
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "images": torch.rand(4, 1, 28, 28),
        "labels": torch.arange(4),
    }
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert certify.load("model.safetensors").classes == ("cat", "dog")
    names["loss"].backward()
    certify.save(names["network"], "trained.safetensors", input_shape=(1, 28, 28))
    settings = certify.LipschitzSettings(method="product")
    assert certify.lipschitz("trained.safetensors", settings=settings).network.upper <= 2.0  # ten rows of norm 1


def test_the_configuration_block_is_valid(samples):
    (block,) = blocks("toml")
    Path("certify.toml").write_text(block)
    configuration = find_configuration(None)
    assert configuration.smooth == {"sigma": 0.25}
    assert [gate.radius for gate in configuration.gates] == [0.25]


def test_exit_codes_are_those_of_the_program():
    from certify import errors
    from certify.cli import app

    table = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    used = {0, 1, 4, app.EXIT_USAGE, app.EXIT_INTERNAL, app.EXIT_INTERRUPTED}
    used |= {kind.exit_code for kind in (errors.InputError, errors.NoRuleError, errors.InterruptedRun)}
    assert table == used


def test_every_command_is_in_the_readme():
    from certify.cli.commands import COMMANDS

    for name in COMMANDS:
        assert f"certify {name}" in README
