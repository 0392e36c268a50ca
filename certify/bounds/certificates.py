r"""Certified radii: a proved lower bound of the distance at which the prediction could change.

With logits z at x, predicted class y (largest logit, left out by *index*), m_j = z_y - z_j as measured in float64, L_yj
the Lipschitz constant of that difference (`margins`), e the error of the measured logits and e_t(R) that of the
deployed program anywhere in the ball (`errors`), every x' with ||x' - x|| <= R keeps class y when, for all j,

    m_j - sqrt 2 (e + e_t(R))  >=  L_yj R        with the left side rounded down,

because two logits are off by at most sqrt 2 times the l2 error of all of them. In arithmetic ``exact`` e_t is 0. e_t
grows with R, so R0, the radius without it, gives a sound e_t(R0) >= e_t(R), and

    R = min_j (m_j - sqrt 2 (e + e_t(R0))) / L_yj,        rounded down; not positive: no certificate.

The inequality between exact values is strict, since every rounding step above moved down.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from msgspec import UNSET

from certify.bounds.analysis import METHOD, Analysis
from certify.bounds.errors import Errors, Pass, deployed_errors, measured_errors
from certify.bounds.magnitudes import root_upper
from certify.bounds.margins import deciding_value, pair_gains_upper
from certify.errors import InputError
from certify.examples import Example
from certify.graph import run_all
from certify.results import LipschitzExample, LipschitzSettings, Unbounded
from certify.rounding import add_up, div_down, mul_up, sqrt_up, sub_down


@dataclass(frozen=True)
class Pair:
    """The predicted class against one other: margin from below, gain and error from above, and the radius they give."""

    margin_lower: float
    gain_upper: float
    error_upper: float

    @property
    def radius(self) -> float:
        """The certified radius of this pair alone, rounded down; 0 when nothing is proved."""
        rest = sub_down(self.margin_lower, self.error_upper)
        if not (self.finite and rest > 0.0):
            return 0.0
        if self.gain_upper == 0.0:
            return sys.float_info.max
        return min(sys.float_info.max, div_down(rest, self.gain_upper))

    @property
    def finite(self) -> bool:
        """Whether all three are numbers a certificate can be made of."""
        numbers = (self.margin_lower, self.gain_upper, self.error_upper)
        return all(math.isfinite(number) for number in numbers) and min(self.gain_upper, self.error_upper) >= 0.0


def certify_examples(
    analysis: Analysis, examples: Iterable[Example], settings: LipschitzSettings
) -> Iterator[LipschitzExample]:
    """Yield the certificate of every example, in order."""
    for example in examples:
        yield certify_example(analysis, example, settings)


def certify_example(analysis: Analysis, example: Example, settings: LipschitzSettings) -> LipschitzExample:
    """Return the certificate of one example; without a proof its radius is 0 and ``reason`` says why.

    Args:
        analysis: What `analyse` proved about the network, in the norm of the settings.
        example: The input, as it is stored.
        settings: The arithmetic the certificate speaks of.

    Raises:
        ValueError: If the analysis was made in another norm.
        InputError: If the example does not fit the network, or is not finite.
    """
    if settings.norm != analysis.norm:
        raise ValueError(f"expected an analysis in {settings.norm}, got one in {analysis.norm}")
    started = time.perf_counter()
    run = _forward(analysis, example)
    value = deciding_value(analysis.facts, settings.arithmetic)
    logits = run.tensor(value)[0]
    chosen = int(logits.argmax())
    found = _limiting_pair(analysis, run, value, chosen, example.eight_bit, settings.arithmetic)
    return _record(analysis, example, chosen, found, time.perf_counter() - started)


def _forward(analysis: Analysis, example: Example) -> Pass:
    graph = analysis.facts.graph
    if tuple(example.stored.shape) != graph.input_shape:
        raise InputError(f"example {example.id}: expected shape {graph.input_shape}, got {example.stored.shape}")
    x = torch.from_numpy(example.values()).unsqueeze(0)
    if not bool(torch.isfinite(x).all()):
        raise InputError(f"example {example.id}: expected finite numbers, got NaN or infinity; remove the example")
    with torch.no_grad():
        return Pass(analysis.facts.into("l2"), analysis.rules, run_all(graph, x))


def _limiting_pair(
    analysis: Analysis, run: Pass, value: str, chosen: int, eight_bit: bool, arithmetic: str
) -> Pair | Unbounded:
    """Return the pair of classes with the smallest radius, or why there is no certificate."""
    if isinstance(gain := analysis.gains[value], Unbounded):
        return gain
    logits = run.tensor(value)[0]
    if logits.numel() < 2:
        return Unbounded("a network with a single output has no margin between classes")
    if not bool(torch.isfinite(logits).all()):
        return Unbounded("the logits of this input are not finite")
    measured = measured_errors(run, rounded_input=eight_bit)
    if isinstance(error := measured[value], Unbounded):
        return error
    gains = pair_gains_upper(analysis.facts, analysis.gains, analysis.gains_l2, value, chosen)
    first = _smallest(logits.tolist(), gains, chosen, error)
    if not first.finite:
        return Unbounded("a margin, an error or a gain is not a finite number")
    if arithmetic == "exact" or not first.radius > 0.0:
        return first
    deployed = _deployed_error(analysis, run, measured, value, first.radius, arithmetic)
    if isinstance(deployed, Unbounded):
        return deployed
    return _smallest(logits.tolist(), gains, chosen, add_up(error, deployed))


def _smallest(logits: list[float], gains: list[float], chosen: int, error: float) -> Pair:
    """Return the pair with the smallest radius; among radii of 0, the one with the smallest margin."""
    need = mul_up(sqrt_up(2.0), error)
    pairs = [
        Pair(sub_down(logits[chosen], logit), gains[other], need)
        for other, logit in enumerate(logits)
        if other != chosen
    ]
    return min(pairs, key=lambda pair: (pair.radius, pair.margin_lower))


def _deployed_error(
    analysis: Analysis, run: Pass, measured: Errors, value: str, radius: float, arithmetic: str
) -> float | Unbounded:
    def movement(name: str) -> float:
        return _movement_upper(analysis, name, radius)

    return deployed_errors(run, measured, movement, arithmetic)[value]


def _movement_upper(analysis: Analysis, name: str, radius: float) -> float:
    """Return at least the l2 distance a value moves inside the ball; infinity when nothing bounds it."""
    gain, gain_l2 = analysis.gains[name], analysis.gains_l2[name]
    if isinstance(gain, Unbounded) or isinstance(gain_l2, Unbounded):
        return math.inf
    if analysis.norm == "l2":
        return mul_up(gain_l2, radius)
    entries = math.prod(analysis.facts.graph.input_shape)
    own = max(1, math.prod(analysis.facts.shapes[name]))
    return min(mul_up(gain_l2, radius, root_upper(entries)), mul_up(gain, radius, root_upper(own)))


def _record(
    analysis: Analysis, example: Example, chosen: int, found: Pair | Unbounded, seconds: float
) -> LipschitzExample:
    pair = found if isinstance(found, Pair) else None
    radius = 0.0 if pair is None else pair.radius
    predicted = chosen if radius > 0.0 else None
    return LipschitzExample(
        index=example.index,
        id=example.id,
        hash=example.hash,
        label=example.label,
        predicted=predicted,
        correct=predicted == example.label,
        radius=radius,
        norm=analysis.norm,
        clean_predicted=chosen,
        method=METHOD,
        margin_lower=None if pair is None else pair.margin_lower,
        gain_upper=None if pair is None else pair.gain_upper,
        error_upper=None if pair is None else pair.error_upper,
        seconds=seconds,
        reason=UNSET if radius > 0.0 else _reason(found),
    )


def _reason(found: Pair | Unbounded) -> str:
    if isinstance(found, Unbounded):
        return str(found).removeprefix("unbounded: ")
    return "the margin does not exceed its floating-point error"
