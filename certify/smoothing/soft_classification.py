"""Classification by soft scores: one map and temperature for the whole run, chosen on its pilots, then one bound each.

1. *Pilots* of all examples: votes, and the sums of every candidate's scores (`certify.smoothing.scores`).
2. *The choice*: the candidate with the largest mean worth (`certify.stats.score_plan`), plain votes among them. So the
   run certifies one classifier, g(x) = argmax_k E s_k(tau z(x + noise)): a share of examples certified for the map that
   suits each of them best would be the accuracy of no classifier.
3. *Estimation*: the pilot of each example fixes its class A (largest sum, the lowest at a tie) and its number of
   draws; fresh draws give the sums that `certify.stats.score_radius` bounds, at alpha less the noise law's charge.

**Statement.** With probability at least 1 - alpha over the estimation draws of one example: if A is certified with
radius R, then E s_A(tau z(x + delta + noise)) > E s_k(tau z(x + delta + noise)) for every k != A and ||delta||_2 < R,
s as the program computes it. **Reason.** Given all pilots, map, temperature, A and n are constants, and the estimation
draws are fresh; `certify.stats.score_radius` has the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import UNSET, structs
from numpy.typing import NDArray

from certify.errors import InputError
from certify.examples import Example
from certify.results import ScoreCandidate, ScoreSums, ScoreTable, SmoothingExample, SmoothingSettings
from certify.smoothing.addresses import NO_CHOICE
from certify.smoothing.certificate import Certificate, select_class
from certify.smoothing.classification import Classification, classified
from certify.smoothing.procedure import Procedure
from certify.smoothing.scores import Scores, Sums
from certify.smoothing.tasks import Drawn
from certify.stats import (
    ScoreMap,
    Slopes,
    draw_sizes,
    plan_scores,
    score_candidates,
    score_radius,
    score_slopes,
    votes_worth,
)


@dataclass(frozen=True)
class LogitBound:
    """What is proved about the logits: their l2 Lipschitz constant and the error of the program, or why not."""

    lipschitz: float | None = None
    error: float | None = None
    reason: str = ""

    @property
    def words(self) -> str:
        """The bound as it enters the header of a run: the choice of the map depends on it."""
        return f"logits {self.lipschitz!r}, error {self.error!r}"


UNKNOWN = LogitBound(reason="nothing was asked about the network")


def check_score_settings(settings: SmoothingSettings) -> None:
    """Refuse settings of soft scores that do not go together.

    Raises:
        InputError: If a map or a temperature is given without soft scores, a temperature is out of range, or soft
            scores are asked for with radii to decide, another noise than a plain Gaussian, or a single draw.

    Example:
        >>> check_score_settings(SmoothingSettings(sigma=0.25, scores="soft", at=(0.5,)))
        Traceback (most recent call last):
        certify.errors.InputError: expected no asked radii with soft scores, got [0.5]; the sequential test is for votes
    """
    soft = settings.scores == "soft"
    given = settings.score_map is not UNSET or settings.temperature is not UNSET
    temperature = 1.0 if settings.temperature is UNSET else settings.temperature
    plain = settings.noise == "gaussian" and settings.scales is UNSET and settings.task is UNSET
    checks = (
        (soft or not given, "soft scores where their map or temperature is given", "votes; add --scores soft"),
        (
            not soft or not settings.at,
            "no asked radii with soft scores",
            f"{list(settings.at)}; the sequential test is for votes",
        ),
        (
            not soft or plain,
            "plain classification under Gaussian noise of one sigma with soft scores",
            f"{settings.noise} noise and other options; leave these out",
        ),
        (not soft or settings.n >= 2, "n of at least 2 draws with soft scores", f"{settings.n}; raise --n"),
        (
            2.0**-20 <= temperature <= 2.0**20,
            "a temperature from 2^-20 to 2^20",
            f"{temperature!r}; it multiplies the logits",
        ),
    )
    for holds, expected, got in checks:
        if not holds:
            raise InputError(f"expected {expected}, got {got}")


def score_reading(settings: SmoothingSettings, classes: int, bound: LogitBound) -> Scores:
    """Return the reading of a run with soft scores: the candidates that the settings leave."""
    simplex = None if settings.score_map is UNSET else settings.score_map
    temperature = None if settings.temperature is UNSET else settings.temperature
    return Scores(classes, score_candidates(simplex, temperature), bound.words)


@dataclass(frozen=True, eq=False)
class ScorePilots:
    """The first half of a run: the pilot of every example, and nothing else."""

    settings: SmoothingSettings
    reading: Scores
    first_draws: int = 0
    sequential: bool = False

    def choose(self, pilot: NDArray[np.int64]) -> NDArray[np.int64]:  # noqa: ARG002 - as in every task
        """Return nothing: the choice is made of all pilots together."""
        return NO_CHOICE

    def look(self, choice: NDArray[np.int64], estimation: NDArray[np.int64]) -> int:  # noqa: ARG002 - as in every task
        """Return nothing to look at."""
        return 0

    def draws_after(self, pilot: NDArray[np.int64], looks: Sequence[int]) -> int:  # noqa: ARG002 - as in every task
        """Return that no estimation follows."""
        return 0

    def report(self, example: Example, drawn: Drawn) -> NDArray[np.int64]:  # noqa: ARG002 - as in every task
        """Return the total of the pilot."""
        return drawn.pilot


@dataclass(frozen=True, eq=False)
class SoftClassification:
    """Which class has the largest mean score, and how far that holds; ``table`` says what the run has chosen.

    The choice of an example is [candidate, class]; nothing when invalid outputs have the largest sum.
    """

    procedure: Procedure
    reading: Scores
    table: ScoreTable
    slopes: Slopes | None

    @property
    def settings(self) -> SmoothingSettings:
        """The settings of the run."""
        return self.procedure.settings

    @property
    def first_draws(self) -> int:
        """The most draws."""
        return self.settings.n

    @property
    def sequential(self) -> bool:
        """Whether radii are asked for: never, with scores."""
        return False

    @property
    def score_map(self) -> ScoreMap:
        """The map in use."""
        return self.reading.candidates[self.table.chosen]

    @property
    def _soft(self) -> bool:
        return self.score_map.soft

    def _pilot(self, pilot: NDArray[np.int64]) -> Sums:
        return self.reading.take_apart(pilot, "selection", self.table.chosen)

    def choose(self, pilot: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the run's candidate and the class that the pilot selects."""
        sums = self._pilot(pilot)
        selected = select_class(sums.scores if self._soft else sums.votes)
        return NO_CHOICE if selected is None else np.array([self.table.chosen, selected], dtype=np.int64)

    def look(self, choice: NDArray[np.int64], estimation: NDArray[np.int64]) -> int:  # noqa: ARG002 - as in every task
        """Return nothing to look at."""
        return 0

    def draws_after(self, pilot: NDArray[np.int64], looks: Sequence[int]) -> int:  # noqa: ARG002 - as in every task
        """Return the draws that the pilot asks for."""
        sums = self._pilot(pilot)
        if not self._soft:
            return self.procedure.draws_after(sums.votes)
        if select_class(sums.scores) is None:
            return 0
        return plan_example(self.procedure, sums, self.slopes)[0]

    def report(self, example: Example, drawn: Drawn) -> SmoothingExample:
        """Return the certified example that the sums give."""
        pilot = self._pilot(drawn.pilot)
        found = self.reading.take_apart(drawn.estimation, "estimation", self.table.chosen)
        if not self._soft:
            plain = Drawn(np.array(pilot.votes), np.array(found.votes), drawn.n, (), drawn.seconds)
            return Classification(self.procedure).report(example, plain)
        certificate, method = certify_scores(self.procedure, pilot, found, drawn.n, self.slopes)
        return structs.replace(
            classified(
                self.procedure, example, certificate, selection=pilot.votes, estimation=found.votes, drawn=drawn
            ),
            scores=ScoreSums(
                selection=pilot.scores,
                selection_squares=pilot.squares,
                estimation=found.scores,
                estimation_squares=found.squares,
                method=method,
            ),
        )


def certify_scores(
    procedure: Procedure, pilot: Sums, found: Sums, n: int, slopes: Slopes | None
) -> tuple[Certificate, str]:
    """Return the certificate that the sums of one example give, and the name of the radius's method."""
    selected = select_class(pilot.scores)
    if selected is None:
        return Certificate(None, 0.0, "invalid outputs have the largest sum of scores in the pilot"), "none"
    radius, method = score_radius(
        found.scores,
        found.squares,
        selected,
        n,
        alpha=procedure.alpha,
        sigma=procedure.settings.sigma,
        slopes=slopes,
    )
    if 0.0 < radius < math.inf:
        return Certificate(selected, radius), method
    reason = f"no class certified: the scores of class {selected}, selected by the pilot, prove no positive radius"
    return Certificate(None, 0.0, reason), "none"


def plan_example(procedure: Procedure, pilot: Sums, slopes: Slopes | None) -> tuple[int, float]:
    """Return the estimation draws of an example under scores, and what they are worth, by its pilot alone."""
    settings = procedure.settings
    return plan_scores(
        pilot.scores,
        pilot.squares,
        settings.n0,
        sizes=draw_sizes(settings.n, planned=settings.procedure == "planned"),
        price=settings.price,
        alpha=procedure.alpha,
        sigma=settings.sigma,
        slopes=slopes,
    )


def slopes_of(each: ScoreMap, classes: int, bound: LogitBound, rounded: int) -> Slopes | None:
    """Return what is proved about the scores of a candidate; None for votes, and where the logits have no bound.

    Args:
        each: The candidate.
        classes: K.
        bound: What is proved about the logits.
        rounded: Coordinates that integer noise rounds to the grid of 8-bit pixels.
    """
    if not each.soft or bound.lipschitz is None or bound.error is None:
        return None
    return score_slopes(
        each.simplex,
        each.temperature,
        classes=classes,
        lipschitz=bound.lipschitz,
        error=bound.error,
        rounded_coordinates=rounded,
    )


def _worth(procedure: Procedure, sums: Sums, each: ScoreMap, slopes: Slopes | None) -> float:
    """Return what a candidate is worth on one pilot."""
    if each.soft:
        return plan_example(procedure, sums, slopes)[1]
    settings = procedure.settings
    sizes = draw_sizes(settings.n, planned=settings.procedure == "planned")
    return votes_worth(sums.votes, settings.n0, sizes=sizes, price=settings.price, alpha=procedure.alpha)


def choose_scores(
    procedure: Procedure, reading: Scores, bound: LogitBound, rounded: int, pilots: Iterable[NDArray[np.int64]]
) -> SoftClassification:
    """Return the task of a run, with the candidate of the largest mean worth on all its pilots; the first at a tie.

    The choice is made before any estimation draw, and never looks at a label.
    """
    slopes = [slopes_of(each, reading.classes, bound, rounded) for each in reading.candidates]
    worths: list[list[float]] = [[] for _ in reading.candidates]
    for pilot in pilots:
        for k, each in enumerate(reading.candidates):
            sums = reading.take_apart(pilot, "selection", k)
            selected = select_class(sums.scores if each.soft else sums.votes)
            worths[k].append(0.0 if selected is None else _worth(procedure, sums, each, slopes[k]))
    means = [math.fsum(row) / max(len(row), 1) for row in worths]
    chosen = max(range(len(means)), key=lambda k: (means[k], -k))
    candidates = tuple(
        ScoreCandidate(map=each.simplex, temperature=each.temperature, worth=mean)  # type: ignore[arg-type]
        for each, mean in zip(reading.candidates, means, strict=True)
    )
    table = ScoreTable(
        candidates=candidates,
        chosen=chosen,
        lipschitz=bound.lipschitz,
        logit_error=bound.error,
        reason=bound.reason or UNSET,
    )
    return SoftClassification(procedure, reading, table, slopes[chosen])
