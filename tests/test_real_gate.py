"""A gate on networks and images made by others: the verdict of the full run, at a small part of its draws.

Where the folder is absent these tests skip. The figure to beat: "certified accuracy >= 0.5 at l2 0.25, sigma 0.25" on
200 images with at least 20 times fewer draws than 100,000 an image.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
from pathlib import Path

import pytest
from safetensors.torch import load_file

import certify
from certify.cli.app import main
from certify.report import read_report, verify_report

REAL = Path(os.environ.get("CERTIFY_REAL", Path(__file__).parents[2] / "shared" / "real"))
NAMES = ("lipsdp_mnist_50", "abc_mnist_conv_small_nat", "kw_mnist_linf01", "lirpa_mnist_fc_3layer", "mmr_univ_mnist")
IMAGES, FIXED = 200, 100_000
CONFIGURATION = """
model = "model.safetensors"
data = "{data}"

[smooth]
sigma = 0.25
limit = 200

[[gate]]
name = "half at 0.25"
metric = "certified_accuracy"
kind = "smoothing"
radius = 0.25
min = 0.5
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (REAL / "models").is_dir(), reason=f"no real networks at {REAL}"),
]


@pytest.fixture(params=NAMES)
def project(request, tmp_path, monkeypatch) -> str:
    folder = REAL / "models" / request.param
    meta = json.loads((folder / "meta.json").read_text())
    spec = importlib.util.spec_from_file_location(f"gated_{request.param}", folder / "arch.py")
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    module = code.build()
    module.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    monkeypatch.chdir(tmp_path)
    certify.save(
        module, "model.safetensors", input_shape=meta["input_shape"], mean=meta["mean"], std=meta["std"], range=(0, 1)
    )
    Path("certify.toml").write_text(CONFIGURATION.format(data=REAL / "data/mnist/t10k-images-idx3-ubyte.gz"))
    return request.param


def draws_in(store: str) -> int:
    """The draws that were evaluated, counted or not."""
    (path,) = Path(store).glob("*.sqlite")
    with sqlite3.connect(path) as connection:
        return 128 * connection.execute("SELECT count(*) FROM block").fetchone()[0]


def test_the_gate_takes_a_twentieth_of_the_draws_and_gives_the_verdict_of_the_full_run(project, capsys):
    code = main(["gate", "-q", "-o", "gate.json", "--store", "gate"])
    gated = read_report("gate.json")
    assert verify_report(gated) == ()
    assert main(["smooth", "--at", "0.25", "-q", "-o", "whole.json", "--store", "whole"]) == 0
    whole = read_report("whole.json")
    assert len(whole.examples) == IMAGES
    factors = [IMAGES * FIXED / draws_in(store) for store in ("gate", "whole")]
    with capsys.disabled():
        print(f"\n{project}: {gated.gates[0].verdict} after {len(gated.examples)} images; fewer draws than fixed: "
              f"{factors[0]:.0f}x, without stopping {factors[1]:.0f}x")  # fmt: skip
    assert main(["gate", "whole.json", "-q"]) == code
    assert code in (0, 1)
    assert factors[0] >= 20


def test_the_full_fixed_run_has_the_same_verdict(tmp_path, monkeypatch, project):
    """Fixed draws, Cohen's bound, a tenth of the 100,000: enough for a verdict that is not near its threshold."""
    asked = main(["gate", "-q", "--store", "gate"])
    arguments = [
        "smooth",
        "--procedure",
        "fixed",
        "--bound",
        "clopper-pearson",
        "--n",
        "10000",
        "-q",
        "-o",
        "full.json",
    ]
    assert main(arguments) == 0
    assert main(["gate", "full.json", "-q"]) == asked
