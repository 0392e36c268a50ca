"""The command line at its border: exit codes through `main` itself, what goes to stdout and stderr, what is written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import certify
from certify.cli.app import main
from certify.report import read_report, verify_report

CERTIFY_TOML = """
model = "model.safetensors"
data = "data"

[smooth]
sigma = 0.25
n = 600

[[gate]]
name = "clean"
metric = "clean_accuracy"
kind = "smoothing"
min = 0.5

[[gate]]
name = "bounds"
metric = "certified_accuracy"
kind = "lipschitz"
radius = 0.05
min = 0.5
"""


ALONE = ("--falsify", "off")


def threshold_network() -> nn.Module:
    """Class 1 iff the mean pixel is above 1/2: radii are distances to a plane."""
    layer = nn.Linear(16, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([-torch.ones(16), torch.ones(16)]) / 4)
        layer.bias.copy_(torch.tensor([2.0, -2.0]))
    return nn.Sequential(nn.Flatten(), layer)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    certify.save(
        threshold_network(),
        folder / "model.safetensors",
        input_shape=(1, 4, 4),
        classes=["dark", "light"],
        range=(0, 1),
    )
    generator = np.random.default_rng(0)
    for name, low, high in (("dark", 0, 110), ("light", 145, 256)):
        (folder / "data" / name).mkdir(parents=True)
        for i in range(12):
            pixels = generator.integers(low, high, (4, 4), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "data" / name / f"{i}.png")
    (folder / "certify.toml").write_text(CERTIFY_TOML)
    return folder


@pytest.fixture
def project(sources, tmp_path, monkeypatch) -> Path:
    """A fresh folder with a model, data and a configuration; the working folder."""
    shutil.copytree(sources, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def error_line(err: str) -> str:
    lines = [line for line in err.splitlines() if line.startswith("certify: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


def test_the_two_lines_of_the_interface_work_as_written(project, capsys):
    assert run(capsys, "lipschitz", "model.safetensors")[0] == 0
    code, out, _ = run(capsys, "smooth", "--sigma", "0.25", "data/")
    assert code == 0
    assert "probabilistic" in out


def test_lipschitz_report_holds_true_radii(project, capsys):
    code, out, _ = run(capsys, "lipschitz", "model.safetensors", "data", "--format", "json", "-o", "report.json")
    assert code == 0
    report = json.loads(out)
    assert out == Path("report.json").read_text()
    assert report["summary"]["clean_accuracy"] == 1.0
    for example in report["examples"]:
        pixels = np.asarray(Image.open(Path("data") / example["id"]), dtype=np.float64) / 255
        distance = abs(pixels.mean() - 0.5) * 4  # to the plane mean = 1/2, whose unit normal is ones / 4
        assert 0 < example["radius"] <= distance
        assert example["radius"] >= 0.999 * distance


def test_smoothing_radii_never_exceed_the_distance_to_the_plane(project, capsys):
    code, _, _ = run(capsys, "smooth", "--sigma", "0.25", "data", "--n", "2000", "-o", "report.json", "-q")
    assert code == 0
    report = read_report("report.json")
    assert verify_report(report) == ()
    for example in report.examples:
        pixels = np.asarray(Image.open(Path("data") / example.id), dtype=np.float64) / 255
        assert example.radius <= abs(pixels.mean() - 0.5) * 4


def test_same_run_again_is_reused_and_identical_but_for_execution(project, capsys):
    run(capsys, "smooth", "data", "-o", "first.json", "-q")
    run(capsys, "smooth", "data", "-o", "second.json", "-q", "--batch", "64")
    first, second = (json.loads(Path(name).read_text()) for name in ("first.json", "second.json"))
    for report in (first, second):
        del report["execution"]
    assert first == second


def test_quiet_and_tsv_go_to_stdout_alone(project, capsys):
    code, out, err = run(capsys, "smooth", "data", "-q", "--format", "tsv", "--limit", "3")
    assert code == 0
    assert err == ""
    assert out.splitlines()[0] == "idx\tlabel\tpredict\tradius\tcorrect\ttime"
    assert len(out.splitlines()) == 4


def test_gate_runs_what_is_missing_and_passes(project, capsys):
    code, out, _ = run(capsys, "gate", "-q")
    assert code == 0
    assert out.count("PASSED") == 2


def test_a_gate_without_a_kind_beside_one_of_another_kind_speaks_of_what_the_file_configures(project, capsys):
    Path("certify.toml").write_text(CERTIFY_TOML.replace('kind = "smoothing"\n', ""))
    code, out, _ = run(capsys, "gate", "-q")
    assert code == 0
    lipschitz, smoothing = (part.split("Gates")[1] for part in out.split("smoothing certificates"))
    assert "bounds" in lipschitz
    assert "clean" in smoothing
    assert "bounds" not in smoothing


@pytest.mark.parametrize(("minimum", "count", "code"), [("0.5", 24, 0), ("0.99999", 24, 4), ("0.5", 2, 4)])
def test_gate_verdicts_are_three_way(project, capsys, minimum, count, code):
    Path("certify.toml").write_text(
        f'model = "model.safetensors"\ndata = "data"\n[lipschitz]\nlimit = {count}\nfalsify = "off"\n'
        f'[[gate]]\nname = "g"\nmetric = "certified_accuracy"\nkind = "lipschitz"\nradius = 0.05\nmin = {minimum}\n'
    )
    assert run(capsys, "gate", "-q")[0] == code
    assert run(capsys, "gate", "-q", "--exit-zero")[0] == 0


def test_a_failing_gate_exits_1_and_nothing_else_does(project, capsys):
    Path("certify.toml").write_text(
        'model = "model.safetensors"\ndata = "data"\n[lipschitz]\nfalsify = "off"\n'
        '[[gate]]\nname = "g"\nmetric = "certified_accuracy"\nkind = "lipschitz"\nradius = 9.0\nmin = 0.9\n'
    )
    code, out, _ = run(capsys, "gate", "-q")
    assert code == 1
    assert "FAILED" in out


def test_gate_judges_reports_without_a_model(project, capsys):
    run(capsys, "lipschitz", "model.safetensors", "data", "-o", "l.json", "-q")
    run(capsys, "smooth", "data", "-o", "s.json", "-q")
    Path("model.safetensors").unlink()
    assert run(capsys, "gate", "l.json", "s.json", "-q")[0] == 0
    code, _, err = run(capsys, "gate", "l.json", "-q")
    assert code == 2
    assert "clean" in error_line(err)


def test_an_edited_report_is_refused_by_verify_and_gate(project, capsys):
    run(capsys, "smooth", "data", "-o", "s.json", "-q")
    assert run(capsys, "verify", "s.json")[0] == 0
    edited = json.loads(Path("s.json").read_text())
    edited["examples"][0]["radius"] = 0.9
    Path("s.json").write_text(json.dumps(edited))
    code, _, err = run(capsys, "verify", "s.json")
    assert code == 2
    assert "inconsistent" in err
    assert run(capsys, "gate", "s.json")[0] == 2


def test_report_shows_another_view(project, capsys):
    run(capsys, "smooth", "data", "-o", "s.json", "-q")
    code, out, err = run(capsys, "report", "s.json", "--format", "tsv")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 25


def test_inspect_shows_operations_and_analyses(project, capsys):
    code, out, _ = run(capsys, "inspect", "model.safetensors")
    assert code == 0
    assert "linear" in out
    assert "dark, light" in out
    assert out.count("can treat it") == 3


def test_a_network_without_a_bound_exits_3_with_one_reason(project, capsys):
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 1, batch_first=True)
            self.head = nn.Linear(16, 2)

        def forward(self, x):
            x = x.squeeze(1)
            return self.head(self.attention(x, x, x)[0].flatten(1))

    certify.save(Attention(), "attention.safetensors", input_shape=(1, 4, 4), classes=["dark", "light"])
    assert run(capsys, "lipschitz", "attention.safetensors", "-q")[0] == 3
    everywhere = ("--method", "product", "--format", "json", "-q")
    code, out, _ = run(capsys, "lipschitz", "attention.safetensors", "data", *everywhere)
    report = json.loads(out)
    assert code == 3
    assert report["network"]["upper"] is None
    assert "attention" in report["network"]["reason"]
    assert report["statement"]["text"].startswith("Nothing is certified")
    assert all(example["radius"] == 0 and example["predicted"] is None for example in report["examples"])
    code, out, _ = run(
        capsys, "lipschitz", "attention.safetensors", "data", "--format", "json", "-q", "-o", "near.json"
    )
    near = json.loads(out)
    assert code == 0
    assert near["network"]["upper"] is None
    assert not near["statement"]["text"].startswith("Nothing is certified")
    assert all(0 < example["radius"] <= example["ball"] for example in near["examples"])
    assert run(capsys, "verify", "near.json")[0] == 0
    shown = run(capsys, "inspect", "attention.safetensors")[1]
    assert shown.count("no global bound") == shown.count("around examples: certificates on small balls") == 2


def test_a_file_of_weights_gives_a_table_and_exits_3(project, capsys):
    save_file({"conv.weight": torch.randn(4, 1, 3, 3), "head.weight": torch.randn(2, 64)}, "weights.safetensors")
    code, out, _ = run(capsys, "lipschitz", "weights.safetensors", "--format", "json")
    report = json.loads(out)
    assert code == 3
    assert [row["name"] for row in report["layers"]] == ["conv.weight", "head.weight"]
    assert all(row["upper"] > 0 for row in report["layers"])
    assert "--arch" in report["network"]["reason"]
    assert run(capsys, "smooth", "data", "--model", "weights.safetensors")[0] == 3
    assert run(capsys, "inspect", "weights.safetensors")[0] == 3


def test_export_and_arch_give_the_same_network(project, capsys):
    Path("net.py").write_text(
        "import torch\nfrom torch import nn\n\ndef build():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), {'input_shape': (1, 4, 4)}\n"
    )
    assert run(capsys, "export", "net.py:build", "-o", "built.safetensors")[0] == 0
    code, out, _ = run(capsys, "lipschitz", "built.safetensors", "--format", "json", *ALONE)
    assert code == 0
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    save_file(module.state_dict(), "weights.safetensors")
    build = ("--arch", "net.py:build", "--format", "json")
    code, again, _ = run(capsys, "lipschitz", "weights.safetensors", *build, *ALONE)
    assert code == 0
    assert json.loads(again)["network"] == json.loads(out)["network"]


def test_plan_prints_the_table_and_runs_nothing(project, capsys):
    code, out, _ = run(capsys, "smooth", "--sigma", "0.25", "--plan")
    assert code == 0
    assert "estimation draws" in out
    assert not Path(".certify_cache").exists()


def test_schema_is_json(capsys):
    code, out, _ = run(capsys, "schema")
    assert code == 0
    assert json.loads(out)["$schema"].startswith("https://json-schema.org/")


def test_version(capsys):
    assert run(capsys, "--version")[:2] == (0, f"certify {certify.__version__}\n")


BAD = {
    "no such model": (["lipschitz", "nothing.safetensors"], 2, "nothing.safetensors"),
    "a pickle": (["lipschitz", "model.pt"], 2, "safetensors"),
    "no such data": (["smooth", "nowhere"], 2, "nowhere"),
    "empty folder": (["smooth", "empty"], 2, "empty"),
    "a broken image": (["smooth", "broken"], 2, "0.png"),
    "a foreign class": (["lipschitz", "model.safetensors", "foreign"], 2, "cat"),
    "broken configuration": (["gate", "--config", "broken.toml"], 2, "broken.toml"),
    "unknown key": (["gate", "--config", "unknown.toml"], 2, "modle"),
    "unknown gate key": (["gate", "--config", "gatekey.toml"], 2, "treshold"),
    "sigma zero": (["smooth", "data", "--sigma", "0"], 2, "sigma"),
    "sigma NaN": (["smooth", "data", "--sigma", "nan"], 2, "sigma"),
    "alpha one half": (["smooth", "data", "--alpha", "0.5"], 2, "alpha"),
    "n too small": (["smooth", "data", "--n", "1"], 2, "n"),
    "n0 zero": (["smooth", "data", "--n0", "0"], 2, "n0"),
    "batch zero": (["smooth", "data", "--batch", "0"], 2, "batch"),
    "no such device": (["smooth", "data", "--device", "tpu"], 2, "device"),
    "not a report": (["verify", "certify.toml"], 2, "certify.toml"),
    "output in a missing folder": (["lipschitz", "model.safetensors", "-o", "no/where.json"], 2, "where.json"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line_and_no_output(name, project, capsys):
    arguments, expected, words = BAD[name]
    Path("model.pt").write_bytes(b"\x80\x04not a pickle anybody should load")
    Path("empty").mkdir()
    for folder, label, content in (("broken", "dark", b"\x89PNG\r\n\x1a\nnothing"), ("foreign", "cat", b"")):
        (Path(folder) / label).mkdir(parents=True)
        (Path(folder) / label / "0.png").write_bytes(content)
    Path("broken.toml").write_text("model = ")
    Path("unknown.toml").write_text('modle = "model.safetensors"\n[[gate]]\nname = "a"\n')
    Path("gatekey.toml").write_text('[[gate]]\nname = "a"\nmetric = "clean_accuracy"\nmin = 0.5\ntreshold = 1\n')
    before = sorted(path.name for path in Path().iterdir())
    code, out, err = run(
        capsys, *arguments, *([] if "-o" in arguments or arguments[0] in ("gate", "verify") else ["-o", "out.json"])
    )
    assert code == expected
    assert words in error_line(err)
    assert out == ""
    assert sorted(path.name for path in Path().iterdir() if path.name != ".certify_cache") == before


@pytest.mark.parametrize("arguments", [["smooth", "--nonsense"], ["nonsense"], ["lipschitz", "--norm", "l7"]])
def test_usage_errors_exit_2(arguments, project, capsys):
    assert run(capsys, *arguments)[0] == 2


def test_an_internal_error_exits_70_with_a_traceback(project, capsys, monkeypatch):
    def broken(*_args, **_kwargs):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("certify.cli.lipschitz.run", broken)
    code, _, err = run(capsys, "lipschitz", "model.safetensors")
    assert code == 70
    assert "ZeroDivisionError" in err


def test_what_reads_reports_does_not_import_torch(project, capsys):
    """One process for all of them: whatever one imports is still there at the end."""
    run(capsys, "smooth", "data", "-o", "s.json", "-q")
    Path("certify.toml").write_text('[[gate]]\nname = "clean"\nmetric = "clean_accuracy"\nmin = 0.5\n')
    code = (
        "import sys; from certify.cli.app import main\n"
        "for line in sys.argv[1:]:\n"
        "    code = main(line.split())\n"
        "    found = code or {'torch'} & set(sys.modules)\n"
        "    if found: sys.exit(f'{line}: {found}')"
    )
    package = str(Path(certify.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, "verify s.json", "report s.json", "gate s.json", "schema"],
        capture_output=True,
        check=False,
        env={"PYTHONPATH": package},
    )
    assert done.returncode == 0, done.stderr
