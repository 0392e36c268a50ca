"""The falsifier of smoothed certificates: counts and radii, a planted vote, and votes lost inside certified balls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import torch
from msgspec import UNSET
from msgspec.structs import replace
from numpy.typing import NDArray
from torch import Tensor

from certify.bounds.steepest import Box
from certify.errors import BrokenCertificate, InputError
from certify.examples import Example
from certify.falsifier.asked_rules import check_answers
from certify.falsifier.balls import Balls
from certify.falsifier.levels import SMOOTHING, SmoothingEffort
from certify.falsifier.lipschitz import OFF
from certify.falsifier.noisy_points import lose_vote, placed
from certify.falsifier.noisy_rules import check_counts, check_planted
from certify.falsifier.noisy_votes import DOUBT, Lost, prove_lost
from certify.falsifier.splitting import check_planted_line, check_split_rows, recount
from certify.graph import Graph, run
from certify.results import Falsifier, FalsifyLevel, SmoothingExample, SmoothingSettings
from certify.rounding import mul_down
from certify.smoothing import NoiseLaw, make_law, plan_procedure
from certify.smoothing.votes import BaseClassifier, base_classifier
from certify.stats import false_certificates_quantile

SHARE = 0.999  # of the radius: where the attack looks

Found = tuple[Example, SmoothingExample, Example, Lost]


def falsify_smoothing(
    predict: Callable[[Tensor], Tensor],
    graph: Graph,
    examples: Sequence[Example],
    rows: Sequence[SmoothingExample],
    settings: SmoothingSettings,
    *,
    classes: int,
    level: FalsifyLevel = "quick",
    device: str | torch.device = "cpu",
    range: Box = None,  # noqa: A002 - the field of the input space
    scales: NDArray[np.float64] | None = None,
) -> Falsifier:
    """Return what was tried against the certificates of a smoothing run, none of which broke.

    Args:
        predict: The base classifier, as it was certified: its votes decide.
        graph: The same network, for the gradients that say where to look.
        examples: All examples of the run.
        rows: Their certificates, in the same order.
        settings: Those of the run.
        classes: Number of classes.
        level: How hard to try; "off" returns at once.
        device: Where the network runs.
        range: Where inputs lie; None for everywhere.
        scales: Those of the noise, where each coordinate has its own; the l2 balls inside the ellipsoids are attacked.

    Raises:
        BrokenCertificate: If more certificates are proved false than chance allows, or a rule between the numbers of
            the run is broken.
        ValueError: If there are not as many rows as examples, or they are not of the same examples.
    """
    if level == "off":
        return OFF
    if len(examples) != len(rows) or any(e.hash != row.hash for e, row in zip(examples, rows, strict=True)):
        raise ValueError("expected the rows of these examples, in their order")
    effort, eight_bit = SMOOTHING[level], all(example.eight_bit for example in examples)
    law = make_law(settings, eight_bit=eight_bit, scales=scales)
    dimension = int(np.prod(graph.input_shape))
    procedure = plan_procedure(settings, classes=classes, law=law, dimension=dimension)
    if settings.deterministic:
        check_split_rows(rows)
        check_planted_line(settings, law)
    else:
        check = check_answers if settings.at else check_counts  # asked radii do not follow from counts by a bound
        check(rows, procedure)
        plain = replace(settings, at=(), scales=UNSET, task=UNSET)
        check_planted(plain, make_law(plain, eight_bit=eight_bit), on_grid=law.float_sound)
    classifier = base_classifier(predict, classes=classes, device=device, dtype=settings.dtype)
    try:
        tried = _attack(classifier, graph, examples, _on_balls(rows, settings), settings, law, effort, range)
    except InputError as error:
        tried = f"no attack by gradients ({error})"
    return Falsifier(level=level, tried=f"{tried}; rules between counts and radii; 1 planted vote", found=0)


def _on_balls(rows: Sequence[SmoothingExample], settings: SmoothingSettings) -> list[SmoothingExample]:
    """Return the certificates on balls: those on ellipsoids on the l2 ball inside."""
    if settings.scales is UNSET:
        return list(rows)
    least = settings.scales.smallest
    return [replace(row, radius=mul_down(row.radius, least), norm="l2") for row in rows]


def _attack(
    classifier: BaseClassifier,
    graph: Graph,
    examples: Sequence[Example],
    rows: Sequence[SmoothingExample],
    settings: SmoothingSettings,
    law: NoiseLaw,
    effort: SmoothingEffort,
    box: Box,
) -> str:
    certified = [k for k, row in enumerate(rows) if row.radius > 0.0]
    count = min(len(certified), effort.examples)
    chosen = [certified[k * len(certified) // count] for k in np.arange(count).tolist()]
    points = points_to_try(
        classifier, graph, [examples[k] for k in chosen], [rows[k] for k in chosen], settings, effort, box
    )
    steps = (
        f"{effort.steps} gradient steps of the mean of {effort.noises} noisy outputs at 0.999 of the radius on {count} "
        f"of {len(certified)} certified examples"
    )
    if settings.deterministic:
        places = [
            placed(examples[k], p, rows[k].radius, box, on_grid=True, norm="l1")
            for k, p in zip(chosen, points, strict=True)
        ]
        found_at = [(examples[k], rows[k], place) for k, place in zip(chosen, places, strict=True) if place is not None]
        tried = recount(classifier, law, found_at, settings)
        return f"{steps}, all {settings.n} shifts again at {tried} inputs found: 0 lost, and none is allowed"
    lost: list[Found] = []
    for k, point in zip(chosen, points, strict=True):
        found = _lost_at(classifier, law, examples[k], rows[k], point, effort, settings, box)
        lost += [] if found is None else [found]
    allowed = false_certificates_quantile(max(1, len(rows)), settings.alpha, DOUBT)
    if len(lost) > allowed:
        raise _broken(lost, allowed, settings, law)
    return (
        f"{steps}, {effort.pilot} votes at the input found and {effort.draws} more "
        f"where the class was behind: {len(lost)} lost (confidence 1 - {DOUBT:g}), chance allows {allowed}"
    )


def points_to_try(
    classifier: BaseClassifier,
    graph: Graph,
    examples: Sequence[Example],
    rows: Sequence[SmoothingExample],
    settings: SmoothingSettings,
    effort: SmoothingEffort,
    box: Box,
) -> Tensor:
    """Return where the votes of these certificates are likely to be lost."""
    if not examples:
        return torch.zeros(0, *graph.input_shape, dtype=torch.float64)
    single, device = graph.to(torch.float32, classifier.device), classifier.device
    centres = torch.from_numpy(np.stack([example.values() for example in examples]))
    radii = SHARE * torch.tensor([row.radius for row in rows], dtype=torch.float64)
    labels = torch.tensor([row.predicted for row in rows])
    return lose_vote(
        lambda x: run(single, x.to(device, torch.float32)).double().cpu(),
        Balls(centres, radii, rows[0].norm, box),
        labels,
        sigma=settings.sigma,
        steps=effort.steps,
        noises=effort.noises,
        seed=settings.seed,
    )


def _lost_at(
    classifier: BaseClassifier,
    law: NoiseLaw,
    example: Example,
    row: SmoothingExample,
    point: Tensor,
    effort: SmoothingEffort,
    settings: SmoothingSettings,
    box: Box,
) -> Found | None:
    where = placed(example, point, row.radius, box, on_grid=law.float_sound, norm=row.norm)
    if where is None or row.predicted is None:
        return None
    lost = prove_lost(
        classifier,
        law,
        where,
        row.predicted,
        pilot=effort.pilot,
        draws=effort.draws,
        seed=settings.seed,
        top_k=settings.top_k,
    )
    return None if lost is None else (example, row, where, lost)


def _broken(lost: Sequence[Found], allowed: int, settings: SmoothingSettings, law: NoiseLaw) -> BrokenCertificate:
    message = (
        f"{len(lost)} smoothed certificates are false, each with confidence 1 - {DOUBT:g}, among them example "
        f"{lost[0][0].id}; chance allows {allowed}; this is a bug of certify, and the report is withheld"
    )
    found = [
        {
            "id": example.id,
            "index": example.index,
            "hash": example.hash,
            "shape": list(example.stored.shape),
            "input": example.stored.ravel().tolist(),
            "found": where.stored.ravel().tolist(),
            "radius": row.radius,
            **asdict(proof),
        }
        for example, row, where, proof in lost
    ]
    run_settings = {"sigma": settings.sigma, "alpha": settings.alpha, "seed": settings.seed, "noise": law.name}
    return BrokenCertificate(message, {"claim": "smoothed radius", "allowed": allowed, "lost": found, **run_settings})
