"""`--at` and gates that ask: what is printed, stored, re-used and stopped, through `main` itself."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import certify
from certify import runs
from certify.cli import options
from certify.cli.app import main
from certify.report import read_report, verify_report
from certify.results import SmoothingSettings
from certify.smoothing import sampler

GATE = """
model = "model.safetensors"
data = "data.npz"

[smooth]
sigma = 0.25
{more}

[[gate]]
name = "at 0.1"
metric = "certified_accuracy"
kind = "smoothing"
radius = 0.1
min = {least}
claim = "{claim}"
"""
EXAMPLES = 60


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Class 1 iff the mean of 16 pixels is above 1/2; the images lie at many distances from that plane."""
    folder = tmp_path_factory.mktemp("sources")
    layer = nn.Linear(16, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([-torch.ones(16), torch.ones(16)]) / 4)
        layer.bias.copy_(torch.tensor([2.0, -2.0]))
    module = nn.Sequential(nn.Flatten(), layer)
    certify.save(module, folder / "model.safetensors", input_shape=(1, 4, 4), classes=["0", "1"], range=(0, 1))
    generator = np.random.default_rng(0)
    labels = np.arange(EXAMPLES) % 2
    level = 127 + (2 * labels - 1) * generator.integers(0, 100, EXAMPLES)
    pixels = np.clip(level[:, None] + generator.integers(-5, 6, (EXAMPLES, 16)), 0, 255)
    np.savez(folder / "data.npz", x=pixels.reshape(-1, 1, 4, 4).astype(np.uint8), y=labels)
    return folder


@pytest.fixture
def project(sources, tmp_path, monkeypatch) -> Path:
    """A fresh folder with the model and the images; the working folder."""
    shutil.copytree(sources, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def configure(least=0.5, claim="population", more=""):
    Path("certify.toml").write_text(GATE.format(least=least, claim=claim, more=more))


def run(capsys, *arguments):
    capsys.readouterr()
    code = main(list(arguments))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def smooth(capsys, *more):
    code, _, err = run(
        capsys, "smooth", "data.npz", "--sigma", "0.25", "--model", "model.safetensors", "-q", "-o", "s.json", *more
    )
    return code, err


def blocks_in(store):
    total = 0
    for path in Path(store).glob("*.sqlite"):
        with contextlib.closing(sqlite3.connect(path)) as connection:  # left open it may hold a lock
            total += connection.execute("SELECT count(*) FROM block").fetchone()[0]
    return total


def test_asked_radii_are_decided_and_the_report_verifies(project, capsys):
    assert smooth(capsys, "--at", "0.3", "--at", "0.1") == (0, "")
    report = read_report("s.json")
    assert verify_report(report) == ()
    assert (report.settings.at, report.settings.n) == ((0.1, 0.3), 100_000)
    assert {row.radius for row in report.examples} == {0.0, 0.1, 0.3}
    assert report.summary.mean_radius is None
    assert [row.radius for row in report.summary.certified_accuracy] == [0.1, 0.3]
    assert run(capsys, "verify", "s.json")[0] == 0
    for view in ("terminal", "markdown", "csv", "tsv", "junit", "json"):
        code, out, _ = run(capsys, "report", "s.json", "--format", view)
        assert (code, bool(out)) == (0, True)


@pytest.mark.slow
def test_the_library_call_gives_the_same_rows_whatever_runs_side_by_side(project, capsys):
    assert smooth(capsys, "--at", "0.1") == (0, "")
    expected = [(row.counts, row.decisions) for row in read_report("s.json").examples]
    settings = SmoothingSettings(sigma=0.25, at=(0.1,))
    for workers, batch in ((1, 64), (2, 300), (4, 17)):
        found = certify.smooth(
            "model.safetensors", "data.npz", settings, store=f"store {workers}", workers=workers, batch=batch
        )
        assert [(row.counts, row.decisions) for row in found.examples] == expected


def test_smooth_never_stops_early(project, capsys):
    configure(least=0.01)
    assert smooth(capsys, "--at", "0.1") == (0, "")
    assert len(read_report("s.json").examples) == EXAMPLES


@pytest.mark.parametrize(
    ("least", "claim", "code"),
    [(0.3, "population", 0), (0.99, "population", 1), (0.8, "population", 4), (0.8, "list", 0), (0.95, "list", 1)],
)
def test_a_gate_stops_early_with_the_verdict_of_the_whole_run(project, capsys, monkeypatch, least, claim, code):
    monkeypatch.setattr(sampler, "BURST_ROWS", 256)  # or the few draws of this network would all be made at once
    alone = ("--batch", "64", "--workers", "1")
    configure(least, claim)
    assert smooth(capsys, "--at", "0.1", "--store", "whole", *alone) == (0, "")
    whole = run(capsys, "gate", "s.json", "-q")[0]
    assert whole == code
    assert run(capsys, "gate", "-q", "-o", "g.json", "--store", "stopped", *alone)[0] == whole
    report = read_report("g.json")
    assert verify_report(report) == ()
    assert len(report.examples) < EXAMPLES
    assert len(report.examples) + len(report.unsampled) == report.data.count == EXAMPLES
    assert blocks_in("stopped") < blocks_in("whole")
    text = run(capsys, "report", "g.json")[1]
    assert f"of {EXAMPLES} certified" in text
    assert f"/{len(report.examples)}" not in text


def test_the_report_of_a_gate_is_the_same_for_any_workers(project, capsys):
    configure(0.3)
    digests = set()
    for workers, batch in (("1", "32"), ("2", "500"), ("4", "100")):
        options = ("--workers", workers, "--batch", batch, "--store", f"store {workers}")
        assert run(capsys, "gate", "-q", "-o", "g.json", *options)[0] == 0
        digests.add(read_report("g.json").digest)
    assert len(digests) == 1


def test_a_second_gate_draws_nothing(project, capsys, monkeypatch):
    configure(0.3)
    assert run(capsys, "gate", "-q", "-o", "first.json")[0] == 0

    def never(*_):
        raise AssertionError("a draw")

    monkeypatch.setattr("certify.smoothing.sampler.Sampler.push", never)
    (remembered,) = Path(".certify_cache").glob("gate-*.json")
    for _ in ("as remembered", "from the blocks of the store"):
        assert run(capsys, "gate", "-q", "-o", "second.json")[0] == 0
        assert read_report("first.json").digest == read_report("second.json").digest
        remembered.unlink(missing_ok=True)


def names_after(change, capsys):
    """Gate, change something, gate again; return how many reports are remembered then."""
    configure(0.3)
    assert run(capsys, "gate", "-q")[0] == 0
    change()
    assert run(capsys, "gate", "-q", "--exit-zero")[0] == 0
    return len(list(Path(".certify_cache").glob("gate-*.json")))


def brighter_data():
    with np.load("data.npz") as data:
        pixels, labels = data["x"].copy(), data["y"]
    pixels[0, 0, 0, 0] ^= 1
    np.savez("data.npz", x=pixels, y=labels)


def another_model():
    data = Path("model.safetensors").read_bytes()
    Path("model.safetensors").write_bytes(data.replace(b'"1"]', b'"9"]').replace(b'\\"1\\"]', b'\\"9\\"]'))


CHANGES = {
    "nothing": (lambda: None, 1),
    "data": (brighter_data, 2),
    "threshold": (lambda: configure(0.31), 2),
    "claim": (lambda: configure(0.3, "list"), 2),
    "setting": (lambda: configure(0.3, more="seed = 1"), 2),
    "model": (another_model, 2),
}


@pytest.mark.parametrize(("change", "names"), CHANGES.values(), ids=CHANGES)
def test_a_gate_remembers_exactly_what_has_not_changed(project, capsys, change, names):
    assert names_after(change, capsys) == names


@pytest.mark.parametrize(("first", "then", "names"), [("off", "quick", 2), ("off", "off", 1)])
def test_how_hard_certificates_are_attacked_is_part_of_what_is_remembered(project, capsys, first, then, names):
    configure(0.3)
    for level in (first, then):
        assert run(capsys, "gate", "-q", "--falsify", level, "-o", "g.json")[0] == 0
        assert read_report("g.json").falsifier.level == level
    assert len(list(Path(".certify_cache").glob("gate-*.json"))) == names


def test_a_run_under_another_seed_is_not_overlooked(project, capsys):
    configure(0.3)
    assert run(capsys, "gate", "-q", "-o", "g.json")[0] == 0
    assert read_report("g.json").execution.earlier_seeds == ()
    assert smooth(capsys, "--at", "0.1", "--seed", "7") == (0, "")
    assert run(capsys, "gate", "-q", "-o", "g.json")[0] == 0
    assert read_report("g.json").execution.earlier_seeds == (7,)


def test_a_gate_that_has_asked_keeps_to_its_question(project, capsys):
    """A measurement made afterwards, on the same draws, is no second attempt; one that was there before is used."""
    configure(0.3, more="n = 512")
    assert smooth(capsys, "--store", "first") == (0, "")
    assert run(capsys, "gate", "-q", "--store", "first", "-o", "g.json")[0] == 0
    assert not read_report("g.json").settings.at
    assert run(capsys, "gate", "-q", "--store", "second", "-o", "g.json")[0] == 0
    assert smooth(capsys, "--store", "second") == (0, "")
    drawn = blocks_in("second")
    assert run(capsys, "gate", "-q", "--store", "second", "-o", "g.json")[0] == 0
    report = read_report("g.json")
    assert (report.settings.at, blocks_in("second")) == ((0.1,), drawn)
    assert report.execution.earlier_runs == ("at none",)


def test_a_measurement_after_a_test_on_the_same_draws_is_told(project, capsys):
    """What ends undecided, and is then measured with more of the same draws, has spent two alphas."""
    assert smooth(capsys, "--at", "0.1", "--n", "256") == (0, "")
    assert not read_report("s.json").execution.earlier_runs
    assert smooth(capsys, "--n", "512") == (0, "")
    assert read_report("s.json").execution.earlier_runs == ("at 0.1, n 256",)
    assert smooth(capsys, "--n", "1024") == (0, "")
    assert read_report("s.json").execution.earlier_runs == ("at 0.1, n 256", "n 512")
    assert "voids alpha" in run(capsys, "report", "s.json")[1]


@pytest.mark.parametrize(
    "damage", [lambda text: text[:-20], lambda text: text.replace('"certified"', '"undecided"', 1)]
)
def test_a_damaged_memory_is_not_used(project, capsys, damage):
    configure(0.3)
    assert run(capsys, "gate", "-q", "-o", "g.json")[0] == 0
    digest = read_report("g.json").digest
    (remembered,) = Path(".certify_cache").glob("gate-*.json")
    remembered.write_text(damage(remembered.read_text()))
    assert run(capsys, "gate", "-q", "-o", "g.json")[0] == 0
    assert read_report("g.json").digest == digest
    assert verify_report(read_report("g.json")) == ()


def test_an_unchanged_gate_needs_no_torch(project, capsys):
    configure(0.3)
    assert run(capsys, "gate", "-q", "-o", "first.json")[0] == 0
    program = (
        "import sys; from certify.cli.app import main; code = main(['gate', '-q', '-o', 'second.json']);"
        "sys.exit(70 if 'torch' in sys.modules else code)"
    )
    package = str(Path(certify.__file__).parents[1])
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, env={**os.environ, "PYTHONPATH": package}, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert Path("first.json").read_bytes() == Path("second.json").read_bytes()


def test_the_store_folder_has_one_name():
    assert options.STORE_FOLDER == runs.STORE_FOLDER


def test_a_complete_run_of_the_configured_settings_is_re_used(project, capsys, monkeypatch):
    configure(0.3, more="n = 1000")
    assert run(capsys, "smooth", "-q", "-o", "s.json")[0] == 0

    def never(*_):
        raise AssertionError("a draw")

    monkeypatch.setattr("certify.smoothing.sampler.Sampler.push", never)
    assert run(capsys, "gate", "-q", "-o", "g.json")[0] == 0
    report = read_report("g.json")
    assert report.settings == read_report("s.json").settings
    assert report.examples[0].procedure == "planned"
    assert len(report.examples) == EXAMPLES


def test_a_report_is_not_judged_at_a_radius_it_was_not_asked(project, capsys):
    configure(0.3)
    assert smooth(capsys, "--at", "0.2") == (0, "")
    code, _, err = run(capsys, "gate", "s.json", "-q")
    assert (code, "--at 0.1" in err) == (2, True)


def test_a_gate_in_another_norm_asks_for_the_radius_that_holds_its_ball(project, capsys):
    configure(0.3)
    text = Path("certify.toml").read_text()
    Path("certify.toml").write_text(text.replace("radius = 0.1", 'radius = 0.0125\nnorm = "linf"'))
    assert run(capsys, "gate", "-q", "-o", "g.json")[0] == 0
    report = read_report("g.json")
    size = report.model.input.size
    assert 0.0125 * math.sqrt(size) <= report.settings.at[0] < 0.0125 * math.sqrt(size) * (1 + 1e-15)
    assert (report.gates[0].norm, report.gates[0].radius) == ("linf", 0.0125)
    assert "converted from l2" in report.gates[0].reason
    assert verify_report(report) == ()
    text = Path("certify.toml").read_text()
    Path("certify.toml").write_text(text.replace("radius = 0.0125", "radius = 1000.0"))
    code, _, err = run(capsys, "gate", "-q")
    assert (code, "--at" in err) == (2, True)


def test_plans_print_and_run_nothing(project, capsys):
    configure(0.5)
    code, out, _ = run(capsys, "gate", "--plan")
    assert code == 0
    assert "passes from 37 of 60" in out
    assert "fails up to 23 of 60" in out
    code, out, _ = run(capsys, "smooth", "--sigma", "0.25", "--at", "0.25", "--n", "4096", "--plan")
    assert code == 0
    assert "     4096             3538          3352" in out
    assert not Path(".certify_cache").exists()


def test_a_gate_out_of_reach_is_warned_of_at_once(project, capsys):
    configure(0.99)
    code, _, err = run(capsys, "gate", "--no-progress")
    assert code in (1, 4)
    assert "60 examples cannot pass it, at least 299 are needed" in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--at", "0.1", "--procedure", "fixed"), "without --procedure"),
        (("--at", "0.1", "--price", "0.001"), "without --price"),
        (("--at", "0"), "above 0"),
        (("--at", "nan"), "above 0"),
        (("--at", "5"), "8 sigma"),
        (("--at", "0.5", "--n", "100"), "--n 301 or more"),
    ],
)
def test_questions_without_an_answer_are_refused(project, capsys, flags, words):
    code, err = smooth(capsys, *flags)
    assert (code, words in err) == (2, True)


def test_radii_can_be_asked_in_the_configuration(project, capsys):
    configure(0.3, more="at = [0.3, 0.1]")
    assert run(capsys, "smooth", "-q", "-o", "s.json")[0] == 0
    assert read_report("s.json").settings.at == (0.1, 0.3)
    assert run(capsys, "gate", "-q", "-o", "g.json")[0] == 0
    assert read_report("g.json").settings.at == (0.1, 0.3)  # the complete run, re-used


def test_progress_says_draws_decided_interval_and_verdicts(project, capsys, monkeypatch):
    monkeypatch.setattr("certify.smoothing.loop.PROGRESS_SECONDS", -1.0)
    monkeypatch.setattr("certify.cli.progress.SECONDS_BETWEEN_LINES", -1.0)
    configure(0.5)
    _, _, err = run(capsys, "gate", "--workers", "1", "--batch", "64")
    lines = [line for line in err.splitlines() if "gates open" in line and "at 0.1:" in line]
    assert lines
    assert all(" decided, " in line and " draws, " in line and " left" in line for line in lines)


def test_an_edited_verdict_is_refused(project, capsys):
    assert smooth(capsys, "--at", "0.1") == (0, "")
    plain = json.loads(Path("s.json").read_text())
    given_up = next(row for row in plain["examples"] if row["decisions"][0]["verdict"] != "certified")
    given_up["decisions"][0]["verdict"] = "certified"
    Path("s.json").write_text(json.dumps(plain, indent=1))
    assert run(capsys, "verify", "s.json")[0] == 2


def test_the_plan_prints_the_tables_that_the_run_uses(project, capsys):
    configure(0.3)
    flags = ("--sigma", "0.25", "--at", "0.1", "--n", "3000", "--limit", "4")
    code, out, _ = run(capsys, "smooth", *flags, "--plan")
    assert (code, "after" in out and "for the rounding of the noise" in out) == (0, True)
    assert run(capsys, "smooth", *flags, "-q", "-o", "s.json")[0] == 0
    (table,) = read_report("s.json").tables.sequential
    assert f"sha256 {table.sha256}" in out
    Path("certify.toml").unlink()
    code, out, _ = run(capsys, "smooth", *flags, "--plan")
    assert (code, "model and data are not known" in out) == (0, True)
    assert f"sha256 {table.sha256}" not in out
    code, out, _ = run(capsys, "smooth", "data.npz", *flags, "--plan")
    assert f"sha256 {table.sha256}" in out


DROP = """
[[gate]]
name = "no regression"
baseline = "main.json"
radius = 0.1
max_drop = 0.4
kind = "smoothing"
"""


def gate_against_baseline(capsys, *flags):
    configure(0.3)
    assert run(capsys, "smooth", *flags, "--n", "3000", "-q", "-o", "main.json")[0] == 0
    configure(0.3, more="n = 3000")
    Path("certify.toml").write_text(Path("certify.toml").read_text() + DROP)
    code, _, err = run(capsys, "gate", "-v", "-o", "g.json")
    return code, err, read_report("g.json")


def test_a_gate_is_settled_below_its_baseline_and_remembers_which_baseline(project, capsys):
    code, _, report = gate_against_baseline(capsys, "--at", "0.1")
    assert (code, [row.verdict for row in report.gates]) == (0, ["passed", "passed"])
    assert report.settings.at == (0.1,)
    assert 0 < len(report.unsampled) < EXAMPLES
    assert verify_report(report) == ()
    assert "of them) 0 lost and 0 won" in report.gates[1].reason
    assert "nothing has changed" in run(capsys, "gate", "-v")[2]
    assert run(capsys, "smooth", "--at", "0.1", "--n", "3000", "--seed", "5", "-q", "-o", "main.json")[0] == 0
    assert "nothing has changed" not in run(capsys, "gate", "-v")[2]


def test_a_gate_measures_radii_where_its_baseline_did(project, capsys):
    code, err, report = gate_against_baseline(capsys)
    assert (code, report.settings.at, "measuring radii, as a gate needs them" in err) == (0, (), True)
    assert (len(report.examples), verify_report(report)) == (EXAMPLES, ())
    assert report.gates[1].value == 0.0


@pytest.mark.parametrize("flags", [("--at", "0.1"), ()])
def test_a_baseline_of_other_data_is_refused_before_anything_is_drawn(project, capsys, monkeypatch, flags):
    configure(0.3)
    assert run(capsys, "smooth", *flags, "--limit", "9", "-q", "-o", "main.json")[0] == 0
    configure(0.3)
    Path("certify.toml").write_text(Path("certify.toml").read_text() + DROP)

    def never(*_):
        raise AssertionError("a draw")

    monkeypatch.setattr("certify.smoothing.sampler.Sampler.push", never)
    code, _, err = run(capsys, "gate")
    assert (code, "the same examples in both reports, got 51 that only the new one has" in err) == (2, True)
    code, out, _ = run(capsys, "gate", "--plan")
    assert (code, "passes when at most" in out) == (0, True)
