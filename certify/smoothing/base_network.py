"""The base network: a function from a batch of inputs to outputs, on one device, in one dtype and plain arithmetic."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from certify.errors import InputError

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
PRODUCTS = {"cpu": ("mkldnn.matmul", "mkldnn.conv"), "cuda": ("cuda.matmul",)}
"""Where `torch.backends` says how float32 products are made, by device; `_plain_arithmetic` sets cuDNN's itself."""


@dataclass(frozen=True, eq=False)
class BaseNetwork:
    """The network that is smoothed; a reading (`certify.smoothing.readings`) checks what it returns."""

    predict: Callable[[Tensor], Tensor]
    device: torch.device
    dtype: torch.dtype

    @contextlib.contextmanager
    def running(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Give the network inside the arithmetic it runs in, without gradients; its outputs are read there too."""
        with torch.no_grad(), _plain_arithmetic(self.device):
            yield self.predict


def base_network(predict: Callable[[Tensor], Tensor], *, device: str | torch.device, dtype: str) -> BaseNetwork:
    """Return the base network of a run, after checking the arithmetic it would run in.

    Raises:
        InputError: If autocast, TF32, products in bfloat16 or flushed subnormals would change the arithmetic.
    """
    where = torch.device(device)
    if torch.is_autocast_enabled(where.type):
        raise InputError("expected autocast off, got it on; choose the arithmetic of the network with --dtype")
    for name in PRODUCTS.get(where.type, ()):
        precision = attrgetter(name)(torch.backends).fp32_precision
        if precision not in ("ieee", "none"):
            raise InputError(
                f"expected float32 products in full precision, got torch.backends.{name}.fp32_precision = {precision!r}"
                " (TF32, or bfloat16 inside); call torch.set_float32_matmul_precision('highest')"
            )
    if not sys.float_info.min / 2.0 > 0.0:
        raise InputError("expected gradual underflow, got flush-to-zero; call torch.set_flush_denormal(False)")
    return BaseNetwork(predict, where, DTYPES[dtype])


def one_core_per_pass(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Run forward passes on a CPU on one core each: several run side by side instead; see `sampler`."""
    return cores_per_pass(device, 1)


@contextlib.contextmanager
def cores_per_pass(device: torch.device, cores: int) -> Iterator[None]:
    """Run what this thread does on a CPU on at most so many cores; PyTorch takes all of them where nothing is said."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(cores)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _plain_arithmetic(device: torch.device) -> Iterator[None]:
    """Run with deterministic cuDNN kernels and without TF32, which cuDNN allows by default.

    PyTorch has an old flag for TF32 and new ones for each kind of operation, and fails where they differ; those that
    are "none" follow a flag of all devices. So all of them are set, and all are put back.
    """
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    kernels = cudnn.enabled, cudnn.benchmark, cudnn.deterministic
    before = _cudnn_precisions()
    cudnn.enabled, cudnn.benchmark, cudnn.deterministic = True, False, True
    _set_cudnn_precisions("ieee", "ieee")
    try:
        yield
    finally:
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = kernels
        _set_cudnn_precisions(*before)


def _cudnn_precisions() -> tuple[str, str]:
    """Return the precision of float32 convolutions and recurrent layers of cuDNN."""
    cudnn: Any = torch.backends.cudnn
    return cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision


def _set_cudnn_precisions(conv: str, rnn: str) -> None:
    cudnn: Any = torch.backends.cudnn
    cudnn.allow_tf32 = conv == rnn == "tf32"  # sets the others too
    cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = conv, rnn
