"""Attacks on Lipschitz constants: of the network, of pairs of classes, of the balls around examples."""

from __future__ import annotations

import math
from functools import partial

import torch
from msgspec import UNSET
from torch import Tensor

from certify.bounds.steepest import Network, inside, random_inputs, typical_distance
from certify.errors import BrokenCertificate
from certify.falsifier.attacked import Attacked, broken, listed
from certify.falsifier.balls import Balls
from certify.falsifier.exactly import (
    Evaluated,
    distance_upper,
    evaluate,
    exact_example,
    is_inside,
    is_nearer,
    movement_lower,
    pair_movement_lower,
)
from certify.falsifier.levels import LipschitzEffort
from certify.falsifier.quotients import (
    Pairs,
    ascended_pairs,
    difference_of,
    joined,
    steepest_examples,
    tightest_classes,
    vector_norms,
)
from certify.results import LipschitzExample
from certify.rounding import div_down

MOST_EXAMPLES = 2000  # of which all pairs are looked at


def attack_constants(attacked: Attacked, uppers: Tensor | None, effort: LipschitzEffort) -> tuple[int, int]:
    """Return how many pairs of examples, and how many ascended pairs, were held against the constants.

    Args:
        attacked: The run.
        uppers: Constants of the differences of two logits, ``[K, K]``, if there are any.
        effort: How many pairs are ascended, and for how long.

    Raises:
        BrokenCertificate: If a difference quotient is confirmed above a constant.
        InputError: If PyTorch cannot differentiate the network.
    """
    output, norm = attacked.graph.output, attacked.settings.norm
    search, exact = attacked.fast(output), attacked.exact(output)
    points = _clamped(attacked, attacked.points[:MOST_EXAMPLES])
    pairs = [_example_pairs(attacked, exact, points)] if len(points) > 1 else []
    distance, starts = _starts(attacked, points, effort.pairs)
    climb = partial(
        ascended_pairs,
        norm=norm,
        distance=distance,
        steps=effort.pair_steps,
        stay=inside(attacked.box),
        seed=attacked.settings.seed,
    )
    pairs += [climb(search, exact, part) for part in torch.split(starts, attacked.rows_at_once)]
    found = joined(pairs)
    _hold_against_network(attacked, found)
    if uppers is not None:
        few = starts[: max(2, effort.pairs // 8)]
        for first, second in tightest_classes(found, uppers, effort.class_pairs, norm):
            steep = climb(difference_of(search, first, second), exact, few)
            _hold_against_classes(attacked, joined([found, steep]), first, second, float(uppers[first, second]))
    return len(points) * (len(points) - 1) // 2, len(starts)


def _clamped(attacked: Attacked, points: Tensor) -> Tensor:
    return inside(attacked.box)(points)


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


def _hold_against_network(attacked: Attacked, pairs: Pairs) -> None:
    upper, norm = attacked.analysis.network.upper, attacked.settings.norm
    if upper is None:
        return
    for k in pairs.steepest(norm).tolist():
        ends = _evaluated(attacked, pairs, k)
        if ends is not None and _quotient_lower(ends, movement_lower(*ends, norm), attacked) > upper:
            raise _steep(attacked, ends, movement_lower(*ends, norm), "the network", upper, {"claim": "lipschitz"})


def _hold_against_classes(attacked: Attacked, pairs: Pairs, first: int, second: int, upper: float) -> None:
    for k in pairs.steepest_between(first, second, attacked.settings.norm).tolist():
        ends = _evaluated(attacked, pairs, k)
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
    norm, centres = attacked.settings.norm, attacked.points[chosen]
    balls = Balls(centres, torch.full((len(chosen),), radius * (1.0 - 1e-9), dtype=torch.float64), norm, attacked.box)
    across = radius * (math.sqrt(centres[0].numel()) if norm == "linf" else 1.0)
    seed, output = attacked.settings.seed, attacked.graph.output
    pairs = ascended_pairs(
        attacked.fast(output),
        attacked.exact(output),
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
    ends, example = _evaluated(attacked, pairs, k), attacked.examples[position]
    if ends is None or not all(is_nearer(exact_example(example), end.exact, radius, norm) for end in ends):
        return
    moved = movement_lower(*ends, norm)
    if _quotient_lower(ends, moved, attacked) > upper:
        claim: dict[str, object] = {"claim": "local lipschitz", "id": example.id, "hash": example.hash, "ball": radius}
        raise _steep(attacked, ends, moved, f"the ball of radius {radius!r} around example {example.id}", upper, claim)


def _evaluated(attacked: Attacked, pairs: Pairs, k: int) -> tuple[Evaluated, Evaluated] | None:
    """Return both ends of a pair, when they lie in the domain and something is proved of them."""
    if not (is_inside(pairs.p[k], attacked.box) and is_inside(pairs.q[k], attacked.box)):
        return None
    p, q = (evaluate(attacked.analysis, attacked.graph.output, point) for point in (pairs.p[k], pairs.q[k]))
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
