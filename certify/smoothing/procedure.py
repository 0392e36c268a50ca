"""The procedure: from integer counts to a certificate. It never draws and never sees the label.

1. *Selection* (the pilot): ``n0`` draws. The class A with the most votes is selected, the lowest index at a tie; when
   the invalid outputs win, the example is abstained from.
2. The pilot's votes for A fix the number n of estimation draws (``planned``), or it is the same for all (``fixed``).
3. *Estimation*: n fresh draws. Their counts, and A, give a radius by one bound of `certify.stats.BOUNDS`.

With asked radii, 2 and 3 are a group-sequential test of each (`certify.smoothing.questions`): the votes for A at its
looks decide when the draws end and which radii are certified, and the radius is the largest of these.

**Statement.** With probability at least 1 - alpha over the draws of one example: if A is certified with radius R, then
the smoothed classifier g(x) = argmax_k P(f(x + noise) = k) has g(x + delta) = A for every ||delta|| < R, in l2 for
Gaussian noise and in l1 for uniform noise (`certify.stats.GEOMETRIES`). In a top-k task: A is among the k classes (and
invalid outputs) that are likeliest at x + delta.

**Reason.** A and n are functions of the pilot. Given the pilot, the estimation draws are fresh and n is a constant, so
the bound errs with probability at most the alpha it is run at; averaging over pilots keeps this. The integer noise law
differs from the law of the theorem by at most ``charge`` in total variation over all estimation draws, hence the bound
runs at alpha - charge (`certify.stats.noise_charge`, for the largest n of the run). The pilot needs no charge. The
sequential tests have their own proof there; they run at alpha - charge too, with n the cap of the draws.

Deterministic splitting has no pilot and no alpha: its n "draws" are all the shifts there are, and their counts certify
by a theorem of their own (`certify.stats.splitting`).

Reference: J. Cohen, E. Rosenfeld, Z. Kolter, *Certified adversarial robustness via randomized smoothing*, ICML 2019,
arXiv:1902.02918, section 3.2.2, with n planned and the bound exchangeable.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from msgspec import UNSET
from msgspec.structs import asdict

from certify.errors import InputError
from certify.results import Decision, SequentialTable, SmoothingSettings, Tables, dump_json, refuse_other_words
from certify.smoothing.addresses import BLOCK_DRAWS
from certify.smoothing.certificate import Certificate, select_class
from certify.smoothing.noise import NoiseLaw
from certify.smoothing.noise_source import noise_source
from certify.smoothing.questions import Question, answers, ask_questions, draws_to_next_look
from certify.smoothing.splitting import certify_split, refuse_many_coordinates, split_checks
from certify.stats import (
    GEOMETRIES,
    Geometry,
    charged_alpha,
    noise_charge,
    radius_bound,
    sample_plan,
    smallest_n,
)
from certify.stats.arguments import MAX_DRAWS, MAX_SIGMA, MIN_SIGMA
from certify.stats.radius import RANDOMIZED
from certify.stats.randomized import uniform_of

LEAST_ALPHA = 1e-100  # of settings: what bounds and tables make of it stays inside what the statistics take


@dataclass(frozen=True)
class Procedure:
    """The decisions of one run: its settings, the sample plan, and the error probability left for the bounds.

    ``plan[k]`` is the number of estimation draws after k pilot votes for the selected class; None under ``fixed``, and
    where ``questions`` (one per asked radius) decide it.
    """

    settings: SmoothingSettings
    classes: int
    plan: tuple[int, ...] | None
    charge: float
    alpha: float
    questions: tuple[Question, ...] = ()
    law: str = "gaussian"

    @property
    def geometry(self) -> Geometry:
        """What the noise law makes of bounds on probabilities."""
        return GEOMETRIES[self.law]

    @property
    def name(self) -> str:
        """The name of the procedure in the rows of a report."""
        return "sequential" if self.questions else self.settings.procedure

    def draws_after(self, selection: Sequence[int], votes: Sequence[int] = ()) -> int:
        """Return the number of estimation draws that are asked for; 0 when invalid outputs won the pilot.

        Args:
            selection: The counts of the pilot.
            votes: Those for the selected class at the looks so far, which only asked radii look at: the answer is the
                next look, or again the last one when the example has ended.
        """
        selected = select_class(selection)
        if selected is None:
            return 0
        if self.questions:
            return draws_to_next_look(self.questions, votes)
        return self.settings.n if self.plan is None else self.plan[selection[selected]]

    def uniform_of(self, example_id: str, example_hash: str) -> float | None:
        """Return the random number of an example; None where the bound takes none."""
        randomized = self.settings.bound in RANDOMIZED and not self.questions
        return uniform_of(self.settings.seed, example_id, example_hash) if randomized else None

    def certify(
        self,
        selection: Sequence[int],
        estimation: Sequence[int],
        votes: Sequence[int] = (),
        uniform: float | None = None,
    ) -> Certificate:
        """Return the certificate of one example from its two count vectors ``[classes + 1]``, and ``votes``.

        ``uniform`` is that of `uniform_of`; without it a randomized bound is the deterministic one.
        """
        if self.settings.deterministic:
            return certify_split(estimation)
        if self.questions:
            return certify_answers(self.questions, selection, votes)
        return certify_counts(
            selection,
            estimation,
            bound=self.settings.bound,
            alpha=self.alpha,
            sigma=self.settings.sigma,
            geometry=self.geometry,
            uniform=1.0 if uniform is None else uniform,
            top_k=self.settings.top_k,
        )


def plan_procedure(settings: SmoothingSettings, *, classes: int, law: NoiseLaw, dimension: int) -> Procedure:
    """Return the procedure of a run, after checking that it can certify anything at all.

    Args:
        settings: The settings of the run.
        classes: Number of classes K, without the invalid one.
        law: The noise law, which says what its rounding costs.
        dimension: Coordinates of one input.

    Raises:
        InputError: If a setting is out of range, the rounding of the noise would cost more than half of alpha, or n is
            too small for any radius, or for an asked one; the message names the smallest n that works.
    """
    check_settings(settings)
    if settings.deterministic:
        refuse_many_coordinates(dimension)
        return Procedure(settings, classes, plan=None, charge=0.0, alpha=0.0, law=law.name)
    if not settings.top_k < classes:
        raise InputError(f"expected a task with k below the number of classes, {classes}, got k={settings.top_k}")
    try:
        charge = noise_charge(settings.n, dimension, law.levels) if law.levels else 0.0
        alpha = charged_alpha(settings.alpha, charge)
        planned = settings.procedure == "planned" and not settings.at
        plan = sample_plan(settings.n0, settings.n, settings.price, settings.alpha, settings.noise) if planned else None
    except ValueError as error:
        raise InputError(str(error)) from error
    questions = ask_questions(settings, alpha, GEOMETRIES[law.name])
    procedure = Procedure(settings, classes, plan, charge, alpha, questions, law.name)
    if not settings.at:
        _refuse_hopeless(procedure)
    return procedure


def check_settings(settings: SmoothingSettings) -> None:
    """Refuse settings without a meaning.

    Raises:
        InputError: If alpha is not inside (0, 1/2), sigma not positive and finite, n or n0 not from 1 to 10^9, price
            not from 0 to 1, the seed negative, a word not one of its choices, or a value so extreme that the statistics
            cannot be computed. With deterministic splitting: if something is asked for that plays no part in it.

    Example:
        >>> check_settings(SmoothingSettings(sigma=float("nan")))
        Traceback (most recent call last):
        certify.errors.InputError: expected sigma as a positive finite number, got nan
    """
    refuse_other_words(asdict(settings), SmoothingSettings)
    plain = (
        (0.0 < settings.sigma < math.inf, "sigma as a positive finite number", settings.sigma),
        (MIN_SIGMA <= settings.sigma <= MAX_SIGMA, f"sigma from {MIN_SIGMA:.0e} to {MAX_SIGMA:.0e}", settings.sigma),
        (settings.seed >= 0, "seed as a whole number that is not negative", settings.seed),
    )
    others = split_checks(settings) if settings.deterministic else (*_draw_checks(settings), *_top_k_checks(settings))
    for holds, expected, got in (*plain, *others):
        if not holds:
            raise InputError(f"expected {expected}, got {got}")


def _draw_checks(settings: SmoothingSettings) -> tuple[tuple[bool, str, object], ...]:
    """Return what must hold where something is drawn."""
    return (
        (0.0 < settings.alpha < 0.5, "alpha inside (0, 1/2)", settings.alpha),
        (settings.alpha >= LEAST_ALPHA, f"alpha of at least {LEAST_ALPHA:g}", settings.alpha),
        (settings.n >= 1, "n of at least 1 draw", settings.n),
        (settings.n0 >= 1, "n0 of at least 1 draw", settings.n0),
        (settings.n <= MAX_DRAWS, f"n of at most {MAX_DRAWS:,} draws", settings.n),
        (settings.n0 <= MAX_DRAWS, f"n0 of at most {MAX_DRAWS:,} draws", settings.n0),
        (0.0 <= settings.price < math.inf, "price as a finite number that is not negative", settings.price),
        (settings.price <= 1.0, "price of at most 1 sigma per draw", settings.price),
        (all(0.0 < radius < math.inf for radius in settings.at), "radii of --at above 0", list(settings.at)),
    )


def _top_k_checks(settings: SmoothingSettings) -> tuple[tuple[bool, str, object], ...]:
    """Return what must hold where a class is to stay among the k likeliest ones: only the plain case has a proof."""
    k = settings.top_k
    return (
        (k >= 1, "a task with k of at least 1", k),
        (k == 1 or not settings.at, "no asked radii in a top-k task: their test is for one class", list(settings.at)),
        (k == 1 or settings.noise == "gaussian", "Gaussian noise in a top-k task", settings.noise),
        (k == 1 or settings.bound == "two-interval", "the bound two-interval in a top-k task", settings.bound),
        (k == 1 or settings.scores is UNSET, "hard scores in a top-k task", settings.scores),
    )


def certify_counts(
    selection: Sequence[int],
    estimation: Sequence[int],
    *,
    bound: str,
    alpha: float,
    sigma: float,
    geometry: Geometry = GEOMETRIES["gaussian"],
    uniform: float = 1.0,
    top_k: int = 1,
) -> Certificate:
    """Return the certificate that two count vectors ``[classes + 1]`` (the last: invalid outputs) give.

    A pure function of integers and settings: the run and any later check of it need nothing else.

    Args:
        selection: Votes of the pilot.
        estimation: Votes of the fresh draws.
        bound: Key of `certify.stats.BOUNDS`.
        alpha: Error probability of the bound, the charge of the noise law already taken off.
        sigma: Standard deviation of every coordinate of the noise, in the space of the radius.
        geometry: That of the noise law; Gaussian by default.
        uniform: The random number of a randomized bound.
        top_k: Among how many likeliest classes the selected one is to stay; see `certify.stats.top_k_radius`.

    Example:
        >>> certify_counts([120, 8, 0], [990, 10, 0], bound="clopper-pearson", alpha=0.001, sigma=0.25).predicted
        0
        >>> certify_counts([0, 0, 128], [0, 0, 0], bound="clopper-pearson", alpha=0.001, sigma=0.25).reason
        'the winner of the pilot is an invalid output: 128 of 128 outputs were not finite'
    """
    selected = select_class(selection)
    if selected is None:
        return Certificate(None, 0.0, _invalid_winner(selection))
    proved = radius_bound(bound, top_k)
    radius = proved(estimation, selected, alpha, geometry.scale(sigma), selection, geometry.radius, uniform)
    if not 0.0 < radius < math.inf:
        return Certificate(None, 0.0, _abstention(estimation, selected))
    return Certificate(selected, radius)


def certify_answers(questions: Sequence[Question], selection: Sequence[int], votes: Sequence[int]) -> Certificate:
    """Return the certificate that the votes for the selected class at the looks give: the largest certified radius."""
    selected = select_class(selection)
    if selected is None:
        refused = tuple(Decision(radius=question.radius, verdict="not_certified") for question in questions)
        return Certificate(None, 0.0, _invalid_winner(selection), refused)
    verdicts = answers(questions, votes)
    decisions = tuple(
        Decision(radius=question.radius, verdict=verdict) for question, verdict in zip(questions, verdicts, strict=True)
    )
    certified = verdicts.count("certified")  # the smallest radii, as an answer never betters the one below
    if not certified:
        return Certificate(None, 0.0, _unanswered(questions, selected, votes, decisions[0]), decisions)
    return Certificate(selected, questions[certified - 1].radius, decisions=decisions)


def _unanswered(questions: Sequence[Question], selected: int, votes: Sequence[int], first: Decision) -> str:
    how = "given up" if first.verdict == "not_certified" else "undecided at the most draws"
    draws = questions[0].test.looks[len(votes) - 1]
    return f"radius {first.radius!r} {how}: class {selected}, selected by the pilot, has {votes[-1]} of {draws} votes"


def _invalid_winner(selection: Sequence[int]) -> str:
    invalid, draws = selection[-1], sum(selection)
    return f"the winner of the pilot is an invalid output: {invalid} of {draws} outputs were not finite"


def make_tables(procedure: Procedure, law: NoiseLaw, device_kind: str = "cpu") -> Tables:
    """Return the plan and the noise source of a run, for its report."""
    plan = procedure.plan
    source = "" if procedure.settings.deterministic else f"; {noise_source(device_kind).words}"
    return Tables(
        plan=plan,
        plan_sha256=None if plan is None else hashlib.sha256(dump_json(plan).encode()).hexdigest(),
        noise=f"{law.words}{source}",
        noise_law=law.name,
        alpha_charged=procedure.charge,
        sequential=tuple(map(_table_of, procedure.questions)) or UNSET,
    )


def _table_of(question: Question) -> SequentialTable:
    test = question.test
    return SequentialTable(
        radius=question.radius, looks=test.looks, up=test.up, lo=test.lo, level=test.level, sha256=test.sha256
    )


def _abstention(estimation: Sequence[int], selected: int) -> str:
    others = max((votes, -k) for k, votes in enumerate(estimation) if k != selected)
    rival = "invalid outputs" if -others[1] == len(estimation) - 1 else f"class {-others[1]}"
    return (
        f"no class certified: class {selected}, selected by the pilot, has {estimation[selected]} of {sum(estimation)} "
        f"votes and {rival} {others[0]}; that does not prove a positive radius"
    )


def _certifies_unanimous(procedure: Procedure, n: int) -> bool:
    votes = [n] + [0] * procedure.classes
    return procedure.certify(votes, votes).predicted == 0


def _refuse_hopeless(procedure: Procedure) -> None:
    """Refuse a run in which even unanimous votes would certify nothing."""
    most = procedure.settings.n if procedure.plan is None else max(procedure.plan)
    if _certifies_unanimous(procedure, most):
        return
    least = _least_draws(procedure)
    if procedure.plan is not None and least > BLOCK_DRAWS:
        least = math.ceil(least / BLOCK_DRAWS) * BLOCK_DRAWS  # a plan holds whole blocks
    raise InputError(
        f"expected enough draws for a positive radius at alpha={procedure.settings.alpha}, got n={most}: even "
        f"unanimous votes certify nothing; the smallest n that works is {least}"
    )


def _least_draws(procedure: Procedure) -> int:
    """Return how many unanimous votes certify a positive radius."""
    if procedure.settings.top_k > 1:
        return next(n for n in count(1) if _certifies_unanimous(procedure, n))
    radius = procedure.geometry.radius
    return smallest_n(procedure.alpha, 0.0, procedure.settings.bound, procedure.classes + 1, radius)
