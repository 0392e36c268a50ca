"""`certify gate` on every metric through `main` itself, and what GitHub Actions is told of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import certify
from certify.cli.annotations import LARGEST_SUMMARY
from certify.cli.app import main
from certify.report import read_report, verify_report
from certify.results import report_to_json
from tests.report.hostile_reports import HOSTILE
from tests.report.sample_reports import lipschitz_example, lipschitz_report, smoothing_report

HEAD = 'model = "model.safetensors"\n{data}\n[smooth]\nsigma = 0.25\nn = 1000\n\n[lipschitz]\n'
NETWORK = '[[gate]]\nname = "network"\nmetric = "lipschitz"\nmax = {most}\n'
MEAN = '[[gate]]\nname = "mean"\nmetric = "mean_radius"\nkind = "smoothing"\nmin = {least}\n'
CLASSES = (
    '[[gate]]\nname = "classes"\nmetric = "class_certified_accuracy"\nkind = "smoothing"\nradius = 0.1\nmin = {least}\n'
)
CLEAN = '[[gate]]\nname = "{kind}"\nmetric = "clean_accuracy"\nkind = "{kind}"\nmin = 0.1\n'
DATA = 'data = "data.npz"'


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """Class 1 iff the mean of 16 pixels is above 1/2, norm sqrt 2; 40 images, two of class 0 look like class 1."""
    layer = nn.Linear(16, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([-torch.ones(16), torch.ones(16)]) / 4)
        layer.bias.copy_(torch.tensor([2.0, -2.0]))
    module = nn.Sequential(nn.Flatten(), layer)
    certify.save(module, tmp_path / "model.safetensors", input_shape=(1, 4, 4), classes=["0", "1"], range=(0, 1))
    labels = np.arange(40) % 2
    level = 127 + 100 * (2 * labels - 1)
    level[[0, 2]] = 254
    pixels = np.broadcast_to(level[:, None, None, None], (40, 1, 4, 4)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x=pixels, y=labels)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    return tmp_path


def gate(capsys, *tables, data=DATA, more=()):
    Path("certify.toml").write_text(HEAD.format(data=data) + "\n".join(tables))
    capsys.readouterr()
    code = main(["gate", "--no-progress", *more])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.mark.parametrize("most, code, reason", [(1.5, 0, "at most 1.414"), (1.4, 1, "at least 1.414")])
def test_a_gate_on_the_network_needs_no_data(project, capsys, most, code, reason):
    found, _, _ = gate(capsys, NETWORK.format(most=most), data="", more=("-o", "report.json"))
    assert found == code
    report = read_report("report.json")
    assert verify_report(report) == ()
    assert report.gates[0].upper >= 2**0.5
    assert reason in report.gates[0].reason
    assert not report.examples


@pytest.mark.parametrize("table", [NETWORK.format(most=2), MEAN.format(least=0.1).replace("smoothing", "lipschitz")])
def test_a_gate_on_weights_without_an_architecture_exits_3(project, capsys, table):
    save_file({"head.weight": torch.ones(2, 16)}, "model.safetensors")
    code, out, err = gate(capsys, table)
    assert (code, out) == (3, "")
    assert "--arch" in err


def test_a_mean_is_measured_and_every_class_is_counted(project, capsys):
    tables = MEAN.format(least=0.1), CLASSES.format(least=0.6)
    code, _, _ = gate(capsys, *tables, more=("-o", "report.json"))
    report = read_report("report.json")
    assert verify_report(report) == ()
    assert report.settings.at == ()
    assert len(report.examples) == 40
    assert [row.verdict for row in report.gates] == ["passed", "passed"]
    assert code == 0
    assert report.gates[1].value == 18 / 20
    assert gate(capsys, *tables, more=("-v",))[2].count("nothing has changed") == 1


def test_classes_alone_are_decided_sequentially_until_no_class_can_change_the_verdict(project, capsys):
    code, _, _ = gate(capsys, CLASSES.format(least=0.9), more=("-o", "report.json"))
    report = read_report("report.json")
    assert verify_report(report) == ()
    assert report.settings.at == (0.1,)
    assert 3 < len(report.examples) < 40
    assert len(report.examples) + len(report.unsampled) == 40
    assert code == 4
    counted = sum(example.label == 0 for example in report.examples) - 2
    assert f"class '0': at least {counted} of 20 examples" in report.gates[0].reason
    assert report.gates[0].value is None


def test_the_plan_says_what_each_metric_needs(project, capsys):
    code, out, _ = gate(
        capsys, NETWORK.format(most=2), MEAN.format(least=0.1), CLASSES.format(least=0.6), more=("--plan",)
    )
    assert code == 0
    assert "passes when the proved bound is at most 2.0" in out
    assert "passes when the lower limit over 40 examples is at least 0.1" in out
    assert "every class: of the smallest, 20 examples" in out
    assert "passes from 17 of 20 examples (0.8500)\n  fails up to 7 of 20" in out


# ---- GitHub Actions ------------------------------------------------------------------------------------------------


@pytest.fixture
def actions(tmp_path, monkeypatch) -> Path:
    """A job of GitHub Actions with a report of 100 examples, 80 of them certified at radius 0.3, and a hostile name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    report = lipschitz_report([lipschitz_example(i, 1.0 if i < 80 else 0.0) for i in range(100)])
    Path("report.json").write_text(report_to_json(report))
    name = HOSTILE.replace("\\", "\\\\").replace('"', '\\"')
    name = "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in name)
    rows = [("fine", 0.5), (name, 0.95), ("close", 0.8)]
    gates = [
        f'[[gate]]\nname = "{name}"\nmetric = "certified_accuracy"\nradius = 0.3\nmin = {least}\n'
        for name, least in rows
    ]
    Path("certify.toml").write_text("\n".join(gates))
    return tmp_path


def commands(text):
    return [line for line in text.splitlines() if line.lstrip().startswith(("::", "##["))]


def test_gates_that_do_not_pass_are_annotated_once_each(actions, capsys):
    assert main(["gate", "report.json"]) == 1
    out, err = capsys.readouterr()
    assert commands(out) == []
    failed, undecided = commands(err)
    assert failed.startswith("::error title=certify%3A ")
    assert undecided.startswith("::warning title=certify%3A close undecided::80 of 100 examples")
    assert failed.count("::") == 2  # those of the name are escaped
    assert err.splitlines() == [failed, undecided]


def test_with_exit_zero_a_failed_gate_is_a_warning(actions, capsys):
    assert main(["gate", "report.json", "--exit-zero"]) == 0
    assert [line.partition(" ")[0] for line in commands(capsys.readouterr().err)] == ["::warning", "::warning"]


def test_elsewhere_nothing_is_annotated(actions, capsys, monkeypatch):
    monkeypatch.delenv("GITHUB_ACTIONS")
    main(["gate", "report.json"])
    assert capsys.readouterr().err == ""
    assert not Path("summary.md").exists()


def test_the_summary_of_the_step_grows_by_the_markdown_view_until_it_is_full(actions, capsys):
    Path("summary.md").write_text("earlier\n")
    main(["gate", "report.json", "--format", "markdown"])
    shown = capsys.readouterr().out
    assert Path("summary.md").read_text().strip() == f"earlier\n{shown}".strip()
    Path("summary.md").write_bytes(b"x" * (LARGEST_SUMMARY - 100))
    main(["gate", "report.json"])
    assert Path("summary.md").stat().st_size == LARGEST_SUMMARY - 100
    assert "is full" in capsys.readouterr().err


def test_a_summary_that_cannot_be_written_changes_no_verdict(actions, capsys, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(actions / "no" / "where.md"))
    assert main(["gate", "report.json"]) == 1
    assert "cannot be written" in capsys.readouterr().err


# ---- remembered ----------------------------------------------------------------------------------------------------


def test_a_bound_is_searched_once_for_the_same_model_data_and_settings(project, capsys):
    """The second time the report of the first is judged; another weight, another setting, another image is a run."""
    table = MEAN.format(least=0.1).replace("smoothing", "lipschitz")

    def asked(*tables):
        return "nothing has changed" in gate(capsys, *tables, more=("-v", "-o", "report.json"))[2]

    assert not asked(table)
    first = read_report("report.json")
    assert asked(table)
    assert read_report("report.json") == first
    assert Path(".certify_cache/.gitignore").read_text() == "*\n"
    assert not asked(NETWORK.format(most=2))  # another question: it needs no data
    (remembered, _) = Path(".certify_cache").glob("gate-*.json")
    remembered.write_text(remembered.read_text().replace("0", "1", 1))
    with np.load("data.npz") as arrays:
        np.savez("data.npz", x=arrays["x"] // 2, y=arrays["y"])
    assert not asked(table)


SHARE = """
[[gate]]
name = "share"
metric = "certified_accuracy"
kind = "lipschitz"
radius = 0.1
min = 0.9
on = "estimate"
"""


def save_plane(scale: float) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        module[1].weight.copy_(scale * torch.stack([-torch.ones(16), torch.ones(16)]) / 4)
    certify.save(module, "model.safetensors", input_shape=(1, 4, 4), classes=["0", "1"], range=(0, 1))


def test_a_model_replaced_while_it_is_bounded_is_bounded_the_next_time(project, capsys, monkeypatch):
    """Else the report of the old one would have the name of the new one."""
    from certify.cli import lipschitz

    plain = lipschitz.consume_lipschitz

    def replacing(*given):
        save_plane(50.0)
        return plain(*given)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(lipschitz, "consume_lipschitz", replacing)
        assert gate(capsys, NETWORK.format(most=2))[0] == 0
    assert gate(capsys, NETWORK.format(most=2))[0] == 1


def test_a_remembered_report_under_the_name_of_another_question_is_not_used(project, capsys):
    assert gate(capsys, NETWORK.format(most=2))[0] == 0
    (first,) = Path(".certify_cache").glob("gate-*.json")
    save_plane(50.0)
    assert gate(capsys, NETWORK.format(most=2))[0] == 1
    (second,) = set(Path(".certify_cache").glob("gate-*.json")) - {first}
    second.unlink()
    second.symlink_to(first.name)
    assert gate(capsys, NETWORK.format(most=2))[0] == 1


def test_images_behind_a_linked_folder_are_not_taken_for_what_they_were(project, capsys):
    for name, level in (("data/0", 60), ("elsewhere", 200)):
        Path(name).mkdir(parents=True)
        Image.fromarray(np.full((4, 4), level, np.uint8)).save(f"{name}/a.png")
    Path("data/1").symlink_to(Path("elsewhere").resolve())
    assert gate(capsys, SHARE, data='data = "data"')[0] == 0
    Image.fromarray(np.full((4, 4), 60, np.uint8)).save("elsewhere/a.png")
    assert gate(capsys, SHARE, data='data = "data"')[0] == 1


def test_reports_of_both_kinds_go_into_a_folder_one_of_each_name(actions, monkeypatch, capsys):
    monkeypatch.delenv("GITHUB_ACTIONS")
    Path("votes.json").write_text(report_to_json(smoothing_report([1.0] * 20)))
    kinds = [CLEAN.format(kind=kind) for kind in ("lipschitz", "smoothing")]
    Path("certify.toml").write_text("".join(kinds))
    asked = ["gate", "report.json", "votes.json", "-q", "-o", "judged"]
    assert main(asked) == 2
    assert "expected a folder for --output" in capsys.readouterr().err
    Path("judged").mkdir()
    assert main(asked) == 0
    for kind in ("lipschitz", "smoothing"):
        report = read_report(f"judged/{kind}.json")
        assert [row.name for row in report.gates] == [kind]
        assert verify_report(report) == ()
    Path("judged/smoothing.json").write_text("a model of mine")
    assert main(asked) == 2  # before anything is judged
    assert "expected a new file or an earlier report" in capsys.readouterr().err
