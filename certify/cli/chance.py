"""The warning that a network answers no better than guessing: then the data are probably not in the model's space.

A model that normalises its input, given data that were normalised before, answers about nonsense; so does one whose
classes are in another order. The certificates are then true and useless, and only the clean accuracy tells.
"""

from __future__ import annotations

from collections.abc import Sequence

from certify.results import LipschitzExample, SmoothingExample, clean_correct

FEWEST_EXAMPLES = 20


def chance_level_note(examples: Sequence[LipschitzExample] | Sequence[SmoothingExample], classes: int) -> str | None:
    """Return the warning when no more examples are answered correctly than guessing would; None otherwise.

    Args:
        examples: All examples of a run; fewer than `FEWEST_EXAMPLES` say nothing.
        classes: Number of classes K: guessing is right in one of K.
    """
    right, n = sum(map(clean_correct, examples)), len(examples)
    if n < FEWEST_EXAMPLES or right * classes > n:
        return None
    return (
        f"warning: {right} of {n} examples are answered correctly, no more than by guessing among {classes} classes;"
        " check that the data are not normalised already while the model normalises them again, that a model without"
        " normalisation was trained without one, and that the order of its classes is that of the labels"
    )
