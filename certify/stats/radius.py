r"""Certified l2 radii of Gaussian smoothing from the votes of one example.

f is the classifier, e ~ N(0, sigma^2 I), p_k = P(f(x + e) = k), g(x) = argmax p_k. A is a class fixed *before* the
counted draws (by a separate pilot), p_B the largest p_k over k != A.

**Theorem** (Cohen, Rosenfeld, Kolter, arXiv 1902.02918, Theorem 1). If p_A > p_B, then g(x + d) = A for every d with
||d||_2 < (sigma / 2) (Phi^-1(p_A) - Phi^-1(p_B)). The radius increases in p_A and decreases in p_B, so a lower bound of
the one and an upper bound of the other may be put in.

**Two intervals** (the default). With q_A the failure bound of A's votes at 0.9 alpha, M the largest count of another
class, and u(M) the success bound of M at the remaining 0.1 alpha:

    b = min(u(M), q_A),     R = (sigma / 2) (Phi^-1(1 - q_A) - Phi^-1(b)).

*Statement*: P(R > true radius) <= alpha. *Proof*: let B attain p_B; it is unknown but not random. u increases in its
count, so u(M) >= u(N_B), and P(u(M) < p_B) <= P(u(N_B) < p_B) <= 0.1 alpha: bounding the largest count costs nothing
for the number of classes. P(q_A < 1 - p_A) <= 0.9 alpha. Outside both events, which together have probability at most
alpha whatever their dependence, 1 - q_A <= p_A, and b >= p_B because also q_A >= 1 - p_A >= p_B. Monotonicity ends it.
The statement needs A from other draws than the counted ones; with A from the same draws the error nearly doubles. It
can certify an example whose p_A is below 1/2.

**Clopper-Pearson** (Cohen et al., Section 3.2.2): all of alpha for q_A, and b = q_A, so R = sigma Phi^-1(1 - q_A).

**Randomized Clopper-Pearson**: the same with the bound of `randomized`, whose error is alpha exactly. Never a default.

**Bonferroni**: alpha / K for each of the K classes, b the largest bound of another class, or q_A. Valid by the union
bound, and never better than two intervals by more than the split of alpha.

**CPM** (class partitioning, Voracek, arXiv 2504.02412): the pilot's counts in falling order are I1 = A, I2 and the
rest. Each of I1 and I2 is a bucket; while the rest of the pilot outweighs I2, its largest class becomes a bucket of its
own; what is left is one bucket. With c buckets, every one is bounded at alpha / c: I1 from below, each other one, by
its summed count, from above; b is the largest of these, or q_A. A class is at most as likely as its bucket, and the
buckets are fixed before the counted draws, so the union bound over c of them proves it.

A bound is a row of `BOUNDS`. What is not certified has a radius that is not positive: the caller abstains
unless ``radius > 0``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import scipy

from certify.stats.arguments import MAX_DRAWS, check_alpha, check_integer, check_sigma, check_within
from certify.stats.clopper_pearson import failure_upper, success_upper
from certify.stats.randomized import failure_upper_randomized

RadiusMap: TypeAlias = Callable[[float, float, float], float]
"""The radius from the scale of the noise, q_A >= 1 - p_A and b >= p_B; not positive where nothing is certified."""

SHARE = 0.9  # of alpha for the selected class; fixed, never chosen after seeing counts


def radius_l2(sigma: float, failure_upper_a: float, upper_b: float) -> float:
    r"""Return (sigma / 2) (Phi^-1(1 - q_A) - Phi^-1(b)), rounded down: never above the exact value.

    Floating point: scipy's normal quantile comes out on the wrong side in more than half of all cases, by less than
    1e-12 of its size; that much is taken off for each of the two, with 1e-15 sigma for the scalar steps.

    Args:
        sigma: Standard deviation of the noise, in the space in which the radius is stated.
        failure_upper_a: q_A >= 1 - p_A.
        upper_b: b >= p_B; ``failure_upper_a`` itself for the single-class radius.

    Returns:
        The radius; not positive when nothing is certified, minus infinity when a bound is 1. Never NaN.

    Raises:
        ValueError: If an argument is not a positive number in its range, or NaN.

    Example:
        Phi(1) = 0.8413447: one sigma, from below.

        >>> 0.4999999 < radius_l2(0.5, 0.15865525393145707, 0.15865525393145707) < 0.5
        True
        >>> radius_l2(0.5, 1.0, 1.0)
        -inf
    """
    sigma = check_sigma(sigma)
    advice = "pass an upper confidence bound of a probability"
    smallest = math.ulp(0.0)
    q_a = check_within(failure_upper_a, "failure_upper_a", smallest, 1.0, advice)
    b = check_within(upper_b, "upper_b", smallest, 1.0, advice)
    z_a, z_b = -float(scipy.special.ndtri(q_a)), float(scipy.special.ndtri(b))  # z_a < inf and z_b > -inf: no NaN
    radius = 0.5 * sigma * (z_a - z_b) - sigma * (1e-12 * (abs(z_a) + abs(z_b)) + 1e-15)
    return math.nextafter(radius, -math.inf)


def split_alpha(alpha: float) -> tuple[float, float]:
    """Return alpha's two shares: 0.9 for the selected class, and the exact rest for its strongest rival.

    Raises:
        ValueError: If ``alpha`` is not strictly between 0 and 1/2.

    Example:
        >>> selected, rival = split_alpha(0.25)
        >>> selected == 0.225 and selected + rival == 0.25
        True
    """
    alpha = check_alpha(alpha)
    selected = SHARE * alpha
    return selected, alpha - selected  # exact: Sterbenz


@dataclass(frozen=True)
class CountedVotes:
    """What a bound may look at: the votes of the estimation, and for some the pilot or a random number."""

    counts: Sequence[int]
    selected: int
    pilot: Sequence[int]
    uniform: float
    n: int
    votes: int
    strongest: int


@dataclass(frozen=True)
class RadiusBound:
    """The bound of a run: a row of `BOUNDS`, or for the k likeliest classes `certify.stats.top_k.radius_bound`.

    ``rule`` gives the radius from the votes, alpha, the scale of the noise and the radius of the noise law. What does
    not look at the pilot can be called without it. ``uniform`` is the random number of a randomized bound
    (`randomized`); the others do not look at it.
    """

    rule: Callable[[CountedVotes, float, float, RadiusMap], float]

    def __call__(
        self,
        counts: Sequence[int],
        selected: int,
        alpha: float,
        scale: float,
        pilot: Sequence[int] = (),
        radius: RadiusMap = radius_l2,
        uniform: float = 1.0,
        /,
    ) -> float:
        """Return the radius, not positive where nothing is certified."""
        of = CountedVotes(counts, selected, pilot, uniform, *_read_votes(counts, selected))
        return self.rule(of, check_alpha(alpha), scale, radius)


def _by_limits(limits: Callable[[CountedVotes, float], tuple[float, float]]) -> RadiusBound:
    """Return the bound whose ``limits`` at alpha, q_A >= 1 - p_A and b >= p_B, are all that the noise law asks for."""
    return RadiusBound(lambda of, alpha, scale, radius: radius(scale, *limits(of, alpha)))


def _two_interval(of: CountedVotes, alpha: float) -> tuple[float, float]:
    alpha_a, alpha_b = split_alpha(alpha)
    q_a = failure_upper(of.votes, of.n, alpha_a)
    return q_a, min(success_upper(of.strongest, of.n, alpha_b), q_a)


def _clopper_pearson(of: CountedVotes, alpha: float) -> tuple[float, float]:
    q_a = failure_upper(of.votes, of.n, alpha)
    return q_a, q_a


def _randomized(of: CountedVotes, alpha: float) -> tuple[float, float]:
    q_a = failure_upper_randomized(of.votes, of.n, alpha, of.uniform)
    return q_a, q_a


def _bonferroni(of: CountedVotes, alpha: float) -> tuple[float, float]:
    return _of_parts(of.n, of.votes, of.strongest, alpha / len(of.counts))


def _cpm(of: CountedVotes, alpha: float) -> tuple[float, float]:
    """Bound the buckets of classes that the pilot suggests."""
    buckets = class_buckets(of.pilot, of.selected)
    if len(of.pilot) != len(of.counts):
        raise ValueError(
            f"pilot: expected {len(of.counts)} classes as in the counts, got {len(of.pilot)}; pass both whole"
        )
    strongest = max(sum(of.counts[k] for k in bucket) for bucket in buckets)
    return _of_parts(of.n, of.votes, strongest, alpha / (len(buckets) + 1))


def _of_parts(n: int, votes: int, strongest: int, alpha: float) -> tuple[float, float]:
    """Return q_A and b, each at ``alpha``."""
    part = math.nextafter(check_alpha(alpha), 0.0)  # the division may have rounded up
    q_a = failure_upper(votes, n, part)
    return q_a, min(success_upper(strongest, n, part), q_a)


def class_buckets(pilot: Sequence[int], selected: int) -> tuple[tuple[int, ...], ...]:
    """Return the buckets of classes other than the selected one: the second alone, single ones, and what is left.

    Raises:
        ValueError: If there are fewer than two classes.

    Example:
        >>> class_buckets((60, 20, 10, 5, 3), 0)
        ((1,), (2, 3, 4))
        >>> class_buckets((30, 15, 10, 10, 10, 1), 0)
        ((1,), (2,), (3,), (4, 5))
    """
    if len(pilot) < 2:
        raise ValueError(f"pilot: expected at least 2 classes, got {len(pilot)}; include the count of invalid outputs")
    others = sorted((k for k in range(len(pilot)) if k != selected), key=lambda k: (-pilot[k], k))
    alone = 1
    while sum(pilot[k] for k in others[alone:]) > pilot[others[0]]:
        alone += 1
    singles = tuple((k,) for k in others[:alone])
    return (*singles, tuple(others[alone:])) if others[alone:] else singles


def _read_votes(counts: Sequence[int], selected: int) -> tuple[int, int, int]:
    """Return (n, votes of the selected class, most votes of another class)."""
    if not len(counts) >= 2:
        raise ValueError(
            f"counts: expected at least 2 classes, got {len(counts)}; include the count of invalid outputs"
        )
    selected = check_integer(selected, "selected", 0, len(counts) - 1)
    votes = [check_integer(count, f"counts[{k}]", 0, MAX_DRAWS) for k, count in enumerate(counts)]
    n = check_integer(sum(votes), "sum of counts", 1, MAX_DRAWS)
    return n, votes[selected], max(votes[:selected] + votes[selected + 1 :])


BOUNDS: Mapping[str, RadiusBound] = MappingProxyType(
    {
        "two-interval": _by_limits(_two_interval),
        "clopper-pearson": _by_limits(_clopper_pearson),
        "cpm": _by_limits(_cpm),
        "bonferroni": _by_limits(_bonferroni),
        "randomized-clopper-pearson": _by_limits(_randomized),
    }
)
"""Radius from (counts, selected, alpha, scale of the noise, pilot counts, radius of the noise law, random number):
P(radius > true radius) <= alpha when ``selected`` was fixed before the counted draws. ``counts`` holds every class, and
the invalid outputs as a class of their own. Nothing above the radius depends on the law: the proofs need of it that it
increases in p_A and decreases in p_B. Gaussian noise is the default, its scale sigma; `geometry` has the others."""

RANDOMIZED = frozenset({"randomized-clopper-pearson"})
"""The bounds that look at a random number of the example, `certify.stats.randomized.uniform_of`."""


def smallest_n(
    alpha: float,
    ratio: float,
    bound: str = "clopper-pearson",
    classes: int = 2,
    radius: RadiusMap = radius_l2,
) -> int:
    """Return the least number of draws that can certify a radius of ``ratio`` times the scale of the noise (sigma).

    It is reached when every draw votes for the selected class. For the single-class bound that is the least n with
    alpha^(1/n) >= Phi(ratio), and > 1/2: ln(alpha) / ln(Phi(ratio)), rounded up.

    Args:
        alpha: Error probability of the certificate.
        ratio: Radius divided by sigma, at least 0; 0 asks for any positive radius.
        bound: A row of `BOUNDS`.
        classes: How many counts there are, that of invalid outputs included; Bonferroni and CPM split alpha by them.
        radius: That of the noise law; Gaussian by default.

    Raises:
        ValueError: If an argument is outside its range or NaN, or more than 10^9 draws would be needed.

    Example:
        >>> [smallest_n(0.001, ratio) for ratio in (0, 0.25, 0.5, 1, 1.5, 2, 3)]
        [10, 14, 19, 40, 100, 301, 5114]
    """
    alpha = check_alpha(alpha)
    ratio = check_within(ratio, "ratio", 0.0, 40.0, "give the radius in units of sigma")
    if bound not in BOUNDS:
        raise ValueError(f"bound: expected one of {', '.join(BOUNDS)}, got {bound!r}; choose one of them")
    classes = check_integer(classes, "classes", 2, MAX_DRAWS)
    low, high = 0, 1
    while not _certifies(high, alpha, ratio, bound, classes, radius):
        if high == MAX_DRAWS:
            raise ValueError(
                f"ratio: expected a radius that {MAX_DRAWS} draws can certify at alpha={alpha}, got {ratio} sigma; "
                "raise sigma"
            )
        low, high = high, min(2 * high, MAX_DRAWS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _certifies(middle, alpha, ratio, bound, classes, radius) else (middle, high)
    return high


def _certifies(n: int, alpha: float, ratio: float, bound: str, classes: int, radius: RadiusMap) -> bool:
    votes = (n, *[0] * (classes - 1))
    found = BOUNDS[bound](votes, 0, alpha, 1.0, votes, radius)
    return found > 0.0 and found >= ratio
