"""One gate: what a requirement may ask, and how it is read from a table of the configuration."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from certify.errors import InputError
from certify.results import AnyNorm, refuse_other_words, take_plain_numbers

MAX_DROP = 0.01  # below a baseline, where a gate names none
UNASKED = -1.0  # stands for no threshold from below
COUNTED = frozenset({"certified_accuracy", "clean_accuracy"})  # one count of all examples decides these
AT_A_RADIUS = frozenset({"certified_accuracy", "class_certified_accuracy"})
SHARES = AT_A_RADIUS | COUNTED
DIAGNOSTICS = frozenset(
    {"curvature_lambda_max", "curvature_trace", "loss_gap", "last_layer_lambda_max", "last_layer_trace"}
)  # readings, and no certificates
HASH_START = re.compile(r"[0-9a-f]{8,64}")


class Gate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One requirement on a report; the fields are the keys of a ``[[gate]]`` table.

    ``metric`` is ``certified_accuracy`` at a ``radius``, the same in every class (``class_certified_accuracy``),
    ``clean_accuracy``, or ``mean_radius``, each at least ``min``; or ``lipschitz``, the proved constant of the network,
    at most ``max``, which has neither claim nor confidence. ``kind`` None takes the certificates of whichever report it
    is given. With a ``baseline``, the path of an earlier report, the share certified at ``radius`` may drop by at most
    ``max_drop`` below it, and ``min`` plays no part.

    A radius in ``norm`` ``weighted-l2`` has the unit of the scales D of the noise. ``scales`` says which: their sha256
    as the report has it, or its first hex digits, 8 at least. A report with other scales is refused.

    The metrics in `DIAGNOSTICS` are readings of curvature and no certificates (`certify.policy.diagnostics`): at most
    ``max``, or with a ``baseline`` at most ``tolerance`` standard errors above its reading.

    Raises:
        ValueError: If a value is outside its range, is missing, or does not apply.
    """

    name: str
    metric: Literal[
        "certified_accuracy",
        "clean_accuracy",
        "class_certified_accuracy",
        "mean_radius",
        "lipschitz",
        "curvature_lambda_max",
        "curvature_trace",
        "loss_gap",
        "last_layer_lambda_max",
        "last_layer_trace",
    ]
    min: float = UNASKED
    max: float | None = None
    kind: Literal["lipschitz", "smoothing", "curvature"] | None = None
    norm: AnyNorm = "l2"
    radius: float | None = None
    claim: Literal["population", "list"] = "population"
    confidence: float = 0.95
    on: Literal["lower", "estimate"] = "lower"
    baseline: str | None = None
    max_drop: float | None = None
    scales: str | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        take_plain_numbers(self)
        if not 0.5 < self.confidence < 1.0:
            raise ValueError(f"key 'confidence': expected a number above 1/2 and below 1, got {self.confidence!r}")
        if self.metric not in AT_A_RADIUS and self.radius is not None:
            raise ValueError(f"key 'radius': {self.metric} has none; remove it, or ask for certified_accuracy")
        if self.metric in AT_A_RADIUS and not (self.radius is not None and 0.0 <= self.radius < math.inf):
            raise ValueError(f"key 'radius': {self.metric} needs a radius of at least 0, got {self.radius!r}")
        if self.diagnostic:
            self._check_diagnostic()
            return
        self._check_certificate()
        if self.metric == "lipschitz":
            self._check_network()
        else:
            self._check_least()
        self._check_drop()
        self._check_scales()

    @property
    def diagnostic(self) -> bool:
        """Whether this is a question about a reading, and not about a certificate."""
        return self.metric in DIAGNOSTICS

    @property
    def certificates(self) -> Literal["lipschitz", "smoothing", "curvature"] | None:
        """The kind of report that can answer; None for any of certificates."""
        return "lipschitz" if self.metric == "lipschitz" else "curvature" if self.diagnostic else self.kind

    def _check_certificate(self) -> None:
        if self.kind == "curvature":
            raise ValueError(f"key 'kind': {self.metric} is asked of certificates, got curvature; remove it")
        if self.tolerance is not None:
            raise ValueError(f"key 'tolerance': {self.metric} has none, it belongs to readings of curvature")

    def _check_diagnostic(self) -> None:
        if self.kind not in (None, "curvature"):
            raise ValueError(f"key 'kind': {self.metric} is a reading of curvature, got {self.kind}; remove it")
        if (self.max is None) == (self.baseline is None):
            raise ValueError(f"keys 'max' and 'baseline': {self.metric} needs one of them, not both")
        if self.max is not None and not 0.0 <= self.max < math.inf:
            raise ValueError(f"key 'max': expected a number of at least 0, got {self.max!r}")
        if self.tolerance is not None and (self.baseline is None or not 0.0 <= self.tolerance < math.inf):
            raise ValueError(
                f"key 'tolerance': expected a number of at least 0 beside a baseline, got {self.tolerance!r}"
            )
        others = (self.min, self.claim, self.confidence, self.on, self.max_drop, self.scales, self.norm)
        if others != (UNASKED, "population", 0.95, "lower", None, None, "l2"):
            raise ValueError(
                f"keys 'min', 'norm', 'claim', 'confidence', 'on', 'max_drop', 'scales': {self.metric} is the plain "
                "value of a reading; remove them"
            )

    def _check_least(self) -> None:
        if self.max is not None:
            raise ValueError(f"key 'max': {self.metric} has none, it belongs to lipschitz; set min")
        if self.min == UNASKED:
            raise ValueError("missing required field `min`")
        if self.metric in SHARES and not 0.0 <= self.min <= 1.0:
            raise ValueError(f"key 'min': expected a share within 0..1, got {self.min!r}; write 0.6 for 60 %")
        if not 0.0 <= self.min < math.inf:
            raise ValueError(f"key 'min': expected a radius of at least 0, got {self.min!r}")

    def _check_network(self) -> None:
        if self.max is None or not 0.0 <= self.max < math.inf:
            raise ValueError(f"key 'max': lipschitz needs a number of at least 0, got {self.max!r}")
        if self.min != UNASKED:
            raise ValueError("key 'min': lipschitz has none; set max")
        if (self.claim, self.confidence, self.on) != ("population", 0.95, "lower"):
            raise ValueError("keys 'claim', 'confidence', 'on': a proved bound of the network has none; remove them")
        if self.kind == "smoothing":
            raise ValueError("key 'kind': expected lipschitz, got smoothing; remove it")

    def _check_drop(self) -> None:
        if (self.baseline is None) != (self.max_drop is None):
            raise ValueError("keys 'baseline' and 'max_drop': expected both or none, got one; name the earlier report")
        if self.max_drop is None:
            return
        if not 0.0 <= self.max_drop <= 1.0:
            raise ValueError(f"key 'max_drop': expected a share within 0..1, got {self.max_drop!r}; write 0.02 for 2 %")
        if self.metric != "certified_accuracy":
            raise ValueError(
                f"key 'baseline': expected metric certified_accuracy, got {self.metric}; remove one of them"
            )
        if self.claim == "list" and self.on == "lower":
            raise ValueError("key 'claim': a drop is shown for the population; for this list set on = \"estimate\"")

    def _check_scales(self) -> None:
        if self.scales is None:
            return
        if self.norm != "weighted-l2":
            raise ValueError(f"key 'scales': it belongs to norm weighted-l2, got {self.norm}; remove one of them")
        if not HASH_START.fullmatch(self.scales):
            raise ValueError(
                f"key 'scales': expected the sha256 of the scales, 8 to 64 lower-case hex digits, got {self.scales!r}; "
                "copy it from the report"
            )


def parse_gates(tables: Sequence[Mapping[str, Any]]) -> tuple[Gate, ...]:
    """Return the gates of the ``[[gate]]`` tables of a configuration.

    Raises:
        InputError: If a key is unknown, missing, not of its type or range, or a name occurs twice.

    Example:
        >>> parse_gates([{"name": "clean", "metric": "clean_accuracy", "min": 0.9}])[0].claim
        'population'
    """
    gates = tuple(_parse_gate(table, number) for number, table in enumerate(tables, start=1))
    names = [gate.name for gate in gates]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"gate {name!r}: expected a name of its own for each gate; rename one of them")
    return gates


def _parse_gate(table: Mapping[str, Any], number: int) -> Gate:
    label = f"gate {table.get('name', number)!r}"
    try:
        refuse_other_words(table, Gate)
        return msgspec.convert(_completed(table), Gate)
    except (msgspec.ValidationError, InputError) as error:
        raise InputError(f"{label}: {error}; the keys are {', '.join(Gate.__struct_fields__)}") from error


def _completed(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of a gate with what a baseline implies: the metric, the margin, and no threshold of its own.

    Raises:
        InputError: If it has both a baseline and a threshold.
    """
    if "baseline" not in table or table.get("metric") in DIAGNOSTICS:
        return dict(table)
    if "min" in table:
        raise InputError("key 'min': expected none beside a baseline, got one; write two gates")
    return {"metric": "certified_accuracy", "max_drop": MAX_DROP, **table, "min": 0.0}
