"""What a gate asked, and its verdict."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, UnsetType

from certify.results.row import Row
from certify.results.words import AnyNorm, Verdict


class Baseline(Row, frozen=True, kw_only=True):
    """The earlier report that a gate compares with: its digest and model, and which examples it certified.

    ``certified`` are the indices of the examples of the judged report that the earlier one certified.
    """

    digest: str
    model_sha256: str
    certified: tuple[int, ...]


class Trend(Row, frozen=True, kw_only=True):
    """The earlier reading that a diagnostic gate compares with, and its standard error or residual."""

    digest: str
    model_sha256: str
    value: float
    error: float


class GateRow(Row, frozen=True, kw_only=True):
    """The verdict of one gate: what was asked, what was found, and one sentence of reason.

    What was asked is complete (threshold, radius, claim, confidence, and whether the proved lower limit or the plain
    estimate is compared), so that the verdict can be re-derived from the report alone. ``norm`` is there when it was
    asked in another norm than the certificates', whose radii are then converted. With a ``baseline`` the
    threshold is the largest drop of the share that is allowed, and value, lower and upper are of its change. A proved
    bound of the network has neither claim nor confidence; its threshold is the largest constant allowed.

    ``diagnostic`` (true, or absent) says that the row judges a reading and no certificate; with a ``trend`` its
    threshold is how many standard errors the reading may lie above the earlier one.
    """

    name: str
    metric: str
    threshold: float
    radius: float | UnsetType = UNSET
    claim: Literal["population", "list"] | UnsetType = UNSET
    confidence: float | UnsetType = UNSET
    on: Literal["lower", "estimate"] | UnsetType = UNSET
    value: float | None
    lower: float | None
    upper: float | None
    verdict: Verdict
    reason: str
    norm: AnyNorm | UnsetType = UNSET
    baseline: Baseline | UnsetType = UNSET
    diagnostic: bool | UnsetType = UNSET
    trend: Trend | UnsetType = UNSET
