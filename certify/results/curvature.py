"""Readings of curvature and sensitivity on one listed batch: diagnostics, each with its kind, none a certificate.

*Kinds.* ``exact formula in floating point``: a closed form, evaluated with rounding. ``estimate``: a mean with its
standard error, or a Ritz value with its residual. ``measured``: seen at listed inputs, a lower bound of what is
possible. ``proved`` and ``proved with probability`` belong to certificates of the same model that stand beside them.
Kinds are never added up.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import UNSET, UnsetType

from certify.results.lipschitz import LayerRow
from certify.results.origin import Falsifier
from certify.results.plain_numbers import take_plain_numbers
from certify.results.row import Row
from certify.results.summary import CertifiedAccuracy, CertifiedCount
from certify.results.words import AnyNorm, Certificates

ReadingKind: TypeAlias = Literal[
    "proved", "proved with probability", "exact formula in floating point", "estimate", "measured"
]


class CurvatureSettings(Row, frozen=True, kw_only=True):
    """Every option of `certify curvature` that can change a result.

    ``steps`` are those of Lanczos, ``probes`` the products of each estimate of the trace, ``pairs`` the pairs of
    opposite noise of the loss gap, and ``sigma`` the standard deviation of the noise on every weight.
    """

    steps: int = 30
    probes: int = 33
    pairs: int = 16
    sigma: float = 0.01
    limit: int | None = None
    skip: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        take_plain_numbers(self)


class DiagnosticStatement(Row, frozen=True, kw_only=True):
    """What the readings speak of. It has no failure probability: nothing is promised that could fail."""

    text: str
    object: Literal["base"]
    arithmetic: str
    domain: str


class Ritz(Row, frozen=True, kw_only=True):
    """An end of a spectrum, estimated from inside: some eigenvalue is within ``residual`` of ``value``."""

    value: float
    residual: float
    steps: int


class SampledMean(Row, frozen=True, kw_only=True):
    """An unbiased estimate: ``known`` plus the mean of independent ``samples``, with its standard error."""

    value: float
    standard_error: float
    known: float
    samples: tuple[float, ...]


class LastLayerReading(Row, frozen=True, kw_only=True):
    """The Hessian of the loss in the last weight, in closed form, on the batch.

    ``largest_mean`` is the mean over examples of the largest eigenvalue, ``largest`` that of the mean Hessian,
    ``decay_bound`` is (sigma^2 / 2) mean ||a||^2: what noise on this weight can add to the mean loss.
    """

    module: str
    classes: int
    features: int
    largest: Ritz
    largest_mean: float
    trace: float
    decay_bound: float


class NetworkReading(Row, frozen=True, kw_only=True):
    """The Hessian of the loss in all ``variables``: both ends of its spectrum, its trace twice, and the loss gap.

    ``steepest`` is the Ritz value of the largest size, ``trace`` Hutchinson's estimate, ``trace_plus`` that of Hutch++.
    """

    variables: int
    largest: Ritz
    steepest: Ritz
    trace: SampledMean
    trace_plus: SampledMean
    loss_gap: SampledMean


class CurvatureExample(Row, frozen=True, kw_only=True):
    """What was seen at one example; the fields of the last layer are null where the network ends in no linear layer.

    ``clear`` says that the class read leads by more than rounding could: by more than a millionth of the largest logit.
    ``activation_square`` is ||a||^2 of the input a of the last layer. ``flip_distance`` is how far (l2) the nearest
    input of another class is that gradient steps found; null where they found none.
    """

    index: int
    id: str
    hash: str
    label: int
    predicted: int
    correct: bool
    clear: bool
    loss: float
    activation_square: float | None
    last_layer_largest: float | None
    last_layer_trace: float | None
    last_layer_gradient: float | None
    input_gradient: float
    jacobian_spectral: float
    jacobian_frobenius: float
    flip_distance: float | None


class Spread(Row, frozen=True, kw_only=True):
    """The ends and the mean of what was measured at the examples."""

    smallest: float
    mean: float
    largest: float


class CurvatureSummary(Row, frozen=True, kw_only=True):
    """The examples in one view; ``flip_distance`` is of the ``flipped`` ones, null where no attack succeeded."""

    examples: int
    clean_accuracy: float
    loss: float
    input_gradient: Spread
    jacobian_spectral: Spread
    jacobian_frobenius: Spread
    flipped: int
    flip_distance: Spread | None


class MatchedCertificate(Row, frozen=True, kw_only=True):
    """What a deterministic report certifies of an example of the batch, found by its hash."""

    index: int
    predicted: int
    radius: float
    local_upper: float | None


class CertificatesBeside(Row, frozen=True, kw_only=True):
    """A report of certificates of the same model, as far as it stands beside the readings.

    ``upper``, ``lower``, ``method`` and ``layers`` are there for Lipschitz certificates, ``sigma`` for smoothed ones.
    """

    digest: str
    certificates: Certificates
    norm: AnyNorm
    object: str
    arithmetic: str
    domain: str
    failure_probability: float
    text: str
    examples: int
    data_sha256: str | UnsetType = UNSET
    upper: float | UnsetType | None = UNSET
    lower: float | UnsetType | None = UNSET
    method: str | UnsetType = UNSET
    layers: tuple[LayerRow, ...] | UnsetType = UNSET
    sigma: float | UnsetType = UNSET
    mean_radius: float | UnsetType | None = UNSET
    certified_accuracy: tuple[CertifiedAccuracy, ...] = ()
    certified_counts: tuple[CertifiedCount, ...] = ()
    falsifier: Falsifier
    matched: tuple[MatchedCertificate, ...] = ()


class ReadingRow(Row, frozen=True, kw_only=True):
    """One row of the table: of what, which quantity, of which kind, where it holds.

    Proved numbers stand in ``lower`` and ``upper``, all others in ``value``, with ``error`` a standard error or a
    residual; ``of`` says of how many examples a number is the share. ``failure_probability`` is null for what promises
    nothing. ``note`` says why a number is missing, or what it stands on.
    """

    object: str
    quantity: str
    kind: ReadingKind
    value: float | None
    lower: float | None
    upper: float | None
    error: float | None
    error_of: Literal["standard error", "residual"] | UnsetType = UNSET
    of: int | UnsetType = UNSET
    domain: str
    failure_probability: float | None
    note: str | UnsetType = UNSET


class ConsistencyRow(Row, frozen=True, kw_only=True):
    """One relation that has to hold between readings and certificates, and in how many places it was looked at."""

    relation: str
    compared: int
