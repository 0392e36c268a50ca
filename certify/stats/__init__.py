"""Bounds on one probability from counts, certified radii, sample plans, and intervals over examples; no torch.

The functions take integers and floats. Words: ``alpha`` is the probability that one certificate is false, ``n`` the
counted draws, ``k`` the votes for the selected class, ``sigma`` the noise level in the space of the radius.
"""

from certify.stats.charge import charged_alpha, noise_charge
from certify.stats.clopper_pearson import failure_upper, success_lower, success_upper
from certify.stats.plan import draw_grid, sample_plan
from certify.stats.populations import (
    Requirement,
    alpha_for_all,
    expected_false_upper,
    false_certificates_quantile,
    list_requirement,
    population_limits,
    population_requirement,
    smallest_population_sample,
)
from certify.stats.radius import BOUNDS, RadiusBound, class_buckets, radius_l2, smallest_n, split_alpha
from certify.stats.selftest import self_test
from certify.stats.sequential import Operation, SequentialTest, crossing, look_grid, operate, sequential_test

__all__ = [
    "BOUNDS",
    "Operation",
    "RadiusBound",
    "Requirement",
    "SequentialTest",
    "alpha_for_all",
    "charged_alpha",
    "class_buckets",
    "crossing",
    "draw_grid",
    "expected_false_upper",
    "failure_upper",
    "false_certificates_quantile",
    "list_requirement",
    "look_grid",
    "noise_charge",
    "operate",
    "population_limits",
    "population_requirement",
    "radius_l2",
    "sample_plan",
    "self_test",
    "sequential_test",
    "smallest_n",
    "smallest_population_sample",
    "split_alpha",
    "success_lower",
    "success_upper",
]
