"""The comparison of two reports: which examples were lost and won, and what that says about the expected change.

The limits and their proof stand in `certify.stats.comparison`, what must be equal in `certify.pairing`. A comparison
holds the answers of both reports for every example, so that each of its numbers can be derived again from it alone; the
two reports it names by their digests.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from certify._version import __version__
from certify.errors import InputError
from certify.pairing import change_at, count_pairs, indices_of, kind_of, pair_examples
from certify.policy.drops import DropQuestion, PairedTally, drop_reason, drop_row
from certify.policy.promises import certified_words
from certify.report.promise_words import INTEGER_NOISE_LAWS, points_words, promise_words
from certify.report.score_words import describe_answer
from certify.report.statement import ARITHMETIC_WORDS, noise_words
from certify.report.summary import CONFIDENCE, RADII
from certify.results import (
    Baseline,
    Certificates,
    ComparedRun,
    ComparisonReport,
    ComparisonSettings,
    ComparisonSummary,
    DataRecord,
    Execution,
    GateRow,
    LipschitzReport,
    PairedExample,
    RadiusSigns,
    Report,
    SmoothingReport,
    Statement,
    Tool,
    report_digest,
    seal,
)
from certify.rounding import ceiling_text
from certify.stats import compare_paired, smallest_margin

MAX_DROP = 0.01  # the margin where none is asked for
OBJECTS: Mapping[Certificates, Literal["base", "smoothed"]] = MappingProxyType(
    {"lipschitz": "base", "smoothing": "smoothed"}
)


def compare_reports(
    old: Report,
    new: Report,
    *,
    radius: float | None = None,
    max_drop: float | None = None,
    confidence: float = CONFIDENCE,
) -> ComparisonReport:
    """Return the sealed comparison of two reports on the same examples.

    Of n examples drawn independently let b be certified at ``radius`` in the old report alone, and c in the new one
    alone. The expected change of the certified share is at least L_D = p_L(c) - u(b), except with probability
    1 - ``confidence`` (two Clopper-Pearson bounds, each at half of that, and the union bound). So the share drops by at
    most ``max_drop`` when L_D >= -``max_drop``. This compares what one procedure certifies, not true robust accuracies.

    Args:
        old: The report compared with.
        new: The report compared.
        radius: Where certified accuracy is compared; None: the only asked radius, else any positive radius (0).
        max_drop: The largest drop that is allowed: then the comparison has a gate. None: no gate, and a verdict on
            0.01 where so many examples can show that.
        confidence: Of each limit over examples.

    Raises:
        InputError: If the reports may not be compared, the radius is none that both decide, or ``max_drop`` is outside
            0..1 or below what so many examples can show.
    """
    asked = _asked_radius(new) if radius is None else radius
    if not 0.0 <= asked < math.inf:
        raise InputError(f"expected a radius of at least 0 to compare at, got {asked!r}; name the radius of a ball")
    pairs = pair_examples(old, new, asked)
    _refuse_senseless(max_drop, confidence, len(pairs))
    settings = ComparisonSettings(
        certificates=kind_of(new),
        norm=new.settings.norm,
        radius=asked,
        max_drop=MAX_DROP if max_drop is None else max_drop,
        confidence=confidence,
    )
    report = ComparisonReport(
        tool=_this_tool(),
        old=_run_of(old),
        new=_run_of(new),
        data=_data_of(new),
        settings=settings,
        statement=comparison_statement(_run_of(old), _run_of(new), settings),
        examples=pairs,
        summary=summarise_pairs(pairs, settings, asked_of(_run_of(new))),
        execution=Execution(started=datetime.now(UTC).isoformat(timespec="seconds")),
    )
    return seal(report if max_drop is None else replace(report, gates=(comparison_gate(report),)))


def _asked_radius(report: Report) -> float:
    """Return the radius that is compared when none is named: the only asked one, else any positive one."""
    at = report.settings.at if isinstance(report, SmoothingReport) else ()
    if len(at) > 1:
        raise InputError(f"expected one radius to compare at, got reports asked at {', '.join(map(repr, at))}; name it")
    return at[0] if at else 0.0


def _this_tool() -> Tool:
    """Return the record of a tool that compared: no network was run, so torch played no part."""
    return Tool(version=__version__, python=platform.python_version(), torch="none", device_kind="none", dtype="none")


def _data_of(report: Report) -> DataRecord:
    if isinstance(report.data, UnsetType):
        raise InputError("expected two reports with data, got one without; run both on examples")
    return report.data


def _refuse_senseless(max_drop: float | None, confidence: float, examples: int) -> None:
    if not 0.5 < confidence < 1.0:
        raise InputError(f"expected a confidence above 1/2 and below 1, got {confidence!r}; write 0.95 for 95 %")
    if max_drop is None:
        return
    least = smallest_margin(examples, 1.0 - confidence)
    if not least <= max_drop <= 1.0:
        raise InputError(
            f"expected the allowed drop as a share from {ceiling_text(least, 4)}, the least that {examples} examples "
            f"can show at confidence {confidence!r} even without any change, to 1, got {max_drop!r}; allow more, or "
            "compare on more examples"
        )


def _run_of(report: Report) -> ComparedRun:
    lipschitz = report.settings if isinstance(report, LipschitzReport) else UNSET
    smoothing = report.settings if isinstance(report, SmoothingReport) else UNSET
    return ComparedRun(
        digest=report_digest(report),
        tool=report.tool,
        model=report.model,
        lipschitz=lipschitz,
        smoothing=smoothing,
        noise_law=report.tables.noise_law if isinstance(report, SmoothingReport) else UNSET,
    )


def asked_of(run: ComparedRun) -> tuple[float, ...]:
    """Return the radii that a compared run was asked for; none when it measured them."""
    return () if isinstance(run.smoothing, UnsetType) else run.smoothing.at


def summarise_pairs(
    pairs: Sequence[PairedExample], settings: ComparisonSettings, asked: Sequence[float]
) -> ComparisonSummary:
    """Return the summary of paired examples; with ``asked`` radii, the curve is of those up to the compared one.

    Raises:
        ValueError: If there is no example, or a setting is out of its range.
    """
    curve = [radius for radius in asked if radius <= settings.radius] or sorted(
        {settings.radius, *RADII[settings.norm]}
    )
    changes = {radius: [change_at(pair, radius) for pair in pairs] for radius in {settings.radius, *curve}}
    here = count_pairs(changes[settings.radius], settings.radius, settings.confidence)
    found = PairedTally(won=here.won, lost=here.lost, n=len(pairs))
    least = smallest_margin(len(pairs), 1.0 - settings.confidence)
    return ComparisonSummary(
        examples=len(pairs),
        at_radius=here,
        won=indices_of(pairs, "won"),
        lost=indices_of(pairs, "lost"),
        least_drop=least,
        verdict=found.verdict(_question(settings)) if settings.max_drop >= least else None,
        reason=drop_reason(_question(settings), found),
        mcnemar=compare_paired(here.won, here.lost, len(pairs), 1.0 - settings.confidence).mcnemar,
        radii=None if asked else count_signs(pairs),
        curve=tuple(count_pairs(changes[radius], radius, settings.confidence) for radius in curve),
    )


def count_signs(pairs: Sequence[PairedExample]) -> RadiusSigns:
    """Return in how many examples the radius of a correct answer grew, fell or stayed; a wrong answer has radius 0."""
    before = [pair.old_radius if pair.old_predicted == pair.label else 0.0 for pair in pairs]
    after = [pair.new_radius if pair.new_predicted == pair.label else 0.0 for pair in pairs]
    sides = list(zip(before, after, strict=True))
    return RadiusSigns(
        larger=sum(old < new for old, new in sides),
        smaller=sum(old > new for old, new in sides),
        equal=sum(old == new for old, new in sides),
    )


def _question(settings: ComparisonSettings) -> DropQuestion:
    return DropQuestion(
        name=f"drop of at most {settings.max_drop!r}",
        norm=settings.norm,
        radius=settings.radius,
        max_drop=settings.max_drop,
        confidence=settings.confidence,
    )


def comparison_gate(report: ComparisonReport) -> GateRow:
    """Return the row of the gate that a comparison answers when a largest drop was asked for."""
    pairs, settings = report.examples, report.settings
    tally = PairedTally(won=len(indices_of(pairs, "won")), lost=len(indices_of(pairs, "lost")), n=len(pairs))
    baseline = Baseline(
        digest=report.old.digest,
        model_sha256=report.old.model.sha256,
        certified=tuple(pair.index for pair in pairs if pair.change in ("both", "lost")),
    )
    return drop_row(_question(settings), tally, baseline)


def comparison_statement(old: ComparedRun, new: ComparedRun, settings: ComparisonSettings) -> Statement:
    """Return what a comparison promises: limits of the expected change, for examples drawn independently."""
    radius = "any positive radius" if settings.radius == 0.0 else f"radius {settings.radius!r}"
    exact = "" if isinstance(new.lipschitz, UnsetType) else ARITHMETIC_WORDS[new.lipschitz.arithmetic]
    return Statement(
        text=(
            f"For examples drawn independently, the share of them {_certified(new)} at {settings.norm} {radius} "
            f"changes from {_who(old)} to {_who(new)} by at least the lower and at most the upper limit, each alone "
            f"with confidence {settings.confidence!r}.{_promise(new)} What is not certified is not proved fragile: "
            "nothing is said about the difference of true robust accuracies."
        ),
        object=OBJECTS[settings.certificates],
        arithmetic=exact or _arithmetic(new),
        domain="grid" if new.noise_law in INTEGER_NOISE_LAWS else "real ball",
        failure_probability=1.0 - settings.confidence,
        joint="limits at several radii, or a lower and an upper one, hold together but for the sum of their errors",
    )


def _arithmetic(run: ComparedRun) -> str:
    """Return what the certificates of smoothed classifiers cover of the programs."""
    drawn = isinstance(run.smoothing, UnsetType) or not run.smoothing.deterministic
    return f"the networks as run; {'the noise generator is assumed ideal' if drawn else 'nothing is drawn'}"


def _who(run: ComparedRun) -> str:
    network = f"the network with the weights of sha256 {run.model.sha256}"
    if isinstance(run.smoothing, UnsetType):
        return network
    answer = "".join(f"; {words}" for words in describe_answer(run.smoothing))
    noise = noise_words(str(run.noise_law), run.smoothing)
    return f"the smoothed classifier ({noise}, seed {run.smoothing.seed}{answer}) of {network}"


def _certified(run: ComparedRun) -> str:
    return "certified correct" if isinstance(run.smoothing, UnsetType) else certified_words(run.smoothing)


def _promise(run: ComparedRun) -> str:
    """Return what one certificate of a smoothed classifier says."""
    if isinstance(run.smoothing, UnsetType):
        return ""
    points = points_words(run.smoothing, run.model, on_grid=run.noise_law in INTEGER_NOISE_LAWS)
    return f" A certificate says that the smoothed classifier {promise_words(run.smoothing)} {points}."
