"""Every number of a Lipschitz report that its own record implies, computed again; without torch, without the model.

The radius of an example follows from its margin, the error of that margin, and the constant of the logit difference.
Those three rest on the weights, and nothing but the model can check them. Besides: where the network has no proved
bound nothing is certified, and a lower bound, or a slope that was seen, never exceeds an upper bound.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence

from msgspec import UNSET

from certify.report.findings import Finding, compare, require
from certify.results import LipschitzExample, LipschitzReport, NetworkBound
from certify.rounding import div_down, sub_down

SHARE_SLACK = 1e-6  # shares are estimates, rounded one by one
ESTIMATE_SLACK = 1 + 1e-6  # a slope is measured in floats, with rounding errors of its own


def check_network(report: LipschitzReport) -> Iterator[Finding]:
    """Yield where the bounds of layers and network contradict each other."""
    network, local = report.network, report.settings.local
    positive = local is None or (0.0 < local < math.inf and report.data is not UNSET)
    yield from require(positive, "settings.local", "a positive radius, with data", local)
    yield from compare("network.norm", report.settings.norm, network.norm)
    yield from _check_bracket("network", network.lower, network.upper)
    explained = network.upper is not None or isinstance(network.reason, str)
    yield from require(explained, "network.reason", "a reason, as there is no bound", None)
    for index, layer in enumerate(report.layers):
        yield from _check_bracket(f"layers[{index}]", layer.lower, layer.upper)
    yield from _check_floors(network)
    yield from _check_shares([layer.share for layer in report.layers if layer.share is not UNSET])


def _check_shares(shares: Sequence[float]) -> Iterator[Finding]:
    """Shares of one growth: none is negative, and together no more than the whole; what has no row has some of it."""
    holds = all(share >= 0.0 for share in shares) and math.fsum(shares) <= 1.0 + SHARE_SLACK
    yield from require(holds, "layers.share", "shares of a whole", shares)


def _check_bracket(where: str, lower: float | None, upper: float | None) -> Iterator[Finding]:
    floor = 0.0 if lower is None else lower
    ceiling = math.inf if upper is None else upper
    yield from require(0.0 <= floor <= ceiling, where, "0 <= lower <= upper", (lower, upper))


def _check_floors(network: NetworkBound) -> Iterator[Finding]:
    upper = network.upper if network.proved else None
    ceiling = math.inf if upper is None else upper * ESTIMATE_SLACK
    for name, floor in (("data_floor", network.data_floor), ("slope_floor", network.slope_floor)):
        if floor is not UNSET:
            yield from require(0.0 <= floor <= ceiling, f"network.{name}", f"at most the upper bound {ceiling}", floor)


def check_examples(report: LipschitzReport) -> Iterator[Finding]:
    """Yield where an example differs from what its own margin and constant imply."""
    for index, example in enumerate(report.examples):
        where = f"examples[{index}]"
        radius = expected_radius(report.network, example)
        yield from compare(f"{where}.radius", radius, example.radius)
        yield from compare(f"{where}.predicted", example.clean_predicted if radius > 0.0 else None, example.predicted)
        parts = (example.margin_lower, example.gain_upper, example.error_upper)
        whole = len({part is None for part in parts}) == 1
        yield from require(whole, where, "margin_lower, gain_upper and error_upper, all or none", parts)
        yield from _check_local(report, where, example)


def _check_local(report: LipschitzReport, where: str, example: LipschitzExample) -> Iterator[Finding]:
    """Yield where the constant on the asked ball is missing, was not asked for, or is above that of all inputs."""
    asked, found = report.settings.local is not None, example.local_upper
    yield from require(asked == (found is not UNSET), f"{where}.local_upper", f"asked for: {asked}", found)
    if isinstance(found, float):
        ceiling = math.inf if report.network.upper is None else report.network.upper
        yield from require(0.0 <= found <= ceiling, f"{where}.local_upper", f"at most {ceiling}", found)


def expected_radius(network: NetworkBound, example: LipschitzExample) -> float:
    """Return the radius that an example's margin, error and constant prove, rounded down; 0 when they prove none.

    A constant of 0 (two logits that differ by a constant) proves every radius: the largest float stands for it. A
    certificate on a ball proves no radius beyond the ball, and needs no bound of the network over all inputs.

    Example:
        >>> row = LipschitzExample(index=0, id="a", hash="", label=1, predicted=1, correct=True, radius=0.5, norm="l2",
        ...     clean_predicted=1, method="", margin_lower=1.0, gain_upper=2.0, error_upper=0.0, seconds=0.0)
        >>> bound = NetworkBound(norm="l2", upper=2.0, lower=None, method="product", proved=True)
        >>> 0.499999 < expected_radius(bound, row) < 0.5
        True
    """
    margin, gain, error = example.margin_lower, example.gain_upper, example.error_upper
    if margin is None or gain is None or error is None or not network.proved:
        return 0.0
    if network.upper is None and example.ball is UNSET:
        return 0.0
    if not (0.0 < margin < math.inf and 0.0 <= error < math.inf and 0.0 <= gain < math.inf):
        return 0.0
    left = sub_down(margin, error)
    if not left > 0.0:
        return 0.0
    ball = sys.float_info.max if example.ball is UNSET else example.ball
    if not ball > 0.0:
        return 0.0
    return min(ball, sys.float_info.max, div_down(left, gain) if gain else math.inf)
