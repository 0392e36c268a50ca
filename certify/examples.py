"""Examples: what is certified, as it is stored, and its identity.

An example's *id* is stable under anything but renaming its file or reordering its table; its *hash* is the sha256 of
dtype, shape and bytes of the stored values. Eight-bit pixels stay integers here: the input of the network is
``stored / 255``, and the sound integer noise of randomized smoothing needs the integers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from certify.errors import InputError
from certify.results import Part, dump_json


@dataclass(frozen=True, eq=False)
class Example:
    """One labelled input.

    ``stored`` has the model's input shape (images ``[C, H, W]``) and dtype uint8, float32 or float64.
    """

    index: int
    id: str
    label: int
    stored: NDArray[np.uint8] | NDArray[np.float32] | NDArray[np.float64]
    hash: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.hash:
            object.__setattr__(self, "hash", hash_array(self.stored))

    @property
    def eight_bit(self) -> bool:
        """Whether the stored values are 8-bit pixels, which stand for ``stored / 255``."""
        return self.stored.dtype == np.uint8

    def values(self) -> NDArray[np.float64]:
        """Return the input of the network in float64; 8-bit pixels become ``stored / 255``, rounded to nearest."""
        exact: NDArray[np.float64] = self.stored.astype(np.float64)
        return exact / 255.0 if self.eight_bit else exact


@dataclass(frozen=True, eq=False)
class Dataset:
    """The selected examples, in their fixed order, with the sha256 of ids, labels and hashes.

    ``total`` counts the examples of the source before ``skip`` and ``limit`` were applied. ``part`` says that these are
    one part of the selection only.
    """

    examples: tuple[Example, ...]
    total: int
    selection: str
    sha256: str = field(default="", compare=False)
    part: Part | None = None

    def __post_init__(self) -> None:
        if not self.sha256:
            rows = [[example.id, example.label, example.hash] for example in self.examples]
            object.__setattr__(self, "sha256", hashlib.sha256(dump_json(rows).encode()).hexdigest())

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def eight_bit(self) -> bool:
        """Whether every example holds 8-bit pixels."""
        return all(example.eight_bit for example in self.examples)


def take_part(dataset: Dataset, number: int, parts: int) -> Dataset:
    """Return part ``number`` of ``parts`` of a selection: every ``parts``-th example, from the ``number``-th on.

    Parts interleave, so that each is like the whole where the selection is sorted by class.

    Raises:
        InputError: If there is no such part, or it would be empty.

    Example:
        >>> rows = tuple(Example(k, str(k), 0, np.zeros(1)) for k in range(5))
        >>> [example.index for example in take_part(Dataset(rows, 5, "all 5"), 2, 3)]
        [1, 4]
    """
    if not 1 <= number <= parts <= len(dataset):
        raise InputError(f"expected part i/N with 1 <= i <= N <= {len(dataset)} examples, got {number}/{parts}")
    part = Part(number=number, parts=parts, of=len(dataset), sha256=dataset.sha256)
    return Dataset(dataset.examples[number - 1 :: parts], dataset.total, dataset.selection, part=part)


def hash_array(array: NDArray[np.generic]) -> str:
    """Return the sha256 of an array: its dtype, shape and little-endian bytes in C order.

    Example:
        >>> a = np.arange(6, dtype=np.float32).reshape(2, 3)
        >>> hash_array(a) == hash_array(np.asfortranarray(a)) != hash_array(a.T)
        True
    """
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    digest = hashlib.sha256(f"{little.dtype.str} {list(little.shape)}\n".encode())
    digest.update(little.tobytes())
    return digest.hexdigest()
