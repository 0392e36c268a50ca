"""Addresses of noise: which random numbers belong to which draws.

Randomness here is addressed, never streamed. The unit of work is a *block*: `BLOCK_DRAWS` draws of one example for one
*purpose* (``selection`` chooses the class, ``estimation`` bounds its probability; their draws are never shared). The
noise of a block is a function of its *key* alone, and its result is integer vote counts, which add. So the batch size,
the order of the work, the number of workers and a resume after a kill cannot change a single count.

The key is the sha256 of the JSON array [run seed, example id, sha256 of the stored values, purpose, block index, noise
law]; its first 16 bytes are the 128-bit key of the counter-based generator Philox (J. Salmon et al., *Parallel random
numbers: as easy as 1, 2, 3*, SC 2011). Sigma is not in the key: runs at two sigmas use the same underlying numbers and
compare better; neither is the model. ``torch.Generator().manual_seed`` is not used: on the CPU it keeps the low 32
bits of a seed, so that hashed seeds collide after some 10^5 blocks. On a CUDA device, where it keeps 64, the noise is
made by it (`device_noise`).

The statistics assume that Philox under these keys gives ideal independent uniform bits: an assumption, stated in every
report, not a theorem.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from certify.examples import Example
from certify.results import dump_json

BLOCK_DRAWS = 128

Purpose: TypeAlias = Literal["selection", "estimation"]


NO_CHOICE: NDArray[np.int64] = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class BlockRequest:
    """A block to evaluate; of its `BLOCK_DRAWS` draws the first ``draws`` are counted.

    ``choice`` is what the pilot of the example chose, and enters what is read from the block, never its noise.
    """

    example: Example
    purpose: Purpose
    block: int
    draws: int
    choice: NDArray[np.int64] = field(default_factory=NO_CHOICE.copy)


def block_requests(
    example: Example, purpose: Purpose, draws: int, choice: NDArray[np.int64] = NO_CHOICE
) -> Iterator[BlockRequest]:
    """Yield the blocks that hold the first ``draws`` draws of one example and purpose.

    A number of draws that ends inside a block asks for the whole block and counts its prefix: a block is never split
    over two calls of the generator.

    Example:
        >>> image = Example(index=0, id="a", label=0, stored=np.zeros(2, dtype=np.uint8))
        >>> [request.draws for request in block_requests(image, "estimation", 300)]
        [128, 128, 44]
    """
    for block, first in enumerate(range(0, draws, BLOCK_DRAWS)):
        yield BlockRequest(example, purpose, block, min(BLOCK_DRAWS, draws - first), choice)


def block_address(seed: int, request: BlockRequest, law: str) -> list[str | int]:
    """Return the address of one block: equal ones have equal noise, from one source."""
    example = request.example
    return [seed, example.id, example.hash, request.purpose, request.block, law]


def block_key(seed: int, request: BlockRequest, law: str) -> NDArray[np.uint64]:
    """Return the Philox key of one block as two 64-bit words.

    Example:
        >>> image = Example(index=0, id="a", label=0, stored=np.zeros(2, dtype=np.uint8))
        >>> here, there = (BlockRequest(image, "estimation", block, 128) for block in (0, 1))
        >>> bool((block_key(0, here, "gaussian") != block_key(0, there, "gaussian")).any())
        True
    """
    before, after = _around_block(*block_address(seed, request, law)[:4], law)
    digest = hashlib.sha256(f"{before}{request.block}{after}".encode()).digest()
    return np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)


@lru_cache(maxsize=256)
def _around_block(*address: str | int) -> tuple[str, str]:
    """Return the JSON of an address before and after the index of its block: an example has many blocks."""
    before, after = dump_json(address[:4]), dump_json(address[4:])
    return f"{before[:-1]},", f",{after[1:]}"


def block_generator(seed: int, request: BlockRequest, law: str) -> np.random.Philox:
    """Return the bit generator of one block, at counter zero."""
    return np.random.Philox(key=block_key(seed, request, law))
