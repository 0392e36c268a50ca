"""Attacks on certified radii: another class inside the ball, confirmed exactly or not counted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from msgspec import UNSET
from torch import Tensor

from certify.bounds.evaluated import distance_upper, evaluate, exact_point
from certify.bounds.steepest import Network
from certify.bounds.work import multiplications
from certify.errors import BrokenCertificate
from certify.examples import Example
from certify.falsifier.attacked import Attacked, broken, listed
from certify.falsifier.balls import Balls
from certify.falsifier.exactly import exact_example, is_inside, is_nearer
from certify.falsifier.flips import ddn, margins, pgd
from certify.falsifier.levels import FEWEST, LipschitzEffort
from certify.results import LipschitzExample

SHARE = 0.999  # of the radius: where the attacks look
OUTERMOST = 1.0 - 1e-6  # and where the best input of each is moved to, along its direction


def attack_radii(attacked: Attacked, effort: LipschitzEffort) -> tuple[int, int]:
    """Return how many certified examples were attacked, and how many there are.

    Raises:
        BrokenCertificate: If an input of another class is confirmed inside a certified ball.
        InputError: If PyTorch cannot differentiate the network.
    """
    certified = [k for k, row in enumerate(attacked.rows) if row.radius > 0.0]
    chosen = _affordable(certified, attacked, effort)
    search, exact = attacked.fast(attacked.decisive), attacked.exact(attacked.decisive)
    for first in range(0, len(chosen), attacked.rows_at_once):
        _attack_some(attacked, chosen[first : first + attacked.rows_at_once], effort, search, exact)
    return len(chosen), len(certified)


def _affordable(certified: list[int], attacked: Attacked, effort: LipschitzEffort) -> list[int]:
    """Return the examples to attack: all certified around themselves, some of the others, as the budget allows."""
    everywhere = [k for k in certified if attacked.rows[k].ball is UNSET]
    around = [k for k in certified if attacked.rows[k].ball is not UNSET]
    chosen = sorted([*around, *_spread(everywhere, len(everywhere) // effort.one_in)])
    passes = 3 * (effort.pgd_steps * effort.pgd_starts + effort.ddn_steps)
    allowed = effort.budget / (passes * multiplications(attacked.graph))
    return _spread(chosen, int(min(allowed, len(chosen))))


def _spread(positions: list[int], count: int) -> list[int]:
    """Return so many of the positions, spread evenly; `FEWEST` at least, as far as there are."""
    count = max(min(FEWEST, len(positions)), count)
    return [positions[k * len(positions) // count] for k in range(count)]


def _attack_some(
    attacked: Attacked, chosen: list[int], effort: LipschitzEffort, search: Network, exact: Network
) -> None:
    rows = [attacked.rows[k] for k in chosen]
    radii = torch.tensor([row.radius for row in rows], dtype=torch.float64)
    labels = torch.tensor([row.predicted for row in rows])
    norm, centres = attacked.settings.norm, attacked.points(chosen)
    near, far = (Balls(centres, share * radii, norm, attacked.box) for share in (SHARE, OUTERMOST))
    seed = attacked.settings.seed
    found = [pgd(search, near, labels, steps=effort.pgd_steps, starts=effort.pgd_starts, seed=seed)]
    if norm == "l2":
        found.append(near.project(ddn(search, near, labels, steps=effort.ddn_steps)))
    for points in (*found, *(far.outermost(points, 1.0) for points in found)):
        for k in _lost(attacked, exact, points, labels):
            broke = confirm_flip(attacked, attacked.examples[chosen[k]], rows[k], points[k])
            if broke is not None:
                raise broke


def _lost(attacked: Attacked, exact: Network, points: Tensor, labels: Tensor) -> list[int]:
    """Return the rows that seem to have another class, in float64 or in the program of the certificates."""
    with torch.no_grad():
        lost = margins(exact(points), labels) < 0.0
        if attacked.program is not None:
            lost |= ~(margins(attacked.program(points), labels) >= 0.0)
    found: list[int] = lost.nonzero().flatten().tolist()
    return found


@dataclass(frozen=True)
class Flip:
    """Another class at one input: which, by which logits, and how far the exact ones may be from them."""

    other: int
    logits: tuple[float, ...]
    error: float
    of: str


def confirm_flip(
    attacked: Attacked, example: Example, row: LipschitzExample, point: Tensor
) -> BrokenCertificate | None:
    """Return the broken certificate when an input proves it false: inside ball and domain, class lost for certain.

    For certain: by the exact network, beyond the error of the float64 pass; or by a run of the very program that the
    certificate speaks of, whose output is what it is.

    Args:
        attacked: The run.
        example: The certified example.
        row: Its certificate.
        point: The input, float64 ``[*input_shape]``.
    """
    if row.predicted is None or not is_inside(point, attacked.box):
        return None
    norm, centre, found = attacked.settings.norm, exact_example(example), exact_point(point)
    if not is_nearer(centre, found, row.radius, norm):
        return None
    flip = _exact_flip(attacked, row.predicted, point) or _program_flip(attacked, row.predicted, point)
    if flip is None:
        return None
    away = distance_upper(centre, found, norm)
    message = (
        f"example {example.id}: certified as class {row.predicted} to {row.radius!r} ({norm}), and class {flip.other} "
        f"was found at distance {away!r} by {flip.of}"
    )
    evidence: dict[str, object] = {
        "claim": "radius",
        "id": example.id,
        "index": example.index,
        "hash": example.hash,
        "shape": list(example.stored.shape),
        "input": listed(torch.from_numpy(example.values())),
        "eight_bit": example.eight_bit,
        "found": listed(point),
        "label": row.predicted,
        "other": flip.other,
        "distance": away,
        "radius": row.radius,
        "certificate": row.method,
        "logits": [logit if math.isfinite(logit) else repr(logit) for logit in flip.logits],
        "logits_error": flip.error,
        "found_by": flip.of,
    }
    return broken(message, attacked.settings, evidence)


def _exact_flip(attacked: Attacked, label: int, point: Tensor) -> Flip | None:
    at = evaluate(attacked.analysis, attacked.decisive, point)
    if at is None:
        return None
    rivals = [k for k in range(len(at.numbers)) if k != label and at.prefers(k, label)]
    if not rivals:
        return None
    other = max(rivals, key=lambda k: at.numbers[k])
    return Flip(other, at.numbers, at.error, "the exact network")


def _program_flip(attacked: Attacked, label: int, point: Tensor) -> Flip | None:
    """Return a class that the program prefers; an output that is not a number is no output of the certified class."""
    if attacked.program is None:
        return None
    with torch.no_grad():
        logits = attacked.program(point.detach().double().unsqueeze(0))[0].tolist()
    rivals = [k for k in range(len(logits)) if k != label and not logits[label] >= logits[k]]
    if not rivals:
        return None
    return Flip(rivals[0], tuple(logits), 0.0, f"the program in {attacked.settings.arithmetic}")
