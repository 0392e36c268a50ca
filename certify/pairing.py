"""Two reports on the same examples, paired: may they be compared, and what became of each example.

A comparison says what *one procedure* certifies of two networks. So everything that decides which examples get a
certificate must be equal: the examples with their labels, kind, norm and space of the radii, alpha, bound, draws, and
every other setting, except those named in `FREE`. Sigma may differ, since a network is smoothed at the sigma it was
trained for, and so may the seed, and the dtype, memory format and compiler the network runs with: all are part of what
is compared, and the comparison prints them. A setting that some later version adds must be equal until it is named
there.

What is not certified is not proved fragile: nothing here compares true robust accuracies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
from msgspec import UNSET

from certify.errors import InputError
from certify.results import (
    Certificates,
    Change,
    LipschitzExample,
    LipschitzReport,
    PairedCounts,
    PairedExample,
    Report,
    SmoothingExample,
    SmoothingReport,
    UnsampledExample,
    certified_at,
    unsampled_of,
)
from certify.stats.comparison import compare_paired

FREE = frozenset({"sigma", "seed", "dtype", "compile", "channels_last", "limit", "skip", "at", "local"})
"""Settings that may differ: part of the network, or of no influence on which examples are certified at one radius."""

UNUSED_WITH_ASKED = frozenset({"procedure", "price", "bound"})
"""Settings that play no part where radii were asked for."""

FOLLOWING_SIGMA = frozenset({"n"})
"""Settings of deterministic splitting that sigma decides."""

CHANGES: Mapping[tuple[bool, bool], Change] = {
    (True, True): "both",
    (False, True): "won",
    (True, False): "lost",
    (False, False): "neither",
}
"""(certified in the old report, in the new one) to the word for it."""


def kind_of(report: Report) -> Certificates:
    """Return the kind of certificates a report holds."""
    return "lipschitz" if isinstance(report, LipschitzReport) else "smoothing"


def refuse_incomparable(old: Report, new: Report, radius: float, *, partly: bool = False) -> None:
    """Return when two reports may be compared at a radius.

    Args:
        old: The report compared with.
        new: The report compared.
        radius: Where.
        partly: Whether the new report may have examples without an answer.

    Raises:
        InputError: Naming the first thing in which they must not differ, what each has, and what to do.
    """
    for report, which in ((old, "old"), (new, "new")):
        _refuse_unasked(report, which, radius)
        _refuse_chosen_scores(report, which)
        if not (partly and which == "new"):
            _refuse_without_answers(report, which, radius)
    for what, of in CONDITIONS:
        _refuse_other(what, of(old), of(new))
    settings = [_binding_settings(report) for report in (old, new)]
    for name in sorted(settings[0].keys() | settings[1].keys()):
        _refuse_other(name, *(found.get(name) for found in settings))
    _refuse_other("asked radii up to that one", *(_asked_below(report, radius) for report in (old, new)))
    _refuse_other_examples(old, new)


CONDITIONS: tuple[tuple[str, Callable[[Report], object]], ...] = (
    ("kind of certificates", kind_of),
    ("norm of the radii", lambda report: report.settings.norm),
    ("shape of the input", lambda report: report.model.input.shape),
    ("range of the input", lambda report: report.model.input.range),
    ("space of the radii", lambda report: report.model.input.space),
    ("classes", lambda report: report.model.classes),
    ("noise law", lambda report: report.tables.noise_law if isinstance(report, SmoothingReport) else None),
    (
        "kind of device that made the noise",
        lambda report: report.tool.device_kind if isinstance(report, SmoothingReport) else None,
    ),
)
"""What must be equal besides the settings and the examples."""


def _binding_settings(report: Report) -> dict[str, object]:
    """Return the settings that must be equal."""
    asked = isinstance(report, SmoothingReport) and bool(report.settings.at)
    split = isinstance(report, SmoothingReport) and report.settings.deterministic
    left_out = FREE | (UNUSED_WITH_ASKED if asked else FOLLOWING_SIGMA if split else frozenset())
    return {name: value for name, value in msgspec.to_builtins(report.settings).items() if name not in left_out}


def _asked_below(report: Report, radius: float) -> list[float] | None:
    """Return the asked radii that decide the answer at this one: an answer is never better than that of a smaller."""
    at = report.settings.at if isinstance(report, SmoothingReport) else ()
    return [asked for asked in at if asked <= radius] if at else None


def _refuse_without_answers(report: Report, which: str, radius: float) -> None:
    """Refuse a report that says nothing about some of its examples, or has none."""
    if unsampled_of(report):
        total = len(report.examples) + len(unsampled_of(report))
        raise InputError(
            f"expected answers for all examples, got those for {len(report.examples)} of {total} in the {which} report "
            f"(it stopped when its gates were settled); run `certify smooth --at {radius!r}` instead"
        )
    if not report.examples:
        raise InputError(f"expected at least one example to compare, got none in the {which} report; give it data")


def _refuse_unasked(report: Report, which: str, radius: float) -> None:
    at = report.settings.at if isinstance(report, SmoothingReport) else ()
    if at and radius not in at:
        asked = ", ".join(map(repr, at))
        raise InputError(
            f"expected a radius that both reports decide, got {radius!r}, and the {which} one was asked at {asked}; "
            f"name one of these, or run with --at {radius!r} as well"
        )


def _refuse_chosen_scores(report: Report, which: str) -> None:
    """Refuse a network whose scores were chosen on the very examples that the comparison speaks from."""
    table = report.tables.scores if isinstance(report, SmoothingReport) else UNSET
    if table is not UNSET and len(table.candidates) > 1:
        raise InputError(
            "expected scores that were fixed before these examples were seen, got a choice among "
            f"{len(table.candidates)} in the {which} report; run both with one --score-map and --temperature"
        )


def _refuse_other(what: str, old: object, new: object) -> None:
    if type(old) is not type(new) or old != new:
        raise InputError(
            f"expected two reports with one {what}, got {_shown(old)} in the old and {_shown(new)} in the new one; "
            "run one of them again with the other's settings"
        )


def _shown(value: object) -> str:
    return f"{value!r:.200}"


def _refuse_other_examples(old: Report, new: Report) -> None:
    before, after = _by_key(old), _by_key(new)
    for left, right, which in ((before, after, "old"), (after, before, "new")):
        alone = [key for key in left if key not in right]
        if alone:
            raise InputError(
                f"expected the same examples in both reports, got {len(alone)} that only the {which} one has, first "
                f"{alone[0][0]!r:.100}; run both on the same data, with the same --limit and --skip"
            )
    for key, example in after.items():
        if before[key].label != example.label:
            raise InputError(
                f"{key[0]!r:.100}: expected one label in both reports, got {before[key].label} in the old and "
                f"{example.label} in the new one; run both on the same data"
            )


def _by_key(report: Report) -> dict[tuple[str, str], LipschitzExample | SmoothingExample | UnsampledExample]:
    """Return the examples by what they are: id and hash of the stored values."""
    return {(example.id, example.hash): example for example in (*report.examples, *unsampled_of(report))}


def pair_examples(old: Report, new: Report, radius: float) -> tuple[PairedExample, ...]:
    """Return each example of the new report with its answers in both; the reports must be comparable.

    Raises:
        InputError: If `refuse_incomparable` refuses them.
    """
    refuse_incomparable(old, new, radius)
    before = {(example.id, example.hash): example for example in old.examples}
    return tuple(_pair(before[example.id, example.hash], example, radius) for example in new.examples)


def _pair(
    old: LipschitzExample | SmoothingExample, new: LipschitzExample | SmoothingExample, radius: float
) -> PairedExample:
    return PairedExample(
        index=new.index,
        id=new.id,
        hash=new.hash,
        label=new.label,
        old_predicted=old.predicted,
        old_radius=old.radius,
        new_predicted=new.predicted,
        new_radius=new.radius,
        change=CHANGES[certified_at(old, radius), certified_at(new, radius)],
    )


def certified_before(old: Report, new: Report, radius: float) -> tuple[int, ...]:
    """Return the indices of the examples of the new report, answered or not, that the old one certifies at a radius.

    Raises:
        InputError: If the two may not be compared.
    """
    refuse_incomparable(old, new, radius, partly=True)
    before = {(example.id, example.hash) for example in old.examples if certified_at(example, radius)}
    answered = (*new.examples, *unsampled_of(new))
    return tuple(example.index for example in answered if (example.id, example.hash) in before)


def change_at(pair: PairedExample, radius: float) -> Change:
    """Return in which of the two reports an example counts as certified at a radius.

    Example:
        >>> pair = PairedExample(index=0, id="a", hash="", label=1, old_predicted=1, old_radius=0.3, new_predicted=1,
        ...     new_radius=0.2, change="both")
        >>> [change_at(pair, radius) for radius in (0.0, 0.25, 0.5)]
        ['both', 'lost', 'neither']
    """
    sides = ((pair.old_predicted, pair.old_radius), (pair.new_predicted, pair.new_radius))
    old, new = (predicted == pair.label and found > 0.0 and found >= radius for predicted, found in sides)
    return CHANGES[old, new]


def count_pairs(changes: Sequence[Change], radius: float, confidence: float) -> PairedCounts:
    """Return the counts of paired examples at a radius, with the limits of the expected change.

    Raises:
        ValueError: If there is no example, or the confidence is not strictly between 1/2 and 1.

    Example:
        >>> found = count_pairs(["both"] * 180 + ["won"] * 10 + ["lost"] * 10, 0.25, 0.95)
        >>> found.old, found.new, found.difference, round(found.lower, 3), round(found.upper, 3)
        (190, 190, 0.0, -0.066, 0.066)
    """
    won, lost, both = (changes.count(word) for word in ("won", "lost", "both"))
    found = compare_paired(won, lost, len(changes), 1.0 - confidence)
    return PairedCounts(
        radius=radius,
        old=both + lost,
        new=both + won,
        won=won,
        lost=lost,
        difference=found.difference,
        lower=found.difference_lower,
        upper=found.difference_upper,
    )


def indices_of(pairs: Sequence[PairedExample], change: Change) -> tuple[int, ...]:
    """Return the indices of the examples with a change."""
    return tuple(pair.index for pair in pairs if pair.change == change)
