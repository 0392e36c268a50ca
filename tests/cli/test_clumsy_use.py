"""A clumsy or hostile user: one clear line, exit 2 or 3, nothing half written; never 1, the code of a failed gate."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import certify
from certify.cli.app import main
from certify.cli.chance import chance_level_note
from certify.cli.options import Color
from certify.cli.output import use_color

FULL = Path("/dev/full")
GATE = '[[gate]]\nname = "{name}"\nkind = "{kind}"\nmetric = "clean_accuracy"\nmin = 0.1\n'
CODE = "from torch import nn\n\ndef build():\n    {line}\n    return nn.Linear(4, 2), {{'input_shape': (4,)}}\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> bytes:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    certify.save(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), path, input_shape=(1, 2, 2), range=(0, 1))
    return path.read_bytes()


@pytest.fixture
def project(model, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("model.safetensors").write_bytes(model)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 1, 2, 2), dtype=np.uint8)
    np.savez("data.npz", x=pixels, y=np.array([0, 1, 0, 1]))
    Path("certify.toml").write_text('model = "model.safetensors"\ndata = "data.npz"\n[smooth]\nsigma = 0.25\nn = 256\n')
    return tmp_path


def run(capfd, *arguments: object) -> tuple[int, str, str]:
    capfd.readouterr()
    code = main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    return code, out, err


def one_line(capfd, *arguments: object, code: int = 2) -> str:
    """Run a command that must fail with one line on stderr and nothing on stdout; return that line."""
    before = sorted(path.name for path in Path().iterdir())
    found, out, err = run(capfd, *arguments)
    assert (found, out) == (code, ""), err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("certify: ")
    assert sorted(path.name for path in Path().iterdir()) == before
    return err


def process(*arguments: str, **streams: object) -> subprocess.Popen[bytes]:
    environment = {
        "PYTHONPATH": str(Path(certify.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "PATH": os.environ["PATH"],
    }
    return subprocess.Popen([sys.executable, "-m", "certify", *arguments], env=environment, **streams)


# streams


@pytest.mark.parametrize("arguments", [["schema"], ["--help"], ["--version"]])
def test_a_reader_that_has_gone_is_no_failed_gate(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    started = process(*arguments, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert started.communicate()[1] == b""
    assert started.returncode == 130


@pytest.mark.skipif(not FULL.is_char_device(), reason="no device that is always full")
@pytest.mark.parametrize("arguments", [["schema"], ["--help"]])
def test_a_full_disk_behind_stdout_exits_2_with_one_line(arguments):
    with FULL.open("wb") as full:
        started = process(*arguments, stdout=full, stderr=subprocess.PIPE)
        err = started.communicate()[1].decode()
    assert started.returncode == 2
    assert err.startswith("certify: ")
    assert len(err.splitlines()) == 1


@pytest.mark.skipif(not FULL.is_char_device(), reason="no device that is always full")
@pytest.mark.parametrize("arguments", [["verify", "nothing.json"], ["verify", "--nonsense"]])
def test_a_stderr_that_takes_nothing_does_not_change_the_exit_code(arguments):
    with FULL.open("wb") as full:
        started = process(*arguments, stdout=subprocess.DEVNULL, stderr=full)
    assert started.wait() == 2
    closed = f'"{sys.executable}" -m certify {" ".join(arguments)} >&- 2>&-'
    environment = {**os.environ, "PYTHONPATH": str(Path(certify.__file__).parents[1])}
    assert subprocess.run(["/bin/sh", "-c", closed], env=environment, check=False).returncode == 2


def test_a_stdout_that_is_closed_exits_2(project, capfd, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert "closed" in one_line(capfd, "schema")


@pytest.mark.parametrize(
    ("environment", "color"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colours_are_for_terminals_that_want_them(monkeypatch, environment, color):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert use_color(Color.auto) is color
    assert use_color(Color.always)
    assert not use_color(Color.never)


# outputs


def test_a_device_or_pipe_is_never_replaced_by_a_report(project, capfd):
    os.mkfifo("pipe")
    for command in (["lipschitz"], ["smooth"]):
        assert "pipe" in one_line(capfd, *command, "-o", "pipe")
    assert stat.S_ISFIFO(os.lstat("pipe").st_mode)


@pytest.mark.parametrize("name", ["model.safetensors", "data.npz", "certify.toml"])
@pytest.mark.parametrize("command", ["lipschitz", "smooth"])
def test_a_report_takes_the_place_of_nothing_but_a_report(project, capfd, command, name):
    before = Path(name).read_bytes()
    assert name in one_line(capfd, command, "-o", name)
    assert Path(name).read_bytes() == before


def test_a_report_replaces_a_report_and_an_empty_file(project, capfd):
    Path("report.json").touch()
    for _ in range(2):
        assert run(capfd, "lipschitz", "-o", "report.json", "-q")[0] == 0
    assert json.loads(Path("report.json").read_text())["kind"] == "lipschitz"


def test_an_output_that_cannot_be_written_is_refused_before_the_run(project, capfd, monkeypatch):
    monkeypatch.setattr("certify.cli.lipschitz.run", lambda *_: pytest.fail("it ran"))
    for output in ("missing/report.json", "model.safetensors/report.json", "."):
        one_line(capfd, "lipschitz", "-o", output)


def test_a_file_that_could_not_be_read_again_is_not_exported(project, capfd):
    Path("net.py").write_text(CODE.format(line="pass"))
    assert "*.safetensors" in one_line(capfd, "export", "net.py:build", "-o", "model.bin")


def test_gates_of_both_kinds_do_not_overwrite_one_report_with_the_other(project, capfd):
    gates = "".join(GATE.format(name=kind, kind=kind) for kind in ("lipschitz", "smoothing"))
    Path("certify.toml").write_text(Path("certify.toml").read_text() + gates)
    assert "--output" in one_line(capfd, "gate", "-o", "report.json")
    for kind, command in (("l", "lipschitz"), ("s", "smooth")):
        run(capfd, command, *(["model.safetensors"] if kind == "l" else []), "data.npz", "-q", "-o", f"{kind}.json")
    assert "--output" in one_line(capfd, "gate", "l.json", "s.json", "-o", "report.json")


@pytest.mark.parametrize(("made", "ignored"), [(False, True), (True, False)])
def test_only_a_new_store_is_hidden_from_git(project, capfd, made, ignored):
    if made:
        Path("folder").mkdir()
        Path("folder/mine.txt").touch()
    assert run(capfd, "smooth", "--store", "folder", "-q")[0] == 0
    assert Path("folder/.gitignore").exists() is ignored


# interruptions and errors of the system


@pytest.mark.parametrize("place", ["certify.loading.read_model", "certify.runs.read_dataset"])
def test_an_interrupt_while_reading_exits_130_and_writes_nothing(project, capfd, monkeypatch, place):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupted)
    for command in (["lipschitz", "model.safetensors", "data.npz"], ["smooth"]):
        assert "run the same command again" in one_line(capfd, *command, "-o", "report.json", code=130)


def test_an_error_of_the_system_exits_2(project, capfd, monkeypatch):
    def denied(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", "model.safetensors")

    monkeypatch.setattr("certify.cli.lipschitz.run", denied)
    assert "Permission denied: 'model.safetensors'" in one_line(capfd, "lipschitz")


def test_a_failure_of_the_start_itself_does_not_exit_1(project):
    Path("typer.py").write_text("raise RuntimeError('a broken installation')\n")
    package = str(Path(certify.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": f"{project}{os.pathsep}{package}"}
    ended = subprocess.run([sys.executable, "-m", "certify"], env=environment, capture_output=True, check=False)
    assert ended.returncode == 70
    assert b"a broken installation" in ended.stderr


@pytest.mark.parametrize("option", ["model", "data", "-o", "--store", "--config"])
def test_a_name_that_is_too_long_exits_2(project, capfd, option):
    long = "x" * 5000
    arguments = {"model": [f"{long}.safetensors"], "data": ["model.safetensors", long]}.get(option, [option, long])
    one_line(capfd, "smooth" if option == "--store" else "lipschitz", *arguments)


# code of the user


@pytest.mark.parametrize("line", ["raise SystemExit(1)", "raise ValueError('mine')", "open('nothing')", "1 / 0"])
def test_what_a_factory_raises_is_an_input_error_with_its_line(project, capfd, line):
    Path("net.py").write_text(CODE.format(line=line))
    found = one_line(capfd, "export", "net.py:build", "-o", "built.safetensors")
    assert "line 4 of net.py" in found


def test_an_exit_in_forward_is_no_verdict(project, capfd):
    Path("net.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        raise SystemExit(1)\n"
        "def build():\n    return Net(), {'input_shape': (4,)}\n"
    )
    one_line(capfd, "export", "net.py:build", "-o", "built.safetensors", code=3)


def test_a_network_that_cannot_be_traced_is_one_line_without_the_log_of_torch(project, capfd):
    Path("net.py").write_text(CODE.format(line="return nn.Linear(3, 2), {'input_shape': (4,)}"))
    one_line(capfd, "export", "net.py:build", "-o", "built.safetensors", code=3)


def test_what_a_factory_prints_stays_out_of_the_result(project, capfd):
    Path("net.py").write_text(CODE.format(line="print('hello')"))
    certify.save(nn.Linear(4, 2), "self.safetensors", input_shape=(4,))
    tensors = certify.load("self.safetensors").graph.tensors
    from safetensors.torch import save_file

    save_file(dict(tensors), "weights.safetensors")
    code, out, err = run(capfd, "lipschitz", "weights.safetensors", "--arch", "net.py:build", "--format", "json")
    assert code == 0
    assert json.loads(out)["kind"] == "lipschitz"
    assert err == "hello\n"


# configuration and flags

CONFIGURATIONS = {
    "tool is no table": ("pyproject.toml", "tool = 1\n", "[tool.certify]"),
    "certify is no table": ("pyproject.toml", "[tool]\ncertify = 1\n", "[tool.certify]"),
    "certify is a list": ("pyproject.toml", "[tool]\ncertify = []\n", "[tool.certify]"),
    "a negative seed": ("certify.toml", "[smooth]\nsigma = 0.25\nseed = -1\n", "seed >= 0"),
    "a negative skip": ("certify.toml", "[smooth]\nsigma = 0.25\nskip = -1\n", "skip >= 0"),
    "a limit of none": ("certify.toml", "[smooth]\nsigma = 0.25\nlimit = 0\n", "limit >= 1"),
    "an unknown bound": ("certify.toml", '[smooth]\nsigma = 0.25\nbound = "x"\n', "two-interval"),
    "a bound that is no text": ("certify.toml", "[smooth]\nsigma = 0.25\nbound = [1]\n", "bound"),
    "an unknown metric": ("certify.toml", '[[gate]]\nname = "a"\nmetric = "x"\nmin = 0\n', "clean_accuracy"),
    "an unknown kind": ("certify.toml", GATE.format(name="a", kind="x"), "lipschitz or smoothing"),
    "workers in words": ("certify.toml", '[smooth]\nsigma = 0.25\nworkers = "x"\n', "workers"),
    "workers without end": ("certify.toml", "[smooth]\nsigma = 0.25\nworkers = 999999999999\n", "workers"),
    "a batch without end": ("certify.toml", "[smooth]\nsigma = 0.25\nbatch = 99999999999999999999999\n", "batch"),
    "two gates of one name": (
        "certify.toml",
        (GATE + GATE).format(name="a", kind="smoothing"),
        "gate 'a': expected a name of its own",
    ),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_wrong_configurations_are_one_line_that_names_the_key(project, capfd, name):
    file, text, word = CONFIGURATIONS[name]
    Path("certify.toml").unlink()
    Path(file).write_text(text)
    assert word in one_line(capfd, "smooth", "data.npz", "-q")


def test_a_gate_without_sigma_says_so(project, capfd):
    Path("certify.toml").write_text('data = "data.npz"\n' + GATE.format(name="a", kind="smoothing"))
    assert "--sigma" in one_line(capfd, "gate", "-q")


FLAGS = [
    ("--batch", "²", "batch"),
    ("--batch", "99999999999999999999999", "batch"),
    ("--batch", "-1", "batch"),
    ("--workers", "99999", "workers"),
    ("--device", "cuda:²", "device"),
    ("--skip", "10000", "4 in all"),
]


@pytest.mark.parametrize(("flag", "value", "word"), FLAGS)
def test_numbers_out_of_any_range_are_refused(project, capfd, flag, value, word):
    assert word in one_line(capfd, "smooth", "-q", flag, value)


@pytest.mark.parametrize(
    "flags", [["--alpha", "2"], ["--n", "0"], ["--n", "1000000000000"], ["--n0", "1000000000000"], ["--sigma", "nan"]]
)
def test_a_plan_is_printed_for_settings_with_a_meaning_only(project, capfd, flags):
    one_line(capfd, "smooth", "--plan", *flags)


# reports


def test_nothing_is_shown_when_one_of_several_reports_cannot_be_read(project, capfd):
    run(capfd, "lipschitz", "-q", "-o", "report.json")
    assert "nothing.json" in one_line(capfd, "report", "report.json", "nothing.json")


def test_an_inconsistent_report_is_shown_with_a_warning(project, capfd):
    run(capfd, "smooth", "-q", "-o", "report.json")
    assert run(capfd, "report", "report.json")[2] == ""
    edited = json.loads(Path("report.json").read_text())
    edited["examples"][0]["radius"] = 0.7
    Path("report.json").write_text(json.dumps(edited))
    code, out, err = run(capfd, "report", "report.json")
    assert code == 2
    assert out
    assert err.startswith("warning: report.json: inconsistent")


@pytest.mark.parametrize(
    "text", ["", "[]", "1", "{}", '{"kind": 1}', '{"kind": "smoothing"}', "[" * 100_000, "\0", "é"]
)
@pytest.mark.parametrize("command", ["report", "verify", "gate"])
def test_what_is_no_report_is_refused_by_name(project, capfd, command, text):
    Path("certify.toml").write_text(GATE.format(name="a", kind="smoothing"))
    Path("odd.json").write_bytes(text.encode("latin-1"))
    assert "odd.json" in one_line(capfd, command, "odd.json")


# the warning at chance level


@pytest.mark.parametrize(
    ("right", "n", "classes", "warned"),
    [(10, 20, 2, True), (11, 20, 2, False), (0, 19, 2, False), (2, 20, 10, True), (3, 20, 10, False), (0, 20, 2, True)],
)
def test_the_warning_begins_at_chance_level_and_20_examples(right, n, classes, warned):
    from certify.results import LipschitzExample

    examples = [
        LipschitzExample(
            index=i, id=str(i), hash="", label=0, predicted=None, correct=False, radius=0.0, norm="l2", seconds=0.0,
            clean_predicted=0 if i < right else 1, method="", margin_lower=None, gain_upper=None, error_upper=None,
        )
        for i in range(n)
    ]  # fmt: skip
    note = chance_level_note(examples, classes)
    assert (note is not None) is warned
    assert note is None or f"{right} of {n}" in note
