"""Rows of a Lipschitz run: the network, its layers, its examples."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from certify.results.row import Row
from certify.results.words import Norm


class NetworkBound(Row, frozen=True, kw_only=True):
    """The Lipschitz bound of the whole network; ``upper`` is null when there is none, and ``reason`` says why.

    ``data_floor`` and ``slope_floor`` are estimates of what is possible: the steepest slope found, and the steepest
    that any method could exclude which knows of each activation only its range of slopes. ``limited_by`` says in one
    sentence what keeps ``upper`` from them.
    """

    norm: Norm
    upper: float | None
    lower: float | None
    method: str
    proved: bool
    reason: str | UnsetType = UNSET
    data_floor: float | UnsetType = UNSET
    slope_floor: float | UnsetType = UNSET
    limited_by: str | UnsetType = UNSET


class LayerRow(Row, frozen=True, kw_only=True):
    """The bracket of one operation; ``upper`` is null when it has no bound, and ``method`` then says why.

    ``share`` (an estimate) is the part of the network's bound that grows in this operation: the logarithm of its
    growth, among the logarithms of all growths above 1.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    upper: float | None
    lower: float | None
    method: str
    share: float | UnsetType = UNSET


class LipschitzExample(Row, frozen=True, kw_only=True):
    """One certified example of a Lipschitz run.

    ``radius`` is ``(margin_lower - error_upper) / gain_upper`` of the limiting class pair, rounded down, and 0 when
    that is not positive: ``margin_lower`` is the float64 margin rounded down, ``error_upper`` bounds its floating-point
    error (and that of the deployed program, when the arithmetic asks for it), ``gain_upper`` the Lipschitz constant of
    the logit difference. All three are null when there is no bound. A local certificate speaks of a ball: ``ball`` is
    its radius, the gain holds for inputs inside it alone, and ``radius`` is at most ``ball``. ``local_upper`` bounds
    the Lipschitz constant of all logits on the ball of the settings' ``local``; null when nothing finite is proved.
    """

    index: int
    id: str
    hash: str
    label: int
    predicted: int | None
    correct: bool
    radius: float
    norm: Norm
    clean_predicted: int
    method: str
    margin_lower: float | None
    gain_upper: float | None
    error_upper: float | None
    seconds: float
    ball: float | UnsetType = UNSET
    local_upper: float | UnsetType | None = UNSET
    reason: str | UnsetType = UNSET
