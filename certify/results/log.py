"""A certification log of the field, imported, and what an audit says about it."""

from __future__ import annotations

from typing import Literal

from certify.results.row import Row


class LogSettings(Row, frozen=True, kw_only=True):
    """What the owner of a log says about it, and a log itself does not hold; ``sigma`` is null where nobody said."""

    sigma: float | None = None
    alpha: float = 0.001
    n: int = 100_000


class LogFile(Row, frozen=True, kw_only=True):
    """The file a log was read from."""

    sha256: str
    columns: tuple[str, ...]


class LogExample(Row, frozen=True, kw_only=True):
    """One row of a log, as written; ``predicted`` is null on abstention, ``seconds`` where the log has none."""

    index: int
    label: int
    predicted: int | None
    correct: bool
    radius: float
    seconds: float | None = None


class LogFinding(Row, frozen=True, kw_only=True):
    """What an audit found against a log: of which kind, in how many rows, the first few of them, and in words."""

    kind: Literal["impossible radius", "missing rows", "order", "flag", "radius", "rounding"]
    count: int
    rows: tuple[int, ...]
    text: str


class Explanation(Row, frozen=True, kw_only=True):
    """Settings that give the largest written radii: all of the ``radii`` distinct ones that could contradict them."""

    sigma: float
    alpha: float
    n: int
    radii: int


class LogAudit(Row, frozen=True, kw_only=True):
    """What the rows of a log say about themselves.

    ``limit`` is the largest radius that the stated settings allow, null where no sigma was stated. ``significant`` and
    ``decimals`` are the most digits that a radius was written with. ``explanations`` are the settings, among usual
    ones, that give the largest radii.
    """

    limit: float | None
    significant: int
    decimals: int
    findings: tuple[LogFinding, ...]
    explanations: tuple[Explanation, ...]
