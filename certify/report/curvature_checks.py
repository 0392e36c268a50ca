r"""Relations between readings and certificates that hold if both are true: one that fails disproves something.

Let L be a proved l2 Lipschitz constant of the logits, J their Jacobian at an example x, p the softmax, l the
cross-entropy.

- grad_x l = J^T (p - e_y), and ||p - e_y||_2 <= sqrt(2), so ||grad_x l|| <= sqrt(2) ||J|| <= sqrt(2) L.
- For a constant in l-infinity: |l(x) - l(x')| <= ||p - e_y||_1 |z - z'|_inf <= 2 L |x - x'|_inf, and |x - x'|_inf <=
  |x - x'|_2, so ||grad_x l||_2 <= 2 L; and ||J v||_2 <= sqrt(K) |J v|_inf <= sqrt(K) L |v|_inf <= sqrt(K) L ||v||_2.
- A deterministic radius R forbids another class nearer than R, in l2 and, since |v|_inf <= ||v||_2, in l-infinity.
- The last layer's Hessian of one example is C x a a^T with C = diag(p) - p p^T, whose row sums of absolute values are
  2 p_k (1 - p_k) <= 1/2: its largest eigenvalue is at most ||a||^2 / 2. The largest eigenvalue is convex, so that of
  the mean Hessian is at most the mean of the largest ones.

*Rounding.* Certificates are proved, readings are computed in float64 without an error bound, so each reading is
allowed to miss its bound by a relative `SLACK` and by an absolute `NOISE`, far above the rounding of a float64 pass and
far below what a wrong certificate would show; a class is compared only where it leads clearly
(`certify.results.CurvatureExample`). An automatic derivative at a kink takes one of the slopes of an activation, which
is within the range of slopes that the proofs allow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from types import MappingProxyType
from typing import TypeAlias

from certify.report.findings import Finding
from certify.results import CertificatesBeside, ConsistencyRow, CurvatureExample, CurvatureReport, MatchedCertificate

SLACK, NOISE = 1.0 + 2.0**-20, 2.0**-40

Compared: TypeAlias = tuple[str, float, float]  # where, what was read, what it may be at most


def _input_gradients(report: CurvatureReport) -> Iterator[Compared]:
    for beside, upper in _constants(report):
        factor = math.sqrt(2.0) if beside.norm == "l2" else 2.0
        for example in report.examples:
            yield f"{_named(example)}.input_gradient", example.input_gradient, factor * upper


def _jacobians(report: CurvatureReport) -> Iterator[Compared]:
    for beside, upper in _constants(report):
        factor = _jacobian_factor(report, beside)
        for example in report.examples:
            yield f"{_named(example)}.jacobian_spectral", example.jacobian_spectral, factor * upper


def _local_jacobians(report: CurvatureReport) -> Iterator[Compared]:
    for beside, example, found in _matches(report):
        if found.local_upper is not None:
            limit = _jacobian_factor(report, beside) * found.local_upper
            yield f"{_named(example)}.jacobian_spectral", example.jacobian_spectral, limit


def _flips(report: CurvatureReport) -> Iterator[Compared]:
    """A radius is at most the distance of each input of another class: the radius is what is held to the reading."""
    for _, example, found in _matches(report):
        if example.clear and example.flip_distance is not None:
            yield f"{_named(example)}.flip_distance", found.radius, example.flip_distance


def _classes(report: CurvatureReport) -> Iterator[Compared]:
    """A certified example is an input at distance 0 of itself: its class is the measured one."""
    for _, example, found in _matches(report):
        if example.clear:
            yield f"{_named(example)}.predicted", float(example.predicted != found.predicted), 0.0


def _brackets(report: CurvatureReport) -> Iterator[Compared]:
    """Every proved lower end is below every proved upper end of the same constant, in whichever report."""
    pairs = product(enumerate(report.beside), repeat=2)
    for (place, one), (other_place, other) in pairs:
        if isinstance(one.lower, float) and isinstance(other.upper, float) and one.norm == other.norm:
            yield f"beside[{place}].lower against beside[{other_place}].upper", one.lower, other.upper


def _last_layers(report: CurvatureReport) -> Iterator[Compared]:
    for example in report.examples:
        if example.last_layer_largest is not None and example.activation_square is not None:
            limit = 0.5 * example.activation_square
            yield f"{_named(example)}.last_layer_largest", example.last_layer_largest, limit


def _mean_hessian(report: CurvatureReport) -> Iterator[Compared]:
    if report.last_layer is not None:
        yield "last_layer.largest", report.last_layer.largest.value, report.last_layer.largest_mean


def _chain_rule(report: CurvatureReport) -> Iterator[Compared]:
    for example in report.examples:
        limit = math.sqrt(2.0) * example.jacobian_spectral
        yield f"{_named(example)}.input_gradient", example.input_gradient, limit


RELATIONS: Mapping[str, Callable[[CurvatureReport], Iterator[Compared]]] = MappingProxyType(
    {
        "input gradient <= sqrt(2) L (2 L in linf)": _input_gradients,
        "Jacobian norm <= L (sqrt(K) L in linf)": _jacobians,
        "Jacobian norm <= constant of the ball around the example": _local_jacobians,
        "deterministic radius <= distance of the nearest flip": _flips,
        "class of a certified example = class read": _classes,
        "lower <= upper of the constant, across reports": _brackets,
        "last-layer eigenvalue <= ||a||^2 / 2": _last_layers,
        "eigenvalue of the mean Hessian <= mean of the largest": _mean_hessian,
        "input gradient <= sqrt(2) Jacobian norm": _chain_rule,
    }
)


def count_relations(report: CurvatureReport) -> tuple[ConsistencyRow, ...]:
    """Return in how many places each relation was looked at."""
    return tuple(
        ConsistencyRow(relation=name, compared=sum(1 for _ in pairs(report))) for name, pairs in RELATIONS.items()
    )


def contradictions(report: CurvatureReport) -> Iterator[Finding]:
    """Yield every place where a relation fails; a number that is not finite fails."""
    for name, pairs in RELATIONS.items():
        for where, read, limit in pairs(report):
            if not read <= SLACK * limit + NOISE:
                yield Finding(where, f"at most {limit!r} ({name})", repr(read))


def _constants(report: CurvatureReport) -> Iterator[tuple[CertificatesBeside, float]]:
    return ((beside, beside.upper) for beside in report.beside if isinstance(beside.upper, float))


def _matches(report: CurvatureReport) -> Iterator[tuple[CertificatesBeside, CurvatureExample, MatchedCertificate]]:
    by_index = {example.index: example for example in report.examples}
    for beside in report.beside:
        for found in beside.matched:
            yield beside, by_index[found.index], found


def _jacobian_factor(report: CurvatureReport, beside: CertificatesBeside) -> float:
    return 1.0 if beside.norm == "l2" else math.sqrt(len(report.model.classes))


def _named(example: CurvatureExample) -> str:
    return f"example {example.index}"
