"""A remembered report that was forged, sealed again and named right is not believed, and the gate says why."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import nn

import certify
from certify.cli import gate_memory
from certify.cli.app import main
from certify.cli.gate_memory import processor_of
from certify.report import read_report, verify_report
from certify.results import report_from_json, report_to_json, seal
from certify.smoothing.noise_source import noise_source

CONFIGURATION = """
model = "model.safetensors"
data = "data.npz"

[smooth]
sigma = 0.25

[lipschitz]
norm = "l2"

[[gate]]
name = "share"
metric = "certified_accuracy"
kind = "{kind}"
radius = 0.1
min = 0.99
claim = "list"
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Path:
    """A folder of each kind whose gate was asked once: the plane mean = 1/2, two of 12 images on its other side."""
    layer = nn.Linear(16, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([-torch.ones(16), torch.ones(16)]) / 4)
        layer.bias.copy_(torch.tensor([2.0, -2.0]))
    module = nn.Sequential(nn.Flatten(), layer)
    labels = np.arange(12) % 2
    level = 127 + 100 * (2 * labels - 1)
    level[[0, 2]] = 254
    pixels = np.broadcast_to(level[:, None, None, None], (12, 1, 4, 4)).astype(np.uint8)
    root = tmp_path_factory.mktemp("asked")
    for kind in ("smoothing", "lipschitz"):
        (root / kind).mkdir()
        model = root / kind / "model.safetensors"
        certify.save(module, model, input_shape=(1, 4, 4), classes=["0", "1"], range=(0, 1))
        np.savez(root / kind / "data.npz", x=pixels, y=labels)
        (root / kind / "certify.toml").write_text(CONFIGURATION.format(kind=kind))
        with pytest.MonkeyPatch.context() as inside:
            inside.chdir(root / kind)
            assert main(["gate", "--no-progress", "-q", "-o", "first.json"]) == 1
    return root


@pytest.fixture
def project(asked, tmp_path, monkeypatch):
    """Make a fresh copy of the folder of one kind the working folder."""

    def enter(kind: str):
        shutil.copytree(asked / kind, tmp_path / kind)
        monkeypatch.chdir(tmp_path / kind)
        return read_report("first.json")

    return enter


def gate(capsys, *more):
    """Run the gates: their exit code, what was written to stderr, the report."""
    capsys.readouterr()
    code = main(["gate", "--no-progress", "-v", "-o", "report.json", *more])
    return code, capsys.readouterr().err, read_report("report.json")


def remembered() -> Path:
    (path,) = Path(".certify_cache").glob("gate-*.json")
    return path


def forge(change) -> None:
    """Change the remembered report, seal it, and write the first line that fits it and its name."""
    path = remembered()
    content = path.read_bytes().partition(b"\n")[2]
    forged = seal(replace(change(report_from_json(content, name="remembered")), digest=""))
    content = report_to_json(forged).encode()
    name = path.stem.removeprefix("gate-")
    path.write_bytes(hashlib.sha256(f"{name}\n".encode() + content).hexdigest().encode() + b"\n" + content)


def passed(report):
    """Return the report with gates that say they passed."""
    return replace(report, gates=tuple(replace(row, verdict="passed") for row in report.gates))


def lower_gates(report):
    """Return the report judged by gates that ask for less, as `certify gate` would have judged it."""
    from certify.policy import Gate, evaluate_gates

    asked = Gate(name="share", metric="certified_accuracy", min=0.1, radius=0.1, claim="list")
    return replace(report, gates=tuple(evaluate_gates(report, (asked,))))


def right(report):
    """Return the report with every example answered by its label."""
    return replace(report, examples=tuple(replace(row, predicted=row.label, correct=True) for row in report.examples))


def on_cuda(report):
    """Return the report as one that a GPU made, its words for the noise included."""
    law = report.tables.noise.partition(";")[0]
    tables = replace(report.tables, noise=f"{law}; {noise_source('cuda').words}")
    execution = replace(report.execution, device_name="some GPU")
    return replace(report, tool=replace(report.tool, device_kind="cuda"), tables=tables, execution=execution)


def other_weights(report):
    return replace(report, model=replace(report.model, sha256="0" * 64))


def other_seed(report):
    return replace(report, settings=replace(report.settings, seed=7))


def no_attacks(report):
    return replace(report, falsifier=replace(report.falsifier, level="off"))


FORGERIES = [
    *(("smoothing", change, words) for change, words in (
        (passed, "its verdicts are not those of the gates"),
        (lower_gates, "its verdicts are not those of the gates"),
        (right, "its verdicts are not those of the gates"),
        (lambda report: lower_gates(right(report)), "its verdicts"),
        (on_cuda, "expected processor 'cpu', got 'cuda, some GPU'"),
        (other_weights, "expected weights"),
        (other_seed, "its settings are not those of the configuration"),
        (no_attacks, "expected attacks 'quick', got 'off'"),
    )),
    ("lipschitz", passed, "its verdicts are not those of the gates"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "words"), FORGERIES)
def test_a_forged_report_is_not_believed_and_the_gate_runs_again(project, capsys, kind, change, words):
    first = project(kind)
    forge(change)
    code, err, again = gate(capsys)
    assert (code, again.digest) == (1, first.digest)
    assert "is not used, and made again" in err
    assert words in err


def test_answers_that_do_not_follow_from_votes_are_not_believed(project, capsys):
    """Verdicts of the forged rows fit them, and so does every hash: only the votes behind the rows do not."""
    first = project("smoothing")

    def forgery(report):
        from certify.cli.configuration import find_configuration
        from certify.policy import evaluate_gates

        report = right(report)
        return replace(report, gates=tuple(evaluate_gates(report, find_configuration(None).gates)))

    forge(forgery)
    code, err, again = gate(capsys)
    assert (code, again.digest) == (1, first.digest)
    assert "is not used, and made again: examples[" in err
    assert "nothing has changed" in gate(capsys)[1]  # the true report is remembered in its place


def test_a_consistent_report_of_another_processor_is_another_certificate(project, capsys, monkeypatch):
    """It verifies; the network was run by another program. On that processor it is the answer."""
    project("smoothing")
    forge(on_cuda)
    content = remembered().read_bytes().partition(b"\n")[2]
    assert verify_report(report_from_json(content, name="remembered")) == ()
    assert "expected processor" in gate(capsys)[1]
    forge(on_cuda)
    with monkeypatch.context() as there:
        there.setattr(gate_memory, "processor_of", lambda _: "cuda, another GPU")
        assert "nothing has changed" not in gate(capsys)[1]  # not even looked for: it is another question
    assert len(list(Path(".certify_cache").glob("gate-*.json"))) == 2


@pytest.mark.parametrize(
    ("build", "driver", "asked"),
    [("2.0+cpu", True, False), ("2.0", False, False), ("2.0", True, True), ("2.0+cu124", True, True),
     ("2.0+cu124", False, False), ("2.0+rocm6", False, True)],
)  # fmt: skip
def test_torch_is_asked_for_a_gpu_wherever_there_may_be_one(monkeypatch, build, driver, asked):
    def load(_):
        if not driver:
            raise OSError

    monkeypatch.setattr(gate_memory, "version", lambda _: build)
    monkeypatch.setattr(gate_memory.ctypes, "CDLL", load)
    monkeypatch.setattr("certify.runs.places.choose_device", lambda _: "cuda")
    monkeypatch.setattr("certify.runs.places.device_name", lambda _: "some GPU")
    assert processor_of("auto") == ("cuda, some GPU" if asked else "cpu")
    assert processor_of("cpu") == "cpu"
    assert processor_of("cuda:1") == "cuda, some GPU"
