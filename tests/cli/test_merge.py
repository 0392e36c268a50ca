"""`certify smooth --shard i/N` and `certify merge` through `main`: the same votes as the whole run."""

import json
from pathlib import Path

import numpy as np
import pytest

from certify.cli.app import main
from certify.results import report_to_json
from tests.report.sample_reports import smoothing_clean

SAMPLES = Path(__file__).parents[2] / "sample_models"
RUN = ["--model", str(SAMPLES / "mlp.safetensors"), str(SAMPLES / "data"), "--sigma", "0.25", "--limit", "4"]
RUN += ["--n", "64", "--n0", "8", "--procedure", "fixed", "--falsify", "off", "-q"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_shards_merge_to_the_whole_run(folder, capsys):
    for number in (1, 2):
        assert main(["smooth", *RUN, "--shard", f"{number}/2", "-o", f"part{number}.json"]) == 0
    assert main(["smooth", *RUN, "-o", "whole.json"]) == 0
    assert main(["merge", "part2.json", "part1.json", "-o", "merged.json", "-q"]) == 0
    merged, whole = (json.loads(Path(name).read_text()) for name in ("merged.json", "whole.json"))
    assert merged["digest"] == whole["digest"]
    assert main(["verify", "merged.json"]) == 0
    capsys.readouterr()
    assert main(["merge", "part1.json"]) == 2
    assert "none numbered 2" in capsys.readouterr().err


def test_shards_of_data_that_changed_between_them_are_refused(folder, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 1, 8, 8), dtype=np.uint8)
    for number in (1, 2):
        np.savez("data.npz", x=pixels + np.uint8(number), y=np.arange(4))
        run = [*RUN[:2], "data.npz", *RUN[3:]]
        assert main(["smooth", *run, "--shard", f"{number}/2", "-o", f"part{number}.json"]) == 0
    assert main(["merge", "part1.json", "part2.json", "-o", "merged.json"]) == 2
    assert "one selection of examples" in capsys.readouterr().err
    assert not Path("merged.json").exists()


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1/5", "1", "a/b", "1/2/3", "-1/2"])
def test_what_is_no_shard_is_refused(folder, capsys, shard):
    assert main(["smooth", *RUN, f"--shard={shard}"]) == 2
    assert "i/N" in capsys.readouterr().err


def test_soft_scores_are_chosen_on_a_whole_run(folder, capsys):
    assert main(["smooth", *RUN, "--shard", "1/2", "--scores", "soft"]) == 2
    assert "without --scores soft" in capsys.readouterr().err


def test_an_edited_part_is_refused(folder, capsys):
    plain = json.loads(report_to_json(smoothing_clean()))
    plain["examples"][0]["radius"] = 9.0
    Path("part.json").write_text(json.dumps(plain, indent=1))
    assert main(["merge", "part.json"]) == 2
    assert "inconsistent" in capsys.readouterr().err
