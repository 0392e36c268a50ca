r"""The drop below an earlier report: the verdict on what was lost and won, on paired examples.

D_i is 1 when example i is certified in the new report alone, -1 in the old one alone, else 0. The claim "the expected
share drops by at most m" is that the expectation of D is at least -m: **passed** when its lower limit shows that,
**failed** when its upper limit shows the contrary, **undecided** between the two (`certify.stats.comparison` has both
limits and their proof). On ``estimate`` the observed change is compared, and no confidence is claimed.

*Stopping early.* Each D_i depends on the draws of its own example only, and of an example without draws it is known
what is left: one that the old report certified can be lost, any other won. Both limits rise with each one won and fall
with each one lost, so a verdict that stands for the worst and for the best of these is that of the whole run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from certify.results import Baseline, GateRow, Verdict
from certify.rounding import ceiling_text, floor_text
from certify.stats import compare_paired, smallest_margin
from certify.stats.comparison import PairedDifference, judge_drop

DIGITS = 4  # of a limit in a sentence


@dataclass(frozen=True)
class DropQuestion:
    """What a gate on the drop below a baseline asks: of the share certified at ``radius``, at most ``max_drop`` less.

    Example:
        >>> asked = DropQuestion(name="g", norm="l2", radius=0.25, max_drop=0.02, confidence=0.95)
        >>> PairedTally(won=3, lost=5, n=1000).verdict(asked), PairedTally(won=0, lost=5, n=100).verdict(asked)
        ('passed', 'undecided')
    """

    name: str
    norm: str
    radius: float
    max_drop: float
    confidence: float
    on: Literal["lower", "estimate"] = "lower"


@dataclass(frozen=True)
class PairedTally:
    """What is known of n paired examples: ``won`` and ``lost`` ones, and ``unsampled`` ones without an answer yet.

    ``unsampled_old`` of the unsampled ones are certified in the old report.
    """

    won: int
    lost: int
    n: int
    unsampled: int = 0
    unsampled_old: int = 0

    def worst(self, confidence: float) -> PairedDifference:
        """Return what the examples would say if those without an answer were all lost that can be."""
        return compare_paired(self.won, self.lost + self.unsampled_old, self.n, 1.0 - confidence)

    def best(self, confidence: float) -> PairedDifference:
        """Return what the examples would say if those without an answer were all won that can be."""
        return compare_paired(self.won + self.unsampled - self.unsampled_old, self.lost, self.n, 1.0 - confidence)

    def verdict(self, asked: DropQuestion) -> Verdict | None:
        """Return the verdict that the examples without an answer cannot change; None while they can."""
        worst, best = (_verdict(end(asked.confidence), asked) for end in (self.worst, self.best))
        return worst if worst == best else None


def drop_row(asked: DropQuestion, found: PairedTally, baseline: Baseline) -> GateRow:
    """Return the row of a gate on the drop below a baseline.

    Raises:
        ValueError: If there is no example, or a number is out of its range.
    """
    worst, best, proved = found.worst(asked.confidence), found.best(asked.confidence), asked.on == "lower"
    return GateRow(
        name=asked.name,
        metric="certified_accuracy",
        threshold=asked.max_drop,
        radius=asked.radius,
        claim="population",
        confidence=asked.confidence,
        on=asked.on,
        value=None if found.unsampled else worst.difference,
        lower=worst.difference_lower if proved else None,
        upper=best.difference_upper if proved else None,
        verdict=found.verdict(asked) or "undecided",
        reason=drop_reason(asked, found),
        baseline=baseline,
    )


def drop_reason(asked: DropQuestion, found: PairedTally) -> str:
    """Return in one sentence what the verdict on a drop rests on."""
    return "; ".join([_counted(asked, found), *(_limits(asked, found) if asked.on == "lower" else _plain(asked))])


def _verdict(found: PairedDifference, asked: DropQuestion) -> Verdict:
    if asked.on == "lower":
        return judge_drop(found, asked.max_drop)
    change = Fraction(found.won - found.lost, found.examples)
    return "passed" if change >= -Fraction(repr(asked.max_drop)) else "failed"


def _counted(asked: DropQuestion, found: PairedTally) -> str:
    where = f"{asked.norm} radius {asked.radius!r}" if asked.radius else f"any positive {asked.norm} radius"
    stopped = f" (stopped after {found.n - found.unsampled} of them)" if found.unsampled else ""
    return f"of {found.n} examples{stopped} {found.lost} lost and {found.won} won their certificate at {where}"


def _plain(asked: DropQuestion) -> Iterator[str]:
    yield f"a drop of at most {asked.max_drop!r} of the share was allowed on these examples"


def _limits(asked: DropQuestion, found: PairedTally) -> Iterator[str]:
    lower = floor_text(found.worst(asked.confidence).difference_lower, DIGITS)
    upper = ceiling_text(found.best(asked.confidence).difference_upper, DIGITS)
    yield (
        f"the expected change of the share is at least {lower} and at most {upper}, each at confidence "
        f"{asked.confidence!r}; at least {-asked.max_drop!r} was asked for"
    )
    least = smallest_margin(found.n, 1.0 - asked.confidence)
    if not asked.max_drop >= least:
        yield f"{found.n} examples without any change show a drop of at most {ceiling_text(least, DIGITS)}"
