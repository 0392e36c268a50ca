"""Where noise comes from, by kind of device: what the header of a run says of it, and what the report says.

Counts from different sources never merge: a store is of one source, and so are the parts of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from certify.errors import InputError

ADDRESS = "(seed, example, purpose, block, law)"
CPU_SOURCE = "numpy Philox, 128-bit block keys"


@dataclass(frozen=True)
class NoiseSource:
    """A generator: ``words`` for the report, and its name in a header, which may depend on the device."""

    words: str
    name: Callable[[torch.device], str]


def _cuda_name(device: torch.device) -> str:
    """Return the name of a CUDA device's generator: its streams depend on the number of multiprocessors."""
    found = torch.cuda.get_device_properties(device)
    return f"torch CUDA Philox, 64-bit block seeds, {found.name}, {found.multi_processor_count} multiprocessors"


SOURCES: Mapping[str, NoiseSource] = MappingProxyType(
    {
        "cpu": NoiseSource(f"from numpy's Philox, assumed ideal, keyed by {ADDRESS}", lambda _: CPU_SOURCE),
        "cuda": NoiseSource(
            f"from PyTorch's Philox on CUDA, assumed ideal, seeded with 64 bits of a hash of {ADDRESS}", _cuda_name
        ),
    }
)


def noise_source(kind: str) -> NoiseSource:
    """Return where the noise of a run comes from, by the kind of its device.

    Raises:
        InputError: If no source is known there.

    Example:
        >>> noise_source("cpu").words
        "from numpy's Philox, assumed ideal, keyed by (seed, example, purpose, block, law)"
    """
    if kind not in SOURCES:
        raise InputError(f"expected a device of kind {' or '.join(SOURCES)} for smoothing, got {kind!r}; use another")
    return SOURCES[kind]


def source_name(device: str | torch.device) -> str:
    """Return what the header of a run on a device says of its noise."""
    where = torch.device(device)
    return noise_source(where.type).name(where)
