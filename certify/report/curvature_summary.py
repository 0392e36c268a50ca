"""What the readings of a batch speak of, and the examples in one view."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from certify.results import CurvatureExample, CurvatureSummary, DataRecord, DiagnosticStatement, ModelRecord, Spread

ARITHMETIC = "float64, in evaluation mode; rounding is not bounded"


def curvature_statement(*, model: ModelRecord, data: DataRecord) -> DiagnosticStatement:
    """Return what the readings of a model on a batch are, and what they are not."""
    return DiagnosticStatement(
        text=(
            f"Diagnostics, and no certificate: readings of the network with the weights of sha256 {model.sha256} on "
            f"the {data.count} examples of sha256 {data.sha256} alone, whose mean cross-entropy is the loss. Small "
            "curvature or small slopes on data certify nothing, and curvature is no property of the function: two "
            "consecutive ReLU layers scaled by s and 1/s compute the same with another Hessian. Where the network has "
            "kinks the Hessian is that almost everywhere and misses them; the loss gap does not."
        ),
        object="base",
        arithmetic=ARITHMETIC,
        domain="one batch: the listed examples",
    )


def summarise_curvature(examples: Sequence[CurvatureExample]) -> CurvatureSummary:
    """Return the examples in one view; each mean is an exact sum, rounded once.

    Raises:
        ValueError: If there are no examples.
    """
    if not examples:
        raise ValueError("expected at least one example, got none")
    flips = [example.flip_distance for example in examples if example.flip_distance is not None]
    return CurvatureSummary(
        examples=len(examples),
        clean_accuracy=sum(example.correct for example in examples) / len(examples),
        loss=exact_mean([example.loss for example in examples]),
        input_gradient=_spread([example.input_gradient for example in examples]),
        jacobian_spectral=_spread([example.jacobian_spectral for example in examples]),
        jacobian_frobenius=_spread([example.jacobian_frobenius for example in examples]),
        flipped=len(flips),
        flip_distance=_spread(flips) if flips else None,
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(smallest=min(values), mean=exact_mean(values), largest=max(values))


def exact_mean(values: Sequence[float]) -> float:
    """Return the mean of floats, rounded once.

    Example:
        >>> exact_mean([0.1, 0.2, 0.3])
        0.2
    """
    return float(sum(map(Fraction, values), Fraction(0)) / len(values))
