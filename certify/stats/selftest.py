"""A start-up check that the installed scipy computes the quantiles a certificate rests on.

Releases of scipy have had wrong beta quantiles (its issues 12635, 12794, 21303, 21725). Each row of the two tables is a
value computed in ball arithmetic to 60 digits and rounded to the nearest float. A bound must lie on its side of the
exact value, and close to it: the second condition tells a broken library from a careful bound.
"""

from __future__ import annotations

from certify.errors import SoundnessError
from certify.stats.clopper_pearson import failure_upper
from certify.stats.radius import radius_l2

BETA_ROWS = (
    (100_000, 100_000, 0.001, 6.907516699060702e-05),
    (99_000, 100_000, 0.001, 0.01101065962252524),
    (50_200, 100_000, 0.001, 0.5028910521942102),
    (990, 1_000, 0.001, 0.023963812844688626),
    (10, 10, 0.001, 0.4988127663727277),
    (1, 10, 0.001, 0.9998999549714793),
    (1, 100_000, 0.0009, 0.9999999909959476),
    (9_950, 10_000, 1e-06, 0.009219986261679101),
    (60, 128, 0.0009, 0.6681102105226588),
    (500_000_000, 1_000_000_000, 1e-12, 0.500111225453854),
    (999_999_990, 1_000_000_000, 1e-12, 5.230430957054527e-08),
    (20, 1_000_000_000, 0.05, 0.9999999867453484),
)
"""(k, n, alpha, the failure bound)."""

NORMAL_ROWS = (
    (0.49999999, 2.5066282733116222e-08),
    (0.4, 0.2533471031357997),
    (0.15865525393145707, 0.9999999999999999),
    (0.02, 2.053748910631823),
    (0.001, 3.0902323061678136),
    (6.9e-05, 3.8117256433979927),
    (1e-09, 5.9978070150076865),
    (1e-16, 8.222082216130435),
    (1e-100, 21.273453560965326),
    (0.6, -0.2533471031357997),
    (0.97, -1.8807936081512506),
    (0.999999, -4.753424308817087),
)
"""(q, the normal quantile of 1 - q): the radius in units of sigma for a failure bound q."""

BETA_WIDTH = 3e-8  # relative
NORMAL_WIDTH = 1e-11  # of 1 + the size


def self_test() -> None:
    """Check the bounds of this package against the tables of this file, in about a millisecond.

    Raises:
        SoundnessError: If a bound is on the wrong side of the exact value, or far from it; the message names the row.

    Example:
        >>> self_test()
    """
    for k, n, alpha, exact in BETA_ROWS:
        bound = failure_upper(k, n, alpha)
        if not exact <= bound <= exact * (1 + BETA_WIDTH):
            _refuse(f"failure_upper({k}, {n}, {alpha})", exact, bound)
    for q, exact in NORMAL_ROWS:
        radius = radius_l2(1.0, q, q)
        if not exact - NORMAL_WIDTH * (1 + abs(exact)) <= radius <= exact:
            _refuse(f"radius_l2(1, {q}, {q})", exact, radius)


def _refuse(call: str, exact: float, got: float) -> None:
    raise SoundnessError(
        f"start-up check: expected {call} next to the exact {exact!r} and on its safe side, got {got!r}; "
        "install another release of scipy"
    )
