r"""Noise that is made where the network runs: PyTorch's Philox on a CUDA device, seeded anew for every block.

**Addresses.** The generator of a block is seeded with 64 bits of the same hash that keys the CPU's (`addresses`). On
CUDA it keeps all of them and is counter-based: seed, number of the thread and place in its stream. Two of B blocks have
one seed with probability below B^2 2^-65, one in 4 million for 3 * 10^6 blocks; the run store refuses the second of two
blocks with equal noise. PyTorch's CPU generators keep 32 bits of a seed: they are refused, by drawing from two seeds
that differ above these.

**The laws are those of the CPU.** A law takes *raw* numbers, in one call of fixed shape per block, so that a block is a
function of its address, whatever the batch:

- ``integers``: `Tensor.random_` on int64, uniform on 0..2^63-1: 64 raw bits of Philox without the highest. Then
  Z = #{k : T_k <= u} - m with the thresholds T_k of the CPU (`two_level_table`), compared as integers: the same
  function of a uniform u, so the same distribution, exactly. A device searches all of them; it needs no first level.
- ``normals``: `Tensor.normal_` in float64, which is not float-sound here either.

**A source of its own.** The streams differ from those of the CPU, and PyTorch spreads a stream over as many threads as
a device has multiprocessors. So the source stands in the header of a run, with the device's name, and counts from
different sources are never in one store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from certify.errors import SoundnessError
from certify.results import dump_json
from certify.smoothing.addresses import BLOCK_DRAWS, BlockRequest, block_address
from certify.smoothing.noise import FINGERPRINT_WORDS, DeviceRows, NoiseLaw, RawNoise

Fill = Callable[[Tensor, torch.Generator], Tensor]
FILLS: Mapping[RawNoise, tuple[torch.dtype, Fill]] = MappingProxyType(
    {
        "integers": (torch.int64, lambda raw, generator: raw.random_(generator=generator)),
        "normals": (torch.float64, lambda raw, generator: raw.normal_(generator=generator)),
    }
)
SEEDS = (5, 5 + 2**32)  # equal to a generator that keeps 32 bits


def block_seed(seed: int, request: BlockRequest, law: str) -> int:
    """Return the seed of one block on a device, 64 bits.

    Example:
        >>> import numpy as np
        >>> from certify.examples import Example
        >>> image = Example(index=0, id="a", label=0, stored=np.zeros(2, dtype=np.uint8))
        >>> here, there = (block_seed(0, BlockRequest(image, "estimation", b, 128), "gaussian") for b in (0, 1))
        >>> here != there, max(here, there) < 2**64
        (True, True)
    """
    digest = hashlib.sha256(dump_json(block_address(seed, request, law)).encode()).digest()
    return int.from_bytes(digest[:8], "little")


class DeviceNoise:
    """The noise of one run on one device."""

    def __init__(self, law: NoiseLaw, seed: int, device: torch.device) -> None:
        """Prepare a law.

        Raises:
            SoundnessError: If the generator of the device does not keep 64 bits of a seed.
        """
        self._law, self._seed, self._device = law, seed, device
        self._dtype, self._fill = FILLS[law.raw]
        self._generator = torch.Generator(device=device)
        self._rows = law.on_device(device)
        self._check_generator()

    def draw(self, requests: Sequence[BlockRequest]) -> DeviceRows:
        """Return the noisy rows of some blocks, one after another, and the words their fingerprints are made of."""
        shape = requests[0].example.stored.shape
        raw = torch.empty((len(requests), BLOCK_DRAWS, *shape), dtype=self._dtype, device=self._device)
        for block, request in zip(raw, requests, strict=True):
            self._generator.manual_seed(block_seed(self._seed, request, self._law.name))
            self._fill(block, self._generator)
        words = raw.flatten(1)[:, :FINGERPRINT_WORDS].clone()
        return DeviceRows(self._rows(raw, requests).flatten(0, 1), words.view(torch.int64))

    def _check_generator(self) -> None:
        drawn = []
        for seed in (*SEEDS, SEEDS[0]):
            empty = torch.empty(FINGERPRINT_WORDS, dtype=torch.int64, device=self._device)
            self._generator.manual_seed(seed)
            drawn.append(FILLS["integers"][1](empty, self._generator).cpu())
        full = bool((drawn[0] >= 0).all()) and int(drawn[0].max()) >= 2**62
        if not (full and torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])):
            raise SoundnessError(
                f"expected a generator on {self._device} with 64-bit seeds and 63 random bits, got another"
            )
