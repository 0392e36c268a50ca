r"""A statistical proof that the noisy vote is lost at an input, and how many such losses chance allows.

At an input x' inside a certified ball the certificate says that class y has the largest probability p_y. Pilot votes at
x' name the rival j; n *fresh* votes then give k_y and k_j, and with one-sided Clopper-Pearson limits at error a each

    lower(k_j) > upper(k_y)   implies   p_j > p_y   except with probability 2 a (1e-6 in all, with what the sampling of
                                                    integer noise costs taken off).

Where y is to stay among the k likeliest classes, k rivals are named, and each must be ahead: k + 1 limits share 1e-6.

The noise at x' is its own: x' and its name enter the key of every block. One loss is no bug, for each certificate fails
with probability alpha: of N examples at most q certificates are false, except with probability 1e-6, q the quantile of
Binomial(N, alpha). More than q losses break the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from certify.examples import Example
from certify.smoothing.addresses import Purpose, block_requests
from certify.smoothing.noise import NoiseLaw, block_inputs
from certify.smoothing.votes import BaseClassifier
from certify.stats import charged_alpha, noise_charge, success_lower, success_upper

DOUBT = 1e-6  # of one proof, and of the number of losses that chance allows


@dataclass(frozen=True)
class Lost:
    """A vote that is lost at an input: the rival, both counts of the fresh votes, and their limits."""

    label: int
    rival: int
    votes: int
    rival_votes: int
    draws: int
    upper: float
    rival_lower: float


def vote_counts(
    classifier: BaseClassifier, law: NoiseLaw, example: Example, purpose: Purpose, draws: int, seed: int
) -> list[int]:
    """Return the votes per class of noisy copies of an input; the last entry counts invalid outputs.

    The forward passes have one shape, that of a block.
    """
    total = torch.zeros(classifier.classes + 1, dtype=torch.int64)
    for request in block_requests(example, purpose, draws):
        inputs = block_inputs(law, seed, request, classifier.dtype).to(classifier.device)
        votes = classifier.votes(inputs)[: request.draws]
        total += torch.bincount(votes.cpu(), minlength=classifier.classes + 1)
    found: list[int] = total.tolist()
    return found


def prove_lost(
    classifier: BaseClassifier,
    law: NoiseLaw,
    example: Example,
    label: int,
    *,
    pilot: int,
    draws: int,
    seed: int,
    top_k: int = 1,
) -> Lost | None:
    """Return the proof that class ``label`` is not among the first in the vote at an input; None without one.

    Args:
        classifier: The base classifier, as it was certified.
        law: The noise law of the run.
        example: The input.
        label: The class that was certified.
        pilot: Votes that name the rival.
        draws: Fresh votes of the proof.
        seed: Of the noise.
        top_k: Among how many it was certified to be.
    """
    first = vote_counts(classifier, law, example, "selection", pilot, seed)
    rivals = _largest_others(first, label, top_k)
    if first[rivals[-1]] <= first[label]:
        return None
    fresh = vote_counts(classifier, law, example, "estimation", draws, seed)
    dimension = int(np.prod(example.stored.shape))
    charge = noise_charge(draws, dimension, law.levels) if law.levels else 0.0
    error = charged_alpha(DOUBT, charge) / (top_k + 1)
    rival = min(rivals, key=lambda k: fresh[k])  # the last of them that must be ahead
    upper, lower = success_upper(fresh[label], draws, error), success_lower(fresh[rival], draws, error)
    if not lower > upper:
        return None
    return Lost(label, rival, fresh[label], fresh[rival], draws, upper, lower)


def _largest_others(counts: Sequence[int], label: int, how_many: int) -> list[int]:
    return sorted((k for k in range(len(counts)) if k != label), key=lambda k: (-counts[k], k))[:how_many]
