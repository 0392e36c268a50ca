"""Two reports on the same examples, paired."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from certify.results.origin import ModelRecord, Tool
from certify.results.row import Row
from certify.results.settings import LipschitzSettings, SmoothingSettings
from certify.results.words import AnyNorm, Certificates, Change, Verdict


class ComparedRun(Row, frozen=True, kw_only=True):
    """One of two compared reports: which one it was, by its ``digest``, and what made it.

    Of the two settings the one of its kind is there; ``noise_law`` belongs to smoothing.
    """

    digest: str
    tool: Tool
    model: ModelRecord
    lipschitz: LipschitzSettings | UnsetType = UNSET
    smoothing: SmoothingSettings | UnsetType = UNSET
    noise_law: str | UnsetType = UNSET


class ComparisonSettings(Row, frozen=True, kw_only=True):
    """What was asked of two reports: how many examples are certified at ``radius`` in each, and which are lost.

    ``max_drop`` is the margin of non-inferiority, ``confidence`` that of each limit over examples.
    """

    certificates: Certificates
    norm: AnyNorm
    radius: float
    max_drop: float = 0.01
    confidence: float = 0.95


class PairedExample(Row, frozen=True, kw_only=True):
    """One example of both reports; ``change`` says in which of them it counts as certified at the asked radius."""

    index: int
    id: str
    hash: str
    label: int
    old_predicted: int | None
    old_radius: float
    new_predicted: int | None
    new_radius: float
    change: Change


class PairedCounts(Row, frozen=True, kw_only=True):
    """Certified examples of both reports at one radius, and the limits of the expected change of the share.

    ``difference`` is the change observed. The expected one is at least ``lower`` and at most ``upper``, each with the
    confidence of the settings, for examples drawn independently.
    """

    radius: float
    old: int
    new: int
    won: int
    lost: int
    difference: float
    lower: float
    upper: float


class RadiusSigns(Row, frozen=True, kw_only=True):
    """In how many examples the radius (0 where the answer is wrong or absent) grew, fell, or stayed."""

    larger: int
    smaller: int
    equal: int


class ComparisonSummary(Row, frozen=True, kw_only=True):
    """Two reports on the same examples, at the asked radius (``at_radius``) and along the curve.

    ``won`` and ``lost`` are the indices of the examples that are certified in the new report alone, and in the old one
    alone. ``least_drop`` is the least margin that so many examples show without any change. ``verdict`` answers "the
    expected share drops by at most ``max_drop``"; null where the margin is below that. ``mcnemar`` is information only,
    and ``radii`` null where draws ended by a test.
    """

    examples: int
    at_radius: PairedCounts
    won: tuple[int, ...]
    lost: tuple[int, ...]
    least_drop: float
    verdict: Verdict | None
    reason: str
    mcnemar: float
    radii: RadiusSigns | None
    curve: tuple[PairedCounts, ...]
