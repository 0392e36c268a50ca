r"""Many classifications of one noisy input at once: per-pixel segmentation.

For m pixels the pilot names classes c_i; k_i of n fresh draws agree. With a threshold tau >= 1/2 the p-value of "the
probability of c_i is at most tau" is P_i = P(Bin(n, tau) >= k_i). Holm's procedure sorts them in rising order and
rejects while P_(j) <= alpha / (m - j + 1). With probability at least 1 - alpha every pixel that is kept has p > tau,
and then it keeps its class for every ||d||_2 < sigma Phi^-1(tau) of the *whole* image; other pixels abstain. No
independence between pixels is needed.

Source: M. Fischer, M. Baader and M. Vechev (2021), Scalable certified segmentation via randomized smoothing, arXiv
2107.00228, Algorithm 2; S. Holm, Scandinavian Journal of Statistics 6 (1979), Theorem 1.

Rounding: each p-value is raised by 1e-8 of itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy
from numpy.typing import NDArray

from certify.stats.arguments import MAX_DRAWS, check_alpha, check_integer, check_within

TAIL_ERROR = 1e-8


def certified_by_holm(votes: Sequence[int], n: int, tau: float, alpha: float) -> NDArray[np.bool_]:
    """Return which of many classifications hold together, except with probability alpha.

    Args:
        votes: k_i, the draws that agree with the class that the pilot named, one per pixel.
        n: Draws.
        tau: The probability to exceed, at least 1/2.
        alpha: Error probability of all of them together.

    Raises:
        ValueError: If an argument is outside its range, of another kind, or NaN.

    Example:
        >>> certified_by_holm([100, 100, 60], 100, 0.75, 0.001).tolist()
        [True, True, False]
    """
    n = check_integer(n, "n", 1, MAX_DRAWS)
    tau = check_within(tau, "tau", 0.5, 1.0 - 2.0**-40, "ask for a probability above one half")
    alpha = check_alpha(alpha)
    counts = np.asarray(votes)
    if (
        counts.ndim != 1
        or not np.issubdtype(counts.dtype, np.integer)
        or not bool(np.all((counts >= 0) & (counts <= n)))
    ):
        raise ValueError(f"votes: expected integers within 0..{n}, one per pixel, got {counts.dtype} {counts.shape}")
    tails = np.where(counts > 0, scipy.special.betainc(np.maximum(counts, 1), n - counts + 1.0, tau), 1.0)
    order = np.argsort(tails, kind="stable")
    limits = alpha / np.arange(len(counts), 0, -1)
    failed = ~(tails[order] * (1.0 + TAIL_ERROR) <= limits)
    kept = int(np.argmax(failed)) if failed.any() else len(counts)
    certified = np.zeros(len(counts), dtype=bool)
    certified[order[:kept]] = True
    return certified
