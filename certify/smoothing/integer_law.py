"""Integer noise on 8-bit pixels, whatever its law: x + Z, seen by the network as (x + Z) / 255.

x holds integers 0..255, and Z is an integer vector: the sum is exact, and z = x + Z is exact in float32 below 2^24. So
the votes are those of a function of the integer vector z, the division by 255 and all rounding inside the network
included: no floating-point step separates the theorem of a law from the program. z is not clipped to 0..255; a network
may clip inside itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certify.errors import InputError
from certify.examples import Example
from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest
from certify.smoothing.kernels import kernels
from certify.smoothing.noise import FINGERPRINT_WORDS, NoisyRows, RawNoise, fill_by_rows, fingerprint, moved
from certify.smoothing.two_level_table import IntegerSampler


class Sampler(Protocol):
    """What draws Z: for `IntegerLaw` from one table, or from one for each group of coordinates."""

    @property
    def table(self) -> NDArray[Any]:
        """The first level, whose dtype x + Z fits in."""

    @property
    def levels(self) -> int:
        """The most thresholds of a coordinate."""

    def draw(self, bits: np.random.Philox, count: int) -> tuple[NDArray[Any], NDArray[np.uint64]]:
        """Return ``count`` independent Z, and the raw words of their top bits."""
        ...

    def on_device(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return the function from uniform integers ``[..., *input_shape]`` on a device to Z."""
        ...


@dataclass(frozen=True, eq=False)
class IntegerLaw:
    """One law of integer noise; see `certify.smoothing.noise.NoiseLaw`. ``scale`` is what radii are proportional to."""

    raw: ClassVar[RawNoise] = "integers"

    name: str
    words: str
    scale: float
    sampler: Sampler
    float_sound: bool = True

    @property
    def levels(self) -> int:
        """The number of thresholds, 2m: a bound of the distance of one drawn coordinate to its law, in 2^-63."""
        return self.sampler.levels

    @property
    def row_dtype(self) -> np.dtype[Any]:
        """The integers that x + Z fits in."""
        return self.sampler.table.dtype

    def draw(self, request: BlockRequest, bits: np.random.Philox) -> NoisyRows:
        """Return x + Z for `BLOCK_DRAWS` draws, as integers.

        Raises:
            InputError: If the example does not hold 8-bit pixels.
        """
        example = self._checked(request)
        values, words = self.sampler.draw(bits, BLOCK_DRAWS * math.prod(example.stored.shape))
        rows = values.reshape(BLOCK_DRAWS, *request.example.stored.shape)
        rows += example.stored
        return NoisyRows(rows, fingerprint(words))

    def fill(self, request: BlockRequest, key: NDArray[np.uint64], inputs: Tensor) -> str:
        """Write the inputs of a block, and return its fingerprint; compiled for float32 and one table of int16.

        Raises:
            InputError: If the example does not hold 8-bit pixels.
        """
        compiled, sampler = kernels(), self.sampler
        narrow = sampler.table.dtype == np.int16 and inputs.dtype == torch.float32
        if compiled is None or not isinstance(sampler, IntegerSampler) or not narrow:
            return fill_by_rows(self, request, key, inputs)
        pixels = self._checked(request).stored.astype(np.int16)
        marks = min(FINGERPRINT_WORDS, BLOCK_DRAWS * pixels.size // 4)
        return fingerprint(compiled.integer_inputs(key, sampler, pixels, inputs, marks))

    def on_device(self, device: torch.device) -> Callable[[Tensor, Sequence[BlockRequest]], Tensor]:
        """Return u, examples -> x + Z, as integers."""
        find, integers = self.sampler.on_device(device), torch.from_numpy(self.sampler.table[:0]).dtype

        def rows(raw: Tensor, requests: Sequence[BlockRequest]) -> Tensor:
            pixels = [self._checked(request).stored for request in requests]
            return find(raw).add_(moved(pixels, device)).to(integers)

        return rows

    def _checked(self, request: BlockRequest) -> Example:
        example = request.example
        if not example.eight_bit:
            raise InputError(f"{example.id}: expected 8-bit pixels for the law {self.name}, got {example.stored.dtype}")
        return example

    def inputs(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Return z / 255: in float64 for a float64 network, else in float32 and then cast. z itself is exact."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        if rows.device.type == "cpu":
            return rows.to(wide).div_(255.0).to(dtype)
        # By a number of the host CUDA divides in two roundings: it multiplies with the reciprocal.
        return rows.to(wide).div_(torch.full((), 255.0, dtype=wide, device=rows.device)).to(dtype)
