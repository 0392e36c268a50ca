"""Soft scores, computed again from the integer sums of a report: class, draws, radius and method of each example.

What the table says of the logits (Lipschitz constant, error of the program) is taken on trust, like the hash of a
model: without the network nothing can derive it. It is bound to the worth of the chosen candidate, though, a function
of map, temperature, constant, error and the sums of all pilots, which is computed again: none of them can be changed
alone. That the map was chosen on the pilots alone cannot be seen in a report either; that it is the one with the
largest worth of its own table can.

The worth is an estimate in floating point, whose last digits may differ between machines: it is compared to a relative
`WORTH_ERROR`. A change of the constant that moves the mean worth by less than that is not found; nor is one that moves
no worth at all, since no pilot promises a radius that rests on the constant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from msgspec import UNSET

from certify.report.findings import Finding, compare, require
from certify.report.promise_words import scores_in_use
from certify.results import ScoreSums, ScoreTable, SmoothingExample, SmoothingReport
from certify.stats import (
    Slopes,
    charged_alpha,
    draw_sizes,
    plan_scores,
    score_candidates,
    score_radius,
    score_slopes,
    votes_worth,
)
from certify.stats.empirical_bernstein import UNITS

ON_GRID = "gaussian-255"
WORTH_ERROR = 1e-9


def scores_table(report: SmoothingReport) -> ScoreTable | None:
    """Return the table of scores where the run smooths scores; None where it smooths votes."""
    table = report.tables.scores
    return None if table is UNSET or scores_in_use(report.tables) is None else table


def check_score_table(report: SmoothingReport) -> Iterator[Finding]:
    """Yield where the table of candidates differs from what the settings imply, or from its own numbers."""
    settings, table = report.settings, report.tables.scores
    asked = settings.scores == "soft"
    yield from require(asked is (table is not UNSET), "tables.scores", "one iff soft scores are asked for", table)
    if not asked or table is UNSET:
        return
    simplex = None if settings.score_map is UNSET else settings.score_map
    temperature = None if settings.temperature is UNSET else settings.temperature
    tried = [(each.simplex, each.temperature) for each in score_candidates(simplex, temperature)]
    found = [(each.map, each.temperature) for each in table.candidates]
    yield from compare("tables.scores.candidates", tried, found)
    worths = [each.worth for each in table.candidates]
    yield from compare("tables.scores.chosen", worths.index(max(worths, default=0.0)) if worths else -1, table.chosen)
    known = table.lipschitz is not None and table.logit_error is not None
    yield from require(
        known is (table.reason is UNSET) and (table.lipschitz is None) is (table.logit_error is None),
        "tables.scores.reason",
        "one iff constant or error of the logits is not proved",
        table.reason,
    )
    yield from _check_worth(report, table)


def _check_worth(report: SmoothingReport, table: ScoreTable) -> Iterator[Finding]:
    """Yield where the worth of the candidate in use is not the mean of what it is worth on the pilots of the report."""
    if not 0 <= table.chosen < len(table.candidates) or not _pilots_are_whole(report, table):
        return  # found elsewhere
    alpha = charged_alpha(report.settings.alpha, report.tables.alpha_charged)
    slopes = None if scores_table(report) is None else _slopes(report, table)
    worths = [_worth(report, example, alpha, slopes) for example in report.examples]
    mean, found = math.fsum(worths) / max(len(worths), 1), table.candidates[table.chosen].worth
    near = math.isclose(mean, found, rel_tol=WORTH_ERROR, abs_tol=0.0)
    yield from require(near, f"tables.scores.candidates[{table.chosen}].worth", f"{mean!r}, nearly", found)


def _pilots_are_whole(report: SmoothingReport, table: ScoreTable) -> bool:
    """Return whether every pilot has the sums or the votes that the candidate in use is judged by."""
    if table.candidates[table.chosen].map == "argmax":
        return all(_adds_up(report, example.counts.selection, report.settings.n0) for example in report.examples)
    return all(
        example.scores is not UNSET
        and len(example.scores.selection) == len(example.scores.selection_squares) == len(report.model.classes) + 1
        for example in report.examples
    )


def _adds_up(report: SmoothingReport, votes: Sequence[int], draws: int) -> bool:
    return len(votes) == len(report.model.classes) + 1 and min(votes) >= 0 and sum(votes) == draws


def _worth(report: SmoothingReport, example: SmoothingExample, alpha: float, slopes: Slopes | None) -> float:
    """Return what the candidate in use is worth on one pilot; 0 where invalid outputs have the most."""
    sums, votes, settings = example.scores, example.counts.selection, report.settings
    pilot = votes if sums is UNSET else sums.selection
    if pilot.index(max(pilot)) == len(report.model.classes):
        return 0.0
    if sums is not UNSET:
        return _plan(report, sums.selection, sums.selection_squares, alpha, slopes)[1]
    sizes = draw_sizes(settings.n, planned=settings.procedure == "planned")
    return votes_worth(votes, settings.n0, sizes=sizes, price=settings.price, alpha=alpha)


def check_soft_example(
    report: SmoothingReport, table: ScoreTable, example: SmoothingExample, where: str, alpha: float
) -> Iterator[Finding]:
    """Yield where an example differs from what its sums of scores imply.

    Raises:
        ValueError: If a sum is out of the range of the statistics.
    """
    if example.scores is UNSET:
        yield Finding(f"{where}.scores", "sums of the scores that were smoothed", "none")
        return
    broken = tuple(_check_sums(report, example, example.scores, f"{where}.scores"))
    yield from broken
    if not broken:
        yield from _check_certificate(report, table, example, example.scores, where, alpha)


def _check_sums(report: SmoothingReport, example: SmoothingExample, sums: ScoreSums, where: str) -> Iterator[Finding]:
    entries, counts = len(report.model.classes) + 1, example.counts
    rows = (
        ("selection", sums.selection, counts.n0),
        ("selection_squares", sums.selection_squares, counts.n0),
        ("estimation", sums.estimation, counts.n),
        ("estimation_squares", sums.estimation_squares, counts.n),
    )
    for name, row, draws in rows:
        fits = len(row) == entries and all(0 <= entry <= draws * UNITS for entry in row)
        yield from require(fits, f"{where}.{name}", f"{entries} sums from 0 to {draws} times 2^30", row)
    for name, row, draws in rows[::2]:
        yield from require(sum(row) <= draws * UNITS, f"{where}.{name}", f"sums that add up to {draws} at most", row)


def _check_certificate(
    report: SmoothingReport, table: ScoreTable, example: SmoothingExample, sums: ScoreSums, where: str, alpha: float
) -> Iterator[Finding]:
    settings, slopes = report.settings, _slopes(report, table)
    selected = sums.selection.index(max(sums.selection))
    invalid = selected == len(report.model.classes)
    draws = 0 if invalid else _plan(report, sums.selection, sums.selection_squares, alpha, slopes)[0]
    yield from compare(f"{where}.counts.n", draws, example.counts.n)
    radius, method = 0.0, "none"
    if not invalid and example.counts.n >= 2:
        radius, method = score_radius(
            sums.estimation,
            sums.estimation_squares,
            selected,
            example.counts.n,
            alpha=alpha,
            sigma=settings.sigma,
            slopes=slopes,
        )
    certified = 0.0 < radius < math.inf
    yield from compare(f"{where}.radius", radius if certified else 0.0, example.radius)
    yield from compare(f"{where}.scores.method", method if certified else "none", sums.method)
    yield from compare(f"{where}.predicted", selected if certified else None, example.predicted)


def _plan(
    report: SmoothingReport, totals: Sequence[int], squares: Sequence[int], alpha: float, slopes: Slopes | None
) -> tuple[int, float]:
    """Return the draws that a pilot of scores asks for, and their worth."""
    settings = report.settings
    sizes = draw_sizes(settings.n, planned=settings.procedure == "planned")
    return plan_scores(
        totals,
        squares,
        settings.n0,
        sizes=sizes,
        price=settings.price,
        alpha=alpha,
        sigma=settings.sigma,
        slopes=slopes,
    )


def _slopes(report: SmoothingReport, table: ScoreTable) -> Slopes | None:
    """Return the slopes of the scores in use, from what the table says of the logits."""
    if table.lipschitz is None or table.logit_error is None:
        return None
    chosen = table.candidates[table.chosen]
    return score_slopes(
        chosen.map,
        chosen.temperature,
        classes=len(report.model.classes),
        lipschitz=table.lipschitz,
        error=table.logit_error,
        rounded_coordinates=report.model.input.size if report.tables.noise_law == ON_GRID else 0,
    )
