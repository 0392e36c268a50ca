"""What every run begins and ends with: its examples, its clock, and what a report says of data and program."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch
from msgspec import UNSET

from certify._version import __version__
from certify.examples import Dataset
from certify.loading import Model, read_data
from certify.results import (
    DataRecord,
    Tool,
)


def read_dataset(
    path: str | Path, model: Model, *, label: str | None = None, skip: int = 0, limit: int | None = None
) -> Dataset:
    """Return the examples at a path, as the model takes them; see `certify.loading.read_data`."""
    return read_data(path, input=model.input, classes=model.classes, label=label, skip=skip, limit=limit)


def data_record(data: Dataset) -> DataRecord:
    """Return which examples a report speaks of."""
    part = UNSET if data.part is None else data.part
    return DataRecord(
        sha256=data.sha256, count=len(data), selection=data.selection, part=part, eight_bit=data.eight_bit
    )


def tool_record(device: str, dtype: str) -> Tool:
    """Return what computes a report here."""
    return Tool(
        version=__version__,
        python=platform.python_version(),
        torch=str(torch.__version__),
        device_kind=device.partition(":")[0],
        dtype=dtype,
    )


@dataclass(frozen=True)
class Clock:
    """When a run began."""

    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    zero: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return round(time.monotonic() - self.zero, 3)
