r"""Every number of a smoothing report, computed again from its integer counts; without torch, without the model.

From the settings: the sample plan, the charge on alpha for integer noise, the alpha that is left for the bounds. From
each pilot: the selected class and the number of draws it asks for. From each estimation: the radius. The steps are
those of the procedure (selection, plan, bound) written a second time from their definitions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping

from msgspec import UNSET, UnsetType

from certify.report.findings import Finding, compare, require
from certify.report.rederive_noise import LEVELS, SCALES, check_noise, expected_charge
from certify.report.rederive_scores import check_score_table, check_soft_example, scores_table
from certify.report.rederive_sequential import check_sequential, check_sequential_tables, check_unstopped
from certify.report.rederive_splitting import check_split_example, check_split_settings
from certify.results import SmoothingExample, SmoothingReport, dump_json
from certify.stats import BOUNDS, RadiusMap, charged_alpha, radius_l2, sample_plan, top_k_radius
from certify.stats.radius import RANDOMIZED
from certify.stats.uniform import radius_l1

RADIUS_MAPS: Mapping[str, RadiusMap] = {"gaussian": radius_l2, "uniform": radius_l1}


def check_tables(report: SmoothingReport) -> Iterator[Finding]:
    """Yield where plan, noise law and charge differ from what the settings and the input space imply.

    Raises:
        ValueError: If a setting is out of the range of the statistics.
    """
    settings, tables = report.settings, report.tables
    yield from check_noise(report)
    if settings.deterministic:
        yield from check_split_settings(report)
        return
    yield from _check_plan(report)
    yield from check_score_table(report)
    if tables.noise_law in LEVELS:
        charge = expected_charge(settings, tables.noise_law, report.model.input.size)
        yield from compare("tables.alpha_charged", charge, tables.alpha_charged)
        scale = SCALES[tables.noise_law](settings.sigma)
        yield from check_sequential_tables(report, charged_alpha(settings.alpha, tables.alpha_charged), scale)


def _check_plan(report: SmoothingReport) -> Iterator[Finding]:
    settings, tables = report.settings, report.tables
    if settings.at or settings.procedure == "fixed":
        yield from compare("tables.plan", None, tables.plan)
        yield from compare("tables.plan_sha256", None, tables.plan_sha256)
    elif tables.plan is None or len(tables.plan) != settings.n0 + 1:
        yield Finding("tables.plan", f"{settings.n0 + 1} entries, one for each count of pilot votes", repr(tables.plan))
    else:
        plan = sample_plan(settings.n0, settings.n, settings.price, settings.alpha, settings.noise)
        yield from compare("tables.plan", plan, tables.plan)
        yield from compare("tables.plan_sha256", _sha256(plan), tables.plan_sha256)


def _sha256(value: object) -> str:
    return hashlib.sha256(dump_json(value).encode()).hexdigest()


def check_examples(report: SmoothingReport) -> Iterator[Finding]:
    """Yield where an example differs from what its own counts imply.

    Raises:
        ValueError: If a setting or a count is out of the range of the statistics.
    """
    settings = report.settings
    alpha = 0.0 if settings.deterministic else charged_alpha(settings.alpha, report.tables.alpha_charged)
    for index, example in enumerate(report.examples):
        where = f"examples[{index}]"
        broken = tuple(_check_counts(report, example, where))
        yield from broken
        if not broken:
            yield from _check_answer(report, example, where, alpha)


def _check_counts(report: SmoothingReport, example: SmoothingExample, where: str) -> Iterator[Finding]:
    counts, settings = example.counts, report.settings
    entries = len(report.model.classes) + 1
    for name, votes, draws in (("selection", counts.selection, counts.n0), ("estimation", counts.estimation, counts.n)):
        place = f"{where}.counts.{name}"
        yield from require(len(votes) == entries, place, f"{entries} counts, the last of invalid outputs", votes)
        yield from require(all(vote >= 0 for vote in votes), place, "counts of at least 0", votes)
        yield from require(sum(votes) == draws, place, f"counts that add up to {draws}", votes)
    yield from compare(f"{where}.counts.n0", settings.n0, counts.n0)
    yield from compare(f"{where}.counts.seed", settings.seed, counts.seed)
    numbers = (_uniform(report, example), example.uniform)
    yield from compare(f"{where}.uniform", *(None if number is UNSET else number for number in numbers))
    yield from compare(f"{where}.procedure", "sequential" if settings.at else settings.procedure, example.procedure)


def _check_certificate(
    report: SmoothingReport, example: SmoothingExample, where: str, alpha: float
) -> Iterator[Finding]:
    """Compare draws, radius and prediction of an example whose counts are whole."""
    yield from check_unstopped(example, where)
    counts = example.counts
    selected = counts.selection.index(max(counts.selection))
    invalid = selected == len(report.model.classes)
    draws = 0 if invalid else _asked_draws(report, counts.selection[selected])
    yield from compare(f"{where}.counts.n", draws, counts.n)
    proved = _radius(report, selected, example, alpha) if counts.n else 0.0
    certified = not invalid and 0.0 < proved < math.inf
    yield from compare(f"{where}.radius", proved if certified else 0.0, example.radius)
    yield from compare(f"{where}.predicted", selected if certified else None, example.predicted)


def _radius(report: SmoothingReport, selected: int, example: SmoothingExample, alpha: float) -> float:
    """Return the radius that the counts of an example prove for a class."""
    settings, counts = report.settings, example.counts
    scale, radius = SCALES[report.tables.noise_law](settings.sigma), RADIUS_MAPS[settings.noise]
    uniform = _uniform(report, example)
    number = 1.0 if uniform is UNSET else uniform
    if settings.top_k > 1:
        return top_k_radius(counts.estimation, selected, settings.top_k, alpha, scale)
    return BOUNDS[settings.bound](counts.estimation, selected, alpha, scale, counts.selection, radius, number)


def _uniform(report: SmoothingReport, example: SmoothingExample) -> float | UnsetType:
    """Return the random number that seed, id and hash give a randomized bound: 53 bits of a hash, counted from 1."""
    settings = report.settings
    if settings.bound not in RANDOMIZED or settings.at:
        return UNSET
    text = dump_json([settings.seed, example.id, example.hash, "randomization"])
    bits = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 11
    return math.ldexp(bits + 1, -53)


def _check_answer(report: SmoothingReport, example: SmoothingExample, where: str, alpha: float) -> Iterator[Finding]:
    """Compare what an example with whole counts answers: the asked radii, or its own."""
    table = scores_table(report)
    if report.settings.deterministic:
        yield from check_split_example(report, example, where)
    elif report.settings.at:
        scale = SCALES[report.tables.noise_law](report.settings.sigma)
        yield from check_sequential(report, example, where, alpha, scale)
    elif table is not None:
        yield from check_unstopped(example, where)
        yield from check_soft_example(report, table, example, where, alpha)
    else:
        yield from require(example.scores is UNSET, f"{where}.scores", "none, as votes are smoothed", example.scores)
        yield from _check_certificate(report, example, where, alpha)


def _asked_draws(report: SmoothingReport, votes: int) -> int | None:
    plan = report.tables.plan
    if plan is None:
        return report.settings.n
    return plan[votes] if votes < len(plan) else None
