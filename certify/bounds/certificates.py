r"""Certified radii: a proved lower bound of the distance at which the prediction could change.

With logits z at x, predicted class y (largest logit, left out by *index*), m_j = z_y - z_j as measured in float64, L_yj
the Lipschitz constant of that difference (`margins`), e the error of the measured logits and e_t(R) that of the
deployed program anywhere in the ball (`errors`), every x' with ||x' - x|| <= R keeps class y when, for all j,

    m_j - sqrt 2 (e + e_t(R))  >=  L_yj R        with the left side rounded down,

because two logits are off by at most sqrt 2 times the l2 error of all of them. In arithmetic ``exact`` e_t is 0. e_t
grows with R, so R0, the radius without it, gives a sound e_t(R0) >= e_t(R), and

    R = min_j (m_j - sqrt 2 (e + e_t(R0))) / L_yj,        rounded down; not positive: no certificate.

The inequality between exact values is strict, since every rounding step above moved down.

With gains that hold on a ball around x only (`ball`, `local`) the same is true of radii up to that of the ball: R is
then the smaller of the two. Several certificates of one example are all true; the one with the largest radius is
reported, with the word for how it was proved.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice

import torch
from msgspec import UNSET, UnsetType

from certify.bounds.analysis import PRODUCT, Analysis
from certify.bounds.ball import NEARBY, ball_gains, best_ball
from certify.bounds.errors import Errors, Pass, deployed_errors, measured_errors
from certify.bounds.first_order import search_may_gain
from certify.bounds.local.certify import limiting, word
from certify.bounds.local.constants import local_constants
from certify.bounds.local.recursion_proof import Certificate
from certify.bounds.magnitudes import l2_upper, root_upper
from certify.bounds.margins import deciding_value, pair_gains_upper
from certify.errors import InputError
from certify.examples import Example
from certify.graph import run_all
from certify.results import LipschitzExample, LipschitzSettings, Unbounded
from certify.rounding import U64, add_up, div_down, mul_up, sqrt_up, sub_down


@dataclass(frozen=True)
class Pair:
    """The predicted class against one other: margin from below, gain and error from above, and the radius they give.

    ``ball`` is the radius of the ball on which the gain holds; ``method`` says how it was proved.
    """

    margin_lower: float
    gain_upper: float
    error_upper: float
    ball: float = math.inf
    method: str = PRODUCT

    @property
    def radius(self) -> float:
        """The certified radius of this pair alone, rounded down; 0 when nothing is proved."""
        rest = sub_down(self.margin_lower, self.error_upper)
        if not (self.finite and rest > 0.0 and self.ball > 0.0):
            return 0.0
        most = min(sys.float_info.max, self.ball)
        return most if self.gain_upper == 0.0 else min(most, div_down(rest, self.gain_upper))

    @property
    def finite(self) -> bool:
        """Whether all three are numbers a certificate can be made of."""
        numbers = (self.margin_lower, self.gain_upper, self.error_upper)
        return all(math.isfinite(number) for number in numbers) and min(self.gain_upper, self.error_upper) >= 0.0


@dataclass(frozen=True, eq=False)
class Case:
    """One example under a network: its forward pass, the value that decides, and the class it decides for."""

    analysis: Analysis
    run: Pass
    value: str
    arithmetic: str
    eight_bit: bool

    @cached_property
    def logits(self) -> list[float]:
        """The float64 logits."""
        found: list[float] = self.run.tensor(self.value)[0].tolist()
        return found

    @cached_property
    def chosen(self) -> int:
        """The predicted class: the first of the largest logits."""
        return int(self.run.tensor(self.value)[0].argmax())

    @cached_property
    def measured(self) -> Errors:
        """The errors of the float64 pass."""
        return measured_errors(self.run, rounded_input=self.eight_bit)

    @cached_property
    def error(self) -> float | Unbounded:
        """The error of the logits, or why they prove nothing."""
        if len(self.logits) < 2:
            return Unbounded("a network with a single output has no margin between classes")
        if not all(map(math.isfinite, self.logits)):
            return Unbounded("the logits of this input are not finite")
        return self.measured[self.value]


def certify_examples(
    analysis: Analysis, examples: Iterable[Example], settings: LipschitzSettings
) -> Iterator[LipschitzExample]:
    """Yield the certificate of every example, in order; without a proof its radius is 0 and ``reason`` says why.

    Args:
        analysis: What `analyse` proved about the network, in the norm of the settings.
        examples: The inputs, as they are stored. Some are taken together, where the network is small.
        settings: The arithmetic the certificates speak of, and the methods to try.

    Raises:
        ValueError: If the analysis was made in another norm.
        InputError: If an example does not fit the network, or is not finite.
    """
    if settings.norm != analysis.norm:
        raise ValueError(f"expected an analysis in {settings.norm}, got one in {analysis.norm}")
    value = deciding_value(analysis.facts, settings.arithmetic)
    waiting = iter(examples)
    while batch := list(islice(waiting, analysis.together)):
        started = time.perf_counter()
        cases = [
            Case(analysis, _forward(analysis, example), value, settings.arithmetic, example.eight_bit)
            for example in batch
        ]
        found = _best(cases, settings)
        locals_ = [UNSET if settings.local is None else local_upper(case, settings) for case in cases]
        seconds = (time.perf_counter() - started) / len(batch)
        for case, example, pair, upper in zip(cases, batch, found, locals_, strict=True):
            yield _record(case, example, pair, seconds, upper)


def certify_example(analysis: Analysis, example: Example, settings: LipschitzSettings) -> LipschitzExample:
    """Return the certificate of one example; see `certify_examples`."""
    return next(certify_examples(analysis, [example], settings))


def _forward(analysis: Analysis, example: Example) -> Pass:
    graph = analysis.facts.graph
    if tuple(example.stored.shape) != graph.input_shape:
        raise InputError(f"example {example.id}: expected shape {graph.input_shape}, got {example.stored.shape}")
    x = torch.from_numpy(example.values()).unsqueeze(0)
    if not bool(torch.isfinite(x).all()):
        raise InputError(f"example {example.id}: expected finite numbers, got NaN or infinity; remove the example")
    with torch.no_grad():
        return Pass(analysis.facts.into("l2"), analysis.rules, run_all(graph, x))


def _best(cases: Sequence[Case], settings: LipschitzSettings) -> list[Pair | Unbounded]:
    """Return, per example, the limiting pair of its certificate with the largest radius, or why there is none."""
    searched = [case for case in cases if _may_gain(case, settings)]
    local = dict(zip(map(id, searched), _around(searched), strict=True)) if searched else {}
    return [_best_of(case, settings, local.get(id(case))) for case in cases]


def _may_gain(case: Case, settings: LipschitzSettings) -> bool:
    """Return whether a certificate is searched around the example: where one can be, and it is cheap or may gain."""
    if isinstance(case.error, Unbounded) or isinstance(case.analysis.local, Unbounded):
        return False
    if settings.effort == "max" or case.analysis.together > 1:
        return True
    graph = case.run.facts.graph
    x, gains = case.run.tensor(graph.input), _pair_gains(case)
    return search_may_gain(graph, x, case.logits, gains, case.chosen, settings.norm)


def _best_of(case: Case, settings: LipschitzSettings, local: Pair | None) -> Pair | Unbounded:
    if isinstance(case.error, Unbounded):
        return case.error
    everywhere = _everywhere(case)
    found = [everywhere, local]
    if settings.method == "auto" and any(operation.kind in NEARBY for operation in case.run.facts.graph):
        found.append(_on_a_ball(case))
    pairs = [pair for pair in found if isinstance(pair, Pair)]
    return max(pairs, key=lambda pair: (pair.radius, pair.margin_lower)) if pairs else everywhere


def _around(cases: Sequence[Case]) -> list[Pair | None]:
    """Return, per example, the limiting pair of the certificate on a ball around it, proved layer by layer."""
    network = cases[0].analysis.local
    if isinstance(network, Unbounded):
        return [None] * len(cases)
    x = torch.cat([case.run.tensor(case.run.facts.graph.input) for case in cases])
    chosen = torch.tensor([case.chosen for case in cases])
    gains = [_pair_gains(case) for case in cases]
    rivals = [
        [gain for other, gain in enumerate(row) if other != case.chosen] for case, row in zip(cases, gains, strict=True)
    ]
    found = network.certify(
        x, chosen, rounded_input=cases[0].eight_bit, gains=torch.tensor(rivals, dtype=torch.float64)
    )
    return [_pair_around(case, certificates) for case, certificates in zip(cases, found, strict=True)]


def _pair_around(case: Case, certificates: Sequence[Certificate]) -> Pair | None:
    """Return the limiting certificate once every margin has lost the error of the deployed program."""
    first = _limiting(case, certificates, 0.0)
    if case.arithmetic == "exact" or not first.radius > 0.0:
        return first

    def movement(name: str) -> float:
        return _movement_upper(case.analysis, name, first.radius)

    deployed = deployed_errors(case.run, case.measured, movement, case.arithmetic)[case.value]
    return None if isinstance(deployed, Unbounded) else _limiting(case, certificates, mul_up(sqrt_up(2.0), deployed))


def _limiting(case: Case, certificates: Sequence[Certificate], error: float) -> Pair:
    _, one = limiting(certificates, error)
    method = case.analysis.network.method if one.ball == math.inf else word(one)
    return Pair(one.v, one.s, error, one.ball, method)


def _pair_gains(case: Case) -> list[float]:
    """Return, per class, the least gain over all inputs that is known of its difference to the chosen one."""
    analysis = case.analysis
    if isinstance(analysis.gains[case.value], Unbounded):
        return [math.inf] * len(case.logits)
    gains = pair_gains_upper(analysis.facts, analysis.gains, analysis.gains_l2, case.value, case.chosen)
    pairs = None if isinstance(analysis.covariance, Unbounded) else analysis.covariance.pair_uppers
    return gains if pairs is None else [min(pair) for pair in zip(gains, pairs[case.chosen].tolist(), strict=True)]


def _everywhere(case: Case) -> Pair | Unbounded:
    """Return the limiting pair by gains over all inputs."""
    analysis = case.analysis
    if isinstance(gain := analysis.gains[case.value], Unbounded):
        return gain
    gains = _pair_gains(case)

    def movement(name: str, radius: float) -> float:
        return _movement_upper(analysis, name, radius)

    return _limiting_pair(case, gains, movement, method=analysis.network.method)


def _on_a_ball(case: Case) -> Pair | Unbounded:
    """Return the limiting pair by gains on the best of several balls around the example, in l2 terms."""
    analysis = case.analysis
    root = 1.0 if analysis.norm == "l2" else root_upper(math.prod(analysis.facts.graph.input_shape))

    def on(ball: float) -> Pair | Unbounded:
        gains = ball_gains(case.run, case.measured, ball, analysis.gains_l2)
        if isinstance(gain := gains[case.value], Unbounded):
            return gain
        pairs = pair_gains_upper(case.run.facts, gains, gains, case.value, case.chosen)

        def movement(name: str, radius: float) -> float:
            moved = gains[name]
            return math.inf if isinstance(moved, Unbounded) else mul_up(moved, radius, root)

        in_norm = [mul_up(pair, root) for pair in pairs]
        return _limiting_pair(case, in_norm, movement, div_down(ball, root), "product on a ball")

    def radius_at(ball: float) -> float:
        pair = on(ball)
        return mul_up(pair.radius, root) if isinstance(pair, Pair) else 0.0

    best = best_ball(radius_at, 1.0)
    return Unbounded("no ball around this input has a finite bound that its margin outweighs") if not best else on(best)


def _limiting_pair(
    case: Case,
    gains: list[float],
    movement: Callable[[str, float], float],
    ball: float = math.inf,
    method: str = PRODUCT,
) -> Pair | Unbounded:
    """Return the pair of classes with the smallest radius, or why there is no certificate."""
    if isinstance(error := case.error, Unbounded):
        return error
    first = _smallest(case, gains, error, ball, method)
    if not first.finite:
        return Unbounded("a margin, an error or a gain is not a finite number")
    if case.arithmetic == "exact" or not first.radius > 0.0:
        return first
    reach = partial(_at_radius, movement, first.radius)
    deployed = deployed_errors(case.run, case.measured, reach, case.arithmetic)[case.value]
    if isinstance(deployed, Unbounded):
        return deployed
    return _smallest(case, gains, add_up(error, deployed), ball, method)


def _at_radius(movement: Callable[[str, float], float], radius: float, name: str) -> float:
    return movement(name, radius)


def _smallest(case: Case, gains: list[float], error: float, ball: float, method: str) -> Pair:
    """Return the pair with the smallest radius; among radii of 0, the one with the smallest margin."""
    need = mul_up(sqrt_up(2.0), error)
    pairs = [
        Pair(sub_down(case.logits[case.chosen], logit), gains[other], need, ball, method)
        for other, logit in enumerate(case.logits)
        if other != case.chosen
    ]
    return min(pairs, key=lambda pair: (pair.radius, pair.margin_lower))


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


def local_upper(case: Case, settings: LipschitzSettings) -> float | None:
    """Return at least the Lipschitz constant of the logits on the ball of the settings, or None if none is finite.

    The ball is that around the exact example: it lies in one around the floats at hand that is larger by the rounding
    of an 8-bit pixel divided by 255.
    """
    analysis, graph = case.analysis, case.run.facts.graph
    x = case.run.tensor(graph.input)
    radius = add_up(settings.local or 0.0, mul_up(U64, l2_upper(x)) if case.eight_bit else 0.0)
    root = 1.0 if analysis.norm == "l2" else root_upper(math.prod(graph.input_shape))
    near = ball_gains(case.run, case.measured, mul_up(radius, root), analysis.gains_l2)[case.value]
    found = [analysis.gains[case.value], near if isinstance(near, Unbounded) else mul_up(near, root)]
    least = min((gain for gain in found if not isinstance(gain, Unbounded)), default=math.inf)
    if not isinstance(analysis.local, Unbounded):
        chain = analysis.local.chain
        least = local_constants(chain, x[0], radius, analysis.norm, settings.effort, everywhere=least).upper
    return least if least < math.inf else None


def _record(
    case: Case, example: Example, found: Pair | Unbounded, seconds: float, local: float | UnsetType | None
) -> LipschitzExample:
    pair = found if isinstance(found, Pair) else None
    radius = 0.0 if pair is None else pair.radius
    predicted = case.chosen if radius > 0.0 else None
    return LipschitzExample(
        index=example.index,
        id=example.id,
        hash=example.hash,
        label=example.label,
        predicted=predicted,
        correct=predicted == example.label,
        radius=radius,
        norm=case.analysis.norm,
        clean_predicted=case.chosen,
        method=PRODUCT if pair is None else pair.method,
        margin_lower=None if pair is None else pair.margin_lower,
        gain_upper=None if pair is None else pair.gain_upper,
        error_upper=None if pair is None else pair.error_upper,
        seconds=seconds,
        local_upper=local,
        ball=pair.ball if pair is not None and math.isfinite(pair.ball) else UNSET,
        reason=UNSET if radius > 0.0 else _reason(found),
    )


def _reason(found: Pair | Unbounded) -> str:
    if isinstance(found, Unbounded):
        return str(found).removeprefix("unbounded: ")
    return "the margin does not exceed its floating-point error"
