"""The whole curve at once: exact sums over every outcome of small samples, certificates that are false included."""

import itertools
import math

import pytest
from scipy.stats import multinomial

from certify.stats.whole_curve import whole_curve_deviation

LAWS = ((0.25, 0.25, 0.25, 0.25), (0.5, 0.1, 0.1, 0.3), (0.0, 0.5, 0.0, 0.5), (0.9, 0.05, 0.05, 0.0))


def counts_of(n, kinds):
    return (c for c in itertools.product(range(n + 1), repeat=kinds) if sum(c) == n)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n, confidence", [(6, 0.9), (12, 0.6)])
def test_no_radius_is_overstated_with_more_than_delta(law, n, confidence):
    """Examples of true radius 0, 1, 2 or 3: the chance that the observed curve is too high anywhere."""
    deviation = whole_curve_deviation(n, confidence=confidence, alpha=0.0)
    wrong = 0.0
    for counts in counts_of(n, len(law)):
        above = [sum(counts[r:]) / n - sum(law[r:]) > deviation for r in range(len(law))]
        wrong += any(above) * multinomial.pmf(counts, n, law)
    assert wrong <= 1.0 - confidence


@pytest.mark.parametrize("alpha", [0.02, 0.3])
def test_false_certificates_are_inside(alpha):
    """An example that is not robust at 1 is certified there with probability alpha."""
    n, confidence, robust = 10, 0.75, 0.4
    deviation = whole_curve_deviation(n, confidence=confidence, alpha=alpha)
    issued = robust + alpha * (1.0 - robust)
    wrong = sum(
        math.comb(n, c) * issued**c * (1.0 - issued) ** (n - c) for c in range(n + 1) if c / n - deviation > robust
    )
    assert wrong <= 1.0 - confidence
    assert deviation > whole_curve_deviation(n, confidence=confidence, alpha=0.0) + alpha


def test_it_is_rounded_up_and_near_its_formula():
    from mpmath import log, mp, mpf, sqrt

    with mp.workdps(40):
        for n, alpha in ((1, 0.0), (200, 0.001), (10_000, 0.25)):
            delta = 1 - mpf(0.95)
            exact = (sqrt(log(1 / delta) / (2 * n)) + mpf(alpha)) / (1 - mpf(alpha))
            assert exact <= whole_curve_deviation(n, confidence=0.95, alpha=alpha) <= exact * (1 + mpf(10) ** -14)


@pytest.mark.parametrize("confidence", [0.5, 1.0, math.nan])
def test_a_confidence_outside_its_range_is_refused(confidence):
    with pytest.raises(ValueError, match="confidence"):
        whole_curve_deviation(10, confidence=confidence, alpha=0.0)
