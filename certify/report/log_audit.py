"""What the rows of an imported log say about themselves, without the votes they came from.

*Impossible radii.* With n votes at alpha no radius exceeds sigma Phi^-1(alpha^(1/n)) (`certify.stats.ladder`). A
written radius is rounded, one does not know how; one that is still above the limit after a whole unit of its last digit
is taken off is impossible under any rounding. The unit of a radius is that of the digits the log uses: the coarser of
its most decimals and its most significant digits.

*What would explain the largest radii.* The possible radii of given (sigma, alpha, n) form a ladder. As far down as its
rungs lie `APART` units from one another, every written radius must be a rung as one and the same way of rounding writes
it, and the largest the top one. Settings that pass with at least `LEAST_RADII` distinct radii are named. That is an
inference from digits, no proof: other procedures may write the same digits, and few digits tell little.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise, product

from msgspec.structs import replace

from certify.report.summary import RADII
from certify.results import Explanation, LogAudit, LogExample, LogFinding, LogSettings
from certify.rounding import ceiling_text
from certify.stats import largest_radius_upper, radius_ladder

APART, LEAST_RADII, FIRST_ROWS = 1.5, 2, 20
ROUNDINGS = ((0.5, 0.5), (1.0, 0.0), (0.0, 1.0))  # to nearest, down, up: how far below and above its rung, in units
SLACK = 1e-6  # of a unit: our ladder and theirs differ by float errors
FLOAT_UNIT = 1e-9  # relative: radii written with all digits of a float agree with ours so far
usual_ladder = lru_cache(maxsize=256)(radius_ladder)  # every log is held against the ladders of the same settings
SIGMAS = (0.12, 0.25, 0.5, 1.0)
ALPHAS = (0.05, 0.025, 0.01, 0.005, 0.001, 0.0005, 0.0001, 0.00001)
DRAWS = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)
DATA_SIZES = (10_000, 50_000)  # of the test sets that the field certifies every k-th example of


def audit_log(examples: Sequence[LogExample], settings: LogSettings) -> LogAudit:
    """Return what is wrong with a log, as far as its rows show, and which usual settings give its largest radii."""
    radii = sorted({example.radius for example in examples if example.radius > 0.0}, reverse=True)
    significant, decimals = written_digits(radii)
    limit = None if settings.sigma is None else largest_radius_upper(settings.sigma, settings.n, settings.alpha)
    findings = (
        *_impossible(examples, limit, significant, decimals, settings),
        *_contradictions(examples),
        *_order(examples),
        *_missing(examples),
        *_rounding(examples, significant, decimals),
    )
    explanations = tuple(_explain(radii, significant, decimals, settings))
    return LogAudit(
        limit=limit, significant=significant, decimals=decimals, findings=findings, explanations=explanations
    )


def written_digits(radii: Sequence[float]) -> tuple[int, int]:
    """Return the most significant digits and the most decimals that any radius was written with.

    The shortest text of a float is what was written, but for zeros at its end.

    Example:
        >>> written_digits([0.978, 0.00299, 0.46])
        (3, 5)
    """
    tuples = [Decimal(repr(radius)).normalize().as_tuple() for radius in radii]
    significant = max((len(parts.digits) for parts in tuples), default=0)
    return significant, max((-int(parts.exponent) for parts in tuples), default=0)


def last_unit(radius: float, significant: int, decimals: int) -> float:
    """Return one unit of the last digit of a positive radius in a log of these digits.

    Example:
        >>> round(last_unit(0.978, 3, 5), 9), round(last_unit(1.234, 4, 3), 9)
        (0.001, 0.001)
    """
    leading = math.floor(math.log10(radius))
    return max(10.0 ** (leading - significant + 1), 10.0**-decimals, FLOAT_UNIT * radius)


def _found(kind: str, rows: Sequence[LogExample], text: str) -> Iterator[LogFinding]:
    if rows:
        first = tuple(example.index for example in rows[:FIRST_ROWS])
        yield LogFinding(kind=kind, count=len(rows), rows=first, text=text)  # type: ignore[arg-type]


def _impossible(
    examples: Sequence[LogExample], limit: float | None, significant: int, decimals: int, settings: LogSettings
) -> Iterator[LogFinding]:
    if limit is None:
        return
    above = [e for e in examples if e.radius > 0.0 and e.radius - last_unit(e.radius, significant, decimals) > limit]
    largest = max((example.radius for example in above), default=0.0)
    stated = f"sigma {settings.sigma:g}, alpha {settings.alpha:g} and n {settings.n:,}"
    text = f"radii up to {largest!r} where {stated} allow at most {ceiling_text(limit, 6)}, however they were rounded"
    yield from _found("impossible radius", above, text)


def _contradictions(examples: Sequence[LogExample]) -> Iterator[LogFinding]:
    flagged = [example for example in examples if example.correct != (example.predicted == example.label)]
    yield from _found("flag", flagged, "`correct` is not whether the prediction is the label")
    abstained = [example for example in examples if example.predicted is None and example.radius > 0.0]
    yield from _found("radius", abstained, "an abstention has a positive radius")


def _order(examples: Sequence[LogExample]) -> Iterator[LogFinding]:
    late = [new for old, new in pairwise(examples) if new.index <= old.index]
    yield from _found("order", late, "the index does not rise: rows were repeated, or logs put together")


def _missing(examples: Sequence[LogExample]) -> Iterator[LogFinding]:
    """Find rows left out of an even selection, within it or at its end."""
    steps = [new.index - old.index for old, new in pairwise(examples)]
    step = min((step for step in steps if step > 0), default=0)
    if not step:
        return
    holes = [(new, gap // step - 1) for new, gap in zip(examples[1:], steps, strict=True) if gap > step]
    text = f"the index jumps by more than {step}: rows before these are left out"
    for finding in _found("missing rows", [new for new, _ in holes], text):
        yield replace(finding, count=max(1, sum(left_out for _, left_out in holes)))
    last = examples[-1].index
    total = next((size for size in DATA_SIZES if last < size), None)
    expected = 0 if total is None else math.ceil((total - examples[0].index) / step)
    if step > 1 and not holes and len(examples) < expected:
        text = f"{len(examples)} rows end at {last}; every {step}th of {total:,} examples would be {expected}"
        yield LogFinding(kind="missing rows", count=expected - len(examples), rows=(last,), text=text)


def _rounding(examples: Sequence[LogExample], significant: int, decimals: int) -> Iterator[LogFinding]:
    """Find rows that count at a radius of the curve only if their last digit was not rounded up."""
    near = []
    for example in examples:
        if example.correct and example.radius > 0.0:
            low = example.radius - last_unit(example.radius, significant, decimals)
            near += [example] if any(low < radius <= example.radius for radius in RADII["l2"] if radius) else []
    text = "the last digit decides whether the row counts at a radius of the curve; rounded to nearest, it may not"
    yield from _found("rounding", near, text)


def _explain(radii: Sequence[float], significant: int, decimals: int, settings: LogSettings) -> Iterator[Explanation]:
    """Yield the usual settings that explain the largest radii, those with the most first; the stated ones are asked."""
    sigmas = SIGMAS if settings.sigma is None else (settings.sigma,)
    alphas, draws = sorted({*ALPHAS, settings.alpha}, reverse=True), sorted({*DRAWS, settings.n})
    found = [
        Explanation(sigma=sigma, alpha=alpha, n=n, radii=count)
        for sigma, alpha, n in product(sigmas, alphas, draws)
        if (count := _count_explained(radii, usual_ladder(sigma, n, alpha), significant, decimals)) >= LEAST_RADII
    ]
    yield from sorted(found, key=lambda explanation: -explanation.radii)


def _count_explained(radii: Sequence[float], ladder: Sequence[float], significant: int, decimals: int) -> int:
    """Return how many distinct radii lie on the upper, wide part of a ladder; 0 when one of them does not."""
    if not radii or not ladder:
        return 0
    unit = last_unit(radii[0], significant, decimals)
    rungs = [ladder[0]]
    for high, low in pairwise(ladder):
        if high - low < APART * unit:
            break
        rungs.append(low)
    upper = [radius for radius in radii if radius > rungs[-1] - unit / 2]
    return len(upper) if any(_on_rungs(upper, rungs, unit, mode) for mode in ROUNDINGS) else 0


def _on_rungs(radii: Sequence[float], rungs: Sequence[float], unit: float, mode: tuple[float, float]) -> bool:
    """Return whether each radius is a rung as one way of rounding writes it, and the largest the top one."""
    below, above = mode[0] * unit * (1 + SLACK), mode[1] * unit * (1 + SLACK)
    rising = rungs[::-1]

    def written(radius: float) -> bool:
        place = bisect_left(rising, radius - above)
        return place < len(rising) and rising[place] <= radius + below

    return bool(radii) and radii[0] - above <= rungs[0] <= radii[0] + below and all(map(written, radii))
