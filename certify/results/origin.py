"""What a report speaks of and where it came from: tool, model, data, attacks, execution."""

from __future__ import annotations

import math

from msgspec import UNSET, Struct, UnsetType

from certify.results.row import Row
from certify.results.words import FalsifyLevel


class InputSpace(Struct, frozen=True, forbid_unknown_fields=True):
    """The space the data, the radii and sigma live in: shape without the batch, value range, and its name in words."""

    shape: tuple[int, ...]
    range: tuple[float, float] | None = None
    space: str = "input"

    @property
    def size(self) -> int:
        """The number of coordinates d of one input."""
        return math.prod(self.shape)


class Tool(Row, frozen=True, kw_only=True):
    """What computed the report.

    ``device_kind`` is where the network ran, and its noise was made; of a Lipschitz report, where the multipliers of
    the network's bound were searched, whose proof is the CPU's.
    """

    version: str
    python: str
    torch: str
    device_kind: str
    dtype: str


class ModelRecord(Row, frozen=True, kw_only=True):
    """Which model the report speaks of. ``source`` names the format and architecture, never a path."""

    sha256: str
    source: str
    input: InputSpace
    classes: tuple[str, ...]
    parameters: int


class Part(Row, frozen=True, kw_only=True):
    """Part ``number`` of ``parts`` of a run over ``of`` examples: every ``parts``-th, from the ``number``-th on.

    ``sha256`` is the hash of the whole selection, by which parts of one are known.
    """

    number: int
    parts: int
    of: int
    sha256: str | UnsetType = UNSET


class DataRecord(Row, frozen=True, kw_only=True):
    """Which examples the report speaks of; with ``part``, all that it says is of that part of them.

    ``eight_bit`` says whether every one of them is stored as 8-bit pixels: integer noise is for these alone.
    """

    sha256: str
    count: int
    selection: str
    part: Part | UnsetType = UNSET
    eight_bit: bool | UnsetType = UNSET


class Falsifier(Row, frozen=True, kw_only=True):
    """What was tried against the certificates before the report left, and what it found."""

    level: FalsifyLevel
    tried: str
    found: int


class Execution(Row, frozen=True, kw_only=True):
    """Where and how the run took place: never hashed, free to differ between two runs of the same thing.

    ``earlier_seeds`` and ``earlier_runs`` are those of the same model and data in the same store: the seeds, and for
    runs with other settings what each had in their place.
    """

    model_path: str = ""
    data_path: str = ""
    batch: str = ""
    micro_batch: int = 0
    workers: int = 1
    engine: str = "local"
    threads: int = 0
    shard: str = ""
    device_name: str = ""
    started: str = ""
    seconds: float = 0.0
    earlier_seeds: tuple[int, ...] = ()
    earlier_runs: tuple[str, ...] | UnsetType = UNSET
