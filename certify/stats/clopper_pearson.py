r"""One-sided Clopper-Pearson bounds of one probability from k successes in n independent draws.

With S ~ Bin(n, p), the lower bound p_L(k) is the p at which k or more successes have probability alpha:

    P(Bin(n, p_L) >= k) = I_{p_L}(k, n - k + 1) = alpha,     p_L(0) = 0,

I the regularised incomplete beta function. *Coverage*: P(p_L(S) > p) <= alpha for every p. Proof: p_L increases in k;
let k* be the least count with p_L(k*) > p. The bound fails exactly when S >= k*, and P_p(S >= k*) <=
P_{p_L(k*)}(S >= k*) = alpha, since the tail increases in p. Equality is approached as p rises to p_L(k*): the method is
conservative only because counts are whole.

Everything is computed on the *failure side* q = 1 - p, where nothing cancels as p approaches 1:
q_U(k) = 1 - p_L(k) solves 1 - I_q(n - k + 1, k) = alpha.

*Floating point.* The library's quantile may be off on either side, by up to 3e-8 of itself (it stops its search early
where n is large, failures are few and alpha is). Its *forward* function is far better: within 2.4e-11 of ball
arithmetic in 8,000 cases, for n to 10^9. So a quantile is only a candidate. It is raised by 1e-8 of itself, or 1e-7, or
1e-6: by the first of these with which the forward tail, itself raised by 1e-9 for its own error, does not exceed alpha.
There are counts whose quantile is wrong altogether (k = 1000 with n above 10^7): where no candidate proves itself, or a
bound lower by 3e-7 of itself would, the forward tail is bisected instead. What is returned has proved itself; when
nothing does, the library is wrong and the call is refused.

Reference: C. Clopper and E. Pearson, The use of confidence or fiducial limits illustrated in the case of the binomial,
Biometrika 26 (1934); used for smoothing by Cohen, Rosenfeld and Kolter, arXiv 1902.02918, Section 3.2.2.
"""

from __future__ import annotations

import math

import scipy

from certify.errors import SoundnessError
from certify.rounding import sub_down
from certify.stats.arguments import check_alpha, check_count

RAISES = (1e-8, 1e-7, 1e-6)  # of the quantile: the least one that can be proved is taken
TAIL_ERROR = 1e-9  # relative, of the library's tail; 40 times what was found
LOOSE = 3e-7  # a bound that could be lowered by this share of itself is searched for again
HALVINGS = 48  # of an interval of logarithms: to 3e-12 of the bound, from any size of it


def failure_upper(k: int, n: int, alpha: float) -> float:
    """Return an upper bound of the failure probability 1 - p from ``k`` successes in ``n`` draws.

    P(failure_upper(S, n, alpha) < 1 - p) <= alpha for S ~ Bin(n, p) and every p: the module docstring has the proof.

    Args:
        k: Successes, 0..n.
        n: Draws, fixed before they are seen, 1..10^9.
        alpha: Error probability of this one bound, strictly between 0 and 1/2.

    Returns:
        A number in (0, 1]; 1.0 when ``k`` is 0.

    Raises:
        ValueError: If an argument is outside its range, of another kind, or NaN.
        SoundnessError: If the bound computed by the installed scipy does not prove itself.

    Example:
        All of n failed to fail: the bound is 1 - alpha^(1/n), here 1 - 2^-1.

        >>> 0.5 <= failure_upper(3, 3, 0.125) <= 0.5 * (1 + 2e-8)
        True
    """
    k, n = check_count(k, n)
    alpha = check_alpha(alpha)
    if k == 0:
        return 1.0
    q = -math.expm1(math.log(alpha) / n) if k == n else float(scipy.special.betainccinv(n - k + 1, k, alpha))
    found = _raised(k, n, alpha, q)
    if found is not None and not _is_proved(k, n, alpha, found * (1.0 - LOOSE)):
        return found
    found = _raised(k, n, alpha, _bisected(k, n, alpha))
    if found is not None:
        return found
    raise SoundnessError(
        f"the beta quantile of scipy {scipy.__version__} is wrong at k={k}, n={n}, alpha={alpha}: got {q}; "
        "install another release of scipy"
    )


def _is_proved(k: int, n: int, alpha: float, q: float) -> bool:
    """Return whether q is an upper bound: k or more successes have probability at most alpha where failures have q."""
    return bool(scipy.special.betaincc(n - k + 1, k, q) * (1 + TAIL_ERROR) <= alpha)


def _raised(k: int, n: int, alpha: float, q: float) -> float | None:
    """Return the first bound that a candidate, raised a little, proves to be; None when none does."""
    for step in RAISES:
        raised = min(math.nextafter(q * (1 + step), 2.0), 1.0)  # a NaN stays first, and proves nothing
        if _is_proved(k, n, alpha, raised):
            return raised
    return None


def _bisected(k: int, n: int, alpha: float) -> float:
    """Return about the least q that is proved: a candidate like any other."""
    low, high = math.log(alpha) - math.log(n), 0.0  # q_U >= 1 - alpha^(1/n) >= (1 - alpha) / n > alpha / n
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        low, high = (low, middle) if _is_proved(k, n, alpha, math.exp(middle)) else (middle, high)
    return math.exp(high)


def success_lower(k: int, n: int, alpha: float) -> float:
    """Return a lower bound of the success probability p: ``1 - failure_upper(k, n, alpha)``, rounded down.

    For display and for bounds on p itself. Radii use `failure_upper`, which loses nothing near p = 1; this one loses up
    to 1e-8 absolute, which shows only where p is about as small.

    Raises:
        ValueError: If an argument is outside its range, of another kind, or NaN.

    Example:
        >>> success_lower(0, 10, 0.05), success_lower(99_000, 100_000, 0.001) < 0.9889893403774749
        (0.0, True)
    """
    return max(sub_down(1.0, failure_upper(k, n, alpha)), 0.0)


def success_upper(k: int, n: int, alpha: float) -> float:
    """Return an upper bound of the success probability p: the failure bound of the n - k failures.

    Raises:
        ValueError: If an argument is outside its range, of another kind, or NaN.

    Example:
        >>> success_upper(10, 10, 0.05), success_upper(0, 100_000, 0.001) > 6.907516e-5
        (1.0, True)
    """
    k, n = check_count(k, n)
    return failure_upper(n - k, n, alpha)
