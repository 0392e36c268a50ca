"""Where the examples of a report stand in their source: in rising order, behind those left out, no more than asked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from msgspec import UNSET

from certify.report.findings import Finding, require
from certify.results import CurvatureSettings, DataRecord, LipschitzSettings, SmoothingSettings

ALL = re.compile(r"all ([0-9]{1,12})")
PLACES = re.compile(r"\b([0-9]{1,12})-([0-9]{1,12}) of ([0-9]{1,12})\b")


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
    """Yield where examples were to be left out, or are more than were asked for; of a part, those of the whole run.

    A selection in the words of a source that was read takes every example from the first on that was not left out, so
    their places follow one another. Data put together by hand have other words, and any places in rising order.
    """
    count = len(examples) if data.part is UNSET else data.part.of
    limit, seed = settings.limit, settings.seed
    yield from require(seed >= 0, "settings.seed", "a number that is not negative", seed)
    yield from require(limit is None or count <= limit, "settings.limit", f"none, or at least {count}", limit)
    if examples:
        first = examples[0].index
        yield from require(0 <= settings.skip <= first, "settings.skip", f"from 0 to {first}", settings.skip)
    if data.part is UNSET and (PLACES.search(data.selection) or ALL.fullmatch(data.selection)):
        places = enumerate(example.index for example in examples)
        for place, index in [(place, index) for place, index in places if index != settings.skip + place][:1]:
            yield Finding(f"examples[{place}].index", repr(settings.skip + place), repr(index))
    yield from _check_words(data.selection, settings.skip, count)


def _check_words(selection: str, skip: int, count: int) -> Iterator[Finding]:
    """Yield where the words for the selection name other places than it has; words without numbers say nothing."""
    named, whole = PLACES.search(selection), ALL.fullmatch(selection)
    if named is not None and count:
        first, last, total = map(int, named.groups())
        fits = (first, last) == (skip, skip + count - 1) and last < total
        yield from require(fits, "data.selection", f"{skip}-{skip + count - 1} of at least {skip + count}", selection)
    if whole is not None:
        yield from require((skip, count) == (0, int(whole[1])), "data.selection", f"{count} examples", selection)
