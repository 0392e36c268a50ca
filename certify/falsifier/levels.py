"""How hard the falsifier tries: fixed numbers of steps, starts and inputs, never a clock: it can be repeated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from certify.results import FalsifyLevel


@dataclass(frozen=True)
class LipschitzEffort:
    """The effort against deterministic certificates.

    ``budget``: about how many multiplications the attacks on radii may take together; beyond it fewer examples are
    attacked, spread evenly. ``one_in``: of the examples certified by constants over all inputs, which cost next to
    nothing and fall together when such a constant is wrong, one in so many is attacked, and at least `FEWEST`. The
    others are numbers of gradient steps, of starts, of ascended pairs of inputs, of pairs
    of classes, and of examples whose local constant is attacked, from so many starts each.
    """

    pgd_steps: int
    pgd_starts: int
    ddn_steps: int
    pairs: int
    pair_steps: int
    class_pairs: int
    local_examples: int
    local_starts: int
    one_in: int
    budget: float


@dataclass(frozen=True)
class SmoothingEffort:
    """The effort against smoothed certificates.

    ``examples`` certificates are attacked; each of ``steps`` gradients is the mean over ``noises`` noisy inputs; at the
    input found, ``pilot`` votes name the rival and ``draws`` further ones are the proof.
    """

    examples: int
    steps: int
    noises: int
    pilot: int
    draws: int


FEWEST = 16  # of any kind of certificate, as far as there are

LIPSCHITZ: Mapping[FalsifyLevel, LipschitzEffort] = MappingProxyType(
    {
        "quick": LipschitzEffort(
            pgd_steps=5,
            pgd_starts=2,
            ddn_steps=8,
            pairs=8,
            pair_steps=30,
            class_pairs=2,
            local_examples=32,
            local_starts=4,
            one_in=16,
            budget=2e11,
        ),
        "full": LipschitzEffort(
            pgd_steps=100,
            pgd_starts=20,
            ddn_steps=300,
            pairs=64,
            pair_steps=200,
            class_pairs=20,
            local_examples=1000,
            local_starts=8,
            one_in=1,
            budget=float("inf"),
        ),
    }
)
SMOOTHING: Mapping[FalsifyLevel, SmoothingEffort] = MappingProxyType(
    {
        "quick": SmoothingEffort(examples=16, steps=6, noises=8, pilot=128, draws=1024),
        "full": SmoothingEffort(examples=1000, steps=20, noises=32, pilot=256, draws=10_240),
    }
)
