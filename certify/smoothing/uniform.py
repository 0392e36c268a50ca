"""The law ``uniform``: float64 uniform noise on a cube, added in float64, then cast to the dtype of the network.

As for ``gaussian``, fl(x + fl(noise)) is not a function of x + noise, so the law is labelled *not float-sound*: its
certificates hold for real arithmetic.
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
from certify.smoothing.noise import NoisyRows, RawNoise, fill_by_rows, fingerprint, moved_values
from certify.stats.uniform import half_width


@dataclass(frozen=True)
class UniformLaw:
    """Noise uniform on [-w, w] in every coordinate, ``sigma`` its standard deviation; see `NoiseLaw`.

    Example:
        >>> 0.4330127 < UniformLaw(0.25).scale < 0.4330128
        True
    """

    name: ClassVar[str] = "uniform"
    float_sound: ClassVar[bool] = False
    levels: ClassVar[int] = 0
    row_dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float64)
    raw: ClassVar[RawNoise] = "integers"

    sigma: float

    @property
    def scale(self) -> float:
        """The half-width w = sigma sqrt 3, rounded down."""
        return half_width(self.sigma)

    @property
    def words(self) -> str:
        """The law as the report describes it."""
        return f"float64 uniform noise of half-width {self.scale!r} added in float64 (not float-sound)"

    def draw(self, request: BlockRequest, bits: np.random.Philox) -> NoisyRows:
        """Return x + w (2u - 1) for `BLOCK_DRAWS` vectors u of uniform numbers in [0, 1), in float64."""
        uniform = np.random.Generator(bits).random((BLOCK_DRAWS, *request.example.stored.shape))
        mark = fingerprint(uniform)
        uniform *= 2.0
        uniform -= 1.0  # exact: u is a multiple of 2^-53
        uniform *= self.scale
        uniform += request.example.values()
        return NoisyRows(uniform, mark)

    def fill(self, request: BlockRequest, key: NDArray[np.uint64], inputs: Tensor) -> str:
        """Write the inputs of a block, and return its fingerprint."""
        return fill_by_rows(self, request, key, inputs)

    def on_device(self, device: torch.device) -> Callable[[Tensor, Sequence[BlockRequest]], Tensor]:
        """Return u, examples -> x + w (2u - 1), of the top 53 bits of integers, in float64."""

        def rows(raw: Tensor, requests: Sequence[BlockRequest]) -> Tensor:
            uniform = (raw >> 10).to(torch.float64).mul_(2.0**-53)
            centred = uniform.mul_(2.0).sub_(1.0).mul_(self.scale)
            return centred.add_(moved_values(requests, device))

        return rows

    def inputs(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the rows rounded once to ``dtype``."""
        return rows.to(dtype)
