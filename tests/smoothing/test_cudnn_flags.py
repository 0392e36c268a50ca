"""Around every forward pass on CUDA cuDNN is deterministic and without TF32, however its flags were set before."""

from __future__ import annotations

import pytest
import torch

from certify.smoothing.base_network import base_network

cudnn = torch.backends.cudnn


def settings() -> list[object]:
    try:
        old = cudnn.allow_tf32
    except RuntimeError:
        old = "flags that differ"
    return [cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, old, cudnn.deterministic, cudnn.benchmark]


def everywhere(precision: str) -> None:
    """As a program that follows the advice to set one flag for all."""
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "none"
    torch.backends.fp32_precision = precision


SETTINGS = {
    "untouched": lambda: None,
    "old flag off": lambda: setattr(cudnn, "allow_tf32", False),
    "old flag on": lambda: setattr(cudnn, "allow_tf32", True),
    "new flag of convolutions": lambda: setattr(cudnn.conv, "fp32_precision", "ieee"),
    "new flag of all devices": lambda: everywhere("tf32"),
    "full precision everywhere": lambda: everywhere("ieee"),
    "fastest kernels": lambda: setattr(cudnn, "benchmark", True),
}


@pytest.fixture
def flags_restored():
    yield
    torch.backends.fp32_precision = "none"
    cudnn.allow_tf32, cudnn.benchmark = True, False


@pytest.mark.parametrize("change", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.usefixtures("flags_restored")
def test_passes_are_plain_and_leave_the_flags_as_they_were(change):
    network = base_network(lambda x: x, device="cuda", dtype="float32")
    change()
    before = settings()
    with network.running():
        assert settings() == ["ieee", "ieee", False, True, False]
    assert settings()[:2] == before[:2]
    assert settings()[3:] == before[3:]
