"""What a view says of soft scores: which are smoothed, what is proved about the logits, and which radii came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from msgspec import UNSET

from certify.report.figures import upper_figure
from certify.report.statement import scores_in_use
from certify.results import ScoreTable, SmoothingReport


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


def _proved(table: ScoreTable) -> str:
    if table.lipschitz is None or table.logit_error is None:
        return f"no Lipschitz constant in use: {table.reason}"
    lipschitz, error = upper_figure(table.lipschitz), upper_figure(table.logit_error)
    return f"Lipschitz constant at most {lipschitz} (l2), rounding error at most {error}"
