"""What a smoothing run would do, in words: draws after each pilot, or the tables of its sequential tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from certify.results import SmoothingSettings

if TYPE_CHECKING:
    from certify.examples import Dataset
    from certify.loading import Model
    from certify.smoothing.questions import Question


@dataclass(frozen=True)
class AskedRadii:
    """The sequential tests of asked radii, and what their alpha rests on."""

    questions: Sequence[Question]
    words: str


def plan_text(settings: SmoothingSettings, asked: AskedRadii | None = None) -> str:
    """Return in words how many estimation draws follow each number of pilot votes, or the tables of asked radii.

    Args:
        settings: The settings of the run.
        asked: The tests of `questions_of_run`; None when model or data are not known.

    Raises:
        InputError: If a setting is out of range, or a radius cannot be certified with the draws asked for.
    """
    from certify.smoothing import check_settings
    from certify.smoothing.soft_classification import check_score_settings

    check_settings(settings)
    check_score_settings(settings)
    if settings.scores == "soft":
        return "\n".join(_candidates(settings))
    if settings.deterministic:
        return f"splitting: all {settings.n} shifts of every example, none of them random; no pilot"
    if settings.at:
        return "\n".join(_tables(settings, asked or questions_alone(settings)))
    if settings.procedure == "fixed":
        return f"fixed: {settings.n0} pilot draws, then {settings.n} estimation draws for every example"
    return "\n".join(_planned(settings))


def questions_of_run(model: Model, data: Dataset, settings: SmoothingSettings) -> AskedRadii:
    """Return the very tests that a run on this model and these data would use.

    Raises:
        InputError: If a setting is out of range, or a radius cannot be certified with the draws asked for.
    """
    from certify.smoothing import make_law, plan_procedure

    law = make_law(settings, eight_bit=data.eight_bit)
    found = plan_procedure(settings, classes=len(model.classes), law=law, dimension=model.input.size)
    cost = (
        f"alpha {found.alpha!r} after {found.charge:.3g} for the rounding of the noise" if found.charge else "no cost"
    )
    return AskedRadii(found.questions, f"the tables of this model and data: {law.name} noise, {cost}")


def questions_alone(settings: SmoothingSettings) -> AskedRadii:
    """Return the tests at all of alpha, for a model and data that are not known."""
    from certify.smoothing import law_name
    from certify.smoothing.questions import ask_questions
    from certify.stats import GEOMETRIES

    law = law_name(settings, eight_bit=True)
    words = (
        f"model and data are not known: {law} noise, at all of alpha; a run on 8-bit data tests at alpha less what its "
        "integer noise costs, which can move a row by a vote; name both to see its tables"
    )
    return AskedRadii(ask_questions(settings, settings.alpha, GEOMETRIES[law]), words)


def _candidates(settings: SmoothingSettings) -> Iterator[str]:
    """Yield what a run with soft scores chooses from, and the numbers of draws an example can get."""
    from certify.smoothing.soft_classification import UNKNOWN, score_reading
    from certify.stats import draw_sizes

    sizes = draw_sizes(settings.n, planned=settings.procedure == "planned")
    yield f"soft scores: {settings.n0} pilot draws of every example; the run then chooses one of"
    for each in score_reading(settings, 2, UNKNOWN).candidates:
        yield f"  {each.simplex} of {each.temperature:g} times the logits" if each.soft else "  votes, without scores"
    yield "by its mean worth on all pilots, and each example gets by its own pilot one of"
    yield f"  {', '.join(map(str, sizes))} estimation draws"


def _planned(settings: SmoothingSettings) -> Iterator[str]:
    from certify.stats import sample_plan

    plan = sample_plan(settings.n0, settings.n, settings.price, settings.alpha, settings.noise)
    yield f"pilot votes of {settings.n0}   estimation draws"
    start = 0
    for k in range(1, len(plan) + 1):
        if k == len(plan) or plan[k] != plan[start]:
            votes = f"{start}" if start == k - 1 else f"{start}-{k - 1}"
            yield f"{votes:>18}   {plan[start]:>16}"
            start = k


def _tables(settings: SmoothingSettings, asked: AskedRadii) -> Iterator[str]:
    """Yield at each look the votes that certify a radius and those that give it up."""
    yield f"sequential: {settings.n0} pilot draws, then draws to the first look that decides, at most {settings.n}"
    yield asked.words
    for question in asked.questions:
        test = question.test
        yield ""
        yield f"radius {question.radius!r}: level {test.level:.4g} of alpha {settings.alpha!r}, sha256 {test.sha256}"
        yield f"{'draws':>9}   {'certified from':>14}   {'given up to':>11}"
        for draws, up, lo in zip(test.looks, test.up, test.lo, strict=True):
            yield f"{draws:>9}   {up if up <= draws else '-':>14}   {lo if lo >= 0 else '-':>11}"
