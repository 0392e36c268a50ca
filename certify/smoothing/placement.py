"""Where and how the forward passes of a run take place: what changes its speed, and no count.

The kind of the device alone is part of what a run is, and stands in its header: the network as run on another kind of
processor is another program, and the noise there has a source of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from certify.errors import InputError

Engine: TypeAlias = Literal["local", "ray"]
Rows: TypeAlias = int | Literal["auto"]


@dataclass(frozen=True)
class Placement:
    """Where and how forward passes take place.

    ``device`` is where the network runs. ``batch`` is the rows of one pass; "auto" takes those of the store, else times
    a few sizes. ``workers`` passes run side by side on a CPU, each on one core; a CUDA device runs one after the other.
    With the engine "ray" the workers are processes of a Ray cluster (`certify.smoothing.shards`).

    Raises:
        InputError: If ``batch`` or ``workers`` is no whole number of at least 1.

    Example:
        >>> Placement(batch=64, workers=2).rows
        64
    """

    device: str = "cpu"
    batch: Rows = "auto"
    workers: int = 1
    engine: Engine = "local"

    def __post_init__(self) -> None:
        for name, size in (("batch", 1 if self.batch == "auto" else self.batch), ("workers", self.workers)):
            if not (isinstance(size, int) and size >= 1):
                raise InputError(f"expected {name} to be a whole number of at least 1, got {size!r}")

    @property
    def rows(self) -> int | None:
        """The rows of one pass; None where they are to be chosen."""
        return None if self.batch == "auto" else self.batch


ONE_CORE = Placement()
