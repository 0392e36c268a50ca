"""What a certificate that counts for a gate says, where its number alone does not name it: the task and the scales.

With the task "among the k likeliest", an example counts when its label is certified to be one of the k classes that the
smoothed classifier answers most often. Which one it answers is not known: clean accuracy has no certificates there.

A radius in ``weighted-l2`` has the unit of the scales D. Scales 1000 times smaller, with sigma 1000 times larger, are
the same noise and the same ball, and all radii are 1000 times larger: a gate without D asks nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import UNSET

from certify.errors import InputError
from certify.policy.gates import Gate
from certify.results import AnyNorm, LipschitzSettings, SmoothingSettings


def refuse_other_scales(gate: Gate, settings: SmoothingSettings) -> None:
    """Refuse a gate on weighted radii that does not name the scales they are measured in.

    Raises:
        InputError: If the certificates have scales, and the gate names none or others.
    """
    if gate.norm != "weighted-l2" or gate.metric == "clean_accuracy" or settings.scales is UNSET:
        return
    own = settings.scales.sha256
    if gate.scales is None or not own.startswith(gate.scales):
        got = "a gate without scales" if gate.scales is None else f"scales {gate.scales!r}"
        raise InputError(
            f"gate {gate.name!r}: expected the sha256 of the scales that a weighted-l2 radius is measured in, {own!r} "
            f"in this report, got {got}; set scales = {own[:16]!r} if the radius is meant in these, or ask in l2"
        )


def refuse_unknown_answers(gate: Gate, settings: SmoothingSettings) -> None:
    """Refuse a gate on the answers of a smoothed classifier whose likeliest class is not certified.

    Raises:
        InputError: If it asks for clean accuracy, and the task is "among the k likeliest" with k above 1.
    """
    if gate.metric == "clean_accuracy" and settings.top_k > 1:
        raise InputError(
            f"gate {gate.name!r}: expected certificates of the class that is answered, got the task top-k with "
            f"k = {settings.top_k}, which does not say which of the {settings.top_k} likeliest classes that is; ask "
            "for certified_accuracy at radius 0.0, the label among these, or run without the task"
        )


def certified_words(settings: LipschitzSettings | SmoothingSettings) -> str:
    """Return what an example that counts is.

    Example:
        >>> from certify.results import TopK
        >>> certified_words(SmoothingSettings(sigma=0.25, task=TopK(2)))
        'with the label certified among the 2 likeliest'
    """
    k = settings.top_k if isinstance(settings, SmoothingSettings) else 1
    return "certified correct" if k == 1 else f"with the label certified among the {k} likeliest"


def scales_notes(norm: AnyNorm, settings: LipschitzSettings | SmoothingSettings) -> Iterator[str]:
    """Yield which scales a radius of a gate is measured in; nothing in a norm that needs none."""
    if norm == "weighted-l2" and isinstance(settings, SmoothingSettings) and settings.scales is not UNSET:
        yield f"D the scales of sha256 {settings.scales.sha256}"


def promise_notes(norm: AnyNorm, settings: LipschitzSettings | SmoothingSettings) -> Iterator[str]:
    """Yield what a certificate says that does not simply say "correct", and the scales of its radius."""
    words = certified_words(settings)
    if words != "certified correct":
        yield f"counted are examples {words}"
    yield from scales_notes(norm, settings)
