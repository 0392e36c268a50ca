r"""The radii that hard votes can give at all: with n draws there are only n + 1 counts, so only so many radii.

With k of n votes and Clopper-Pearson bound p_L(k) at alpha, the radius is sigma Phi^-1(p_L(k)). The largest is that of
k = n, where p_L = alpha^(1/n):

    r_max = sigma Phi^-1(alpha^(1/n)).

No procedure that bounds one probability from n votes at alpha gives more: Clopper-Pearson's lower bound at k = n is
exact, and any bound above it fails with probability above alpha at p = alpha^(1/n) (Clopper and Pearson, Biometrika
1934). Below, the radii of k = n, n - 1, ... form a ladder whose rungs are far apart at the top, which tells the
settings of a log from its largest radii.

*Floating point.* `largest_radius_upper` raises the library's quantile by 1e-9 of itself, far above its error of some
ulps, so it is an upper bound. The ladder is an estimate, for comparison with printed digits.
"""

from __future__ import annotations

import math

import numpy as np
import scipy

from certify.rounding import up
from certify.stats.arguments import check_alpha, check_count

RAISE = 1 + 1e-9


def largest_radius_upper(sigma: float, n: int, alpha: float) -> float:
    """Return an upper bound of every radius that ``n`` hard votes can give at ``alpha``.

    Example:
        Published logs with sigma 0.25 hold radii of 0.978, which 100,000 votes give at alpha 0.01 but not at 0.001.

        >>> largest_radius_upper(0.25, 100_000, 0.01), largest_radius_upper(0.25, 100_000, 0.001)
        (0.97762..., 0.95286...)

    Raises:
        ValueError: If an argument is outside its range.
    """
    _, n = check_count(n, n)
    failure = -math.expm1(math.log(check_alpha(alpha)) / n)
    quantile = float(-scipy.special.ndtri(failure))
    if not (math.isfinite(sigma) and sigma > 0.0 and math.isfinite(quantile)):
        raise ValueError(f"expected a finite sigma > 0, got {sigma!r}")
    return up(sigma * max(quantile, 0.0) * RAISE)


def radius_ladder(sigma: float, n: int, alpha: float, most: int = 200) -> tuple[float, ...]:
    """Return the radii of k = n, n - 1, ... votes, at most ``most`` of them, as long as they are positive.

    Example:
        >>> [round(radius, 3) for radius in radius_ladder(0.25, 100_000, 0.01, 5)]
        [0.978, 0.955, 0.941, 0.929, 0.92]

    Raises:
        ValueError: If an argument is outside its range.
    """
    _, n = check_count(n, n)
    lost = np.arange(min(most, n))  # the votes of other classes; k = 0 bounds nothing
    failure = scipy.special.betainccinv(lost + 1.0, n - lost, check_alpha(alpha))
    failure[0] = -math.expm1(math.log(alpha) / n)
    radii = -sigma * scipy.special.ndtri(failure)
    return tuple(float(radius) for radius in radii if radius > 0.0)
