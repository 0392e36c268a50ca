r"""What must hold between counts and radii, and a planted vote with a known radius, on the way of the run's own code.

- Every radius follows from its counts; one vote more for the class, one less for the strongest other, does not lower
  it; a smaller alpha does not raise it; the scale of the noise scales it.
- *Planted*: class 1 where the first of four pixels is above 1/2, else 0. On a grid the nearest image of class 0 has the
  pixel 127/255, in real numbers 1/2: no radius may reach beyond. The counts come from the run's noise law and bound, at
  error 1e-6, and must give a radius where the pixel is a standard deviation away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor

from certify.errors import BrokenCertificate
from certify.examples import Example
from certify.falsifier.noisy_votes import DOUBT, vote_counts
from certify.results import SmoothingExample, SmoothingSettings
from certify.smoothing import NoiseLaw, Procedure, certify_counts, plan_procedure
from certify.smoothing.votes import base_classifier

PLANTED_DRAWS, PLANTED_PILOT = 1024, 128
ROUNDING = 1e-9  # between a radius at twice sigma and twice the radius, each rounded down


def check_counts(rows: Sequence[SmoothingExample], procedure: Procedure) -> None:
    """Raise when a radius does not follow from its counts, or moves the wrong way with them.

    Raises:
        BrokenCertificate: Naming the example and the rule.
    """
    for row in rows:
        for finding in _contradictions(row, procedure):
            message = f"example {row.id}: {finding}; this is a bug of certify, and the report is withheld"
            raise BrokenCertificate(message, {"claim": "consistency", "id": row.id, "finding": finding})


def _contradictions(row: SmoothingExample, procedure: Procedure) -> Iterator[str]:
    selection, estimation = row.counts.selection, row.counts.estimation
    uniform = procedure.uniform_of(row.id, row.hash)
    own = procedure.certify(selection, estimation, uniform=uniform)
    if (own.predicted, own.radius) != (row.predicted, row.radius):
        yield f"its counts give class {own.predicted} to {own.radius!r}, its row says {row.predicted} to {row.radius!r}"
    if row.predicted is None:
        return
    settings, alpha, law = procedure.settings, procedure.alpha, procedure.geometry

    def radius(counts: Sequence[int], alpha: float = alpha, sigma: float = settings.sigma) -> float:
        return certify_counts(
            selection,
            counts,
            bound=settings.bound,
            alpha=alpha,
            sigma=sigma,
            geometry=law,
            uniform=1.0 if uniform is None else uniform,
            top_k=settings.top_k,
        ).radius

    better = _one_vote_better(estimation, row.predicted)
    if not radius(better) >= row.radius:
        yield f"one vote more for class {row.predicted} lowers its radius from {row.radius!r} to {radius(better)!r}"
    if not radius(estimation, alpha=alpha / 2.0) <= row.radius:
        yield f"half of alpha raises its radius from {row.radius!r} to {radius(estimation, alpha=alpha / 2.0)!r}"
    twice = radius(estimation, sigma=2.0 * settings.sigma)
    growth = law.scale(2.0 * settings.sigma) / law.scale(settings.sigma)  # about 2 where half-widths are whole levels
    if not abs(twice - growth * row.radius) <= ROUNDING * row.radius:
        yield f"twice sigma turns its radius from {row.radius!r} to {twice!r}"


def _one_vote_better(counts: Sequence[int], label: int) -> list[int]:
    """Return the counts with one vote moved from the strongest other class to the certified one."""
    moved = list(counts)
    other = max((k for k in range(len(counts)) if k != label), key=lambda k: counts[k])
    if moved[other]:
        moved[other] -= 1
        moved[label] += 1
    return moved


def check_planted(settings: SmoothingSettings, law: NoiseLaw, *, on_grid: bool) -> None:
    """Certify the planted vote with the noise, the bound and the code of the run.

    Raises:
        BrokenCertificate: If its radius reaches beyond the known one, or there is none where there must be one.

    Example:
        >>> from certify.smoothing import make_law
        >>> settings = SmoothingSettings(sigma=0.25)
        >>> check_planted(settings, make_law(settings, eight_bit=True), on_grid=True)
    """
    pixel = min(255, 128 + max(1, round(255.0 * settings.sigma)))
    image = np.array([pixel, 0, 128, 255], dtype=np.uint8)
    example = Example(0, "planted", 1, image if law.float_sound else image.astype(np.float64) / 255.0)
    known = Fraction(pixel - 127, 255) if on_grid else Fraction(pixel, 255) - Fraction(1, 2)
    own = replace(settings, at=(), n=PLANTED_DRAWS, n0=PLANTED_PILOT, alpha=DOUBT, procedure="fixed")
    procedure = plan_procedure(own, classes=2, law=law, dimension=4)
    classifier = base_classifier(_above_half, classes=2, device="cpu", dtype="float64")
    selection = vote_counts(classifier, law, example, "selection", own.n0, own.seed)
    estimation = vote_counts(classifier, law, example, "estimation", own.n, own.seed)
    found = procedure.certify(selection, estimation)
    must = known >= Fraction(settings.sigma) * Fraction(9, 10)
    if found.predicted == 0 or not Fraction(found.radius) <= known or (must and not found.radius > 0.0):
        raise BrokenCertificate(
            f"the planted vote was certified as {found.predicted} to {found.radius!r}, and is lost at distance "
            f"{float(known)!r}; this is a bug of certify, and the report is withheld",
            {"claim": "planted vote", "radius": repr(found.radius), "distance": float(known), "counts": estimation},
        )


def _above_half(x: Tensor) -> Tensor:
    return torch.stack([0.5 - x[:, 0], x[:, 0] - 0.5], dim=1)
