"""Where the examples of a report stand in their source: in rising order, behind those left out, no more than asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from msgspec import UNSET

from certify.report.findings import Finding, require
from certify.results import CurvatureSettings, DataRecord, LipschitzSettings, SmoothingSettings


class Placed(Protocol):
    """An example of any kind of report."""

    @property
    def index(self) -> int:
        """Its place in the source."""


def check_order(where: str, examples: Sequence[Placed], previous: int = -1) -> Iterator[Finding]:
    """Yield the examples that do not stand behind the one before them, the first behind ``previous``.

    Example:
        >>> from certify.results import UnsampledExample
        >>> rows = [UnsampledExample(index=index, id="", hash="", label=0) for index in (0, 2, 2)]
        >>> [str(finding) for finding in check_order("unsampled", rows)]
        ['unsampled[2].index: expected above 2, found 2']
    """
    for position, example in enumerate(examples):
        yield from require(example.index > previous, f"{where}[{position}].index", f"above {previous}", example.index)
        previous = example.index


def check_selection(
    settings: LipschitzSettings | SmoothingSettings | CurvatureSettings, data: DataRecord, examples: Sequence[Placed]
) -> Iterator[Finding]:
    """Yield where examples were to be left out, or are more than were asked for; of a part, those of the whole run."""
    count = len(examples) if data.part is UNSET else data.part.of
    limit = settings.limit
    yield from require(limit is None or count <= limit, "settings.limit", f"none, or at least {count}", limit)
    if examples:
        first = examples[0].index
        yield from require(0 <= settings.skip <= first, "settings.skip", f"from 0 to {first}", settings.skip)
