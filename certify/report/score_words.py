"""What a view says of soft scores: which are smoothed, what is proved about the logits, and which radii came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from msgspec import UNSET

from certify.report.figures import upper_figure
from certify.report.promise_words import scores_in_use, scores_words
from certify.results import ScoreTable, SmoothingReport, SmoothingSettings


def describe_scores(report: SmoothingReport) -> Iterator[tuple[str, str]]:
    """Yield label and sentence for each fact; nothing when soft scores were not asked for."""
    table = report.tables.scores
    if table is UNSET:
        return
    used = scores_in_use(report.tables)
    number = len(table.candidates)
    chosen = "" if number == 1 else f", chosen on the pilots among {number} candidates"
    what = "votes" if used is None else f"{used.map} of {used.temperature:g} times the logits"
    yield "scores", f"{what}{chosen}"
    yield "logits", _proved(table)
    methods = Counter(each.scores.method for each in report.examples if each.radius > 0.0 and each.scores is not UNSET)
    if methods:
        yield "radii", ", ".join(f"{count} by {method}" for method, count in methods.most_common())


def describe_answer(settings: SmoothingSettings) -> Iterator[str]:
    """Yield what is answered in place of the class with the most votes, when the settings alone decide that.

    Example:
        >>> next(describe_answer(SmoothingSettings(sigma=0.5, scores="soft", score_map="sparsemax", temperature=2.0)))
        'its answer is the class with the largest mean score, the scores being the sparsemax of 2.0 times the logits, in
        multiples of 2^-30'
    """
    if settings.scores is UNSET:
        return
    if settings.score_map is UNSET or settings.temperature is UNSET:
        yield "its answer is of the votes or soft scores that the run chose"
    else:
        yield f"its answer is {scores_words(settings.score_map, settings.temperature)}"


def _proved(table: ScoreTable) -> str:
    if table.lipschitz is None or table.logit_error is None:
        return f"no Lipschitz constant in use: {table.reason}"
    lipschitz, error = upper_figure(table.lipschitz), upper_figure(table.logit_error)
    return f"Lipschitz constant at most {lipschitz} (l2), rounding error at most {error}"
