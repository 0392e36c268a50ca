"""The interface of a noise law: what turns a stored example and a block's generator into noisy inputs.

A law adds its noise in the space of the radius: pixels in [0, 1], before any normalisation, which belongs to the
model. It works in two halves, the first of which has two forms:

- ``draw`` gives, on the CPU, the `BLOCK_DRAWS` noisy *rows* of one block (a numpy array, made in calls of fixed shape)
  and the *fingerprint* of the randomness they were made of, by which two blocks with equal noise are recognised;
- ``on_device`` gives the same function of ``raw`` numbers that were drawn on a device (`device_noise`);
- ``inputs`` turns a batch of rows into what the network is called with.

``fill`` is both halves in one, on the CPU: the same inputs, bit for bit, where they belong, and by `kernels` where a
law has one of its own.

A further law is one file with such a class and one line in `certify.smoothing.laws`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest, block_key

FINGERPRINT_WORDS = 64


@dataclass(frozen=True, eq=False)
class NoisyRows:
    """The rows of one block, ``[BLOCK_DRAWS, *input_shape]``, and the sha256 of the randomness they start with."""

    rows: NDArray[Any]
    fingerprint: str


RawNoise: TypeAlias = Literal["integers", "normals"]  # uniform on 0..2^63-1 in int64, standard normal in float64


@dataclass(frozen=True, eq=False)
class DeviceRows:
    """The rows of some blocks on a device, one block after another, and of each the first words of its randomness."""

    rows: Tensor
    words: Tensor  # int64 [blocks, FINGERPRINT_WORDS]


class NoiseLaw(Protocol):
    """One law of noise at one sigma."""

    @property
    def name(self) -> str:
        """The name that enters the key of a block."""

    @property
    def scale(self) -> float:
        """What radii are proportional to; `certify.stats.GEOMETRIES` has the norm and the radius of each name."""

    @property
    def float_sound(self) -> bool:
        """Whether the certificate holds for the program as run, rounding of the noisy input included."""

    @property
    def words(self) -> str:
        """The law as the report describes it."""

    @property
    def levels(self) -> int:
        """A bound, in units of 2^-63 per coordinate and draw, of the distance (total variation) to the ideal law."""

    @property
    def row_dtype(self) -> np.dtype[Any]:
        """The dtype of the rows."""

    def draw(self, request: BlockRequest, bits: np.random.Philox) -> NoisyRows:
        """Return the noisy rows of a block, whose generator is ``bits``."""
        ...

    def fill(self, request: BlockRequest, key: NDArray[np.uint64], inputs: Tensor) -> str:
        """Write the network inputs of the block with this key into ``inputs``, and return its fingerprint.

        ``inputs`` is ``[BLOCK_DRAWS, *input_shape]`` on the CPU, contiguous, in the dtype of the network.
        """
        ...

    @property
    def raw(self) -> RawNoise:
        """The numbers that `on_device` takes."""

    def on_device(self, device: torch.device) -> Callable[[Tensor, Sequence[BlockRequest]], Tensor]:
        """Return the function from raw numbers of blocks, and these, to rows of the dtype of those of `draw`.

        The numbers are ``[blocks, BLOCK_DRAWS, *input_shape]`` on the device, and may be used up.
        """
        ...

    def inputs(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the network inputs of rows ``[B, *input_shape]``, on the device where the rows are."""
        ...


def fill_by_rows(law: NoiseLaw, request: BlockRequest, key: NDArray[np.uint64], inputs: Tensor) -> str:
    """Fill as `NoiseLaw.fill` says, with `NoiseLaw.draw` and `NoiseLaw.inputs`."""
    noisy = law.draw(request, np.random.Philox(key=key))
    inputs.copy_(law.inputs(torch.from_numpy(noisy.rows), inputs.dtype))
    return noisy.fingerprint


def block_inputs(law: NoiseLaw, seed: int, request: BlockRequest, dtype: torch.dtype) -> Tensor:
    """Return the network inputs of one block, ``[BLOCK_DRAWS, *input_shape]``, on the CPU."""
    inputs = torch.empty((BLOCK_DRAWS, *request.example.stored.shape), dtype=dtype)
    law.fill(request, block_key(seed, request, law.name), inputs)
    return inputs


def moved_values(requests: Sequence[BlockRequest], device: torch.device) -> Tensor:
    """Return the examples of blocks in float64 on a device: ``[blocks, 1, *shape]``."""
    return moved([request.example.values() for request in requests], device)


def moved(arrays: Sequence[NDArray[Any]], device: torch.device) -> Tensor:
    """Return arrays of one shape, one for each block, on a device: ``[blocks, 1, *shape]``."""
    return torch.from_numpy(np.stack(arrays)[:, None]).to(device, non_blocking=True)


def fingerprint(words: NDArray[Any]) -> str:
    """Return the sha256 of the first random words of a block, in little-endian order.

    The words rather than the noise: a small sigma or a small input makes equal integer noise likely for different
    randomness, and would raise a false alarm.
    """
    first = words.reshape(-1)[:FINGERPRINT_WORDS]
    return hashlib.sha256(first.astype(first.dtype.newbyteorder("<")).tobytes()).hexdigest()
