r"""The questions of a sequential run: "is the radius at least r?" for each asked r, all on the same draws.

Each question r_1 < r_2 < ... has the group-sequential test of `certify.stats.sequential_test`, at the full alpha, with
the same looks. Draws are made up to the next look; there the votes for the selected class certify a question, give it
up, or leave it open. An example ends when every question is answered, or at the cap.

An answer "certified" stands only where all smaller radii are certified too; above a question that was given up there
is nothing left to ask, and the larger ones count as given up with it.

*Why each question may have the full alpha.* The nulls are nested: the truth makes exactly the questions above some
r_{j*} - 1 false. Any false report needs r_{j*}, the smallest of those, to be certified, and its own test does that
with probability at most alpha, whatever made the draws end: giving up, and the other questions, only remove paths. []
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from certify.errors import InputError
from certify.results import Answer, SmoothingSettings
from certify.stats import GEOMETRIES, Geometry, SequentialTest, sequential_test, smallest_n
from certify.stats.sequential import LARGEST_RATIO

LARGEST_RATIOS = {"gaussian": LARGEST_RATIO, "uniform": 1.0 - 2.0**-30}
LARGEST_WORDS = {"gaussian": f"{LARGEST_RATIO:g} sigma", "uniform": "below the half-width of the noise"}
ORDER: tuple[Answer, ...] = ("certified", "undecided", "not_certified")


@dataclass(frozen=True)
class Question:
    """One asked radius and its test."""

    radius: float
    test: SequentialTest


def ask_questions(
    settings: SmoothingSettings, alpha: float, geometry: Geometry = GEOMETRIES["gaussian"]
) -> tuple[Question, ...]:
    """Return the questions of the asked radii, at the error probability that is left for the bounds.

    The ratio of a radius to the scale of the noise is rounded up, so a certified question certifies at least r.

    Raises:
        InputError: If a radius is not positive, above 8 sigma (for uniform noise, its half-width or more), or beyond
            what the cap of the draws can certify; the message names the cap that can.
    """
    return tuple(_ask(radius, settings, alpha, geometry) for radius in settings.at)


def _ask(radius: float, settings: SmoothingSettings, alpha: float, geometry: Geometry) -> Question:
    scale = geometry.scale(settings.sigma)
    ratio = math.nextafter(radius / scale, math.inf)
    if not (radius > 0.0 and 2.0**-30 <= ratio <= LARGEST_RATIOS[geometry.family]):
        raise InputError(
            f"expected each radius of --at from {scale * 2.0**-30:.0e} to {LARGEST_WORDS[geometry.family]}, got "
            f"{radius} at sigma {settings.sigma}"
        )
    try:
        test = sequential_test(ratio, alpha, alpha, settings.n, geometry.family)
    except ValueError as error:
        raise InputError(str(error)) from error
    if all(votes > draws for votes, draws in zip(test.up, test.looks, strict=True)):
        least = smallest_n(alpha, ratio, radius=geometry.radius)
        raise InputError(
            f"expected enough draws to certify a radius of {radius} at sigma {settings.sigma} and alpha="
            f"{settings.alpha}, got n={settings.n}: even unanimous votes certify nothing; ask for --n {least} or more"
        )
    return Question(radius, test)


def answers(questions: Sequence[Question], votes: Sequence[int]) -> tuple[Answer, ...]:
    """Return the answers after ``votes[j]`` votes for the selected class at look j; fewer votes than looks are open.

    Example:
        >>> from certify.stats import SequentialTest
        >>> easy = SequentialTest(1.0, 0.8, 0.1, 0.1, 30, (10, 20, 30), (9, 18, 27), (4, 10, 17), 1.0, 0.1, 0.1)
        >>> hard = SequentialTest(2.0, 0.9, 0.1, 0.1, 30, (10, 20, 30), (11, 20, 30), (6, 15, 27), 1.0, 0.1, 0.1)
        >>> asked = (Question(0.1, easy), Question(0.2, hard))
        >>> answers(asked, [8]), answers(asked, [8, 18]), answers(asked, [4])
        (('undecided', 'undecided'), ('certified', 'undecided'), ('not_certified', 'not_certified'))
    """
    alone = (ORDER.index(_alone(question.test, votes)) for question in questions)
    return tuple(ORDER[worst] for worst in accumulate(alone, max))


def draws_to_next_look(questions: Sequence[Question], votes: Sequence[int]) -> int:
    """Return the draws of the next look; those of the last one seen when nothing is left to ask."""
    looks = questions[0].test.looks
    ended = len(votes) == len(looks) or "undecided" not in answers(questions, votes)
    return looks[len(votes) - 1 if ended else len(votes)]


def _alone(test: SequentialTest, votes: Sequence[int]) -> Answer:
    """Return the answer of one test, which stands from the first look that crosses one of its rows."""
    for now, up, lo in zip(votes, test.up, test.lo, strict=False):
        if now >= up:
            return "certified"
        if now <= lo:
            return "not_certified"
    return "undecided"
