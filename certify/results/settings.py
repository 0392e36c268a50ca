"""Every option that can change a result, echoed whole into the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET, Struct, UnsetType

from certify.errors import InputError
from certify.results.plain_numbers import take_plain_numbers
from certify.results.row import Row
from certify.results.shifts import nearest_shifts
from certify.results.words import Bound, Effort, Method, Norm, SmoothingNorm

PLANNED_CAP, SEQUENTIAL_CAP = 10_000, 100_000  # draws per example when none are asked for
ALPHA, PILOT = 0.001, 128  # where something is drawn; without chance there is no alpha and no pilot
BY_PROCEDURE = -(2**62)  # stands for one of these until the settings are complete


class LipschitzSettings(Row, frozen=True, kw_only=True):
    """Every option of `certify lipschitz` that can change a result.

    ``method``: which proved bounds are tried ("auto": all, the least counts). ``effort``: how long multipliers and
    radii are searched. ``local``: the radius of the ball on which each example's own Lipschitz constant is bounded.
    """

    norm: Norm = "l2"
    method: Method = "auto"
    effort: Effort = "default"
    local: float | None = None
    arithmetic: Literal["exact", "float64", "float32"] = "exact"
    limit: int | None = None
    skip: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        take_plain_numbers(self)


class TopK(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="top-k"):
    """The task: certify that the class of the pilot stays among the ``k`` likeliest ones, within its radius."""

    k: int

    def __post_init__(self) -> None:
        take_plain_numbers(self)


class Regression(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="regression"):
    """The task: bound the ``quantile`` of every noisy output on the ball of ``radius`` around each input."""

    radius: float
    quantile: float = 0.5

    def __post_init__(self) -> None:
        take_plain_numbers(self)


class Segmentation(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="segmentation"):
    """The task: certify the class of each pixel where it is proved to have more than ``threshold`` of the votes."""

    threshold: float = 0.75

    def __post_init__(self) -> None:
        take_plain_numbers(self)


class Scales(Row, frozen=True, kw_only=True):
    """A scale of the noise for every coordinate: the hash of the array, its extremes, and an estimate of its mean.

    R times ``geometric_mean``, an estimate, is the radius of the l2 ball with the volume of the certified ellipsoid.
    """

    sha256: str
    smallest: float
    largest: float
    geometric_mean: float


class SmoothingSettings(Row, frozen=True, kw_only=True):
    """Every option of `certify smooth` that can change a result. ``sigma`` is in the model's input space.

    ``sigma`` is the standard deviation of every coordinate of the noise, whose law gives the norm of the radii: l2 for
    Gaussian noise, l1 for uniform noise. With ``scales`` d_i it is sigma d_i in coordinate i, and radii are in
    ``weighted-l2``, the norm ||D^-1 v||_2.

    ``noise`` "split" is deterministic, for 8-bit data, in l1 (`certify.stats.splitting`): nothing is drawn, so that
    ``alpha`` (else 0.001) and ``n0`` (else 128) are 0 by default and the procedure is ``fixed``, and ``n`` is the
    number of shifts that ``sigma`` asks for: all of them are evaluated.

    With ``at``, radii in rising order, each example answers "is the radius at least this?" by a sequential test, and
    ``n`` is the most draws of it; ``procedure``, ``price`` and ``bound`` then play no part. The default of ``n`` is
    10,000, and 100,000 with ``at``.

    ``bound`` "randomized-clopper-pearson" is for those who ask for it here or in a configuration: its radii also depend
    on a number that the seed gives each example.

    ``compile`` runs the network compiled by `torch.compile`, ``channels_last`` with images and kernels in that memory
    format; each orders sums in its own way, so that each gives another base classifier.

    ``scores`` "soft" smooths scores on the simplex instead of votes: the run chooses their map and temperature on its
    pilots, and may keep the votes, unless ``score_map`` or ``temperature`` is given.

    Example:
        >>> SmoothingSettings(sigma=0.25).n, SmoothingSettings(sigma=0.25, at=(0.5, 0.25)).n
        (10000, 100000)
        >>> split = SmoothingSettings(sigma=0.25, noise="split")
        >>> split.n, split.n0, split.alpha
        (221, 0, 0.0)
    """

    sigma: float
    noise: Literal["gaussian", "uniform", "split"] = "gaussian"
    float_noise: bool = False
    at: tuple[float, ...] = ()
    n: int = BY_PROCEDURE
    n0: int = BY_PROCEDURE
    alpha: float = BY_PROCEDURE
    procedure: Literal["planned", "fixed"] = "planned"
    price: float = 1e-5
    bound: Bound = "two-interval"
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    limit: int | None = None
    skip: int = 0
    seed: int = 0
    scales: Scales | UnsetType = UNSET
    task: TopK | Regression | Segmentation | UnsetType = UNSET

    compile: bool | UnsetType = UNSET
    channels_last: bool | UnsetType = UNSET
    scores: Literal["hard", "soft"] | UnsetType = UNSET
    score_map: Literal["softmax", "sparsemax"] | UnsetType = UNSET
    temperature: float | UnsetType = UNSET

    def __post_init__(self) -> None:
        take_plain_numbers(self)
        msgspec.structs.force_setattr(self, "at", tuple(sorted(set(self.at))))
        if self.scores == "hard":  # what was meant before there was a choice: the same settings, and the same store
            msgspec.structs.force_setattr(self, "scores", UNSET)
        for choice in ("compile", "channels_last"):  # the same settings, and the same store, as before there was one
            if getattr(self, choice) is False:
                msgspec.structs.force_setattr(self, choice, UNSET)
        if self.deterministic and self.procedure == "planned":
            msgspec.structs.force_setattr(self, "procedure", "fixed")
        for name, value in self._defaults().items():
            if getattr(self, name) == BY_PROCEDURE:
                msgspec.structs.force_setattr(self, name, value)

    def _defaults(self) -> dict[str, float]:
        """Return the defaults that depend on other settings."""
        if self.deterministic:
            return {"alpha": 0.0, "n0": 0, "n": nearest_shifts(self.sigma)}
        return {"alpha": ALPHA, "n0": PILOT, "n": SEQUENTIAL_CAP if self.at else PLANNED_CAP}

    @property
    def deterministic(self) -> bool:
        """Whether nothing is random in the certificates."""
        return self.noise == "split"

    @property
    def norm(self) -> SmoothingNorm:
        """The norm of the radii."""
        if self.noise in ("uniform", "split"):
            return "l1"
        return "l2" if self.scales is UNSET else "weighted-l2"

    @property
    def program(self) -> str:
        """What the network runs in, in words: its dtype, its memory format, and whether it is compiled."""
        chosen = (("channels-last", self.channels_last), ("compiled by torch.compile", self.compile))
        return ", ".join([self.dtype, *(words for words, choice in chosen if choice is True)])

    @property
    def top_k(self) -> int:
        """Among how many likeliest classes the certified one stays: 1 unless a task asks for more."""
        return self.task.k if isinstance(self.task, TopK) else 1


def refuse_other_words(values: Mapping[str, Any], kind: type[msgspec.Struct]) -> None:
    """Return when each text for a field that has a list of words is one of them; msgspec does not say which they are.

    Raises:
        InputError: Naming the field and its words.

    Example:
        >>> refuse_other_words({"norm": "l7"}, LipschitzSettings)
        Traceback (most recent call last):
        certify.errors.InputError: norm: expected l2 or linf, got 'l7'
    """
    for field, hint in get_type_hints(kind).items():
        inner = hint if get_origin(hint) is Literal else next(iter(get_args(hint)), None)
        words = get_args(inner) if get_origin(inner) is Literal else ()
        if words and isinstance(values.get(field), str) and values[field] not in words:
            raise InputError(f"{field}: expected {' or '.join(words)}, got {values[field]!r:.100}")
