r"""A statistical proof that a class has not the largest mean score at an input, and the attack that looks for one.

At an input x' inside a certified ball the certificate says that class y has the largest mean score m_y. Pilot scores at
x' name the rival j; n *fresh* scores then bound m_y from above and m_j from below, each by the empirical Bernstein
bound at error a (`certify.stats.empirical_bernstein`):

    lower(m_j) > upper(m_y)   implies   m_j > m_y   except with probability 2 a (1e-6 in all, with what the sampling of
                                                    integer noise costs taken off).

The noise at x' is its own. How many losses chance allows is said in `certify.falsifier.noisy_votes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from certify.bounds.steepest import Box
from certify.errors import BrokenCertificate, InputError
from certify.examples import Example
from certify.falsifier.levels import SMOOTHING, SmoothingEffort
from certify.falsifier.lipschitz import OFF
from certify.falsifier.noisy_points import placed
from certify.falsifier.noisy_votes import DOUBT
from certify.falsifier.smoothing import points_to_try
from certify.graph import Graph
from certify.results import Falsifier, FalsifyLevel, SmoothingExample, SmoothingSettings
from certify.rounding import add_up, sub_down
from certify.smoothing import NoiseLaw, make_law
from certify.smoothing.addresses import Purpose, block_requests
from certify.smoothing.base_network import BaseNetwork, one_core_per_pass
from certify.smoothing.noise import block_inputs
from certify.smoothing.scores import row_scores, score_sums
from certify.smoothing.votes import base_classifier, check_logits
from certify.stats import (
    ScoreMap,
    charged_alpha,
    false_certificates_quantile,
    mean_shift_upper,
    mean_upper,
    noise_charge,
)
from certify.stats.empirical_bernstein import UNITS


@dataclass(frozen=True)
class LostScore:
    """A mean score that is lost at an input: the rival, and the two bounds that are in the wrong order."""

    label: int
    rival: int
    draws: int
    upper: float
    rival_lower: float


@dataclass(frozen=True, eq=False)
class ScoreAttack:
    """What the attack needs of a run: its network, its noise, and the scores that it smooths."""

    network: BaseNetwork
    classes: int
    law: NoiseLaw
    score_map: ScoreMap
    seed: int

    def sums(self, example: Example, purpose: Purpose, draws: int) -> tuple[list[int], list[int]]:
        """Return the sums of scores and of their squares of noisy copies of an input, per class."""
        total = torch.zeros(2 * (self.classes + 1), dtype=torch.int64)
        for request in block_requests(example, purpose, draws):
            inputs = block_inputs(self.law, self.seed, request, self.network.dtype).to(self.network.device)
            with one_core_per_pass(self.network.device), self.network.running() as run:
                logits = check_logits(run(inputs), len(inputs), self.classes)
                total += score_sums(row_scores(logits[: request.draws], self.score_map)).cpu()
        found: list[int] = total.tolist()
        return found[: self.classes + 1], found[self.classes + 1 :]

    def prove_lost(self, example: Example, label: int, *, pilot: int, draws: int) -> LostScore | None:
        """Return the proof that class ``label`` has not the largest mean score at an input; None without one."""
        first, _ = self.sums(example, "selection", pilot)
        rival = max((k for k in range(len(first)) if k != label), key=lambda k: first[k])
        if first[rival] <= first[label]:
            return None
        totals, squares = self.sums(example, "estimation", draws)
        charge = noise_charge(draws, int(np.prod(example.stored.shape)), self.law.levels) if self.law.levels else 0.0
        each = 0.5 * charged_alpha(DOUBT, charge)
        upper = mean_upper(totals[label], squares[label], draws, each)
        below = add_up(1.0 - totals[rival] / (draws * UNITS), 2.0**-50)
        lower = sub_down(1.0, add_up(below, mean_shift_upper(totals[rival], squares[rival], draws, each)))
        return LostScore(label, rival, draws, upper, lower) if lower > upper else None


def falsify_scores(
    predict: Callable[[Tensor], Tensor],
    graph: Graph,
    examples: Sequence[Example],
    rows: Sequence[SmoothingExample],
    settings: SmoothingSettings,
    score_map: ScoreMap,
    *,
    classes: int,
    level: FalsifyLevel = "quick",
    device: str | torch.device = "cpu",
    range: Box = None,  # noqa: A002 - the field of the input space
) -> Falsifier:
    """Return what was tried against the certificates of a run with soft scores, none of which broke.

    Args:
        predict: The network, as it was certified: its scores decide.
        graph: The same network, for the gradients that say where to look.
        examples: All examples of the run.
        rows: Their certificates, in the same order.
        settings: Those of the run.
        score_map: The scores that it smooths.
        classes: Number of classes.
        level: How hard to try; "off" returns at once.
        device: Where the network runs.
        range: Where inputs lie; None for everywhere.

    Raises:
        BrokenCertificate: If more certificates are proved false than chance allows.
        ValueError: If there are not as many rows as examples, or they are not of the same examples.
    """
    if level == "off":
        return OFF
    if len(examples) != len(rows) or any(e.hash != row.hash for e, row in zip(examples, rows, strict=True)):
        raise ValueError("expected the rows of these examples, in their order")
    effort, law = SMOOTHING[level], make_law(settings, eight_bit=all(example.eight_bit for example in examples))
    classifier = base_classifier(predict, classes=classes, device=device, dtype=settings.dtype)
    attack = ScoreAttack(classifier.network, classes, law, score_map, settings.seed)
    certified = [k for k, row in enumerate(rows) if row.radius > 0.0]
    count = min(len(certified), effort.examples)
    chosen = [certified[k * len(certified) // count] for k in np.arange(count).tolist()]
    try:
        points = points_to_try(
            classifier, graph, [examples[k] for k in chosen], [rows[k] for k in chosen], settings, effort, range
        )
    except InputError as error:
        return Falsifier(level=level, tried=f"no attack by gradients ({error})", found=0)
    lost = [
        _lost_at(attack, examples[k], rows[k], point, effort, range) for k, point in zip(chosen, points, strict=True)
    ]
    return _judged(level, effort, [each for each in lost if each is not None], count, rows, settings)


def _lost_at(
    attack: ScoreAttack, example: Example, row: SmoothingExample, point: Tensor, effort: SmoothingEffort, box: Box
) -> tuple[Example, SmoothingExample, LostScore] | None:
    where = placed(example, point, row.radius, box, on_grid=attack.law.float_sound)
    if where is None or row.predicted is None:
        return None
    lost = attack.prove_lost(where, row.predicted, pilot=effort.pilot, draws=effort.draws)
    return None if lost is None else (where, row, lost)


def _judged(
    level: FalsifyLevel,
    effort: SmoothingEffort,
    lost: Sequence[tuple[Example, SmoothingExample, LostScore]],
    count: int,
    rows: Sequence[SmoothingExample],
    settings: SmoothingSettings,
) -> Falsifier:
    """Return what was tried, or raise when more certificates are false than chance allows."""
    allowed = false_certificates_quantile(max(1, len(rows)), settings.alpha, DOUBT)
    if len(lost) > allowed:
        found = [
            {
                "id": row.id,
                "hash": row.hash,
                "radius": row.radius,
                "found": where.stored.ravel().tolist(),
                **asdict(proof),
            }
            for where, row, proof in lost
        ]
        message = (
            f"{len(lost)} certificates of mean scores are false, each with confidence 1 - {DOUBT:g}, first that of "
            f"{lost[0][1].id}; chance allows {allowed}; this is a bug of certify, and the report is withheld"
        )
        facts = {"sigma": settings.sigma, "alpha": settings.alpha, "seed": settings.seed}
        raise BrokenCertificate(message, {"claim": "radius of mean scores", "allowed": allowed, "lost": found, **facts})
    tried = (
        f"{effort.steps} gradient steps of the mean of {effort.noises} noisy outputs at 0.999 of the radius on {count} "
        f"certified examples, scores of {effort.pilot} draws at the input found and of {effort.draws} more where the "
        f"class was behind: {len(lost)} lost (confidence 1 - {DOUBT:g}), chance allows {allowed}"
    )
    return Falsifier(level=level, tried=tried, found=0)
