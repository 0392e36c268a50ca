"""A run of a network compiled, or in another memory format, is another run and says so everywhere."""

from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import UNSET
from torch import nn

import certify
from certify.cli.app import main
from certify.errors import InputError
from certify.report import FORMATS, compare_reports, read_report, verify_report
from certify.results import SmoothingSettings
from certify.runs import COMPILED_ROWS, read_dataset, start_smoothing

PLAIN = SmoothingSettings(sigma=0.25, n=300)
COMPILED = SmoothingSettings(sigma=0.25, n=300, compile=True)
WORDS = "float32, compiled by torch.compile"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a model and data."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    certify.save(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), "model.safetensors", input_shape=(4,))
    np.savez("data.npz", x=np.random.default_rng(0).integers(0, 256, (3, 4), dtype=np.uint8), y=np.array([0, 1, 2]))
    return tmp_path


@pytest.fixture
def shapes(monkeypatch):
    """The batch sizes that a stand-in for the compiler saw."""
    seen = []

    def stand_in(module, **options):
        return lambda x: seen.append(len(x)) or module(x)

    monkeypatch.setattr(torch, "compile", stand_in)
    return seen


def smooth(settings, **options):
    return certify.smooth("model.safetensors", "data.npz", settings, workers=1, **options)


def test_a_compiled_run_is_another_run_and_is_named(folder, shapes):
    plain, compiled = smooth(PLAIN), smooth(COMPILED)
    assert len(list(Path(".certify_cache").glob("*.sqlite"))) == 2
    assert WORDS in compiled.statement.arithmetic
    assert "compiled" not in plain.statement.arithmetic
    assert not verify_report(compiled)
    for name in ("terminal", "markdown"):
        assert WORDS in FORMATS[name](compiled)
        assert "compiled" not in FORMATS[name](plain)
    assert set(shapes) == {COMPILED_ROWS}  # the attacks go through the same program
    assert WORDS in FORMATS["terminal"](compare_reports(plain, compiled))


def test_a_finished_compiled_run_is_read_back_without_compiling(folder, shapes):
    first = smooth(COMPILED, falsify="off")
    shapes.clear()
    assert smooth(COMPILED, falsify="off").digest == first.digest
    assert not shapes


@pytest.mark.parametrize(("asked", "rows"), [("auto", COMPILED_ROWS), (32, 32)])
def test_it_is_compiled_for_the_rows_of_a_pass(folder, shapes, asked, rows):
    smooth(COMPILED, batch=asked)
    assert set(shapes) == {rows}
    smooth(COMPILED, batch="auto")
    assert set(shapes) == {rows}  # those of the store


@pytest.mark.parametrize("choice", ["compile", "channels_last"])
def test_a_run_without_the_choice_is_what_it_was_before_there_was_one(choice):
    assert SmoothingSettings(sigma=0.25, n=300, **{choice: False}) == PLAIN
    assert getattr(PLAIN, choice) is UNSET


def test_a_run_in_another_memory_format_is_another_run_and_is_named(folder):
    plain, other = smooth(PLAIN), smooth(SmoothingSettings(sigma=0.25, n=300, channels_last=True))
    assert len(list(Path(".certify_cache").glob("*.sqlite"))) == 2
    assert "float32, channels-last;" in other.statement.arithmetic
    assert not verify_report(other)
    assert "float32, channels-last" in FORMATS["terminal"](compare_reports(plain, other))


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_the_statement_names_the_dtype(folder, dtype):
    report = smooth(SmoothingSettings(sigma=0.25, n=300, dtype=dtype), falsify="off")
    assert f"the network as run in {dtype};" in report.statement.arithmetic


def test_the_compiler_chooses_memory_formats_itself(folder):
    with pytest.raises(InputError, match="--channels-last without --compile"):
        smooth(SmoothingSettings(sigma=0.25, n=300, channels_last=True, compile=True))


def test_nothing_bounds_the_rounding_of_a_compiled_network(folder, shapes):
    settings = SmoothingSettings(sigma=0.25, n=300, compile=True, scores="soft")
    model = certify.load("model.safetensors")
    with start_smoothing(model, read_dataset("data.npz", model), settings) as run:
        assert run.bound is not None
        assert "compiled" in run.bound.reason


@pytest.mark.parametrize("choice", ["compile", "channels_last"])
def test_flag_and_key_ask_for_it(folder, shapes, choice):
    flags = ("smooth", "data.npz", "--sigma", "0.25", "--n", "300", "--no-progress", "--format", "json", "--output")
    assert main([*flags, "flag.json", f"--{choice.replace('_', '-')}"]) == 0
    Path("certify.toml").write_text(f'model = "model.safetensors"\n\n[smooth]\n{choice} = true\n')
    assert main([*flags, "key.json"]) == 0
    found = [read_report(Path(name)) for name in ("flag.json", "key.json")]
    assert found[0].digest == found[1].digest
    assert getattr(found[0].settings, choice) is True


def test_without_a_compiler_the_command_says_what_to_do(folder, monkeypatch, capsys):
    def missing(module, **options):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda module, **options: missing)
    assert main(["smooth", "data.npz", "--sigma", "0.25", "--compile", "--no-progress"]) == 2
    assert "leave --compile out" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the compiler, which differ between versions
def test_a_network_compiled_by_pytorch_is_certified(folder):
    plain, compiled = smooth(PLAIN), smooth(COMPILED)
    assert not verify_report(compiled)
    assert [row.predicted for row in compiled.examples] == [row.predicted for row in plain.examples]
    alike = [abs(a.radius - b.radius) < 0.05 for a, b in zip(plain.examples, compiled.examples, strict=True)]
    assert all(alike)
