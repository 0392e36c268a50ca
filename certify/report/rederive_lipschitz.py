"""Every number of a Lipschitz report that its own record implies, computed again; without torch, without the model.

The radius of an example follows from its margin, the error of that margin, and the constant of the logit difference.
Those three rest on the weights and cannot be checked without them, but they are tied to the rest: the difference of two
logits changes by at most sqrt(2) times the change of the logits in l2, by at most twice in linf, so no constant may
exceed that multiple of the network's bound; what has no proved bound certifies nothing; a lower bound or a slope that
was seen never exceeds an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from msgspec import UNSET

from certify.report.findings import Finding, compare, require
from certify.results import LipschitzExample, LipschitzReport, NetworkBound, Norm
from certify.rounding import div_down, mul_up, sub_down, up

PAIR_FACTOR: Mapping[Norm, float] = {"l2": up(math.sqrt(2.0)), "linf": 2.0}


def check_network(report: LipschitzReport) -> Iterator[Finding]:
    """Yield where the bounds of layers and network contradict each other."""
    network = report.network
    yield from compare("network.norm", report.settings.norm, network.norm)
    yield from _check_bracket("network", network.lower, network.upper)
    yield from require(
        (network.upper is None) == isinstance(network.reason, str), "network.reason", "a reason iff unbounded", network
    )
    yield from require(
        not (network.upper is None and network.proved), "network.proved", "false without an upper bound", True
    )
    for index, layer in enumerate(report.layers):
        yield from _check_bracket(f"layers[{index}]", layer.lower, layer.upper)
    yield from _check_floors(network)


def _check_bracket(where: str, lower: float | None, upper: float | None) -> Iterator[Finding]:
    floor = 0.0 if lower is None else lower
    ceiling = math.inf if upper is None else upper
    yield from require(0.0 <= floor <= ceiling, where, "0 <= lower <= upper", (lower, upper))


def _check_floors(network: NetworkBound) -> Iterator[Finding]:
    ceiling = network.upper if network.proved and network.upper is not None else math.inf
    for name, floor in (("data_floor", network.data_floor), ("slope_floor", network.slope_floor)):
        if floor is not UNSET:
            yield from require(0.0 <= floor <= ceiling, f"network.{name}", f"at most the upper bound {ceiling}", floor)


def check_examples(report: LipschitzReport) -> Iterator[Finding]:
    """Yield where an example differs from what its own margin and constant imply."""
    for index, example in enumerate(report.examples):
        where = f"examples[{index}]"
        yield from _check_prediction(example, where)
        yield from _check_gain(report, example, where)
        yield from compare(f"{where}.radius", expected_radius(report.network, example), example.radius)


def _check_prediction(example: LipschitzExample, where: str) -> Iterator[Finding]:
    certified = example.radius > 0.0
    yield from compare(f"{where}.predicted", example.clean_predicted if certified else None, example.predicted)


def _check_gain(report: LipschitzReport, example: LipschitzExample, where: str) -> Iterator[Finding]:
    network, gain = report.network, example.gain_upper
    if gain is None:
        return
    largest = math.inf if network.upper is None else mul_up(PAIR_FACTOR[network.norm], network.upper)
    yield from require(0.0 <= gain <= largest, f"{where}.gain_upper", f"at most {largest}", gain)
    if isinstance(example.local_upper, float):
        yield from require(example.local_upper >= 0.0, f"{where}.local_upper", "at least 0", example.local_upper)


def expected_radius(network: NetworkBound, example: LipschitzExample) -> float:
    """Return the radius that an example's margin, error and constant prove, rounded down; 0 when they prove none.

    Example:
        >>> row = LipschitzExample(index=0, id="a", hash="", label=1, predicted=1, correct=True, radius=0.5, norm="l2",
        ...     clean_predicted=1, method="", margin_lower=1.0, gain_upper=2.0, error_upper=0.0, seconds=0.0)
        >>> bound = NetworkBound(norm="l2", upper=2.0, lower=None, method="product", proved=True)
        >>> 0.499999 < expected_radius(bound, row) < 0.5
        True
    """
    margin, gain, error = example.margin_lower, example.gain_upper, example.error_upper
    if margin is None or gain is None or error is None or network.upper is None or not network.proved:
        return 0.0
    left = sub_down(margin, error)
    if not (left > 0.0 and 0.0 < gain < math.inf):
        return 0.0
    return div_down(left, gain)
