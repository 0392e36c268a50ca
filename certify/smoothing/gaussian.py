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
from torch import Tensor

from certify.examples import Example
from certify.smoothing.addresses import BLOCK_DRAWS
from certify.smoothing.noise import NoisyRows, RawNoise, fingerprint, moved


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

    def draw(self, example: Example, bits: np.random.Philox) -> NoisyRows:
        """Return x + sigma g for `BLOCK_DRAWS` standard normal vectors g, in float64."""
        normal = np.random.Generator(bits).standard_normal((BLOCK_DRAWS, *example.stored.shape))
        mark = fingerprint(normal)
        normal *= self.sigma
        normal += example.values()
        return NoisyRows(normal, mark)

    def on_device(self, device: torch.device) -> Callable[[Tensor, Sequence[Example]], Tensor]:
        """Return g, examples -> x + sigma g, in float64."""
        return lambda raw, examples: raw.mul_(self.sigma).add_(moved([one.values() for one in examples], device))

    def inputs(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the rows rounded once to ``dtype``."""
        return rows.to(dtype)
