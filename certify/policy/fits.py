"""Which report can answer a gate: its kind, its norm, and the radii that its draws can reach."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import UNSET, structs

from certify.errors import InputError
from certify.policy.gates import Gate
from certify.policy.promises import refuse_other_scales, refuse_unknown_answers
from certify.results import AnyNorm, Report, SmoothingReport, SmoothingSettings
from certify.rounding import div_up, floor_text
from certify.stats import GEOMETRIES, charged_alpha, needed_radius, radius_bound
from certify.stats.splitting import split_radius

LUCKIEST = 0.0  # the random number at which a randomized bound certifies most
SMALLEST = 0.001  # times sigma: the asked radius that stands for any positive one


def asked_radii(gates: Iterable[Gate], settings: SmoothingSettings) -> tuple[float, ...]:
    """Return the radii that a sequential run must decide for gates of kind smoothing; `SMALLEST` sigma for any radius.

    A gate on the mean radius has none: it needs measured radii.

    Example:
        >>> gate = Gate(name="clean", metric="clean_accuracy", min=0.9)
        >>> asked_radii([gate], SmoothingSettings(sigma=0.25))
        (0.00025,)
    """
    smallest = SMALLEST * settings.sigma
    return tuple(sorted({gate.radius or smallest for gate in gates if gate.metric != "mean_radius"}))


def answers_gate(settings: SmoothingSettings, gate: Gate) -> bool:
    """Return whether a run with these settings decides what a gate asks: any radius, or the asked ones alone."""
    if gate.metric == "mean_radius":
        return not settings.at
    smallest = SMALLEST * settings.sigma
    return not settings.at or (gate.radius in settings.at if gate.radius else settings.at[0] <= smallest)


def in_native_norm(gate: Gate, settings: SmoothingSettings, dimension: int) -> Gate:
    """Return a gate on smoothed certificates in their own norm: at the least radius whose ball holds the asked ball.

    Certificates with a scale per coordinate hold on the l2 ball of their radius times the smallest scale.

    Raises:
        InputError: If the gate asks for an ellipsoid, and the certificates are of balls, or of another ellipsoid.

    Example:
        >>> gate = Gate(name="g", metric="certified_accuracy", min=0.5, norm="linf", radius=0.01)
        >>> 0.08 <= in_native_norm(gate, SmoothingSettings(sigma=0.25), 64).radius < 0.0800001
        True
    """
    refuse_other_scales(gate, settings)
    norm = settings.norm
    if gate.radius is None or gate.norm == norm:
        return gate
    if gate.norm == "weighted-l2":
        raise InputError(f"gate {gate.name!r}: expected certificates in weighted-l2, got {norm}; run with scales")
    plain: AnyNorm = "l2" if settings.scales is not UNSET else norm
    radius = needed_radius(gate.radius, plain, gate.norm, dimension)
    if settings.scales is not UNSET:
        radius = div_up(radius, settings.scales.smallest)
    return structs.replace(gate, norm=norm, radius=radius)


def check_fits(report: Report, gate: Gate) -> None:
    """Refuse a gate that a report cannot answer.

    Raises:
        InputError: If it asks for another kind or norm, for a radius out of reach, for answers that the task leaves
            open, or the report has no data.
    """
    kind = "smoothing" if isinstance(report, SmoothingReport) else "lipschitz"
    if report.data is UNSET:
        raise InputError(
            f"gate {gate.name!r}: expected a report with data, got one of the network alone; give the data"
        )
    if gate.kind not in (None, kind):
        raise InputError(f"gate {gate.name!r}: expected {gate.kind} certificates, got a {kind} report; run {gate.kind}")
    check_norm(gate, report.settings.norm)
    if isinstance(report, SmoothingReport):
        refuse_unknown_answers(gate, report.settings)
        _check_chosen_scores(report, gate)
        _check_reachable(report, gate)


def check_norm(gate: Gate, norm: AnyNorm) -> None:
    """Refuse a gate on radii in another norm than the certificates have.

    Raises:
        InputError: If it asks for another norm.
    """
    if gate.metric != "clean_accuracy" and gate.norm != norm:
        raise InputError(
            f"gate {gate.name!r}: expected certificates in {gate.norm}, got a report in {norm}; "
            f"set norm = {norm!r}, or run with the other norm"
        )


def _check_chosen_scores(report: SmoothingReport, gate: Gate) -> None:
    """Refuse a claim about the population from scores that were chosen on these very examples."""
    table = report.tables.scores
    if table is not UNSET and len(table.candidates) > 1 and gate.claim == "population":
        raise InputError(
            f"gate {gate.name!r}: expected scores that were fixed before these examples were seen, got a choice among "
            f"{len(table.candidates)}; give score-map and temperature, or set claim = 'list'"
        )


def _check_reachable(report: SmoothingReport, gate: Gate) -> None:
    settings = report.settings
    if report.tables.scores is UNSET and settings.at:
        _check_asked(settings, gate)
        return
    largest = largest_radius(report)
    if gate.radius is not None and largest is not None and not gate.radius <= largest:
        what, more = ("shifts", "sigma") if settings.deterministic else ("draws", "--n")
        raise InputError(
            f"gate {gate.name!r}: expected a radius that {_most_draws(report)} {what} can certify at sigma "
            f"{settings.sigma!r}, at most {floor_text(max(largest, 0.0), 5)}, got {gate.radius!r}; lower it, or run "
            f"with a larger {more}"
        )


def largest_radius(report: SmoothingReport) -> float | None:
    """Return the radius of an example all of whose votes agree: no radius that this run measures is larger.

    None with soft scores: their largest radius depends on the network's constant, and not on the draws alone.
    """
    settings, tables = report.settings, report.tables
    if tables.scores is not UNSET:
        return None
    if settings.deterministic:
        return split_radius(settings.n)
    alpha = charged_alpha(settings.alpha, tables.alpha_charged)
    votes = (_most_draws(report), *[0] * len(report.model.classes))  # the last: invalid outputs
    law = GEOMETRIES[tables.noise_law]
    bound = radius_bound(settings.bound, settings.top_k)
    return bound(votes, 0, alpha, law.scale(settings.sigma), votes, law.radius, LUCKIEST)


def _most_draws(report: SmoothingReport) -> int:
    plan = report.tables.plan
    return report.settings.n if plan is None else max(plan)


def _check_asked(settings: SmoothingSettings, gate: Gate) -> None:
    if answers_gate(settings, gate):
        return
    if gate.metric == "mean_radius":
        raise InputError(
            f"gate {gate.name!r}: expected measured radii for a mean, got a run that decided asked ones; "
            "run without --at"
        )
    radius = gate.radius or SMALLEST * settings.sigma
    raise InputError(
        f"gate {gate.name!r}: expected a report that decides radius {radius!r}, got one that was asked only at "
        f"{', '.join(map(repr, settings.at))}; run with --at {radius!r} as well, or without --at"
    )
