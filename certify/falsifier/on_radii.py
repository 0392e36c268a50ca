"""Attacks on certified radii: another class inside the ball, confirmed exactly or not counted."""

from __future__ import annotations

import torch
from torch import Tensor

from certify.bounds.steepest import Network
from certify.bounds.work import multiplications
from certify.errors import BrokenCertificate
from certify.examples import Example
from certify.falsifier.attacked import Attacked, broken, listed
from certify.falsifier.balls import Balls
from certify.falsifier.exactly import distance_upper, evaluate, exact_example, is_inside, is_nearer
from certify.falsifier.flips import ddn, margins, pgd
from certify.falsifier.levels import LipschitzEffort
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
    """Return the examples to attack: all that the budget allows, spread evenly."""
    passes = 3 * (effort.pgd_steps * effort.pgd_starts + effort.ddn_steps)
    allowed = effort.budget / (passes * multiplications(attacked.graph))
    if not allowed < len(certified):
        return certified
    count = max(8, int(allowed))
    return sorted({certified[k * len(certified) // count] for k in range(count)})


def _attack_some(
    attacked: Attacked, chosen: list[int], effort: LipschitzEffort, search: Network, exact: Network
) -> None:
    rows = [attacked.rows[k] for k in chosen]
    radii = torch.tensor([row.radius for row in rows], dtype=torch.float64)
    labels = torch.tensor([row.predicted for row in rows])
    norm, centres = attacked.settings.norm, attacked.points[chosen]
    near, far = (Balls(centres, share * radii, norm, attacked.box) for share in (SHARE, OUTERMOST))
    seed = attacked.settings.seed
    found = [pgd(search, near, labels, steps=effort.pgd_steps, starts=effort.pgd_starts, seed=seed)]
    if norm == "l2":
        found.append(near.project(ddn(search, near, labels, steps=effort.ddn_steps)))
    for points in (*found, *(far.outermost(points, 1.0) for points in found)):
        with torch.no_grad():
            lost = margins(exact(points), labels) < 0.0
        for k in lost.nonzero().flatten().tolist():
            broke = confirm_flip(attacked, attacked.examples[chosen[k]], rows[k], points[k])
            if broke is not None:
                raise broke


def confirm_flip(
    attacked: Attacked, example: Example, row: LipschitzExample, point: Tensor
) -> BrokenCertificate | None:
    """Return the broken certificate when an input proves it false: inside ball and domain, class lost beyond errors.

    Args:
        attacked: The run.
        example: The certified example.
        row: Its certificate.
        point: The input, float64 ``[*input_shape]``.
    """
    if row.predicted is None or not is_inside(point, attacked.box):
        return None
    at = evaluate(attacked.analysis, attacked.decisive, point)
    if at is None:
        return None
    centre = exact_example(example)
    if not is_nearer(centre, at.exact, row.radius, attacked.settings.norm):
        return None
    label = row.predicted
    rivals = [k for k in range(len(at.numbers)) if k != label and at.prefers(k, label)]
    if not rivals:
        return None
    other = max(rivals, key=lambda k: at.numbers[k])
    away = distance_upper(centre, at.exact, attacked.settings.norm)
    message = (
        f"example {example.id}: certified as class {label} to {row.radius!r} ({attacked.settings.norm}), and class "
        f"{other} was found at distance {away!r}"
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
        "label": label,
        "other": other,
        "distance": away,
        "radius": row.radius,
        "certificate": row.method,
        "logits": list(at.numbers),
        "logits_error": at.error,
    }
    return broken(message, attacked.settings, evidence)
