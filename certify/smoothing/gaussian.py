"""The law ``gaussian``: float64 normal noise, added in float64, then cast to the dtype of the network.

fl(x + fl(noise)) is not a function of x + noise: which noisy inputs can occur reveals x, and a crafted network can
vote by that (V. Voracek, M. Hein, *Sound randomized smoothing in floating-point arithmetics*, ICLR 2023,
arXiv:2207.07209). So this law is labelled *not float-sound*: its certificates hold for real arithmetic. Float64 noise
keeps the defect small and reaches 8.5 sigma, where float32 generators stop below 5.8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest
from certify.smoothing.kernels import kernels
from certify.smoothing.noise import FINGERPRINT_WORDS, NoisyRows, RawNoise, fill_by_rows, fingerprint, moved_values


@dataclass(frozen=True)
class GaussianLaw:
    """Normal noise of standard deviation ``sigma`` in every coordinate; see `certify.smoothing.noise.NoiseLaw`."""

    name: ClassVar[str] = "gaussian"
    float_sound: ClassVar[bool] = False
    words: ClassVar[str] = "float64 Gaussian noise added in float64 (not float-sound)"
    levels: ClassVar[int] = 0
    row_dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float64)
    raw: ClassVar[RawNoise] = "normals"

    sigma: float

    @property
    def scale(self) -> float:
        """The standard deviation."""
        return self.sigma

    def draw(self, request: BlockRequest, bits: np.random.Philox) -> NoisyRows:
        """Return x + sigma g for `BLOCK_DRAWS` standard normal vectors g, in float64."""
        normal = np.random.Generator(bits).standard_normal((BLOCK_DRAWS, *request.example.stored.shape))
        mark = fingerprint(normal)
        normal *= self.sigma
        normal += request.example.values()
        return NoisyRows(normal, mark)

    def fill(self, request: BlockRequest, key: NDArray[np.uint64], inputs: Tensor) -> str:
        """Write the inputs of a block, and return its fingerprint."""
        compiled = kernels()
        if compiled is None or inputs.dtype not in (torch.float32, torch.float64):
            return fill_by_rows(self, request, key, inputs)
        marks = min(FINGERPRINT_WORDS, inputs.numel())
        return fingerprint(compiled.normal_inputs(key, self.sigma, request.example.values(), inputs, marks))

    def on_device(self, device: torch.device) -> Callable[[Tensor, Sequence[BlockRequest]], Tensor]:
        """Return g, examples -> x + sigma g, in float64."""
        return lambda raw, requests: raw.mul_(self.sigma).add_(moved_values(requests, device))

    def inputs(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the rows rounded once to ``dtype``."""
        return rows.to(dtype)
