"""The laws ``gaussian-diagonal`` and ``gaussian-diagonal-255``: Gaussian noise with a scale of its own per coordinate.

`certify.smoothing.scales` has the certificate. The first law is float64 noise, not float-sound. The second draws
integer noise exactly, as ``gaussian-255`` does, with one table for each value that the scales have; its distance to the
ideal law is that of the coordinate with the most levels. The theorem applies to f o round as there: coordinate i of
x + Z is the rounding of x_i + 255 sigma d_i g_i for integer x_i.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certify.errors import InputError
from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest
from certify.smoothing.gaussian_255 import thresholds
from certify.smoothing.integer_law import IntegerLaw
from certify.smoothing.noise import NoisyRows, RawNoise, fill_by_rows, fingerprint, moved_values
from certify.smoothing.two_level_table import LOW_BITS, IntegerSampler, integer_sampler, search

MOST_TABLES = 64  # of 2^16 entries each


@dataclass(frozen=True, eq=False)
class DiagonalLaw:
    """Float64 normal noise of standard deviation ``sigma`` times the scale of each coordinate; see `NoiseLaw`."""

    name: ClassVar[str] = "gaussian-diagonal"
    float_sound: ClassVar[bool] = False
    words: ClassVar[str] = "float64 Gaussian noise, scaled per coordinate, added in float64 (not float-sound)"
    levels: ClassVar[int] = 0
    row_dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float64)
    raw: ClassVar[RawNoise] = "normals"

    sigma: float
    scales: NDArray[np.float64]

    @property
    def scale(self) -> float:
        """The standard deviation of a coordinate of scale 1."""
        return self.sigma

    def draw(self, request: BlockRequest, bits: np.random.Philox) -> NoisyRows:
        """Return x + sigma d g for `BLOCK_DRAWS` standard normal vectors g, in float64."""
        normal = np.random.Generator(bits).standard_normal((BLOCK_DRAWS, *request.example.stored.shape))
        mark = fingerprint(normal)
        normal *= self.sigma * self.scales
        normal += request.example.values()
        return NoisyRows(normal, mark)

    def fill(self, request: BlockRequest, key: NDArray[np.uint64], inputs: Tensor) -> str:
        """Write the inputs of a block, and return its fingerprint."""
        return fill_by_rows(self, request, key, inputs)

    def on_device(self, device: torch.device) -> Callable[[Tensor, Sequence[BlockRequest]], Tensor]:
        """Return g, examples -> x + sigma d g, in float64."""
        sizes = torch.from_numpy(self.sigma * self.scales).to(device)
        return lambda raw, requests: raw.mul_(sizes).add_(moved_values(requests, device))

    def inputs(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the rows rounded once to ``dtype``."""
        return rows.to(dtype)


@dataclass(frozen=True, eq=False)
class GroupedSampler:
    """Integer noise from one table per group of coordinates, ``groups`` naming that of each coordinate of an input."""

    samplers: tuple[IntegerSampler, ...]
    groups: NDArray[np.int64]
    table: NDArray[Any]  # [groups, 2^16]

    @property
    def levels(self) -> int:
        """The most thresholds of a coordinate."""
        return max(sampler.levels for sampler in self.samplers)

    def draw(self, bits: np.random.Philox, count: int) -> tuple[NDArray[Any], NDArray[np.uint64]]:
        """Return independent Z for ``count`` coordinates, whole inputs one after another; see `IntegerSampler.draw`."""
        words = bits.random_raw(-(-count // 4))
        top = words.astype("<u8", copy=False).view("<u2")[:count]
        groups = np.tile(self.groups, count // len(self.groups))
        values = self.table[groups, top]
        still_open = np.flatnonzero(values == self.samplers[0].open_mark)
        low = (bits.random_raw(still_open.size) >> np.uint64(64 - LOW_BITS)).astype(np.int64)
        u = (top[still_open].astype(np.int64) << LOW_BITS) | low
        for group, sampler in enumerate(self.samplers):
            mine = groups[still_open] == group
            values[still_open[mine]] = search(sampler.T, u[mine]) - sampler.half
        return values, words

    def on_device(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return the function from uniform integers ``[..., coordinates]`` to Z; see `IntegerSampler.on_device`."""
        places = [torch.from_numpy(np.flatnonzero(self.groups == k)).to(device) for k in range(len(self.samplers))]
        searches = [sampler.on_device(device) for sampler in self.samplers]

        def find(u: Tensor) -> Tensor:
            flat = u.reshape(-1, len(self.groups))
            Z = torch.zeros(flat.shape, dtype=torch.int32, device=device)
            for place, find_there in zip(places, searches, strict=True):
                Z.index_copy_(1, place, find_there(flat[:, place]))
            return Z.reshape(u.shape)

        return find


def diagonal_255(sigma: float, scales: NDArray[np.float64]) -> IntegerLaw:
    """Return integer-rounded Gaussian noise on 8-bit pixels with a scale per coordinate.

    Raises:
        InputError: If the scales have more than 64 different values, or a standard deviation is out of range.

    Example:
        >>> law = diagonal_255(0.25, np.array([[1.0, 2.0]]))
        >>> law.name, law.levels
        ('gaussian-diagonal-255', 3060)
    """
    sizes, groups = np.unique(sigma * scales, return_inverse=True)
    if len(sizes) > MOST_TABLES:
        raise InputError(
            f"scales: expected at most {MOST_TABLES} different values for integer noise on 8-bit data, got "
            f"{len(sizes)}; round them, or set float_noise=True (not float-sound)"
        )
    found = [thresholds(float(size)) for size in sizes]
    most = max(map(len, found))
    samplers = tuple(integer_sampler(T, largest=255 + (most - len(T)) // 2) for T in found)  # of one dtype
    table = np.stack([sampler.table for sampler in samplers])
    words = "Gaussian noise, scaled per coordinate, rounded to whole 1/255 levels, drawn exactly (float-sound on 8-bit)"
    return IntegerLaw(
        "gaussian-diagonal-255", words, sigma, GroupedSampler(samplers, groups.reshape(-1).astype(np.int64), table)
    )
