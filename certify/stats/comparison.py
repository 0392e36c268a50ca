r"""Two runs on the same examples: which were lost, which won, and whether the new one is not inferior.

D_i = V_i(new) - V_i(old) in {-1, 0, 1}, where V_i says whether example i is certified correct at the radius asked; c
examples are won (D = 1) and b lost (D = -1) out of n. For examples drawn independently and a margin m >= 0,

    L_D = p_L(c, n, delta / 2) - u(b, n, delta / 2)         passes when  L_D >= -m,

with the lower Clopper-Pearson bound of P(D = 1) and the upper one of P(D = -1). By the union bound L_D exceeds the
expectation of D with probability at most delta. In the same way U_D = u(c, n, delta / 2) - p_L(b, n, delta / 2) falls
below it with probability at most delta, and U_D < -m shows that more than the margin is lost. Between the two nothing
is decided. It speaks of what one procedure certifies: what is not certified is not proved fragile, so no statement
about the difference of true robust accuracies follows.

McNemar's exact test, P(Bin(b + c, 1/2) >= b), is information only: a large value is no evidence of equality.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import scipy

from certify.results import Verdict
from certify.rounding import sub_down
from certify.stats.arguments import MAX_DRAWS, check_alpha, check_integer, check_within
from certify.stats.clopper_pearson import success_lower, success_upper


@dataclass(frozen=True)
class PairedDifference:
    """What is known of the expected change of certified accuracy.

    It is at least ``difference_lower`` with confidence 1 - delta, and at most ``difference_upper`` with the same: each
    end alone.
    """

    won: int
    lost: int
    examples: int
    difference: float
    difference_lower: float
    difference_upper: float
    delta: float
    mcnemar: float


def compare_paired(won: int, lost: int, examples: int, delta: float) -> PairedDifference:
    """Return what c won and b lost of n paired examples say about the expected change.

    Args:
        won: Examples certified by the new run only.
        lost: Examples certified by the old run only.
        examples: All examples.
        delta: One minus the confidence.

    Raises:
        ValueError: If an argument is outside its range, of another kind, or NaN.

    Example:
        >>> found = compare_paired(10, 10, 1000, 0.05)
        >>> round(found.difference_lower, 4), found.difference
        (-0.0135, 0.0)
    """
    examples = check_integer(examples, "examples", 1, MAX_DRAWS)
    won = check_integer(won, "won", 0, examples)
    lost = check_integer(lost, "lost", 0, examples - won)
    half = check_alpha(delta, "delta") / 2.0
    lower = sub_down(success_lower(won, examples, half), success_upper(lost, examples, half))
    upper = -sub_down(success_lower(lost, examples, half), success_upper(won, examples, half))
    return PairedDifference(
        won=won,
        lost=lost,
        examples=examples,
        difference=(won - lost) / examples,
        difference_lower=lower,
        difference_upper=upper,
        delta=delta,
        mcnemar=_mcnemar(won, lost),
    )


def smallest_margin(examples: int, delta: float) -> float:
    """Return the least margin that can pass at all: that of two equal runs, rounded up.

    Example:
        >>> [round(smallest_margin(n, 0.05), 4) for n in (200, 1000, 10_000)]
        [0.0183, 0.0037, 0.0004]
    """
    return math.nextafter(-compare_paired(0, 0, examples, delta).difference_lower, math.inf)


def is_not_inferior(found: PairedDifference, margin: float) -> bool:
    """Return whether the new run loses at most the margin, shown with confidence 1 - delta.

    The margin is the decimal number it is written as: 0.02, not the float nearest to it.

    Raises:
        ValueError: If the margin is outside [0, 1] or NaN.
    """
    return Fraction(found.difference_lower) >= -_as_written(margin)


def judge_drop(found: PairedDifference, margin: float) -> Verdict:
    """Return "passed" when at most the margin is lost, "failed" when more is, "undecided" when neither is shown.

    Raises:
        ValueError: If the margin is outside [0, 1] or NaN.

    Example:
        >>> [judge_drop(compare_paired(0, lost, 1000, 0.05), 0.02) for lost in (5, 15, 60)]
        ['passed', 'undecided', 'failed']
    """
    if is_not_inferior(found, margin):
        return "passed"
    return "failed" if Fraction(found.difference_upper) < -_as_written(margin) else "undecided"


def _as_written(margin: float) -> Fraction:
    return Fraction(repr(check_within(margin, "margin", 0.0, 1.0, "give a share of the examples")))


def _mcnemar(won: int, lost: int) -> float:
    """Return P(Bin(b + c, 1/2) >= b)."""
    return 1.0 if lost == 0 else float(scipy.special.bdtrc(lost - 1, won + lost, 0.5))
