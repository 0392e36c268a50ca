"""The least alpha of settings works with every bound and procedure; anything smaller is refused by name."""

from __future__ import annotations

import math
from typing import get_args

import pytest

from certify.errors import InputError
from certify.results import Bound, SmoothingSettings
from certify.smoothing.procedure import LEAST_ALPHA, check_settings
from certify.stats import BOUNDS, sample_plan, sequential_test


@pytest.mark.parametrize("alpha", [math.nextafter(LEAST_ALPHA, 0.0), 1e-150, 2.0**-900, 5e-324])
def test_below_it_settings_are_refused(alpha):
    with pytest.raises(InputError, match="expected alpha of at least 1e-100"):
        check_settings(SmoothingSettings(sigma=0.25, alpha=alpha))


@pytest.mark.parametrize("bound", get_args(Bound))
def test_at_it_every_bound_gives_a_radius_to_enough_unanimous_votes(bound):
    check_settings(SmoothingSettings(sigma=0.25, alpha=LEAST_ALPHA, bound=bound))
    assert BOUNDS[bound]((4000, 0, 0), 0, LEAST_ALPHA / 2, 0.25, (16, 0, 0)) > 0.0


def test_at_it_the_plan_and_the_sequential_test_are_made():
    assert len(sample_plan(16, 4000, 1e-5, LEAST_ALPHA)) == 17
    assert sequential_test(0.5, LEAST_ALPHA / 2, LEAST_ALPHA / 2, 4000).looks
