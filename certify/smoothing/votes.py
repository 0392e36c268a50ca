"""Votes: one label per output row, and how they are evaluated.

A *vote* is the index of the largest logit, the lowest one at a tie, and ``classes`` (one more than the last class) for
a row with any logit that is not finite: an *invalid* output. An invalid output counts as a draw, never for the selected
class, and competes as a runner-up. Plain ``argmax`` would do neither: it calls a row of NaN class 0, and leaves open
which of two equal logits wins.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter

import torch
from torch import Tensor

from certify.errors import InputError

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
PRODUCTS = {"cpu": ("mkldnn.matmul", "mkldnn.conv"), "cuda": ("cuda.matmul",)}
"""Where `torch.backends` says how float32 products are made, by device; `_plain_arithmetic` sets cuDNN's itself."""


def row_votes(logits: Tensor) -> Tensor:
    """Return the vote of every row of ``logits`` ``[B, K]``, as int64 ``[B]`` with values 0..K.

    Example:
        >>> row_votes(torch.tensor([[0.0, 2.0, 2.0], [torch.nan, 1.0, 0.0], [-torch.inf, 1.0, 0.0]])).tolist()
        [1, 3, 3]
    """
    classes = logits.shape[1]
    largest = logits.amax(dim=1, keepdim=True)
    indices = torch.arange(classes, device=logits.device)
    lowest = torch.where(logits == largest, indices, classes).amin(dim=1)
    return torch.where(torch.isfinite(logits).all(dim=1), lowest, classes)


@dataclass(frozen=True, eq=False)
class BaseClassifier:
    """The network as a function from a batch of inputs to votes, on one device and in one dtype."""

    predict: Callable[[Tensor], Tensor]
    classes: int
    device: torch.device
    dtype: torch.dtype

    def votes(self, inputs: Tensor) -> Tensor:
        """Return the votes ``[B]`` of inputs ``[B, *input_shape]``.

        Raises:
            InputError: If the network does not give one floating-point row of ``classes`` logits per input.
        """
        with torch.no_grad(), _plain_arithmetic(self.device):
            logits = self.predict(inputs)
            self._check(logits, len(inputs))
            return row_votes(logits)

    def _check(self, logits: object, batch: int) -> None:
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            got = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(f"expected the network to return one tensor of floating-point logits, got {got}")
        if tuple(logits.shape) != (batch, self.classes):
            raise InputError(
                f"expected logits of shape {(batch, self.classes)} (one row per input, one column per class), "
                f"got {tuple(logits.shape)}; make the class names match the network"
            )


def base_classifier(
    predict: Callable[[Tensor], Tensor], *, classes: int, device: str | torch.device, dtype: str
) -> BaseClassifier:
    """Return the base classifier of a run, after checking the arithmetic it would run in.

    Raises:
        InputError: If there are fewer than two classes, or autocast, TF32, products in bfloat16 or flushed subnormals
            would change the arithmetic.
    """
    where = torch.device(device)
    if not classes >= 2:
        raise InputError(f"expected at least two classes, got {classes}; give a binary network two logits")
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
    return BaseClassifier(predict, classes, where, DTYPES[dtype])


@contextlib.contextmanager
def one_core_per_pass(device: torch.device) -> Iterator[None]:
    """Run forward passes on a CPU on one core each: several run side by side instead; see `sampler`."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _plain_arithmetic(device: torch.device) -> Iterator[None]:
    """Run with deterministic cuDNN kernels and without TF32, which cuDNN allows by default."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
