r"""Attacks on deterministic splitting: votes are recounted at every shift, so that a single lost class is a proof.

- Every radius follows from its counts, and one vote more for the class does not lower it.
- *Planted*: class 1 where the first of four pixels is seen above 1/2. All 256 values of that pixel are certified by the
  code of the run, and each certified ball is walked from end to end: the class must be certified, or tied with none, at
  every pixel in it.
- At an input found by an attack all shifts are evaluated again: the certified class must be strictly ahead there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from certify.errors import BrokenCertificate
from certify.examples import Example
from certify.falsifier.noisy_votes import vote_counts
from certify.results import SmoothingExample, SmoothingSettings
from certify.smoothing import NoiseLaw
from certify.smoothing.splitting import certify_split
from certify.smoothing.votes import BaseClassifier, base_classifier

WITHHELD = "this is a bug of certify, and the report is withheld"
LEVELS = 255


def check_split_rows(rows: Sequence[SmoothingExample]) -> None:
    """Raise when a radius does not follow from its votes, or one vote more for its class lowers it.

    Raises:
        BrokenCertificate: Naming the example.
    """
    for row in rows:
        votes = list(row.counts.estimation)
        own = certify_split(votes)
        if (own.predicted, own.radius) != (row.predicted, row.radius):
            raise _broken(row.id, f"its votes give class {own.predicted} to {own.radius!r}, its row another answer")
        if row.predicted is not None and not _with_one_more(votes, row.predicted) >= row.radius:
            raise _broken(row.id, f"one vote more for class {row.predicted} lowers its radius")


def _with_one_more(votes: Sequence[int], label: int) -> float:
    """Return the radius with one vote moved to a class from another one that has some."""
    moved = list(votes)
    giver = next((k for k, count in enumerate(votes) if k != label and count), label)
    moved[giver] -= 1
    moved[label] += 1
    return certify_split(moved).radius


def _broken(name: str, finding: str) -> BrokenCertificate:
    message = f"example {name}: {finding}; {WITHHELD}"
    return BrokenCertificate(message, {"claim": "consistency", "id": name, "finding": finding})


def check_planted_line(settings: SmoothingSettings, law: NoiseLaw) -> None:
    """Certify a threshold at all 256 values of a pixel with the code of the run, and walk every certified ball.

    Raises:
        BrokenCertificate: If a class is not ahead at a pixel inside a ball, or none is certified at all.

    Example:
        >>> from certify.smoothing import make_law
        >>> settings = SmoothingSettings(sigma=0.05, noise="split")
        >>> check_planted_line(settings, make_law(settings, eight_bit=True))
    """
    classifier = base_classifier(_above_half, classes=2, device="cpu", dtype="float64")
    line = [
        certify_split(vote_counts(classifier, law, _planted(pixel), "estimation", settings.n, settings.seed))
        for pixel in range(LEVELS + 1)
    ]
    for pixel, one in enumerate(line):
        inside = (k for k in range(LEVELS + 1) if Fraction(abs(k - pixel), LEVELS) < Fraction(one.radius))
        lost = [k for k in inside if line[k].predicted != one.predicted]
        if lost:
            facts = {"claim": "planted vote", "pixel": pixel, "radius": repr(one.radius), "lost": lost[0]}
            raise BrokenCertificate(f"the planted vote of pixel {pixel} is lost at {lost[0]}; {WITHHELD}", facts)
    if {line[0].predicted, line[LEVELS].predicted} != {0, 1}:
        raise BrokenCertificate(f"the planted vote certifies nothing; {WITHHELD}", {"claim": "planted vote"})


def _planted(pixel: int) -> Example:
    return Example(0, f"planted {pixel}", 1, np.array([pixel, 0, 128, 255], dtype=np.uint8))


def _above_half(x: Tensor) -> Tensor:
    return torch.stack([0.5 - x[:, 0], x[:, 0] - 0.5], dim=1)


def recount(
    classifier: BaseClassifier,
    law: NoiseLaw,
    found: Iterable[tuple[Example, SmoothingExample, Example]],
    settings: SmoothingSettings,
) -> int:
    """Return at how many inputs, strictly inside certified balls, all shifts were evaluated and kept the class.

    Args:
        classifier: The base classifier, as it was certified.
        law: The law of the run.
        found: Certified examples, their rows, and the inputs.
        settings: Those of the run.

    Raises:
        BrokenCertificate: With the input at which the certified class is not strictly ahead.
    """
    tried = 0
    for example, row, where in found:
        votes = vote_counts(classifier, law, where, "estimation", settings.n, settings.seed)
        tried += 1
        if certify_split(votes).predicted != row.predicted:
            raise BrokenCertificate(
                f"the certificate of example {example.id} is false: class {row.predicted} is not ahead at an input "
                f"inside radius {row.radius!r}; {WITHHELD}",
                {
                    "claim": "smoothed radius",
                    "id": example.id,
                    "hash": example.hash,
                    "shape": list(example.stored.shape),
                    "input": example.stored.ravel().tolist(),
                    "found": where.stored.ravel().tolist(),
                    "radius": row.radius,
                    "votes": votes,
                    "sigma": settings.sigma,
                    "seed": settings.seed,
                    "noise": law.name,
                },
            )
    return tried
