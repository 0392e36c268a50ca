"""The results that cross borders, and their strict JSON.

Words of this file. A number is ``upper`` or ``lower`` when it is proved (rounded outward), and ``estimate`` otherwise.
A *bracket* holds both ends of a proved enclosure. *Not knowing is a value*: `Unbounded` carries the reason and the
module where the analysis stopped, and fails every finite requirement.

The report is one struct per kind, told apart by its field ``kind``. Its JSON is strict: keys sorted, no NaN, no
infinity, no unknown and no duplicate keys. A field that does not apply is absent (`msgspec.UNSET`); a number that is
not finite is null beside its reason.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET, Struct, UnsetType

from certify.errors import InputError, SoundnessError

SCHEMA = "certify/report/1"
MAX_JSON_DEPTH = 64
PLANNED_CAP, SEQUENTIAL_CAP = 10_000, 100_000  # draws per example when none are asked for
BY_PROCEDURE = -(2**62)  # stands for one of the two above until the settings are complete
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")  # escaped, or as it is

Norm: TypeAlias = Literal["l2", "linf"]
SmoothingNorm: TypeAlias = Literal["l1", "l2", "weighted-l2"]
AnyNorm: TypeAlias = Literal["l1", "l2", "linf", "weighted-l2"]
Method: TypeAlias = Literal["auto", "product", "covariance"]
Effort: TypeAlias = Literal["fast", "default", "max"]
FalsifyLevel: TypeAlias = Literal["off", "quick", "full"]
Verdict: TypeAlias = Literal["passed", "failed", "undecided"]
Answer: TypeAlias = Literal["certified", "not_certified", "undecided"]
Bound: TypeAlias = Literal["two-interval", "clopper-pearson", "cpm", "bonferroni", "randomized-clopper-pearson"]
Change: TypeAlias = Literal["both", "won", "lost", "neither"]
Certificates: TypeAlias = Literal["lipschitz", "smoothing"]


class Bracket(Struct, frozen=True):
    """A proved enclosure ``lower <= truth <= upper`` and how it was proved.

    Raises:
        SoundnessError: If the ends are not ordered, negative, or NaN.
    """

    lower: float
    upper: float
    method: str

    def __post_init__(self) -> None:
        if not (0.0 <= self.lower <= self.upper):
            raise SoundnessError(f"expected 0 <= lower <= upper, got [{self.lower}, {self.upper}] by {self.method}")


class Unbounded(Struct, frozen=True):
    """The typed answer "there is no finite bound here": why, and at which module."""

    reason: str
    module: str = ""

    def __str__(self) -> str:
        where = f" at {self.module}" if self.module else ""
        return f"unbounded: {self.reason}{where}"


class RandomStartUpper(Struct, frozen=True):
    """An upper bound that fails with a known probability over a random start: no end of any `Bracket`.

    It has a type, a column and a failure probability of its own, and never enters a deterministic verdict.

    Raises:
        SoundnessError: If the bound is negative or NaN, or the probability outside (0, 1).
    """

    upper: float
    failure_probability: float

    def __post_init__(self) -> None:
        if not (self.upper >= 0.0 and 0.0 < self.failure_probability < 1.0):
            raise SoundnessError(f"expected upper >= 0 with a probability in (0, 1), got {self}")


class InputSpace(Struct, frozen=True, forbid_unknown_fields=True):
    """The space the data, the radii and sigma live in: shape without the batch, value range, and its name in words."""

    shape: tuple[int, ...]
    range: tuple[float, float] | None = None
    space: str = "input"

    @property
    def size(self) -> int:
        """The number of coordinates d of one input."""
        return math.prod(self.shape)


class _Row(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every struct in the report: unknown fields are errors."""


class Tool(_Row, frozen=True, kw_only=True):
    """What computed the report."""

    version: str
    python: str
    torch: str
    device_kind: str
    dtype: str


class ModelRecord(_Row, frozen=True, kw_only=True):
    """Which model the report speaks of. ``source`` names the format and architecture, never a path."""

    sha256: str
    source: str
    input: InputSpace
    classes: tuple[str, ...]
    parameters: int


class Part(_Row, frozen=True, kw_only=True):
    """Part ``number`` of ``parts`` of a run over ``of`` examples: every ``parts``-th, from the ``number``-th on."""

    number: int
    parts: int
    of: int


class DataRecord(_Row, frozen=True, kw_only=True):
    """Which examples the report speaks of; with ``part``, all that it says is of that part of them.

    ``eight_bit`` says whether every one of them is stored as 8-bit pixels: integer noise is for these alone.
    """

    sha256: str
    count: int
    selection: str
    part: Part | UnsetType = UNSET
    eight_bit: bool | UnsetType = UNSET


class LipschitzSettings(_Row, frozen=True, kw_only=True):
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


class TopK(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="top-k"):
    """The task: certify that the class of the pilot stays among the ``k`` likeliest ones, within its radius."""

    k: int


class Regression(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="regression"):
    """The task: bound the ``quantile`` of every noisy output on the ball of ``radius`` around each input."""

    radius: float
    quantile: float = 0.5


class Segmentation(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="segmentation"):
    """The task: certify the class of each pixel where it is proved to have more than ``threshold`` of the votes."""

    threshold: float = 0.75


class Scales(_Row, frozen=True, kw_only=True):
    """A scale of the noise for every coordinate: the hash of the array, its extremes, and an estimate of its mean.

    R times ``geometric_mean``, an estimate, is the radius of the l2 ball with the volume of the certified ellipsoid.
    """

    sha256: str
    smallest: float
    largest: float
    geometric_mean: float


class SmoothingSettings(_Row, frozen=True, kw_only=True):
    """Every option of `certify smooth` that can change a result. ``sigma`` is in the model's input space.

    ``sigma`` is the standard deviation of every coordinate of the noise, whose law gives the norm of the radii: l2 for
    Gaussian noise, l1 for uniform noise. With ``scales`` d_i it is sigma d_i in coordinate i, and radii are in
    ``weighted-l2``, the norm ||D^-1 v||_2.

    With ``at``, radii in rising order, each example answers "is the radius at least this?" by a sequential test, and
    ``n`` is the most draws of it; ``procedure``, ``price`` and ``bound`` then play no part. The default of ``n`` is
    10,000, and 100,000 with ``at``.

    ``bound`` "randomized-clopper-pearson" is for those who ask for it here or in a configuration: its radii also depend
    on a number that the seed gives each example.

    ``scores`` "soft" smooths scores on the simplex instead of votes: the run chooses their map and temperature on its
    pilots, and may keep the votes, unless ``score_map`` or ``temperature`` is given.

    Example:
        >>> SmoothingSettings(sigma=0.25).n, SmoothingSettings(sigma=0.25, at=(0.5, 0.25)).n
        (10000, 100000)
    """

    sigma: float
    noise: Literal["gaussian", "uniform"] = "gaussian"
    float_noise: bool = False
    at: tuple[float, ...] = ()
    n: int = BY_PROCEDURE
    n0: int = 128
    alpha: float = 0.001
    procedure: Literal["planned", "fixed"] = "planned"
    price: float = 1e-5
    bound: Bound = "two-interval"
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    limit: int | None = None
    skip: int = 0
    seed: int = 0
    scales: Scales | UnsetType = UNSET
    task: TopK | Regression | Segmentation | UnsetType = UNSET

    scores: Literal["hard", "soft"] | UnsetType = UNSET
    score_map: Literal["softmax", "sparsemax"] | UnsetType = UNSET
    temperature: float | UnsetType = UNSET

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "at", tuple(sorted(set(self.at))))
        if self.scores == "hard":  # what was meant before there was a choice: the same settings, and the same store
            msgspec.structs.force_setattr(self, "scores", UNSET)
        if self.n == BY_PROCEDURE:
            msgspec.structs.force_setattr(self, "n", SEQUENTIAL_CAP if self.at else PLANNED_CAP)

    @property
    def norm(self) -> SmoothingNorm:
        """The norm of the radii."""
        if self.noise == "uniform":
            return "l1"
        return "l2" if self.scales is UNSET else "weighted-l2"

    @property
    def top_k(self) -> int:
        """Among how many likeliest classes the certified one stays: 1 unless a task asks for more."""
        return self.task.k if isinstance(self.task, TopK) else 1


class Statement(_Row, frozen=True, kw_only=True):
    """What a certificate of this report promises: in words, and field by field."""

    text: str
    object: Literal["base", "smoothed"]
    arithmetic: str
    domain: str
    failure_probability: float
    joint: str


class NetworkBound(_Row, frozen=True, kw_only=True):
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


class LayerRow(_Row, frozen=True, kw_only=True):
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


class LipschitzExample(_Row, frozen=True, kw_only=True):
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


class Counts(_Row, frozen=True, kw_only=True):
    """Votes per class of one example; the last entry counts invalid (non-finite) outputs. ``n`` = draws counted."""

    selection: tuple[int, ...]
    estimation: tuple[int, ...]
    n0: int
    n: int
    seed: int


class ScoreSums(_Row, frozen=True, kw_only=True):
    """Sums of soft scores per class and of their squares, in units of 2^-30; the last entry is of invalid outputs.

    Each square is rounded up to a whole unit. ``method`` names which of the valid radii is the largest, and reported.
    """

    selection: tuple[int, ...]
    selection_squares: tuple[int, ...]
    estimation: tuple[int, ...]
    estimation_squares: tuple[int, ...]
    method: str


class Decision(_Row, frozen=True, kw_only=True):
    """The answer to "is the radius at least this?"; "certified" only where all smaller asked radii are too."""

    radius: float
    verdict: Answer


class SmoothingExample(_Row, frozen=True, kw_only=True):
    """One certified example of a smoothing run; ``predicted`` is null on abstention, ``radius`` then 0.

    With asked radii, ``stopped`` is "gs" (the draws ended by a group-sequential test, so no bound for a fixed number
    of draws holds for the counts), ``decisions`` are the answers, and ``radius`` is the largest certified one.
    ``uniform`` is the random number of a randomized bound: a function of the seed, the id and the hash alone.
    """

    index: int
    id: str
    hash: str
    label: int
    predicted: int | None
    correct: bool
    radius: float
    norm: SmoothingNorm
    counts: Counts
    procedure: str
    seconds: float
    stopped: Literal["gs"] | UnsetType = UNSET
    decisions: tuple[Decision, ...] | UnsetType = UNSET
    uniform: float | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    scores: ScoreSums | UnsetType = UNSET


class OutputInterval(_Row, frozen=True, kw_only=True):
    """One output of a regression: proved ends of its noisy quantile, null where no draw bounds them.

    ``estimate`` is the quantile of the draws, ``invalid`` how many of them were not a number.
    """

    lower: float | None
    upper: float | None
    estimate: float | None
    invalid: int


class RegressionExample(_Row, frozen=True, kw_only=True, tag_field="kind", tag="regression"):
    """One input of a regression: all its intervals hold together on the ball of ``radius``, with one alpha."""

    index: int
    id: str
    hash: str
    radius: float
    outputs: tuple[OutputInterval, ...]
    n0: int
    n: int
    seed: int
    seconds: float


class SegmentationExample(_Row, frozen=True, kw_only=True, tag_field="kind", tag="segmentation"):
    """One input of a segmentation: all its certified pixels hold together on the ball of ``radius``, with one alpha.

    ``selected`` is the class the pilot chose for each pixel (the number of classes: invalid), ``agreements`` the draws
    that agree with it, ``predicted`` the class of a certified pixel, null on abstention.
    """

    index: int
    id: str
    hash: str
    radius: float
    selected: tuple[int, ...]
    agreements: tuple[int, ...]
    predicted: tuple[int | None, ...]
    n0: int
    n: int
    seed: int
    seconds: float


class UnsampledExample(_Row, frozen=True, kw_only=True):
    """An example without draws: the verdicts of all gates were settled before its turn."""

    index: int
    id: str
    hash: str
    label: int


def clean_correct(example: LipschitzExample | SmoothingExample | LogExample) -> bool:
    """Return whether the clean answer is the label: the network's own argmax, or the smoothed vote (no abstention).

    With the task "among the k likeliest" the recorded class is that of the pilot: the answer, for k = 1 alone.
    """
    if isinstance(example, LipschitzExample):
        return example.clean_predicted == example.label
    return example.predicted == example.label


def certified_at(example: LipschitzExample | SmoothingExample | LogExample, radius: float) -> bool:
    """Return whether an example counts as certified at a radius: correct, its own radius positive and no smaller."""
    return example.correct and example.radius > 0.0 and example.radius >= radius


class SequentialTable(_Row, frozen=True, kw_only=True):
    """The test of one asked radius: after ``looks[j]`` draws ``up[j]`` votes certify it and ``lo[j]`` give it up.

    ``level`` bounds the chance of certifying it wrongly. A row above its look, or below 0, cannot be reached.
    """

    radius: float
    looks: tuple[int, ...]
    up: tuple[int, ...]
    lo: tuple[int, ...]
    level: float
    sha256: str


class ScoreCandidate(_Row, frozen=True, kw_only=True):
    """A map and temperature that were tried on the pilots, and their mean worth there, an estimate, in sigmas."""

    map: Literal["argmax", "softmax", "sparsemax"]
    temperature: float
    worth: float


class ScoreTable(_Row, frozen=True, kw_only=True):
    """Which scores the run smooths, chosen on all its pilots, and what is proved about the logits under them.

    ``candidates[chosen]`` is in use; ``argmax`` (temperature 0) stands for votes. ``lipschitz`` is at least the l2
    Lipschitz constant of the logits, ``logit_error`` at least the l2 error of the logits as run, at any input with
    noise; both are null when one is not proved, ``reason`` says why, and only radii that hold for any scores are used.
    """

    candidates: tuple[ScoreCandidate, ...]
    chosen: int
    lipschitz: float | None
    logit_error: float | None
    reason: str | UnsetType = UNSET


class Tables(_Row, frozen=True, kw_only=True):
    """How many draws each pilot asked for, and where the noise came from.

    ``plan[k]`` is the number of estimation draws after k pilot votes for the selected class (null under ``fixed``, and
    with asked radii, which have one table each in ``sequential``).
    ``alpha_charged`` is the part of alpha spent on the rounding of the noise law; bounds run at the rest.
    """

    plan: tuple[int, ...] | None
    plan_sha256: str | None
    noise: str
    noise_law: str
    alpha_charged: float
    sequential: tuple[SequentialTable, ...] | UnsetType = UNSET
    scores: ScoreTable | UnsetType = UNSET


class CertifiedAccuracy(_Row, frozen=True, kw_only=True):
    """The share of examples certified correct at ``radius``, with its two one-sided limits over examples."""

    radius: float
    accuracy: float
    lower: float
    upper: float
    confidence: float


class CertifiedCount(_Row, frozen=True, kw_only=True):
    """What a run that stopped early shows at ``radius``: of ``examples``, ``at_least`` and no more than ``at_most``."""

    radius: float
    at_least: int
    at_most: int
    examples: int


class WholeCurve(_Row, frozen=True, kw_only=True):
    """At every radius at once the share truly certified in the population is at least the observed minus this."""

    deviation: float
    confidence: float


class Summary(_Row, frozen=True, kw_only=True):
    """The examples in one view. ``mean_radius`` averages radius x correct over all examples; null after stops.

    ``clean_accuracy`` is null where the certificates do not say which class is answered: among the k likeliest, k > 1.

    With asked radii, ``certified_accuracy`` is at these. A run that stopped early has ``unsampled`` examples without
    draws: no share of all ``examples`` is known, so ``clean_accuracy`` is null, ``certified_accuracy`` empty, and
    ``certified_counts`` says what is.
    """

    examples: int
    clean_accuracy: float | None
    abstained: int
    mean_radius: float | None
    certified_accuracy: tuple[CertifiedAccuracy, ...]
    unsampled: int | UnsetType = UNSET
    certified_counts: tuple[CertifiedCount, ...] | UnsetType = UNSET
    whole_curve: WholeCurve | UnsetType = UNSET


class Baseline(_Row, frozen=True, kw_only=True):
    """The earlier report that a gate compares with: its digest and model, and which examples it certified.

    ``certified`` are the indices of the examples of the judged report that the earlier one certified.
    """

    digest: str
    model_sha256: str
    certified: tuple[int, ...]


class GateRow(_Row, frozen=True, kw_only=True):
    """The verdict of one gate: what was asked, what was found, and one sentence of reason.

    What was asked is complete (threshold, radius, claim, confidence, and whether the proved lower limit or the plain
    estimate is compared), so that the verdict can be re-derived from the report alone. ``norm`` is there when it was
    asked in another norm than the certificates', whose radii are then converted. With a ``baseline`` the
    threshold is the largest drop of the share that is allowed, and value, lower and upper are of its change. A proved
    bound of the network has neither claim nor confidence; its threshold is the largest constant allowed.
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


class Falsifier(_Row, frozen=True, kw_only=True):
    """What was tried against the certificates before the report left, and what it found."""

    level: FalsifyLevel
    tried: str
    found: int


class Execution(_Row, frozen=True, kw_only=True):
    """Where and how the run took place: never hashed, free to differ between two runs of the same thing."""

    model_path: str = ""
    data_path: str = ""
    batch: str = ""
    micro_batch: int = 0
    workers: int = 1
    threads: int = 0
    shard: str = ""
    device_name: str = ""
    started: str = ""
    seconds: float = 0.0
    earlier_seeds: tuple[int, ...] = ()


class _Report(_Row, frozen=True, kw_only=True):
    """The fields that every kind of report has."""

    schema: str = SCHEMA
    tool: Tool
    model: ModelRecord
    data: DataRecord | UnsetType = UNSET
    statement: Statement
    summary: Summary | UnsetType = UNSET
    gates: tuple[GateRow, ...] = ()
    falsifier: Falsifier
    digest: str = ""
    execution: Execution


class LipschitzReport(_Report, frozen=True, kw_only=True, tag_field="kind", tag="lipschitz"):
    """The report of `certify lipschitz`."""

    settings: LipschitzSettings
    network: NetworkBound
    layers: tuple[LayerRow, ...]
    examples: tuple[LipschitzExample, ...] = ()


class SmoothingReport(_Report, frozen=True, kw_only=True, tag_field="kind", tag="smoothing"):
    """The report of `certify smooth`, or of a gate: ``unsampled`` examples follow those in ``examples``."""

    settings: SmoothingSettings
    tables: Tables
    examples: tuple[SmoothingExample, ...]
    unsampled: tuple[UnsampledExample, ...] | UnsetType = UNSET


Report: TypeAlias = LipschitzReport | SmoothingReport


class ComparedRun(_Row, frozen=True, kw_only=True):
    """One of two compared reports: which one it was, by its ``digest``, and what made it.

    Of the two settings the one of its kind is there; ``noise_law`` belongs to smoothing.
    """

    digest: str
    tool: Tool
    model: ModelRecord
    lipschitz: LipschitzSettings | UnsetType = UNSET
    smoothing: SmoothingSettings | UnsetType = UNSET
    noise_law: str | UnsetType = UNSET


class ComparisonSettings(_Row, frozen=True, kw_only=True):
    """What was asked of two reports: how many examples are certified at ``radius`` in each, and which are lost.

    ``max_drop`` is the margin of non-inferiority, ``confidence`` that of each limit over examples.
    """

    certificates: Certificates
    norm: AnyNorm
    radius: float
    max_drop: float = 0.01
    confidence: float = 0.95


class PairedExample(_Row, frozen=True, kw_only=True):
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


class PairedCounts(_Row, frozen=True, kw_only=True):
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


class RadiusSigns(_Row, frozen=True, kw_only=True):
    """In how many examples the radius (0 where the answer is wrong or absent) grew, fell, or stayed."""

    larger: int
    smaller: int
    equal: int


class ComparisonSummary(_Row, frozen=True, kw_only=True):
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


class ComparisonReport(_Row, frozen=True, kw_only=True, tag_field="kind", tag="comparison"):
    """The report of `certify compare`: two reports on the same examples, paired."""

    schema: str = SCHEMA
    tool: Tool
    old: ComparedRun
    new: ComparedRun
    data: DataRecord
    settings: ComparisonSettings
    statement: Statement
    examples: tuple[PairedExample, ...]
    summary: ComparisonSummary
    gates: tuple[GateRow, ...] = ()
    digest: str = ""
    execution: Execution


class LogSettings(_Row, frozen=True, kw_only=True):
    """What the owner of a log says about it, and a log itself does not hold; ``sigma`` is null where nobody said."""

    sigma: float | None = None
    alpha: float = 0.001
    n: int = 100_000


class LogFile(_Row, frozen=True, kw_only=True):
    """The file a log was read from."""

    sha256: str
    columns: tuple[str, ...]


class LogExample(_Row, frozen=True, kw_only=True):
    """One row of a log, as written; ``predicted`` is null on abstention, ``seconds`` where the log has none."""

    index: int
    label: int
    predicted: int | None
    correct: bool
    radius: float
    seconds: float | None = None


class LogFinding(_Row, frozen=True, kw_only=True):
    """What an audit found against a log: of which kind, in how many rows, the first few of them, and in words."""

    kind: Literal["impossible radius", "missing rows", "order", "flag", "radius", "rounding"]
    count: int
    rows: tuple[int, ...]
    text: str


class Explanation(_Row, frozen=True, kw_only=True):
    """Settings that give the largest written radii: all of the ``radii`` distinct ones that could contradict them."""

    sigma: float
    alpha: float
    n: int
    radii: int


class LogAudit(_Row, frozen=True, kw_only=True):
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


class LogReport(_Row, frozen=True, kw_only=True, tag_field="kind", tag="log"):
    """A certification log of the field, imported: its rows as written, and what an audit says about them."""

    schema: str = SCHEMA
    tool: Tool
    file: LogFile
    settings: LogSettings
    statement: Statement
    audit: LogAudit
    summary: Summary
    examples: tuple[LogExample, ...]
    gates: tuple[GateRow, ...] = ()
    digest: str = ""
    execution: Execution


Listing: TypeAlias = Report | LogReport
"""Every report that lists certificates, example by example."""


class OutputsSummary(_Row, frozen=True, kw_only=True):
    """How much is certified: ``certified`` of ``outputs`` in all examples (intervals with two ends, or pixels).

    ``mean_width`` is the mean width of these intervals, rounded up; null for pixels, or where there are none.
    """

    examples: int
    outputs: int
    certified: int
    mean_width: float | None


class OutputsReport(_Row, frozen=True, kw_only=True, tag_field="kind", tag="outputs"):
    """The report of a smoothed regression or segmentation; ``output_shape`` is that of one input's outputs."""

    schema: str = SCHEMA
    tool: Tool
    model: ModelRecord
    output_shape: tuple[int, ...]
    data: DataRecord
    settings: SmoothingSettings
    statement: Statement
    tables: Tables
    examples: tuple[RegressionExample | SegmentationExample, ...]
    summary: OutputsSummary
    falsifier: Falsifier
    digest: str = ""
    execution: Execution


Document: TypeAlias = Report | ComparisonReport | LogReport | OutputsReport
"""All that can stand in a ``report.json``: certificates of classes or of outputs, the comparison of two reports, or an
imported log."""


def unsampled_of(report: Report) -> tuple[UnsampledExample, ...]:
    """Return the examples of a report that got no draws, since the verdicts of its gates were settled before."""
    return report.unsampled if isinstance(report, SmoothingReport) and report.unsampled is not UNSET else ()


def dump_json(value: object, *, indent: int | None = None) -> str:
    """Return the strict JSON of a plain value or a struct: keys sorted, ASCII, NaN and infinity refused.

    Raises:
        SoundnessError: If a number in it is not finite.

    Example:
        >>> dump_json({"b": 1, "a": [0.5, None]})
        '{"a":[0.5,null],"b":1}'
    """
    separators = (",", ":") if indent is None else (",", ": ")
    plain = msgspec.to_builtins(value)
    try:
        return json.dumps(plain, sort_keys=True, allow_nan=False, separators=separators, indent=indent)
    except ValueError as error:
        raise SoundnessError(f"a report must hold finite numbers only: {error}") from error


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"duplicate key {twice!r}")
    return found


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"number out of range: {text}")
    return value


def _depth_within(text: str, limit: int) -> bool:
    depth, in_string, escaped = 0, False, False
    for character in text:
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            if depth > limit:
                return False
        elif character in "]}":
            depth -= 1
    return True


def _refuse_surrogates(text: str, value: Any) -> None:  # noqa: ANN401 - plain JSON
    """Refuse half of a surrogate pair: Python's JSON takes it, and nothing can write or compare it as UTF-8."""
    written = json.dumps(value, ensure_ascii=False) if SURROGATE.search(text) else ""
    if any("\ud800" <= character <= "\udfff" for character in written):
        raise ValueError("half of a surrogate pair, which is not valid Unicode")


def load_json(data: bytes | str, *, name: str, max_depth: int = MAX_JSON_DEPTH) -> Any:  # noqa: ANN401 - plain JSON
    """Return the plain value of strict JSON: UTF-8, no duplicate keys, no NaN, no infinity, bounded nesting.

    Half of a surrogate pair is refused too, and two escapes that make one character are not.

    Args:
        data: The text, or its bytes.
        name: What is parsed, for the error message.
        max_depth: The deepest nesting accepted.

    Raises:
        InputError: If the text is anything but strict JSON.

    Example:
        >>> load_json('{"a": 1}', name="example")
        {'a': 1}
    """
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        if not _depth_within(text, max_depth):
            raise ValueError(f"nested deeper than {max_depth}")
        value = json.loads(
            text,
            object_pairs_hook=_refuse_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
        _refuse_surrogates(text, value)
        return value
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: expected strict JSON, got {error}") from error


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


def report_digest(report: Document) -> str:
    """Return the sha256 of everything in a report except ``digest``, ``execution`` and each example's ``seconds``."""
    plain = msgspec.to_builtins(report)
    del plain["digest"], plain["execution"]
    for example in plain["examples"]:
        example.pop("seconds", None)
    return hashlib.sha256(dump_json(plain).encode()).hexdigest()


AnyReport = TypeVar("AnyReport", bound=LipschitzReport | SmoothingReport | ComparisonReport | LogReport | OutputsReport)


def seal(report: AnyReport) -> AnyReport:
    """Return the report with its digest filled in."""
    return msgspec.structs.replace(report, digest=report_digest(report))


def report_to_json(report: Document) -> str:
    """Return the text of ``report.json``: strict, sorted, indented, with a final newline."""
    return dump_json(report, indent=1) + "\n"


def report_from_json(data: bytes | str, *, name: str) -> Report:
    """Return the report of certificates in ``data``; its content is checked against the schema, not re-derived.

    Raises:
        InputError: If it is not strict JSON, does not fit the schema of this version, or compares two reports.
    """
    found = document_from_json(data, name=name)
    if isinstance(found, ComparisonReport):
        raise InputError(f"{name}: expected a report of certificates, got a comparison of two; name one of them")
    if isinstance(found, OutputsReport):
        raise InputError(f"{name}: expected certificates of classes, got a regression or segmentation")
    if isinstance(found, LogReport):
        raise InputError(f"{name}: expected a report of certificates, got an imported log, which proves none")
    return found


def document_from_json(data: bytes | str, *, name: str) -> Document:
    """Return whatever report is in ``data``; its content is checked against the schema, not re-derived.

    Raises:
        InputError: If it is not strict JSON or does not fit the schema of this version.
    """
    plain = load_json(data, name=name)
    try:
        report: Document = msgspec.convert(plain, Document)
    except msgspec.ValidationError as error:
        raise InputError(f"{name}: expected a report of schema {SCHEMA!r}, got a mismatch: {error}") from error
    if report.schema != SCHEMA:
        raise InputError(f"{name}: expected schema {SCHEMA!r}, got {report.schema!r}; use the matching tool version")
    return report
