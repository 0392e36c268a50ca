"""Attacks on Lipschitz constants: of the network, of pairs of classes, of the balls around examples."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from msgspec import UNSET
from torch import Tensor

from certify.bounds.evaluated import (
    Evaluated,
    distance_upper,
    evaluate,
    movement_lower,
    pair_movement_lower,
)
from certify.bounds.steepest import Network, inside, random_inputs, typical_distance
from certify.errors import BrokenCertificate
from certify.falsifier.attacked import Attacked, broken, listed
from certify.falsifier.balls import Balls
from certify.falsifier.exactly import exact_example, is_inside, is_nearer
from certify.falsifier.levels import LipschitzEffort
from certify.falsifier.quotients import (
    Pairs,
    ascended_pairs,
    differences_of,
    joined,
    steepest_examples,
    tightest_classes,
    vector_norms,
)
from certify.graph import run_all
from certify.results import LipschitzExample, Unbounded
from certify.rounding import div_down

MOST_EXAMPLES, MOST_NUMBERS = 2000, 2**25  # of which all pairs are looked at


def attack_constants(attacked: Attacked, effort: LipschitzEffort) -> tuple[int, int]:
    """Return how many pairs of examples, and how many ascended pairs, were held against the constants of the run.

    Those are the bound of the network, the gains of all values on the way, and the constants of pairs of classes.

    Raises:
        BrokenCertificate: If a difference quotient is confirmed above a constant.
        InputError: If PyTorch cannot differentiate the network.
    """
    most = min(MOST_EXAMPLES, MOST_NUMBERS // math.prod(attacked.graph.input_shape))
    points = inside(attacked.box)(attacked.points(range(min(most, len(attacked.examples)))))
    distance, starts = _starts(attacked, points, effort.pairs)
    climb = partial(
        ascended_pairs,
        norm=attacked.settings.norm,
        distance=distance,
        steps=effort.pair_steps,
        stay=inside(attacked.box),
        seed=attacked.settings.seed,
    )
    for value in dict.fromkeys((attacked.graph.output, attacked.certifying)):
        search, exact = attacked.fast(value), attacked.exact(value)
        pairs = [_example_pairs(attacked, exact, points)] if len(points) > 1 else []
        pairs += [climb(search, exact, part) for part in torch.split(starts, attacked.rows_at_once)]
        _hold_against_gains(attacked, value, joined(pairs))
        if value == attacked.certifying:
            _attack_classes(attacked, joined(pairs), climb, starts[: max(2, effort.pairs // 8)], effort.class_pairs)
    return len(points) * (len(points) - 1) // 2, len(starts)


def _attack_classes(
    attacked: Attacked, pairs: Pairs, climb: Callable[..., Pairs], starts: Tensor, class_pairs: int
) -> None:
    if (uppers := attacked.class_uppers) is None:
        return
    search, exact = attacked.fast(attacked.certifying), attacked.exact(attacked.certifying)
    chosen = list(tightest_classes(pairs, uppers, class_pairs, attacked.settings.norm))
    together = max(1, attacked.rows_at_once // len(starts))
    for part in (chosen[k : k + together] for k in range(0, len(chosen), together)):
        climbed = climb(differences_of(search, part, len(starts)), exact, torch.cat([starts] * len(part)))
        for (first, second), steep in zip(part, climbed.split(len(part)), strict=True):
            _hold_against_classes(attacked, joined([pairs, steep]), first, second, float(uppers[first, second]))


def _example_pairs(attacked: Attacked, exact: Network, points: Tensor) -> Pairs:
    with torch.no_grad():
        outputs = torch.cat([exact(part).flatten(1) for part in torch.split(points, attacked.rows_at_once)])
    return steepest_examples(points, outputs, attacked.settings.norm)


def _starts(attacked: Attacked, points: Tensor, count: int) -> tuple[float, Tensor]:
    """Return a typical distance, and where ascents begin: half at examples, half at random."""
    seed, shape = attacked.settings.seed, attacked.graph.input_shape
    chosen = points[:: max(1, len(points) // max(1, count // 2))][: count // 2]
    loose = random_inputs(count - len(chosen), shape, box=attacked.box, seed=seed)
    return typical_distance(points if len(points) > 1 else loose), torch.cat([chosen, loose])


def _hold_against_gains(attacked: Attacked, value: str, pairs: Pairs) -> None:
    """Hold the steepest pairs of one value against the gains of all values, and against the bound of the network."""
    network = attacked.analysis.network.upper
    for k in pairs.steepest(attacked.settings.norm).tolist():
        if network is not None and value == attacked.graph.output:
            _hold_pair(attacked, pairs, k, value, "the network", network, {"claim": "lipschitz"})
        for name in _suspicious(attacked, pairs, k):
            gain = attacked.analysis.gains[name]
            if not isinstance(gain, Unbounded):
                claim: dict[str, object] = {"claim": "lipschitz of a value", "value": name}
                _hold_pair(attacked, pairs, k, name, f"value {name}", gain, claim)


def _suspicious(attacked: Attacked, pairs: Pairs, k: int) -> list[str]:
    """Return the values whose quotient is above their gain as far as floats can tell."""
    norm, gains = attacked.settings.norm, attacked.analysis.gains
    with torch.no_grad():
        at_p, at_q = (run_all(attacked.graph, end[k].unsqueeze(0)) for end in (pairs.p, pairs.q))
    found = []
    for name, gain in gains.items():
        if isinstance(gain, Unbounded) or not isinstance(at_p[name], Tensor):
            continue
        moved = vector_norms((at_p[name] - at_q[name]).double().reshape(1, -1), norm)
        if float(moved / pairs.distances(norm)[k]) > gain:
            found.append(name)
    return found


def _hold_pair(
    attacked: Attacked, pairs: Pairs, k: int, value: str, what: str, upper: float, claim: dict[str, object]
) -> None:
    ends = _evaluated(attacked, pairs, k, value)
    if ends is None:
        return
    moved = movement_lower(*ends, attacked.settings.norm)
    if _quotient_lower(ends, moved, attacked) > upper:
        raise _steep(attacked, ends, moved, what, upper, claim)


def _hold_against_classes(attacked: Attacked, pairs: Pairs, first: int, second: int, upper: float) -> None:
    for k in pairs.steepest_between(first, second, attacked.settings.norm).tolist():
        ends = _evaluated(attacked, pairs, k, attacked.certifying)
        if ends is None:
            continue
        moved = pair_movement_lower(*ends, first, second)
        if _quotient_lower(ends, moved, attacked) > upper:
            claim: dict[str, object] = {"claim": "lipschitz of a pair of classes", "classes": [first, second]}
            raise _steep(attacked, ends, moved, f"logit {first} minus logit {second}", upper, claim)


def attack_local(attacked: Attacked, effort: LipschitzEffort) -> int:
    """Return how many local constants were attacked, each by pairs inside its ball.

    Raises:
        BrokenCertificate: If a difference quotient inside a ball is confirmed above its constant.
        InputError: If PyTorch cannot differentiate the network.
    """
    radius = attacked.settings.local
    if radius is None:
        return 0
    bounded = [k for k, row in enumerate(attacked.rows) if _local(row) is not None][: effort.local_examples]
    repeated = [k for k in bounded for _ in range(effort.local_starts)]
    for first in range(0, len(repeated), attacked.rows_at_once):
        _attack_balls(attacked, repeated[first : first + attacked.rows_at_once], radius, effort.pair_steps)
    return len(bounded)


def _local(row: LipschitzExample) -> float | None:
    return None if row.local_upper is UNSET else row.local_upper


def _attack_balls(attacked: Attacked, chosen: list[int], radius: float, steps: int) -> None:
    norm, centres = attacked.settings.norm, attacked.points(chosen)
    balls = Balls(centres, torch.full((len(chosen),), radius * (1.0 - 1e-9), dtype=torch.float64), norm, attacked.box)
    across = radius * (math.sqrt(centres[0].numel()) if norm == "linf" else 1.0)
    seed, value = attacked.settings.seed, attacked.certifying
    pairs = ascended_pairs(
        attacked.fast(value),
        attacked.exact(value),
        balls.scattered(seed),
        norm=norm,
        distance=across,
        steps=steps,
        stay=balls.project,
        seed=seed,
    )
    for k in range(len(pairs)):
        _hold_against_ball(attacked, pairs, k, chosen[k % len(chosen)], radius)


def _hold_against_ball(attacked: Attacked, pairs: Pairs, k: int, position: int, radius: float) -> None:
    norm, upper = attacked.settings.norm, _local(attacked.rows[position])
    if upper is None or not float(vector_norms(pairs.change[k : k + 1], norm) / pairs.distances(norm)[k]) > upper:
        return
    ends, example = _evaluated(attacked, pairs, k, attacked.certifying), attacked.examples[position]
    if ends is None or not all(is_nearer(exact_example(example), end.exact, radius, norm) for end in ends):
        return
    moved = movement_lower(*ends, norm)
    if _quotient_lower(ends, moved, attacked) > upper:
        claim: dict[str, object] = {"claim": "local lipschitz", "id": example.id, "hash": example.hash, "ball": radius}
        raise _steep(attacked, ends, moved, f"the ball of radius {radius!r} around example {example.id}", upper, claim)


def _evaluated(attacked: Attacked, pairs: Pairs, k: int, value: str) -> tuple[Evaluated, Evaluated] | None:
    """Return both ends of a pair, when they lie in the domain and something is proved of them."""
    if not (is_inside(pairs.p[k], attacked.box) and is_inside(pairs.q[k], attacked.box)):
        return None
    p, q = (evaluate(attacked.analysis, value, point) for point in (pairs.p[k], pairs.q[k]))
    return None if p is None or q is None else (p, q)


def _quotient_lower(ends: tuple[Evaluated, Evaluated], moved: float, attacked: Attacked) -> float:
    """Return at most the quotient of a pair; 0 when nothing moved for certain."""
    away = distance_upper(ends[0].exact, ends[1].exact, attacked.settings.norm)
    return div_down(moved, away) if moved > 0.0 and away > 0.0 else 0.0


def _steep(
    attacked: Attacked,
    ends: tuple[Evaluated, Evaluated],
    moved: float,
    what: str,
    upper: float,
    claim: dict[str, object],
) -> BrokenCertificate:
    norm = attacked.settings.norm
    quotient = _quotient_lower(ends, moved, attacked)
    message = (
        f"{what}: a Lipschitz constant of at most {upper!r} ({norm}) was claimed, and a pair of inputs has {quotient!r}"
    )
    evidence: dict[str, object] = {
        **claim,
        "shape": list(attacked.graph.input_shape),
        "input": listed(ends[0].point),
        "found": listed(ends[1].point),
        "distance": distance_upper(ends[0].exact, ends[1].exact, norm),
        "quotient_lower": quotient,
        "upper": upper,
    }
    return broken(message, attacked.settings, evidence)
