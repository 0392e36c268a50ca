"""`--noise split` through the command line: run, verify, gate, plan, merge, and what is refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest

from certify.cli.app import main

SAMPLES = Path(__file__).parents[2] / "sample_models"
MODEL = ["--model", str(SAMPLES / "mlp.safetensors")]
RUN = [*MODEL, str(SAMPLES / "data"), "--sigma", "0.05", "--noise", "split", "--limit", "4", "-q"]
GATES = """
[[gate]]
name = "l1"
metric = "certified_accuracy"
norm = "l1"
radius = 0.05
min = 0.5
claim = "list"

[[gate]]
name = "beyond"
metric = "clean_accuracy"
min = 0.5
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configure(noise, more=""):
    text = f'model = "{SAMPLES}/mlp.safetensors"\ndata = "{SAMPLES}/data"\n[smooth]\nsigma = 0.05\nlimit = 4\n{more}\n'
    Path("certify.toml").write_text(f'{text}noise = "{noise}"\n{GATES}')


def report(name):
    return json.loads(Path(name).read_text())


def test_a_run_its_second_start_and_its_parts_say_the_same(folder, capsys):
    assert main(["smooth", *RUN, "-o", "whole.json"]) == 0
    assert "deterministic (splitting)" in capsys.readouterr().out
    whole = report("whole.json")
    assert (whole["settings"]["n"], whole["settings"]["alpha"], whole["tables"]["noise_law"]) == (44, 0.0, "split-255")
    assert main(["verify", "whole.json"]) == 0
    assert main(["smooth", *RUN, "-o", "again.json", "--batch", "3", "--workers", "2"]) == 0
    for number in (1, 2):
        assert main(["smooth", *RUN, "--shard", f"{number}/2", "-o", f"part{number}.json"]) == 0
    assert main(["merge", "part2.json", "part1.json", "-o", "merged.json", "-q"]) == 0
    assert {report(name)["examples"][0]["radius"] for name in ("again.json", "merged.json")} == {
        whole["examples"][0]["radius"]
    }
    assert report("again.json")["digest"] == whole["digest"]
    assert main(["verify", "merged.json"]) == 0
    assert main(["compare", "whole.json", "merged.json", "--radius", "0.05"]) in (0, 4)


def test_an_edited_count_is_refused(folder, capsys):
    assert main(["smooth", *RUN, "-o", "whole.json", "--falsify", "off"]) == 0
    plain = report("whole.json")
    votes = plain["examples"][0]["counts"]["estimation"]
    votes[votes.index(max(votes))] += 1
    Path("edited.json").write_text(json.dumps(plain))
    assert main(["verify", "edited.json"]) == 2
    shown = capsys.readouterr()
    assert "counts that add up to 44" in shown.out + shown.err


def test_a_gate_runs_all_shifts_and_needs_no_alpha(folder, capsys):
    configure("split")
    assert main(["gate", "-o", "gated.json", "--no-progress", "--falsify", "off"]) == 4  # 4 examples show no share
    assert "gate 'beyond': 4 examples cannot pass it, at least 5 are needed" in capsys.readouterr().err
    rows = {row["name"]: row for row in report("gated.json")["gates"]}
    assert rows["l1"]["verdict"] == "passed"
    assert rows["l1"]["lower"] > 0.999  # with alpha, one of the four might be false
    assert not report("gated.json")["settings"]["at"]
    assert main(["gate", "--plan"]) == 0
    assert "passes from 2 of 4 examples" in capsys.readouterr().out


def test_the_plan_is_all_shifts(folder, capsys):
    assert main(["smooth", "--sigma", "0.25", "--noise", "split", "--plan"]) == 0
    assert "all 221 shifts of every example" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags",
    [
        ["--alpha", "0.001"],
        ["--alpha", "0"],
        ["--n", "44"],
        ["--n0", "128"],
        ["--procedure", "planned"],
        ["--procedure", "fixed"],
        ["--price", "1e-5"],
        ["--bound", "two-interval"],
        ["--at", "0.05"],
        ["--scores", "soft"],
        ["--float-noise"],
        ["--sigma", "1e-5"],
    ],
)
def test_what_plays_no_part_is_refused_by_name(folder, capsys, flags):
    assert main(["smooth", *RUN, *flags]) == 2
    message = capsys.readouterr().err
    word = {"--at": "asked radii", "--scores": "hard scores", "--float-noise": "float noise", "--n": " n"}
    assert word.get(flags[0], flags[0].removeprefix("--")) in message
    assert not list(Path().glob("*.sqlite"))


def test_a_file_on_other_noise_gives_way_to_the_flag_and_its_own_contradiction_is_refused(folder, capsys):
    configure("gaussian", "n = 1000\nalpha = 0.01")
    assert main(["smooth", "--noise", "split", "-q", "-o", "r.json", "--falsify", "off"]) == 0
    assert report("r.json")["settings"]["n"] == 44
    configure("split", "alpha = 0.01")
    assert main(["smooth", "-q"]) == 2
    assert "without alpha" in capsys.readouterr().err


def test_data_of_floats_are_refused(folder, capsys):
    np.savez("data.npz", x=np.zeros((2, 1, 8, 8), dtype=np.float32), y=np.zeros(2, dtype=np.int64))
    assert main(["smooth", *MODEL, "data.npz", "--sigma", "0.05", "--noise", "split", "-q"]) == 2
    assert "noise split: expected 8-bit data" in capsys.readouterr().err


def test_a_report_of_noise_is_not_compared_with_one_without(folder, capsys):
    small = ["--n", "64", "--n0", "8", "--procedure", "fixed", "--falsify", "off"]
    assert main(["smooth", *RUN, "-o", "split.json", "--falsify", "off"]) == 0
    uniform = ["uniform" if word == "split" else word for word in RUN]
    assert main(["smooth", *uniform, *small, "-o", "uniform.json"]) == 0
    assert main(["compare", "uniform.json", "split.json"]) == 2
    assert "noise law" in capsys.readouterr().err
