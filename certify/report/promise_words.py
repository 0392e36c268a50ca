"""The words for what a report promises: of which class, at which points, by which scores, and how often it fails.

Statements, comparisons and cards share them. No statistics are loaded for them.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import UNSET

from certify.results import AnyNorm, ModelRecord, Report, ScoreCandidate, SmoothingSettings, Statement, Tables

INTEGER_NOISE_LAWS = frozenset({"gaussian-255", "uniform-255", "gaussian-diagonal-255", "split-255"})
NORM_WORDS: Mapping[AnyNorm, str] = {
    "l1": "||x' - x||_1",
    "l2": "||x' - x||_2",
    "linf": "||x' - x||_inf",
    "weighted-l2": "||D^-1 (x' - x)||_2",
}


def describe_statement(statement: Statement) -> tuple[tuple[str, str], ...]:
    """Return a promise field by field, its text apart."""
    return (
        ("object", statement.object),
        ("arithmetic", statement.arithmetic),
        ("domain", statement.domain),
        ("fails", describe_failure(statement.failure_probability)),
        ("joint", statement.joint),
    )


def describe_failure(probability: float) -> str:
    """Return how often a certificate may be false."""
    return f"with probability at most {probability!r} per certificate" if probability else "never: deterministic"


def promise_words(settings: SmoothingSettings) -> str:
    """Return what is certified of the predicted class, up to the points x' at which it is."""
    if settings.top_k == 1:
        return "gives the predicted class to"
    return f"has the predicted class, the likeliest of the pilot, among its {settings.top_k} likeliest at"


def points_words(settings: SmoothingSettings, model: ModelRecord, *, on_grid: bool) -> str:
    """Return at which points a smoothed certificate holds, and in which unit their distance is."""
    points = "8-bit grid point x'" if on_grid else "x'"
    return (
        f"every {points} with {NORM_WORDS[settings.norm]} < radius, {scales_words(settings)}"
        f"{describe_input_space(model)}"
    )


def scales_words(settings: SmoothingSettings) -> str:
    """Return which scales D stands for; nothing where the noise has none."""
    if settings.scales is UNSET:
        return ""
    return f"D the diagonal matrix of the scales of sha256 {settings.scales.sha256}, the same for every x, "


def describe_input_space(model: ModelRecord) -> str:
    """Return the space of the inputs, and the range of their values when it is declared."""
    bounds = model.input.range
    values = "" if bounds is None else f" with values in [{bounds[0]:g}, {bounds[1]:g}]"
    return f"in the space {model.input.space!r}{values}"


def scores_in_use(tables: Tables) -> ScoreCandidate | None:
    """Return the scores that are smoothed; None where votes are."""
    table = tables.scores
    if table is UNSET or not 0 <= table.chosen < len(table.candidates):
        return None
    chosen = table.candidates[table.chosen]
    return None if chosen.map == "argmax" else chosen


def scores_words(score_map: str, temperature: float) -> str:
    """Return what a classifier of soft scores answers.

    Example:
        >>> scores_words("softmax", 8.0)
        'the class with the largest mean score, the scores being the softmax of 8.0 times the logits, in multiples of
        2^-30'
    """
    return (
        f"the class with the largest mean score, the scores being the {score_map} of {temperature!r} times the logits, "
        "in multiples of 2^-30"
    )


def earlier_words(report: Report) -> str:
    """Return the other runs of the same model and data that the store held; nothing where there were none.

    Choosing among runs by what they certify voids alpha; where nothing is random each certificate still holds.
    """
    execution = report.execution
    runs = () if execution.earlier_runs is UNSET else execution.earlier_runs
    parts = ["earlier seeds " + ", ".join(map(str, execution.earlier_seeds))] if execution.earlier_seeds else []
    parts += [f"runs with other settings ({'; '.join(runs)})"] if runs else []
    random = report.statement.failure_probability > 0.0
    voids = "voids alpha" if random else "by these examples voids limits of the population"
    return f"{', '.join(parts)}: choosing among runs {voids}" if parts else ""
