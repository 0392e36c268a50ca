"""Where commands run: a device that is not there is refused, and one that is there is used and named."""

from __future__ import annotations

import pytest
import torch

import certify
from certify import runs
from certify.cli.app import main
from tests.pretend_device import KIND, choose_pretend_device, pretend_device

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    certify.save(network(), path, input_shape=(3,), classes=["a", "b"])
    return path


@without_cuda
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_cuda_where_there_is_none_is_a_usage_error(name, model, capsys):
    assert main(["lipschitz", str(model), "--device", name]) == 2
    assert f"expected a CUDA device for {name!r}, got none; use --device cpu" in capsys.readouterr().err


def test_an_unknown_device_is_a_usage_error_in_the_configuration_too(model, tmp_path, capsys):
    assert main(["lipschitz", str(model), "--device", "gpu"]) == 2
    (tmp_path / "certify.toml").write_text('[lipschitz]\ndevice = "tpu"\n')
    assert main(["lipschitz", str(model), "--config", str(tmp_path / "certify.toml")]) == 2
    assert "expected device auto, cpu, cuda or cuda:i, got 'tpu'" in capsys.readouterr().err


def test_a_report_names_the_kind_of_device_that_searched(model, monkeypatch):
    loaded = certify.load(model)
    with pretend_device() as device:
        choose_pretend_device(monkeypatch)
        asked, small = (runs.start_lipschitz(loaded, device=name, falsify="off") for name in ("cuda", "auto"))
        assert device.operations > 0
    monkeypatch.undo()
    alone = runs.start_lipschitz(loaded, device="cpu", falsify="off")
    assert [run.searched_on for run in (asked, small, alone)] == [KIND, "cpu", "cpu"]
    assert asked.analysis.network.upper == pytest.approx(alone.analysis.network.upper, rel=1e-9)
    assert small.analysis.network == alone.analysis.network
    report = asked.report(())
    assert report.tool.device_kind == KIND
    assert not certify.verify(report)


def test_a_search_that_ran_out_of_memory_says_so(model, monkeypatch):
    with pretend_device() as device:
        choose_pretend_device(monkeypatch)
        device.largest = 64
        run = runs.start_lipschitz(certify.load(model), device="cuda")
    assert (run.searched_on, len(run.notes)) == ("cpu", 1)
